"""Flow `certify`: compute the certificate of a registered ensemble from its votes.

    python -m flows.certify [--version N]

It reads the ensemble from the MLflow registry and its votes from its runs, writes reports/, attaches them to the
registered version, and judges that version by the gate. Last, everything that the version has is sealed, and the
certificate names the seal.
"""

import argparse
import base64
import json
from typing import Any

import numpy as np
from mlflow.entities.model_registry import ModelVersion
from prefect import flow, task
from prefect.artifacts import (
    create_image_artifact,
    create_link_artifact,
    create_markdown_artifact,
    create_table_artifact,
)
from prefect.cache_policies import NO_CACHE

from cleanlabel.flows.artifacts import (
    CERTIFICATE,
    CURVE,
    CURVE_PICTURE,
    EXAMPLES,
    GATE,
    METRICS,
    PAGE,
)
from cleanlabel.flows.certificate.comparison import previous_version
from cleanlabel.flows.certificate.gate import Verdict, promote, run_gate, tell_verdict
from cleanlabel.flows.certificate.record import Certified, certify_version, metrics_of, tags_of
from cleanlabel.flows.certificate.reviews import about, described, history, with_reviews
from cleanlabel.flows.certificate.sealed import FIGURES, PICTURES, attached_as, seal_certificate
from cleanlabel.flows.certificate.wording import title
from cleanlabel.flows.ensemble.seal import is_sealed, stale_tags, write_seal
from cleanlabel.flows.orchestration.log import note
from cleanlabel.flows.orchestration.server import prefect_server
from cleanlabel.flows.report.card import card
from cleanlabel.flows.report.curve import curve_radii, draw_curve, write_curve, write_points
from cleanlabel.flows.report.page import environments_of, render
from cleanlabel.flows.report.tables import table
from cleanlabel.flows.store.client import Store, connect, find_runs, log_files
from cleanlabel.flows.store.errors import translate_store_errors
from cleanlabel.flows.store.registry import (
    SMOOTHED,
    aliases_of,
    clear_tags,
    describe_version,
    get_version,
    page_of,
    tag_version,
    version_of_plan,
)
from cleanlabel.models.certificate import certified_accuracy
from cleanlabel.models.params import CertifyParams, GateParams
from cleanlabel.sanitize import errors
from cleanlabel.sanitize.denoiser import load_denoiser
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.files import replacing, write_json
from cleanlabel.sanitize.imageset import ImageSet, load
from cleanlabel.sanitize.noise import Entropy
from cleanlabel.sanitize.params import read_params
from cleanlabel.sanitize.paths import DENOISER, ENSEMBLE, POINTS, SETS
from cleanlabel.sanitize.preview import contact_sheet

compute_certificate = task(certify_version, name="compute", cache_policy=NO_CACHE, persist_result=False)


@task(name="report", cache_policy=NO_CACHE, persist_result=False)
def write_reports(certified: Certified, raw: ImageSet, test: ImageSet, entropy: Entropy) -> None:
    """Write the certificate's files in reports/, and its points under data/."""
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


@task(name="publish", cache_policy=NO_CACHE, persist_result=False)
def publish(store: Store, version: ModelVersion, certificate: dict[str, Any]) -> None:
    """Attach the certificate, its pictures and its key figures to the registered version."""
    files = (CERTIFICATE, *PICTURES, *FIGURES)
    log_files(store, version.run_id, {attached_as(path): path.read_bytes() for path in files})
    tags = tags_of(certificate)
    clear_tags(store, version, [key for key in stale_tags(version) if key not in tags])
    tag_version(store, version, tags)


@task(name="gate", cache_policy=NO_CACHE, persist_result=False)
def hold_against_gate(
    store: Store, version: ModelVersion, certified: Certified, test: ImageSet, params: GateParams
) -> Verdict:
    """Audit and judge the version; write the verdict and the model card."""
    verdict = run_gate(store, version, certified, test.labels, params)
    words = write_card(store, version, certified.certificate, verdict)
    create_markdown_artifact(words, key="certificate", description=f"{SMOOTHED} version {version.version}")
    show_on_prefects_page(certified.certificate, version)
    return verdict


def write_card(store: Store, version: ModelVersion, certificate: dict[str, Any], verdict: Verdict) -> str:
    """Describe the version by its card and its reviews, and write and attach the verdict. Returns the card."""
    words = card(certificate, verdict, int(version.version), seconds_a_model(store, version.run_id))
    describe_version(store, version, described(words, about(history(), certificate)))
    write_json(GATE, verdict.as_dict())
    log_files(store, version.run_id, {attached_as(GATE): GATE.read_bytes()})
    return words


def seal_if_never(store: Store, version: ModelVersion) -> ModelVersion:
    """The version, sealed as it is now if it was registered by a release that sealed none."""
    if is_sealed(store, version):
        return version
    write_seal(store, version)
    print(f"note: {SMOOTHED} version {version.version} was registered before versions were sealed; sealed as it is now")
    return get_version(store, SMOOTHED, int(version.version))


