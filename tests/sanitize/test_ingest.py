"""The embedded default, and a user's own images."""

import struct
from pathlib import Path

import numpy as np
import pytest
from filled import filled

from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.imageset import save_npz
from cleanlabel.sanitize.ingest import digits, incoming, make_sets, published
from cleanlabel.sanitize.params import IngestParams
from cleanlabel.sanitize.pictures import write_picture


def test_the_digits_are_split_into_three_disjoint_sets():
    sets = digits(trusted=600, raw=800, seed=20240611)
    assert {name: len(images) for name, images in sets.items()} == {"trusted": 600, "raw": 800, "test": 397}
    ids = [image_id for images in sets.values() for image_id in images.ids]
    assert len(ids) == len(set(ids)) == 1797
    pixels = {name: {image.tobytes() for image in images.images} for name, images in sets.items()}
    assert not pixels["trusted"] & pixels["raw"]
    assert not pixels["trusted"] & pixels["test"]
    assert not pixels["raw"] & pixels["test"]


def test_every_set_has_every_digit_and_uses_the_whole_range():
    for images in filled(digits(600, 800, seed=20240611).values()):
        assert np.unique(images.labels).tolist() == list(range(10))
        assert (images.images.min(), images.images.max()) == (0, 255)


def test_the_split_follows_from_the_seed():
    assert digits(600, 800, 1)["raw"].digest == digits(600, 800, 1)["raw"].digest
    assert digits(600, 800, 1)["raw"].digest != digits(600, 800, 2)["raw"].digest


def test_a_split_without_test_images_is_refused():
    with pytest.raises(InputError, match="ingest.raw=797 leave 0 of 1797 images for ingest.test=the rest; lower them"):
        digits(1000, 797, 0)
    with pytest.raises(InputError, match="leave 397 of 1797 images for ingest.test=398"):
        digits(600, 800, 0, 398)
    assert len(digits(600, 800, 0, 30)["test"]) == 30


def test_a_published_set_is_split_into_disjoint_sets(tmp_path):
    for split, n in (("train", 60), ("t10k", 20)):
        images = np.random.default_rng(n).integers(0, 256, (n, 28, 28), np.uint8)
        write_idx(tmp_path / f"MNIST/raw/{split}-images-idx3-ubyte", images)
        write_idx(tmp_path / f"MNIST/raw/{split}-labels-idx1-ubyte", (np.arange(n) % 10).astype(np.uint8))
    sets = published("mnist", tmp_path, trusted=20, raw=30, seed=0, test=5)
    assert {name: len(images) for name, images in sets.items()} == {"trusted": 20, "raw": 30, "test": 5}
    assert not set(sets["trusted"].ids) & set(sets["raw"].ids)
    assert all(image_id.startswith("test/") for image_id in filled(sets["test"].ids))
    assert len(published("mnist", tmp_path, 20, 30, 0)["test"]) == 20
    with pytest.raises(InputError, match="ingest.raw=41 and ingest.test=0 ask for more than the 60 training and 20"):
        published("mnist", tmp_path, 20, 41, 0)


def write_idx(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    header = b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(header + array.tobytes())


def test_images_of_several_sizes_are_brought_to_one_where_that_is_asked_for(tmp_path):
    for i, (h, w) in enumerate([(8, 8), (20, 11), (9, 30), (8, 8)]):
        for name in ("raw", "test"):
            pixels = np.full((h, w, 3), 40 * i, np.uint8)
            write_picture(pixels, tmp_path / name / "ab"[i % 2] / f"{i}.png")
    with pytest.raises(InputError, match="a/2.png is 30x9 where a/0.png is 8x8; bring all images to one size"):
        incoming(tmp_path)
    raw = incoming(tmp_path, side=16)["raw"]
    assert raw.image_shape == (16, 16, 3)
    assert [int(image.mean()) for image in raw.images] == [0, 80, 40, 120]
    params = IngestParams(source="digits", seed=0, trusted=600, raw=800, test=0, side=8)
    with pytest.raises(InputError, match="param ingest.side=8 is for ingest.source: incoming"):
        make_sets(params)


def test_a_users_own_sets_are_read(small_set, tmp_path):
    save_npz(small_set, tmp_path / "raw.npz")
    save_npz(small_set, tmp_path / "test.npz")
    sets = incoming(tmp_path)
    assert sets["raw"].digest == small_set.digest
    assert len(sets["trusted"]) == 0
    assert sets["trusted"].image_shape == small_set.image_shape


def test_what_is_missing_or_double_is_named(small_set, tmp_path):
    with pytest.raises(InputError, match="raw does not exist"):
        incoming(tmp_path)
    save_npz(small_set, tmp_path / "raw.npz")
    with pytest.raises(InputError, match="test does not exist"):
        incoming(tmp_path)
    (tmp_path / "raw").mkdir()
    with pytest.raises(InputError, match="both .*; keep one"):
        incoming(tmp_path)


def test_a_trusted_set_that_holds_raw_images_is_refused(small_set, tmp_path):
    # Rule 11: a denoiser trained on the raw set as supplied depends on what the attacker wrote.
    save_npz(small_set.take(np.arange(12)), tmp_path / "raw.npz")
    save_npz(small_set, tmp_path / "test.npz")
    save_npz(small_set.take(np.arange(10, 24)), tmp_path / "trusted.npz")
    with pytest.raises(InputError, match=r"trusted set shares 2 image.s. with the raw set \(2 exact, 0 near copies; "):
        incoming(tmp_path)
