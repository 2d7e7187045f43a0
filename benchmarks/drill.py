"""The fault drill: one ensemble whose flow, workers and MLflow server are killed at random, again and again.

    python -m benchmarks.drill [--quick] [--seed N]

Every kill is a SIGKILL at a random moment; after it the same command is given again, until it completes. Then each draw
must be there once, with the votes of an ensemble of the same entropy that nobody disturbed. Both run in temporary
projects with the pipeline's data and denoiser (run `dvc repro denoiser` first) and an MLflow server of their own.
"""

import json
import os
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from ruamel.yaml import YAML
from tqdm import tqdm

from benchmarks.record import flags, record, results
from cleanlabel.sanitize import errors
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.paths import DENOISER, ENSEMBLE, SETS

COMMAND = [sys.executable, "-m", "flows.smooth"]
ROOT = Path(__file__).resolve().parents[1]
WORKERS = 2
BATCH = 5
ENTROPY = "fixed:" + bytes(range(32)).hex()
"""Known to everybody: the disturbed ensemble and the undisturbed one must have the same."""
PATIENCE = 600
"""Seconds without a finished draw after which the drill gives up."""


@dataclass
class Server:
    """An MLflow tracking server on SQLite, a process group of its own, that can be killed and started again."""

    root: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self.root.mkdir(exist_ok=True)
        store, artifacts = f"sqlite:///{self.root}/mlflow.db", f"{self.root}/artifacts"
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--workers", "1", "--backend-store-uri", store, "--artifacts-destination", artifacts]
        quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        with (self.root / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=self.root, env=os.environ | quiet, stdout=log, stderr=log, start_new_session=True
            )
        _until(self._answers, "the MLflow server answers")

    def kill(self) -> None:
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
        return self.root / "smooth.log"

    def start(self) -> None:
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


@dataclass
class Kill:
    """One kill: when it is due, what dies, and what came of it."""

    victim: str
    due: int
    """Finished draws."""
    delay: float
    """Seconds after that."""
    finished: int = 0
    lost: int = 0
    at: float = 0.0
    outcome: list[str] = field(default_factory=list)


def make_project(root: Path, m: int) -> Project:
    """The project's code, data and params in a directory of their own; its server runs."""
    for path in (SETS["raw"], SETS["test"], DENOISER):
        if not path.exists():
            raise InputError(f"{path} does not exist; run `dvc repro denoiser` first")
    for package in ("sanitize", "models", "flows"):  # a copy: nobody changes it under the drill
        shutil.copytree(ROOT / package, root / package, ignore=shutil.ignore_patterns("__pycache__"))
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


def undisturbed(project: Project) -> float:
    """Seconds that the command takes when nobody disturbs it."""
    began = time.perf_counter()
    project.start()
    assert project.flow
    if project.flow.wait():
        raise InputError(f"the undisturbed ensemble was not made ({project.said()})")
    return time.perf_counter() - began


def plan_kills(seed: int, count: int, m: int) -> list[Kill]:
    """Victims and moments: after a random number of finished draws and up to two seconds."""
    generator = random.Random(seed)
    due = sorted(generator.randrange(m - BATCH) for _ in range(count))
    victims = [("flow", "worker", "server")[i % 3] for i in range(count)]
    generator.shuffle(victims)
    return [Kill(victim, when, generator.uniform(0, 2)) for victim, when in zip(victims, due, strict=True)]


def disturbed(project: Project, kills: list[Kill], m: int) -> float:
    """Seconds until the ensemble is complete, with these kills on the way; each kill says what came of it."""
    generator = random.Random(str([kill.delay for kill in kills]))
    began = time.perf_counter()
    project.start()
    with tqdm(total=m, desc="drill", unit="model", mininterval=5) as bar:
        last: list[str] = []  # what came of the kill before
        for kill in kills:
            _go_on(project, lambda kill=kill: len(project.server.finished_draws()) >= kill.due, last, bar)
            time.sleep(kill.delay)
            if kill.victim == "worker":
                _go_on(project, lambda: bool(project.workers()), last, bar)
            kill.at = time.perf_counter() - began
            _strike(project, kill, generator, m)
            last = kill.outcome
        _go_on(project, lambda: project.ended() == 0, last, bar)
        bar.update(m - bar.n)
    return time.perf_counter() - began


def _strike(project: Project, kill: Kill, generator: random.Random, m: int) -> None:
    done = set(project.server.finished_draws())
    kill.finished = len(done)
    open_batches = [batch for i in range(0, m, BATCH) if (batch := {*range(i, min(i + BATCH, m))} - done)]
    in_flight = open_batches[: len(project.workers())]
    kill.lost = sum(map(len, in_flight))  # of all workers: a pool ends with any worker of it
    if kill.victim == "server":
        project.server.kill()
        time.sleep(generator.uniform(0, 3))
        project.server.start()
        return
    if kill.victim == "worker":
        os.kill(generator.choice(project.workers()), signal.SIGKILL)
        return
    assert project.flow
    project.flow.kill()
    project.flow.wait()
    struck = time.perf_counter()
    _until(lambda: not project.processes(), "no process outlives its flow", 60)
    kill.outcome.append(f"nothing of it ran {time.perf_counter() - struck:.1f} s later; the command was given again")
    project.start()


