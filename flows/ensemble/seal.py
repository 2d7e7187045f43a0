"""The seal of a registered version: the sha256 of every file and word that the store has of it.

The list is an artifact of the ensemble's run, beside the model. It is made when the version is registered, and again
when its certificate stands; the certificate then names its root. Left out are the certificate, which is compared field
by field, and what may change later: aliases and review tags (`flows.certificate.reviews`), times that MLflow keeps, and
the addresses of artifacts, which a project that moves changes. That an address is the run's own is checked.
"""

import hashlib
import json
import re
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mlflow.entities import LoggedModel, Run
from mlflow.entities.model_registry import ModelVersion
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

from cleanlabel import loading
from cleanlabel.flows.environment import state
from cleanlabel.flows.store.client import TAG, Store, find_runs, log_files, read_file
from cleanlabel.flows.store.registry import tag_version
from cleanlabel.sanitize.errors import InputError

DIRECTORY = "ensemble"
"""The directory of the registered model among its run's artifacts."""
ROOTS = ("seal", "registered_seal")
"""The certificate's fields with the roots of the whole list, and of what was registered."""
SEAL_TAG = "seal"
"""The version's tag with the root of what was registered. The certificate names the root of the whole."""
REVIEW_TAGS = ("review", "review_reason", "reviewed_by")
REVIEWS = "\n\n## Reviews\n\n"
"""What stands in a version's description between the sealed text and the history of its reviews."""
AT_ONCE = 8
"""Runs whose files are read at the same time."""
SHOWN = 12
"""The most differences that a sentence names."""
CERTIFIES = re.compile(
    rf"file:certificate/.*|version:description|version:tag {re.escape(TAG)}"
    r"(vote_accuracy|abstention_rate|certified_accuracy_.*|level|attempt|missing_draws|gate|gate_reasons)"
)
"""The keys that `flows.certify` writes. All others are as they were registered."""


def contents(store: Store, version: ModelVersion) -> dict[str, str]:
    """The sha256 of every file and word of a version, by key; see `differences` for the keys in words.

    InputError if an address does not name the run's own artifacts, or a file there is a link.
    """
    return words_of(store, version) | files_of(store, version)


def words_of(store: Store, version: ModelVersion) -> dict[str, str]:
    """What the store says of a version, its run, its draws and its logged model, but for their files."""
    run_id = str(version.run_id)
    run = store.client.get_run(run_id)
    _require_own_artifacts(store, version, run)
    said = {"version": _version_words(version), "run": _run_words(store, run, history=True)}
    said |= {name: _run_words(store, child) for name, child in _children(store, run_id).items()}
    said |= {f"logged model {model.model_id}": _model_words(model) for model in _logged_models(store, run_id)}
    words = {f"{where}:{key}": sorted(values) for where, lines in said.items() for key, values in lines.items()}
    return {key: hashlib.sha256(json.dumps(values).encode()).hexdigest() for key, values in words.items()}


def files_of(store: Store, version: ModelVersion) -> dict[str, str]:
    """The files of a version: of its model (`file:PATH`), its run, its draws and its logged model."""
    run_id = str(version.run_id)
    found = _run_files(store, store.client.get_run(run_id), version)
    places = {name: str(child.info.artifact_uri) for name, child in _children(store, run_id).items()}
    places |= {f"logged model {model.model_id}": model.artifact_location for model in _logged_models(store, run_id)}
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for name, files in zip(places, pool.map(lambda uri: _files(store, uri), places.values()), strict=True):
            found |= {f"{name}:file {path}": digest for path, digest in files.items()}
    return found


def registered(entries: Mapping[str, str]) -> dict[str, str]:
    """The entries that no certification changes."""
    return {key: digest for key, digest in entries.items() if not CERTIFIES.fullmatch(key)}


def stale_tags(version: ModelVersion) -> list[str]:
    """The version's tags that an earlier certification wrote, without the project's prefix."""
    return [key.removeprefix(TAG) for key in version.tags if CERTIFIES.fullmatch(f"version:tag {key}")]


