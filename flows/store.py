"""The MLflow store: plans, draws and registered versions. Nothing in it is believed without its hash."""

import json
import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag, ViewType
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS
from mlflow.utils.time import get_current_time_millis

from cleanlabel.flows.local import prepare
from cleanlabel.flows.refusal import absent, answering, refused, without_password
from cleanlabel.sanitize.errors import InputError

EXPERIMENT = "cleanlabel"
SMOOTHED = "smoothed-classifier"
SANITIZED = "sanitized-classifier"
TAG = "cleanlabel."


@dataclass(frozen=True)
class Store:
    """A connection to the tracking store and registry, and the project's experiment in it."""

    client: MlflowClient
    experiment_id: str


def connect() -> Store:
    """The store that MLFLOW_TRACKING_URI names; its experiment is made if there is none. InputError if it is away."""
    uri = os.environ["MLFLOW_TRACKING_URI"]
    mlflow.set_tracking_uri(uri)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # it logs tracebacks of what it raises
    with answering():
        artifacts = prepare(EXPERIMENT)
        client = MlflowClient(tracking_uri=uri)
        experiment = client.get_experiment_by_name(EXPERIMENT)
        if experiment is not None:
            return Store(client, experiment.experiment_id)
        try:
            return Store(client, client.create_experiment(EXPERIMENT, artifact_location=artifacts))
        except MlflowException:  # unless another process made it meanwhile
            experiment = client.get_experiment_by_name(EXPERIMENT)
            if experiment is None:
                raise
            return Store(client, experiment.experiment_id)


def find_runs(store: Store, filter_string: str, *, deleted: bool = False) -> list[Run]:
    """Every run that matches, page after page, oldest first; with `deleted`, also those somebody deleted."""
    runs: list[Run] = []
    token = None
    while True:
        page = store.client.search_runs(
            [store.experiment_id],
            filter_string,
            ViewType.ALL if deleted else ViewType.ACTIVE_ONLY,
            max_results=1000,
            order_by=["attributes.start_time ASC"],
            page_token=token,
        )
        runs += page
        token = page.token
        if not token:
            return runs


def create_run(
    store: Store,
    name: str,
    tags: dict[str, str],
    params: dict[str, Any],
    metrics: dict[str, float] | None = None,
    parent_id: str | None = None,
    start_time: int | None = None,
    files: dict[str, bytes] | None = None,
) -> str:
    """A new run's id, all it has to say in few calls. Tags get the project's prefix; DVC's stage is noted.

    start_time: when its work began, in milliseconds; now by default. files: artifacts by their path in the run.
    """
    lineage = {"dvc.stage": os.environ["DVC_STAGE"]} if "DVC_STAGE" in os.environ else {}
    nesting = {"mlflow.parentRunId": parent_id} if parent_id else {}
    run = store.client.create_run(
        store.experiment_id,
        start_time=start_time,
        tags={f"{TAG}{k}": v for k, v in tags.items()} | lineage | nesting,
        run_name=name,
    )
    now = get_current_time_millis()
    store.client.log_batch(
        run.info.run_id,
        metrics=[Metric(k, v, now, 0) for k, v in (metrics or {}).items()],
        params=[Param(k, str(v)) for k, v in params.items()],
    )
    if files:
        _write_files(get_artifact_repository(run.info.artifact_uri, tracking_uri=store.client.tracking_uri), files)
    return str(run.info.run_id)


def log_inputs(store: Store, run_id: str, digests: dict[str, str]) -> None:
    """The data sets and models a run is made from, by name and digest. MLflow keeps 36 characters of a digest."""
    inputs = [
        DatasetInput(
            Dataset(name, digest[:36], "dvc", json.dumps({"sha256": digest})), [InputTag("mlflow.data.context", name)]
        )
        for name, digest in digests.items()
    ]
    store.client.log_inputs(run_id, inputs)


def log_metrics(store: Store, run_id: str, metrics: dict[str, float], tags: dict[str, str] | None = None) -> None:
    """Metrics and tags of a run in one call."""
    now = get_current_time_millis()
    store.client.log_batch(
        run_id,
        metrics=[Metric(k, v, now, 0) for k, v in metrics.items()],
        tags=[RunTag(f"{TAG}{k}", v) for k, v in (tags or {}).items()],
    )


def log_files(store: Store, run_id: str, files: dict[str, bytes]) -> None:
    """Artifacts of a run, by their path in it."""
    uri = store.client.get_run(run_id).info.artifact_uri
    _write_files(get_artifact_repository(uri, tracking_uri=store.client.tracking_uri), files)


def _write_files(repository: ArtifactRepository, files: dict[str, bytes]) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        for name, content in files.items():
            path = Path(scratch) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        repository.log_artifacts(scratch)


def log_directory(store: Store, run_id: str, directory: Path, name: str) -> None:
    """All files of a directory as artifacts of a run, under `name`."""
    store.client.log_artifacts(run_id, str(directory), name)


def read_directory(store: Store, run_id: str, name: str, scratch: Path) -> Path:
    """A run's artifacts under `name`, in a local directory. InputError if there are none."""
    try:
        uri = store.client.get_run(run_id).info.artifact_uri
        repository = get_artifact_repository(uri, tracking_uri=store.client.tracking_uri)
        return Path(repository.download_artifacts(name, str(scratch)))
    except (MlflowException, OSError) as error:
        if refused(error):
            raise
        raise InputError(f"run {run_id} has no readable artifacts {name}") from error


