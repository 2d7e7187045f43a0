"""A copy of the project and its MLflow server, whose processes can be killed."""

import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from ruamel.yaml import YAML

from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.paths import DENOISER, SETS

COMMAND = [sys.executable, "-m", "flows.smooth"]
ROOT = Path(__file__).resolve().parents[2]
WORKERS = 2
BATCH = 5
ENTROPY = "fixed:" + bytes(range(32)).hex()
"""Public, since the disturbed ensemble and the undisturbed one must have the same."""


@dataclass
class Server:
    """An MLflow tracking server on SQLite, a process group of its own, that can be killed and started again."""

    root: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        """The tracking URI."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start the server and wait until it answers."""
        self.root.mkdir(exist_ok=True)
        store, artifacts = f"sqlite:///{self.root}/mlflow.db", f"{self.root}/artifacts"
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--workers", "1", "--backend-store-uri", store, "--artifacts-destination", artifacts]
        quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        with (self.root / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=self.root, env=os.environ | quiet, stdout=log, stderr=log, start_new_session=True
            )
        until(self._answers, "the MLflow server answers")

    def kill(self) -> None:
        """SIGKILL the server and its workers."""
        if self.process:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    def finished_draws(self) -> list[int]:
        """The numbers of the finished draws, read past the server, which may be dead."""
        if not (self.root / "mlflow.db").is_file():
            return []
        with closing(sqlite3.connect(f"file:{self.root}/mlflow.db?mode=ro", uri=True, timeout=30)) as database:
            try:
                rows = database.execute(
                    "select t.value from runs r join tags t on t.run_uuid = r.run_uuid and t.key = 'cleanlabel.draw' "
                    "where r.status = 'FINISHED'"
                ).fetchall()
            except sqlite3.OperationalError:  # the tables are not there yet, or a dead server's journal is in the way
                return []
        return sorted(int(draw) for (draw,) in rows)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=5):
                return True
        except (urllib.error.URLError, OSError):
            return False


@dataclass
class Project:
    """A copy of the project with data of its own, and the flow that runs in it."""

    root: Path
    server: Server
    flow: subprocess.Popen[bytes] | None = None
    starts: int = 0

    @property
    def log(self) -> Path:
        """What all flows printed."""
        return self.root / "smooth.log"

    def start(self) -> None:
        """Start the flow; it does not wait."""
        env = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MLFLOW_"))}
        env |= {"MLFLOW_TRACKING_URI": self.server.uri, "CLEANLABEL_WORKERS": str(WORKERS), "OMP_NUM_THREADS": "1"}
        with self.log.open("ab") as log:
            self.flow = subprocess.Popen(COMMAND, cwd=self.root, env=env, stdout=log, stderr=log)
        self.starts += 1

    def ended(self) -> int | None:
        """The flow's exit status; None while it runs."""
        return self.flow.poll() if self.flow else None

    def workers(self) -> list[int]:
        """The processes in which the flow makes draws."""
        return [pid for pid, parent, words in self._processes() if parent == self._pid and "spawn_main" in words]

    def processes(self) -> list[str]:
        """Command lines of everything that still runs in the project's folder."""
        return [words for _, _, words in self._processes()]

    def begun(self) -> int:
        """Draws that workers began, as Prefect recorded it; what it heard last before a kill may be missing."""
        with closing(sqlite3.connect(self.root / ".prefect" / "prefect.db")) as database:
            names = database.execute("select name from task_run where start_time is not null").fetchall()
        return sum(len(json.loads(name.removeprefix("draws "))) for (name,) in names)

    def said(self) -> str:
        """The last sentence in which a flow said why it ended."""
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.startswith("error: ")]
        return lines[-1] if lines else ""

    @property
    def _pid(self) -> int:
        return self.flow.pid if self.flow else -1

    def _processes(self) -> list[tuple[int, int, str]]:
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if (entry / "cwd").readlink() != self.root:
                    continue
                words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:  # gone meanwhile
                continue
            if words:  # a process that ended and was not waited for has none
                found.append((int(entry.name), parent, words))
        return found


def make_project(root: Path, m: int) -> Project:
    """The project's code, data and params in a directory of their own; its server runs."""
    for path in (SETS["raw"], SETS["test"], DENOISER):
        if not path.exists():
            raise InputError(f"{path} does not exist; run `dvc repro denoiser` first")
    for folder in ("cleanlabel", "sanitize", "models", "redteam", "flows"):  # a copy, which no edit changes meanwhile
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / folder, root / folder, symlinks=True, ignore=ignored)
    (root / "data").mkdir()
    for path in (SETS["raw"], SETS["test"]):
        shutil.copy(path, root / path)
    shutil.copytree(DENOISER, root / DENOISER)
    reader = YAML()
    params = reader.load(Path("params.yaml"))
    params["sanitize"]["entropy"] = ENTROPY
    params["smooth"] |= {"m": m, "selection": 0, "batch_of_draws": BATCH, "stopping": "none", "looks": None}
    params["certify"]["method"] = "binary"
    params["gate"]["certified_accuracy"] = []  # a few models reach no radius
    reader.dump(params, root / "params.yaml")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = Server(root.parent / f"{root.name}-server", port)
    server.start()
    return Project(root, server)


def until(reached: Callable[[], bool], what: str, seconds: float = 120) -> None:
    """Wait until `reached`. InputError after `seconds` that names what was awaited."""
    deadline = time.monotonic() + seconds
    while not reached():
        if time.monotonic() > deadline:
            raise InputError(f"{what}: not true after {seconds:g} s")
        time.sleep(0.1)
