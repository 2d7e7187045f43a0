"""A copy in the making: block after block, killed and resumed, shared among processes; the same bytes each time."""

import hashlib
import json
import os
import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets import ImageFolder

from cleanlabel.sanitize import stream
from cleanlabel.sanitize.copies import make_copy, manifest_path
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.imageset import ImageSet, load, save_folder, save_npz
from cleanlabel.sanitize.pictures import write_picture
from cleanlabel.sanitize.sources import Source, open_source
from cleanlabel.sanitize.stream import Shard, parse_shard

FIXED = "fixed:2a"


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(stream, "BLOCK_BYTES", 5 * 64)  # five images


@pytest.fixture(params=["npz", "folder"])
def source(request, small_set: ImageSet, tmp_path: Path) -> Source:
    if request.param == "npz":
        save_npz(small_set, tmp_path / "in.npz")
        return open_source(tmp_path / "in.npz")
    ids = tuple(f"{small_set.classes[y]}/{i}.jpg" for i, y in zip(small_set.ids, small_set.labels, strict=True))
    save_folder(ImageSet(small_set.images, small_set.labels, ids, small_set.classes), tmp_path / "in")
    return open_source(tmp_path / "in")


def place(source: Source, folder: Path) -> Path:
    return folder / ("out.npz" if source.form == "npz" else "out")


def bytes_of(output: Path) -> str:
    """sha256 over every file of a copy, its manifest included."""
    files = sorted(p for p in output.rglob("*") if p.is_file()) if output.is_dir() else [output, manifest_path(output)]
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.relative_to(output.parent)}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def made(source: Source, output: Path, denoiser=None, **options: object) -> dict:
    content = make_copy(source, output, 0.5, denoiser, FIXED, 0, **options)
    assert content is not None
    return content


def test_a_copy_has_the_form_order_names_and_labels_of_the_original(source, denoiser, tmp_path):
    output = place(source, tmp_path)
    content = made(source, output, denoiser)
    copy = open_source(output)
    assert (copy.ids, copy.classes, copy.channel_axis) == (source.ids, source.classes, source.channel_axis)
    np.testing.assert_array_equal(copy.labels, source.labels)
    assert content["sanitized_digest"] == copy.digest != source.digest == content["raw_digest"]
    assert json.loads(manifest_path(output).read_text()) == content
    assert not output.with_name(f"{output.name}.partial").exists()
    if source.form == "folder":
        names = [
            [(Path(p).relative_to(root), y) for p, y in ImageFolder(root).samples] for root in (tmp_path / "in", output)
        ]
        assert names[0] == names[1]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_any_number_of_shards_gives_the_same_bytes(source, denoiser, tmp_path, count):
    (tmp_path / "whole").mkdir()
    made(source, place(source, tmp_path / "whole"), denoiser)
    (tmp_path / "parts").mkdir()
    output = place(source, tmp_path / "parts")
    for index in range(1, count + 1):
        content = make_copy(source, output, 0.5, denoiser, FIXED, 0, shard=Shard(index, count))
        assert (content is None) is (index < count)
        assert output.exists() is (index == count)
    assert bytes_of(output) == bytes_of(place(source, tmp_path / "whole"))


def test_the_size_of_a_block_changes_no_byte(source, denoiser, tmp_path, monkeypatch):
    outputs = []
    for size in (64, 7 * 64, 1 << 22):
        monkeypatch.setattr(stream, "BLOCK_BYTES", size)
        (tmp_path / str(size)).mkdir()
        made(source, place(source, tmp_path / str(size)), denoiser)
        outputs.append(bytes_of(place(source, tmp_path / str(size))))
    assert len(set(outputs)) == 1


