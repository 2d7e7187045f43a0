"""Flow `certify`: from the votes of a registered ensemble to its certificate.

    python -m flows.certify [--version N]

Reads the ensemble through the MLflow registry, its votes from its runs; writes reports/, attaches all of it to the
registered version.
"""

import argparse
import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from mlflow.entities.model_registry import ModelVersion
from numpy.typing import NDArray
from prefect import flow, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE

from flows.ensemble import Ensemble, Votes, read_ensemble, read_votes, recall_entropy, root_of
from flows.report import at_radii, curve_radii, draw_curve, table, title, write_curve, write_points
from flows.server import prefect_server
from flows.store import SMOOTHED, TAG, Store, answering, connect, find_runs, get_version, log_files, version_of_plan
from models.certificate import ABSTAIN, certified_accuracy
from models.certificate import certify as certify_counts
from models.params import CertifyParams
from models.votes import count_votes
from sanitize import errors
from sanitize.denoiser import load_denoiser
from sanitize.errors import InputError
from sanitize.files import write_json
from sanitize.imageset import ImageSet, load
from sanitize.noise import Entropy
from sanitize.params import read_params
from sanitize.paths import DENOISER, ENSEMBLE, POINTS, REPORTS, SETS
from sanitize.preview import contact_sheet

CERTIFICATE = REPORTS / "certificate.json"
CURVE = REPORTS / "certified_accuracy.csv"
CURVE_PICTURE = REPORTS / "certified_accuracy.png"
EXAMPLES = REPORTS / "sanitized_examples.png"
METRICS = REPORTS / "metrics.json"


@task(name="assemble", cache_policy=NO_CACHE, persist_result=False)
def assemble(store: Store, version: ModelVersion) -> tuple[Ensemble, Votes]:
    """The version's ensemble and its votes, checked against their hashes and against the registered root."""
    ensemble = read_ensemble(store, store.client.get_run(version.run_id))
    votes = read_votes(store, ensemble)
    root = root_of(votes, ensemble.plan.m)
    if version.tags.get(f"{TAG}votes_root") != root:
        raise InputError(f"the votes of {SMOOTHED} version {version.version} are not the ones that were registered")
    return ensemble, votes


@dataclass(frozen=True)
class Certified:
    """A certificate and what it was computed from: per test image the votes, the label and the radius."""

    certificate: dict[str, Any]
    counts: NDArray[np.int64]
    label: NDArray[np.int64]
    radius: NDArray[np.float64]


def compute(
    ensemble: Ensemble,
    votes: Votes,
    entropy: Entropy,
    test: ImageSet,
    image_shape: tuple[int, ...],
    radii: list[float],
    epsilon: float,
) -> Certified:
    """The certificate of these votes. The same votes, plan and test labels give the same certificate, to the byte."""
    plan = ensemble.plan
    if test.digest != plan.test_digest:
        raise InputError(
            f"{SETS['test']} is not the test set this ensemble voted on (digest {test.digest[:12]}, "
            f"not {plan.test_digest[:12]}); run `dvc repro`"
        )
    level = plan.level(ensemble.attempt)
    counts = count_votes(votes, plan.m, len(test), plan.classes)
    label, radius = certify_counts(counts, plan.m, plan.sigma, level, plan.method)
    unanimous = np.eye(1, plan.classes, dtype=np.int64) * plan.m
    largest = float(certify_counts(unanimous, plan.m, plan.sigma, level, plan.method)[1][0])
    certificate = {
        **plan.as_dict(),
        "attempt": ensemble.attempt,
        "level": level,
        "entropy_source": ensemble.entropy_source,
        "entropy_commitment": ensemble.commitment,
        "entropy": entropy.hex,
        "votes_root": root_of(votes, plan.m),
        "missing_draws": [draw for draw in range(plan.m) if draw not in votes],
        "vote_accuracy": round(float(np.mean(counts.argmax(axis=1) == test.labels)), 4),
        "abstentions": int(np.sum(label == ABSTAIN)),
        "largest_certifiable_radius": round(largest, 6),
        "epsilon": epsilon,
        "at_radii": at_radii(label, radius, test.labels, radii, epsilon, math.prod(image_shape)),
        "covers": "changed pixels of training images; labels and ids fixed; no image added or removed; joint l2 over "
        "the whole training set, in [0,1] pixel units; not the test input",
        "holds": "for all test points at once" if plan.simultaneous else "for each test point on its own",
        "passes_the_gate": ensemble.entropy_source == "os",
    }
    return Certified(certificate, counts, label, radius)


