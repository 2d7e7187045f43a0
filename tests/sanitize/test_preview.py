"""The picture people look at: raw, noised, sanitized and the difference, at random and where it is worst."""

import sys

import numpy as np
import pytest
from PIL import Image

from cleanlabel.sanitize import preview
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.imageset import save_npz
from cleanlabel.sanitize.preview import contact_sheet, examples, main


def test_examples_take_the_classes_in_turn(small_set):
    assert examples(small_set, 7).labels.tolist() == [0, 1, 2, 0, 1, 2, 0]


def test_the_sheet_of_the_pipeline_is_the_same_picture_each_time(small_set, denoiser, tmp_path):
    for name in ("one.png", "two.png"):
        contact_sheet(small_set, 0.5, denoiser, bytes(32), 0, tmp_path / name, columns=4)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


def test_the_preview_shows_a_random_and_the_worst_sample(small_set, denoiser_dir, tmp_path, monkeypatch):
    drawn = []
    plain = preview.draw_sheet
    monkeypatch.setattr(preview, "draw_sheet", lambda blocks, path: drawn.append(blocks) or plain(blocks, path))
    save_npz(small_set, tmp_path / "in.npz")
    flags = ("--input", tmp_path / "in.npz", "--denoiser", denoiser_dir, "--sigma", 0.5, "--output", tmp_path / "p.png")
    monkeypatch.setattr(sys, "argv", ["preview", *map(str, flags), "--columns", "5"])
    main()
    with Image.open(tmp_path / "p.png") as picture:
        assert picture.width > 500
        assert picture.height > 700
    (blocks,) = drawn
    assert [name for name, _ in blocks] == ["at random", "worst"]
    errors = [np.mean((lines[0][1].astype(float) - lines[2][1]) ** 2, axis=(1, 2, 3)) for _, lines in blocks]
    assert (np.diff(errors[1]) <= 0).all()  # the worst first
    assert errors[1].min() >= np.sort(errors[0])[0]
    difference = blocks[0][1][3][1].astype(int)
    clean, raw = blocks[0][1][2][1].astype(int), blocks[0][1][0][1]
    np.testing.assert_array_equal(difference, (3 * (clean - raw) + 128).clip(0, 255))


def test_a_preview_of_nothing_is_refused(small_set, denoiser_dir, tmp_path, monkeypatch):
    save_npz(small_set, tmp_path / "in.npz")
    flags = ("--input", tmp_path / "in.npz", "--denoiser", denoiser_dir, "--sigma", 0.5, "--output", tmp_path / "p.png")
    monkeypatch.setattr(sys, "argv", ["preview", *map(str, flags), "--columns", "0"])
    with pytest.raises(InputError, match="--columns 0 shows nothing"):
        main()
