"""Every common form of an image set, read in one stated way, a few images at a time."""

import gzip
import importlib
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from cleanlabel.sanitize.arrays import ArrayWriter, open_arrays
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.imageset import load, read_all, save_npz
from cleanlabel.sanitize.pictures import read_picture, write_picture
from cleanlabel.sanitize.published import PUBLISHED, read_published
from cleanlabel.sanitize.sources import open_published, open_source

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 4, 3), dtype=np.uint8)


def saved(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)
    return path


def test_a_rotated_photograph_is_read_as_people_see_it(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn right by 90 degrees
    path = saved(Image.fromarray(PIXELS), tmp_path / "x.png", exif=exif)
    np.testing.assert_array_equal(read_picture(path, 3), np.rot90(PIXELS, -1))
    (tmp_path / "c").mkdir()
    path.rename(tmp_path / "c" / "x.png")
    assert open_source(tmp_path).size == (4, 6)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.fromarray(PIXELS), PIXELS),
        (Image.fromarray(np.dstack([PIXELS, np.zeros((6, 4), np.uint8)])), PIXELS),  # transparent all over: dropped
        (Image.fromarray(PIXELS[..., 0]), PIXELS[..., :1]),
        (Image.fromarray(np.dstack([PIXELS[..., 0], PIXELS[..., 1]]), "LA"), PIXELS[..., :1]),
        (Image.fromarray(PIXELS[..., 0] > 99), np.where(PIXELS[..., :1] > 99, 255, 0)),
        (Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 256 + 77), PIXELS[..., :1]),  # the upper 8 of 16 bits
        (Image.fromarray(PIXELS).quantize(24), None),
    ],
)
def test_every_mode_is_read_in_the_stated_way(image, expected, tmp_path):
    expected = np.asarray(image.convert("RGB")) if expected is None else expected
    path = saved(image, tmp_path / "x.png")
    np.testing.assert_array_equal(read_picture(path, expected.shape[2]), expected)


def test_a_set_is_grey_only_if_all_of_it_is(tmp_path):
    for name in ("a/1.png", "b/2.png"):
        write_picture(PIXELS[..., :1], tmp_path / name)
    assert load(tmp_path).image_shape == (6, 4, 1)
    write_picture(PIXELS, tmp_path / "b" / "3.png")
    mixed = load(tmp_path)
    assert mixed.image_shape == (6, 4, 3)
    np.testing.assert_array_equal(mixed.images[0], np.repeat(PIXELS[..., :1], 3, axis=2))


@pytest.mark.parametrize("name", ["x.jpg", "x.webp", "x.JPEG", "x.png"])
def test_a_copy_keeps_its_name_and_loses_nothing(name, tmp_path):
    write_picture(PIXELS, tmp_path / name)
    np.testing.assert_array_equal(read_picture(tmp_path / name, 3), PIXELS)


def test_sets_of_several_sizes_have_a_digest_but_are_no_array(tmp_path):
    write_picture(PIXELS, tmp_path / "a" / "1.png")
    write_picture(PIXELS[:5], tmp_path / "b" / "2.png")
    source = open_source(tmp_path)
    assert source.size is None
    assert [image.shape for image in source.read([0, 1])] == [(6, 4, 3), (5, 4, 3)]
    first = source.digest
    write_picture(PIXELS[:5, ::-1], tmp_path / "b" / "2.png")
    assert open_source(tmp_path).digest != first
    with pytest.raises(InputError, match="b/2.png is 4x5 where a/1.png is 4x6"):
        read_all(source, "the set")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_are_read_from_the_disk_as_numpy_reads_them(save, small_set, tmp_path):
    columns = {"images": small_set.images, "labels": small_set.labels, "ids": np.array(small_set.ids)}
    save(tmp_path / "a.npz", **columns)
    stored = open_arrays(tmp_path / "a.npz", columns)
    for name, column in columns.items():
        np.testing.assert_array_equal(stored[name].whole(), column)
        np.testing.assert_array_equal(stored[name].row(7), column[7])
    source = open_source(tmp_path / "a.npz")
    assert source.digest == small_set.digest
    np.testing.assert_array_equal(next(source.read([5])), small_set.images[5])


