"""Seconds of a certificate: its arithmetic, and reading a thousand models back from the store.

    python -m benchmarks.certify [--quick]

A store of its own on SQLite, in a temporary folder, with one finished draw per model and a few failed ones, so that
they fill more than one page. The votes are random.
"""

import os
import tempfile
import time
from contextlib import chdir
from pathlib import Path

import numpy as np
from ruamel.yaml import YAML
from tqdm import trange

from benchmarks.common.record import flags, record, results
from cleanlabel.models.certificate import certify
from cleanlabel.models.plan import Plan
from cleanlabel.models.votes import count_votes, votes_hash, votes_to_bytes
from cleanlabel.sanitize import errors
from cleanlabel.sanitize.imageset import ImageSet, save_npz
from cleanlabel.sanitize.paths import SETS

ROOT = Path(__file__).resolve().parents[1]
SIGMA, POINTS, CLASSES, FAILED = 1.0, 10_000, 10, 30


def planned(m: int) -> Plan:
    """The plan that the pipeline makes of the project's params and random sets, for m models, in the working directory.

    Noise only, so that no denoiser is needed.
    """
    from cleanlabel.flows.ensemble.planning import make_plan

    images = np.random.default_rng(0).integers(0, 256, (POINTS, 2, 2, 1), dtype=np.uint8)
    ids, labels, names = tuple(map(str, range(POINTS))), np.arange(POINTS) % CLASSES, tuple(map(str, range(CLASSES)))
    test = ImageSet(images, labels, ids, names)
    save_npz(test, SETS["test"])
    save_npz(test.take(np.arange(10 * CLASSES)), SETS["raw"])
    reader = YAML()
    params = reader.load(ROOT / "params.yaml")
    params["sanitize"] |= {"denoise": False, "sigma": SIGMA}
    params["smooth"] |= {"m": m, "partitions": 1, "selection": 0, "test_sigma": 0.0, "stopping": "none", "looks": None}
    params["certify"] |= {"method": "binary", "simultaneous": False}
    reader.dump(params, Path("params.yaml"))
    return make_plan()


def fill(store, ensemble, votes: np.ndarray) -> None:
    """Child runs as `smooth` leaves them: a finished one per draw, and some that failed."""
    from cleanlabel.flows.ensemble.record import draw_params, draw_tags
    from cleanlabel.flows.store.client import create_run, finish, log_files, log_metrics

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
    from cleanlabel.flows.ensemble.assembly import assemble
    from cleanlabel.flows.ensemble.opening import open_ensemble
    from cleanlabel.flows.ensemble.record import read_ensemble
    from cleanlabel.flows.store.client import connect

    ensemble = open_ensemble(connect(), plan)
    fill(connect(), ensemble, votes)
    store = connect()
    started = time.perf_counter()
    read = read_ensemble(store, store.client.get_run(ensemble.run_id))
    assembly = assemble(store, read)
    counts = count_votes(assembly.votes, plan.m, plan.n_test, plan.classes)
    return time.perf_counter() - started, counts


def main() -> None:
    parser = flags("certify", __doc__, "20 models in the store in place of 1,000")
    args = parser.parse_args()
    m = 20 if args.quick else 1000
    generator = np.random.default_rng(0)
    favourite = generator.integers(0, CLASSES, POINTS)
    follows = generator.random((m, POINTS)) < generator.beta(4, 1, POINTS)
    votes = np.where(follows, favourite, generator.integers(0, CLASSES, (m, POINTS)))
    counts = count_votes(dict(enumerate(votes)), m, POINTS, CLASSES)

    arithmetic = {}
    for method in ("binary", "split", "margin"):
        started = time.perf_counter()
        certify(counts, m, SIGMA, 0.001 / POINTS, method, counts if method == "split" else None)
        arithmetic[method] = round(time.perf_counter() - started, 3)

    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{Path(folder).resolve()}/.mlflow/mlflow.db"
        elapsed, read = seconds_to_assemble(planned(m), votes)
    if not np.array_equal(read, counts):
        raise AssertionError("the counts read back are not the counts that were stored")

    print(
        f"\ncertify, m = {m}, {POINTS:,} points, {CLASSES} classes: "
        + ", ".join(f"{k} {v} s" for k, v in arithmetic.items())
    )
    print(f"assemble {m} draws ({m + FAILED} runs) from SQLite: {elapsed:.1f} s, {1000 * elapsed / m:.1f} ms per draw")
    figures = {"m": m, "points": POINTS, "classes": CLASSES, "child_runs": m + FAILED}
    figures |= {"certify_seconds": arithmetic, "assemble_seconds": round(elapsed, 2)}
    record("certify", figures, results(args))


if __name__ == "__main__":
    errors.run(main)
