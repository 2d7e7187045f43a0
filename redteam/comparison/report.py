"""A comparison as tables: success, accuracy and cost of each defence, two certificates, and the paper's figures."""

import csv
import io
import json
from pathlib import Path
from typing import Any

from cleanlabel.models.rounding import down_text, exact
from cleanlabel.redteam.comparison.rows import Row
from cleanlabel.redteam.drill.drill import Drill
from cleanlabel.redteam.drill.report import NAMES, csv_cell, name_of
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.files import replacing, write_json

PAPER: dict[tuple[str, str], tuple[float, float]] = {
    ("witches-brew", "deep-knn"): (86.3, 3.0),
    ("bullseye", "deep-knn"): (93.7, 25.0),
    ("bullseye", "dp-sgd"): (93.9, 7.0),
    ("bullseye", "adversarial-training"): (90.3, 96.0),
    ("bullseye", "friends"): (90.2, 10.0),
    ("bullseye", "sanitize"): (93.5, 0.0),
    ("witches-brew", "dp-sgd"): (76.0, 4.0),
    ("witches-brew", "adversarial-training"): (66.5, 2.0),
    ("witches-brew", "friends"): (87.6, 8.0),
    ("witches-brew", "roe"): (70.2, 10.0),
    ("witches-brew", "sanitize"): (86.5, 9.0),
    ("sleeper-agent", "dp-sgd"): (74.8, 5.0),
    ("sleeper-agent", "adversarial-training"): (69.0, 6.0),
    ("sleeper-agent", "friends"): (87.4, 14.0),
    ("sleeper-agent", "roe"): (68.6, 12.0),
    ("sleeper-agent", "sanitize"): (86.0, 17.0),
}
"""(clean accuracy, attack success) in %, of the paper's Tables 4 (Deep k-NN) and 5; ours there at sigma .1."""
QUESTIONS = (
    "Two certificates, two questions. *Inserted or removed* (Deep Partition Aggregation, Run-Off Election): how many "
    "training images may be put in or taken out, whatever they show, before the answer can change; a changed image is "
    "one removal and one insertion, so r changed images need 2r. *Radius* (ours, noise-only): how far all training "
    "images together may be moved (joint ℓ2 norm in [0,1] units), none inserted, removed or relabelled, and however "
    "many are moved. Neither can be turned into the other. Given are medians of the attacked images and, in brackets, "
    "of the clean test set; an image that is answered wrongly counts as 0. A dash: the defence proves nothing of the "
    "kind. That poisons changed an answer is ruled out where twice their number is at most the first, or their joint "
    "ℓ2 below the second."
)
SCALE = (
    "The paper trains on CIFAR-10's 50,000 images and takes each defence at its own best settings; here the set, the "
    "victim and the targets are those named above, so a difference mixes scale with method. It is a guide to where to "
    "look, not a test of the paper."
)


def write_comparison(output: Path, drill: Drill, content: dict[str, Any]) -> Path:
    """Write a comparison's JSON, then the tables over every comparison that `output` holds; the JSON's path."""
    path = output / f"{name_of(drill)}.json"
    write_json(path, content)
    found = [_read(each) for each in sorted(output.glob("*.json"))]
    with replacing(output / "table.md") as scratch:
        scratch.write_text(markdown(found))
    with replacing(output / "table.csv") as scratch:
        scratch.write_text(as_csv(found))
    return path


def _read(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text())
        content["rows"][0]["defence"]
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise InputError(f"{path} is not a comparison's summary ({error!r}); move it away") from error
    return content


def markdown(comparisons: list[dict[str, Any]]) -> str:
    """One section per comparison."""
    lines = ["# Defences side by side", "", QUESTIONS]
    for content in comparisons:
        lines += ["", *comparison_lines(content)]
    return "\n".join(lines) + "\n"