def test_a_run_killed_at_random_moments_goes_on_and_redoes_at_most_a_block(source, tmp_path, monkeypatch):
    (tmp_path / "whole").mkdir()
    made(source, place(source, tmp_path / "whole"))
    output, generator = place(source, tmp_path), random.Random(source.form)
    log = tmp_path / "log"
    plain = stream.Copy._begin

    def slow(self, work, images, rows, entropy):
        with log.open("a") as lines:
            lines.write(f"{rows.start}\n")
        time.sleep(0.03)
        return plain(self, work, images, rows, entropy)

    monkeypatch.setattr(stream.Copy, "_begin", slow)
    kills = 0
    while kills < 5:
        child = os.fork()
        if child == 0:
            make_copy(source, output, 0.5, None, FIXED, 0)
            os._exit(0)
        time.sleep(generator.uniform(0.01, 0.08))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            break
        kills += 1
        assert not output.exists()
    if not output.exists():
        made(source, output)
    assert kills >= 2
    assert bytes_of(output) == bytes_of(place(source, tmp_path / "whole"))
    blocks = -(-24 // 5)
    assert len(log.read_text().split()) <= blocks + kills  # each kill costs the block it fell into


def test_two_runs_on_one_output_refuse_each_other(source, tmp_path):
    output = place(source, tmp_path)
    copy = stream.Copy(source, output, {})
    with (
        copy._locked("whole"),
        pytest.raises(InputError, match="another process is working on .*out.* already; wait for it"),
    ):
        made(source, output)
    with copy._locked("whole", shared=True), copy._locked("shard-1-of-3"):
        with pytest.raises(InputError, match="another process is working on shard 1 of 3 of .*out"):
            make_copy(source, output, 0.5, None, FIXED, 0, shard=Shard(1, 3))
        assert make_copy(source, output, 0.5, None, FIXED, 0, shard=Shard(2, 3)) is None


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"sigma": 0.25}, "holds an unfinished copy with sigma=0.5, not 0.25; finish it as it was begun, or remove"),
        ({"draw": 3}, "holds an unfinished copy with draw=0, not 3"),
        ({"entropy": "fixed:07"}, "holds an unfinished copy with entropy="),
    ],
)
def test_a_begun_copy_is_never_finished_as_another(source, tmp_path, change, sentence):
    output = place(source, tmp_path)
    flags = {"sigma": 0.5, "denoiser": None, "entropy": "os", "draw": 0}
    assert make_copy(source, output, **flags, shard=Shard(1, 2)) is None
    with pytest.raises(InputError, match=sentence):
        make_copy(source, output, **(flags | change))
    content = make_copy(source, output, **flags)  # `os` goes on with the entropy that was drawn
    assert content["entropy_source"] == "os"


def test_a_changed_input_does_not_go_on(small_set, tmp_path):
    save_npz(small_set, tmp_path / "in.npz")
    assert (
        make_copy(open_source(tmp_path / "in.npz"), tmp_path / "out.npz", 0.5, None, FIXED, 0, shard=Shard(1, 2))
        is None
    )
    save_npz(small_set.with_images(255 - small_set.images), tmp_path / "in.npz")
    with pytest.raises(InputError, match="holds an unfinished copy with raw_digest="):
        make_copy(open_source(tmp_path / "in.npz"), tmp_path / "out.npz", 0.5, None, FIXED, 0)


def test_the_same_images_in_another_order_do_not_go_on(small_set, tmp_path):
    # they have the same digest, and blocks of both orders would give images other images' labels
    save_npz(small_set, tmp_path / "in.npz")
    assert (
        make_copy(open_source(tmp_path / "in.npz"), tmp_path / "out.npz", 0.5, None, FIXED, 0, shard=Shard(1, 2))
        is None
    )
    save_npz(small_set.take(np.arange(24)[::-1]), tmp_path / "in.npz")
    with pytest.raises(InputError, match="an unfinished copy of the same images in another order; finish it as it"):
        make_copy(open_source(tmp_path / "in.npz"), tmp_path / "out.npz", 0.5, None, FIXED, 0)


def test_a_copy_is_made_by_one_version_of_the_program(small_set, tmp_path, code):
    save_npz(small_set, tmp_path / "in.npz")
    source, output = open_source(tmp_path / "in.npz"), tmp_path / "out.npz"
    assert make_copy(source, output, 0.5, None, FIXED, 0, shard=Shard(1, 2)) is None
    module = code / "sanitize" / "noise.py"
    before = module.read_bytes()
    module.write_bytes(before + b"\n")
    other = "an unfinished copy begun by another version of this program or its libraries; finish it as it was begun"
    with pytest.raises(InputError, match=other):
        make_copy(source, output, 0.5, None, FIXED, 0)
    module.write_bytes(before)
    assert make_copy(source, output, 0.5, None, FIXED, 0, shard=Shard(1, 2)) is None
    job = tmp_path / "out.npz.partial" / "job.json"
    earlier = {key: value for key, value in json.loads(job.read_text()).items() if key not in ("program", "order")}
    job.write_text(json.dumps(earlier))  # as a version that did not say so wrote it
    with pytest.raises(InputError, match=other):
        make_copy(source, output, 0.5, None, FIXED, 0)