def write_seal(store: Store, version: ModelVersion) -> dict[str, str]:
    """Make the list of the version as it is now, and attach it. Returns its entries."""
    entries = contents(store, version)
    content = {"format": loading.FORMAT, "entries": entries}
    log_files(store, version.run_id, {f"{DIRECTORY}/{loading.SEAL}": json.dumps(content, sort_keys=True).encode()})
    tag_version(store, version, {SEAL_TAG: loading.root_of(registered(entries))})
    return entries


def read_seal(store: Store, version: ModelVersion) -> dict[str, str]:
    """The entries of the version's list. InputError if it has none, or it is damaged."""
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / loading.SEAL).write_bytes(read_file(store, version.run_id, f"{DIRECTORY}/{loading.SEAL}"))
        try:
            return loading.read_seal(Path(scratch))
        except ValueError as error:
            raise InputError(
                f"the list of digests of version {version.version} is damaged; restore the store"
            ) from error


def is_sealed(store: Store, version: ModelVersion) -> bool:
    """Whether the version was ever sealed. Versions registered by earlier releases were not."""
    return f"{TAG}{SEAL_TAG}" in version.tags or any(
        file.path == f"{DIRECTORY}/{loading.SEAL}" for file in store.client.list_artifacts(version.run_id, DIRECTORY)
    )


def changed_since_registration(store: Store, version: ModelVersion) -> list[str]:
    """What is not as it was registered, one clause each. InputError if the list of that is missing or damaged."""
    return registration_differences(version, read_seal(store, version), contents(store, version))


