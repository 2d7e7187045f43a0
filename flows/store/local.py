"""The project's own MLflow store, a SQLite file and a folder of artifacts: checked before MLflow opens it.

MLflow stores absolute addresses. If the project's folder was moved or copied, they are set to its new place. So a moved
project loses nothing, and a copy reads and writes only its own artifacts.
"""

import os
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import url2pathname

from cleanlabel.flows.environment import own_store
from cleanlabel.flows.store.home import HOME, project_home
from cleanlabel.sanitize.errors import InputError

FOLDER = ".mlflow"
ARTIFACTS = f"/{FOLDER}/artifacts"
ADDRESSES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
"""Tables and columns of MLflow's database that hold the addresses of artifacts."""
LOCK_SECONDS = 30.0
"""How long to wait for another process that holds the database before raising an error."""


def prepare(experiment: str) -> str | None:
    """Prepare the project's own store if MLFLOW_TRACKING_URI names it. Returns the place of its artifacts.

    Returns None for any other store, which decides on that place itself. InputError if attempts would be counted in the
    wrong place or the store is incomplete; sqlite3.Error if the database cannot be read.
    """
    uri, here = os.environ["MLFLOW_TRACKING_URI"], Path.cwd()
    if not uri.startswith(("sqlite:", "file:", ".")):
        return None
    home = project_home()
    if uri != own_store(home):
        path = uri.removeprefix("sqlite:///").removeprefix("file:")
        if home != here and not path.startswith("/"):
            raise InputError(
                f"MLFLOW_TRACKING_URI={uri} is relative, and {here} is a copy or worktree of {home}, whose attempts "
                "it would not count; give an absolute address"
            )
        return None
    if url2pathname(urlparse(str(home)).path) != str(home):
        raise InputError(
            f"MLflow reads the folder {str(home)!r} as an address, where ?, # and %XX mean something else; "
            "rename it, or set MLFLOW_TRACKING_URI to a store elsewhere"
        )
    if home != here and (here / FOLDER / "mlflow.db").exists():
        raise InputError(
            f"{here / FOLDER} is a store of this checkout's own, but attempts are counted in {home / FOLDER}; "
            f"move the one here away, or set {HOME}={here} to go on with it"
        )
    (home / FOLDER).mkdir(parents=True, exist_ok=True)
    database = home / FOLDER / "mlflow.db"
    if database.exists() and not (database.is_file() and database.stat().st_size == 0):
        _follow(database, experiment, home)
    elif any((home / FOLDER / "artifacts").glob("*")):
        raise InputError(
            f"{database} is {'empty' if database.exists() else 'gone'}, but {database.parent / 'artifacts'} has runs "
            f"that it counted; restore it from a backup, or delete {database.parent} to start again"
        )
    return home.as_uri() + ARTIFACTS


def _follow(database: Path, experiment: str, home: Path) -> None:
    """Set the addresses in the database to this folder if the project was in another one."""
    with closing(sqlite3.connect(database, timeout=LOCK_SECONDS, isolation_level=None)) as connection:
        if _moved_from(connection, experiment, home) is None:
            return
        connection.execute("begin immediate")  # locks: only the first of several processes does the work
        before = _moved_from(connection, experiment, home)
        if before is None:
            return
        old = Path(url2pathname(urlparse(before).path))
        left = old / FOLDER / "artifacts"
        if any(left.glob("*")) and not (home / FOLDER / "artifacts").is_dir():
            raise InputError(
                f"{database} was copied from {old} without its artifacts; copy {left} to {home / FOLDER} as well"
            )
        for table, column in ADDRESSES:
            for was, now in ((f"{before}/", f"{home.as_uri()}/"), (f"{old}/", f"{home}/")):
                connection.execute(
                    f"update {table} set {column} = ? || substr({column}, ?) where substr({column}, 1, ?) = ?",
                    (now, len(was) + 1, len(was), was),
                )
        connection.execute("commit")
    copied = (old / FOLDER / "mlflow.db").is_file()
    apart = "; ensembles planned in one of the two are not counted as attempts in the other" if copied else ""
    sys.stderr.write(
        f"note: this project was {'copied' if copied else 'moved'} from {old} to {home}; "
        f"its MLflow store now names its artifacts here{apart}\n"
    )


def _moved_from(connection: sqlite3.Connection, experiment: str, home: Path) -> str | None:
    """The address of the project's former folder, if it was another one."""
    if not connection.execute("select 1 from sqlite_master where name = 'experiments'").fetchone():
        return None  # MLflow has not made its tables yet
    found = connection.execute("select artifact_location from experiments where name = ?", (experiment,)).fetchone()
    location = (found and found[0]) or ""
    if not (location.startswith("file:///") and location.endswith(ARTIFACTS)):
        return None
    before = str(location.removesuffix(ARTIFACTS))
    return before if before != home.as_uri() else None
