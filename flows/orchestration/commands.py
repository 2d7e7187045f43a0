"""Run the project's commands from a flow: the output goes to the flow run's log, the outcome to its state."""

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
"""A line of a progress bar, which is printed again every second."""
BAR_SECONDS = 30
"""Seconds between progress lines that are passed on."""
LAST_WORDS = 20
FLOW_RUN = "PREFECT__FLOW_RUN_ID"
"""The environment variable with the id of a deployed run; not set if a flow is started by hand."""


def run(*command: str, settings: dict[str, str] | None = None) -> list[str]:
    """Run a command here and log each line it prints, progress bars only now and then. Returns the lines without bars.

    The command and its children end with this process, even if it is killed with SIGKILL. A deployed run ends with its
    worker. InputError with the command's own sentence if it fails; ServiceUnavailable if a service did not answer.
    """
    end_with_worker()
    log = logger()
    log.info("$ %s", " ".join(command))
    process = subprocess.Popen(
        # -S -E: a small process that starts quickly. It leads the group that killpg ends below.
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
    """End this deployed run as Crashed when its worker is gone: nothing else could cancel it."""
    if FLOW_RUN in os.environ:
        end_with(os.getppid(), lambda: os.kill(os.getpid(), signal.SIGTERM))  # Prefect's engine handles it properly


def say_it_here() -> None:
    """Also print the commands' output, for people who run a flow by hand."""

    def ours(record: logging.LogRecord) -> bool:
        return record.module == Path(__file__).stem

    handler = logging.StreamHandler(sys.stdout)
    handler.addFilter(ours)
    logging.getLogger("prefect.task_runs").addHandler(handler)


def _environment() -> dict[str, str]:
    """This process's environment without the variables of its own flow run, and with this Python's commands first."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT__")}
    return inherited | {"PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}"}


def _failure(command: tuple[str, ...], status: int, lines: list[str]) -> InputError:
    """The error for a failed command, with the command's own sentence if it printed one."""
    said = [line for line in lines if line.startswith(("error: ", "ERROR: ", "fatal: "))]
    sentence = said[0].split(": ", 1)[1] if said else "; ".join(deque(lines, 3)) or f"exit status {status}"
    words = f"`{' '.join(command)}` failed: {sentence}"
    away = status == AWAY_STATUS or any(f"exited with {AWAY_STATUS}" in line for line in lines[-LAST_WORDS:])
    return ServiceUnavailable(words) if away else InputError(words)