def registration_differences(version: ModelVersion, entries: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    """As `changed_since_registration`, of a list and contents that were read before.

    A draw that was lost as a whole is not named: it stays in m, counts for no class, and the certificate says so.
    """
    sealed, now = registered(entries), registered(found)
    said = []
    if version.tags.get(f"{TAG}{SEAL_TAG}") != loading.root_of(sealed):
        said.append(f"version tag {TAG}{SEAL_TAG} or file {loading.SEAL} was changed")
    present = {key.partition(":")[0] for key in now}
    lost = {owner for key in sealed if (owner := key.partition(":")[0]).startswith("draw ")} - present
    return said + differences({key: digest for key, digest in sealed.items() if key.partition(":")[0] not in lost}, now)


def differences(sealed: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    """What differs, one clause each: `version tag cleanlabel.gate was changed`, `file MLmodel is gone`."""
    return loading.differences(
        *({key.replace(":", " ", 1): value for key, value in one.items()} for one in (sealed, found))
    )


def in_words(clauses: list[str]) -> str:
    """The clauses as one, the first twelve of them in full."""
    more = len(clauses) - SHOWN
    return "; ".join(clauses[:SHOWN]) + (f"; and {more} more" if more > 0 else "")


def _require_own_artifacts(store: Store, version: ModelVersion, run: Run) -> None:
    own = f"{run.info.artifact_uri}/{DIRECTORY}"
    served = store.client.get_model_version_download_uri(version.name, str(version.version))
    for name, address in (("source", version.source), ("storage location", served)):
        if address.removeprefix("file://") != own.removeprefix("file://"):
            raise InputError(
                f"the {name} of version {version.version} is {address}, and its run's model is {own}; it was edited, "
                "and whoever loads the version gets other files; restore the store"
            )


def _version_words(version: ModelVersion) -> dict[str, list[str]]:
    later = {f"{TAG}{name}" for name in (*REVIEW_TAGS, SEAL_TAG)}
    return {
        "run": [version.run_id],
        "description": [sealed_part(version.description or "")],
        "status": [str(version.status)],
        "status message": [version.status_message or ""],
        "stage": [version.current_stage or ""],
        "user": [version.user_id or ""],
        "run link": [version.run_link or ""],
        **{f"tag {key}": [value] for key, value in version.tags.items() if key not in later},
    }


def sealed_part(description: str) -> str:
    """A version's description without the history of its reviews."""
    return description.partition(REVIEWS)[0]


def _run_words(store: Store, run: Run, *, history: bool = False) -> dict[str, list[str]]:
    """The words of a run. history: all values of its metrics, in place of the last ones."""
    info, data = run.info, run.data
    words: dict[str, list[str]] = defaultdict(list)
    words |= {
        "id": [info.run_id],
        "name": [info.run_name or ""],
        "status": [info.status],
        "user": [info.user_id or ""],
        "stage": [info.lifecycle_stage],
    }
    words |= {f"tag {key}": [value] for key, value in data.tags.items()}
    words |= {f"param {key}": [value] for key, value in data.params.items()}
    for metric in data.to_proto().metrics:
        points = [metric]
        if history:
            points += store.client.get_metric_history(info.run_id, metric.key)
        words[f"metric {metric.key}"] = [json.dumps([repr(float(one.value)), int(one.step)]) for one in points]
    for one in run.inputs.dataset_inputs if run.inputs else ():
        dataset = one.dataset
        tags = sorted((tag.key, tag.value) for tag in one.tags)
        parts = [dataset.digest, dataset.source_type, dataset.source, dataset.schema, dataset.profile, tags]
        words[f"input {dataset.name}"].append(json.dumps(parts))
    for model in run.inputs.model_inputs if run.inputs else ():
        words[f"input {model.model_id}"].append("")
    for made in run.outputs.model_outputs if run.outputs else ():
        words[f"output {made.model_id}"].append(str(made.step))
    return words


def _model_words(model: LoggedModel) -> dict[str, list[str]]:
    words: dict[str, list[str]] = {
        "run": [model.source_run_id or ""],
        "name": [model.name],
        "type": [model.model_type or ""],
        "status": [str(model.status)],
        "status message": [model.status_message or ""],
        **{f"tag {key}": [value] for key, value in model.tags.items()},
        **{f"param {key}": [value] for key, value in model.params.items()},
    }
    for metric in model.metrics or ():
        words.setdefault(f"metric {metric.key}", []).append(json.dumps([repr(float(metric.value)), int(metric.step)]))
    return words


def _children(store: Store, run_id: str) -> dict[str, Run]:
    """The child runs of an ensemble by name: `draw 3`; one that is no finished draw, or not the first, by its id."""
    found: dict[str, Run] = {}
    children = find_runs(store, f"tags.mlflow.parentRunId = '{run_id}'")
    for run in sorted(children, key=lambda run: (run.info.start_time, run.info.run_id)):
        name = f"draw {run.data.tags.get(f'{TAG}draw', '')}"
        named = run.info.status == "FINISHED" and re.fullmatch(r"draw \d+", name) and name not in found
        found[name if named else f"child run {run.info.run_id}"] = run
    return found


def _logged_models(store: Store, run_id: str) -> Iterator[LoggedModel]:
    token = None
    while True:
        page = store.client.search_logged_models([store.experiment_id], f"source_run_id = '{run_id}'", page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _run_files(store: Store, run: Run, version: ModelVersion) -> dict[str, str]:
    """`file:PATH` of the registered model's files, `run:file PATH` of the run's others."""
    found = {}
    for path, digest in _files(store, run.info.artifact_uri).items():
        inside = path.removeprefix(f"{DIRECTORY}/")
        if inside == path:
            found[f"run:file {path}"] = digest
        elif inside not in (loading.SEAL, loading.CERTIFICATE, loading.SIGNATURE):
            found[f"file:{inside}"] = digest
    own = f"model_name: {version.name}\nmodel_version: '{version.version}'\n"
    if found.get("file:registered_model_meta") == hashlib.sha256(own.encode()).hexdigest():
        del found["file:registered_model_meta"]  # MLflow writes it where it loads a version in place
    return found


def _files(store: Store, uri: str) -> dict[str, str]:
    """The sha256 of each file at an address of artifacts, by path. Files of this machine are read in place."""
    repository = get_artifact_repository(uri, tracking_uri=store.client.tracking_uri)
    if isinstance(repository, LocalArtifactRepository):
        return _digests(Path(repository.artifact_dir))
    scratch = state() / "seals"
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        return _digests(Path(repository.download_artifacts("", folder)))


def _digests(directory: Path) -> dict[str, str]:
    try:
        return loading.plain_files(directory)
    except ValueError as error:
        raise InputError(f"among the artifacts in {directory}, {error}; remove it") from error
