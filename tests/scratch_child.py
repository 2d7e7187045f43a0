"""A process that makes draws with their copies on a scratch disk, for `models/test_scratch.py`.

python scratch_child.py hold FOLDER        # says `training`, and waits with its copy on the disk
python scratch_child.py measure [FOLDER]   # how far the memory grows over that of the raw set, as JSON
"""

import hashlib
import json
import sys
import time
from pathlib import Path
from unittest.mock import patch

import numpy as np
from models_recipes import QUICK

from cleanlabel.models import draw
from cleanlabel.models.draw import make_batch
from cleanlabel.models.materials import Materials
from cleanlabel.sanitize.imageset import ImageSet

LINEAR = QUICK.model_copy(update={"architecture": "linear", "epochs": 1, "batch": 2048, "shift": 1})


def images(n: int) -> ImageSet:
    pixels = np.random.default_rng(0).integers(0, 256, (n, 16, 16, 3), dtype=np.uint8)
    return ImageSet(pixels, np.arange(n) % 3, tuple(map(str, range(n))), ("a", "b", "c"))


def peak() -> int:
    """The most memory that this process has had, in bytes."""
    status = Path("/proc/self/status").read_text()  # getrusage would count its parent's too
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


def hold(*_: object) -> None:
    sys.stdout.write("training\n")
    sys.stdout.flush()
    time.sleep(600)


def measure(folder: Path | None) -> dict[str, object]:
    raw = images(80_000)
    ours = Materials(raw, images(10), 1.0, None, LINEAR, 2, scratch=folder)
    small = Materials(images(2048), images(10), 1.0, None, LINEAR, 2, scratch=folder)
    list(make_batch(small, bytes(32), [0, 1]))  # what is loaded once
    before = peak()
    made = list(make_batch(ours, bytes(32), [0]))
    bits = b"".join(one.model.state_dict()["1.weight"].numpy().tobytes() for one in made)
    return {
        "copy": 4 * raw.images.size,
        "grown": peak() - before,
        "sha256": [one.copy_sha256 for one in made] + [hashlib.sha256(bits).hexdigest()],
        "votes": [one.votes.tolist() for one in made],
    }


if __name__ == "__main__":
    folder = Path(sys.argv[2]) if len(sys.argv) > 2 else None
    if sys.argv[1] == "measure":
        sys.stdout.write(json.dumps(measure(folder)))
    else:
        with patch.object(draw, "learn", hold):
            list(make_batch(Materials(images(30), images(10), 1.0, None, LINEAR, 2, scratch=folder), bytes(32), [0]))
