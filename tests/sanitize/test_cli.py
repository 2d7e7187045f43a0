"""`python -m sanitize` as somebody else's pipeline calls it."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import ImageFolder

from cleanlabel.sanitize import errors
from cleanlabel.sanitize.__main__ import main
from cleanlabel.sanitize.imageset import load, save_npz

EARLIER = '{"raw_digest": "an earlier copy"}'
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def run(monkeypatch, capfd):
    """Call the command as its entry point does; returns (exit status, what it said on stderr)."""

    def call(*flags: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["sanitize", *map(str, flags)])
        try:
            errors.run(main)
        except SystemExit as stopped:
            said = f"{capfd.readouterr().err}{stopped.code}"
            return (1 if isinstance(stopped.code, str) else int(stopped.code or 0)), said
        return 0, capfd.readouterr().err

    return call


def test_the_command_itself_ends_in_a_sentence_and_a_status(tmp_path):
    command = [
        sys.executable,
        "-m",
        "sanitize",
        "--input",
        "nowhere",
        "--output",
        str(tmp_path / "out"),
        "--sigma",
        "1",
    ]
    failed = subprocess.run([*command, "--noise-only"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (failed.returncode, failed.stdout) == (1, "")
    assert failed.stderr == "error: nowhere does not exist; give a .npz file or a folder root/<class>/<image>\n"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    for label in ("cat", "ein hund"):
        (tmp_path / "in" / label).mkdir(parents=True)
        for i in range(4):
            pixels = generator.integers(0, 256, (8, 8), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "in" / label / f"{i}.png")
    return tmp_path / "in"


def test_a_folder_comes_back_in_its_own_form_and_can_be_made_again(run, images, denoiser_dir, tmp_path):
    status, said = run("--input", images, "--output", tmp_path / "out", "--denoiser", denoiser_dir, "--sigma", 0.5)
    assert status == 0, said
    before, after = ImageFolder(str(images)), ImageFolder(str(tmp_path / "out"))
    assert before.classes == after.classes
    names = [
        [(Path(p).relative_to(root), y) for p, y in d.samples]
        for d, root in ((before, images), (after, tmp_path / "out"))
    ]
    assert names[0] == names[1]

    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["raw_digest"] == load(images).digest
    assert manifest["sanitized_digest"] == load(tmp_path / "out").digest
    assert (manifest["sigma"], manifest["timestep"], manifest["draw"]) == (0.5, 259, 0)
    assert manifest["entropy_source"] == "os"

    entropy = f"fixed:{manifest['entropy']}"
    flags = ("--denoiser", denoiser_dir, "--sigma", 0.5, "--entropy", entropy)
    status, said = run("--input", images, "--output", tmp_path / "again", *flags)
    assert status == 0, said
    assert load(tmp_path / "again").digest == manifest["sanitized_digest"]


def test_an_array_comes_back_as_an_array_and_a_second_run_draws_other_noise(run, small_set, denoiser_dir, tmp_path):
    save_npz(small_set, tmp_path / "in.npz")
    flags = ("--input", tmp_path / "in.npz", "--output", tmp_path / "out.npz", "--denoiser", denoiser_dir, "--sigma", 1)
    assert run(*flags)[0] == 0
    first = load(tmp_path / "out.npz")
    assert (first.ids, first.labels.tolist()) == (small_set.ids, small_set.labels.tolist())
    assert run(*flags)[0] == 0  # an earlier copy may be replaced
    assert load(tmp_path / "out.npz").digest != first.digest


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        (
            {"--sigma": 25},
            "--sigma=25 is above 4, the largest noise accepted in [0,1] pixel units; is it meant in 0..255",
        ),
        ({"--sigma": 1000}, "Then give 3.92 (1000/255)"),
        ({"--sigma": -1}, "--sigma=-1 is not a valid noise level"),
        ({"--sigma": "nan"}, "sigma=nan is not a valid noise level"),
        ({"--denoiser": "data/no-denoiser"}, "the denoiser directory data/no-denoiser does not exist"),
        ({"--input": "nowhere"}, "nowhere does not exist"),
        ({"--entropy": "guess"}, "entropy='guess' is neither 'os' nor"),
        ({"--draw": -3}, "--draw -3 is not the number of a draw"),
        ({"--output": "x.npz"}, "--output x.npz must be a folder"),
    ],
)
def test_bad_input_ends_in_one_sentence_and_leaves_the_earlier_copy(
    run, images, denoiser_dir, tmp_path, changed, sentence
):
    flags = {"--input": images, "--output": tmp_path / "out", "--denoiser": denoiser_dir, "--sigma": 0.5}
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "manifest.json").write_text(EARLIER)
    status, said = run(*(item for pair in (flags | changed).items() for item in pair))
    assert status == 1
    assert sentence in said
    assert said.strip().splitlines()[-1].startswith("error: ")
    assert "Traceback" not in said
    assert (tmp_path / "out" / "manifest.json").read_text() == EARLIER
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "out"]


def test_a_truncated_image_ends_in_one_sentence(run, images, denoiser_dir, tmp_path):
    victim = images / "cat" / "0.png"
    victim.write_bytes(victim.read_bytes()[:70])
    status, said = run("--input", images, "--output", tmp_path / "out", "--denoiser", denoiser_dir, "--sigma", 0.5)
    assert status == 1
    assert f"{victim} cannot be read as an image" in said
    assert "Traceback" not in said
    assert not (tmp_path / "out").exists()


def test_shards_are_put_together_by_the_last(run, images, denoiser_dir, tmp_path):
    flags = ("--input", images, "--output", tmp_path / "out", "--denoiser", denoiser_dir, "--sigma", 0.5)
    assert run(*flags, "--shard", "2/2")[0] == 0
    assert not (tmp_path / "out").exists()
    assert run(*flags, "--shard", "1/2")[0] == 0
    assert len(list((tmp_path / "out").rglob("*.png"))) == 8
    assert run(*flags, "--shard", "5/2") == (
        1,
        "error: --shard 5/2 is not a valid part; give i/N with i from 1 to N, for example 2/3",
    )


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(images, denoiser_dir, tmp_path, monkeypatch, capfd):
    flags = ("--input", images, "--output", tmp_path / "out", "--denoiser", denoiser_dir, "--sigma", 0.5, "--dry-run")
    monkeypatch.setattr(sys, "argv", ["sanitize", *map(str, flags)])
    before = sorted(p.name for p in tmp_path.iterdir())
    main()
    said = capfd.readouterr().out
    assert "8 images, 8x8, 1 channel(s), 2 classes" in said
    assert "sigma 0.5, timestep 259, fit exact, network in " in said
    assert "images/s, by a short calibration" in said
    assert "MB for the copy" in said
    assert sorted(p.name for p in tmp_path.iterdir()) == before


HOSTILE = {
    "zero bytes": b"",
    "no image": b"GIF89a but not really",
    "a header of 50,000 x 50,000": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\xc3P\0\0\xc3P\x08\x02\0\0\0"
    + b"\x85\x1b\x9c\xb8",
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_file_ends_in_one_sentence_with_nothing_half_written(run, images, denoiser_dir, tmp_path, what):
    victim = images / "cat" / "x.png"
    victim.write_bytes(HOSTILE[what])
    status, said = run("--input", images, "--output", tmp_path / "out", "--denoiser", denoiser_dir, "--sigma", 0.5)
    assert status == 1
    assert f"{victim} cannot be read as an image" in said
    assert "Traceback" not in said
    assert not (tmp_path / "out").exists()


def test_names_from_anywhere_come_back_as_they_were(run, images, denoiser_dir, tmp_path):
    names = ["mit leerzeichen.png", 'it\'s "quoted".png', "zeile\numbruch.png", "изображение.png", "画像.PNG"]
    for name in names:
        (images / "cat" / "0.png").rename(images / "cat" / "tmp")
        (images / "cat" / name).write_bytes((images / "cat" / "tmp").read_bytes())
        (images / "cat" / "tmp").rename(images / "cat" / "0.png")
    status, said = run("--input", images, "--output", tmp_path / "out", "--denoiser", denoiser_dir, "--sigma", 0.5)
    assert status == 0, said
    assert sorted(p.name for p in (tmp_path / "out" / "cat").iterdir()) == sorted(
        p.name for p in (images / "cat").iterdir()
    )


def test_an_output_that_cannot_be_written_is_one_sentence(run, images, denoiser_dir):
    flags = ("--input", images, "--denoiser", denoiser_dir, "--sigma", 0.5)
    for output in ("/proc/nowhere/out", f"{images}/cat/0.png/out"):
        status, said = run(*flags, "--output", output)
        assert status == 1
        assert said.strip().splitlines()[-1].startswith("error: ")
        assert "Traceback" not in said


def test_something_else_is_never_overwritten(run, images, denoiser_dir, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    status, said = run("--input", images, "--output", tmp_path / "out", "--denoiser", denoiser_dir, "--sigma", 0.5)
    assert status == 1
    assert "exists and is not an earlier copy" in said
    status, said = run("--input", images, "--output", images, "--denoiser", denoiser_dir, "--sigma", 0.5)
    assert "would overwrite the input" in said
    status, said = run("--input", images, "--output", images / "out", "--denoiser", denoiser_dir, "--sigma", 0.5)
    assert "lies inside the input" in said
    assert not (images / "out").exists()