def _go_on(project: Project, reached: Callable[[], bool], outcome: list[str], bar: Any) -> None:
    """Wait for it; a flow that ended with an error meanwhile is started again."""
    deadline, before = time.monotonic() + PATIENCE, -1
    while not reached():
        status = project.ended()
        if status == 0:
            raise InputError("the ensemble was complete before the last kill; give another --seed")
        if status is not None:
            _until(lambda: not project.processes(), "no process outlives its flow", 60)
            outcome.append(f"the flow said '{project.said()}'; the command was given again")
            project.start()
        done = len(project.server.finished_draws())
        if done > before:
            deadline, before = time.monotonic() + PATIENCE, done
            bar.update(max(0, done - bar.n))
        if time.monotonic() > deadline:
            raise InputError(f"no draw was finished for {PATIENCE} s at {done} draws; see {project.log}")
        time.sleep(0.2)


def _until(reached: Callable[[], bool], what: str, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not reached():
        if time.monotonic() > deadline:
            raise InputError(f"waited {seconds:g} s in vain until {what}")
        time.sleep(0.1)


def main() -> None:
    parser = flags("drill", __doc__, "one kill of each kind at the start, in place of 20 on the way to 200 draws")
    parser.add_argument("--seed", type=int, default=0, help="of the kills")
    args = parser.parse_args()
    m, count = (4 * BATCH + 2, 3) if args.quick else (200, 20)  # 21 is the least that the default gate lets begin
    kills = plan_kills(args.seed, count, m)
    projects: list[Project] = []
    try:
        with tempfile.TemporaryDirectory(prefix="cleanlabel-drill-") as scratch:
            for name in ("undisturbed", "disturbed"):
                (Path(scratch).resolve() / name).mkdir()
                projects.append(make_project(Path(scratch).resolve() / name, m))
            alone, drilled = projects
            alone_seconds = undisturbed(alone)
            alone.server.kill()
            seconds = disturbed(drilled, kills, m)
            left = drilled.processes()
            draws, begun = drilled.server.finished_draws(), drilled.begun()
            votes = [np.load(p.root / ENSEMBLE / "votes.npy", allow_pickle=False) for p in projects]
            roots = [json.loads((p.root / ENSEMBLE / "ensemble.json").read_text())["votes_root"] for p in projects]
    finally:
        for project in projects:
            if project.flow and project.flow.poll() is None:
                project.flow.kill()
            project.server.kill()
    print(f"\n{count} kills over {m} draws, {WORKERS} workers, batches of {BATCH}, seed {args.seed}\n")
    print("| # | killed | after s | draws finished | draws in flight | what happened |")
    print("|---|---|---|---|---|---|")
    for number, kill in enumerate(kills, 1):
        happened = "; ".join(kill.outcome) or "the flow went on"
        print(f"| {number} | {kill.victim} | {kill.at:.0f} | {kill.finished} | {kill.lost} | {happened} |")
    lost = sum(kill.lost for kill in kills)
    print(f"\nundisturbed {alone_seconds:.0f} s; with {count} kills {seconds:.0f} s and {drilled.starts} starts")
    print(f"{begun - m} draws were begun in vain by Prefect's count, {lost} were in flight when something was killed\n")
    if draws != list(range(m)):
        raise InputError(f"the finished draws are {draws}, not each of 0..{m - 1} once")
    if not np.array_equal(*votes) or roots[0] != roots[1] or (votes[0] < 0).any():
        raise InputError("the votes are not those of the undisturbed ensemble")
    if left:
        raise InputError(f"processes outlived the flow: {'; '.join(left)}")
    print(f"{m} draws, each once; all {votes[0].size} votes are those of the undisturbed ensemble")
    record(
        "drill",
        {
            "m": m,
            "workers": WORKERS,
            "batch_of_draws": BATCH,
            "seed": args.seed,
            "kills": [
                {
                    "victim": kill.victim,
                    "after_seconds": round(kill.at, 1),
                    "finished": kill.finished,
                    "in_flight": kill.lost,
                    "outcome": kill.outcome or ["the flow went on"],
                }
                for kill in kills
            ],
            "starts": drilled.starts,
            "draws_in_flight_at_kills": lost,
            "draws_begun_in_vain": begun - m,
            "votes_equal": True,
            "seconds": round(seconds, 1),
            "undisturbed_seconds": round(alone_seconds, 1),
        },
        results(args),
    )


if __name__ == "__main__":
    errors.run(main)
