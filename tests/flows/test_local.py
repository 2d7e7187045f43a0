"""The project's own store after its folder was moved or copied, and where its files are not as they should be."""

import hashlib
import shutil
import sqlite3
from pathlib import Path

import mlflow
import numpy as np
import pytest
from registered import M, Registered, connect_here, make_ensemble, the_version

from cleanlabel.flows.certificate.checks import audit
from cleanlabel.flows.environment import own_store
from cleanlabel.flows.store import local
from cleanlabel.flows.store.client import Store, connect
from cleanlabel.flows.store.registry import SMOOTHED
from cleanlabel.sanitize.errors import InputError, ServiceUnavailable
from cleanlabel.sanitize.imageset import load
from cleanlabel.sanitize.paths import SETS


def files_of(folder: Path) -> dict[str, str]:
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*")) if p.is_file()}


def go_to(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", own_store(folder))
    return connect_here()


def everything_works(store: Store) -> None:
    """What people do with a store: audit, load the model by its alias, register a further version."""
    first = the_version(store, 1)
    assert first.failures() == []
    model = mlflow.pyfunc.load_model(f"models:/{SMOOTHED}@certified")
    images = load(SETS["test"]).images[:3, ..., 0]
    assert np.asarray(model.predict(images)["label"]).shape == (3,)
    made = make_ensemble(store, m=M + 2)
    assert (made.number, made.ensemble.attempts_before) == (3, 2)
    assert Path(f".mlflow/artifacts/{made.version.run_id}/artifacts/ensemble/MLmodel").is_file()


@pytest.mark.parametrize("name", ["moved", "für Ada: 100 % (2)"])
def test_a_folder_that_was_moved_keeps_its_versions(version: Registered, tmp_path, name, monkeypatch, capsys):
    version.gate(approval="automatic")
    (tmp_path / "folder").mkdir()
    new = tmp_path / "folder" / name
    old = tmp_path.with_name(f"{tmp_path.name}-before")
    shutil.copytree(tmp_path, old, ignore=shutil.ignore_patterns("folder"))
    go_to(old, monkeypatch)
    old.rename(new)
    capsys.readouterr()
    store = go_to(new, monkeypatch)
    said = capsys.readouterr().err
    assert said == f"note: this project was moved from {old} to {new}; its MLflow store now names its artifacts here\n"
    everything_works(store)
    assert not old.exists()
    connect()
    assert "note" not in capsys.readouterr().err


def test_a_copy_uses_its_own_artifacts_and_leaves_the_first_folder_alone(version, tmp_path, monkeypatch, capsys):
    version.gate(approval="automatic")
    new = tmp_path.with_name(f"{tmp_path.name}-copy")
    shutil.copytree(tmp_path, new)
    before = files_of(tmp_path)
    capsys.readouterr()
    store = go_to(new, monkeypatch)
    said = capsys.readouterr().err
    assert said.startswith(f"note: this project was copied from {tmp_path} to {new}; ")
    assert said.endswith("; ensembles planned in one of the two are not counted as attempts in the other\n")
    everything_works(store)
    assert files_of(tmp_path) == before
    with sqlite3.connect(new / ".mlflow" / "mlflow.db") as database:
        dump = "\n".join(database.iterdump())
    assert f"{new}/" in dump
    assert f"{tmp_path}/" not in dump


def test_a_database_that_was_copied_without_its_artifacts_is_refused(version, tmp_path, monkeypatch):
    new = tmp_path / "new"
    (new / ".mlflow").mkdir(parents=True)
    shutil.copy(tmp_path / ".mlflow" / "mlflow.db", new / ".mlflow")
    with pytest.raises(
        InputError, match=r"mlflow.db was copied from .* without its artifacts; copy .*/\.mlflow/artifa"
    ):
        go_to(new, monkeypatch)


@pytest.mark.parametrize(("loss", "word"), [("", "empty"), (None, "gone")])
def test_a_database_that_was_lost_while_its_runs_are_there_is_no_new_store(version, loss, word):
    database = Path(".mlflow/mlflow.db")
    database.unlink()
    if loss is not None:
        database.write_text(loss)
    with pytest.raises(InputError, match=rf"mlflow.db is {word}, but .* has runs that it counted; restore it from a b"):
        connect()


@pytest.mark.parametrize("name", ["why?", "run #2", "100%41"])
def test_a_folder_that_mlflow_would_misread_is_refused_before_anything_is_written(tmp_path, name, monkeypatch):
    (tmp_path / name).mkdir()
    with pytest.raises(
        InputError, match=r"MLflow reads the folder .* as an address, where \?, # and %XX mean something"
    ):
        go_to(tmp_path / name, monkeypatch)
    assert [path.name for path in tmp_path.rglob("*")] == [name]


def test_an_empty_file_without_runs_becomes_a_store(tmp_path, monkeypatch):
    (tmp_path / ".mlflow").mkdir()
    (tmp_path / ".mlflow" / "mlflow.db").touch()
    assert go_to(tmp_path, monkeypatch).experiment_id == "1"


def test_a_store_that_another_process_holds_is_away(store, monkeypatch):
    monkeypatch.setattr(local, "LOCK_SECONDS", 0.05)
    holder = sqlite3.connect(".mlflow/mlflow.db", isolation_level=None)
    holder.execute("begin exclusive")
    with pytest.raises(ServiceUnavailable, match="is held by another process; wait until that has ended"):
        connect()
    holder.close()
    connect()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"no database at all" * 99, "is not a SQLite database; restore it from a backup"),
        (None, "cannot be opened; give this user the right to read and write the file and its folder"),
    ],
)
def test_a_store_that_is_no_database_is_one_sentence(store, content, sentence):
    Path(".mlflow/mlflow.db").unlink()
    if content:
        Path(".mlflow/mlflow.db").write_bytes(content)
    else:
        Path(".mlflow/mlflow.db").mkdir()
    with pytest.raises(InputError, match=sentence) as said:
        connect()
    assert not isinstance(said.value, ServiceUnavailable)


