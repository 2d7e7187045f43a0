"""Copies on a scratch disk: the bits are those of copies in memory, memory stays small, and nothing is left behind."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from models_recipes import QUICK
from tiny import FIXED, save_tiny_denoiser
from torch import nn

from cleanlabel.models import draw, scratch
from cleanlabel.models.draw import Smoothed, make_batch
from cleanlabel.models.extractors import Extractor
from cleanlabel.models.materials import Materials
from cleanlabel.models.params import TrainParams
from cleanlabel.models.start import Start
from cleanlabel.models.training import initialised
from cleanlabel.sanitize.arrays import DiskArray
from cleanlabel.sanitize.denoiser import load_denoiser
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.imageset import ImageSet

CHILD = Path(__file__).parent.parent / "scratch_child.py"
MOVED = {"shift": 1, "flip": True}


def recipe(**changes: object) -> TrainParams:
    return QUICK.model_copy(update=changes)


@pytest.fixture
def raw() -> ImageSet:
    """30 random 12x12 colour images of 3 classes."""
    images = np.random.default_rng(0).integers(0, 256, (30, 12, 12, 3), dtype=np.uint8)
    return ImageSet(images, np.arange(30) % 3, tuple(f"image-{i}" for i in range(30)), ("a", "b", "c"))


def extractor() -> Extractor:
    torch.manual_seed(0)
    network, head = nn.Sequential(nn.Flatten(), nn.Linear(432, 16)).eval(), nn.Linear(16, 3)
    return Extractor(network.requires_grad_(False), head.requires_grad_(False), (12, 12, 3), "")


def same(one: list[Smoothed], other: list[Smoothed]) -> bool:
    def bits(made: Smoothed) -> list[bytes]:
        return [tensor.numpy().tobytes() for tensor in made.model.state_dict().values()]

    def facts(made: Smoothed) -> tuple[object, ...]:
        return made.draw, made.seal, made.copy_sha256, made.votes.tobytes(), bits(made)

    return [facts(made) for made in one] == [facts(made) for made in other]


RECIPES = {
    "linear": recipe(architecture="linear", shift=1),
    "mlp": recipe(flip=True),
    "a stack of mlps": recipe(),
    "small-cnn": recipe(architecture="small-cnn", **MOVED),
    "fast-cifar": recipe(architecture="fast-cifar", learning_rate=11.5, **MOVED),
    "resnet18": recipe(architecture="resnet18", width=64, epochs=1),
    "mobilenet-v2": recipe(architecture="mobilenet-v2", epochs=1),
    "a warm start on the copy": recipe(architecture="small-cnn", warm_epochs=1),
    "fine-tune": recipe(mode="fine-tune", initial_weights="x", architecture="small-cnn"),
    "transfer": recipe(mode="transfer", initial_weights="x"),
}


@pytest.mark.parametrize("denoise", [True, False], ids=["denoised", "noise-only"])
@pytest.mark.parametrize("name", RECIPES)
def test_a_copy_on_disk_gives_the_draws_of_a_copy_in_memory_to_the_bit(name, denoise, raw, tmp_path, monkeypatch):
    monkeypatch.setattr(scratch, "SHARD_BYTES", 1)  # a shard is one batch
    monkeypatch.setattr("cleanlabel.models.materials.BATCH", 1)  # of 7 images
    used = RECIPES[name]
    denoiser = load_denoiser(save_tiny_denoiser(tmp_path / "denoiser", 12, 3)) if denoise else None
    ours = Materials(raw, raw, 0.25, denoiser, used, 10)
    if used.mode == "transfer":
        ours = replace(ours, start=Start(extractor=extractor()))
    if used.mode == "fine-tune":
        ours = replace(ours, start=Start(weights=initialised(ours.architecture, 5, None).state_dict()))
    assert ours.blocks[0].batch < 10
    disk = tmp_path / "disk"
    disk.mkdir()
    there = list(make_batch(replace(ours, scratch=disk), FIXED, range(3)))
    assert same(there, list(make_batch(ours, FIXED, range(3))))
    assert not list(disk.iterdir())


def test_blocks_and_noised_test_images_too(raw, tmp_path):
    for more in ({"partitions": 4}, {"test_sigma": 0.5}):
        ours = Materials(raw, raw, 0.25, None, recipe(architecture="small-cnn", **MOVED), 10, **more)
        there = list(make_batch(replace(ours, scratch=tmp_path), FIXED, range(2)))
        assert same(there, list(make_batch(ours, FIXED, range(2))))


def test_a_whitening_of_every_second_image(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (2300, 9, 9, 3), dtype=np.uint8)
    raw = ImageSet(images, np.arange(2300) % 3, tuple(map(str, range(2300))), ("a", "b", "c"))
    used = recipe(architecture="fast-cifar", learning_rate=11.5, width=4, epochs=1, batch=1024, **MOVED)
    ours = Materials(raw, raw.take(np.arange(9)), 0.25, None, used, 10)
    there = list(make_batch(replace(ours, scratch=tmp_path), FIXED, [0]))
    assert same(there, list(make_batch(ours, FIXED, [0])))


def test_a_part_of_an_array_on_disk_is_that_of_the_array(tmp_path):
    array = np.random.default_rng(0).normal(size=(20, 3, 2)).astype(np.float32)
    (tmp_path / "file").write_bytes(b"head" + array.tobytes())
    with (tmp_path / "file").open("rb") as stream:
        disk = DiskArray(stream, 4, array.shape, array.dtype)
        for rows in (slice(None), slice(3, 9), slice(15, 40), slice(9, 3), np.array([7, 0, 7, 19]), np.arange(0)):
            assert np.array_equal(disk[rows], array[rows])
        with pytest.raises(ValueError, match="a slice with the step 2"):
            disk[::2]
    (tmp_path / "file").write_bytes(array.tobytes()[:-4])
    with (tmp_path / "file").open("rb") as stream, pytest.raises(InputError, match="was cut short at byte 476"):
        DiskArray(stream, 0, array.shape, array.dtype)[:]


def held(folder: Path) -> list[str]:
    """Files in the folder that this process has open, with a name or without."""
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found.append(str(entry.readlink()))
        except OSError:
            continue
    return [path for path in found if path.startswith(f"{folder}/")]


def test_a_copy_has_no_name_and_is_gone_before_the_next_one_and_after_an_error(raw, tmp_path, monkeypatch):
    there: list[int] = []

    def learn(block, copy, seed):
        there.append(len(held(tmp_path)))
        assert not list(tmp_path.iterdir())
        if len(there) == 3:
            raise RuntimeError("the training failed")
        return initialised(block.materials.architecture, seed, None).eval()

    monkeypatch.setattr(draw, "learn", learn)
    ours = Materials(raw, raw, 0.25, None, recipe(flip=True), 10, scratch=tmp_path)
    with pytest.raises(RuntimeError, match="the training failed"):  # noqa: PT012  (a batch is made as it is asked for)
        for _ in make_batch(ours, FIXED, range(5)):  # can fail: `there` counts its rounds
            assert not held(tmp_path)
    assert there == [1, 1, 1]
    assert not held(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_worker_leaves_nothing(number, tmp_path):
    command = [sys.executable, str(CHILD), "hold", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "training\n"
        links = [str(entry.readlink()) for entry in Path(f"/proc/{process.pid}/fd").iterdir()]
        assert any(link.startswith(f"{tmp_path}/") for link in links)
        assert not list(tmp_path.iterdir())
        process.send_signal(number)
    assert process.returncode == -number
    assert not list(tmp_path.iterdir())


def peak_growth(*words: str) -> dict[str, int]:
    done = subprocess.run([sys.executable, str(CHILD), *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def test_memory_stays_far_below_a_copy_on_disk_and_does_not_in_memory(tmp_path):
    on_disk, in_memory = peak_growth("measure", str(tmp_path)), peak_growth("measure")
    copy, limit = on_disk["copy"], on_disk["copy"] // 2
    assert copy > 200e6
    assert on_disk["grown"] < limit < copy < in_memory["grown"]
    assert on_disk["sha256"] == in_memory["sha256"]
    assert on_disk["votes"] == in_memory["votes"]


def test_two_workers_at_once_on_one_disk_make_draws_of_their_own(raw, tmp_path):
    ours = Materials(raw, raw, 0.25, None, recipe(flip=True), 10, scratch=tmp_path)
    one, other = make_batch(ours, FIXED, range(2)), make_batch(ours, FIXED, range(2, 4))
    turns = [next(one), next(other), next(one), next(other)]
    alone = list(make_batch(replace(ours, scratch=None), FIXED, [0, 2, 1, 3]))
    assert same(turns, alone)


def test_a_missing_or_unwritable_folder_is_named_with_the_way_out(raw, tmp_path):
    for folder in (tmp_path / "missing", Path("/proc/self")):
        ours = Materials(raw, raw, 0.25, None, recipe(flip=True), 10, scratch=folder)
        with pytest.raises(InputError, match=f"CLEANLABEL_SCRATCH={folder} cannot be written to .*needs 0.05 MB there"):
            list(make_batch(ours, FIXED, range(2)))


def test_a_disk_without_room_is_refused_before_anything_is_made(tmp_path, monkeypatch):
    made: list[int] = []
    monkeypatch.setattr(draw, "sanitize", lambda *_, **__: made.append(1))
    monkeypatch.setattr(draw, "copy_bytes", lambda *_, **__: 10**18)
    raw = ImageSet(np.zeros((2, 4, 4, 1), np.uint8), np.arange(2), ("a", "b"), ("x", "y"))
    ours = Materials(raw, raw, 0.25, None, recipe(flip=True), 10, scratch=tmp_path)
    words = (
        r" has [\d,.]+ [MG]B free, and a draw's copy needs 1,000,000,000.00 GB; make room there, name another folder,"
    )
    with pytest.raises(InputError, match=f"CLEANLABEL_SCRATCH={tmp_path}{words} lower CLEANLABEL_WORKERS, or unset it"):
        list(make_batch(ours, FIXED, range(2)))
    assert not made
    with pytest.raises(InputError, match=r"needs 1,000,000,000.00 GB 4 times; make room"):
        scratch.require_room(tmp_path, 10**18, 4)


def test_a_disk_that_fills_up_meanwhile_is_named(raw):
    folder = Path("/dev/shm")
    if not os.access(folder, os.W_OK):
        pytest.skip("no file system in memory")
    with (folder / f"cleanlabel-{os.getpid()}-{time.monotonic_ns()}").open("wb") as stream:
        Path(stream.name).unlink()
        with pytest.raises(InputError, match=r"CLEANLABEL_SCRATCH=/dev/shm has .* free, and a draw's copy needs 1,000"):
            scratch._reserve(stream.fileno(), folder, 10**18)


@pytest.mark.parametrize("changes", [{"normalise": "copy"}, {"warm_epochs": 1, "warm_on": "raw"}])
def test_recipes_that_read_all_images_at_once_are_refused(changes, raw, tmp_path):
    ours = Materials(raw, raw, 0.25, None, recipe(architecture="small-cnn", **changes), 10, scratch=tmp_path)
    with pytest.raises(InputError, match=r"CLEANLABEL_SCRATCH is for recipes that read a copy batch by batch, and"):
        list(make_batch(ours, FIXED, range(1)))
