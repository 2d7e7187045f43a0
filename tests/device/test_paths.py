"""Every path of an accelerator equals the CPU to the bit, and stays under a ceiling of waits and copies.

The device is pretended (`pretend.py`), in a process of its own, since it changes torch for the whole process.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
QUEUED = "up, pinned"
"""Copies up through pinned memory: the host does not wait for them."""
# The most that a unit may cost: (what holds up the host, what is queued up). Nothing else may be counted, but for
# copies down into pinned memory, which are queued.
CEILINGS: dict[str, tuple[int, int]] = {
    "noise, a batch": (0, 1),
    "sanitize by the slow twin, a batch": (0, 2),
    "sanitize in float32, a batch": (0, 2),
    "sanitize in bfloat16, a batch": (0, 2),
    "sanitize resized colour, a batch": (0, 2),
    "sanitize resized grey, a batch": (0, 2),
    "sanitize in tiles, a batch": (0, 2),
    "train linear, a step": (0, 1),
    "train mlp, a step": (0, 1),
    "train mlp warmed on raw images, a step": (0, 1),
    "train small-cnn, a step": (0, 1),
    "train small-cnn augmented, a step": (0, 1),
    "train small-cnn on a map that 4 does not divide, a step": (0, 1),
    "train fast-cifar, a step": (0, 1),
    "train fast-cifar in bfloat16, a step": (0, 1),
    "train resnet18, a step": (0, 1),
    "train resnet18 in bfloat16, a step": (0, 1),
    "train vgg11, a step": (0, 1),
    "train mobilenet-v2, a step": (0, 1),
    "train a stack, a step": (0, 1),
    "predict, a batch": (0, 1),
    "features, a batch": (0, 1),
    "features in bfloat16, a batch": (0, 1),
    "distil, a step": (0, 2),
    # Draws fit heads on the CPU. On an accelerator the checks of the classes wait, and the line search of L-BFGS does.
    "head mean, a fit": (2, 1),
    "head direction, a fit": (2, 1),
    "head lda, a fit": (2, 1),
    "head ridge, a fit": (3, 1),
    "head logistic, a fit": (200, 1),
    "head lda of some classes, a fit": (5, 1),
    "head ridge of some classes, a fit": (6, 1),
    "head logistic of some classes, a fit": (200, 1),
    # A draw: its copy down, its votes down, and each tensor of its new network up.
    "draws of small-cnn, a draw": (16, 6),
    "draws on a device with room for 8 rows, a draw": (16, 8),  # two batches
    "draws of small-cnn on a scratch disk, a draw": (16, 6),
    "draws of fast-cifar on a scratch disk, a draw": (48, 8),  # 41 tensors up, and the whitening's eigenvectors
    "draws of stacked mlps, a draw": (6, 4),
    "draws with noised test images, a draw": (5, 8),
    "draws of 3 blocks, a draw": (12, 8),
    "draws of transfer, a draw": (5, 4),  # the features down as well
    "draws of bounded influence, a draw": (2, 3),
    "frogs, a step": (1, 0),  # whether any poison still moves
    "convex, a step": (1, 1),  # all networks' features, for the solver in NumPy
    "bullseye, a step": (0, 0),
    "bullseye through the sanitizer, a step": (0, 2),
    "witches-brew, a step": (0, 2),
    "label-consistent, a step": (0, 0),
    "hidden-trigger, a step": (0, 1),
    "sleeper-agent, a step": (0, 2),
    "defence none, a step": (0, 1),
    "defence sanitize, a step": (0, 1),
    "defence noise-only, a step": (0, 1),
    "defence deep-knn, a step": (0, 2),  # two trainings
    "defence spectral, a step": (0, 2),
    "defence activation-clustering, a step": (0, 2),
    "defence gradient-noise, a step": (0, 17),  # the noise of each parameter
    "defence adversarial-training, a step": (0, 4),
    "defence adversarial-training of a head, a step": (0, 2),
    "defence adversarial-poisoning, a step": (0, 4),
    "defence friends, a step": (0, 4),
    "defence dpa, a step": (0, 2),
    "defence roe, a step": (0, 2),
    "fine-tuned victim, a step": (0, 1),
    "votes of features, a vote": (1, 1),
}


@pytest.fixture(scope="module")
def measured() -> dict[str, Any]:
    path = os.pathsep.join(map(str, [HERE, HERE.parent, HERE.parents[1]]))  # not what other tests have added
    command = [sys.executable, str(HERE / "paths.py")]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    return {row["path"]: row for row in rows}


def test_every_path_has_a_ceiling(measured):
    assert set(measured) == set(CEILINGS)


@pytest.mark.parametrize("path", CEILINGS)
def test_a_path_equals_the_cpu_and_hardly_holds_up_the_host(path, measured):
    found = measured[path]
    assert "error" not in found, found["error"]
    assert found["same"]
    waits = sum(n for kind, n in found["unit"].items() if kind not in (QUEUED, "down, pinned"))
    most_waits, most_queued = CEILINGS[path]
    assert waits <= most_waits, found["where"]
    assert found["unit"].get(QUEUED, 0) <= most_queued, found["where"]