@contextmanager
def system_metrics(store: Store, run_id: str) -> Iterator[None]:
    """Log this machine's load to a run while something runs: once, on the ensemble's run, not on its draws'."""
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor  # imported late: only smooth needs it

    monitor = SystemMetricsMonitor(run_id, resume_logging=True, tracking_uri=store.client.tracking_uri)
    monitor.start()
    try:
        yield
    finally:
        monitor.finish()


def read_file(store: Store, run: Run | str, name: str) -> bytes:
    """One artifact of a run (or of the run with this id). InputError if it is not there."""
    found = run if isinstance(run, Run) else store.client.get_run(run)
    with tempfile.TemporaryDirectory() as scratch:
        try:
            repository = get_artifact_repository(found.info.artifact_uri, tracking_uri=store.client.tracking_uri)
            return Path(repository.download_artifacts(name, scratch)).read_bytes()
        except (MlflowException, OSError) as error:
            if refused(error):
                raise
            raise InputError(f"run {found.info.run_id} has no readable artifact {name}") from error


def read_json(store: Store, run_id: str, name: str) -> dict[str, Any]:
    """One JSON artifact of a run, an object."""
    found = read_file(store, run_id, name)
    try:
        content = json.loads(found)
    except ValueError as error:
        raise InputError(f"the artifact {name} of run {run_id} is no JSON ({error})") from error
    if not isinstance(content, dict):
        raise InputError(f"the artifact {name} of run {run_id} holds no JSON object")
    return content


def finish(store: Store, run_id: str, status: str = "FINISHED") -> None:
    """End a run. The last thing done to it: a finished run is complete."""
    store.client.set_terminated(run_id, status)


def register(store: Store, name: str, run_id: str, directory: str, tags: dict[str, str], description: str) -> int:
    """Register a run's artifact directory as the next version of `name`; the version of that run if it has one.

    The run's logged model names its version, as MLflow's Models view shows it.
    """
    client = store.client
    if not client.search_registered_models(f"name = '{name}'"):
        try:
            client.create_registered_model(name)
        except MlflowException:  # somebody else made it meanwhile
            client.get_registered_model(name)
    present = client.search_model_versions(f"name = '{name}' and run_id = '{run_id}'")
    if present:
        return int(present[0].version)
    source = f"{client.get_run(run_id).info.artifact_uri}/{directory}"
    made = client.create_model_version(
        name, source, run_id, tags={f"{TAG}{k}": v for k, v in tags.items()}, description=description
    )
    for model in client.search_logged_models([store.experiment_id], f"source_run_id = '{run_id}'"):
        link = json.dumps([{"name": name, "version": str(made.version)}])
        client.set_logged_model_tags(model.model_id, {MLFLOW_MODEL_VERSIONS: link})
    return int(made.version)


def get_version(store: Store, name: str, version: int) -> ModelVersion:
    """A registered version. InputError if there is none of that number."""
    try:
        return store.client.get_model_version(name, str(version))
    except MlflowException as error:
        if not absent(error):
            raise
        raise InputError(f"{name} has no version {version} in the registry") from error


def tag_version(store: Store, version: ModelVersion, tags: dict[str, str]) -> None:
    """Set tags of a registered version, with the project's prefix."""
    for name, value in tags.items():
        store.client.set_model_version_tag(version.name, str(version.version), f"{TAG}{name}", value)


def set_alias(store: Store, version: ModelVersion, alias: str) -> None:
    """Let `alias` name this version of its model, and no other."""
    store.client.set_registered_model_alias(version.name, alias, str(version.version))


def clear_alias(store: Store, version: ModelVersion, *aliases: str) -> None:
    """Take these aliases from this version, if it has them."""
    held = aliases_of(store, version.name)
    for alias in aliases:
        if held.get(alias) == int(version.version):
            store.client.delete_registered_model_alias(version.name, alias)


def page_of(version: ModelVersion) -> str | None:
    """Where the version stands on the tracking server's page; None without a server."""
    uri = os.environ["MLFLOW_TRACKING_URI"]
    if not uri.startswith(("http://", "https://")):
        return None
    address = without_password(uri).replace("***@", "").rstrip("/")
    return f"{address}/#/models/{version.name}/versions/{version.version}"


def aliases_of(store: Store, name: str) -> dict[str, int]:
    """The version each alias of a registered model names."""
    try:
        return {alias: int(number) for alias, number in store.client.get_registered_model(name).aliases.items()}
    except MlflowException as error:
        if not absent(error):
            raise
        return {}  # no such model: nothing was registered yet


def all_versions(store: Store, name: str) -> list[ModelVersion]:
    """Every version of a registered model, page after page, oldest first."""
    found: list[ModelVersion] = []
    token = None
    while True:
        page = store.client.search_model_versions(f"name = '{name}'", max_results=1000, page_token=token)
        found += page
        token = page.token
        if not token:
            return sorted(found, key=lambda version: int(version.version))


def version_of_plan(store: Store, name: str, plan_digest: str) -> ModelVersion:
    """The newest version of `name` whose ensemble has this plan. InputError if there is none."""
    found = store.client.search_model_versions(f"name = '{name}' and tags.`{TAG}plan` = '{plan_digest}'")
    if not found:
        raise InputError(f"the registry has no version of {name} for plan {plan_digest[:12]}; run `dvc repro smooth`")
    return max(found, key=lambda version: int(version.version))
