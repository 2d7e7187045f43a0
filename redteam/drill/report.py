"""What a drill found, as JSON and tables: success, accuracy, and the poisons' size beside what can be certified."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cleanlabel.models.rounding import down, down_text
from cleanlabel.redteam.drill import covered_report
from cleanlabel.redteam.drill.covered import Coverage
from cleanlabel.redteam.drill.drill import Cell, Drill
from cleanlabel.redteam.drill.rows import Row
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.files import replacing, write_json

BOUNDED = "bounded-influence"
CLAIMED = ("radius", "radius_limit", "radius_test", "covered", "rewritten", "insertions", "insertions_test")
"""The figures of a row that are proved, and therefore rounded down. The others are measured."""
NAMES = {
    "frogs": "Poison Frogs",
    "convex": "Convex Polytope",
    "bullseye": "Bullseye Polytope",
    "witches-brew": "Witches' Brew",
    "label-consistent": "Label-consistent",
    "hidden-trigger": "Hidden trigger",
    "sleeper-agent": "Sleeper Agent",
}


def name_of(drill: Drill) -> str:
    """What the drill's reports are called: attack, scenario, data, and what is not the ordinary case."""
    p = drill.params
    parts = [p.attack, drill.victim.scenario, p.data, "" if drill.white_box else "black-box", "adaptive" * p.adaptive]
    parts += ["l2" if p.norm == "l2" else "", BOUNDED if drill.victim.summed else "", "" if p.denoise else "noise-only"]
    return "-".join(part for part in parts if part)


def summary(
    drill: Drill, rows: list[Row], cells: list[Cell], images: int, coverage: Sequence[Coverage] = ()
) -> dict[str, Any]:
    """The drill as JSON: what was done, and what came of it."""
    p = drill.params
    bound = f"{p.epsilon_255:g}/255 l_inf" if p.norm == "linf" else f"{p.epsilon:g} l2"
    content = {
        "attack": p.attack,
        "scenario": drill.victim.scenario,
        "knowledge": "white-box" if drill.white_box else "black-box",
        "adaptive": p.adaptive,
        "data": p.data,
        "images": images,
        "poisons": drill.budget.count,
        "bound": bound,
        "settings": repr(drill.attack),
        "recipe": drill.victim.recipe.model_dump(mode="json"),
        "rows": [asdict(row) for row in rows],
        "cells": [asdict(cell) for cell in cells],
    }
    if not drill.victim.summed:
        return content
    how = {"alpha": p.alpha, "denoise": p.denoise, "entropy": drill.entropy.source}
    return content | how | {"coverage": [asdict(one) for one in coverage]}


def write_summary(output: Path, name: str, content: dict[str, Any]) -> None:
    """Write a drill's JSON, then the tables over every drill that `output` holds."""
    write_json(output / f"{name}.json", content)
    drills = read_summaries(output)
    _write(output / "table.md", tables(drills))
    _write(output / "table.csv", as_csv(drills))


def read_summaries(output: Path) -> list[dict[str, Any]]:
    """Every drill's JSON in a folder, by name. InputError for a file that is not one."""
    found = []
    for path in sorted(output.glob("*.json")):
        try:
            content = json.loads(path.read_text())
            content["rows"][0]["sigma"]
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise InputError(f"{path} is not a drill's summary ({error!r}); move it away") from error
        found.append(content)
    order = list(NAMES)
    return sorted(
        found, key=lambda d: (d["scenario"], d["data"], order.index(d["attack"]), d["knowledge"], d["adaptive"])
    )


