"""Commands of the project, run from a flow: what they say goes to the flow run's log, what ends them to its state."""

import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections import deque
from functools import cache
from pathlib import Path

from cleanlabel.flows.orchestration import leash
from cleanlabel.flows.orchestration.log import logger
from cleanlabel.flows.orchestration.server import end_with
from cleanlabel.sanitize.errors import AWAY_STATUS, InputError, ServiceUnavailable

BAR = re.compile(r"\d+%\|")
"""A line of a progress bar, which comes anew every second."""
BAR_SECONDS = 30
"""How often one of them is passed on."""
LAST_WORDS = 20
FLOW_RUN = "PREFECT__FLOW_RUN_ID"
"""In the environment of a deployed run's process, its id; not where a flow is started by hand."""


def run(*command: str, settings: dict[str, str] | None = None) -> list[str]:
    """Run a command here, each line it prints logged as it comes, bars now and then; its lines, without bars.

    The command and what it started end with this process, even where that is killed with SIGKILL; a deployed run ends
    with its worker. InputError with its own sentence if it fails; ServiceUnavailable where a
    service did not answer.
    """
    end_with_worker()
    log = logger()
    log.info("$ %s", " ".join(command))
    process = subprocess.Popen(
        # -S -E: a small process that starts at once. It leads the group that killpg ends below.
        [sys.executable, "-S", "-E", leash.__file__, str(os.getpid()), *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=_environment() | (settings or {}),
        start_new_session=True,
    )
    lines: list[str] = []
    shown = time.monotonic()
    try:
        for line in process.stdout or ():
            words = line.rstrip()
            if not words:
                continue
            if not BAR.search(words):
                lines.append(words)
            elif time.monotonic() < shown + BAR_SECONDS:
                continue
            else:
                shown = time.monotonic()
            log.info("%s", words)
        process.wait()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()
    if process.returncode:
        raise _failure(command, process.returncode, lines)
    return lines


@cache
def end_with_worker() -> None:
    """End this deployed run, as Crashed, when the worker that started it is gone: nothing could cancel it any more."""
    if FLOW_RUN in os.environ:
        end_with(os.getppid(), lambda: os.kill(os.getpid(), signal.SIGTERM))  # which Prefect's engine answers in order


def say_it_here() -> None:
    """Print what commands say as well: for whoever runs a flow by hand, and watches."""

    def ours(record: logging.LogRecord) -> bool:
        return record.module == Path(__file__).stem

    handler = logging.StreamHandler(sys.stdout)
    handler.addFilter(ours)
    logging.getLogger("prefect.task_runs").addHandler(handler)


def _environment() -> dict[str, str]:
    """This process' environment without what is about its own flow run, and with this Python's commands first."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT__")}
    return inherited | {"PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}"}


def _failure(command: tuple[str, ...], status: int, lines: list[str]) -> InputError:
    """The sentence the command ended with, its own where it said one."""
    said = [line for line in lines if line.startswith(("error: ", "ERROR: ", "fatal: "))]
    sentence = said[0].split(": ", 1)[1] if said else "; ".join(deque(lines, 3)) or f"exit status {status}"
    words = f"`{' '.join(command)}` failed: {sentence}"
    away = status == AWAY_STATUS or any(f"exited with {AWAY_STATUS}" in line for line in lines[-LAST_WORDS:])
    return ServiceUnavailable(words) if away else InputError(words)
