"""Images of one set that are in another: found as exact and as near copies, and not where they only look alike."""

import math

import numpy as np
import pytest
from filled import filled
from imports import ROOT
from PIL import Image

from cleanlabel.sanitize import near
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.imageset import ImageSet, save_npz
from cleanlabel.sanitize.ingest import digits
from cleanlabel.sanitize.near import CLEAR
from cleanlabel.sanitize.overlap import (
    Record,
    compared_in_words,
    hashes,
    hashes_alone,
    read_record,
    record_of,
    record_of_source,
    shared,
    thumbnails,
    to_bytes,
)
from cleanlabel.sanitize.sources import open_source


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


def shift(images: np.ndarray, down: int, right: int) -> np.ndarray:
    """Moved by whole pixels; the edges are repeated."""
    _, h, w, _ = images.shape
    wide = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="edge")
    return wide[:, 2 - down : 2 - down + h, 2 - right : 2 - right + w]


def lit(images: np.ndarray, contrast: float, brightness: float) -> np.ndarray:
    return np.clip(np.rint(contrast * images.astype(np.float64) + brightness), 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("change", "least", "how"),
    [
        (lambda images: lit(images, 1, 20), 590, "near"),
        (lambda images: lit(images, 1.1, 0), 590, "near"),
        (lambda images: lit(images, 1.2, -30), 400, "near"),
        (lambda images: images[:, :, ::-1], 600, "mirrored"),
        (lambda images: shift(images, 0, 2), 600, "shifted"),
        (lambda images: shift(lit(images, 1, 10)[:, :, ::-1], 1, -2), 590, "mirrored and shifted"),
    ],
    ids=["brighter", "more contrast", "darker and more contrast", "mirrored", "shifted", "mirrored and shifted"],
)
def test_a_whole_set_that_was_made_over_is_found_among_the_trusted_images(change, least, how):
    trusted = digits(600, 800, 20240611)["trusted"].images
    changed = np.ascontiguousarray(change(trusted))
    for ours, theirs in ((changed, trusted), (trusted, changed)):  # whichever of the two was made from the other
        found = shared(named(ours), named(theirs))
        assert least <= (found.ours == found.theirs).sum() == len(found)
        assert found.how.count(how) >= 0.99 * len(found)


def test_each_image_changed_in_another_way_and_half_of_the_set_mirrored():
    images = photographs(200, 6)
    changed = images.copy()
    for row, (image, generator) in enumerate(zip(images, np.random.default_rng(7).spawn(200), strict=True)):
        moved = lit(image[None], generator.uniform(0.8, 1.25), generator.uniform(-20, 20))
        moved = shift(moved[:, :, :: generator.choice([-1, 1])], *generator.integers(-2, 3, 2))
        changed[row] = moved[0]
    found = shared(named(changed), named(images))
    assert (found.ours == found.theirs).all()
    assert len(found) >= 180


def test_one_image_mirrored_and_darkened_does_not_hide_among_many():
    sets = digits(600, 800, 20240611)
    trusted = sets["trusted"].images.copy()
    trusted[17] = lit(sets["raw"].images[3:4, :, ::-1], 0.9, -10)[0]
    found = shared(named(sets["raw"].images), named(trusted))
    assert (found.ours.tolist(), found.theirs.tolist(), found.how) == ([3], [17], ("mirrored",))
    assert "0 exact, 1 near copies (1 mirrored); image-3 is image-17 there" in found.in_words(
        named(sets["raw"].images), named(trusted)
    )


def test_a_set_that_was_doubled_by_mirroring_hides_nothing():
    images = digits(600, 800, 20240611)["raw"].images[:300]
    doubled = np.concatenate([lit(images, 0.9, 5), lit(images[:, :, ::-1], 0.9, 5)])
    assert len(shared(named(images), named(doubled))) == 300


def test_many_different_variants_of_each_image_hide_it_as_the_page_says():
    images = digits(600, 800, 20240611)["raw"].images[:100]
    noise = np.random.default_rng(0).choice([-8.0, 8.0], (10, *images.shape))
    variants = np.concatenate([lit(images + moved, 1, 0) for moved in noise])
    assert len(shared(named(images), named(variants[:200]))) >= 95
    assert len(shared(named(images), named(variants))) < 10


