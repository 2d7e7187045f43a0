"""Image sets: one digest for one set, and a sentence for what is none."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.imageset import ImageSet, load, require_trainable, save_folder, save_npz


def as_folder(images: ImageSet, root: Path) -> ImageSet:
    ids = tuple(f"{images.classes[y]}/{i}.png" for i, y in zip(images.ids, images.labels, strict=True))
    named = ImageSet(images.images, images.labels, ids, images.classes)
    save_folder(named, root)
    return named


def test_a_folder_and_an_array_with_the_same_ids_and_pixels_have_one_digest(small_set, tmp_path):
    named = as_folder(small_set, tmp_path / "folder")
    save_npz(named, tmp_path / "set.npz")
    assert load(tmp_path / "folder").digest == load(tmp_path / "set.npz").digest == named.digest


def test_the_digest_does_not_depend_on_the_order(small_set):
    assert small_set.take(np.arange(24)[::-1]).digest == small_set.digest


@pytest.mark.parametrize("what", ["pixel", "label", "id", "two ids swapped", "one image less"])
def test_the_digest_changes_with(small_set, what):
    images, labels, ids = small_set.images.copy(), small_set.labels.copy(), list(small_set.ids)
    if what == "pixel":
        images[3, 2, 1, 0] ^= 1
    elif what == "label":
        labels[3] = (labels[3] + 1) % 3
    elif what == "id":
        ids[3] = "another"
    elif what == "two ids swapped":
        ids[3], ids[4] = ids[4], ids[3]
    else:
        images, labels, ids = images[1:], labels[1:], ids[1:]
    assert ImageSet(images, labels, tuple(ids), small_set.classes).digest != small_set.digest


def test_an_array_comes_back_as_it_went(small_set, tmp_path):
    save_npz(small_set, tmp_path / "a.npz")
    again = load(tmp_path / "a.npz")
    np.testing.assert_array_equal(again.images, small_set.images)
    np.testing.assert_array_equal(again.labels, small_set.labels)
    assert (again.ids, again.classes, again.channel_axis) == (small_set.ids, small_set.classes, False)
    save_npz(again, tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_an_array_without_ids_is_numbered(tmp_path):
    np.savez(tmp_path / "a.npz", images=np.zeros((3, 4, 4, 3), np.uint8), labels=np.array([0, 1, 0]))
    assert load(tmp_path / "a.npz").ids == ("0", "1", "2")


def test_duplicate_ids_are_refused_by_name(small_set):
    ids = (*small_set.ids[:-1], small_set.ids[0])
    with pytest.raises(InputError, match="'image-0' occurs twice"):
        ImageSet(small_set.images, small_set.labels, ids, small_set.classes)


def test_jpeg_and_webp_and_names_from_anywhere_are_read(tmp_path):
    for name in ("a/x.jpg", "a/ein bild.webp", "b/'quoted'.PNG", "b/изображение.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (5, 4), (200, 100, 50)).save(tmp_path / name)
    assert load(tmp_path).ids == ("a/ein bild.webp", "a/x.jpg", "b/'quoted'.PNG", "b/изображение.png")
    assert load(tmp_path).image_shape == (4, 5, 3)


def folder(tmp_path: Path, **files: bytes) -> Path:
    for label in ("a", "b"):
        (tmp_path / label).mkdir(parents=True)
        Image.new("L", (8, 8)).save(tmp_path / label / "good.png")
    for name, content in files.items():
        (tmp_path / "a" / f"{name}.png").write_bytes(content)
    return tmp_path


def png_header(width: int, height: int) -> bytes:
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))


def test_a_truncated_image_is_named(tmp_path):
    whole = folder(tmp_path) / "a" / "whole.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)).save(whole)
    whole.write_bytes(whole.read_bytes()[:80])
    with pytest.raises(
        InputError,
        match=r"a/whole.png cannot be read as an image \(image file is truncated.* the file ends at byte 80\); ",
    ):
        load(tmp_path)


@pytest.mark.parametrize("content", [b"", b"not an image", png_header(50_000, 50_000)])
def test_what_is_no_image_is_named(tmp_path, content):
    with pytest.raises(InputError, match="a/bad.png cannot be read as an image"):
        load(folder(tmp_path, bad=content))


def test_mixed_sizes_are_refused(tmp_path):
    Image.new("L", (9, 8)).save(folder(tmp_path) / "b" / "wide.png")
    with pytest.raises(InputError, match=r"b/wide.png is 9x8 where a/good.png is 8x8; bring all images to one size"):
        load(tmp_path)


def test_names_that_differ_only_in_their_suffix_stay_apart(tmp_path):
    Image.new("L", (8, 8), 9).save(folder(tmp_path) / "b" / "good.jpg")
    assert load(tmp_path).ids == ("a/good.png", "b/good.jpg", "b/good.png")


def test_a_link_out_of_the_folder_is_followed(tmp_path):
    # What `dvc config cache.type symlink` makes of every tracked image; torchvision follows them as well.
    cache = tmp_path / "cache" / "0a1b"
    cache.parent.mkdir()
    Image.new("L", (8, 8), 9).save(cache, format="PNG")
    (folder(tmp_path / "set") / "a" / "link.png").symlink_to(cache)
    (tmp_path / "set" / "c").symlink_to(folder(tmp_path / "other") / "b")
    images = load(tmp_path / "set")
    assert images.ids == ("a/good.png", "a/link.png", "b/good.png", "c/good.png")
    assert images.images[1].max() == 9


def test_an_empty_class_folder_is_refused(tmp_path):
    (folder(tmp_path) / "c").mkdir()
    with pytest.raises(InputError, match="class folder .*/c holds no image"):
        load(tmp_path)


def test_a_set_with_one_class_cannot_be_trained_on(small_set):
    with pytest.raises(InputError, match=r"the raw set has one class \('b'\)"):
        require_trainable(small_set.take(np.flatnonzero(small_set.labels == 1)), "raw")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_in_fortran_order_and_a_column_of_labels_are_taken(small_set, tmp_path, monkeypatch, save):
    monkeypatch.setattr("cleanlabel.sanitize.arrays.TURN", 5 * 64)  # several pieces
    images = np.asfortranarray(small_set.images)
    save(tmp_path / "a.npz", images=images, labels=small_set.labels[:, None], ids=np.array(small_set.ids))
    assert load(tmp_path / "a.npz").digest == small_set.digest


def test_other_arrays_beside_a_set_do_not_matter(small_set, tmp_path):
    more = {"when": np.array(["2026-01-01"], "datetime64[D]"), "meta": np.array([{"a": 1}], dtype=object)}
    np.savez(tmp_path / "a.npz", images=small_set.images, labels=small_set.labels, ids=np.array(small_set.ids), **more)
    assert load(tmp_path / "a.npz").digest == small_set.digest


class Bomb:
    def __reduce__(self):
        return (Path("/tmp/cleanlabel-was-unpickled").touch, ())


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        ({"labels": np.zeros(2, int)}, "has no array 'images'"),
        ({"images": np.zeros((2, 4, 4), np.uint8)}, "has no array 'labels'"),
        ({"images": np.zeros((2, 4, 4), np.float32), "labels": np.zeros(2, int)}, "images are float32, not uint8"),
        ({"images": np.zeros((2, 4), np.uint8), "labels": np.zeros(2, int)}, "images have the shape"),
        ({"images": np.zeros((2, 4, 4, 2), np.uint8), "labels": np.zeros(2, int)}, "images have the shape"),
        ({"images": np.zeros((2, 4, 4), np.uint8), "labels": np.zeros(2)}, "labels in .* are float64"),
        ({"images": np.zeros((2, 4, 4), np.uint8), "labels": np.zeros(3, int)}, "2 images, 3 labels"),
        ({"images": np.zeros((2, 4, 4), np.uint8), "labels": np.array([0, -1])}, "labels run from -1 to 0"),
        (
            {"images": np.zeros((2, 3, 8, 8), np.uint8), "labels": np.zeros(2, int)},
            r"the channels come first: save np.transpose\(images, \(0, 2, 3, 1\)\)",
        ),
        (
            {"images": np.zeros((8, 8, 3, 2), np.uint8), "labels": np.zeros(2, int)},
            r"the images come last: save np.transpose\(images, \(3, 0, 1, 2\)\)",
        ),
        (
            {"images": np.zeros((2, 8, 8, 4), np.uint8), "labels": np.zeros(2, int)},
            r"drop the transparency: save images\[..., :3\]",
        ),
        (
            {"images": np.zeros((2, 4, 4), np.uint8), "labels": np.array([0, 1 << 40])},
            "run to 1099511627776; number the",
        ),
        ({"images": np.uint8(3), "labels": np.zeros(0, int)}, "images have the shape"),
        (
            {"images": np.zeros((2, 4, 4), np.uint8), "labels": np.zeros(2, int), "ids": np.array(["\xe9", "e\u0301"])},
            r"the ids '\\xe9' and 'e\\u0301' differ only in their Unicode form; rename one",
        ),
        (
            {"images": np.zeros((1, 4, 4), np.uint8), "labels": np.zeros(1, int), "ids": np.array(["\udce9"])},
            r"'\\udce9' cannot be written as UTF-8",
        ),
        ({"images": np.array([Bomb()], dtype=object), "labels": np.zeros(1, int)}, "without unpickling"),
    ],
)
def test_an_array_file_that_is_no_image_set_is_refused(tmp_path, arrays, sentence):
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(InputError, match=sentence):
        load(tmp_path / "bad.npz")
    assert not Path("/tmp/cleanlabel-was-unpickled").exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 broken", b"\x80\x04}\x94."])
def test_a_damaged_array_file_is_refused(tmp_path, content):
    (tmp_path / "bad.npz").write_bytes(content)
    with pytest.raises(InputError, match=r"bad.npz cannot be read as .npz"):
        load(tmp_path / "bad.npz")


def test_a_path_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match="nowhere does not exist"):
        load(tmp_path / "nowhere")
    (tmp_path / "file.txt").write_text("")
    with pytest.raises(InputError, match="neither a .npz file nor a folder"):
        load(tmp_path / "file.txt")
