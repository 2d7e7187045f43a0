"""The deployments of prefect.yaml, held to what they name; and what refresh does with data that came in anew."""

import inspect
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from prefect import Flow
from prefect.exceptions import ParameterTypeError
from ruamel.yaml import YAML

from cleanlabel.flows import deployed, refresh
from cleanlabel.flows.certificate.reviews import CANDIDATE, CERTIFIED
from cleanlabel.flows.deployed import red_team_drill, relied_on, sanitize_images
from cleanlabel.flows.orchestration.events import AUDIT_FAILED, AWAITING_REVIEW, GATE_FAILED
from cleanlabel.flows.orchestration.lost import SILENT, TAGS
from cleanlabel.flows.serve import POOL
from cleanlabel.flows.store.registry import set_alias
from cleanlabel.redteam.__main__ import params_from, parser
from cleanlabel.redteam.attacks import ATTACKS
from cleanlabel.redteam.drill.params import DrillParams
from cleanlabel.redteam.drill.report import NAMES
from cleanlabel.redteam.threat.victims import SCENARIOS
from cleanlabel.sanitize.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
DECLARED = YAML(typ="safe", pure=True).load(ROOT / "prefect.yaml")
DEPLOYMENTS = {deployment["name"]: deployment for deployment in DECLARED["deployments"]}


def flow_of(deployment: dict) -> Flow:
    path, _, name = deployment["entrypoint"].partition(":")
    return getattr(import_module("cleanlabel." + path.removesuffix(".py").replace("/", ".")), name)


def test_everything_the_schedule_and_people_need_is_deployed():
    assert set(DEPLOYMENTS) == {"refresh", "sanitize", "smooth", "certify", "audit", "red-team", "notify"}
    assert {name for name, of in DEPLOYMENTS.items() if of.get("schedules")} == {"refresh", "audit"}


@pytest.mark.parametrize("name", sorted(DEPLOYMENTS))
def test_a_deployment_names_a_flow_whose_parameters_make_a_form(name):
    deployment, found = DEPLOYMENTS[name], flow_of(DEPLOYMENTS[name])
    assert deployment["work_pool"]["name"] == POOL
    schema = found.parameters.model_dump_for_openapi()["properties"]
    assert schema.keys() == inspect.signature(found.fn).parameters.keys()
    assert all(of.get("description") and ("type" in of or "anyOf" in of) for of in schema.values())
    assert (deployment.get("parameters") or {}).keys() <= schema.keys()
    for trigger in deployment.get("triggers", []):  # can fail: of some deployments, as the next test holds
        assert trigger["parameters"].keys() <= schema.keys()
    for schedule in deployment.get("schedules", []):  # can fail: of two, as the test above holds
        assert schedule["cron"]
        assert schedule["timezone"]
    if name != "notify":
        assert deployment["concurrency_limit"]["limit"] == 1


@pytest.mark.parametrize("name", sorted(DEPLOYMENTS))
def test_a_deployments_runs_are_watched_over(name):
    # By their heartbeat and their tag: a run that is killed would hold the pool for ever.
    heartbeat = int(DEPLOYMENTS[name]["work_pool"]["job_variables"]["env"]["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"])
    assert 3 * heartbeat < SILENT.total_seconds()
    assert any(f"prefect.tag.{tag}".startswith(TAGS.removesuffix("*")) for tag in DEPLOYMENTS[name]["tags"])


def test_somebody_is_told_of_what_needs_a_person():
    expected = {event for trigger in DEPLOYMENTS["notify"]["triggers"] for event in trigger["expect"]}
    assert {GATE_FAILED, AWAITING_REVIEW, AUDIT_FAILED, "prefect.flow-run.Failed"} <= expected


@pytest.mark.parametrize("bad", [{"sigma": 0}, {"sigma": "much"}, {"fit": "stretch"}])
def test_a_bad_parameter_is_refused_before_anything_runs(bad):
    good = {"input": "in", "output": "out", "denoiser": None, "sigma": 0.5}
    assert sanitize_images.validate_parameters(good)["sigma"] == 0.5
    with pytest.raises(ParameterTypeError, match=f" - {next(iter(bad))}: Input should be "):
        sanitize_images.validate_parameters(good | bad)


def test_the_form_of_a_drill_offers_what_the_room_has():
    # Spelled out there, since Prefect's loading of the file hides the room.
    fields = red_team_drill.parameters.model_dump_for_openapi()["properties"]
    assert set(fields["attack"]["anyOf"][0]["enum"]) == set(NAMES) >= set(ATTACKS)
    assert set(fields["scenario"]["anyOf"][0]["enum"]) == set(SCENARIOS)
    assert fields["sigma"]["default"] == DrillParams(attack="frogs").sigma
    assert fields["epsilon_255"]["default"] == DrillParams(attack="frogs").epsilon_255
    with pytest.raises(ParameterTypeError, match="sigma: List should have at least 1 item"):
        red_team_drill.validate_parameters({"attack": "frogs", "sigma": []})


def test_a_drill_of_the_form_runs_the_command_with_the_same_flags(monkeypatch):
    ran = []
    monkeypatch.setattr(deployed, "run", lambda *command: ran.append(command))
    red_team_drill.fn()
    red_team_drill.fn(attack="frogs", sigma=[0.0, 1.0], poisons=3, adaptive=True, settings=["steps=2"])
    assert ran[0] == ("dvc", "repro", "--pull", "redteam/dvc.yaml")
    assert ran[1][:3] == ("python", "-m", "flows.attack")
    params = params_from(parser().parse_args(ran[1][3:]))
    assert params == DrillParams(attack="frogs", sigma=[0.0, 1.0], poisons=3, adaptive=True, settings={"steps": "2"})


