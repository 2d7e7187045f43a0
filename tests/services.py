"""A team's services, started for real on free ports of 127.0.0.1: PostgreSQL, MLflow, Prefect, an S3 emulator.

Each is a process group of its own under a watcher that ends the group when the tests are gone, however they went.
"""

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
STARTUP_SECONDS = 180
PASSWORDS = {
    name: secrets.token_hex(12)
    for name in (
        "POSTGRES_PASSWORD",
        "MLFLOW_DB_PASSWORD",
        "PREFECT_DB_PASSWORD",
        "MLFLOW_ADMIN_PASSWORD",
        "MLFLOW_SECRET_KEY",
        "PREFECT_PASSWORD",
        "S3_ACCESS_KEY",
        "S3_SECRET_KEY",
    )
}
"""By the names of `.env.example`; each stands nowhere else, so that it can be searched for."""

WATCHER = """
import os, signal, subprocess, sys, time
parent = int(sys.argv[1])
child = subprocess.Popen(sys.argv[2:])
def kill(*_):
    child.kill()
    child.wait()  # before its watcher is gone: not every machine's first process collects the dead
    os.killpg(0, signal.SIGKILL)
signal.signal(signal.SIGTERM, kill)
signal.signal(signal.SIGINT, lambda *_: child.send_signal(signal.SIGINT))
while os.getppid() == parent and child.poll() is None:
    time.sleep(0.05)
kill()
"""


@dataclass
class Service:
    """A server that runs: where it is, and the environment its clients need. It can die and come back."""

    url: str
    env: dict[str, str]
    command: list[str]
    server_env: dict[str, str]
    log: Path
    answers: Callable[[], bool]
    process: subprocess.Popen[bytes] = field(init=False)

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Start it, again on the same port and data; back when it answers."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-S", "-E", "-c", WATCHER, str(os.getpid()), *self.command],
                env=os.environ | self.server_env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + STARTUP_SECONDS
        while not self.answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"{self.command} did not start:\n{self.log.read_text()[-3000:]}")
            time.sleep(0.1)

    def kill(self) -> None:
        """As `kill -9` on the server and all its workers: nothing is said or saved."""
        self.process.terminate()
        self.process.wait()

    def stop(self, seconds: float = 20) -> None:
        """Ask it to end, and end it."""
        self.process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)
        self.kill()


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers_http(url: str) -> Callable[[], bool]:
    """Whether somebody answers there, were it only to refuse."""

    def answers() -> bool:
        try:
            urllib.request.urlopen(url, timeout=5).close()
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False
        return True

    return answers


def binary(name: str) -> Path:
    """A program of PostgreSQL, where Debian or PATH has it; skips the test where neither does."""
    debian = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[4]))
    found = debian[-1] if debian else shutil.which(name)
    if found is None:
        pytest.skip("PostgreSQL is not installed: `make services` installs it")
    return Path(found)


