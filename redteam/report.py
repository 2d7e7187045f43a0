"""What a drill found: success with its interval, accuracy, and the poisons' size beside what can be certified."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta

from models.certificate import certify
from redteam import covered_report
from redteam.covered import Coverage, draws_at
from redteam.drill import Cell, Drill
from sanitize.errors import InputError
from sanitize.files import replacing, write_json

BOUNDED = "bounded-influence"
LEVEL = 0.95
CERTIFYING_MODELS = 100
"""The ensemble whose largest possible radius stands beside the poisons where none was trained."""
NAMES = {
    "frogs": "Poison Frogs",
    "convex": "Convex Polytope",
    "bullseye": "Bullseye Polytope",
    "witches-brew": "Witches' Brew",
    "label-consistent": "Label-consistent",
    "hidden-trigger": "Hidden trigger",
    "sleeper-agent": "Sleeper Agent",
}


@dataclass(frozen=True)
class Row:
    """One sigma of a drill, over its targets. Rates in [0, 1]; norms and radii in [0,1] pixel units.

    success with `low` and `high`, its 95 % interval; control: the same without poisons. joint_l2: the median over
    targets, `joint_l2_least` the least. radius_limit: the largest joint radius that an ensemble of `models` can certify
    at this sigma, all of them agreeing; radius: the median that it did certify for the targets, if it was made.

    Of a bounded-influence head alone: covered: the share of targets whose attack is within the clean ensemble's
    certificate; smoothed_success: of the attack against that ensemble on the poisoned set; undefended: against a
    logistic head without noise; rewritten: the median number of images that may be rewritten. `models` are then draws.
    """

    sigma: float
    targets: int
    success: float
    low: float
    high: float
    control: float
    accuracy: float
    linf: float
    l2: float
    joint_l2: float
    joint_l2_least: float
    models: int
    radius_limit: float
    radius: float | None
    craft_seconds: float
    sanitize_seconds: float
    train_seconds: float
    covered: float | None = None
    smoothed_success: float | None = None
    undefended: float | None = None
    rewritten: float | None = None


def interval(rates: Sequence[float], level: float = LEVEL) -> tuple[float, float]:
    """Clopper-Pearson's two-sided interval for the mean of n rates in [0, 1].

    Exact where every rate is 0 or 1 (one image a target). A backdoor's rate is a mean over many images of one poisoned
    training; trainings are what is independent, so each counts as one trial, and k = sum of rates need not be whole.
    """
    n, k = len(rates), float(np.sum(rates))
    tail = (1 - level) / 2
    low = float(beta.ppf(tail, k, n - k + 1)) if k > 0 else 0.0
    high = float(beta.ppf(1 - tail, k + 1, n - k)) if k < n else 1.0
    return low, high


def radius_limit(models: int, sigma: float, alpha: float) -> float:
    """The joint radius that so many models certify where all agree; 0 at sigma 0, where nothing is certified."""
    if not sigma:
        return 0.0
    _, radius = certify(np.array([[models, 0]]), models, sigma, alpha)
    return float(radius[0])


def rows_of(
    drill: Drill, cells: list[Cell], radii: dict[float, NDArray[np.float64]], coverage: Sequence[Coverage] = ()
) -> list[Row]:
    """A row a sigma. radii: by sigma, what an ensemble on the clean set certifies for each attacked test image.

    coverage: of a bounded-influence head, of every target at every sigma.
    """
    found = []
    for sigma in drill.params.sigma:
        own = [cell for cell in cells if cell.sigma == sigma]
        rates = [cell.success for cell in own]
        low, high = interval(rates)
        models = drill.params.ensemble or CERTIFYING_MODELS
        limit = radius_limit(models, sigma, drill.params.alpha)
        radius = float(np.median(radii[sigma])) if sigma in radii else None
        beside = [one for one in coverage if one.sigma == sigma]
        if beside:
            models, limit = draws_at(drill, sigma), beside[0].radius_limit
            radius = float(np.median([one.radius for one in beside]))
        found.append(
            Row(
                sigma=sigma,
                targets=len(own),
                success=float(np.mean(rates)),
                low=low,
                high=high,
                control=float(np.mean([cell.control for cell in own])),
                accuracy=float(np.mean([cell.accuracy for cell in own])),
                linf=max(cell.linf for cell in own),
                l2=max(cell.l2 for cell in own),
                joint_l2=float(np.median([cell.joint_l2 for cell in own])),
                joint_l2_least=min(cell.joint_l2 for cell in own),
                models=models,
                radius_limit=limit,
                radius=radius,
                craft_seconds=float(np.mean([cell.craft_seconds for cell in own])),
                sanitize_seconds=float(np.mean([cell.sanitize_seconds for cell in own])),
                train_seconds=float(np.mean([cell.train_seconds for cell in own])),
                **(covered_report.figures(beside) if beside else {}),
            )
        )
    return found


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
    beside = {"alpha": p.alpha, "denoise": p.denoise, "coverage": [asdict(one) for one in coverage]}
    return content | beside


def write_summary(output: Path, name: str, content: dict[str, Any]) -> None:
    """Write a drill's JSON, then the tables over every drill that `output` holds."""
    write_json(output / f"{name}.json", content)
    drills = read_summaries(output)
    _write(output / "table.md", tables(drills))
    _write(output / "table.csv", as_csv(drills))


def read_summaries(output: Path) -> list[dict[str, Any]]:
    """Every drill's JSON in a folder, by name. InputError if one is none."""
    found = []
    for path in sorted(output.glob("*.json")):
        try:
            content = json.loads(path.read_text())
            content["rows"][0]["sigma"]
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise InputError(f"{path} is no drill's summary ({error!r}); move it away") from error
        found.append(content)
    order = list(NAMES)
    return sorted(
        found, key=lambda d: (d["scenario"], d["data"], order.index(d["attack"]), d["knowledge"], d["adaptive"])
    )


def tables(drills: list[dict[str, Any]]) -> str:
    """The paper's form, `(accuracy) success` in % a cell, and under it every drill on its own with all its figures."""
    sigmas = sorted({row["sigma"] for drill in drills for row in drill["rows"]})
    lines = ["# Attacks, undefended and sanitized", ""]
    lines += ["Each cell: (clean accuracy) attack success, in %, mean over targets; σ = 0 is undefended.", ""]
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
    """A line a drill and sigma, with all figures."""
    stream = io.StringIO()
    keys = ("attack", "scenario", "knowledge", "adaptive", "data", "images", "poisons", "bound")
    names = list(Row.__dataclass_fields__)
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([*keys, *names])
    for drill in drills:
        for row in drill["rows"]:
            writer.writerow([*(drill[key] for key in keys), *(_rounded(row.get(name)) for name in names)])
    return stream.getvalue()


def _certified(row: dict[str, Any]) -> str:
    if not row["sigma"]:
        return "–"
    limit = f"≤ {row['radius_limit']:.2f} (m = {row['models']})"
    return limit if row["radius"] is None else f"{row['radius']:.2f}, median of the targets; {limit}"


def _heading(drill: dict[str, Any]) -> list[str]:
    knowledge = f"{drill['knowledge']}{', adaptive' if drill['adaptive'] else ''}"
    scenario = f"{drill['scenario']}, {BOUNDED}" if "coverage" in drill else drill["scenario"]
    return [NAMES[drill["attack"]], scenario, drill["data"], knowledge, drill["bound"]]


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _rounded(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else "" if value is None else value


def _write(path: Path, text: str) -> None:
    with replacing(path) as scratch:
        scratch.write_text(text)
