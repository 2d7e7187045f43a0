"""What a team runs: PostgreSQL, MLflow with accounts, Prefect and a worker, all real; `refresh` deployed there.

While its ensemble is being made PostgreSQL is restarted and MLflow is killed, and it ends as if nothing had been. What
came of it is read through the servers' REST interfaces.
"""

import json
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests
from project import Project
from services import Service, account, mlflow_server, postgresql, prefect_server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

M = 20
ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


@dataclass
class Team:
    """The services, and the checkout that its deployments work in."""

    project: Project
    database: Service
    mlflow: Service
    prefect: Service
    worker: Service

    def ask_mlflow(self, method: str, path: str, /, **asked: Any) -> dict[str, Any]:
        """MLflow's REST interface."""
        env = self.project.env
        who = (env["MLFLOW_TRACKING_USERNAME"], env["MLFLOW_TRACKING_PASSWORD"])
        form = {"params": asked} if method == "GET" else {"json": asked}
        url = f"{self.mlflow.url}/api/2.0/mlflow/{path}"
        return requests.request(method, url, auth=who, timeout=30, **form).json()

    def ask_prefect(self, path: str, /, **asked: Any) -> Any:
        """Prefect's REST interface."""
        who = tuple(self.project.env["PREFECT_API_AUTH_STRING"].split(":"))
        return requests.post(f"{self.prefect.url}/{path}", json=asked, auth=who, timeout=30).json()

    def flow_run(self, number: str) -> dict[str, Any]:
        (found,) = self.ask_prefect("flow_runs/filter", flow_runs={"id": {"any_": [number]}})
        return found

    def start(self, deployment: str, *params: str) -> str:
        """Start a run of a deployment now; its id."""
        said = self.project.run("prefect", "--no-prompt", "deployment", "run", deployment, *params).stdout
        (number,) = [line.split()[-1] for line in said.splitlines() if "UUID" in line]
        return number

    def ended(self, number: str) -> dict[str, Any]:
        """The flow run once it has ended."""
        until(lambda: self.flow_run(number)["state_type"] in ENDED, 900)
        return self.flow_run(number)

    def draws(self) -> list[int]:
        """The draws that finished, from whichever run recorded them."""
        experiment = self.ask_mlflow("GET", "experiments/get-by-name", experiment_name="cleanlabel")["experiment"]
        found = self.ask_mlflow(
            "POST",
            "runs/search",
            experiment_ids=[experiment["experiment_id"]],
            filter="tags.`cleanlabel.kind` = 'draw' and attributes.status = 'FINISHED'",
            max_results=1000,
        )
        tags = [{tag["key"]: tag["value"] for tag in run["data"]["tags"]} for run in found.get("runs", [])]
        return sorted(int(of["cleanlabel.draw"]) for of in tags)


