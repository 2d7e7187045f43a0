"""The model registry: versions, their tags and their aliases."""

import json
import os

from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS

from cleanlabel.flows.store.client import TAG, Store
from cleanlabel.flows.store.errors import absent, without_password
from cleanlabel.sanitize.errors import InputError

SMOOTHED = "smoothed-classifier"
SANITIZED = "sanitized-classifier"


def register(store: Store, name: str, run_id: str, directory: str, tags: dict[str, str], description: str) -> int:
    """Register a run's artifact directory as the next version of `name`. If the run has a version, return that one.

    The run's logged model refers to the version, so that MLflow's Models view shows it.
    """
    client = store.client
    if not client.search_registered_models(f"name = '{name}'"):
        try:
            client.create_registered_model(name)
        except MlflowException:  # another process has just made it
            client.get_registered_model(name)
    present = version_of_run(store, name, run_id)
    if present:
        return int(present.version)
    source = f"{client.get_run(run_id).info.artifact_uri}/{directory}"
    made = client.create_model_version(
        name, source, run_id, tags={f"{TAG}{k}": v for k, v in tags.items()}, description=description
    )
    for model in client.search_logged_models([store.experiment_id], f"source_run_id = '{run_id}'"):
        link = json.dumps([{"name": name, "version": str(made.version)}])
        client.set_logged_model_tags(model.model_id, {MLFLOW_MODEL_VERSIONS: link})
    return int(made.version)


def version_of_run(store: Store, name: str, run_id: str) -> ModelVersion | None:
    """The version of `name` that a run was registered as."""
    found = store.client.search_model_versions(f"name = '{name}' and run_id = '{run_id}'")
    return found[0] if found else None


def get_version(store: Store, name: str, version: int) -> ModelVersion:
    """A registered version. InputError if no version has that number."""
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


def clear_tags(store: Store, version: ModelVersion, names: list[str]) -> None:
    """Remove tags of a registered version, named without the project's prefix."""
    for name in names:
        store.client.delete_model_version_tag(version.name, str(version.version), f"{TAG}{name}")


def describe_version(store: Store, version: ModelVersion, text: str) -> None:
    """Set the description of a registered version."""
    store.client.update_model_version(version.name, str(version.version), text)


def set_alias(store: Store, version: ModelVersion, alias: str) -> None:
    """Give `alias` to this version; any other version of its model loses it."""
    store.client.set_registered_model_alias(version.name, alias, str(version.version))


def clear_alias(store: Store, version: ModelVersion, *aliases: str) -> None:
    """Remove these aliases from this version, if it has them."""
    held = aliases_of(store, version.name)
    for alias in aliases:
        if held.get(alias) == int(version.version):
            store.client.delete_registered_model_alias(version.name, alias)


def page_of(version: ModelVersion) -> str | None:
    """The address of the version's page on the tracking server; None without a server."""
    uri = os.environ["MLFLOW_TRACKING_URI"]
    if not uri.startswith(("http://", "https://")):
        return None
    address = without_password(uri).replace("***@", "").rstrip("/")
    return f"{address}/#/models/{version.name}/versions/{version.version}"


def aliases_of(store: Store, name: str) -> dict[str, int]:
    """The version number of each alias of a registered model."""
    try:
        return {alias: int(number) for alias, number in store.client.get_registered_model(name).aliases.items()}
    except MlflowException as error:
        if not absent(error):
            raise
        return {}  # no such model: nothing was registered yet


def all_versions(store: Store, name: str) -> list[ModelVersion]:
    """Every version of a registered model from all pages, oldest first."""
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