def test_a_copy_of_another_size_is_found_shifted_too():
    images = photographs(50, 8)
    larger = shift(images, 2, -1).repeat(3, axis=1).repeat(3, axis=2)
    found = shared(named(larger), named(images))
    assert found.ours.tolist() == found.theirs.tolist() == list(range(50))


def test_images_that_show_hardly_anything_are_copies_only_if_they_are_exact():
    generator = np.random.default_rng(0)
    constant = np.arange(60, dtype=np.uint8)[:, None, None, None].repeat(16, axis=1).repeat(16, axis=2) + np.uint8(60)
    faint = generator.integers(100, 104, (60, 16, 16, 1), dtype=np.uint8)
    ramps = 100 + generator.integers(0, 3, (60, 1, 1, 1)) * np.linspace(0, 3, 16)[:, None, None]
    flat = np.concatenate([constant, faint, ramps.repeat(16, axis=2).astype(np.uint8)])
    found = shared(named(flat), named(flat + np.uint8(1)))
    assert found.exact.all()
    assert shared(named(flat), named(flat)).exact.all()
    assert len(shared(named(flat), named(flat))) == len(flat)


def test_what_is_found_agrees_with_the_correlation_of_thumbnails():
    images = photographs(300, 9)
    changed = lit(images, 0.9, 12)
    ours, theirs = named(changed), named(images)
    found = shared(ours, theirs)
    assert set(found.how) == {"near"}
    for i, j in zip(filled(found.ours), found.theirs, strict=True):
        assert np.corrcoef(ours.thumbnails[i], theirs.thumbnails[j])[0, 1] >= 1 - CLEAR


def test_the_size_of_a_block_changes_nothing(monkeypatch):
    images = photographs(60, 10)
    changed = shift(images, 1, 1)
    whole = shared(named(changed), named(images))
    monkeypatch.setattr(near, "ROWS", 7)
    blocks = shared(named(changed), named(images))
    assert (whole.theirs.tolist(), whole.how) == (blocks.theirs.tolist(), blocks.how)


def test_a_record_from_a_file_is_compared_as_well_and_shows_no_more_than_thumbnails(tmp_path):
    images = photographs(40, 11)
    path = tmp_path / "images.npz"
    path.write_bytes(to_bytes(named(images)))
    with np.load(path) as arrays:
        assert {name: arrays[name].nbytes // 40 for name in arrays if name != "ids"} == {"hashes": 8, "thumbnails": 64}
    back = read_record(path)
    assert len(shared(named(shift(images[:, :, ::-1], 2, 2)), back)) == 40
    assert len(shared(back, named(lit(images, 1.1, -10)))) == 40  # neither is at hand
    assert len(shared(hashes_alone(hashes(images[:3])), back)) == 3


def test_a_source_gives_the_record_of_its_array_and_takes_several_sizes(small_set: ImageSet, tmp_path):
    save_npz(small_set, tmp_path / "set.npz")
    of_source, of_array = record_of_source(open_source(tmp_path / "set.npz")), named(small_set.images)
    assert of_source.ids == small_set.ids
    for name in ("hashes", "thumbnails", "grids"):
        assert np.array_equal(getattr(of_source, name), getattr(of_array, name))
    (tmp_path / "mixed" / "a").mkdir(parents=True)
    images = photographs(6, 12)
    for row, image in enumerate(images):
        Image.fromarray(image).resize((32 + 8 * row, 48)).save(tmp_path / "mixed" / "a" / f"{row}.png")
    mixed = record_of_source(open_source(tmp_path / "mixed"))
    found = shared(mixed, named(images))
    assert found.ours.tolist() == found.theirs.tolist() == list(range(6))


@pytest.mark.parametrize("found", [0, 3])
def test_what_was_compared_is_said_as_what_was_found(found):
    words = compared_in_words(found, 150, 600, thumbnails=True)
    assert words.startswith(f"of 150 raw images {found} match one of the 600 recorded images (exact copies, and copies")
    assert (ROOT / words[:-1].rpartition(": ")[2]).is_file()
    alone = compared_in_words(found, 150, 600, thumbnails=False)
    assert alone == f"of 150 raw images {found} match one of the 600 recorded images (exact copies only)"
    assert "no raw image" not in words + alone