def until(holds: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if holds():
                return
        except (requests.RequestException, ValueError, KeyError):  # a server that is just being restarted
            pass
        time.sleep(0.2)
    pytest.fail(f"did not come about within {seconds} s")


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    scratch = tmp_path_factory.mktemp("operations")
    with ExitStack() as running, pytest.MonkeyPatch.context() as patch:
        database = running.enter_context(postgresql())
        mlflow = running.enter_context(mlflow_server(scratch, database, str(scratch / "artifacts")))
        prefect = running.enter_context(prefect_server(scratch, database))
        for name, value in mlflow.env.items():
            patch.setenv(name, value)
        from mlflow.server import get_app_client

        password = secrets.token_hex(12)
        get_app_client("basic-auth", tracking_uri=mlflow.url).create_user("pipeline", password)
        project = Project(scratch / "project")
        project.set_params(
            {
                "ingest": {"raw": 200, "test": 60},
                "sanitize": {"denoise": False},
                "train": {"architecture": "linear"},
                "smooth": {"m": M, "batch_of_draws": 2},
            }
        )
        project.env |= mlflow.env | prefect.env | account("pipeline", password)
        project.env |= {"CLEANLABEL_LOG": str(scratch / "log.jsonl"), "PREFECT_HOME": str(scratch / "home-of-prefect")}
        nobody = ("-c", "user.name=somebody", "-c", "user.email=somebody@example.org")
        project.run("git", "add", "-A")
        project.run("git", *nobody, "commit", "-qm", "as delivered")
        project.run(sys.executable, "-m", "flows.serve", "--deploy-only")
        log = scratch / "worker.log"
        worker = Service(
            prefect.url,
            project.env,
            [sys.executable, "-m", "prefect", "worker", "start", "--pool", "cleanlabel"],
            project.env,
            log,
            lambda: b"started!" in log.read_bytes(),
        )
        running.callback(worker.kill)
        yield Team(project, database, mlflow, prefect, worker)


@pytest.fixture(scope="module")
def refreshed(team: Team) -> dict[str, Any]:
    """A run of `refresh` through which PostgreSQL was restarted and MLflow killed and started again."""
    number = team.start("refresh/refresh")
    until(lambda: len(team.draws()) >= 2, 600)
    team.database.stop()
    team.database.start()
    until(lambda: len(team.draws()) >= 4, 300)
    assert len(team.draws()) < M
    team.mlflow.kill()
    time.sleep(3)
    team.mlflow.start()
    return team.ended(number)


def test_the_deployed_refresh_ends_well_although_its_servers_did_not_stay(team, refreshed):
    assert refreshed["state_type"] == "COMPLETED", refreshed["state"]
    assert team.draws() == [*range(M)]


def test_the_version_its_certificate_and_its_alias_are_in_the_registry(team, refreshed):
    name = "smoothed-classifier"
    found = team.ask_mlflow("GET", "registered-models/alias", name=name, alias="candidate")["model_version"]
    tags = {tag["key"]: tag["value"] for tag in found["tags"]}
    assert (found["version"], tags["cleanlabel.gate"], tags["cleanlabel.m"]) == ("1", "passed", str(M))
    attached = team.ask_mlflow("GET", "artifacts/list", run_id=found["run_id"], path="ensemble/certificate")["files"]
    assert "ensemble/certificate/certificate.json" in {file["path"] for file in attached}
    certificate = json.loads((team.project.root / "reports" / "certificate.json").read_text())
    assert tags["cleanlabel.votes_root"] == certificate["votes_root"]


def test_prefect_shows_progress_the_table_the_curve_and_the_way_to_the_version(team, refreshed):
    shown = {artifact["key"]: artifact for artifact in team.ask_prefect("artifacts/latest/filter")}
    assert shown["smoothed-models"]["data"] == 100
    assert shown["certified-accuracy-curve"]["data"].startswith("data:image/png;base64,")
    assert shown["mlflow-version"]["data"].endswith(f"({team.mlflow.url}/#/models/smoothed-classifier/versions/1)")
    assert "Version 1 is new" in shown["refresh"]["data"]
    assert "certificate" in shown
    assert "certified-accuracy" in shown


def attention(team: Team) -> str:
    """What `notify` said last."""
    return "".join(a["data"] for a in team.ask_prefect("artifacts/latest/filter") if a["key"] == "attention")


def test_somebody_is_told_that_a_version_awaits_its_review(team, refreshed):
    until(lambda: "awaits its review" in attention(team), 180)


def test_the_deployed_audit_passes_and_shows_its_checks(team, refreshed):
    ended = team.ended(team.start("audit-version/audit"))
    assert ended["state_type"] == "COMPLETED", ended["state"]
    (shown,) = [a for a in team.ask_prefect("artifacts/latest/filter") if a["key"] == "audit"]
    checks = json.loads(shown["data"])
    assert {check["result"] for check in checks} == {"ok"}
    assert sum("replay" in check["check"] for check in checks) == 3


def test_an_event_emitted_by_hand_reaches_the_teams_channel(team, refreshed):
    heard: list[bytes] = []

    class Channel(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            heard.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()

    with ThreadingHTTPServer(("127.0.0.1", 0), Channel) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        block = (
            "from prefect.blocks.notifications import CustomWebhookNotificationBlock as Channel\n"
            f"Channel(name='team', url={url!r}, json_data={{'text': '{{{{body}}}}'}}).save('team')"
        )
        team.project.run(sys.executable, "-c", block)
        about = ("--resource-id", "cleanlabel.version.smoothed-classifier.1")
        sentence = json.dumps({"sentence": "version 1 does not pass"})
        team.project.run("prefect", "event", "emit", "cleanlabel.gate.failed", *about, "--payload", sentence)
        until(lambda: "version 1 does not pass" in attention(team), 180)
        asked = {"event": "cleanlabel.gate.failed", "sentence": "told", "block": "custom-webhook/team"}
        params = [word for name, value in asked.items() for word in ("--param", f"{name}={value}")]
        assert team.ended(team.start("notify/notify", *params))["state_type"] == "COMPLETED"
        server.shutdown()
    assert [json.loads(words) for words in heard] == [{"text": "told"}]


def test_records_name_the_ensemble_and_the_draw_and_no_password(team, refreshed):
    path = Path(team.project.env["CLEANLABEL_LOG"])
    records = [json.loads(line) for line in path.read_text().splitlines()]
    ensemble = json.loads((team.project.root / "reports" / "certificate.json").read_text())["plan_digest"][:12]
    made = [record for record in records if record["event"] == "draw recorded"]
    assert {record["draw"] for record in made} == {*range(M)}
    assert {record["ensemble"] for record in made} == {ensemble}
    logs = team.ask_prefect("logs/filter", limit=200)
    said = path.read_text() + json.dumps(logs)
    assert "draw recorded" in json.dumps(logs)
    assert team.project.env["MLFLOW_TRACKING_PASSWORD"] not in said
    assert team.project.env["PREFECT_API_AUTH_STRING"].split(":")[1] not in said


def test_git_holds_the_new_certificate(team, refreshed):
    assert team.project.run("git", "log", "-1", "--format=%s").stdout.strip() == (
        "smoothed-classifier version 1, gate passed"
    )
    assert team.project.run("git", "status", "--short").stdout == ""


def test_unchanged_data_makes_nothing(team, refreshed):
    ended = team.ended(team.start("refresh/refresh"))
    assert ended["state_type"] == "COMPLETED", ended["state"]
    assert team.draws() == [*range(M)]
    (shown,) = [a for a in team.ask_prefect("artifacts/latest/filter") if a["key"] == "refresh"]
    assert "Nothing changed; version 1 is still current" in shown["data"]


def test_a_raw_set_with_another_digest_makes_a_new_ensemble_with_new_entropy(team, refreshed):
    path = team.project.root / "reports" / "certificate.json"
    before = json.loads(path.read_text())
    team.project.set_params({"ingest": {"raw": 150}, "smooth": {"m": 12}})
    ended = team.ended(team.start("refresh/refresh"))
    assert ended["state_type"] == "COMPLETED", ended["state"]
    after = json.loads(path.read_text())
    assert before["raw_digest"] != after["raw_digest"]
    assert before["entropy_commitment"] != after["entropy_commitment"]
    assert len(team.draws()) == M + 12
    found = team.ask_mlflow("GET", "registered-models/alias", name="smoothed-classifier", alias="candidate")
    assert found["model_version"]["version"] == "2"


def test_a_bad_param_fails_the_flow_with_its_sentence_says_so_and_leaves_everything(team, refreshed):
    team.project.set_params({"sanitize": {"sigma": -1.0}})
    outputs = team.project.outputs()
    ended = team.ended(team.start("smooth-ensemble/smooth"))
    assert ended["state_type"] == "FAILED"
    assert "sanitize.sigma" in ended["state"]["message"]
    until(lambda: "sanitize.sigma" in attention(team), 180)
    assert team.project.outputs() == outputs
    subprocess.run(["git", "checkout", "-q", "params.yaml"], cwd=team.project.root, check=True)
