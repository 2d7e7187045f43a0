"""The embedded default, and a user's own images."""

import numpy as np
import pytest

from sanitize.errors import InputError
from sanitize.imageset import save_npz
from sanitize.ingest import digits, incoming


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
    for images in digits(600, 800, seed=20240611).values():
        assert np.unique(images.labels).tolist() == list(range(10))
        assert (images.images.min(), images.images.max()) == (0, 255)


def test_the_split_follows_from_the_seed():
    assert digits(600, 800, 1)["raw"].digest == digits(600, 800, 1)["raw"].digest
    assert digits(600, 800, 1)["raw"].digest != digits(600, 800, 2)["raw"].digest


def test_a_split_without_test_images_is_refused():
    with pytest.raises(InputError, match="ingest.trusted=1000 and ingest.raw=797 leave no test image of 1797"):
        digits(1000, 797, 0)


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
    with pytest.raises(InputError, match="trusted set shares 2 image.s. with the raw set"):
        incoming(tmp_path)
