"""A drill through its flow, on a real MLflow store and a real Prefect server: what is logged, kept, and said."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from filled import filled
from project import Project
from ruamel.yaml import YAML
from tiny import save_tiny_denoiser

from cleanlabel.flows import attack as command
from cleanlabel.flows.attack import red_team
from cleanlabel.flows.orchestration.server import prefect_server
from cleanlabel.flows.store.client import TAG, find_runs
from cleanlabel.flows.store.drills import digest_of, record, write_tracked
from cleanlabel.redteam.__main__ import parser
from cleanlabel.redteam.drill.drill import Drill
from cleanlabel.redteam.drill.params import DrillParams
from cleanlabel.redteam.drill.prepare import prepared
from cleanlabel.redteam.drill.run import Found, ensembles, reported
from cleanlabel.sanitize.errors import AWAY_STATUS, InputError
from cleanlabel.sanitize.imageset import load
from cleanlabel.sanitize.ingest import main as ingest
from cleanlabel.sanitize.params import read_params
from cleanlabel.sanitize.paths import SETS

ROOT = Path(__file__).resolve().parents[2]
FEW = {
    "attack": "bullseye",
    "settings": {"steps": "3"},
    "targets": 2,
    "sigma": [0.0, 1.0],
    "poisons": 4,
    "recipe": {"architecture": "linear", "epochs": 4},
    "entropy": "fixed:5eed",
}


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the params, the digits and a denoiser of no skill."""
    root = tmp_path_factory.mktemp("digits")
    shutil.copy(ROOT / "params.yaml", root)
    (root / "redteam").mkdir()
    YAML(typ="safe", pure=True).dump({"drill": FEW}, root / "redteam" / "params.yaml")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        ingest()
        save_tiny_denoiser(root / "data" / "denoiser")
    return root


@pytest.fixture
def here(digits: Path, store, tmp_path: Path) -> Path:
    """The working directory of `store`, with the digits in it."""
    shutil.copytree(digits, tmp_path, dirs_exist_ok=True)
    return tmp_path


def drilled() -> tuple[Drill, Found]:
    """The drill without Prefect."""
    drill = prepared(DrillParams(**FEW))
    setups = drill.chosen()
    cells = [cell for number, setup in enumerate(setups) for cell in drill.run(number, setup)]
    return drill, reported(drill, setups, cells, ensembles(drill, setups), Path("reports/redteam"))


def kinds(store) -> dict[str, int]:
    runs = [run.data.tags[f"{TAG}kind"] for run in find_runs(store, "")]
    return {kind: runs.count(kind) for kind in sorted(set(runs))}


def written(state: Path) -> dict[str, int]:
    """When each file of a drill's state was last written."""
    return {str(path): path.stat().st_mtime_ns for path in sorted(state.rglob("*")) if path.is_file()}


@pytest.mark.slow  # it starts a Prefect server
def test_a_drill_stopped_goes_on_and_is_logged_once(here, store):
    once = {"output": Path("reports/redteam"), "device": "cpu", "tracked": True}
    with prefect_server():
        words = red_team(DrillParams(**FEW), **once)
        assert "with one run a sigma under it" in words
        assert kinds(store) == {"red-team": 1, "red-team-cell": 2}
        [state] = [path for path in Path("data/redteam").iterdir() if path.is_dir()]
        tracked = {path.name: path.read_bytes() for path in Path("reports/redteam/drill").iterdir()}
        before = written(state)
        [gone] = sorted(state.glob("*/sigma-1*.json"))[-1:]
        gone.unlink()  # as if it had been killed there
        assert "logged before" in red_team(DrillParams(**FEW), **once)
    after = written(state)
    assert {name for name in before if before[name] != after[name]} == {str(gone)}
    assert kinds(store) == {"red-team": 1, "red-team-cell": 2}
    assert {path.name: path.read_bytes() for path in Path("reports/redteam/drill").iterdir()} == tracked
    assert set(tracked) == {"curve.csv", "metrics.json", "poisons.png", "table.md"}
    assert b"seconds" not in b"".join(tracked.values())


def test_the_runs_have_the_figures_of_the_table(here, store):
    drill, found = drilled()
    run_id, new = record(store, drill, found)
    assert new
    parent = store.client.get_run(run_id)
    assert parent.info.status == "FINISHED"
    assert parent.info.run_name == found.name == "bullseye-transfer-pipeline"
    assert parent.data.tags[f"{TAG}drill"] == drill.state.name
    files = {entry.path for entry in store.client.list_artifacts(run_id)}
    assert files == {"table.md", "table.csv", "drill.md", f"{found.name}.json", f"{found.name}.png"}
    cells = find_runs(store, f"tags.mlflow.parentRunId = '{run_id}'")
    assert [run.data.params["sigma"] for run in cells] == ["0", "1"]
    for run, row in zip(cells, found.rows, strict=True):
        figures = run.data.metrics
        assert figures["success"] == pytest.approx(row.success)
        assert (figures["success_low"], figures["success_high"]) == pytest.approx((row.low, row.high))
        for name in ("control", "accuracy", "joint_l2", "linf", "l2", "radius_limit", "train_seconds"):
            assert figures[name] == pytest.approx(getattr(row, name))
        assert "radius" not in figures  # no ensemble was asked for
        assert run.data.params["attack"] == "bullseye"
        assert run.data.params["recipe.architecture"] == "linear"
        assert run.data.params["knowledge"] == "white-box"
        assert run.data.params["bound"] == "16/255 l_inf"
        assert run.data.tags[f"{TAG}kind"] == "red-team-cell"
        assert run.data.tags[f"{TAG}raw_digest"] == load(SETS["raw"]).digest
    assert record(store, drill, found) == (run_id, False)