@task(name="report", cache_policy=NO_CACHE, persist_result=False)
def write_reports(certified: Certified, raw: ImageSet, test: ImageSet, entropy: Entropy) -> None:
    """The certificate's files in reports/, and its points under data/."""
    certificate = certified.certificate
    radii = curve_radii(float(certified.radius.max(initial=0)))
    accuracy = certified_accuracy(certified.label, certified.radius, test.labels, radii)
    denoiser = load_denoiser(DENOISER) if certificate["denoiser_digest"] else None
    write_curve(CURVE, radii, accuracy)
    draw_curve(CURVE_PICTURE, certificate, radii, accuracy)
    write_points(POINTS, test.ids, test.labels, certified.label, certified.radius, certified.counts)
    contact_sheet(raw, certificate["sigma"], denoiser, entropy.value, 0, EXAMPLES)
    write_json(METRICS, metrics_of(certificate))
    write_json(CERTIFICATE, certificate)


def metrics_of(certificate: dict[str, Any]) -> dict[str, float]:
    """The certificate's key figures by name."""
    return {
        "vote_accuracy": certificate["vote_accuracy"],
        "abstention_rate": round(certificate["abstentions"] / certificate["n_test"], 4),
    } | {
        f"certified_accuracy_r{row['radius']:.2f}".replace(".", "_"): row["certified_accuracy"]
        for row in certificate["at_radii"]
    }


@task(name="publish", cache_policy=NO_CACHE, persist_result=False)
def publish(store: Store, version: ModelVersion, certificate: dict[str, Any]) -> None:
    """Attach the certificate to the registered version and to Prefect's page."""
    files = (CERTIFICATE, CURVE, CURVE_PICTURE, EXAMPLES, POINTS)
    log_files(store, version.run_id, {f"ensemble/certificate/{path.name}": path.read_bytes() for path in files})
    metrics = metrics_of(certificate)
    tags = {name: str(value) for name, value in metrics.items()} | {
        "certified_at": f"sigma={certificate['sigma']:g} m={certificate['m']} level={certificate['level']:.3g}",
        "passes_the_gate": str(certificate["passes_the_gate"]).lower(),
    }
    for name, value in tags.items():
        store.client.set_model_version_tag(SMOOTHED, str(version.version), f"{TAG}{name}", value)
    words = f"{title(certificate)}\n\n{table(certificate, seconds_a_model(store, version.run_id))}\n\n"
    scope = f"Covers: {certificate['covers']}. Holds {certificate['holds']}."
    store.client.update_model_version(SMOOTHED, str(version.version), words + scope)
    create_markdown_artifact(words + scope, key="certificate", description=f"{SMOOTHED} version {version.version}")
    create_table_artifact(certificate["at_radii"], key="certified-accuracy", description=title(certificate))


def seconds_a_model(store: Store, run_id: str) -> float | None:
    """Seconds of work a smoothed model took (sanitizing and training), the mean over the ensemble's draws."""
    runs = find_runs(store, f"tags.mlflow.parentRunId = '{run_id}' and attributes.status = 'FINISHED'")
    spent = [run.data.metrics["sanitize_seconds"] + run.data.metrics["train_seconds"] for run in runs]
    return float(np.mean(spent)) if spent else None


@flow(name="certify", persist_result=False)
def certify(version: int | None = None) -> dict[str, Any]:
    """Certify a registered ensemble: the given version, or the one that `dvc repro smooth` made last."""
    params = read_params("certify", CertifyParams)
    with answering():
        store = connect()
        if version is None:
            if not (ENSEMBLE / "ensemble.json").is_file():
                raise InputError(f"{ENSEMBLE} does not exist; run `dvc repro smooth`")
            plan_digest = json.loads((ENSEMBLE / "ensemble.json").read_text())["plan_digest"]
            found = version_of_plan(store, SMOOTHED, plan_digest)
        else:
            found = get_version(store, SMOOTHED, version)
        ensemble, votes = assemble(store, found)
        if (params.alpha, params.method, params.simultaneous) != (
            ensemble.plan.alpha,
            ensemble.plan.method,
            ensemble.plan.simultaneous,
        ):
            raise InputError("certify.alpha, method or simultaneous are not the planned ones; run `dvc repro smooth`")
        raw, test, entropy = load(SETS["raw"]), load(SETS["test"]), recall_entropy(ensemble)
        certified = compute(ensemble, votes, entropy, test, raw.image_shape, params.radii, params.epsilon)
        write_reports(certified, raw, test, entropy)
        certificate = certified.certificate
        publish(store, found, certificate)
        print(f"{SMOOTHED} version {found.version}: {title(certificate)}\n")
        print(table(certificate, seconds_a_model(store, found.run_id)))
    return certificate


def main() -> None:
    flags = argparse.ArgumentParser(prog="python -m flows.certify", description=__doc__.splitlines()[0])
    flags.add_argument("--version", type=int, help="a registered version (default: the pipeline's own)")
    version = flags.parse_args().version
    with prefect_server():
        state = certify(version, return_state=True)
    if not state.is_completed():
        state.result()  # raises what stopped it


if __name__ == "__main__":
    errors.run(main)
