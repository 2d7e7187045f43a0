"""Rows per call of a network: on an accelerator as many as fit, by facts alone; 64 on a CPU."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from cleanlabel.sanitize import copies, rows, stream
from cleanlabel.sanitize.copies import make_copy, manifest_path, rows_of
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.imageset import ImageSet, load, save_npz
from cleanlabel.sanitize.rows import MOST_VALUES, NETWORK_BATCH, network_rows, peak_bytes, rows_that_fit
from cleanlabel.sanitize.sources import open_source

GIB = 1 << 30
CIFAR = 32 * 32 * 3


@pytest.mark.parametrize(
    ("memory", "bytes_a_row", "values", "fit"),
    [
        (80 * GIB, 20_843_012, CIFAR, 1024),  # DDPM's network for CIFAR-10, of 35.7 million weights
        (16 * GIB, 20_843_012, CIFAR, 128),
        (80 * GIB, 335_547_396, 256 * 256 * 3, 32),  # and for 256 x 256, of 113.7 million
        (80 * GIB, 10_000, CIFAR, 2048),  # more bring no more speed
        (80 * GIB, 10_000, 64, 131_072),
        (GIB, 10 * GIB, CIFAR, 1),
    ],
)
def test_as_many_rows_as_fit_pretended_devices(memory, bytes_a_row, values, fit):
    assert rows_that_fit(memory, bytes_a_row, values) == fit


@given(st.integers(1, 1 << 40), st.integers(1, 1 << 34), st.integers(1, 1 << 20))
def test_the_rows_are_the_largest_power_of_two_that_fits(memory, bytes_a_row, values):
    fit = rows_that_fit(memory, bytes_a_row, values)
    assert fit & (fit - 1) == 0
    if fit > 1:
        assert fit * bytes_a_row <= memory / 4
        assert fit * values <= MOST_VALUES
    assert 2 * fit * bytes_a_row > memory / 4 - bytes_a_row or 2 * fit * values > MOST_VALUES


class Joined(nn.Module):
    """Keeps its first layer's answer for its last: three tensors of 4 channels, and their sum."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        kept = self.first(pixels)
        new = self.second(self.second(kept))
        return kept.flatten(1) + new.flatten(1)


def test_the_bytes_of_activations_by_hand():
    pixels = torch.zeros(1, 3, 8, 8)
    one = 4 * 64 * 4
    assert peak_bytes(nn.Conv2d(3, 4, 1), pixels) == one
    assert peak_bytes(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(inplace=True)), pixels) == one
    assert peak_bytes(Joined(), pixels) == 3 * one
    assert peak_bytes(Joined(), pixels.repeat(5, 1, 1, 1)) == 5 * 3 * one
    assert peak_bytes(nn.Sequential(nn.Flatten(), nn.Linear(192, 10)), pixels) == 40


def test_a_cpu_keeps_its_64_rows(denoiser, tmp_path, small_set):
    save_npz(small_set, tmp_path / "in.npz")
    assert network_rows(denoiser) is network_rows(None) is None
    assert rows_of(open_source(tmp_path / "in.npz"), denoiser) == NETWORK_BATCH


@pytest.fixture
def memory(monkeypatch) -> None:
    """A device of which 16 million bytes are for activations, as a denoiser of 8x8 images would need for 512 rows."""
    monkeypatch.setattr(rows, "activation_bytes", lambda _: 30_000)
    monkeypatch.setattr(rows, "memory_of", lambda _: 64 * 10**6)


@pytest.fixture
def many(tmp_path):
    """1,100 random 8x8 grey images, in a file."""
    pixels = np.random.default_rng(0).integers(0, 256, (1100, 8, 8, 1), dtype=np.uint8)
    save_npz(ImageSet(pixels, np.arange(1100) % 3, tuple(map(str, range(1100))), ("a", "b", "c")), tmp_path / "in.npz")
    return open_source(tmp_path / "in.npz")


def test_a_copy_on_a_large_device_is_made_in_its_rows_which_the_manifest_records(memory, many, denoiser, tmp_path):
    said = make_copy(many, tmp_path / "large.npz", 0.5, denoiser, "fixed:2a", 0)
    assert said["network_rows"] == 512
    assert json.loads(manifest_path(tmp_path / "large.npz").read_text())["network_rows"] == 512


def test_the_copy_is_that_of_64_rows_up_to_roundings(memory, many, denoiser, tmp_path, monkeypatch):
    make_copy(many, tmp_path / "large.npz", 0.5, denoiser, "fixed:2a", 0)
    monkeypatch.setattr(rows, "memory_of", lambda _: None)
    said = make_copy(many, tmp_path / "small.npz", 0.5, denoiser, "fixed:2a", 0)
    assert "network_rows" not in said
    large, small = (load(tmp_path / name).images.astype(int) for name in ("large.npz", "small.npz"))
    assert np.abs(large - small).max() <= 1
    assert (large == small).mean() > 0.999


def test_a_copy_begun_in_other_rows_is_not_finished_in_these(memory, many, denoiser, tmp_path, monkeypatch):
    copy = stream.Copy(many, tmp_path / "out.npz", {"network_rows": 512}, 512)
    copy.begin("fixed:2a")
    with pytest.raises(InputError, match="unfinished copy with network_rows=512, not 256; finish it as it was"):
        stream.Copy(many, tmp_path / "out.npz", {"network_rows": 256}, 256).begin("fixed:2a")


def test_blocks_and_pieces_are_whole_calls_and_calls_no_larger_than_a_block(memory, many, denoiser, monkeypatch):
    monkeypatch.setattr(stream, "BLOCK_BYTES", 1000 * 64)
    copy = stream.Copy(many, many_output := copies.Path("out.npz"), {}, rows_of(many, denoiser))
    assert (copy.piece, copy.block) == (512, 512)
    assert stream.Copy(many, many_output, {}, NETWORK_BATCH).block == 1000
    monkeypatch.setattr(stream, "BLOCK_BYTES", 200 * 64)
    assert rows_of(many, denoiser) == 128
    monkeypatch.setattr(stream, "BLOCK_BYTES", 64)
    assert rows_of(many, denoiser) == NETWORK_BATCH
