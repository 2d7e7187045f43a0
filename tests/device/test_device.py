"""What holds on every accelerator, as far as it can be tested without one."""

import os
import re
import subprocess
import sys

import pytest
import torch
from imports import ROOT
from torch.nn import functional

from cleanlabel.flows.orchestration.engine import gpu_limit, own_gpu
from cleanlabel.models.classifiers import cells
from cleanlabel.sanitize.device import compute_repeatably, default_device, is_accelerator, received, sent

ASKS_FOR_CUDA = {"sanitize/device.py", "redteam/comparison/bench.py", "flows/ensemble/worker.py"}
"""The last two name the GPU and its memory in their reports."""


def test_only_one_file_decides_what_an_accelerator_is():
    asks = re.compile(r"""["']cuda|torch\.cuda|cuda\.is_available|\.type [!=]= ["']""")
    rooms = ("sanitize", "models", "redteam", "flows", "cleanlabel")
    files = [path for room in rooms for path in (ROOT / room).rglob("*.py")]
    asking = {path.relative_to(ROOT).as_posix() for path in files if asks.search(path.read_text())}
    assert asking == ASKS_FOR_CUDA


def test_the_cpu_is_none_and_its_tensors_are_not_copied():
    tensor = torch.arange(3)
    assert not is_accelerator("cpu")
    assert is_accelerator("cuda:1")
    assert sent(tensor, "cpu") is tensor
    assert not received((2, 3), torch.uint8, "cpu").is_pinned()
    assert default_device().type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_the_settings_of_cudnn_hold_for_the_whole_process():
    compute_repeatably()
    assert torch.backends.cudnn.deterministic
    assert not torch.backends.cudnn.benchmark
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32


@pytest.mark.parametrize(("h", "w"), [(5, 7), (3, 4), (14, 9), (1, 2)])
def test_the_products_that_average_are_adaptive_pooling(h, w):
    maps = torch.randn(2, 3, h, w, generator=torch.Generator().manual_seed(0))
    averaged = cells(h, 4, maps.device) @ maps @ cells(w, 4, maps.device).T
    torch.testing.assert_close(averaged, functional.adaptive_avg_pool2d(maps, 4))


POOL = """
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

from cleanlabel.flows.orchestration.engine import own_gpu


def put_own_gpu(queue):
    queue.put(own_gpu())


if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    with ProcessPoolExecutor(2, context, put_own_gpu, (queue,)) as pool:
        for started in [pool.submit(int), pool.submit(int)]:  # each starts a worker
            started.result()
        print(sorted([queue.get(timeout=60), queue.get(timeout=60)]))
"""


def test_the_workers_of_a_pool_have_different_gpus(tmp_path):
    (tmp_path / "pool.py").write_text(POOL)
    env = os.environ | {"CLEANLABEL_GPUS": "2", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "pool.py"]
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[0, 1]"
    assert own_gpu() == 0
    assert gpu_limit(0) != gpu_limit(1)