def test_blocks_are_written_as_numpy_writes_the_whole(small_set, tmp_path):
    with ArrayWriter(tmp_path / "blocks.npz") as writer:
        writer.write("images", small_set.images.shape, np.uint8, (small_set.images[i : i + 7] for i in range(0, 24, 7)))
        writer.write("labels", small_set.labels.shape, np.int64, [small_set.labels])
        writer.write("ids", (24,), np.array(small_set.ids).dtype, [np.array(small_set.ids)])
    np.savez(tmp_path / "whole.npz", images=small_set.images, labels=small_set.labels, ids=np.array(small_set.ids))
    assert (tmp_path / "blocks.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()


@pytest.mark.parametrize("cut", [200, 1000, 1500])
def test_a_file_that_is_cut_short_is_refused(cut, small_set, tmp_path):
    save_npz(small_set, tmp_path / "a.npz")
    (tmp_path / "a.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:cut])
    with pytest.raises(InputError, match="a.npz cannot be read as .npz"):
        open_source(tmp_path / "a.npz")


def idx(array: np.ndarray) -> bytes:
    return b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write_published(root: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Small files in the published formats: what each set's test split should be read as."""
    pickles = importlib.import_module("pickle")  # to write one as the publishers did; nothing here reads one
    generator = np.random.default_rng(0)
    colour, grey = (
        generator.integers(0, 256, (5, 32, 32, 3), np.uint8),
        generator.integers(0, 256, (5, 28, 28), np.uint8),
    )
    labels = np.array([3, 0, 9, 3, 1])
    flat = colour.transpose(0, 3, 1, 2).reshape(5, -1)
    for folder, name, key in (
        ("cifar-10-batches-py", "test_batch", "labels"),
        ("cifar-100-python", "test", "fine_labels"),
    ):
        (root / folder).mkdir(parents=True)
        content = {"batch_label": "x", key: labels.tolist(), "coarse_labels": [7] * 5, "data": flat, "filenames": ["a"]}
        (root / folder / name).write_bytes(pickles.dumps(content, protocol=2))
    for folder in ("FashionMNIST", "MNIST"):
        (root / folder / "raw").mkdir(parents=True)
        (root / folder / "raw" / "t10k-images-idx3-ubyte").write_bytes(idx(grey))
        (root / folder / "raw" / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels.astype(np.uint8))))
    savemat(
        root / "test_32x32.mat", {"X": colour.transpose(1, 2, 3, 0), "y": np.where(labels == 0, 10, labels)[:, None]}
    )
    return {name: (grey if "mnist" in name else colour, labels) for name in PUBLISHED}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sets_are_read_by_name_without_unpickling(name, tmp_path, monkeypatch):
    images, labels = write_published(tmp_path)[name]
    pickles = importlib.import_module("pickle")
    for function in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickles, function, None)
    read, read_labels, classes = read_published(name, tmp_path, "test")
    np.testing.assert_array_equal(read, images)
    np.testing.assert_array_equal(read_labels, labels)
    source = open_published(name, tmp_path, "test")
    assert (source.ids[:2], source.form) == (("test/000000", "test/000001"), "npz")
    assert len(classes) == (100 if name == "cifar100" else 10)


def test_a_published_set_that_is_not_there_says_how_to_get_it(tmp_path):
    with pytest.raises(InputError, match="data_batch_1 does not exist; let torchvision download cifar10 into"):
        read_published("cifar10", tmp_path, "train")
    with pytest.raises(InputError, match="'imagenet' is not a known published set; choose one of cifar10, "):
        read_published("imagenet", tmp_path, "train")
    with pytest.raises(InputError, match="split='val' is neither train nor test"):
        read_published("cifar10", tmp_path, "val")
    write_published(tmp_path)
    batch = tmp_path / "cifar-10-batches-py" / "test_batch"
    batch.write_bytes(batch.read_bytes()[:5000])
    with pytest.raises(InputError, match="the files of cifar10 under .* are damaged"):
        read_published("cifar10", tmp_path, "test")
