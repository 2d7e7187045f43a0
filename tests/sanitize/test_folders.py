"""Folders as people have them: every image is taken or named, links are followed, no folder is a class by accident."""

import os
import socket
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cleanlabel.sanitize.copies import check_output, make_copy
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.folders import Reading
from cleanlabel.sanitize.imageset import load
from cleanlabel.sanitize.ingest import incoming
from cleanlabel.sanitize.pictures import look_at, read_picture
from cleanlabel.sanitize.sources import open_source

PIXELS = np.random.default_rng(0).integers(0, 256, (8, 6, 3), dtype=np.uint8)
FLAGS = Reading(flags=True)
SKIP = Reading(skip_unreadable=True, flags=True)
NESTED = Reading(nested=True, flags=True)


def put(path: Path, pixels: np.ndarray = PIXELS, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **({"format": "PNG"} | options))
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("cat", "dog"):
        for i in range(2):
            put(tmp_path / "in" / name / f"{i}.png")
    return tmp_path / "in"


LOSSLESS = {
    ".bmp": "BMP",
    ".dib": "DIB",
    ".gif": "GIF",
    ".pgm": "PPM",
    ".png": "PNG",
    ".ppm": "PPM",
    ".qoi": "QOI",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".webp": "WEBP",
    "": "PNG",
}
LOSSY = {".avif": "AVIF", ".jfif": "JPEG", ".jpe": "JPEG", ".jpeg": "JPEG", ".jpg": "JPEG", ".jp2": "JPEG2000"}


@pytest.mark.parametrize("suffix", LOSSLESS | LOSSY)
def test_every_still_image_that_pillow_decodes_is_taken(suffix, root):
    colours = 16 * (PIXELS // 64)  # few enough for a palette
    colours[...] = colours[..., :1]
    options = {"lossless": True} if suffix == ".webp" else {}
    pixels = colours[..., 0] if suffix in (".pgm", ".gif") else colours
    path = put(root / "cat" / f"x{suffix}", pixels, format=(LOSSLESS | LOSSY)[suffix], **options)
    source = open_source(root)
    assert path.relative_to(root).as_posix() in source.ids
    if suffix in LOSSLESS:
        np.testing.assert_array_equal(source.read_one(source.ids.index(f"cat/x{suffix}")), colours)


def test_the_content_decides_and_not_the_suffix(root):
    put(root / "cat" / "photo.txt", format="BMP")
    put(root / "cat" / "really-a-gif.png", PIXELS[..., 0], format="GIF")
    assert {"cat/photo.txt", "cat/really-a-gif.png"} <= set(open_source(root).ids)


def test_known_junk_is_neither_an_image_nor_a_class(root):
    before = open_source(root).digest
    for name in (".DS_Store", "cat/Thumbs.db", "cat/desktop.ini", "cat/._0.png", "dog/.gitignore", "manifest.json"):
        (root / name).write_bytes(b"junk")
    for folder in ("__MACOSX", ".ipynb_checkpoints", "@eaDir", ".git", "cat/.ipynb_checkpoints", "dog/@eaDir"):
        put(root / folder / "0.png")
    source = open_source(root)
    assert (source.classes, source.digest, source.skipped) == (("cat", "dog"), before, ())


def bad_things(root: Path) -> dict[str, str]:
    """Things that are no image, put into a set: their paths and why they are none."""
    (root / "cat" / "notes.txt").write_text("cats")
    (root / "cat" / "empty.png").write_bytes(b"")
    (root / "cat" / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    whole = put(root / "dog" / "cut.png", np.random.default_rng(1).integers(0, 256, (40, 40, 3), dtype=np.uint8))
    whole.write_bytes(whole.read_bytes()[:2000])
    (root / "dog" / "broken.png").symlink_to("nowhere.png")
    (root / "dog" / "loop.png").symlink_to("loop.png")
    (root / "dog" / "again").symlink_to(root)
    os.mkfifo(root / "dog" / "pipe.png")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(root / "dog" / "socket"))
    put(root / "beside.png")
    put(root / ".hidden" / "x.png")
    return {
        ".hidden": "a hidden folder",
        "beside.png": "it lies beside the class folders",
        "cat/empty.png": "it is empty",
        "cat/notes.txt": "its content is not in an image format that is read here",
        "cat/phone.heic": "HEIC, which is not read here; convert it to PNG or JPEG",
        "dog/again": "a link to a folder that is in the set already",
        "dog/broken.png": "a broken link, to nowhere.png",
        "dog/cut.png": "image file is truncated",
        "dog/loop.png": "a link that leads back to itself",
        "dog/pipe.png": "a named pipe, not a file",
        "dog/socket": "a socket, not a file",
    }


def test_one_refusal_names_all_that_is_no_image_and_counts_the_rest(root):
    expected = bad_things(root)
    with pytest.raises(InputError, match="11 of 15 files under .* cannot be read as images: ") as refused:
        open_source(root, FLAGS)
    said = str(refused.value)
    for path, reason in list(expected.items())[:10]:
        assert f"{path} ({reason}" in said
    assert said.endswith(" and 1 more; repair, convert or remove them, or leave them out with --skip-unreadable")
    with pytest.raises(InputError, match="repair, convert or remove them$"):
        open_source(root)  # where there is no such flag, none is named


def test_what_is_skipped_is_listed_in_the_manifest(root, tmp_path):
    expected = bad_things(root)
    source = open_source(root, SKIP)
    assert source.ids == ("cat/0.png", "cat/1.png", "dog/0.png", "dog/1.png")
    assert "11 file(s) are left out: .hidden (a hidden folder), beside.png" in source.notes[0]
    skipped = make_copy(source, tmp_path / "out", 0.5, None, "fixed:2a", 0)["skipped"]
    assert [one["path"] for one in skipped] == list(expected)
    assert all(one["reason"].startswith(expected[one["path"]]) for one in skipped)
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_symlink()]


