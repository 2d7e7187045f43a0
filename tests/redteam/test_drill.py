"""The drill: crafted, injected, sanitized, trained, asked; kept target by target; told in tables and pictures."""

import csv
import json
import math
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from filled import filled
from PIL import Image
from redteam_sets import digit_sets
from scipy.stats import binomtest
from tiny import save_tiny_denoiser

from cleanlabel.redteam import __main__ as command
from cleanlabel.redteam.drill.drill import Drill
from cleanlabel.redteam.drill.params import checked
from cleanlabel.redteam.drill.prepare import prepared
from cleanlabel.redteam.drill.report import read_summaries
from cleanlabel.redteam.drill.rows import interval, radius_limit
from cleanlabel.redteam.drill.run import run_drill
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.imageset import save_npz

FEW = {
    "attack": "bullseye",
    "settings": {"steps": "40"},
    "targets": 3,
    "sigma": [0.0, 0.5],
    "poisons": 12,
    "epsilon_255": 128.0,
    "entropy": "fixed:7",
    "recipe": {"epochs": 8, "width": 64},
}


def drill(**others) -> Drill:
    return prepared(checked(FEW | others))


def test_undefended_the_attack_succeeds_and_everything_is_written(project):
    found = run_drill(drill(), Path("out"))
    undefended, sanitized = found.rows
    assert undefended.sigma == 0
    assert undefended.success >= 2 / 3
    assert undefended.control == 0
    assert undefended.low < undefended.success <= undefended.high
    assert undefended.accuracy > 0.85
    assert undefended.radius_limit == 0
    assert sanitized.radius_limit == pytest.approx(0.5 * 1.452, rel=1e-3)
    assert undefended.joint_l2 == sanitized.joint_l2 <= np.sqrt(12 * 64) * 128 / 255
    table = Path("out/table.md").read_text()
    assert f"| ({100 * undefended.accuracy:.1f}) {100 * undefended.success:.1f} |" in table
    assert "Two claims." in table
    rows = list(csv.DictReader(Path("out/table.csv").read_text().splitlines()))
    assert [float(row["sigma"]) for row in rows] == [0.0, 0.5]
    assert float(rows[0]["success"]) == pytest.approx(undefended.success, rel=1e-4)
    with Image.open(found.files[-1]) as picture:
        assert picture.width > 800


def test_a_drill_that_was_cut_off_goes_on_without_crafting_again(project):
    first = run_drill(drill(), Path("out"))
    state = next(Path("data/redteam").iterdir())
    lost = first.cells[-1].setup
    next((state / lost).glob("sigma-0.5-*.json")).unlink()
    kept = {p: p.stat().st_mtime_ns for p in state.rglob("*") if p.is_file()}
    again = run_drill(drill(), Path("out"))
    strip = {"sanitize_seconds", "train_seconds"}
    for a, b in zip(filled(first.cells), again.cells, strict=True):
        assert {k: v for k, v in vars(a).items() if k not in strip} == {
            k: v for k, v in vars(b).items() if k not in strip
        }
    assert all(path.stat().st_mtime_ns == time for path, time in filled(kept.items()))


def test_more_targets_and_sigmas_go_on_from_the_first_ones(project):
    run_drill(drill(targets=1, sigma=[0.0]), Path("out"))
    state = next(Path("data/redteam").iterdir())
    before = (state / "drill.json").read_bytes()
    found = run_drill(drill(targets=2, sigma=[0.0, 1.0]), Path("out"))
    assert len(found.cells) == 4
    assert [p.name for p in Path("data/redteam").iterdir()] == [state.name]
    assert (state / "drill.json").read_bytes() == before


def test_another_budget_recipe_or_set_is_another_drill(project):
    states = {
        drill(**change).state for change in ({}, {"poisons": 13}, {"epsilon_255": 64.0}, {"recipe": {"width": 8}})
    }
    assert len(states) == 4


def test_an_ensemble_stands_beside_with_the_radii_it_certifies(project):
    found = run_drill(drill(targets=2, sigma=[0.5], ensemble=12), Path("out"))
    (row,) = found.rows
    assert row.models == 12
    assert row.radius_limit == pytest.approx(radius_limit(12, 0.5, 0.001))
    assert 0 <= row.radius <= row.radius_limit
    assert "median of the targets" in Path("out/table.md").read_text()


