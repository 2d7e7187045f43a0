"""A team's services, all real: MLflow with basic auth on PostgreSQL, artifacts by proxy; who may do what there.

The tests build on each other's state in the order they stand here.
"""

import json
import os
import re
import secrets
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import requests
from registered import Registered, make_ensemble, make_sets, set_params, the_version
from services import PASSWORDS, Service, account, dump, mlflow_server, postgresql, prefect_server, query

from cleanlabel.flows.store.client import connect, log_files
from cleanlabel.flows.store.errors import translate_store_errors
from cleanlabel.flows.store.registry import SMOOTHED, aliases_of, get_version
from cleanlabel.sanitize.errors import InputError

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
USERS = {user: secrets.token_hex(12) for user in ("pipeline", "ada", "bob")}
"""The pipeline's own account, a reviewer, and a reader; with their passwords."""
MODELS = 11
"""The fewest models that can certify anything."""


@dataclass
class Team:
    """The services, and the working directory of a version that the pipeline's account has registered there."""

    database: Service
    server: Service
    artifacts: Path
    said: list[str]

    def become(self, user: str) -> Registered:
        """Version 1 as this user's client sees it."""
        os.environ.update(account(user, USERS[user]))
        return the_version(connect(), 1)

    def command(self, user: str, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
        """A command typed by this user in the working directory."""
        done = subprocess.run(
            [sys.executable, "-m", *words],
            env=os.environ | account(user, USERS[user]) | {"PYTHONPATH": str(ROOT)} | env,
            capture_output=True,
            text=True,
            check=False,
        )
        self.said += [done.stdout, done.stderr]
        return done

    def file(self, run_id: str, name: str) -> Path:
        """Where the server keeps an artifact."""
        (found,) = self.artifacts.glob(f"*/{run_id}/artifacts/{name}")
        return found


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    scratch = tmp_path_factory.mktemp("team")
    with (
        postgresql() as database,
        mlflow_server(scratch, database, str(scratch / "artifacts")) as server,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name, value in server.env.items():
            patch.setenv(name, value)
        from mlflow.server import get_app_client

        admin = get_app_client("basic-auth", tracking_uri=server.url)
        for user, password in USERS.items():
            admin.create_user(user, password)
        (scratch / "work").mkdir()
        patch.chdir(scratch / "work")
        team = Team(database, server, scratch / "artifacts", [])
        for name, value in account("pipeline", USERS["pipeline"]).items():
            patch.setenv(name, value)
        make_sets()
        set_params(
            smooth={"m": MODELS},
            gate={"accuracy": 0.5, "certified_accuracy": [{"radius": 0.0, "at_least": 0.2}], "replay": 0},
        )
        version = make_ensemble(connect(), m=MODELS)
        assert version.gate().passed
        for name, value in server.env.items():
            patch.setenv(name, value)
        admin.grant_user_permission("ada", "registered_model", SMOOTHED, "MANAGE")
        yield team


def test_a_reader_reads_and_audits_a_version(team):
    reader = team.become("bob")
    assert aliases_of(reader.store, SMOOTHED) == {"candidate": 1}
    assert [check.name for check in reader.audit() if check.passed][-3:] == ["version tags", "reports", "reviews"]
    assert reader.failures() == []


def test_a_reader_is_refused_whatever_would_alter_a_version(team):
    reader = team.become("bob")
    client, run_id = reader.store.client, reader.version.run_id
    before = (reader.tags(), aliases_of(reader.store, SMOOTHED), team.file(run_id, "ensemble/votes.npy").read_bytes())
    certificate = team.file(run_id, "ensemble/certificate/certificate.json").read_bytes()
    for alter, asked in (
        (lambda: client.set_model_version_tag(SMOOTHED, "1", "cleanlabel.gate", "passed"), "model-versions/set-tag"),
        (lambda: client.delete_model_version_tag(SMOOTHED, "1", "cleanlabel.gate"), "model-versions/delete-tag"),
        (lambda: client.set_registered_model_alias(SMOOTHED, "certified", "1"), "registered-models/alias"),
        (lambda: client.delete_registered_model_alias(SMOOTHED, "candidate"), "registered-models/alias"),
        (lambda: client.update_model_version(SMOOTHED, "1", "certified"), "model-versions/update"),
        (lambda: client.delete_model_version(SMOOTHED, "1"), "model-versions/delete"),
        (lambda: client.set_tag(reader.run_of(3), "cleanlabel.votes_sha256", "0" * 64), "runs/set-tag"),
        (lambda: client.delete_run(reader.run_of(3)), "runs/delete"),
        (lambda: log_files(reader.store, run_id, {"ensemble/certificate/certificate.json": b"{}"}), "artifacts"),
    ):
        with pytest.raises(InputError) as refusal, translate_store_errors():
            alter()
        assert str(refusal.value).startswith(
            f"the MLflow server {team.server.url} denied bob the permission for {asked}; ask its administrator for "
        )
    assert (
        get_version(reader.store, SMOOTHED, 1).tags,
        aliases_of(reader.store, SMOOTHED),
        team.file(run_id, "ensemble/votes.npy").read_bytes(),
    ) == before
    assert team.file(run_id, "ensemble/certificate/certificate.json").read_bytes() == certificate


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PUT", "api/2.0/mlflow-artifacts/artifacts/{experiment}/{run}/artifacts/x"),
        ("PUT", "ajax-api/2.0/mlflow-artifacts/artifacts/{experiment}/{run}/artifacts/x"),
        ("PUT", "api/2.0/mlflow-artifacts/artifacts/%2e/{experiment}/{run}/artifacts/x"),
        ("PUT", "api/2.0/mlflow-artifacts/artifacts/%25{digit:x}/{run}/artifacts/x"),
        ("PUT", "api/2.0/mlflow-artifacts/artifacts/x"),
        ("POST", "api/2.0/mlflow-artifacts/mpu/create/{experiment}/{run}/artifacts/x"),
        ("POST", "ajax-api/2.0/mlflow/upload-artifact?run_uuid={run}&path=x"),
        ("DELETE", "api/2.0/mlflow-artifacts/artifacts/{experiment}/{run}/artifacts/ensemble/votes.npy"),
        ("DELETE", "api/2.0/mlflow-artifacts/artifacts/{experiment}"),
    ],
)
def test_no_way_through_the_proxy_is_open_to_a_reader(team, method, path):
    reader = team.become("bob")
    experiment = reader.store.experiment_id
    names = {"experiment": experiment, "digit": ord(experiment), "run": reader.version.run_id}
    request = requests.Request(method, team.server.url, auth=("bob", USERS["bob"]), data=b"x").prepare()
    request.url = f"{team.server.url}/{path.format(**names)}"  # as it stands: not made canonical on our side
    with requests.Session() as session:
        answer = session.send(request)
    assert (answer.status_code, answer.text) == (403, "Permission denied")
    assert list(team.artifacts.rglob("x")) == []


