"""Runs units one after the other; each row is in the record before the next unit begins."""

import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.conv.setting import ENOUGH, TEN
from benchmarks.conv.units import Unit
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.files import write_json

Content = dict[str, Any]


def opened(path: Path, settings: Content) -> Content:
    """The record at `path` if it has these settings, or a new one with them. InputError if its settings differ."""
    settings = json.loads(json.dumps(settings))
    if not path.is_file():
        return {"settings": settings}
    found: Content = json.loads(path.read_text())
    differing = sorted(k for k in found["settings"] | settings if found["settings"].get(k) != settings.get(k))
    if differing:
        raise InputError(
            f"{path} holds a run with other settings ({', '.join(differing)}); give another --results, or remove it"
        )
    return found


def run(units: Iterable[Unit], record: Content, path: Path, what: str) -> None:
    """Add to the record at `path` the row of every unit that it lacks; `core_seconds`: the processor time of each.

    A run that is killed loses the unit that it was in, and goes on from the record alone.
    """
    listed = [unit for unit in units if unit.key not in keys(record, unit.table)]
    for unit in tqdm(listed, desc=what, unit="row"):
        if unit.table == "tuning" and decided(record, unit.key["cell"]):
            continue
        started = time.process_time()
        row = unit.key | unit.make()
        row["core_seconds"] = round(time.process_time() - started, 1)
        record.setdefault(unit.table, []).append(row)
        write_json(path, record)


def keys(record: Content, table: str) -> list[Content]:
    """The rows' keys: what of a row says which unit it is."""
    named = ("cell", "defence", "target", "sigma", "seed", "scale")
    return [{name: row[name] for name in named if name in row} for row in record.get(table, [])]


def decided(record: Content, cell: str) -> bool:
    """Whether enough tuning targets are taken or lost to say if a cell takes ENOUGH of ten."""
    taken = [row["margin"] > 0 for row in record.get("tuning", []) if row["cell"] == cell]
    return sum(taken) >= ENOUGH or len(taken) - sum(taken) > TEN - ENOUGH


def core_hours(record: Content, *tables: str) -> float:
    """Processor time of these lists of rows, in hours."""
    return sum(row["core_seconds"] for table in tables for row in record.get(table, [])) / 3600
