"""The registered version away from the checkout: what it brings, where it loads, how MLflow shows it."""

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import mlflow.pyfunc
import numpy as np
import pytest
from filled import filled
from imports import ROOT, imported
from installed import link_environment, run_in
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from registered import M, Registered, make_ensemble, make_sets, registered
from services import Service, answers_http, free_port

from cleanlabel.flows.ensemble.opening import open_ensemble
from cleanlabel.flows.store.client import connect
from cleanlabel.flows.store.registry import SMOOTHED, set_alias
from cleanlabel.sanitize.imageset import load
from cleanlabel.sanitize.paths import SETS

STRANGER = f"""
import os
import flows, models, sanitize
assert flows.MINE and models.MINE and sanitize.MINE
try:
    import cleanlabel
    raise SystemExit("cleanlabel is installed here")
except ModuleNotFoundError:
    pass
before = dict(os.environ)
import mlflow.pyfunc, numpy as np
model = mlflow.pyfunc.load_model("models:/{SMOOTHED}@certified")
answers = model.predict(np.load("images.npy", allow_pickle=False))
answers.to_json("answers.json", orient="records")
assert {{**os.environ}}.get("PREFECT_HOME") is None
assert os.environ["MLFLOW_TRACKING_URI"] == before["MLFLOW_TRACKING_URI"]
import cleanlabel
assert "code" in cleanlabel.__file__ and not [p for p in sys.path if os.path.exists(os.path.join(p, "dvc.yaml"))]
assert cleanlabel.reach(11, 1.0) > 0
assert flows.MINE and models.MINE and sanitize.MINE
"""


def strangers_folder(path: Path) -> Path:
    """Somebody else's repository, with packages of the rooms' names."""
    for name in ("flows", "models", "sanitize"):
        (path / name).mkdir(parents=True)
        (path / name / "__init__.py").write_text("MINE = True\n")
    return path


def files_of(version: Registered) -> Path:
    return Path(f".mlflow/artifacts/{version.version.run_id}/artifacts/ensemble")


def test_a_version_brings_the_code_that_loads_it_as_real_files(version):
    code = files_of(version) / "code"
    names = {str(path.relative_to(code)) for path in code.rglob("*") if path.is_file()}
    rooms = [
        *(ROOT / "cleanlabel").glob("*.py"),
        *(p for room in ("models", "sanitize") for p in (ROOT / room).glob("*.py")),
    ]
    expected = {str(Path("cleanlabel", *path.relative_to(ROOT).parts).as_posix()) for path in rooms}
    (loader,) = (name for name in names if name.startswith("cleanlabel_loader_"))
    assert (code / loader).read_bytes() == (ROOT / "cleanlabel" / "loading.py").read_bytes()
    assert names == {name.replace("cleanlabel/cleanlabel/", "cleanlabel/") for name in expected} | {
        "cleanlabel/py.typed",
        loader,
    }
    assert not [path for path in code.rglob("*") if path.is_symlink()]
    assert (code / "cleanlabel" / "models" / "plan.py").read_bytes() == (ROOT / "models" / "plan.py").read_bytes()


EXTRA = {"openvino", "nncf"}
"""Of the extra `cpu`: only an int8 denoiser needs them, and what is served denoises nothing with it."""


def test_the_requirements_name_all_that_this_code_imports_in_the_versions_installed(version):
    lines = (files_of(version) / "requirements.txt").read_text().split()
    pins = dict(line.split("==") for line in lines)
    assert "cleanlabel" not in pins
    for name, number in pins.items():
        assert importlib.metadata.version(name).partition("+")[0] == number
    owners = importlib.metadata.packages_distributions()
    for path in filled((files_of(version) / "code").rglob("*.py")):
        for top in (
            {name.partition(".")[0] for name in imported(path)} - sys.stdlib_module_names - {"cleanlabel"} - EXTRA
        ):
            named = {name.lower().replace("_", "-") for name in owners[top]}
            assert named & {*pins}, f"{path.name} imports {top}, which no requirement names"


def test_the_input_example_is_a_sanitized_image_and_no_raw_one(version):
    example, raw = Model.load(files_of(version)).load_input_example(str(files_of(version))), load(SETS["raw"])
    assert example.shape == (1, 8, 8)
    assert len(np.unique(example)) > 8
    assert not (raw.images[..., 0] == example).all(axis=(1, 2)).any()
    assert len(mlflow.pyfunc.load_model(f"models:/{SMOOTHED}/1").predict(example)) == 1


def test_an_ensemble_is_one_version_and_one_logged_model_however_often_it_is_packaged(version):
    store, run_id = version.store, version.version.run_id
    params = store.client.get_run(run_id).data.params
    for _ in range(2):
        assert registered(store, version.ensemble).number == 1
    versions = store.client.search_model_versions(f"run_id = '{run_id}'")
    assert len(versions) == 1
    logged = [m for m in store.client.search_logged_models([store.experiment_id]) if m.source_run_id == run_id]
    assert [(m.name, str(m.status)) for m in logged] == [(SMOOTHED, "READY")]
    assert json.loads(logged[0].tags["mlflow.modelVersions"]) == [{"name": SMOOTHED, "version": "1"}]
    assert logged[0].params == params
    assert [m.model_id for m in store.client.get_run(run_id).outputs.model_outputs] == [logged[0].model_id]


