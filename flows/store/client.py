"""The MLflow store: runs and their files. Nothing in it is trusted unless its hash matches."""

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
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.tracking import MlflowClient
from mlflow.utils.time import get_current_time_millis

from cleanlabel.flows.store.errors import refused, translate_store_errors
from cleanlabel.flows.store.local import prepare
from cleanlabel.sanitize.errors import InputError

EXPERIMENT = "cleanlabel"
TAG = "cleanlabel."


@dataclass(frozen=True)
class Store:
    """A connection to the tracking store and registry, and the project's experiment in it."""

    client: MlflowClient
    experiment_id: str


def connect() -> Store:
    """The store that MLFLOW_TRACKING_URI names. Makes the experiment if it is missing. InputError if it is away."""
    uri = os.environ["MLFLOW_TRACKING_URI"]
    mlflow.set_tracking_uri(uri)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # it logs a traceback of each error
    with translate_store_errors():
        artifacts = prepare(EXPERIMENT)
        client = MlflowClient(tracking_uri=uri)
        experiment = client.get_experiment_by_name(EXPERIMENT)
        if experiment is not None:
            return Store(client, experiment.experiment_id)
        try:
            return Store(client, client.create_experiment(EXPERIMENT, artifact_location=artifacts))
        except MlflowException:  # unless another process has just made it
            experiment = client.get_experiment_by_name(EXPERIMENT)
            if experiment is None:
                raise
            return Store(client, experiment.experiment_id)


def find_runs(store: Store, filter_string: str, *, deleted: bool = False) -> list[Run]:
    """Every matching run from all pages, oldest first; with `deleted`, also deleted runs."""
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
    """Make a run with all its data in few calls. Returns its id. Tags get the project's prefix; DVC's stage is noted.

    start_time: the start of its work, in milliseconds (default: now). files: artifacts by their path in the run.
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
    """Log a run's data sets and models, by name and digest. MLflow keeps 36 characters of a digest."""
    inputs = [
        DatasetInput(
            Dataset(name, digest[:36], "dvc", json.dumps({"sha256": digest})), [InputTag("mlflow.data.context", name)]
        )
        for name, digest in digests.items()
    ]
    store.client.log_inputs(run_id, inputs)


def log_metrics(store: Store, run_id: str, metrics: dict[str, float], tags: dict[str, str] | None = None) -> None:
    """Log metrics and tags of a run in one call."""
    now = get_current_time_millis()
    store.client.log_batch(
        run_id,
        metrics=[Metric(k, v, now, 0) for k, v in metrics.items()],
        tags=[RunTag(f"{TAG}{k}", v) for k, v in (tags or {}).items()],
    )


def log_files(store: Store, run_id: str, files: dict[str, bytes]) -> None:
    """Log artifacts of a run, by their path in it."""
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
    """Log all files of a directory as artifacts of a run, under `name`."""
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
    """Log this machine's load to a run inside the block. Used for the ensemble's run, not for its draws."""
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor  # imported late: only smooth needs it

    monitor = SystemMetricsMonitor(run_id, resume_logging=True, tracking_uri=store.client.tracking_uri)
    monitor.start()
    try:
        yield
    finally:
        monitor.finish()


def read_file(store: Store, run: Run | str, name: str) -> bytes:
    """One artifact of a run (or of the run with this id). InputError if it is missing."""
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
    """One JSON artifact of a run, which must be an object."""
    found = read_file(store, run_id, name)
    try:
        content = json.loads(found)
    except ValueError as error:
        raise InputError(f"the artifact {name} of run {run_id} is not valid JSON ({error})") from error
    if not isinstance(content, dict):
        raise InputError(f"the artifact {name} of run {run_id} does not hold a JSON object")
    return content


def finish(store: Store, run_id: str, status: str = "FINISHED") -> None:
    """End a run. This is the last call for it: a finished run is complete."""
    store.client.set_terminated(run_id, status)
