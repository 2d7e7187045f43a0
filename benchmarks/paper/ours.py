"""Our column: cells that the measuring commands left in benchmarks/results/, by the paper's rows and columns."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.common.record import RESULTS
from benchmarks.paper.beside import CONV, FROZEN, conv_comparison, conv_drill, frozen_comparison, frozen_drills
from benchmarks.paper.tables import BOUNDS, Line

SCENARIOS = {1: "transfer", 2: "scratch", 6: "transfer", 7: "transfer"}
ANY = ("cifar10", "fashion-mnist")
SETS = {6: ("cifar10",), 7: ("pipeline",)}
"""The sets that stand beside a table; Table 7's is brought as one's own images."""
SCALES = ("cpu-small", "gpu-full")
FULL = RESULTS / "paper" / "gpu-full"


@dataclass(frozen=True)
class Ours:
    """A cell of ours: rates in %, success with its 95 % interval over `targets`; setup: set, poisons and bound.

    same_bound: whether the poisons have the paper's bound; only then is a cell compared. removed: (poisons, others).
    """

    accuracy: float
    success: float
    low: float
    high: float
    targets: int
    setup: str
    same_bound: bool
    removed: tuple[float, float]
    source: str

    def covers(self, success: float) -> bool:
        """Whether the interval, in the page's rounding, has this success rate in %."""
        return round(self.low, 1) <= success <= round(self.high, 1)


def filled(number: int, line: Line, scale: str) -> dict[str, Ours]:
    """Our cells for a row of the paper, by column; only those that were measured at this scale."""
    if number in (4, 5):
        return _compared(number, line, scale)
    return _drilled(number, line, scale)


def _compared(number: int, line: Line, scale: str) -> dict[str, Ours]:
    found = {}
    for source, content in _comparisons(number, scale):
        if content["attack"] != line.about["attack"] or content["knowledge"] != "white-box":
            continue
        for row in content["rows"]:
            if row["name"] in line.cells and row["defence"] in (row["name"], "sanitize, σ = 0.1"):
                found[row["name"]] = _cell(number, content, row, source)
    return found


def _drilled(number: int, line: Line, scale: str) -> dict[str, Ours]:
    attack, start = line.about["attack"], line.about.get("initialization", "baseline")
    scenario = SCENARIOS.get(number) or ("transfer" if attack == "bullseye" else "scratch")
    asked = {
        "attack": attack,
        "scenario": "fine-tune" if start == "out-of-domain" else scenario,
        "knowledge": line.about.get("knowledge", "white-box"),
    }
    norm = " l_inf" if line.about["norm"] == "linf" else " l2"
    found: dict[str, Ours] = {}
    ranks: dict[str, tuple[bool, int, int, int]] = {}
    for source, content in (*_drills(number, scale, start), *_comparisons(number, scale, start)):
        if any(content[key] != value for key, value in asked.items()) or content.get("adaptive"):
            continue
        if not content["bound"].endswith(norm) or content["data"] not in SETS.get(number, ANY):
            continue
        for row in content["rows"]:
            column = _column(row)
            if column in line.cells:
                cell = _cell(number, content, row, source)
                rank = (cell.same_bound, cell.targets, content["images"], content["poisons"])
                if column not in ranks or rank > ranks[column]:
                    found[column], ranks[column] = cell, rank
    alike = {column: cell for column, cell in found.items() if cell.same_bound}
    return alike or found


def _column(row: dict[str, Any]) -> str | None:
    """The column by sigma that a drill's or a comparison's row belongs to."""
    if "sigma" in row:
        return f"{row['sigma']:g}"
    if row["name"] == "none":
        return "0"
    return row["defence"].partition(" = ")[2] if row["name"] == "sanitize" else None


def _cell(number: int, content: dict[str, Any], row: dict[str, Any], source: str) -> Ours:
    taken = float(row.get("poisons_removed", 0.0))
    norm_matches = content["bound"].endswith(" l2") or content["bound"] == f"{BOUNDS[number]}/255 l_inf"
    return Ours(
        100 * row["accuracy"],
        100 * row["success"],
        100 * row["low"],
        100 * row["high"],
        row["targets"],
        f"{content['data']}, {content['poisons']} of {content['images']}, {content['bound'].replace('_', '')}",
        norm_matches,
        (taken, float(row.get("removed", 0.0)) - taken),
        source,
    )


def _drills(number: int, scale: str, start: str) -> list[tuple[str, dict[str, Any]]]:
    if scale == "gpu-full":
        return _folder(number, start, "adaptive")
    if start != "baseline":
        return []
    path = RESULTS / "redteam.json"
    found = [(path.name, drill) for drill in read(path).get("drills", {}).values()]
    found += [(FROZEN.name, drill) for drill in frozen_drills(read(FROZEN))]
    return [*found, (CONV.name, conv_drill(read(CONV)))]


def _comparisons(number: int, scale: str, start: str = "baseline") -> list[tuple[str, dict[str, Any]]]:
    if scale == "gpu-full":
        return _folder(number, start, "joint_l2")
    if start != "baseline":
        return []
    found = [(path.name, read(path)) for path in sorted(RESULTS.glob("compare_*.json"))]
    if number == 4:
        found += [(CONV.name, conv_comparison(read(CONV))), (FROZEN.name, frozen_comparison(read(FROZEN)))]
    return found


def _folder(number: int, start: str, key: str) -> list[tuple[str, dict[str, Any]]]:
    """The summaries of one kind that a table's gpu-full commands left; a drill and a comparison differ by a key."""
    folder = FULL / f"table{number}" / ("" if start == "baseline" else start)
    found = [(str(path.relative_to(RESULTS)), read(path)) for path in sorted(folder.glob("*.json"))]
    return [(name, content) for name, content in found if key in content]


def read(path: Path) -> dict[str, Any]:
    """A result file; empty where nothing has been measured."""
    return json.loads(path.read_text()) if path.is_file() else {}
