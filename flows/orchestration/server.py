"""A Prefect server for the duration of a command if no other is set. It never outlives the command."""

import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prefect.context import refresh_global_settings_context
from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogHandler
from prefect.settings import get_current_settings

from cleanlabel.sanitize.errors import InputError

LEASES = {"PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem"}
"""Keep the holders of limits in a file: a server that keeps them in memory would, after a restart, never free the slots
of killed processes."""
STARTUP_SECONDS = 180
"""The first start migrates a new database, which takes a minute on a busy machine."""


@contextmanager
def prefect_server() -> Iterator[None]:
    """Use the server that PREFECT_API_URL names, or start one on this machine.

    Prefect can also start such a server by itself, but that one would run forever if the flow is killed.
    """
    if get_current_settings().api.url:
        yield
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "cleanlabel.flows.orchestration.server", str(port), str(os.getpid())]
    lean = {"PREFECT_SERVER_UI_ENABLED": "false", "PREFECT__SERVER_EPHEMERAL": "1"}  # no page, no scheduler
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, stdout=quiet, stderr=quiet, env=os.environ | lean | LEASES)
    try:
        url = f"http://127.0.0.1:{port}/api"
        wait_for(url, process)
        with use_prefect_api(url):
            yield
            APILogHandler().flush()  # send pending logs before the server ends
            EventsWorker.drain_all(timeout=5)
    finally:
        process.terminate()
        process.wait()


@contextmanager
def use_prefect_api(url: str) -> Iterator[None]:
    """Make this process and its children use the server at `url`."""
    # Set the environment, not a settings context: Prefect's threads see no context, and each would start a server.
    os.environ["PREFECT_API_URL"] = url
    refresh_global_settings_context()
    try:
        yield
    finally:
        del os.environ["PREFECT_API_URL"]
        refresh_global_settings_context()


def end_with(parent: int, end: Callable[[], None] = lambda: os._exit(1)) -> None:
    """Call `end` to end this process when its parent `parent` is gone, even after kill -9."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        end()

    threading.Thread(target=watch, daemon=True).start()


def wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    """Return once the server that `process` starts answers. InputError if it does not."""
    deadline = time.monotonic() + STARTUP_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise InputError(
        f"Prefect's local server did not start within {STARTUP_SECONDS} s; "
        "see what `prefect server start` says, or set PREFECT_API_URL to a server that runs"
    )


def main() -> None:
    import uvicorn
    from prefect.server.services.perpetual_services import get_perpetual_services
    from prefect.server.services.repossessor import monitor_expired_leases

    for service in get_perpetual_services():
        if service.function is monitor_expired_leases:
            service.run_in_ephemeral = True  # otherwise a killed worker would hold its GPU forever
    port, parent = map(int, sys.argv[1:])
    end_with(parent)
    uvicorn.run(
        "prefect.server.api.server:create_app",
        factory=True,
        host="127.0.0.1",
        port=port,
        log_level="error",
        lifespan="on",
    )


if __name__ == "__main__":
    main()
