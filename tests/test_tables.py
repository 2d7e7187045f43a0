"""The pages' tables and figures are the ones that their records give."""

import json
import re
from pathlib import Path

import pytest
from imports import ROOT

from benchmarks.common.record import RESULTS
from benchmarks.tables import features, records, scratch
from benchmarks.tables.pages import MADE, MARK, filled, pages
from cleanlabel.sanitize.errors import InputError

PAGES = pages(ROOT)
BY_NAME = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@BY_NAME
def test_a_page_has_the_figures_of_its_records(page):
    text = page.read_text()
    assert text == filled(text), "run `python -m benchmarks.tables`"


@BY_NAME
def test_every_mark_is_whole_and_leaves_the_line_as_markdown(page):
    text = page.read_text()
    assert len(re.findall(r"<!-- (?:table|figure):", text)) == len(MARK.findall(text)) == text.count("<!-- end -->")
    assert not re.findall(r"(?m)^\W*<!-- figure", text), "a line that begins with a comment is shown as it stands"


def test_everything_that_is_made_stands_on_a_page():
    assert {name for page in PAGES for _, name, _ in MARK.findall(page.read_text())} == set(MADE)


@pytest.mark.parametrize("page", [ROOT / "README.md", *(ROOT / "docs" / "results").glob("*.md")], ids=lambda p: p.name)
def test_no_measured_share_is_typed_on_a_page_of_results(page):
    typed = re.findall(r"(?<![\w.])0?\.\d{3}\b", MARK.sub("", page.read_text()))
    assert set(typed) <= {".001"}, "write it from its record, between marks"


def test_the_readmes_results_are_ten_at_most_and_lead_with_what_is_certified():
    rows = MADE["results"]().splitlines()[2:]
    assert len(rows) <= 10
    assert "targets covered" in rows[0]


def test_a_changed_record_changes_the_page_and_an_unknown_mark_is_named(tmp_path, monkeypatch):
    for path in RESULTS.glob("*.json"):
        (tmp_path / path.name).write_text(path.read_text())
    record = records.read("memory")
    record["peak_mb"]["50000"] += 1
    (tmp_path / "memory.json").write_text(json.dumps(record))
    monkeypatch.setattr(records, "RESULTS", tmp_path)
    page = (ROOT / "docs" / "results" / "sanitizing.md").read_text()
    assert f"{record['peak_mb']['50000']:,} MB" in filled(page) != page
    with pytest.raises(InputError, match="no table or figure is called 'memry'"):
        filled("<!-- table: memry --><!-- end -->")


def test_where_names_machine_gpu_and_day():
    facts = {"cpu": "Intel(R) Xeon(R) Processor", "cores": 2, "amx_bf16": True, "gpu": None}
    assert records.where({"machine": facts, "date": "2026-11-22"}) == (
        "2 cores of an Intel Xeon (AMX), no GPU, 2026-11-22"
    )
    other = facts | {"cpu": "Someone's CPU", "amx_bf16": False, "gpu": "a GPU"}
    assert records.where({"machine": other, "date": "d"}) == "2 cores of a Someone's CPU (no AMX), a GPU, d"


def test_denoised_rows_and_further_numbers_of_draws_get_rows_of_their_own(tmp_path, monkeypatch):
    for path in RESULTS.glob("influence-*.json"):
        (tmp_path / path.name).write_text(path.read_text())
    record = records.read("influence-cifar10")
    record["rows"] = [row for row in record["rows"] if row["way"] != "denoised"]
    last = [row for row in record["rows"] if row["head"] == "influence"][-3:]
    record["rows"] += [row | {"m": 777} for row in last]
    record["rows"] += [row | {"way": "denoised", "sigma": 3.0, "m": 5} for row in last]
    (tmp_path / "influence-cifar10.json").write_text(json.dumps(record))
    monkeypatch.setattr(records, "RESULTS", tmp_path)
    by_sigma = features.by_sigma()
    assert "| 3 | 5 | denoised |" in by_sigma
    assert "| 777 | noise left in |" in by_sigma
    assert "--denoiser DIR --denoised-sigma 3 --denoised-m 5" in by_sigma.replace("\n", " ")
    assert "sums, denoised, m = 5" in features.reach()
    assert "| 3 | 5 | denoised |" in features.by_form()


def rivals_of(folder: Path, monkeypatch: pytest.MonkeyPatch, found: list[dict], controls: list[dict]) -> str:
    """The rivals' table of a record with three targets of our own and these rows."""
    ours = {"cell": "conv", "sigma": 0.0, "seed": 0}
    record = json.loads((RESULTS / "conv.json").read_text()) | {"rivals": found, "rival_controls": controls}
    record["settings"] |= {"sigmas": [0.0]}
    record["controls"] = [ours | {"margins": [-8.0, -8.0, -8.0], "accuracy": 0.8, "core_seconds": 20.0}]
    record["victims"] = [ours | {"target": t, "margin": m, "accuracy": 0.8} for t, m in enumerate((1.0, -1.0, 9.0))]
    (folder / "conv.json").write_text(json.dumps(record))
    monkeypatch.setattr(records, "RESULTS", folder)
    return scratch.rivals()


def rival(defence: str, target: int, **more: object) -> dict:
    """A rival's row."""
    return {"defence": defence, "target": target, "margin": -2.0, "accuracy": 0.7, "core_seconds": 30.0} | more


def test_rivals_are_compared_on_the_targets_that_all_of_them_have(tmp_path, monkeypatch):
    control = {"margins": [-4.0, -4.0, 1.0], "accuracy": 0.7, "seconds": 31.0, "core_seconds": 32.0}
    dpa = {"defence": "dpa", **control, "margins": [-0.5, 0.0, 0.0], "taken": [False, True, False]}
    knn = {"defence": "deep-knn", **control, "removed": 9}
    filters = [rival("deep-knn", t, removed=30, poisons_removed=10) for t in range(3)]
    tied = [rival("dpa", 0, margin=0.0, taken=True), rival("dpa", 1, margin=-0.6, taken=False)]
    none, second, third = rivals_of(tmp_path, monkeypatch, filters + tied, [knn, dpa]).splitlines()[2:5]
    assert none == "| none | 1 of 2 [1–99 %] | 0 | +8.0 | .800 / .800 | - | 20 |"
    assert second == "| Deep k-NN | 0 of 2 [0–84 %] | 0 | +2.0 | .700 / .700 | 10 / 20 | 31 |"
    assert third == "| Deep Partition Aggregation | 1 of 2 [1–99 %] | 1 | −0.05 of the votes | .700 / .700 | - | 31 |"


@pytest.mark.parametrize("found", [[], [rival("friends", 1)]], ids=["none", "not the first target"])
def test_a_record_without_a_whole_target_of_rivals_says_so_in_a_line(found, tmp_path, monkeypatch):
    clean = {"defence": "friends", "margins": [-4.0] * 3, "accuracy": 0.7, "seconds": 1.0, "core_seconds": 1.0}
    assert rivals_of(tmp_path, monkeypatch, found, [clean]) == "No rival has been measured on a whole target yet."