def test_the_logged_model_finds_its_networks_at_the_run_and_answers_as_the_version(version):
    store, images = version.store, load(SETS["test"]).images[:5, ..., 0]
    (logged,) = (
        m for m in store.client.search_logged_models([store.experiment_id]) if m.source_run_id == version.version.run_id
    )
    files = {info.path for info in store.client.list_logged_model_artifacts(logged.model_id, "data/networks")}
    assert files == {"data/networks/networks.json", "data/networks/smoothed.json"}  # networks are kept once
    answers = mlflow.pyfunc.load_model(f"models:/{logged.model_id}").predict(images)
    assert answers.equals(mlflow.pyfunc.load_model(f"models:/{SMOOTHED}/1").predict(images))
    description = files_of(version) / "data" / "networks" / "smoothed.json"
    description.write_text(description.read_text().replace("{", "{ ", 1))
    with pytest.raises(MlflowException, match=r"data/networks/smoothed.json was changed"):
        mlflow.pyfunc.load_model(f"models:/{logged.model_id}")


def test_packaging_that_was_cut_off_goes_on_with_the_same_logged_model(version):
    store = version.store
    grown = make_ensemble(store, m=M + 2)
    before = {m.model_id for m in store.client.search_logged_models([store.experiment_id])}
    (mine,) = (
        m for m in store.client.search_logged_models([store.experiment_id]) if m.source_run_id == grown.ensemble.run_id
    )
    store.client.finalize_logged_model(mine.model_id, "FAILED")
    again = registered(store, open_ensemble(store, grown.ensemble.plan))
    assert again.number == grown.number
    found = store.client.search_logged_models([store.experiment_id])
    assert {m.model_id for m in found} == before
    assert {str(m.status) for m in found if m.model_id == mine.model_id} == {"READY"}


@pytest.fixture(scope="module", params=["--no-serve-artifacts", "--serve-artifacts"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, empty_database: Path
) -> Iterator[tuple[Service, Path]]:
    """MLflow's server, where clients reach the artifacts themselves or through it, with a certified version."""
    folder = tmp_path_factory.mktemp("served")
    shutil.copy(empty_database, folder / "mlflow.db")
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--workers=1", "--host=127.0.0.1", f"--port={port}"]
    place = "default-artifact-root" if request.param == "--no-serve-artifacts" else "artifacts-destination"
    command += [request.param, f"--{place}={folder}/artifacts"]
    command += [f"--backend-store-uri=sqlite:///{folder}/mlflow.db"]
    env = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    service = Service(url, {"MLFLOW_TRACKING_URI": url}, command, env, folder / "log", answers_http(f"{url}/health"))
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MLFLOW_TRACKING_URI", url)
            (folder / "work").mkdir()
            patch.chdir(folder / "work")
            store = connect()
            make_sets()
            version = make_ensemble(store)
            set_alias(store, version.version, "certified")
            np.save("images.npy", load(SETS["test"]).images[..., 0], allow_pickle=False)
            model = mlflow.pyfunc.load_model(f"models:/{SMOOTHED}@certified")
            model.predict(np.load("images.npy")).to_json("expected.json", orient="records")
        yield service, folder / "work"
    finally:
        service.kill()


@pytest.mark.slow
def test_every_address_of_it_loads_from_a_server(server, monkeypatch):
    service, work = server
    monkeypatch.setenv("MLFLOW_TRACKING_URI", service.env["MLFLOW_TRACKING_URI"])
    store = connect()
    (found,) = store.client.search_logged_models([store.experiment_id])
    for uri in (f"models:/{SMOOTHED}/1", f"runs:/{found.source_run_id}/ensemble", f"models:/{found.model_id}"):
        answers = mlflow.pyfunc.load_model(uri).predict(np.load(work / "images.npy"))
        assert answers.to_json(orient="records") == (work / "expected.json").read_text()


@pytest.mark.slow
def test_by_its_alias_it_loads_from_a_server_beside_a_strangers_own_packages(server, tmp_path):
    service, work = server
    (requirements,) = work.parent.glob("artifacts/**/ensemble/requirements.txt")
    folder = strangers_folder(tmp_path / "theirs")
    shutil.copy(work / "images.npy", folder)
    environment = link_environment(tmp_path / "environment", requirements.read_text().split())
    done = run_in(environment, STRANGER, folder, service.env)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((folder / "answers.json").read_text()) == json.loads((work / "expected.json").read_text())


@pytest.mark.slow
@pytest.mark.skipif("CLEANLABEL_CLEAN_INSTALL" not in os.environ, reason="it downloads and installs gigabytes")
def test_it_loads_in_an_environment_installed_from_its_own_requirements(server, tmp_path):
    service, work = server
    (requirements,) = work.parent.glob("artifacts/**/ensemble/requirements.txt")
    folder = strangers_folder(tmp_path / "theirs")
    shutil.copy(work / "images.npy", folder)
    environment = tmp_path / "environment"
    uv = [sys.executable, "-m", "uv"] if shutil.which("uv") is None else ["uv"]
    subprocess.run([*uv, "venv", "--quiet", "--python", sys.executable, str(environment)], check=True)
    install = ["pip", "install", "--quiet", "--python", str(environment), "--requirement", str(requirements)]
    subprocess.run([*uv, *install], check=True)
    (packages,) = environment.glob("lib/python3*/site-packages")
    done = run_in(packages, STRANGER, folder, service.env)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((folder / "answers.json").read_text()) == json.loads((work / "expected.json").read_text())