def test_the_adaptive_attacker_crafts_for_each_sigma_by_itself(project):
    found = run_drill(
        drill(targets=1, sigma=[0.0, 0.5, 1.0], adaptive=True, chances=1, settings={"steps": "5"}), Path("out")
    )
    state = next(Path("data/redteam").iterdir())
    names = {p.name for p in state.rglob("poisons*.npz")}
    assert sorted(name.rpartition("-")[0] for name in names) == ["", "poisons-through-0.5", "poisons-through-1"]
    assert len({cell.joint_l2 for cell in found.cells}) == 3
    assert "adaptive" in found.name


@pytest.mark.parametrize("scenario", ["fine-tune", "scratch"])
def test_the_other_scenarios_run_as_well(project, scenario):
    found = run_drill(drill(targets=1, scenario=scenario, settings={"steps": "5"}), Path("out"))
    assert [row.targets for row in found.rows] == [1, 1]
    assert found.rows[0].accuracy > 0.7
    assert read_summaries(Path("out"))[0]["scenario"] == scenario


def test_black_box_poisons_are_crafted_on_another_architecture(project):
    found = run_drill(
        drill(targets=1, scenario="scratch", known=["linear"], settings={"steps": "5"}, sigma=[0.0]), Path("out")
    )
    assert found.summary["knowledge"] == "black-box"
    assert "black-box" in found.name