def show_on_prefects_page(certificate: dict[str, Any], version: ModelVersion) -> None:
    """Show the table, the curve and a link to the version as artifacts of the flow run."""
    words = f"{SMOOTHED} version {version.version}: {title(certificate)}"
    create_table_artifact(certificate["at_radii"], key="certified-accuracy", description=words)
    picture = base64.b64encode(CURVE_PICTURE.read_bytes()).decode()
    create_image_artifact(f"data:image/png;base64,{picture}", key="certified-accuracy-curve", description=words)
    page = page_of(version)
    if page:
        create_link_artifact(page, link_text=words, key="mlflow-version", description="in the MLflow registry")


@task(name="page", cache_policy=NO_CACHE, persist_result=False)
def write_page(
    store: Store, version: ModelVersion, certified: Certified, verdict: Verdict | None, raw: ImageSet, test: ImageSet
) -> None:
    """Attach the review page to the version, beside its certificate; the one in reports/ also shows the reviews."""
    page = render(
        certified,
        verdict,
        int(version.version),
        raw,
        test,
        EXAMPLES.read_bytes(),
        previous_version(store, version),
        environments_of(store, version.run_id),
    )
    log_files(store, version.run_id, {attached_as(PAGE): page.encode()})
    with replacing(PAGE) as scratch:
        scratch.write_text(with_reviews(page, about(history(), certified.certificate)), encoding="utf-8")


@task(name="seal", cache_policy=NO_CACHE, persist_result=False)
def seal_and_promote(
    store: Store, version: ModelVersion, certificate: dict[str, Any], verdict: Verdict, params: GateParams
) -> tuple[dict[str, Any], Verdict]:
    """Seal all that the version has now, and then move its aliases. Returns the certificate with its seal."""
    sealed = seal_certificate(store, version, certificate)
    return sealed, promote(store, version, verdict, params, sealed)


def seconds_a_model(store: Store, run_id: str) -> float | None:
    """Mean seconds of work per smoothed model (sanitizing and training) over the ensemble's draws."""
    runs = find_runs(store, f"tags.mlflow.parentRunId = '{run_id}' and attributes.status = 'FINISHED'")
    spent = [run.data.metrics["sanitize_seconds"] + run.data.metrics["train_seconds"] for run in runs]
    return float(np.mean(spent)) if spent else None


@flow(name="certify", persist_result=False)
def certify(version: int | None = None) -> dict[str, Any]:
    """Certify a registered ensemble: the given version, or the one that `dvc repro smooth` made last."""
    params, thresholds = read_params("certify", CertifyParams), read_params("gate", GateParams)
    with translate_store_errors():
        store = connect()
        found = pipelines_version(store) if version is None else get_version(store, SMOOTHED, version)
        raw, test = load(SETS["raw"]), load(SETS["test"])
        found = seal_if_never(store, found)
        certified, entropy = compute_certificate(store, found, raw, test, params)
        write_reports(certified, raw, test, entropy)
        certificate = certified.certificate
        publish(store, found, certificate)
        verdict = hold_against_gate(store, found, certified, test, thresholds)
        write_page(store, found, certified, verdict, raw, test)
        certificate, verdict = seal_and_promote(store, found, certificate, verdict, thresholds)
        held = [alias for alias, number in aliases_of(store, SMOOTHED).items() if number == int(found.version)]
        tell_verdict(int(found.version), verdict, held)
        print(f"{SMOOTHED} version {found.version}: {title(certificate)}\n")
        print(table(certificate, seconds_a_model(store, found.run_id)))
        note(
            "certified",
            ensemble=certificate["plan_digest"][:12],
            version=int(found.version),
            gate="passed" if verdict.passed else "failed",
        )
        print(f"\ngate {'passed' if verdict.passed else f'not passed: {verdict.reasons}'}")
        for move in verdict.moves:
            print(move)
    return certificate


def pipelines_version(store: Store) -> ModelVersion:
    """The version of the ensemble in data/."""
    description = ENSEMBLE / "ensemble.json"
    if not description.is_file():
        raise InputError(f"{ENSEMBLE} does not exist; run `dvc repro smooth`")
    return version_of_plan(store, SMOOTHED, json.loads(description.read_text())["plan_digest"])


def parser() -> argparse.ArgumentParser:
    """The command's flags."""
    flags = argparse.ArgumentParser(prog="python -m flows.certify", description=__doc__.splitlines()[0])
    flags.add_argument("--version", type=int, help="a registered version (default: the pipeline's own)")
    return flags


def main() -> None:
    version = parser().parse_args().version
    with prefect_server():
        state = certify(version, return_state=True)
    if not state.is_completed():
        state.result()  # raises the error that stopped the flow


if __name__ == "__main__":
    errors.run(main)
