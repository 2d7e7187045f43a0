"""A real ensemble of fourteen small models in a real store: planned, trained, registered, certified; then copied."""

import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from mlflow.entities.model_registry import ModelVersion
from mlflow.tracking._tracking_service.utils import _artifact_repos_cache
from models_recipes import PLAN, QUICK
from ruamel.yaml import YAML

from cleanlabel.flows.artifacts import CERTIFICATE_ARTIFACT
from cleanlabel.flows.certificate.checks import Check, audit
from cleanlabel.flows.certificate.gate import Verdict, promote, run_gate
from cleanlabel.flows.certificate.record import Certified, certify_version
from cleanlabel.flows.certificate.sealed import seal_certificate
from cleanlabel.flows.certify import (
    publish,
    seal_and_promote,
    seal_if_never,
    write_card,
    write_page,
    write_reports,
)
from cleanlabel.flows.ensemble import worker
from cleanlabel.flows.ensemble.assembly import assemble
from cleanlabel.flows.ensemble.making import make_draws, make_version, register_ensemble
from cleanlabel.flows.ensemble.opening import open_ensemble
from cleanlabel.flows.ensemble.record import Ensemble, read_ensemble
from cleanlabel.flows.ensemble.seal import write_seal
from cleanlabel.flows.store.client import Store, connect, read_json
from cleanlabel.flows.store.registry import SMOOTHED, get_version
from cleanlabel.models.draw_sources import code_digest
from cleanlabel.models.params import CertifyParams, GateParams
from cleanlabel.models.plan import Plan, recipe_of
from cleanlabel.sanitize.content import content_digest
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.imageset import load, save_npz
from cleanlabel.sanitize.ingest import digits
from cleanlabel.sanitize.params import read_params
from cleanlabel.sanitize.paths import SETS

ROOT = Path(__file__).resolve().parents[1]
M = 14
RECIPE = recipe_of(QUICK.model_copy(update={"architecture": "linear", "epochs": 15, "learning_rate": 0.02}))


@dataclass(frozen=True)
class Registered:
    """A registered version and where it stands."""

    store: Store
    ensemble: Ensemble
    version: ModelVersion

    @property
    def number(self) -> int:
        return int(self.version.version)

    def run_of(self, draw: int) -> str:
        return assemble(self.store, self.ensemble).runs[draw].info.run_id

    def certify(self, **changes: object) -> Certified:
        """What `flows.certify` does before the gate is asked; the reports in the working directory are written."""
        params = read_params("certify", CertifyParams).model_copy(update=changes)
        version = get_version(self.store, SMOOTHED, self.number)
        raw, test = load(SETS["raw"]), load(SETS["test"])
        certified, entropy = certify_version(self.store, version, raw, test, params)
        write_reports.fn(certified, raw, test, entropy)
        publish.fn(self.store, version, certified.certificate)
        return replace(certified, certificate=seal_certificate(self.store, version, certified.certificate))

    def gate(self, certified: Certified | None = None, **changes: object) -> Verdict:
        """What the gate says with these thresholds, sealed and promoted; by default everything passes."""
        lenient = {"accuracy": 0.0, "certified_accuracy": [], "entropy": "os", "replay": 0, "approval": "review"}
        params = GateParams.model_validate(lenient | changes)
        version = get_version(self.store, SMOOTHED, self.number)
        certified = certified or self.certify()
        verdict = run_gate(self.store, version, certified, load(SETS["test"]).labels, params)
        sealed = seal_certificate(self.store, version, certified.certificate)
        return promote(self.store, version, verdict, params, sealed)

    def certify_whole(self) -> Verdict:
        """What `flows.certify` does, but for Prefect, by the gate of params.yaml."""
        params = read_params("gate", GateParams)
        version = seal_if_never(self.store, get_version(self.store, SMOOTHED, self.number))
        raw, test = load(SETS["raw"]), load(SETS["test"])
        certified, entropy = certify_version(self.store, version, raw, test, read_params("certify", CertifyParams))
        write_reports.fn(certified, raw, test, entropy)
        publish.fn(self.store, version, certified.certificate)
        verdict = run_gate(self.store, version, certified, test.labels, params)
        write_card(self.store, version, certified.certificate, verdict)
        write_page.fn(self.store, version, certified, verdict, raw, test)
        return seal_and_promote.fn(self.store, version, certified.certificate, verdict, params)[1]

    def tags(self) -> dict[str, str]:
        return get_version(self.store, SMOOTHED, self.number).tags

    def audit(self, replay: int = 0) -> list[Check]:
        return list(audit(self.store, self.number, replay))

    def failures(self) -> list[str]:
        return [f"{check.name}: {check.found}" for check in self.audit() if not check.passed]