def unprivileged() -> list[str]:
    """What stands before a command that refuses to run as root; nothing where we are not root."""
    if os.geteuid() != 0:
        return []
    if shutil.which("setpriv") is None:
        pytest.skip("PostgreSQL does not run as root, and there is no setpriv to run it as another user")
    nobody = pwd.getpwnam("nobody")
    return ["setpriv", f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups", "--"]


@contextmanager
def postgresql() -> Iterator[Service]:
    """PostgreSQL with the roles and databases of `compose/databases.sh`; its data goes when it ends.

    `env` is what libpq needs to be its administrator. Durability is off: a killed server is fine, a machine without
    power is not.
    """
    prefix, port = unprivileged(), free_port()
    # Not under pytest's folder: that is root's alone, and the server runs as somebody else.
    with tempfile.TemporaryDirectory(prefix="cleanlabel-pg-", dir="/tmp" if prefix else None) as scratch:
        directory, log = Path(scratch), Path(scratch) / "log"
        (directory / "password").write_text(PASSWORDS["POSTGRES_PASSWORD"])
        if prefix:
            for path in (directory, directory / "password"):
                shutil.chown(path, "nobody")
        initdb = [binary("initdb"), "--pgdata", directory / "data", "--username=postgres", "--auth=scram-sha-256"]
        initdb += ["--pwfile", directory / "password", "--no-sync", "--no-instructions", "--encoding=UTF8"]
        subprocess.run([*prefix, *initdb, "--locale=C"], cwd="/", check=True, capture_output=True)
        settings = ["listen_addresses=127.0.0.1", "unix_socket_directories=", "fsync=off", "full_page_writes=off"]
        command = [*prefix, str(binary("postgres")), "-D", str(directory / "data"), "-p", str(port)]
        env = {"PGHOST": "127.0.0.1", "PGPORT": str(port), "PGUSER": "postgres"}
        env["PGPASSWORD"] = PASSWORDS["POSTGRES_PASSWORD"]
        ready = [binary("pg_isready"), "--quiet", "--host=127.0.0.1", f"--port={port}"]
        service = Service(
            f"127.0.0.1:{port}",
            env,
            [*command, *(word for setting in settings for word in ("-c", setting))],
            {},
            log,
            lambda: subprocess.run(ready, check=False).returncode == 0,
        )
        try:
            path = f"{binary('psql').parent}:{os.environ['PATH']}"
            subprocess.run(
                ["sh", ROOT / "compose" / "databases.sh"],
                env=os.environ | env | PASSWORDS | {"POSTGRES_USER": "postgres", "PATH": path},
                check=True,
            )
            yield service
        finally:
            service.stop()


def query(database: Service, name: str, sql: str, *values: object) -> list[tuple]:
    """Rows of a statement that the administrator of PostgreSQL runs; none where it has none."""
    import psycopg2

    host, port = database.url.split(":")
    password = database.env["PGPASSWORD"]
    connection = psycopg2.connect(host=host, port=port, user="postgres", password=password, dbname=name)
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(sql, values or None)
            return cursor.fetchall() if cursor.description else []
    finally:
        connection.close()


def dump(database: Service) -> bytes:
    """All that every database of the server holds, as text."""
    command = [binary("pg_dumpall"), "--no-role-passwords"]
    return subprocess.run(command, env=os.environ | database.env, capture_output=True, check=True).stdout


@contextmanager
def mlflow_server(directory: Path, database: Service, artifacts: str, **extra: str) -> Iterator[Service]:
    """MLflow with basic auth on PostgreSQL, as `compose.yaml` starts it, artifacts proxied to a directory or `s3://…`.

    `env` is the administrator's; `extra` is added to the server's own environment (an S3 store's keys).
    """
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--app-name=basic-auth", "--workers=1", "--host=127.0.0.1"]
    command += [f"--port={port}", "--backend-store-uri=postgresql+psycopg2:///mlflow", "--serve-artifacts"]
    url = f"http://127.0.0.1:{port}"
    server_env = database.env | {
        "PGUSER": "mlflow",
        "PGPASSWORD": PASSWORDS["MLFLOW_DB_PASSWORD"],
        "MLFLOW_AUTH_CONFIG_PATH": str(ROOT / "compose" / "basic_auth.ini"),
        "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORDS["MLFLOW_ADMIN_PASSWORD"],
        "MLFLOW_FLASK_SERVER_SECRET_KEY": PASSWORDS["MLFLOW_SECRET_KEY"],
        "MLFLOW_SERVER_ALLOWED_HOSTS": "localhost:*,127.0.0.1:*,mlflow:5000",  # as in .env.example
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    env = account("admin", PASSWORDS["MLFLOW_ADMIN_PASSWORD"]) | {"MLFLOW_TRACKING_URI": url}
    command.append(f"--artifacts-destination={artifacts}")
    log = directory / "mlflow.log"
    service = Service(url, env, command, server_env | extra, log, answers_http(f"{url}/health"))
    try:
        yield service
    finally:
        service.kill()


def account(name: str, password: str) -> dict[str, str]:
    """The environment in which MLflow's client is this user."""
    return {"MLFLOW_TRACKING_USERNAME": name, "MLFLOW_TRACKING_PASSWORD": password}


@contextmanager
def prefect_server(directory: Path, database: Service) -> Iterator[Service]:
    """Prefect on PostgreSQL with its scheduler, and the one account of `compose.yaml`; without pages."""
    port = free_port()
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    url = f"http://127.0.0.1:{port}/api"
    server_env = {
        "PREFECT_HOME": str(directory / "prefect"),
        "PREFECT_API_URL": url,
        "PREFECT_SERVER_DATABASE_DRIVER": "postgresql+asyncpg",
        "PREFECT_SERVER_DATABASE_HOST": database.env["PGHOST"],
        "PREFECT_SERVER_DATABASE_PORT": database.env["PGPORT"],
        "PREFECT_SERVER_DATABASE_NAME": "prefect",
        "PREFECT_SERVER_DATABASE_USER": "prefect",
        "PREFECT_SERVER_DATABASE_PASSWORD": PASSWORDS["PREFECT_DB_PASSWORD"],
        "PREFECT_SERVER_API_AUTH_STRING": f"cleanlabel:{PASSWORDS['PREFECT_PASSWORD']}",
        "PREFECT_SERVER_UI_ENABLED": "false",
    }
    env = {"PREFECT_API_URL": url, "PREFECT_API_AUTH_STRING": server_env["PREFECT_SERVER_API_AUTH_STRING"]}
    log = directory / "prefect.log"
    service = Service(url, env, command, server_env, log, answers_http(f"{url}/health"))
    try:
        yield service
    finally:
        service.kill()


@contextmanager
def s3_store(directory: Path, *buckets: str) -> Iterator[Service]:
    """An S3 emulator in memory with these buckets. It forgets them when it is killed."""
    import boto3

    port = free_port()
    url = f"http://127.0.0.1:{port}"
    env = {
        "AWS_ACCESS_KEY_ID": PASSWORDS["S3_ACCESS_KEY"],
        "AWS_SECRET_ACCESS_KEY": PASSWORDS["S3_SECRET_KEY"],
        "AWS_DEFAULT_REGION": "us-east-1",
        "MLFLOW_S3_ENDPOINT_URL": url,
    }
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    service = Service(url, env, command, {}, directory / "s3.log", answers_http(url))
    try:
        client = boto3.client(
            "s3",
            endpoint_url=url,
            region_name="us-east-1",
            aws_access_key_id=PASSWORDS["S3_ACCESS_KEY"],
            aws_secret_access_key=PASSWORDS["S3_SECRET_KEY"],
        )
        for bucket in buckets:
            client.create_bucket(Bucket=bucket)
        yield service
    finally:
        service.kill()
