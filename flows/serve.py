"""Put the deployments of prefect.yaml on a Prefect server, and run a server and a worker on this machine.

    python -m flows.serve                 # its own server (or PREFECT_API_URL's), pool, deployments, worker
    python -m flows.serve --deploy-only   # pool and deployments on the server that PREFECT_API_URL names

Ctrl-C, or the end of this process, ends the server and the worker.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from prefect.settings import get_current_settings

from cleanlabel.flows.orchestration.lost import end_lost_runs, end_runs_without_process
from cleanlabel.flows.orchestration.server import LEASES, use_prefect_api, wait_for
from cleanlabel.sanitize import errors
from cleanlabel.sanitize.errors import InputError

POOL = "cleanlabel"
PORT = 4200
PREFECT = (sys.executable, "-m", "prefect", "--no-prompt")
STOP_SECONDS = 20


def deploy() -> None:
    """Make the work pool (one flow at a time), all deployments, and the automations that end killed runs.

    InputError with Prefect's message if it refuses.
    """
    os.environ.setdefault("CLEANLABEL_ROOT", str(Path.cwd()))
    for command in (
        ("work-pool", "create", POOL, "--type", "process", "--overwrite"),
        ("work-pool", "set-concurrency-limit", POOL, "1"),
        ("deploy", "--all"),
    ):
        done = subprocess.run([*PREFECT, *command], capture_output=True, text=True, check=False)
        if done.returncode:
            said = " ".join((done.stderr or done.stdout).split())[-400:]
            raise InputError(f"`prefect {' '.join(command)}` failed: {said}")
    end_lost_runs()
    print(f"pool {POOL} and the deployments of prefect.yaml are on {get_current_settings().api.url}")


@contextmanager
def child(
    *command: str, quiet: bool = False, settings: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A process that ends with the block, and with this process."""
    silence = subprocess.DEVNULL if quiet else None
    environment = os.environ | (settings or {})
    process = subprocess.Popen(command, stdout=silence, stderr=silence, env=environment, preexec_fn=_end_with_parent)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _end_with_parent() -> None:
    import ctypes

    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def serve(port: int) -> None:
    """Server, pool, deployments and worker, until this process is told to end."""
    with ExitStack() as running:
        own = not get_current_settings().api.url
        if own:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    raise InputError(
                        f"port {port} is taken; choose another (--port), or set PREFECT_API_URL to the server there"
                    )
            url = f"http://127.0.0.1:{port}/api"
            command = (*PREFECT, "server", "start", "--host", "127.0.0.1", "--port", str(port))
            page = {"PREFECT_SERVER_UI_API_URL": url}  # otherwise the page uses port 4200
            server = running.enter_context(child(*command, quiet=True, settings=page | LEASES))
            wait_for(url, server)
            running.enter_context(use_prefect_api(url))
        deploy()
        for name in end_runs_without_process(POOL) if own else []:
            print(f"run {name} was killed in an earlier session; it is now marked Crashed")
        print(f"Prefect's page: {get_current_settings().api.url.removesuffix('/api')}   (Ctrl-C ends it)", flush=True)
        worker = running.enter_context(child(*PREFECT, "worker", "start", "--pool", POOL, "--name", "cleanlabel"))
        while worker.poll() is None:
            time.sleep(0.5)
        raise InputError(f"the worker ended with status {worker.returncode}; see its messages above")


def parser() -> argparse.ArgumentParser:
    """The command's flags."""
    flags = argparse.ArgumentParser(prog="python -m flows.serve", description=__doc__.splitlines()[0])
    flags.add_argument(
        "--deploy-only", action="store_true", help="make the work pool and deployments, without server and worker"
    )
    flags.add_argument("--port", type=int, default=PORT, help="port of the server (default: %(default)s)")
    return flags


def main() -> None:
    args = parser().parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    if not args.deploy_only:
        serve(args.port)
    elif get_current_settings().api.url:
        deploy()
    else:
        raise InputError("PREFECT_API_URL is not set; set it to your server, http://HOST:4200/api, or run `make serve`")


if __name__ == "__main__":
    errors.run(main)