def test_a_record_that_broke_off_is_gone_on_with(here, store):
    drill, found = drilled()
    run_id, _ = record(store, drill, found)
    cells = find_runs(store, f"tags.mlflow.parentRunId = '{run_id}'")
    for broken in (run_id, cells[1].info.run_id):
        store.client.update_run(broken, status="RUNNING")
    assert record(store, drill, found) == (run_id, True)
    states = [run.info.status for run in find_runs(store, f"tags.mlflow.parentRunId = '{run_id}'")]
    assert sorted(states) == ["FINISHED", "FINISHED", "KILLED"]
    assert store.client.get_run(run_id).info.status == "FINISHED"


def test_a_drill_made_again_from_its_seeds_is_the_same_but_for_the_seconds(here, tmp_path):
    drill, found = drilled()
    write_tracked(found, tmp_path / "one")
    shutil.rmtree(drill.state)
    again, same = drilled()
    write_tracked(same, tmp_path / "two")
    assert again.state == drill.state
    assert digest_of(same.summary) == digest_of(found.summary)
    for path in filled((tmp_path / "one").iterdir()):
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name
    assert prepared(DrillParams(**FEW | {"entropy": "fixed:1"})).state != drill.state


def test_an_absent_server_is_named_before_anything_is_crafted(digits, tmp_path):
    shutil.copytree(digits, tmp_path, dirs_exist_ok=True)
    where = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    ended = subprocess.run(
        [sys.executable, "-m", "flows.attack"],
        cwd=tmp_path,
        env=os.environ | where | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == AWAY_STATUS
    assert ended.stderr.startswith("error: the MLflow store http://127.0.0.1:9 refused")
    assert len(ended.stderr.splitlines()) == 1
    assert not (tmp_path / "data" / "redteam").exists()


def test_without_flags_it_is_the_drill_of_the_params_and_with_an_attack_that_of_the_flags(here):
    flags = parser(needs_attack=False)
    nothing = flags.parse_args([])
    assert command.asked(nothing, nothing) == DrillParams(**FEW)
    assert command.asked(flags.parse_args(["--output", "elsewhere"]), nothing) == DrillParams(**FEW)
    named = flags.parse_args(["--attack", "frogs", "--targets", "3"])
    assert command.asked(named, nothing) == DrillParams(attack="frogs", targets=3)
    with pytest.raises(InputError, match="--epsilon-255 is given without --attack"):
        command.asked(flags.parse_args(["--epsilon", "8"]), nothing)


def test_the_params_file_says_everything_that_a_drill_can_be_asked_for():
    path = ROOT / "redteam" / "params.yaml"
    assert set(YAML(typ="safe", pure=True).load(path)["drill"]) == set(DrillParams.model_fields)
    assert read_params("drill", DrillParams, path).data == "pipeline"


@pytest.mark.slow
def test_dvc_runs_the_drill_after_what_it_needs_and_once(tmp_path):
    project = Project(tmp_path / "project")
    params = project.root / "redteam" / "params.yaml"
    yaml = YAML()
    content = yaml.load(params)
    content["drill"] |= {"targets": 1, "sigma": [0, 1.0], "settings": {"steps": "2"}, "recipe": {"epochs": 1}}
    yaml.dump(content, params)
    done = project.run("dvc", "repro", "redteam/dvc.yaml:drill").stdout
    ran = [line.split("'")[1] for line in done.splitlines() if line.startswith("Running stage")]
    assert ran == ["ingest", "denoiser", "redteam/dvc.yaml:drill"]
    assert project.query("select value, count(*) from tags where key = 'cleanlabel.kind' group by value") == [
        ("red-team", 1),
        ("red-team-cell", 2),
    ]
    assert project.query("select distinct value from tags where key = 'dvc.stage'") == [("redteam/dvc.yaml:drill",)]
    figures = json.loads((project.root / "reports" / "redteam" / "drill" / "metrics.json").read_text())
    assert set(figures["attack_success"]) == {"sigma 0", "sigma 1"}
    assert "Running stage" not in project.run("dvc", "repro", "redteam/dvc.yaml").stdout
    assert "drill" not in (project.root / "dvc.lock").read_text()
    assert "drill" in (project.root / "redteam" / "dvc.lock").read_text()
