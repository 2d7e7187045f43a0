"""What `dvc repro` will take is said before the long work begins, and leaves nothing behind."""

import re
from pathlib import Path

import pytest
from registered import make_sets, set_params

from cleanlabel.flows import estimate as module
from cleanlabel.sanitize.imageset import save_npz
from cleanlabel.sanitize.ingest import digits
from cleanlabel.sanitize.params import DenoiserParams, read_params
from cleanlabel.sanitize.paths import SETS
from cleanlabel.sanitize.pretrain import steps_for, train_denoiser

QUICK = {"channels": [8, 16], "steps": 30, "batch": 16}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory as the stage `ingest` leaves it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "BUDGET", 0.01)
    make_sets()
    save_npz(digits(40, 150, 0)["trusted"], SETS["trusted"])
    set_params(denoiser=QUICK, train={"width": 16, "epochs": 2}, smooth={"m": 30, "batch_of_draws": 5})
    return tmp_path


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_every_stage_has_a_time_and_nothing_is_written(project, capsys):
    before = files(project)
    module.main()
    said = capsys.readouterr().out
    assert re.findall(r"^  (\w+) +[\d.]+ (?:s|min|h) ", said, flags=re.MULTILINE) == [
        *("denoiser", "sanitize", "train", "smooth", "certify")
    ]
    assert "30 steps" in said
    assert "30 models" in said
    assert "refuse" not in said
    assert files(project) == before


def test_a_training_of_few_steps_is_timed_beyond_its_end(project, capsys, monkeypatch):
    monkeypatch.setattr(module, "BUDGET", 0.3)
    set_params(denoiser={"steps": 2})
    module.main()
    assert re.search(r"^  denoiser .* 2 steps$", capsys.readouterr().out, flags=re.MULTILINE)


def test_what_a_later_stage_will_refuse_is_said_and_stops_nothing(project, capsys):
    set_params(sanitize={"sigma": 0.5}, smooth={"m": 20})
    module.main()
    said = capsys.readouterr().out
    assert "The stage smooth will refuse this: the gate requires certified accuracy at R = 0.5" in said

    set_params(train={"width": 0})
    module.main()
    assert capsys.readouterr().out.startswith("No estimate of the time: param train.width=0")


def test_a_denoiser_that_takes_most_of_it_comes_with_a_smaller_one(project, capsys):
    set_params(denoiser={"channels": [16, 32], "steps": 10_000_000})
    module.main()
    said = capsys.readouterr().out
    assert "denoiser.channels: [8, 16] takes about" in said
    assert "With denoiser.steps: null it takes 800 steps, not 10,000,000." in said


def test_the_steps_follow_from_the_images_size_alone():
    assert [steps_for((side, side, 1)) for side in (4, 8, 12, 16, 28, 224)] == [800, 800, 533, 400, 400, 400]
    assert steps_for((32, 32, 3)) == steps_for((32, 32, 1))


def test_steps_that_are_chosen_give_the_network_of_the_same_number_written_out(project, monkeypatch):
    monkeypatch.setattr("cleanlabel.sanitize.pretrain.STEPS_8X8", 12)
    trusted = digits(40, 150, 0)["trusted"]
    made = []
    for steps in (None, 12):
        set_params(denoiser={"steps": steps})
        assert train_denoiser(trusted, read_params("denoiser", DenoiserParams), Path(f"made-{steps}")) == (12, None)
        made.append(files(project / f"made-{steps}"))
    assert made[0] == made[1]
    assert any(name.endswith(".safetensors") for name in made[0])
