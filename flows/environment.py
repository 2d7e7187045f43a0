"""Defaults for the services around the pipeline: everything stays on this machine and in the project, no telemetry.

Variables that are already set take precedence: `MLFLOW_TRACKING_URI` and `PREFECT_API_URL` choose a team's servers.
"""

import os
from pathlib import Path
from typing import Literal

from cleanlabel.flows.store.home import project_home
from cleanlabel.sanitize.errors import InputError

Engine = Literal["processes", "ray"]
"""The engine that runs an ensemble's batches: processes of this machine, or a Ray cluster."""


def state() -> Path:
    """The folder of files that belong to this machine and not to a store: locks, and entropy not yet revealed."""
    return project_home() / ".state"


def scratch() -> Path | None:
    """The folder that holds draws' copies, CLEANLABEL_SCRATCH; None: they are held in memory."""
    asked = os.environ.get("CLEANLABEL_SCRATCH")
    return Path(asked).absolute() if asked else None


def set_defaults() -> None:
    """Set the variables that are not set. Call it before prefect or mlflow is imported: both read them at import."""
    try:
        home = project_home()
    except InputError:  # raised again when the store is used; an import must not fail
        home = Path.cwd()
    defaults = {
        "DO_NOT_TRACK": "true",  # both Prefect and MLflow accept this spelling
        "DVC_NO_ANALYTICS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
        "MLFLOW_LOGGING_LEVEL": "WARNING",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "MLFLOW_TRACKING_URI": own_store(home),
        "PREFECT_HOME": f"{home}/.prefect",
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",  # commands report an error once, in a sentence
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
        "RAY_USAGE_STATS_ENABLED": "0",
        "TORCHINDUCTOR_CACHE_DIR": f"{home}/.cache/inductor",  # later runs reuse compiled code
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)


def own_store(home: Path) -> str:
    """The address of the MLflow store in a project's folder."""
    return f"sqlite:///{home}/.mlflow/mlflow.db"