@pytest.mark.parametrize("name", ["red-team"])
def test_prefect_loads_a_deployments_flow_from_its_file(name):
    # In a process of its own: there the flow's folder comes first on the path, and no room is imported yet.
    code = "import sys; from prefect.flows import load_flow_from_entrypoint as f; print(f(sys.argv[1]).name)"
    command = [sys.executable, "-c", code, DEPLOYMENTS[name]["entrypoint"]]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == flow_of(DEPLOYMENTS[name]).name


def test_the_audit_takes_the_version_that_people_rely_on(version):
    assert relied_on(version.store) == 2
    set_alias(version.store, version.version, CANDIDATE)
    assert relied_on(version.store) == 1
    set_alias(version.store, version.version, CERTIFIED)
    assert relied_on(version.store) == 1


def test_an_audit_without_any_version_is_one_sentence(store):
    with pytest.raises(InputError, match="has no version yet; run `dvc repro`"):
        relied_on(store)


def git(where: Path, *command: str) -> str:
    nobody = ("-c", "user.name=somebody", "-c", "user.email=somebody@example.org")
    done = subprocess.run(["git", *nobody, *command], cwd=where, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def dvc(where: Path, *command: str) -> None:
    subprocess.run(["dvc", *command, "--quiet"], cwd=where, check=True, capture_output=True)


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A team's clone that data comes in through, and the scheduler's clone; one git origin and one DVC remote."""
    team, scheduler = tmp_path / "team", tmp_path / "scheduler"
    git(tmp_path, "init", "-q", "--bare", "origin.git")
    git(tmp_path, "clone", "-q", "origin.git", "team")
    dvc(team, "init")
    dvc(team, "remote", "add", "--default", "shared", str(tmp_path / "remote"))
    (team / "data" / "incoming").mkdir(parents=True)
    (team / "dvc.lock").write_text("schema: '2.0'\n")
    deliver(team, 0)
    git(tmp_path, "clone", "-q", "origin.git", "scheduler")
    monkeypatch.chdir(scheduler)
    return team, scheduler


def deliver(team: Path, seed: int) -> bytes:
    """A version of the raw set, in through the team's clone."""
    path = team / "data" / "incoming" / "raw.npz"
    np.savez(path, images=np.random.default_rng(seed).integers(0, 256, (4, 8, 8), dtype=np.uint8))
    dvc(team, "add", "data/incoming/raw.npz")
    dvc(team, "push")
    git(team, "add", "-A")
    git(team, "commit", "-qm", f"data {seed}")
    git(team, "push", "-q", "origin", "HEAD")
    return path.read_bytes()


def test_data_that_came_in_is_brought_here_and_unchanged_data_is_left_alone(two):
    team, scheduler = two
    refresh.pull_data.fn()
    here = scheduler / "data" / "incoming" / "raw.npz"
    assert here.read_bytes() == (team / "data" / "incoming" / "raw.npz").read_bytes()
    stamp = here.stat().st_mtime_ns
    refresh.pull_data.fn()
    assert here.stat().st_mtime_ns == stamp
    delivered = deliver(team, 1)
    refresh.pull_data.fn()
    assert here.read_bytes() == delivered


def test_commits_that_do_not_follow_from_each_other_are_one_sentence_and_nothing_is_lost(two):
    team, scheduler = two
    (scheduler / "dvc.lock").write_text("here: 1\n")
    git(scheduler, "commit", "-qam", "here")
    deliver(team, 1)
    with pytest.raises(InputError, match=r"`git pull --ff-only --quiet` failed: .*fast-forward"):
        refresh.pull_data.fn()
    assert (scheduler / "dvc.lock").read_text() == "here: 1\n"


def test_what_was_made_is_committed_alone_and_once(two):
    _, scheduler = two
    (scheduler / "reports").mkdir()
    (scheduler / "reports" / "certificate.json").write_text("{}\n")
    (scheduler / "notes.txt").write_text("somebody's own\n")
    git(scheduler, "add", "notes.txt")
    refresh.commit_outputs.fn("push", "version 1, gate passed")
    assert git(scheduler, "show", "--name-only", "--format=%s").split("\n") == [
        "version 1, gate passed", "", "reports/certificate.json",
    ]  # fmt: skip
    assert git(scheduler, "status", "--short") == "A  notes.txt"
    assert git(scheduler, "rev-parse", "HEAD") == git(scheduler, "rev-parse", "@{upstream}")
    refresh.commit_outputs.fn("push", "version 1, gate passed")
    assert git(scheduler, "rev-list", "--count", "HEAD") == "2"


def test_outputs_go_to_the_default_remote_where_there_is_one(two, tmp_path):
    _, scheduler = two
    made = scheduler / "made.txt"
    made.write_text("made here")
    dvc(scheduler, "add", "made.txt")
    before = sum(path.is_file() for path in (tmp_path / "remote").rglob("*"))
    refresh.push_outputs.fn()
    assert sum(path.is_file() for path in (tmp_path / "remote").rglob("*")) == before + 1
    dvc(scheduler, "remote", "default", "--unset")
    dvc(scheduler, "remote", "remove", "shared")
    refresh.push_outputs.fn()


def test_refresh_is_no_stage_of_the_pipeline_it_runs(monkeypatch):
    monkeypatch.setenv("DVC_STAGE", "smooth")
    with pytest.raises(InputError, match="cannot be a stage"):
        refresh.refresh.fn()
