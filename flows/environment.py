"""Defaults for the services around the pipeline: everything on this machine, inside the project, telling nobody.

A variable that is set already wins: `MLFLOW_TRACKING_URI` and `PREFECT_API_URL` choose a team's own servers.
"""

import os
from pathlib import Path
from typing import Literal

from cleanlabel.flows.store.home import project_home
from cleanlabel.sanitize.errors import InputError

Engine = Literal["processes", "ray"]
"""What runs the batches of an ensemble: this machine's processes, or a Ray cluster."""


def state() -> Path:
    """The folder of what belongs to this machine and to no store: locks, and entropy that is not revealed yet."""
    return project_home() / ".state"


def set_defaults() -> None:
    """Set what is not set yet. Called before prefect or mlflow is imported: both read their settings then."""
    try:
        home = project_home()
    except InputError:  # said when the store is asked for: an import says nothing
        home = Path.cwd()
    defaults = {
        "DO_NOT_TRACK": "true",  # the spelling that both Prefect and MLflow obey
        "DVC_NO_ANALYTICS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
        "MLFLOW_LOGGING_LEVEL": "WARNING",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "MLFLOW_TRACKING_URI": own_store(home),
        "PREFECT_HOME": f"{home}/.prefect",
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",  # errors are said once, in a sentence
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
        "RAY_USAGE_STATS_ENABLED": "0",
        "TORCHINDUCTOR_CACHE_DIR": f"{home}/.cache/inductor",  # what is compiled once serves the next run
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)


def own_store(home: Path) -> str:
    """The address of the MLflow store in a project's folder."""
    return f"sqlite:///{home}/.mlflow/mlflow.db"