def comparison_lines(content: dict[str, Any]) -> list[str]:
    """One attack's table, ours against the best rival, and the paper's cells next to ours."""
    heading = (NAMES[content["attack"]], content["scenario"], content["data"], content["knowledge"], content["bound"])
    lines = [f"## {', '.join(heading)}", ""]
    lines += [
        f"{content['poisons']} poisons in {content['images']} training images, joint ℓ2 {content['joint_l2']:.2f} "
        f"(median); `{content['attack_settings']}`; on {content['device']}.",
        "",
    ]
    head = [
        "defence",
        "targets",
        "success [95 %]",
        "clean accuracy",
        "success + lost accuracy",
        "seconds",
        "× undefended",
    ]
    head += ["peak memory, MB", "poisons / others removed", "inserted or removed", "radius"]
    lines += [_line(head), _line(["---"] * len(head))]
    lines += [_line(_cells(row)) for row in content["rows"]]
    lines += ["", "Settings and what else was reported:", ""]
    for row in content["rows"]:
        facts = "".join(f"; {key} {value:.4g}" for key, value in row["facts"].items())
        lines.append(f"- {row['defence']}: `{row['settings']}`{facts}")
    return [*lines, *_verdict(content["rows"]), *_beside_the_paper(content)]


def _cells(row: dict[str, Any]) -> list[str]:
    removed = f"{row['poisons_removed']:.1f} / {row['removed'] - row['poisons_removed']:.1f}" if row["removed"] else "–"
    return [
        row["defence"],
        str(row["targets"]),
        f"{100 * row['success']:.1f} % [{100 * row['low']:.0f}–{100 * row['high']:.0f}]",
        f"{100 * row['accuracy']:.1f} %",
        f"{100 * row['loss']:.1f}",
        f"{row['seconds']:.1f}",
        f"{row['ratio']:.1f}",
        "–" if row["peak_megabytes"] is None else f"{row['peak_megabytes']:.0f}",
        removed,
        "–" if row["insertions"] is None else f"{exact(row['insertions'])} ({exact(row['insertions_test'])})",
        "–" if row["radius"] is None else f"{down_text(row['radius'], 2)} ({down_text(row['radius_test'], 2)})",
    ]


def _verdict(rows: list[dict[str, Any]]) -> list[str]:
    """Ours, at each sigma, against the best rival, by the sum of success and lost accuracy."""
    rivals = [row for row in rows if row["name"] not in ("sanitize", "none")]
    if not rivals:
        return []
    best = min(rivals, key=lambda row: float(row["loss"]))
    lines = []
    for mine in (row for row in rows if row["name"] == "sanitize"):
        gap = 100 * (mine["loss"] - best["loss"])
        words = f"{abs(gap):.1f} points {'better' if gap < 0 else 'worse'} than" if abs(gap) >= 0.05 else "level with"
        lines += [
            "",
            f"On success plus lost accuracy, {mine['defence']} ({100 * mine['loss']:.1f}) is {words} the best rival, "
            f"{best['defence']} ({100 * best['loss']:.1f}).",
        ]
    return lines


def _beside_the_paper(content: dict[str, Any]) -> list[str]:
    """The paper's cells, (accuracy) success, ours and the difference."""
    rows = [(row, PAPER.get((content["attack"], row["name"]))) for row in content["rows"]]
    if not any(cell for _, cell in rows):
        return []
    head = ["defence", "paper: (accuracy) success", "here", "difference"]
    lines = ["", "Beside the paper's Tables 4 and 5:", "", _line(head), _line(["---"] * len(head))]
    for row, cell in rows:
        if cell:
            accuracy, success = 100 * row["accuracy"], 100 * row["success"]
            apart = f"({accuracy - cell[0]:+.1f}) {success - cell[1]:+.1f}"
            lines.append(
                _line([row["defence"], f"({cell[0]:.1f}) {cell[1]:.1f}", f"({accuracy:.1f}) {success:.1f}", apart])
            )
    return [*lines, "", SCALE]


def as_csv(comparisons: list[dict[str, Any]]) -> str:
    """One line per attack and defence, with all figures but the facts."""
    stream = io.StringIO()
    keys = ("attack", "scenario", "knowledge", "data", "images", "poisons", "bound", "device")
    names = [name for name in Row.__dataclass_fields__ if name not in ("facts", "poisons")]
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([*keys, *names])
    for content in comparisons:
        for row in content["rows"]:
            writer.writerow([*(content[key] for key in keys), *(csv_cell(name, row[name]) for name in names)])
    return stream.getvalue()


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