@pytest.mark.parametrize(
    ("schema", "sentence"),
    [("ffffffffffff", "was made by a newer MLflow than this one"), ("90e64c465722", "was made by an older MLflow")],
)
def test_a_store_of_another_mlflow_is_one_sentence(store, tmp_path, schema, sentence, monkeypatch):
    new = tmp_path / "new"  # MLflow looks at a database's schema once in a process
    (new / ".mlflow").mkdir(parents=True)
    shutil.copy(tmp_path / ".mlflow" / "mlflow.db", new / ".mlflow")
    with sqlite3.connect(new / ".mlflow" / "mlflow.db") as database:
        database.execute("update alembic_version set version_num = ?", (schema,))
    with pytest.raises(InputError, match=sentence) as said:
        go_to(new, monkeypatch)
    assert not isinstance(said.value, ServiceUnavailable)


def test_a_store_that_cannot_be_written_is_one_sentence(empty_database, tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)  # MLflow takes the part after sqlite:/// for a path and makes its folders here
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///file:{tmp_path}/mlflow.db?mode=ro&uri=true")
    with pytest.raises(
        InputError, match="cannot be written to; give this user the right to write the file and"
    ) as said:
        connect()
    assert not isinstance(said.value, ServiceUnavailable)
    assert "Traceback" not in caplog.text


def test_artifacts_that_were_deleted_fail_the_audit_in_one_sentence(version):
    shutil.rmtree(f".mlflow/artifacts/{version.version.run_id}")
    seal, failed = audit(version.store, 1, 0)
    assert seal.found == f"run {version.version.run_id} has no readable artifact ensemble/seal.json"
    assert (failed.name, failed.passed) == ("plan", False)
    assert failed.found == f"run {version.version.run_id} has no readable artifact ensemble/plan.json"