def test_nobody_comes_in_without_a_password(team):
    for user, password in (("bob", "guessed"), ("", "")):
        with pytest.MonkeyPatch.context() as patch:
            for name, value in account(user, password).items():
                patch.setenv(name, value)
            with pytest.raises(InputError, match="does not know this user or password; set MLFLOW_TRACKING_USERNAME"):
                connect()


def test_the_server_answers_to_its_own_names_only(team):
    assert "MLFLOW_ALLOWED_HOSTS=localhost:*,127.0.0.1:*,mlflow:5000\n" in (ROOT / ".env.example").read_text()
    for host, status in (("localhost:5000", 200), ("mlflow:5000", 200), ("elsewhere.example:5000", 403)):
        url = f"{team.server.url}/api/2.0/mlflow/users/current"
        answer = requests.get(url, headers={"Host": host}, auth=("bob", USERS["bob"]))
        assert answer.status_code == status, answer.text


def test_a_reader_who_approves_is_told_in_a_sentence_and_a_reviewer_approves(team):
    refused = team.command("bob", "flows.review", "approve", "1", "--reason", "fine", "--by", "bob")
    assert refused.returncode == 1
    assert refused.stderr.strip() == (
        f"error: the MLflow server {team.server.url} denied bob the permission for model-versions/set-tag; ask its "
        "administrator for EDIT on the registered model (MANAGE where an alias or a version is taken away), or set "
        "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD of a user who has it"
    )
    reviewer = team.become("ada")
    assert "cleanlabel.review" not in reviewer.tags()
    done = team.command("ada", "flows.review", "approve", "1", "--reason", "fine", "--by", "ada")
    assert "version 1 is approved by ada: version 1 has the alias certified" in done.stdout, done.stderr
    assert aliases_of(reviewer.store, SMOOTHED) == {"certified": 1}
    told = "denied ada the permission for artifacts; ask its administrator for EDIT on the experiment"
    with pytest.raises(InputError, match=told), translate_store_errors():
        log_files(reviewer.store, reviewer.version.run_id, {"ensemble/certificate/certificate.json": b"{}"})


