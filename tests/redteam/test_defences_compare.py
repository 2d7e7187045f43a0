"""The comparison: the same poisons for all, kept cell by cell, told in one table with two kinds of certificate."""

import csv
import json
import sys
from pathlib import Path

import pytest
from filled import filled

from cleanlabel.redteam import compare
from cleanlabel.redteam.__main__ import parser
from cleanlabel.redteam.comparison.bench import Entry, forget_peak, peak_megabytes
from cleanlabel.redteam.comparison.report import PAPER
from cleanlabel.redteam.comparison.run import comparison, entries_for
from cleanlabel.redteam.defences import defence_named
from cleanlabel.redteam.drill.drill import Drill
from cleanlabel.redteam.drill.params import checked
from cleanlabel.redteam.drill.prepare import prepared
from cleanlabel.redteam.drill.run import run_drill
from cleanlabel.sanitize.errors import InputError

FEW = {
    "attack": "bullseye",
    "settings": {"steps": "40"},
    "targets": 2,
    "sigma": [0.5],
    "poisons": 12,
    "epsilon_255": 128.0,
    "entropy": "fixed:7",
    "recipe": {"epochs": 8, "width": 64},
}
NAMES = ["sanitize", "noise-only", "deep-knn", "gradient-noise", "dpa", "spectral"]
SETTINGS = ["dpa.partitions=9", "noise-only.models=2", "deep-knn.k=20"]


def drill(**others) -> Drill:
    return prepared(checked(FEW | others))


def test_every_defence_meets_the_same_poisons_and_stands_in_the_table(project):
    content = comparison(drill(), entries_for(NAMES, [0.5], SETTINGS), Path("out"))
    rows = {row["name"]: row for row in content["rows"]}
    assert list(rows) == ["none", *NAMES]
    assert rows["none"]["ratio"] == 1.0
    assert rows["none"]["loss"] == rows["none"]["success"] > 0
    for row in rows.values():
        assert row["targets"] == 2
        assert row["low"] <= row["success"] <= row["high"]
        assert row["loss"] == pytest.approx(row["success"] + rows["none"]["accuracy"] - row["accuracy"])
        assert (row["insertions"] is not None) == (row["name"] == "dpa")
        assert (row["radius"] is not None) == (row["name"] == "noise-only")  # one sanitized model is not certified
    assert rows["dpa"]["insertions_test"] >= 1
    assert rows["deep-knn"]["removed"] >= rows["deep-knn"]["poisons_removed"]
    assert {outcome["joint_l2"] for outcome in content["outcomes"] if outcome["defence"] == "none"} == {
        outcome["joint_l2"] for outcome in content["outcomes"]
    }
    table = Path("out/table.md").read_text()
    assert "a changed image is one removal and one insertion, so r changed images need 2r" in table
    assert "Beside the paper's Tables 4 and 5" in table
    assert "| sanitize, σ = 0.5 | (93.5) 0.0 |" in table
    assert "On success plus lost accuracy, sanitize, σ = 0.5" in table
    lines = list(csv.DictReader(Path("out/table.csv").read_text().splitlines()))
    assert [line["defence"] for line in lines] == [row["defence"] for row in rows.values()]
    assert lines[0]["insertions"] == lines[0]["radius"] == ""


def test_a_comparison_that_was_cut_off_goes_on_and_makes_nothing_again(project):
    entries = entries_for(["sanitize", "gradient-noise"], [0.5], [])
    first = comparison(drill(), entries, Path("out"))
    state = next(Path("data/redteam").iterdir())
    cells = sorted(state.glob("*/defence-gradient-noise-*.json"))
    assert len(cells) == 2
    cells[1].unlink()
    kept = {p: p.stat().st_mtime_ns for p in state.rglob("*") if p.is_file()}
    again = comparison(drill(), entries, Path("out"))
    assert all(path.stat().st_mtime_ns == time for path, time in filled(kept.items()))
    for a, b in zip(first["outcomes"], again["outcomes"], strict=True):
        assert (a["success"], a["accuracy"], a["defence"]) == (b["success"], b["accuracy"], b["defence"])
    changed = [Entry("gradient-noise", defence_named("gradient-noise", {"noise": "0.5"}))]
    comparison(drill(targets=1), [entries[0], *changed], Path("out"))
    assert len(list(state.glob("*/defence-gradient-noise-*.json"))) == 3  # another setting is another cell


