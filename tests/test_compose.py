"""compose.yaml: the locked versions, no password in it, nothing open to other machines."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from services import PASSWORDS

from cleanlabel.flows.orchestration.server import LEASES

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "compose.yaml").read_text()
SERVICES = YAML(typ="safe", pure=True).load(TEXT)["services"]
SECRET = re.compile("PASSWORD|SECRET|KEY|AUTH_STRING")


def locked(name: str) -> str:
    """The version of a package in requirements.txt."""
    return re.search(rf"^{re.escape(name)}==(\S+)", (ROOT / "requirements.txt").read_text(), re.MULTILINE).group(1)


def example() -> dict[str, str]:
    """The variables of `.env.example`."""
    return dict(re.findall(r"^(\w+)=(.*)$", (ROOT / ".env.example").read_text(), re.MULTILINE))


def test_the_servers_have_the_versions_of_the_clients():
    assert SERVICES["prefect"]["image"].startswith(f"prefecthq/prefect:{locked('prefect')}-python")
    assert SERVICES["mlflow"]["image"] == f"cleanlabel-mlflow:{locked('mlflow')}"
    recipe = (ROOT / "compose" / SERVICES["mlflow"]["build"]["dockerfile"]).read_text()
    assert f"FROM ghcr.io/mlflow/mlflow:v{locked('mlflow')}\n" in recipe
    pinned = re.findall(r"([\w-]+)(?:\[\w+\])?==([\w.]+)", recipe)
    assert {name for name, _ in pinned} == {"mlflow", "psycopg2-binary", "boto3"}
    assert all(version == locked(name) for name, version in pinned)


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_pinned_and_healthy_or_not(name):
    service = SERVICES[name]
    tag = service["image"].rpartition(":")[2]
    assert re.search(r"\d+\.\d+", tag)
    assert service["healthcheck"]["test"][0] == "CMD"


def test_every_port_is_closed_to_other_machines():
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert {port.partition(":")[0] for port in ports} == {"127.0.0.1"}


@pytest.mark.parametrize("name", SERVICES)
def test_passwords_come_from_the_environment_and_are_asked_for_in_a_sentence(name):
    for variable, value in SERVICES[name]["environment"].items():
        if SECRET.search(variable):
            asked = re.fullmatch(r"(?:cleanlabel:)?\$\{(\w+):\?set (\w+) in \.env, see \.env\.example\}", value)
            assert asked, variable
            assert asked.group(1) == asked.group(2)
    assert not SECRET.search(" ".join(SERVICES[name].get("command", [])))


def test_every_variable_is_in_the_example_without_a_password():
    assert set(re.findall(r"\$\{(\w+)", TEXT)) == set(example())
    assert {name for name, value in example().items() if not value} == set(PASSWORDS)
    assert (ROOT / ".gitignore").read_text().count("\n/.env\n") == 1
    assert "password =" not in (ROOT / "compose" / "basic_auth.ini").read_text()


def test_compose_itself_reads_the_file(tmp_path):
    command = ["docker-compose"] if shutil.which("docker-compose") else ["docker", "compose"]
    if shutil.which(command[0]) is None or subprocess.run([*command, "version"], capture_output=True).returncode:
        pytest.skip("neither docker-compose nor docker compose is installed")
    command += ["--project-directory", str(ROOT), "--file", str(ROOT / "compose.yaml"), "--env-file"]
    (tmp_path / "empty").touch()
    refused = subprocess.run([*command, tmp_path / "empty", "config"], capture_output=True, text=True)
    assert refused.returncode
    assert re.search(r"set \w+ in \.env, see \.env\.example", refused.stderr)
    (tmp_path / "env").write_text("".join(f"{name}={value}\n" for name, value in PASSWORDS.items()))
    subprocess.run([*command, tmp_path / "env", "config"], check=True, capture_output=True)


def test_prefects_limits_outlive_its_server():
    environment = SERVICES["prefect"]["environment"]
    assert LEASES.items() <= environment.items()
    assert environment["PREFECT_HOME"] in {volume.partition(":")[2] for volume in SERVICES["prefect"]["volumes"]}
