"""`flows.smooth --plan`: what an ensemble will take, held to what one took."""

import re
import sqlite3
from pathlib import Path

import pytest
from registered import M, make_plan

from cleanlabel.flows.ensemble.forecast import forecast
from cleanlabel.flows.store.client import find_runs
from cleanlabel.models.certificate import certify


def numbers(pattern: str, text: str) -> list[float]:
    found = re.search(pattern, text)
    assert found, text
    return [float(group.replace(",", "")) for group in found.groups()]


def test_the_forecast_counts_what_an_ensemble_wrote(version):
    said = forecast(version.ensemble.plan, "all")
    assert numbers(r"^(\d+) draws, ", said) == [M]
    disk, runs, rows = numbers(r"disk +([\d.,]+) MB .*\n +MLflow +(\d+) child runs, ([\d,]+) rows", said)
    assert runs == M

    children = [run.info.run_id for run in find_runs(version.store, "tags.`cleanlabel.kind` = 'draw'")]
    children = [
        run_id
        for run_id in children
        if version.store.client.get_run(run_id).data.tags["mlflow.parentRunId"] == version.ensemble.run_id
    ]
    marks = ", ".join("?" * M)
    with sqlite3.connect(".mlflow/mlflow.db") as database:
        written = sum(
            database.execute(f"select count(*) from {table} where run_uuid in ({marks})", children).fetchone()[0]
            for table in ("runs", "params", "metrics", "latest_metrics", "tags")
        )
    assert rows == written

    artifacts = Path(".mlflow/artifacts")
    kept = sum(path.stat().st_size for path in (artifacts / version.ensemble.run_id).rglob("draw-*.safetensors"))
    kept += sum(path.stat().st_size for run_id in children for path in (artifacts / run_id).rglob("votes.npy"))
    assert disk == pytest.approx(kept / 1e6, abs=0.06, rel=0.2)  # safetensors' headers beside the numbers


def test_the_table_says_the_largest_radius_of_so_many_models(version):
    plan = version.ensemble.plan
    said = forecast(plan, "none")
    for m in (11, 100, 1_000):
        (radius,) = numbers(rf"\| {m:,} \| ([\d.]+) \|", said)
        assert radius == pytest.approx(float(certify([[m, 0]], m, plan.sigma, plan.alpha)[1][0]), abs=6e-4)
    assert "| 10 |" not in said  # cannot certify anything


def test_an_ensemble_that_may_stop_early_is_said_to(version):
    said = forecast(make_plan(m=40, stopping="looks", looks=(20, 40), shares=(0.4, 0.6)), "all")
    assert "These are upper limits: it stops at the first of 20, 40 models that decides the gate." in said
