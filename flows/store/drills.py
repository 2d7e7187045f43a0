"""The records of a finished drill: runs in MLflow, and files for DVC that do not depend on the machine."""

import csv
import hashlib
import io
import json
from pathlib import Path
from typing import Any

from mlflow.entities import Run

from cleanlabel.flows.store.client import TAG, Store, create_run, find_runs, finish, log_files, log_inputs
from cleanlabel.models.rounding import down
from cleanlabel.redteam.drill.drill import Drill
from cleanlabel.redteam.drill.report import CLAIMED, as_csv, drill_lines, tables
from cleanlabel.redteam.drill.run import Found
from cleanlabel.sanitize.files import replacing, write_json

DRILL, CELL = "red-team", "red-team-cell"
"""The kinds of run: a drill, and one sigma of a drill over its targets."""
PER_MACHINE = ("craft_seconds", "sanitize_seconds", "train_seconds")
RENAMED = {"low": "success_low", "high": "success_high"}
METRICS = ("success", "accuracy")
CURVE = ("success", "success_low", "success_high", "control", "accuracy", "joint_l2", "radius_limit", "radius")
PARAMS = ("attack", "settings", "scenario", "knowledge", "adaptive", "data", "images", "poisons", "bound")


def without_timings(summary: dict[str, Any]) -> dict[str, Any]:
    """A drill's summary without timings: the same seeds give the same summary, at any time and place."""
    return summary | {
        part: [{key: value for key, value in entry.items() if key not in PER_MACHINE} for entry in summary[part]]
        for part in ("rows", "cells")
    }


def digest_of(summary: dict[str, Any]) -> str:
    """sha256 of a drill's summary without timings."""
    return hashlib.sha256(json.dumps(without_timings(summary), sort_keys=True).encode()).hexdigest()


def write_tracked(found: Found, folder: Path) -> None:
    """Write the drill's files for DVC: its table, its figures (a metrics file and a curve), its contact sheet."""
    content = without_timings(found.summary)
    rows = {f"{row['sigma']:g}": _rounded(_metrics(row)) for row in content["rows"]}
    shown = {f"attack_{key}": {f"sigma {sigma}": row[key] for sigma, row in rows.items()} for key in METRICS}
    write_json(folder / "metrics.json", shown)
    stream = io.StringIO()
    writer = csv.DictWriter(stream, ["sigma", *CURVE], restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows([{"sigma": sigma} | row for sigma, row in rows.items()])
    _write(folder / "curve.csv", stream.getvalue().encode())
    _write(folder / "table.md", tables([content]).encode())
    _write(folder / "poisons.png", _picture(found).read_bytes())


def record(store: Store, drill: Drill, found: Found) -> tuple[str, bool]:
    """The id of the drill's finished run, and whether it was logged now. An existing finished run is left alone.

    An unfinished run is continued. Runs are compared without their timings.
    """
    digest = digest_of(found.summary)
    tags = {"kind": DRILL, "drill": drill.state.name, "summary": digest}
    runs = find_runs(store, " and ".join(f"tags.`{TAG}{key}` = '{value}'" for key, value in tags.items()))
    for run in runs:
        if run.info.status == "FINISHED":
            return str(run.info.run_id), False
    sets = _digests(drill)
    tags |= {"raw_digest": sets["raw"]}
    params = _params(drill, found.summary)
    if runs:
        parent = str(runs[-1].info.run_id)
    else:
        seen = {"targets": drill.params.targets, "sigmas": " ".join(f"{row.sigma:g}" for row in found.rows)}
        parent = create_run(store, found.name, tags, params | seen)
        log_inputs(store, parent, sets)
    _record_cells(store, drill, found, parent, tags | {"kind": CELL}, params)
    table = "\n".join(drill_lines(found.summary)) + "\n"
    files = {
        "table.md": tables([found.summary]).encode(),
        "table.csv": as_csv([found.summary]).encode(),
        "drill.md": table.encode(),
        f"{found.name}.json": (json.dumps(found.summary, indent=2, sort_keys=True) + "\n").encode(),
        f"{found.name}.png": _picture(found).read_bytes(),
    }
    log_files(store, parent, files)
    finish(store, parent)
    return parent, True


def _record_cells(
    store: Store, drill: Drill, found: Found, parent: str, tags: dict[str, str], params: dict[str, Any]
) -> None:
    """Make one finished run per sigma under the drill's run. Existing ones stay."""
    present: dict[str, Run] = {}
    for run in find_runs(store, f"tags.mlflow.parentRunId = '{parent}'"):
        if run.info.status == "FINISHED":
            present[run.data.tags[f"{TAG}sigma"]] = run
        elif run.info.status in ("RUNNING", "SCHEDULED"):
            finish(store, run.info.run_id, "KILLED")
    for row in found.summary["rows"]:
        sigma = f"{row['sigma']:g}"
        if sigma in present:
            continue
        own = params | {"sigma": sigma, "targets": row["targets"], "models": row["models"]}
        name = f"{found.name} sigma={sigma}"
        run_id = create_run(store, name, tags | {"sigma": sigma}, own, metrics=_metrics(row), parent_id=parent)
        finish(store, run_id)


def _params(drill: Drill, summary: dict[str, Any]) -> dict[str, Any]:
    own = {key: summary[key] for key in PARAMS} | {"seed": drill.params.seed}
    return own | {f"recipe.{key}": value for key, value in summary["recipe"].items()}


def _metrics(row: dict[str, Any]) -> dict[str, float]:
    """A row's figures by their names in MLflow; figures that were not measured are left out."""
    named = {RENAMED.get(key, key): value for key, value in row.items() if key not in ("sigma", "targets", "models")}
    return {key: float(value) for key, value in named.items() if value is not None}


def _rounded(figures: dict[str, float]) -> dict[str, float]:
    return {key: down(value, 6) if key in CLAIMED else round(value, 6) for key, value in figures.items()}


def _digests(drill: Drill) -> dict[str, str]:
    """The digests of the drill's sets and networks, as recorded at its start."""
    noted = json.loads((drill.state / "drill.json").read_text())["digests"]
    found = {name: noted[name] for name in ("raw", "test", "extractor") if noted[name]}
    return found | ({"denoiser": drill.denoiser.digest} if drill.denoiser else {})


def _picture(found: Found) -> Path:
    return next(path for path in found.files if path.suffix == ".png")


def _write(path: Path, content: bytes) -> None:
    with replacing(path) as scratch:
        scratch.write_bytes(content)