def seal_again(store: Store, number: int) -> None:
    """What somebody can do who may write to the store: a seal, and a certificate that names it, for what is there."""
    version = get_version(store, SMOOTHED, number)
    try:
        attached = read_json(store, version.run_id, CERTIFICATE_ARTIFACT)
    except InputError:
        write_seal(store, version)
    else:
        seal_certificate(store, version, attached)


def make_sets() -> None:
    """The working directory's data and params: 150 digits to train on, 40 to test on."""
    sets = digits(600, 150, 0)
    save_npz(sets["raw"], SETS["raw"])
    save_npz(sets["test"].take(np.arange(40)), SETS["test"])
    shutil.copy(ROOT / "params.yaml", "params.yaml")


def set_params(**sections: dict) -> None:
    """Change the working directory's params.yaml."""
    yaml, path = YAML(), Path("params.yaml")
    content = yaml.load(path)
    for section, changes in sections.items():
        content[section].update(changes)
    yaml.dump(content, path)


def make_plan(**changes: object) -> Plan:
    """A plan for the sets of the working directory: noise only, so that a draw takes milliseconds."""
    raw = load(SETS["raw"])
    plan = replace(
        PLAN,
        m=M,
        sigma=0.5,
        raw_digest=raw.digest,
        raw_content=content_digest(raw),
        test_digest=load(SETS["test"]).digest,
        denoiser_digest=None,
        denoiser_state=None,
        recipe=RECIPE,
        classes=10,
        n_test=40,
        code_digest=code_digest(),
    )
    return replace(plan, **changes)


def make_ensemble(store: Store, keep: int | str = "all", **changes: object) -> Registered:
    """Plan, train, assemble and register, as `flows.smooth` does in its processes."""
    ensemble = open_ensemble(store, make_plan(**changes))
    version = make_version(store, ensemble, InThisProcess(keep))
    return Registered(store, ensemble, get_version(store, SMOOTHED, version))


@dataclass
class InThisProcess:
    """Runs batches one after the other in this process, where `flows.smooth` has Prefect. The first `lose` get lost."""

    keep: int | str = "none"
    lose: int = 0
    given: list[tuple[range, list[int]]] = field(default_factory=list)

    def __call__(self, ensemble: Ensemble, batches: list[tuple[range, list[int]]], _planned: int) -> None:
        lost, self.lose = min(self.lose, len(batches)), max(0, self.lose - len(batches))
        self.given += batches
        for batch, wanted in batches[lost:]:
            worker.train_batch(ensemble.run_id, batch, wanted, self.keep, "processes")
        if lost:
            raise InputError(f"{lost} of {len(batches)} batches failed")


def grow(store: Store, ensemble: Ensemble) -> Ensemble:
    """Make the draws, look for look."""
    return make_draws(store, ensemble, InThisProcess("all"))


def registered(store: Store, ensemble: Ensemble) -> Registered:
    """From finished draws to a version."""
    return Registered(store, ensemble, get_version(store, SMOOTHED, register_ensemble(store, ensemble)))


def the_version(store: Store, number: int) -> Registered:
    """A version that is registered already."""
    found = get_version(store, SMOOTHED, number)
    return Registered(store, read_ensemble(store, store.client.get_run(found.run_id)), found)


def copy_of(snapshot: Path, target: Path) -> Store:
    """A copy of a working directory with its store. `target` must be the one now."""
    shutil.copytree(snapshot, target, dirs_exist_ok=True)
    return connect_here()


def enter_copy(snapshot: Path, target: Path, patch: pytest.MonkeyPatch) -> Store:
    """Make a copy of a working directory with its store, and make that the working directory."""
    shutil.copytree(snapshot, target, dirs_exist_ok=True)
    return enter(target, patch)


def enter(folder: Path, patch: pytest.MonkeyPatch, empty_database: Path | None = None) -> Store:
    """Make it the working directory, and connect to the store in it: a copy of `empty_database` if one is given."""
    patch.chdir(folder)
    if empty_database:
        Path(".mlflow").mkdir()
        shutil.copy(empty_database, ".mlflow/mlflow.db")
    patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/.mlflow/mlflow.db")
    return connect_here()


def connect_here() -> Store:
    """The store of the working directory, in a process that has read it elsewhere."""
    forget_elsewhere()
    return connect()


def forget_elsewhere() -> None:
    """Forget what this process has read in another working directory."""
    worker._inputs.cache_clear()
    _artifact_repos_cache.clear()  # MLflow remembers where a run's artifacts lay
