"""Images of one set that are in another: found as exact and as near copies, and not where they only look alike."""

import math

import numpy as np
import pytest

from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.imageset import ImageSet
from cleanlabel.sanitize.ingest import digits
from cleanlabel.sanitize.overlap import (
    BRIGHTER,
    NEAR,
    Record,
    hashes,
    hashes_alone,
    read_record,
    record_of,
    shared,
    thumbnails,
    to_bytes,
)


def named(images: np.ndarray) -> Record:
    return record_of(images, [f"image-{i}" for i in range(len(images))])


def photographs(n: int, seed: int, side: int = 32) -> np.ndarray:
    """Smooth random colour images: sums of a few waves, as different as photographs of different things."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] / side
    waves = [np.cos(2 * math.pi * (a * x + b * y)) for a in range(3) for b in range(3)]
    weights = generator.normal(0, 25, (n, len(waves), 3))
    pixels = 128 + np.einsum("nwc,whv->nhvc", weights, np.array(waves))
    return np.clip(pixels + generator.normal(0, 4, pixels.shape), 0, 255).astype(np.uint8)


def slow_near(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two thumbnails are those of near copies, as the module's words say it."""
    difference = a.astype(np.float64) - b.astype(np.float64)
    brighter = difference.mean()
    return abs(brighter) <= BRIGHTER and math.sqrt(((difference - brighter) ** 2).mean()) <= NEAR


def test_the_fast_comparison_finds_what_the_slow_one_finds():
    generator = np.random.default_rng(0)
    base = generator.integers(40, 216, (40, 64))
    reach, brighter = generator.integers(0, 6, (600, 1)), generator.integers(-20, 21, (600, 1))
    ours = np.repeat(base, 15, axis=0) + generator.integers(-reach, reach + 1, (600, 64)) + brighter  # several blocks
    records = [
        Record(tuple(map(str, range(len(small)))), generator.integers(0, 256, (len(small), 8), dtype=np.uint8), small)
        for small in (ours.astype(np.uint8), base.astype(np.uint8))
    ]
    found = shared(*records)
    wanted = [i for i, a in enumerate(records[0].thumbnails) if any(slow_near(a, b) for b in records[1].thumbnails)]
    assert found.ours.tolist() == wanted
    assert 50 < len(wanted) < 550
    assert not found.exact.any()
    for i, j in zip(found.ours, found.theirs, strict=True):
        assert slow_near(records[0].thumbnails[i], records[1].thumbnails[j])


def test_one_bit_of_one_pixel_makes_a_near_copy():
    images = photographs(30, 0)
    changed = images.copy()
    changed[7, 3, 3, 1] ^= 1
    found = shared(named(changed), named(images))
    assert found.ours.tolist() == found.theirs.tolist() == list(range(30))
    assert np.flatnonzero(~found.exact).tolist() == [7]


@pytest.mark.parametrize(
    "changed",
    [
        lambda images: images + 8.0,
        lambda images: images + np.random.default_rng(1).choice([-8.0, 8.0], images.shape),
        lambda images: images.repeat(2, axis=1).repeat(2, axis=2).astype(np.float64),
    ],
    ids=["brighter by 8", "each value moved by 8 at random", "twice as large"],
)
def test_what_only_looks_a_little_different_is_a_near_copy(changed):
    images = photographs(50, 2)
    found = shared(named(np.clip(changed(images), 0, 255).astype(np.uint8)), named(images))
    assert found.ours.tolist() == found.theirs.tolist() == list(range(50))
    assert not found.exact.any()


def test_different_images_are_not_shared():
    assert len(shared(named(photographs(300, 3)), named(photographs(300, 4)))) == 0


def test_the_embedded_splits_share_no_image():
    sets = digits(600, 800, 20240611)
    records = {name: record_of(images.images, images.ids) for name, images in sets.items()}
    for name in ("trusted", "test"):
        assert len(shared(records["raw"], records[name])) == 0


def test_an_exact_copy_is_the_partner_where_there_is_one():
    image = photographs(1, 5)
    near = image.copy()
    near[0, 0, 0, 0] ^= 1
    found = shared(named(image), named(np.concatenate([near, image])))
    assert (found.theirs.tolist(), found.exact.tolist()) == ([1], [True])


def test_thumbnails_are_means_of_equal_areas():
    image = np.arange(24 * 16 * 3).reshape(1, 24, 16, 3) % 256
    wanted = image.reshape(8, 3, 8, 2, 3).mean(axis=(1, 3, 4))
    assert thumbnails(image.astype(np.uint8)).reshape(8, 8) == pytest.approx(wanted, abs=0.5)
    flat = np.full((1, 13, 5, 1), 77, dtype=np.uint8)  # sides that eight does not divide
    assert np.unique(thumbnails(flat)).tolist() == [77]


def test_hashes_alone_find_exact_copies_and_nothing_else(small_set: ImageSet):
    changed = small_set.images.copy()
    changed[0, 0, 0, 0] ^= 1
    found = shared(named(changed), hashes_alone(hashes(small_set.images)))
    assert found.ours.tolist() == list(range(1, 24))
    assert found.exact.all()


def test_the_same_pixels_in_another_shape_are_another_image():
    pixels = np.random.default_rng(0).integers(0, 256, (1, 4, 16, 1), dtype=np.uint8)
    assert hashes(pixels).tolist() != hashes(pixels.reshape(1, 16, 4, 1)).tolist()


def test_a_record_comes_back_from_its_file_and_is_made_again_to_the_byte(small_set: ImageSet, tmp_path):
    record = record_of(small_set.images, small_set.ids)
    path = tmp_path / "images.npz"
    path.write_bytes(to_bytes(record))
    back = read_record(path)
    assert back.ids == small_set.ids
    assert np.array_equal(back.hashes, record.hashes)
    assert np.array_equal(back.thumbnails, record.thumbnails)
    assert to_bytes(record_of(small_set.images, small_set.ids)) == path.read_bytes()


@pytest.mark.parametrize("keep", [0, 10, 200])
def test_a_damaged_record_is_named(small_set: ImageSet, tmp_path, keep):
    path = tmp_path / "images.npz"
    path.write_bytes(to_bytes(record_of(small_set.images, small_set.ids))[:keep])
    with pytest.raises(InputError, match=r"images\.npz is not a readable record of images"):
        read_record(path)


def test_a_record_of_other_arrays_is_refused(tmp_path):
    path = tmp_path / "images.npz"
    np.savez(path, ids=np.array(["a"]), hashes=np.zeros((1, 8), np.uint8), thumbnails=np.zeros((2, 64), np.uint8))
    with pytest.raises(InputError, match="not a readable record"):
        read_record(path)


def test_an_empty_set_shares_nothing():
    nothing, some = named(np.empty((0, 8, 8, 1), dtype=np.uint8)), named(photographs(3, 0, 8))
    assert len(shared(nothing, some)) == len(shared(some, nothing)) == 0