def test_images_that_only_decoding_shows_to_be_damaged_are_all_named_before_the_noise(root, tmp_path):
    for name in ("cat/a.png", "dog/b.png"):
        path = put(root / name, np.random.default_rng(1).integers(0, 256, (8, 6, 3), dtype=np.uint8))
        path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(InputError, match=r"2 of 6 files .* cat/a.png \(.*ends at byte \d+\), dog/b.png \("):
        make_copy(open_source(root, FLAGS), tmp_path / "out", 0.5, None, "fixed:2a", 0)
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match=r"2 of 6 files .* cat/a.png \(.*, dog/b.png \("):
        load(root)
    assert len(open_source(root, SKIP)) == 4


def test_the_copy_of_linked_images_is_made_of_files(root, tmp_path):
    digest = open_source(root).digest
    cache = tmp_path / "cache"
    cache.mkdir()
    for number, path in enumerate(sorted(root.rglob("*.png"))):
        path.rename(cache / str(number))
        path.symlink_to(cache / str(number))
    (root / "dog").rename(tmp_path / "elsewhere")
    (root / "dog").symlink_to(tmp_path / "elsewhere")
    assert open_source(root).digest == digest
    make_copy(open_source(root), tmp_path / "out", 0.5, None, "fixed:2a", 0)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["cat", "dog", "manifest.json"]
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_symlink()]


def test_links_that_lead_everywhere_come_to_an_end(tmp_path):
    put(tmp_path / "set" / "a" / "x.png")
    for level in range(30):  # 2^30 paths, were each of them walked
        folder = tmp_path / "set" / "a" if not level else tmp_path / str(level)
        folder.mkdir(exist_ok=True)
        for name in ("one", "two"):
            (folder / name).symlink_to(tmp_path / str(level + 1))
    (tmp_path / "30").mkdir()
    (tmp_path / "30" / "up").symlink_to(tmp_path)
    with pytest.raises(InputError, match="a link to a folder that is in the set already"):
        open_source(tmp_path / "set")


def test_splits_and_deeper_folders_are_asked_about(root, tmp_path):
    for split in ("train", "test"):
        put(tmp_path / "splits" / split / "cat" / "0.png")
    with pytest.raises(
        InputError,
        match="the folders test, train, which look like splits, not classes; give --input .*splits/test "
        "if its folders are the classes, or --nested if test, train are the classes",
    ):
        open_source(tmp_path / "splits", FLAGS)
    assert open_source(tmp_path / "splits", NESTED).classes == ("test", "train")
    assert open_source(tmp_path / "splits" / "train").ids == ("cat/0.png",)

    put(root / "cat" / "airfield" / "x.jpg")
    with pytest.raises(
        InputError, match="1 images lie deeper than .*/<class>/<image>, .*cat/airfield/x.jpg .*--nested"
    ):
        open_source(root, FLAGS)
    with pytest.raises(InputError, match="arrange the images as root/<class>/<image>$"):
        open_source(root)
    assert "cat/airfield/x.jpg" in open_source(root, NESTED).ids


def test_a_class_that_is_called_train_is_a_class_among_others(root):
    put(root / "train" / "locomotive.png")
    assert open_source(root, FLAGS).classes == ("cat", "dog", "train")


def test_the_manifest_never_takes_the_place_of_a_class_or_of_a_file_of_yours(root, tmp_path):
    put(root / "manifest.json" / "0.png")
    with pytest.raises(InputError, match="the class folder manifest.json has the name of the copy's manifest"):
        make_copy(open_source(root), tmp_path / "out", 0.5, None, "fixed:2a", 0)
    assert not list(tmp_path.glob("out*"))
    (tmp_path / "x.manifest.json").write_text('{"mine": 1}')
    with pytest.raises(InputError, match="x.manifest.json exists, where --output"):
        check_output(tmp_path / "x.npz", "npz", None)
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "manifest.json").write_text('{"mine": 1}')
    with pytest.raises(InputError, match="exists and is not an earlier copy"):
        check_output(tmp_path / "site", "folder", root)