def test_a_target_that_is_misclassified_anyway_is_left_out_and_said(project):
    test = digit_sets()["test"]
    wrong = (test.labels + 1) % 10
    save_npz(replace(test, labels=np.where(np.arange(len(test)) < 299, wrong, test.labels)), Path("data/test.npz"))
    said: list[str] = []
    with pytest.raises(InputError, match=r"of 300 targets can be attacked .* but --targets is 3; lower it"):
        drill().chosen(said.append)
    assert len(said) >= 290
    assert "without an attack; left out" in said[0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"attack": "frog"}, "attack 'frog' is unknown; choose one of frogs, convex, bullseye"),
        ({"settings": {"step": "3"}}, "attack bullseye has no setting 'step'; it has steps, rate, aim"),
        ({"settings": {"steps": "many"}}, "setting steps='many' of attack bullseye is no int"),
        ({"settings": {"aim": "nan"}}, "setting aim='nan' of attack bullseye is not finite; give a number"),
        (
            {"attack": "witches-brew", "settings": {"flip": "maybe"}},
            "flip=.maybe. of attack witches-brew is neither",
        ),
        ({"epsilon_255": 0.5}, r"epsilon=0.00196078 \(0.5/255\) cannot change a pixel"),
        ({"sigma": [1e9]}, "above 4, the largest noise accepted"),
        ({"recipe": {"epoch": 3}}, "recipe.epoch=3: extra inputs are not permitted"),
        ({"extractor": "gone.safetensors"}, "gone.safetensors does not exist"),
        ({"denoiser": "./gone"}, "the denoiser directory ./gone does not exist"),
        ({"setups": "x.json"}, "--setups x.json is for a published set; name it with --data"),
        ({"poisons": 99}, r"99 poisons are more than class '\d' has images \(\d+\); lower the count"),
        (
            {"data": "cifar10", "setups": "x", "attack": "sleeper-agent", "settings": {}},
            "the backdoor sleeper-agent has",
        ),
        ({"data": "cifar10"}, "--images 0 takes the whole published set"),
        ({"data": "cifar10", "images": 10}, "let torchvision download cifar10 into"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_begun(project, change, words):
    with pytest.raises(InputError, match=words):
        drill(**change)
    assert not Path("data/redteam").exists()


def test_a_pipeline_that_has_not_run_is_named_with_the_command_that_runs_it(project):
    shutil.rmtree("data/denoiser")
    with pytest.raises(InputError, match=r"data/denoiser does not exist; run `dvc repro denoiser` first"):
        drill()
    Path("data/raw.npz").unlink()
    with pytest.raises(InputError, match=r"data/raw.npz does not exist; run `dvc repro ingest denoiser` first"):
        drill()


def test_a_bad_param_is_refused_by_name():
    with pytest.raises(InputError, match=r"targets=0: input should be greater than or equal to 1"):
        checked(FEW | {"targets": 0})
    with pytest.raises(InputError, match=r"sigma.0=-1.0: input should be greater than or equal to 0"):
        checked(FEW | {"sigma": [-1.0]})


def test_the_command_does_all_that_and_says_where(project, monkeypatch, capsys):
    flags = "--attack bullseye --set steps=20 --targets 1 --sigma 0 --poisons 12 --epsilon 128 --recipe epochs=8"
    monkeypatch.setattr(sys, "argv", ["redteam", *flags.split(), "--output", "out", "--device", "cpu"])
    command.main()
    said = capsys.readouterr().out
    assert "| 0 | 1 |" in said
    assert "out: table.md, table.csv, bullseye-transfer-pipeline.json and bullseye-transfer-pipeline.png" in said
    assert json.loads(Path("out/bullseye-transfer-pipeline.json").read_text())["poisons"] == 12


def test_the_interval_is_clopper_and_pearsons():
    for k, n in ((0, 10), (3, 10), (10, 10), (85, 100)):
        exact = binomtest(k, n).proportion_ci(0.95, "exact")
        assert interval([1.0] * k + [0.0] * (n - k)) == pytest.approx((exact.low, exact.high))
    low, high = interval([0.5, 0.25, 0.75])
    assert 0 < low < 0.5 < high < 1


def files() -> dict[Path, int]:
    """What drills keep, and when it was written."""
    return {path: path.stat().st_mtime_ns for path in Path("data/redteam").rglob("*") if path.is_file()}


SUMS = {"recipe": {"head": "bounded-influence", "epochs": 8, "width": 32}, "draws": 2, "targets": 1, "sigma": [0.25]}


def test_features_and_instruments_of_another_extractor_noise_or_denoiser_are_not_taken(project):
    def kept(sigma: float = 0.25, **changes: object) -> tuple[int, int]:
        """How many instruments and files of features there are after these were asked for, and asked for again."""
        one = drill(**(SUMS | changes))
        found = one.summed(one.test, sigma, 0).head(one.test_features)
        before = files()
        again = drill(**(SUMS | changes))
        assert (again.summed(again.test, sigma, 0).head(again.test_features) == found).all()
        assert files() == before
        names = [path.as_posix() for path in before]
        return sum("/instruments/" in name for name in names), sum("/copies-" in name for name in names)

    assert kept() == (1, 1)
    assert kept(recipe=SUMS["recipe"] | {"influence_clip": 0.9}) == (2, 1)
    assert kept(recipe=SUMS["recipe"] | {"epochs": 9}) == (3, 2)
    assert kept(recipe=SUMS["recipe"] | {"width": 48}) == (4, 3)  # with more features
    assert kept(seed=1) == (5, 4)
    assert kept(math.nextafter(0.25, 1)) == (6, 5)
    assert kept(0.0) == (7, 6)
    assert kept(entropy="fixed:8") == (7, 7)  # instruments are fitted under public noise
    save_tiny_denoiser(Path("data/denoiser"), beta_schedule="squaredcos_cap_v2")
    assert kept() == (8, 8)
    assert kept(0.0) == (8, 8)  # nothing is denoised
    trusted = digit_sets()["trusted"]
    save_npz(trusted.take(np.arange(len(trusted))[::-1]), Path("data/trusted.npz"))
    assert kept() == (9, 9)


def test_cells_votes_and_poisons_of_another_noise_are_not_taken(project):
    one = drill(targets=1, sigma=[0.5], adaptive=True, chances=1, settings={"steps": "2"})
    run_drill(one, Path("out"))
    [setup] = list(one.state.glob("*/"))
    assert len([*setup.glob("sigma-*")]) == len([*setup.glob("poisons-*")]) == 1
    near = drill(targets=1, sigma=[math.nextafter(0.5, 1)], adaptive=True, chances=1, settings={"steps": "2"})
    assert near.state == one.state
    run_drill(near, Path("out"))
    assert len([*setup.glob("sigma-*")]) == len([*setup.glob("poisons-*")]) == 2
    clean, asked = one.test, one.test.images[:3]
    for votes, (images, sigma, shown) in enumerate(
        (
            (clean, 0.5, asked),
            (clean, 0.25, asked),
            (clean, math.nextafter(0.25, 1), asked),
            (clean.take(np.arange(len(clean))[::-1]), 0.25, asked),
            (clean, 0.25, asked[:2]),
        )
    ):
        first = one.vote(images, shown, sigma, 0)
        before = files()
        assert (one.vote(images, shown, sigma, 0) == first).all()
        assert files() == before
        assert len([*one.state.glob("ensemble-*/*.npy")]) == votes + 1


def test_the_same_sets_in_another_order_are_another_drill(project):
    first = drill()
    assert drill().state == first.state
    for name in ("raw", "test"):
        images = digit_sets()[name]
        save_npz(images.take(np.arange(len(images))[::-1]), Path(f"data/{name}.npz"))
    other = drill()
    assert other.test.digest == first.test.digest
    assert other.state != first.state
