"""A store that is away ends in a status of its own, and is tried again; no sentence holds a password."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, TEMPORARILY_UNAVAILABLE
from prefect.states import Failed
from sqlalchemy.exc import OperationalError, ProgrammingError

from cleanlabel.flows.orchestration.retries import service_is_away
from cleanlabel.flows.store.errors import absent, translate_store_errors
from cleanlabel.flows.store.registry import page_of
from cleanlabel.sanitize.errors import AWAY_STATUS, InputError, ServiceUnavailable

ROOT = Path(__file__).resolve().parents[2]


def test_a_command_whose_server_is_away_says_so_and_ends_in_its_own_status(tmp_path):
    where = {"MLFLOW_TRACKING_URI": "http://ada:pass@word@127.0.0.1:9", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    ended = subprocess.run(
        [sys.executable, "-m", "flows.review"],
        cwd=tmp_path,
        env=os.environ | where | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == AWAY_STATUS
    assert ended.stderr.startswith("error: the MLflow store http://***@127.0.0.1:9 refused")
    assert "word" not in ended.stderr


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (MlflowException("the database is starting up", TEMPORARILY_UNAVAILABLE), ServiceUnavailable),
        (MlflowException("no such experiment", RESOURCE_DOES_NOT_EXIST), InputError),
        (ConnectionError("refused"), ServiceUnavailable),
        (OperationalError("select 1", {}, Exception("server closed the connection")), ServiceUnavailable),
        (ProgrammingError("selct 1", {}, Exception("syntax error")), InputError),
    ],
)
def test_only_what_may_pass_by_itself_is_away(error, kind):
    with pytest.raises(InputError) as said, translate_store_errors():
        raise error
    assert type(said.value) is kind
    assert service_is_away(None, None, Failed(data=said.value)) is (kind is ServiceUnavailable)


def test_a_store_that_fails_has_not_said_that_there_is_nothing():
    assert absent(MlflowException("no such model", RESOURCE_DOES_NOT_EXIST))
    assert not absent(MlflowException("try later", TEMPORARILY_UNAVAILABLE))


def test_the_way_to_a_version_holds_no_password(version, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ada:pass@word@mlflow.example.org:5000/")
    assert page_of(version.version) == "http://mlflow.example.org:5000/#/models/smoothed-classifier/versions/1"