def tables(drills: list[dict[str, Any]]) -> str:
    """The paper's form, `(accuracy) success` in % a cell, and under it every drill on its own with all its figures."""
    sigmas = sorted({row["sigma"] for drill in drills for row in drill["rows"]})
    lines = ["# Attacks, undefended and sanitized", ""]
    lines += ["Each cell: (clean accuracy) attack success, in %, mean over targets.", ""]
    lines += [f"σ = 0 adds no noise: the victim is undefended, unless it has a {BOUNDED} head.", ""]
    head = ["attack", "scenario", "data", "knowledge", "bound", *(f"σ = {s:g}" for s in sigmas)]
    lines += [_line(head), _line(["---"] * len(head))]
    for drill in drills:
        cells = {row["sigma"]: f"({100 * row['accuracy']:.1f}) {100 * row['success']:.1f}" for row in drill["rows"]}
        lines.append(_line([*_heading(drill), *(cells.get(s, "") for s in sigmas)]))
    for drill in drills:
        lines += ["", f"## {', '.join(_heading(drill))}", "", *drill_lines(drill)]
    return "\n".join(lines) + "\n"


def drill_lines(drill: dict[str, Any]) -> list[str]:
    """One drill's table: two claims side by side, what was measured and what can be certified."""
    if "coverage" in drill:
        return covered_report.lines(drill)
    lines = [
        f"{drill['poisons']} poisons in {drill['images']} training images; `{drill['settings']}`.",
        "",
        _line(
            [
                "σ",
                "targets",
                "success [95 %]",
                "without poisons",
                "clean accuracy",
                "poisons' joint ℓ2 (least)",
                "certified R",
            ]
        ),
        _line(["---"] * 7),
    ]
    for row in drill["rows"]:
        low, high = 100 * row["low"], 100 * row["high"]
        lines.append(
            _line(
                [
                    f"{row['sigma']:g}",
                    str(row["targets"]),
                    f"{100 * row['success']:.1f} % [{low:.0f}–{high:.0f}]",
                    f"{100 * row['control']:.1f} %",
                    f"{100 * row['accuracy']:.1f} %",
                    f"{row['joint_l2']:.2f} ({row['joint_l2_least']:.2f})",
                    _certified(row),
                ]
            )
        )
    beyond = all(row["joint_l2_least"] > row["radius_limit"] for row in drill["rows"])
    lines += ["", BEYOND if beyond else WITHIN]
    return lines


BEYOND = (
    "Two claims. Success is *measured*, on these attacks. Certified R is *proved*, for every attack whose joint ℓ2 is "
    "below it. These poisons' joint ℓ2 is above every R: no certificate speaks of them."
)
WITHIN = (
    "Two claims. Success is *measured*, on these attacks. Certified R is *proved*, for every attack whose joint ℓ2 is "
    "below it. Where these poisons' joint ℓ2 is below R, the ensemble's answer for a certified target cannot change."
)


def as_csv(drills: list[dict[str, Any]]) -> str:
    """One line per drill and sigma, with all figures."""
    stream = io.StringIO()
    keys = ("attack", "scenario", "knowledge", "adaptive", "data", "images", "poisons", "bound")
    names = list(Row.__dataclass_fields__)
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([*keys, *names])
    for drill in drills:
        for row in drill["rows"]:
            writer.writerow([*(drill[key] for key in keys), *(csv_cell(name, row.get(name)) for name in names)])
    return stream.getvalue()


def _certified(row: dict[str, Any]) -> str:
    if not row["sigma"]:
        return "–"
    limit = f"up to {down_text(row['radius_limit'], 2)} (m = {row['models']})"
    return limit if row["radius"] is None else f"{down_text(row['radius'], 2)}, median of the targets; {limit}"


def _heading(drill: dict[str, Any]) -> list[str]:
    knowledge = f"{drill['knowledge']}{', adaptive' if drill['adaptive'] else ''}"
    scenario = f"{drill['scenario']}, {BOUNDED}" if "coverage" in drill else drill["scenario"]
    return [NAMES[drill["attack"]], scenario, drill["data"], knowledge, drill["bound"]]


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def csv_cell(name: str, value: Any) -> Any:
    """A figure of a row as it stands in a CSV file."""
    if isinstance(value, float):
        return down(value, 6) if name in CLAIMED else f"{value:.6g}"
    return "" if value is None else value


def _write(path: Path, text: str) -> None:
    with replacing(path) as scratch:
        scratch.write_text(text)