@pytest.mark.slow
def test_sanitizing_and_no_defence_are_the_drill_s_own_cells(project):
    found = run_drill(drill(targets=1, sigma=[0.0, 0.5]), Path("drills"))
    content = comparison(drill(targets=1), entries_for(["sanitize"], [0.5], []), Path("out"))
    for cell, outcome in zip(found.cells, content["outcomes"], strict=True):
        assert (cell.success, cell.accuracy, cell.joint_l2) == (
            outcome["success"],
            outcome["accuracy"],
            outcome["joint_l2"],
        )


def test_the_command_compares_on_two_attacks_and_says_where(project, monkeypatch, capsys):
    flags = "--attack bullseye frogs --set steps=5 --targets 1 --poisons 12 --recipe epochs=2 --entropy fixed:7"
    flags += " --defences none deep-knn --with deep-knn.k=20 --output out --device cpu"
    monkeypatch.setattr(sys, "argv", ["compare", *flags.split()])
    compare.main()
    said = capsys.readouterr().out
    assert "## Bullseye Polytope, transfer" in said
    assert "## Poison Frogs, transfer" in said
    assert "`DeepKnn(k=20, normalise=False)`" in said
    assert "out: table.md, table.csv and one JSON per attack" in said
    assert json.loads(Path("out/frogs-transfer-pipeline.json").read_text())["poisons"] == 12


def test_backdoors_are_compared_on_all_images_with_the_trigger(project):
    content = comparison(
        drill(attack="hidden-trigger", targets=1, settings={"steps": "2"}),
        entries_for(["dpa"], [0.5], ["dpa.partitions=5"]),
        Path("out"),
    )
    assert 0 <= content["rows"][1]["success"] <= 1
    assert content["rows"][1]["insertions"] is not None


@pytest.mark.parametrize(
    ("names", "sigmas", "settings", "words"),
    [
        (["dpa"], [0.25], ["dpa.parts=3"], "defence dpa has no setting 'parts'; it has partitions"),
        (["dpa"], [0.25], ["roe.partitions=3"], r"'roe.partitions=3' is not DEFENCE.KEY=VALUE of one of dpa"),
        (["dpa"], [0.25], ["dpa.partitions"], "is not DEFENCE.KEY=VALUE"),
        (["noise-only"], [0.0], [], "noise-only needs noise: give --sigma numbers above 0"),
        (["knn"], [0.25], [], "defence 'knn' is unknown"),
    ],
)
def test_bad_entries_are_refused(names, sigmas, settings, words):
    with pytest.raises(InputError, match=words):
        entries_for(names, sigmas, settings)


def test_what_does_not_apply_is_refused_by_name_before_anything_is_crafted(project):
    with pytest.raises(InputError, match="adversarial-poisoning: adversarial-poisoning matches the gradients"):
        comparison(drill(), entries_for(["adversarial-poisoning"], [0.5], []), Path("out"))
    with pytest.raises(InputError, match="deep-knn: k=400 neighbours are out of range"):
        comparison(drill(), entries_for(["deep-knn"], [0.5], ["deep-knn.k=400"]), Path("out"))
    with pytest.raises(InputError, match="gives every defence the same poisons; leave --adaptive"):
        comparison(drill(adaptive=True), entries_for(["dpa"], [0.5], []), Path("out"))
    assert not list(Path("data/redteam").rglob("poisons*.npz"))


def test_the_peak_memory_is_that_since_it_was_forgotten():
    import torch

    device = torch.device("cpu")
    if not forget_peak(device):
        pytest.skip("the system does not say")
    before = peak_megabytes(device)
    block = bytearray(b"x" * (200 << 20))
    assert peak_megabytes(device) > before + 150
    del block
    forget_peak(device)
    assert peak_megabytes(device) < before + 100


def test_the_paper_s_cells_are_of_attacks_and_defences_that_exist():
    from cleanlabel.redteam.attacks import ATTACKS
    from cleanlabel.redteam.defences import DEFENCES

    assert all(attack in ATTACKS and defence in DEFENCES for attack, defence in PAPER)
    assert all(0 <= figure <= 100 for cell in PAPER.values() for figure in cell)


@pytest.mark.parametrize("made", [parser, compare.flags])
def test_the_commands_help_can_be_printed_and_names_every_flag(made):
    flags = made()
    printed = flags.format_help()
    assert all(option in printed for action in filled(flags._actions) for option in action.option_strings)
