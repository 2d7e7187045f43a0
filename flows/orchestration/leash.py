"""Run a command that never outlives the process it is run for, even if that process is killed with SIGKILL.

    python flows/orchestration/leash.py PID COMMAND...      # PID: the process it is run for, the parent of this one

It leads a process group that contains the command and its children. When PID is gone, or this process gets SIGTERM, the
group gets SIGTERM; what is left of it after GRACE_SECONDS is killed. It imports nothing of the project, so that the
process stays small.
"""

import os
import signal
import subprocess
import sys
import time

GRACE_SECONDS = 20
"""Less than the 30 s after which Prefect kills a run that was cancelled."""
LOOK_SECONDS = 0.2


def main() -> None:
    parent, command = int(sys.argv[1]), sys.argv[2:]
    told: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: told.append(number))
    try:
        process = subprocess.Popen(command)
    except OSError as error:
        sys.exit(f"error: {command[0]} cannot be started: {error.strerror}")
    while process.poll() is None and not told and os.getppid() == parent:
        try:
            process.wait(LOOK_SECONDS)
        except subprocess.TimeoutExpired:
            continue
    if told or os.getppid() != parent:
        _end_group(process)
    status = process.returncode
    sys.exit(status if status >= 0 else 128 - status)


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """Send SIGTERM to this process's group, itself included, and kill what is left after a while."""
    os.killpg(0, signal.SIGTERM)
    deadline = time.monotonic() + GRACE_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(LOOK_SECONDS)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()
