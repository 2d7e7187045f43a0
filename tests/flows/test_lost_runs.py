"""Runs that are cancelled or killed, by SIGKILL or with their machine: all of them ends, and the next one starts.

A real Prefect server and worker, started by `python -m flows.serve`.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest
from deployed_sleeper import ROOT, Served, gone, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    served = Served(tmp_path_factory.mktemp("served"))
    try:
        served.start()
        yield served
    finally:
        served.kill()


def test_a_run_cancelled_on_prefects_page_ends_with_what_its_command_started(served):
    run, process, work = served.at_work()
    served.ask("POST", f"flow_runs/{run}/set_state", state={"type": "CANCELLING", "name": "Cancelling"})
    served.becomes(run, "Cancelled")
    until(lambda: gone(process) and gone(work), 40, "its end")
    assert served.held() == 0


def test_a_killed_flow_is_crashed_and_takes_what_its_command_started_along(served):
    run, process, work = served.at_work()
    process.send_signal(signal.SIGKILL)
    assert "SIGKILL" in served.becomes(run, "Crashed")
    until(lambda: gone(work), 40, "its end")
    assert served.held() == 0


def test_after_the_machine_went_down_the_lost_run_is_crashed_and_the_next_one_runs(served):
    run, _, _ = served.at_work()
    served.kill()
    served.start()
    assert served.run(run)["state"]["name"] == "Crashed"
    assert served.run(run)["state"]["message"].startswith("its process was killed, or its machine went down")
    served.becomes(served.begin(long=False), "Completed")
    assert served.held() == 0


HEARTBEATS = """
import sys, time, torch
from datetime import timedelta
from uuid import UUID
from prefect import get_client
from prefect.events import emit_event
from prefect.states import Running
from cleanlabel.flows.orchestration.lost import HEARTBEAT, end_lost_runs

end_lost_runs(silent=timedelta(seconds=15))
with get_client(sync_client=True) as client:
    deployment = client.read_deployment_by_name("sleeper/nightly")
    silent, lively = (client.create_flow_run_from_deployment(deployment.id, state=Running()) for _ in "ab")
    def beat(run):
        resource = {"prefect.resource.id": f"prefect.flow-run.{run.id}"}
        tag = {"prefect.resource.id": "prefect.tag.cleanlabel", "prefect.resource.role": "tag"}
        emit_event(HEARTBEAT, resource, related=[tag])
    beat(silent)
    for _ in range(120):
        beat(lively)
        time.sleep(1)
        found = client.read_flow_run(silent.id)
        if found.state.is_final():
            break
    print(found.state.name, found.state.message, sep="; ")
    print(client.read_flow_run(lively.id).state.name)
    client.delete_flow_run(lively.id)  # it would hold the pool
end_lost_runs()
"""


def test_a_run_on_another_machine_is_ended_when_its_heartbeat_stops_and_not_before(served):
    env = served.env | {"PREFECT_API_URL": served.url}
    done = subprocess.run(
        [sys.executable, "-c", HEARTBEATS], cwd=served.root, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    silent, lively = done.stdout.splitlines()
    assert silent.startswith("Crashed; no heartbeat for 15 s: its process was killed")
    assert lively == "Running"


def test_a_flow_whose_worker_is_killed_ends_with_what_its_command_started(served):
    run, process, work = served.at_work()
    server = psutil.Process(served.process.pid).children()[0]
    served.process.send_signal(signal.SIGSTOP)  # or it would end the server as well
    process.parent().send_signal(signal.SIGKILL)
    served.becomes(run, "Crashed")
    until(lambda: gone(process) and gone(work), 40, "its end")
    assert server.is_running()
    assert served.held() == 0
    served.process.send_signal(signal.SIGCONT)
    assert served.process.wait(60) == 1  # so that whoever watches over it starts it again
    assert "error: the worker ended with status -9" in (served.root / "log").read_text()


HOLD = """
import sys, time, torch
from cleanlabel.flows.orchestration.engine import gpu_slot, resources
from cleanlabel.flows.orchestration.server import prefect_server

with prefect_server(), resources("processes"), gpu_slot("processes", torch.device("cuda")):
    print("holds the GPU", flush=True)
    if sys.argv[1:]:
        time.sleep(600)
"""


def test_a_gpu_is_free_again_a_minute_after_its_holder_was_killed(tmp_path):
    env = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    env |= {"PREFECT_HOME": str(tmp_path), "CLEANLABEL_GPUS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", HOLD]
    with subprocess.Popen([*command, "for long"], env=env, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "holds the GPU\n"
        holder.send_signal(signal.SIGKILL)
    a_minute_later(tmp_path / "concurrency_leases")
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=240, check=False)
    assert done.stdout == "holds the GPU\n", done.stderr


def a_minute_later(leases: Path) -> None:
    """Let the leases there end now, rather than wait for it."""
    now = datetime.now(UTC).isoformat()
    index = json.loads((leases / "expirations.json").read_text())
    assert len(index) == 1
    (leases / "expirations.json").write_text(json.dumps(dict.fromkeys(index, now)))
    for name in index:
        lease = json.loads((leases / f"{name}.json").read_text())
        assert lease["expiration"] > now
        (leases / f"{name}.json").write_text(json.dumps(lease | {"expiration": now}))


WITHOUT_PROCESS = """
import os, subprocess, sys
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.states import Cancelling, Pending, Running
from cleanlabel.flows.orchestration.lost import end_runs_without_process
from cleanlabel.flows.orchestration.server import prefect_server

@flow
def nothing(): ...

with prefect_server(), get_client(sync_client=True) as client:
    client.create_work_pool(WorkPoolCreate(name="cleanlabel", type="process"))
    deployment = client.create_deployment(client.create_flow(nothing), "nothing", work_pool_name="cleanlabel")
    states = (Running, Pending, Cancelling, Running, Running)
    runs = [client.create_flow_run_from_deployment(deployment, state=state()).id for state in states]
    sleeper = [sys.executable, "-c", "import time; time.sleep(600)"]
    alive = subprocess.Popen(sleeper, env=os.environ | {"PREFECT__FLOW_RUN_ID": str(runs[4])})
    client.update_flow_run(runs[3], infrastructure_pid=str(os.getpid()))  # the number is another process' by now
    client.update_flow_run(runs[4], infrastructure_pid=str(alive.pid))
    end_runs_without_process("cleanlabel")
    print(*(client.read_flow_run(run).state.name for run in runs))
    alive.kill()
"""


def test_only_runs_without_a_process_of_their_own_are_ended_when_the_worker_starts(tmp_path):
    env = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    env |= {"PREFECT_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", WITHOUT_PROCESS]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=240, check=False)
    assert done.stdout.split() == ["Crashed", "Crashed", "Crashed", "Crashed", "Running"], done.stderr