def test_the_work_folder_never_takes_the_place_of_a_folder_of_yours(root, tmp_path):
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match=r"out.partial exists, but --output .*out needs it"):
        check_output(tmp_path / "out", "folder", root)
    root.rename(tmp_path / "photos.partial")
    with pytest.raises(InputError, match=r"needs the working folder .*photos.partial, and the input is in it"):
        check_output(tmp_path / "photos", "folder", tmp_path / "photos.partial")


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "TIFF", "AVIF"])
def test_of_several_frames_the_first_is_taken_and_counted(form, root, tmp_path):
    frames = [Image.fromarray(np.full((8, 6), value, np.uint8)) for value in (10, 200)]
    frames[0].save(root / "cat" / "moving", format=form, save_all=True, append_images=frames[1:])
    source = open_source(root)
    assert source.animated == 1
    assert source.notes == ["of 1 image(s) with several frames or pages the first one is taken"]
    assert source.read_one(source.ids.index("cat/moving")).max() < 20
    assert make_copy(source, tmp_path / "out", 0.5, None, "fixed:2a", 0)["animated"] == 1


@pytest.mark.parametrize(
    ("one", "other"), [("cat/X.png", "cat/x.png"), ("cat/é.png", "cat/e\u0301.png"), ("Cat/9", "")]
)
def test_names_that_are_one_on_other_systems_are_refused_by_both(one, other, root):
    for name in filter(None, (one, other)):
        put(root / name)
    with pytest.raises(InputError, match="and .* differ only in case or Unicode form, and are one file on other"):
        open_source(root)


def test_a_set_has_one_digest_in_either_unicode_form_and_its_copy_keeps_the_names(tmp_path):
    digests = {}
    for form in ("NFC", "NFD"):
        name = unicodedata.normalize(form, "größe/ähnlich.png")
        put(tmp_path / form / name)
        put(tmp_path / form / "z" / "0.png")
        source = open_source(tmp_path / form)
        digests[form] = source.digest
        copied = make_copy(source, tmp_path / f"{form}-out", 0.5, None, "fixed:2a", 0)
        digests[f"{form} sanitized"] = copied["sanitized_digest"]
        assert (tmp_path / f"{form}-out" / name).is_file()
        np.savez(tmp_path / f"{form}.npz", images=np.stack([PIXELS] * 2), labels=[0, 1], ids=[name, "z/0.png"])
        digests[f"{form} array"] = load(tmp_path / f"{form}.npz").digest
    assert len({digests["NFC"], digests["NFD"], digests["NFC array"], digests["NFD array"]}) == 1
    assert digests["NFC sanitized"] == digests["NFD sanitized"]


def test_a_name_that_is_not_utf8_is_named(root):
    os.rename(os.fsencode(put(root / "cat" / "x.png")), os.fsencode(root / "cat") + b"/caf\xe9.png")  # noqa: PTH104
    with pytest.raises(InputError, match=r"cat/caf\\udce9.png .*\(its name is not UTF-8; rename it\)"):
        open_source(root)
    assert open_source(root, SKIP).skipped[0].path == "cat/caf\\udce9.png"


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP", "AVIF"])
def test_every_orientation_is_turned_once_in_every_format(form, tmp_path):
    pixels = np.zeros((16, 32), np.uint8)
    pixels[:8, :8] = 255  # one corner
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = put(tmp_path / "x", pixels, format=form, exif=exif)
        plain = pixels.T if orientation >= 5 else pixels
        corner = {1: (0, 0), 2: (0, -1), 3: (-1, -1), 4: (-1, 0), 5: (0, 0), 6: (0, -1), 7: (-1, -1), 8: (-1, 0)}
        read = read_picture(path, 1)[..., 0]
        assert read.shape == look_at(path)[:2] == plain.shape
        corners = {(y, x): int(read[y, x]) for y in (0, -1) for x in (0, -1)}
        assert max(corners, key=corners.__getitem__) == corner[orientation]


def test_exif_that_makes_no_sense_costs_no_image(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = put(tmp_path / "x.jpg", format="JPEG", exif=exif)
    content = path.read_bytes()
    for damage in (b"Exif\0\0MM\0\x2a\xff\xff\xff\xff", b"Exif\0\0garbage....."):
        start = content.index(b"Exif\0\0")
        path.write_bytes(content[:start] + damage + content[start + len(damage) :])
        assert read_picture(path, 3).shape == (*look_at(path)[:2], 3)


def test_values_beyond_sixteen_bits_are_not_cut_without_a_word(tmp_path):
    path = put(tmp_path / "x.tif", np.array([[0, 70_000]], np.int32), format="TIFF")
    with pytest.raises(InputError, match="its values run from 0 to 70000, which fit neither 8 nor 16 bits"):
        read_picture(path, 1)


def test_a_users_folders_are_read_in_the_same_way(root, tmp_path):
    for name in ("raw", "test"):
        for label in ("a", "b"):
            put(tmp_path / name / label / "0.bmp", format="BMP")
    assert incoming(tmp_path)["raw"].ids == ("a/0.bmp", "b/0.bmp")
    (tmp_path / "raw" / "a" / "notes.txt").write_text("x")
    with pytest.raises(
        InputError, match=r"raw/a/notes.txt cannot be read as an image .*; repair, convert or remove it$"
    ):
        incoming(tmp_path)
