"""Damaged files of every format, seeded: no exception but the project's own leaves a reader, and none of them hangs."""

import gzip
import io
import random
import struct
import unicodedata
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from filled import filled
from PIL import Image

from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.folders import Reading
from cleanlabel.sanitize.pictures import FORMATS, look_at, read_picture
from cleanlabel.sanitize.published import read_published
from cleanlabel.sanitize.sources import open_source

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 10, 3), dtype=np.uint8)
ROUNDS = 60


def mutated(content: bytes, generator: random.Random) -> bytes:
    """A file with a few bytes changed, cut out, doubled or added; the first ones, where headers are, more often."""
    changed = bytearray(content)
    for _ in range(generator.choice((1, 1, 2, 4, 8))):
        at = min(int(len(changed) * generator.random() ** generator.choice((1, 3))), max(0, len(changed) - 1))
        length = generator.choice((1, 2, 4, 8))
        what = generator.randrange(5)
        if what == 0:
            changed[at : at + length] = generator.randbytes(length)
        elif what == 1:
            changed[at : at + length] = generator.choice((b"\xff", b"\0", b"\x7f", b"\x80")) * length
        elif what == 2:
            del changed[at : at + length * generator.choice((1, 50))]
        elif what == 3:
            changed[at:at] = changed[at : at + length]
        elif changed:
            changed[at % len(changed)] ^= 1 << generator.randrange(8)
    return bytes(changed)


def image_files() -> dict[str, bytes]:
    """A small valid file of every format, some with EXIF, several frames, palettes or another compression."""
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "a description"
    moving = [Image.fromarray(np.roll(PIXELS, k, axis=0)) for k in range(3)]
    grey = Image.fromarray(PIXELS[..., 0])
    made = {form: (moving[0], form, {}) for form in FORMATS}
    made |= {f"{form} with EXIF": (moving[0], form, {"exif": exif}) for form in ("JPEG", "PNG", "TIFF", "WEBP", "AVIF")}
    made |= {
        f"{form} of 3 frames": (moving[0], form, {"save_all": True, "append_images": moving[1:]})
        for form in ("GIF", "PNG", "WEBP", "AVIF", "TIFF")
    }
    made |= {f"TIFF, {how}": (moving[0], "TIFF", {"compression": how}) for how in ("tiff_lzw", "tiff_deflate", "jpeg")}
    made |= {
        "palette": (moving[0].quantize(7), "PNG", {}),
        "16 bits": (Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 257), "PNG", {}),
        "grey": (grey, "JPEG", {"progressive": True}),
        "bilevel": (grey.convert("1"), "PPM", {}),
        "CMYK": (moving[0].convert("CMYK"), "JPEG", {}),
    }
    files = {}
    for name, (image, form, options) in made.items():
        stream = io.BytesIO()
        image.save(stream, form, **options)
        files[name] = stream.getvalue()
    return files


@pytest.mark.parametrize("name", image_files())
def test_a_damaged_image_is_read_or_refused(name, tmp_path):
    generator = random.Random(name)
    path, content = tmp_path / "x", image_files()[name]
    path.write_bytes(content)
    assert read_picture(path, 3).shape[:2] == look_at(path)[:2]
    refused = 0
    for _ in range(ROUNDS):
        path.write_bytes(mutated(content, generator))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                look_at(path)
                read_picture(path, 3)
            except InputError:
                refused += 1
    assert refused


def array_files() -> dict[str, bytes]:
    columns = {
        "images": np.stack([PIXELS] * 3),
        "labels": np.array([0, 1, 0]),
        "ids": np.array(["a", "b", "c"]),
        "classes": np.array(["x", "y"]),
    }
    files = {}
    for name, save in (("stored", np.savez), ("compressed", np.savez_compressed)):
        for order in ("C", "F"):
            stream = io.BytesIO()
            save(stream, **(columns | {"images": np.asarray(columns["images"], order=order)}))
            files[f"{name}, {order} order"] = stream.getvalue()
    return files


@pytest.mark.parametrize("name", array_files())
@pytest.mark.parametrize("inside", [False, True], ids=["the archive", "an array in it"])
def test_a_damaged_array_file_is_read_or_refused(name, inside, tmp_path):
    generator = random.Random(f"{name} {inside}")
    path, content = tmp_path / "x.npz", array_files()[name]
    refused = 0
    for _ in range(4 * ROUNDS):
        path.write_bytes(repacked(content, generator) if inside else mutated(content, generator))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                assert len(open_source(path).digest) == 64
            except InputError:
                refused += 1
    assert refused


def repacked(content: bytes, generator: random.Random) -> bytes:
    """The archive with one member damaged, its checksums right."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as archive, zipfile.ZipFile(stream, "w") as other:
        names = archive.namelist()
        victim = generator.choice(names)
        for name in names:
            member = archive.read(name)
            other.writestr(name, mutated(member, generator) if name == victim else member)
    return stream.getvalue()


def test_odd_trees_are_read_or_refused(tmp_path):
    generator = random.Random(7)
    names = [
        "a",
        "A",
        "é",
        "e\u0301",
        "x.png",
        "train",
        ".x",
        "._y",
        "Thumbs.db",
        "manifest.json",
        "\udce9",
        "z\n",
        "-",
    ]
    image = image_files()["PNG"]
    for number in range(60):
        root = tmp_path / str(number)
        root.mkdir()
        places = [root]
        for _ in range(generator.randrange(1, 14)):
            place = generator.choice(places) / generator.choice(names)
            if place.is_symlink() or place.exists():
                continue
            what = generator.randrange(4)
            if what == 0:
                place.mkdir()
                places.append(place)
            elif what == 1:
                place.symlink_to(generator.choice([*places, tmp_path, Path("nowhere"), place]))
            else:
                place.write_bytes(image if what == 2 else generator.randbytes(20))
        for reading in (Reading(), Reading(flags=True), Reading(nested=True, skip_unreadable=True, flags=True)):
            try:
                source = open_source(root, reading)
                assert len(source.digest) == 64
                assert all(unicodedata.is_normalized("NFC", name) for name in filled(source.ids))
            except InputError as error:
                str(error).encode()


def test_a_damaged_published_set_is_read_or_refused(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (5, 28, 28), np.uint8)
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    files = {
        "t10k-images-idx3-ubyte.gz": gzip.compress(b"\0\0\x08\x03" + struct.pack(">3I", 5, 28, 28) + images.tobytes()),
        "t10k-labels-idx1-ubyte.gz": gzip.compress(b"\0\0\x08\x01" + struct.pack(">I", 5) + bytes(range(5))),
    }
    generator, refused = random.Random(0), 0
    for _ in range(4 * ROUNDS):
        victim = generator.choice(list(files))
        for name, content in files.items():
            packed = mutated(content, generator) if generator.random() < 0.5 else None
            raw = gzip.compress(mutated(gzip.decompress(content), generator))
            (folder / name).write_bytes(content if name != victim else packed or raw)
        try:
            read_published("mnist", tmp_path, "test")
        except InputError:
            refused += 1
    assert refused
