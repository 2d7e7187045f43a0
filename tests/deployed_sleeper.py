"""`python -m flows.serve` with a flow that runs a command for minutes, as a person starts it; and what it leaves."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
from services import free_port

ROOT = Path(__file__).resolve().parents[1]
FLOW = """
import sys
from prefect import flow
from cleanlabel.flows.orchestration.commands import run

# as dvc does, it starts another process, and that is the one at work
CODE = '''
import pathlib, subprocess, sys, time
work = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
pathlib.Path("pid.new").write_text(str(work.pid))
pathlib.Path("pid.new").rename("pid")
work.wait()
'''

@flow(persist_result=False)
def sleeper(long: bool = True) -> None:
    if long:
        run(sys.executable, "-c", CODE)
"""
DEPLOYMENTS = """
name: sleeper
pull:
  - prefect.deployments.steps.set_working_directory:
      directory: "{{ $CLEANLABEL_ROOT }}"
deployments:
  - name: nightly
    entrypoint: sleeper.py:sleeper
    tags: [cleanlabel]
    work_pool: {name: cleanlabel, job_variables: {env: {PREFECT_FLOWS_HEARTBEAT_FREQUENCY: "30"}}}
    concurrency_limit: {limit: 1, collision_strategy: CANCEL_NEW}
"""


def until(holds: Callable[[], bool], seconds: float, of: str) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            pytest.fail(f"{of}: not within {seconds} s")
        time.sleep(0.2)


class Served:
    """A folder in which `python -m flows.serve` runs."""

    def __init__(self, root: Path) -> None:
        self.root, self.port = root, free_port()
        self.url = f"http://127.0.0.1:{self.port}/api"
        (root / "sleeper.py").write_text(FLOW)
        (root / "prefect.yaml").write_text(DEPLOYMENTS)
        self.env = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"} | {
            "PREFECT_HOME": str(root / "home"),
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "PREFECT_SERVER_UI_ENABLED": "false",
            "PYTHONPATH": str(ROOT),
        }

    def start(self) -> None:
        """Start it, and wait until its worker is there."""
        path = self.root / "log"
        path.write_text("")
        with path.open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "flows.serve", "--port", str(self.port)],
                cwd=self.root,
                env=self.env,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        until(lambda: self.process.poll() is not None or "started!" in path.read_text(), 240, "a worker")
        assert self.process.poll() is None, path.read_text()

    def ask(self, method: str, path: str, **asked: Any) -> Any:
        """Prefect's REST interface; asked again where its database was busy."""
        for wait in (1, 2, 4, 0):
            answer = requests.request(method, f"{self.url}/{path}", json=asked or None, timeout=60)
            if answer.status_code < 500:
                break
            time.sleep(wait)
        answer.raise_for_status()
        return answer.json()

    def begin(self, **parameters: Any) -> str:
        """Start a run of the deployment; its id."""
        deployment = self.ask("GET", "deployments/name/sleeper/nightly")["id"]
        asked = {"state": {"type": "SCHEDULED"}, "parameters": parameters}
        return self.ask("POST", f"deployments/{deployment}/create_flow_run", **asked)["id"]

    def at_work(self) -> tuple[str, psutil.Process, psutil.Process]:
        """A run that is at work, its process, and the process that its command started."""
        (self.root / "pid").unlink(missing_ok=True)
        run = self.begin()
        until((self.root / "pid").is_file, 120, "a run at work")
        until(lambda: bool(self.run(run)["infrastructure_pid"]), 30, "the number of its process")
        work = psutil.Process(int((self.root / "pid").read_text()))
        return run, psutil.Process(int(self.run(run)["infrastructure_pid"])), work

    def run(self, number: str) -> dict[str, Any]:
        return self.ask("GET", f"flow_runs/{number}")

    def becomes(self, number: str, state: str, seconds: float = 60) -> str:
        """Wait until a run is in a state; the sentence with it."""
        until(lambda: self.run(number)["state"]["name"] == state, seconds, f"{state}, not {self.run(number)['state']}")
        return self.run(number)["state"]["message"] or ""

    def held(self) -> float:
        """Slots of all limits that are taken."""
        limits = self.ask("POST", "v2/concurrency_limits/filter", limit=50)
        return sum(limit["active_slots"] for limit in limits)

    def processes(self) -> list[psutil.Process]:
        """All that was started here."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("PREFECT_HOME") == self.env["PREFECT_HOME"]:
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def kill(self, spared: Callable[[psutil.Process], bool] = lambda _: False) -> None:
        """As when the machine goes down: SIGKILL to all but what is spared."""
        for process in self.processes():
            if not spared(process):
                process.send_signal(signal.SIGKILL)
        self.process.wait()


def gone(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
