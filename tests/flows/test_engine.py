"""Where draws are made, how many at a time and how often it is tried: each once, and the votes always the same."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import pytest
from registered import InThisProcess, make_plan, make_sets
from test_pipeline import Project
from tiny import FIXED

from cleanlabel.flows.ensemble import worker
from cleanlabel.flows.ensemble.assembly import assemble, find_draws
from cleanlabel.flows.ensemble.making import make_prefix
from cleanlabel.flows.ensemble.opening import open_ensemble
from cleanlabel.flows.ensemble.record import Ensemble
from cleanlabel.flows.orchestration import engine
from cleanlabel.flows.store.client import Store, finish
from cleanlabel.models.draw import make_batch
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.imageset import save_npz
from cleanlabel.sanitize.ingest import digits

ENTROPY = f"fixed:{FIXED.hex()}"


def test_an_unknown_engine_is_refused_with_the_list(monkeypatch):
    with pytest.raises(InputError, match="^engine 'dask' is unknown; choose one of processes, ray$"):
        engine.engine_asked("dask")
    monkeypatch.setenv("CLEANLABEL_ENGINE", "threads")
    with pytest.raises(InputError, match="engine 'threads' is unknown"):
        engine.engine_asked(None)
    assert engine.engine_asked("processes") == "processes"  # a flag wins


def test_ray_where_it_is_not_installed_names_the_extra(monkeypatch):
    monkeypatch.setattr(engine, "find_spec", lambda name: None)
    monkeypatch.setenv("CLEANLABEL_ENGINE", "ray")
    with pytest.raises(InputError, match=r"install the extra `ray` .*'\.\[ray\]'.* or use the engine 'processes'"):
        engine.engine_asked(None)
    monkeypatch.delenv("CLEANLABEL_ENGINE")
    assert engine.engine_asked(None) == "processes"


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5", " 2"])
def test_workers_are_one_or_more(monkeypatch, value):
    monkeypatch.setenv("CLEANLABEL_WORKERS", value)
    with pytest.raises(InputError, match=f"CLEANLABEL_WORKERS='{value}' is not a number of processes; give 1 or more"):
        engine.workers()


@pytest.mark.parametrize("value", ["-1", "one", "0.5"])
def test_gpus_are_a_number(monkeypatch, value):
    monkeypatch.setenv("CLEANLABEL_GPUS", value)
    with pytest.raises(InputError, match=f"CLEANLABEL_GPUS='{value}' is not a number of GPUs; give 0 or more"):
        engine.gpus()


def test_workers_and_gpus_are_the_machines_unless_named(monkeypatch):
    monkeypatch.delenv("CLEANLABEL_WORKERS", raising=False)
    monkeypatch.setenv("CLEANLABEL_GPUS", "3")
    assert (engine.workers(), engine.gpus()) == (len(os.sched_getaffinity(0)), 3)
    monkeypatch.setenv("CLEANLABEL_WORKERS", "7")
    assert engine.workers() == 7
    assert engine.at_once("processes") == 3
    monkeypatch.setenv("CLEANLABEL_GPUS", "0")
    assert engine.at_once("processes") == 7


@pytest.fixture
def planned(store: Store) -> Ensemble:
    """An ensemble of fourteen draws in batches of five, none of them made."""
    make_sets()
    return open_ensemble(store, make_plan(entropy_spec=ENTROPY))


def undisturbed(ensemble: Ensemble) -> dict[int, np.ndarray]:
    """The votes of all its draws, made batch by batch and nothing recorded."""
    materials = worker.prepare(ensemble.plan)
    made = [one for batch in ensemble.plan.batches for one in make_batch(materials, FIXED, batch)]
    return {one.draw: one.votes for one in made}


def same_votes(found: dict[int, np.ndarray], expected: dict[int, np.ndarray]) -> bool:
    return found.keys() == expected.keys() and all(np.array_equal(found[draw], expected[draw]) for draw in expected)


def test_a_batch_is_made_whole_where_only_some_of_its_draws_are_wanted(store, planned):
    assert worker.prepare(planned.plan).stacked(5)  # so that a draw's bits could depend on its neighbours
    made = [worker.train_batch(planned.run_id, range(5), wanted, "none", "processes") for wanted in ([1, 3], [0, 2, 4])]
    made += [
        worker.train_batch(planned.run_id, batch, [*batch], "all", "processes")
        for batch in (range(5, 10), range(10, 14))
    ]
    assert made == [2, 3, 5, 4]
    assert same_votes(assemble(store, planned).votes, undisturbed(planned))


def test_what_is_recorded_already_is_not_given_out_again(store, planned):
    worker.train_batch(planned.run_id, range(5), [1, 3], "all", "processes")
    here = InThisProcess("all")
    make_prefix(store, planned, 14, here)
    assert here.given == [(range(5), [0, 2, 4]), (range(5, 10), [*range(5, 10)]), (range(10, 14), [*range(10, 14)])]
    make_prefix(store, planned, 14, here)
    assert len(here.given) == 3
    assert sorted(find_draws(store, planned)[0]) == [*range(14)]
    assert same_votes(assemble(store, planned).votes, undisturbed(planned))


def test_a_batch_that_is_recorded_twice_is_refused_by_both_runs_names(store, planned):
    for _ in range(2):
        worker.train_batch(planned.run_id, range(10, 14), [12], "none", "processes")
    runs = [run.info.run_id for run in store.client.search_runs([store.experiment_id], "tags.cleanlabel.draw = '12'")]
    with pytest.raises(InputError, match="both claim draw 12; a draw counts once") as refused:
        assemble(store, planned)
    assert len(runs) == 2
    assert all(run_id in str(refused.value) for run_id in runs)


def test_a_run_that_never_finished_does_not_count_and_its_draw_is_made_anew(store, planned):
    worker.train_batch(planned.run_id, range(5), [2], "none", "processes")
    run_id = find_draws(store, planned)[0][2].info.run_id
    store.client.update_run(run_id, "RUNNING")  # as a worker leaves it that dies before the last step
    make_prefix(store, planned, 5, here := InThisProcess())
    assert here.given == [(range(5), [0, 1, 2, 3, 4])]
    assert store.client.get_run(run_id).info.status == "KILLED"
    finished = find_draws(store, planned)[0]
    assert sorted(finished) == [0, 1, 2, 3, 4]
    assert finished[2].info.run_id != run_id


def test_lost_batches_are_given_out_again_while_any_is_getting_done(store, planned):
    make_prefix(store, planned, 14, here := InThisProcess(lose=2))
    assert [batch for batch, _ in here.given] == [range(5), range(5, 10), range(10, 14), range(5), range(5, 10)]
    assert sorted(find_draws(store, planned)[0]) == [*range(14)]


def test_where_nothing_gets_done_the_flow_gives_up_in_a_sentence(store, planned):
    here = InThisProcess(lose=100)
    with pytest.raises(InputError, match="3 of 3 batches failed; fix the cause"):
        make_prefix(store, planned, 14, here)
    assert len(here.given) == 6
    finish(store, planned.run_id, "FAILED")
    make_prefix(store, planned, 14, InThisProcess())
    assert sorted(find_draws(store, planned)[0]) == [*range(14)]


SMOOTH = ("python", "-m", "flows.smooth")


def small_project(root: Path, **smooth_params: object) -> Project:
    """A copy of the project with 150 digits, noise only, and twelve linear models in batches of three."""
    project = Project(root / "project")
    sets = digits(600, 150, 0)
    (project.root / "data").mkdir(exist_ok=True)
    save_npz(sets["raw"], project.root / "data" / "raw.npz")
    save_npz(sets["test"].take(np.arange(40)), project.root / "data" / "test.npz")
    linear = {"architecture": "linear", "epochs": 300, "learning_rate": 0.02, "label_smoothing": 0.0}
    project.set_params(
        {
            "sanitize": {"sigma": 0.5, "denoise": False, "entropy": ENTROPY},
            "train": linear,
            "smooth": {"m": 12, "batch_of_draws": 3} | smooth_params,
        }
    )
    return project


def votes_of(project: Project) -> np.ndarray:
    return np.load(project.root / "data" / "ensemble" / "votes.npy", allow_pickle=False)


def assert_nothing_runs(project: Project, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while project.processes() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert project.processes() == []


@pytest.fixture(scope="module")
def votes_of_one_process(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    project = small_project(tmp_path_factory.mktemp("one"))
    project.env["CLEANLABEL_WORKERS"] = "1"
    project.run(*SMOOTH)
    assert sorted(project.draws()) == list(range(12))
    return votes_of(project)


@pytest.mark.slow
def test_the_votes_on_ray_are_those_of_one_process_to_the_bit(tmp_path, votes_of_one_process):
    pytest.importorskip("prefect_ray")
    project = small_project(tmp_path)
    project.env |= {"CLEANLABEL_ENGINE": "ray", "CLEANLABEL_WORKERS": "2"}
    project.run(*SMOOTH)
    assert sorted(project.draws()) == list(range(12))
    assert np.array_equal(votes_of(project), votes_of_one_process)
    assert_nothing_runs(project)


@pytest.mark.slow
def test_draws_that_train_one_by_one_are_dealt_out_to_all_workers_and_keep_their_votes(tmp_path):
    votes, tasks = [], []
    for workers in ("1", "2"):
        (tmp_path / workers).mkdir()
        project = small_project(tmp_path / workers, batch_of_draws=5)
        project.set_params({"train": {"shift": 1, "epochs": 2}})
        project.env |= {"CLEANLABEL_WORKERS": workers, "CLEANLABEL_LOG": str(tmp_path / "log.jsonl")}
        project.run(*SMOOTH)
        assert sorted(project.draws()) == list(range(12))
        votes.append(votes_of(project))
        lines = map(json.loads, (tmp_path / "log.jsonl").read_text().splitlines())
        tasks.append([line["tasks"] for line in lines if line["event"] == "draws dealt out"][-1])
    assert tasks == [3, 4]
    assert np.array_equal(*votes)


@contextmanager
def running(project: Project) -> Iterator[subprocess.Popen[bytes]]:
    """The flow, until the block is left."""
    with (project.root / "log").open("wb") as log:
        process = subprocess.Popen(SMOOTH, cwd=project.root, env=project.env, stdout=log, stderr=log)
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def wait_for_draws(project: Project, count: int) -> None:
    deadline = time.monotonic() + 400
    while time.monotonic() < deadline:
        time.sleep(0.1)
        if (project.root / ".mlflow" / "mlflow.db").is_file() and finished_draws(project) >= count:
            return
    pytest.fail(f"{count} draws were not made in time: {(project.root / 'log').read_text()[-2000:]}")


def finished_draws(project: Project) -> int:
    tables = project.query("select count(*) from sqlite_master where name = 'runs'")[0][0]
    ensembles = tables and project.query("select count(*) from tags where key = 'cleanlabel.planned'")[0][0]
    return len(project.draws()) if ensembles else 0


def workers_of(process: subprocess.Popen[bytes]) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == process.pid and b"spawn_main" in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:  # gone meanwhile
            continue
    return found


@pytest.mark.slow
def test_two_processes_one_killed_and_a_second_flow_refused_and_the_votes_are_those_of_one_process(
    tmp_path, votes_of_one_process
):
    project = small_project(tmp_path)
    project.env["CLEANLABEL_WORKERS"] = "2"
    with running(project) as process:
        wait_for_draws(project, 1)
        assert finished_draws(project) < 12
        os.kill(workers_of(process)[0], signal.SIGKILL)

        process.send_signal(signal.SIGSTOP)  # so that it does not finish first
        second = project.run(*SMOOTH, check=False)
        process.send_signal(signal.SIGCONT)
        assert second.returncode == 1
        assert second.stderr.strip().splitlines()[-1] == (
            f"error: process {process.pid} is working on this ensemble already; wait for it, or stop it"
        )
        assert process.wait(600) == 0, (project.root / "log").read_text()[-2000:]
    assert sorted(project.draws()) == list(range(12))
    assert project.query("select count(*) from runs where status = 'RUNNING'") == [(0,)]
    assert np.array_equal(votes_of(project), votes_of_one_process)
    assert_nothing_runs(project)


def ended_by_sigterm(tmp_path: Path, making: bool) -> tuple[int, list[str]]:
    """A worker that is told to end, in the middle of a batch or between two: its exit status, and what it still did."""
    log = tmp_path / "log"
    child = os.fork()
    if child == 0:
        engine.begin_worker(os.getppid())
        with engine.defer_sigterm() if making else nullcontext():
            os.kill(os.getpid(), signal.SIGTERM)
            with log.open("a") as stream:
                stream.write("the batch was recorded\n")
        with log.open("a") as stream:
            stream.write("another batch was begun\n")
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), log.read_text().splitlines() if log.exists() else []


def test_a_worker_that_is_told_to_end_finishes_its_batch_and_begins_no_other(tmp_path):
    # A process pool that loses one worker terminates the others: each would lose what it is at.
    assert ended_by_sigterm(tmp_path, making=True) == (1, ["the batch was recorded"])


def test_an_idle_worker_that_is_told_to_end_ends(tmp_path):
    assert ended_by_sigterm(tmp_path, making=False) == (1, [])
