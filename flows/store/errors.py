"""Errors of an MLflow store that refuses or is away, as one sentence that names the store but never a password."""

import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow
import requests
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from cleanlabel.sanitize.errors import InputError, ServiceUnavailable

UNKNOWN_USER, FORBIDDEN, NOT_FOUND = 401, 403, 404
READING = ("get", "list", "search")
SQLITE = {
    "database is locked": (
        True,
        "is held by another process; wait until that has ended, then run the same command again",
    ),
    "readonly database": (False, "cannot be written to; give this user the right to write the file and its folder"),
    "unable to open database": (
        False,
        "cannot be opened; give this user the right to read and write the file and its folder",
    ),
    "not a database": (False, "is not a SQLite database; restore it from a backup"),
    "malformed": (False, "is damaged; restore it from a backup"),
    "disk is full": (False, "cannot grow, its disk is full; free some space, then run the same command again"),
}
"""SQLite's messages about its file: whether the same request may succeed later, and our sentence."""


@contextmanager
def translate_store_errors() -> Iterator[None]:
    """Turn errors of the store into one sentence: ServiceUnavailable if it is away, InputError if it refuses."""
    try:
        yield
    except (MlflowException, SQLAlchemyError, sqlite3.Error, ConnectionError, requests.RequestException) as error:
        raise (ServiceUnavailable if _may_answer_later(error) else InputError)(_sentence(error)) from error


def _may_answer_later(error: Exception) -> bool:
    """Whether the same request may succeed later: the store was not reached, or had an internal failure."""
    status = _status(error)
    if status is not None:
        return status >= 500
    told = _of_its_file(error)
    if told is not None:
        return told[0]
    if isinstance(error, MlflowException):
        return bool(error.get_http_status_code() >= 500)
    return not isinstance(error, SQLAlchemyError) or isinstance(error, OperationalError)


def absent(error: MlflowException) -> bool:
    """Whether the store answered that the object does not exist."""
    return bool(error.get_http_status_code() == NOT_FOUND)


def refused(error: Exception) -> bool:
    """Whether the store refused this user or is away. If not, it answered that the object does not exist."""
    away = isinstance(error, requests.ConnectionError | requests.Timeout) or "Max retries exceeded" in str(error)
    return away or _status(error) in (UNKNOWN_USER, FORBIDDEN)


def _sentence(error: Exception) -> str:
    store = without_password(os.environ["MLFLOW_TRACKING_URI"])
    variables = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
    if _status(error) == UNKNOWN_USER:
        return f"the MLflow server {store} does not know this user or password; set {variables}"
    if _status(error) == FORBIDDEN:
        user = os.environ.get("MLFLOW_TRACKING_USERNAME", "this user")
        call, permission = _asked(error)
        return (
            f"the MLflow server {store} denied {user} the permission for {call}; "
            f"ask its administrator for {permission}, or set {variables} of a user who has it"
        )
    told = _of_its_file(error)
    if told is not None:
        return f"the MLflow store {store} {told[1]}"
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return (
        f"the MLflow store {store} refused ({without_password(reason)[:200]}); "
        "start it or correct MLFLOW_TRACKING_URI, then run the same command again"
    )


def _of_its_file(error: Exception) -> tuple[bool, str] | None:
    """For an error of the database file: whether it may pass, and the end of the sentence about it."""
    schema = re.search(r"database schema \(found version (\w+)", str(error))
    if schema:
        migrations = Path(mlflow.__file__).parent / "store" / "db_migrations" / "versions"
        if any(migrations.glob(f"{schema[1]}_*")):
            return False, "was made by an older MLflow; back it up, then run `mlflow db upgrade` with its address"
        return False, f"was made by a newer MLflow than this one, {mlflow.__version__}; install the one it was made by"
    if "sqlite3." not in str(error) and not isinstance(error, sqlite3.Error):
        return None
    return next((said for words, said in SQLITE.items() if words in str(error)), None)


def _status(error: Exception) -> int | None:
    """The HTTP status of an error, if it has one."""
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return int(error.response.status_code)
    told = re.search(r"failed with error code (\d+)|(\d+) Client Error", str(error))
    return int(told.group(1) or told.group(2)) if told else None


def _asked(error: Exception) -> tuple[str, str]:
    """What the server was asked for, and the permission that this needs."""
    if isinstance(error, requests.HTTPError):
        reading = error.request is not None and error.request.method == "GET"
        call = "artifacts"
    else:
        endpoint = re.search(r"endpoint \S*/mlflow/(\S+)", str(error))
        call = endpoint.group(1) if endpoint else "this"
        reading = call.rpartition("/")[2].startswith(READING)
    if call.startswith(("model-versions", "registered-models")):
        return call, "READ on the registered model" if reading else (
            "EDIT on the registered model (MANAGE where an alias or a version is taken away)"
        )
    return call, f"{'READ' if reading else 'EDIT'} on the experiment"


def without_password(text: str) -> str:
    """The text without the user and password of any address in it."""
    return re.sub(r"://[^/\s]*@", "://***@", text)
