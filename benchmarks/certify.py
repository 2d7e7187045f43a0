"""What a certificate costs: its arithmetic, and reading a thousand models back from the store.

    python -m benchmarks.certify [--quick]

A store of its own on SQLite, in a temporary folder, with as many finished draws as models and a few failed ones
besides, so that they fill more than one page; the votes are random.
"""

import argparse
import os
import tempfile
import time
from contextlib import chdir
from pathlib import Path

import numpy as np
from tqdm import trange

from benchmarks.record import record
from models.certificate import certify
from models.plan import Plan
from models.votes import count_votes, votes_hash, votes_to_bytes
from sanitize import errors

POINTS, CLASSES, FAILED = 10_000, 10, 30


def fill(store, ensemble, votes: np.ndarray) -> None:
    """Child runs as `smooth` leaves them: a finished one a draw, and some that failed."""
    from flows.ensemble import draw_params, draw_tags
    from flows.store import create_run, finish, log_files, log_metrics

    for draw in trange(len(votes) + FAILED, desc="store", unit="run"):
        failed, number = draw >= len(votes), draw % len(votes)
        tags, params = draw_tags(ensemble.plan, number), draw_params(ensemble.plan, number)
        run_id = create_run(store, f"draw {number}", tags, params, parent_id=ensemble.run_id)
        if not failed:
            log_files(store, run_id, {"votes.npy": votes_to_bytes(votes[number])})
            marks = {"votes_sha256": votes_hash(votes[number]), "seal": str(draw), "copy_sha256": str(draw)}
            log_metrics(store, run_id, {"test_accuracy": 0.5}, marks)
        finish(store, run_id, "FAILED" if failed else "FINISHED")


def seconds_to_assemble(plan: Plan, votes: np.ndarray) -> tuple[float, np.ndarray]:
    """Seconds from the parent run's id to the counts, in a store that no one has read yet."""
    from flows.assembly import assemble
    from flows.ensemble import open_ensemble, read_ensemble
    from flows.store import connect

    ensemble = open_ensemble(connect(), plan)
    fill(connect(), ensemble, votes)
    store = connect()
    started = time.perf_counter()
    read = read_ensemble(store, store.client.get_run(ensemble.run_id))
    assembly = assemble(store, read)
    counts = count_votes(assembly.votes, plan.m, plan.n_test, plan.classes)
    return time.perf_counter() - started, counts


def main() -> None:
    flags = argparse.ArgumentParser(prog="python -m benchmarks.certify", description=__doc__.splitlines()[0])
    flags.add_argument("--quick", action="store_true", help="100 models in the store in place of 1,000")
    m = 100 if flags.parse_args().quick else 1000
    generator = np.random.default_rng(0)
    favourite = generator.integers(0, CLASSES, POINTS)
    follows = generator.random((m, POINTS)) < generator.beta(4, 1, POINTS)
    votes = np.where(follows, favourite, generator.integers(0, CLASSES, (m, POINTS)))
    counts = count_votes(dict(enumerate(votes)), m, POINTS, CLASSES)

    arithmetic = {}
    for method in ("binary", "split", "margin"):
        started = time.perf_counter()
        certify(counts, m, 1.0, 0.001 / POINTS, method, counts if method == "split" else None)
        arithmetic[method] = round(time.perf_counter() - started, 3)

    named = dict.fromkeys(("raw_digest", "test_digest", "code_digest"), "benchmark")
    absent = dict.fromkeys(("denoiser_digest", "denoiser_state", "initial_digest", "initial_state"))
    rule = {"alpha": 0.001, "method": "binary", "simultaneous": False, "selection": 0, "test_sigma": 0.0}
    recipe = {"warm_epochs": 0, "normalise": "constants"}
    plan = Plan(
        m=m, sigma=1.0, recipe=recipe, classes=CLASSES, n_test=POINTS, entropy_spec="os", **named, **absent, **rule
    )
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{Path(folder).resolve()}/.mlflow/mlflow.db"
        elapsed, read = seconds_to_assemble(plan, votes)
    if not np.array_equal(read, counts):
        raise AssertionError("the counts read back are not the counts that were stored")

    print(
        f"\ncertify, m = {m}, {POINTS:,} points, {CLASSES} classes: "
        + ", ".join(f"{k} {v} s" for k, v in arithmetic.items())
    )
    print(
        f"assemble {m} draws ({m + FAILED} child runs) from SQLite: {elapsed:.1f} s, {1000 * elapsed / m:.1f} ms a draw"
    )
    figures = {"m": m, "points": POINTS, "classes": CLASSES, "child_runs": m + FAILED}
    figures |= {"certify_seconds": arithmetic, "assemble_seconds": round(elapsed, 2)}
    record("certify_quick" if m < 1000 else "certify", figures)


if __name__ == "__main__":
    errors.run(main)