def test_what_is_altered_past_the_server_fails_the_audit(team):
    version = team.become("bob")
    run_id, draw = version.version.run_id, version.run_of(3)
    assert version.failures() == []

    def altered(table: str, column: str, key: str, value: str) -> list[str]:
        """The audit's failures while one cell in PostgreSQL says something else."""
        where = f"from {table} where key = '{key}' and {column} = %s"
        ((before,),) = query(team.database, "mlflow", f"select value {where}", draw if column == "run_uuid" else "1")
        change = f"update {table} set value = %s where key = '{key}' and {column} = %s"
        of = draw if column == "run_uuid" else "1"
        query(team.database, "mlflow", change, value, of)
        failures = version_now().failures()
        query(team.database, "mlflow", change, before, of)
        return failures

    def version_now() -> Registered:
        return the_version(version.store, 1)

    tag = "cleanlabel.certified_accuracy_r0_00"
    seal, failure = altered("model_version_tags", "version", tag, "0.99")
    assert seal == f"seal: version tag {tag} was changed"
    assert failure.startswith(f"version tags: {SMOOTHED} version 1 has the tag {tag}='0.99'")
    seal, failure = altered("tags", "run_uuid", "cleanlabel.votes_sha256", "0" * 64)
    assert seal == "seal: draw 3 tag cleanlabel.votes_sha256 was changed"
    assert failure.startswith(f"votes: the votes of run {draw} (draw 3) do not match")

    certificate = team.file(run_id, "ensemble/certificate/certificate.json")
    honest = certificate.read_bytes()
    certificate.write_text(json.dumps(json.loads(honest) | {"sigma": 2.0}))
    assert any(failure.startswith("git-tracked certificate: ") for failure in version_now().failures())
    certificate.write_bytes(honest)

    votes = team.file(draw, "votes.npy")
    honest = votes.read_bytes()
    forged = np.load(votes, allow_pickle=False)
    forged[0] = (forged[0] + 1) % 10
    np.save(votes, forged, allow_pickle=False)
    seal, failure = version_now().failures()
    assert seal == "seal: draw 3 file votes.npy was changed"
    assert failure.startswith(f"votes: the votes of run {draw} (draw 3) do not match")
    votes.write_bytes(honest)
    assert version_now().failures() == []


def test_the_servers_come_back_after_kill_9_and_the_audit_passes(team):
    team.server.kill()
    team.database.kill()
    with pytest.raises(InputError, match=re.escape(f"the MLflow store {team.server.url} refused")):
        connect()
    team.database.start()
    team.server.start()
    assert team.become("bob").failures() == []


def test_a_flow_reports_to_the_teams_prefect_and_no_password_is_written_anywhere(team, tmp_path):
    with prefect_server(tmp_path, team.database) as prefect:
        done = team.command("pipeline", "flows.certify", "--version", "1", **prefect.env)
        assert done.returncode == 0, done.stderr
        states = query(
            team.database,
            "prefect",
            "select flow.name, flow_run.state_name from flow_run join flow on flow.id = flow_run.flow_id",
        )
        assert states == [("certify", "Completed")]
        address = team.server.url.replace("://", f"://pipeline:{USERS['pipeline']}@")
        asked = ("flows.review", "reject", "7", "--reason", "none such", "--by", "ada")
        team.server.kill()
        done = team.command("pipeline", *asked, MLFLOW_TRACKING_URI=address)
        hidden = address.replace(f"pipeline:{USERS['pipeline']}", "***")
        assert done.stderr.startswith(f"error: the MLflow store {hidden} refused")
        written = {"what the commands said": "\n".join(team.said).encode(), "PostgreSQL": dump(team.database)}
        for folder in (Path.cwd(), team.artifacts, tmp_path, Path(os.environ["PREFECT_HOME"])):
            written |= {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        written |= {str(log): log.read_bytes() for log in (team.server.log, team.database.log)}
    assert all(word in written["PostgreSQL"] for word in (b"cleanlabel.votes_root", b"certified-accuracy"))
    assert not [
        f"{name} in {where}"
        for where, content in written.items()
        for name, secret in (PASSWORDS | USERS).items()
        if secret.encode() in content
    ]