def test_a_full_disk_leaves_the_earlier_copy_and_a_run_that_goes_on(source, tmp_path, monkeypatch):
    output = place(source, tmp_path)
    made(source, output)
    before = bytes_of(output)
    name = "_write_array" if source.form == "npz" else "_write_pictures"
    plain, written = getattr(stream.Copy, name), []

    def full(self, which, made):
        if which in (2, range(10, 15)) and not written:
            written.append(which)
            raise OSError(28, "No space left on device", str(self.partial))
        plain(self, which, made)

    monkeypatch.setattr(stream.Copy, name, full)
    with pytest.raises(OSError, match="No space left on device"):
        make_copy(source, output, 0.25, None, FIXED, 0)
    assert bytes_of(output) == before
    assert make_copy(source, output, 0.25, None, FIXED, 0)["sigma"] == 0.25
    assert bytes_of(output) != before


@pytest.mark.parametrize("moment", ["before the work folder is removed", "while it is being removed"])
def test_a_kill_at_the_very_end_loses_nothing_and_leaves_nothing_to_believe(source, tmp_path, monkeypatch, moment):
    output = place(source, tmp_path)
    made(source, output)
    with monkeypatch.context() as patch:
        where, name = (stream.Path, "unlink") if moment.startswith("before") else (stream.shutil, "rmtree")
        plain = getattr(where, name)

        def killed(path: Path, *args: object, **kwargs: object) -> None:
            if Path(path).name in ("job.json", f"{output.name}.partial"):
                raise KeyboardInterrupt
            plain(path, *args, **kwargs)

        patch.setattr(where, name, killed)
        with pytest.raises(KeyboardInterrupt):
            make_copy(source, output, 0.25, None, FIXED, 0)
    finished = bytes_of(output)
    assert json.loads(manifest_path(output).read_text())["sanitized_digest"] == load(output).digest
    if moment.startswith("before"):
        assert make_copy(source, output, 0.25, None, FIXED, 0)["sigma"] == 0.25
        assert bytes_of(output) == finished
    made(source, output)  # another copy at the same place begins anew, with no block of the old one
    (tmp_path / "fresh").mkdir()
    made(source, place(source, tmp_path / "fresh"))
    assert bytes_of(output) == bytes_of(place(source, tmp_path / "fresh"))


def test_images_of_several_sizes_keep_their_own(tmp_path, denoiser):
    generator = np.random.default_rng(0)
    for i, (h, w) in enumerate([(8, 8), (16, 8), (11, 9), (16, 8), (30, 20), (8, 8)]):
        write_picture(generator.integers(0, 256, (h, w, 3), dtype=np.uint8), tmp_path / "in" / "ab"[i % 2] / f"{i}.png")
    source = open_source(tmp_path / "in")
    with pytest.raises(InputError, match="some of the images are 9x11, the denoiser takes 8x8"):
        make_copy(source, tmp_path / "out", 0.5, denoiser, FIXED, 0)
    for fit in ("resize", "tiles"):
        content = make_copy(source, tmp_path / fit, 0.5, denoiser, FIXED, 0, fit=fit)
        assert content["fit"]["mode"] == fit
        np.testing.assert_array_equal(open_source(tmp_path / fit).sizes, source.sizes)


@pytest.mark.parametrize("text", ["3", "4/3", "a/b", "1/0", "-1/2", "1/2/3"])
def test_a_shard_that_is_none_is_refused(text):
    with pytest.raises(InputError, match="is not a valid part; give i/N"):
        parse_shard(text)


def test_the_shards_share_the_blocks_and_no_two_names_stand_for_one():
    assert [list(parse_shard(f"{i}/3").blocks(8)) for i in (1, 2, 3)] == [[0, 3, 6], [1, 4, 7], [2, 5]]
    with pytest.raises(InputError, match="--shard 0/3 is not a valid part; give i/N with i from 1 to N"):
        parse_shard("0/3")
