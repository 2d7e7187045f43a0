"""What a stranger installs: the wheel, its dependencies, and that the light commands need no others."""

import re
import stat
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import numpy as np
import pytest
from filled import filled
from imports import OUTSIDE, ROOMS, ROOT, imported
from installed import link_environment, run_in
from PIL import Image
from project import copy_checkout

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
LIGHT = """
import importlib.util, os
for name in ("mlflow", "prefect", "dvc", "pydantic", "sklearn", "pandas", "matplotlib", "torchvision", "sqlalchemy"):
    assert importlib.util.find_spec(name) is None, name
import numpy as np
import cleanlabel
from cleanlabel.__main__ import main

flags = ["--input", "photos", "--denoiser", "denoiser", "--sigma", "0.25", "--output"]
main(["sanitize", *flags, "sanitized"])
main(["preview", *flags, "sheet.png"])
main(["plan", "--sigma", "0.25"])
copies = cleanlabel.SanitizedCopies("photos", cleanlabel.load_denoiser("denoiser"), 0.25, 20)
np.save("votes.npy", [copy.labels for copy in copies])
assert copies.certify(np.load("votes.npy")).radius.min() > 0
assert cleanlabel.certify_sums(np.ones((5, 2, 2), dtype=int), (3, 3), 0.25, (6, 8, 8)).vote.tolist() == [0, 0]
main("certify-votes votes.npy --sigma 0.25 --training-set 6 8 8 --output points.csv".split())
assert not [name for name in os.environ if name.startswith(("MLFLOW_TRACKING", "PREFECT"))]
"""


@pytest.mark.slow
def test_the_light_commands_and_the_api_need_the_base_dependencies_alone(tmp_path, denoiser_dir):
    environment = link_environment(tmp_path / "environment", PROJECT["dependencies"])
    (environment / "cleanlabel").symlink_to(ROOT / "cleanlabel")
    (tmp_path / "denoiser").symlink_to(denoiser_dir)
    generator = np.random.default_rng(0)
    for i in range(6):
        path = tmp_path / "photos" / ("cat", "dog")[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (8, 8), dtype=np.uint8)).save(path)
    done = run_in(environment, LIGHT, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {path.name for path in (tmp_path / "sanitized").iterdir()} == {"cat", "dog", "manifest.json"}
    assert (tmp_path / "sheet.png").is_file()
    assert len((tmp_path / "points.csv").read_text().splitlines()) == 7


def test_what_the_pipeline_imports_is_among_its_dependencies():
    lines = [*PROJECT["dependencies"], *(one for extra in EXTRAS.values() for one in extra)]
    stated = {re.match(r"[\w.-]+", one)[0] for one in lines}
    named = {
        "PIL": "pillow",
        "sklearn": "scikit-learn",
        "ruamel": "ruamel.yaml",
        "prefect_ray": "prefect-ray",
        "ray": "prefect-ray",
    }
    brought = {"huggingface_hub", "pandas", "uvicorn"}  # by diffusers, MLflow and Prefect
    for room in {*ROOMS} - {*OUTSIDE}:
        for path in filled((ROOT / room).rglob("*.py")):
            tops = {name.partition(".")[0] for name in imported(path)} - sys.stdlib_module_names - brought
            missing = {named.get(top, top) for top in tops} - stated - {"cleanlabel"}
            assert not missing, f"{path.relative_to(ROOT)} imports {missing}"


def test_no_file_imports_a_room_by_its_bare_name():
    for path in [
        *(ROOT / "cleanlabel").glob("*.py"),
        *(p for room in (*ROOMS, "tests") for p in (ROOT / room).rglob("*.py")),
    ]:
        bare = {name for name in imported(path) if name.partition(".")[0] in {*ROOMS} - {*OUTSIDE}}
        assert not bare, f"{path.relative_to(ROOT)} imports {bare}; write cleanlabel.…"


def test_the_api_and_the_loader_know_neither_flows_nor_red_team():
    for path in filled((ROOT / "cleanlabel").glob("*.py")):
        names = imported(path)
        assert not [name for name in names if name.startswith(("cleanlabel.flows", "cleanlabel.redteam"))], path.name
        assert path.name in ("served.py", "loading.py") or not [name for name in names if name.startswith("mlflow")], (
            path.name
        )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    checkout, target = tmp_path_factory.mktemp("checkout"), tmp_path_factory.mktemp("wheel")
    copy_checkout(checkout)
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(target)]
    subprocess.run(command, cwd=checkout, check=True, capture_output=True)
    (built,) = target.glob("*.whl")
    return built


def test_the_wheel_holds_the_package_and_nothing_beside_it(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == {"cleanlabel"}
        assert not [i.filename for i in archive.infolist() if stat.S_ISLNK(i.external_attr >> 16)]
        for room in {*ROOMS} - {*OUTSIDE}:
            for path in filled((ROOT / room).rglob("*.py")):
                name = f"cleanlabel/{path.relative_to(ROOT)}"
                assert name in names
                assert archive.read(name) == path.read_bytes()
        assert {"cleanlabel/py.typed", "cleanlabel/api.py", "cleanlabel/flows/report/web/page.html"} <= names
        (entry,) = [name for name in names if name.endswith("entry_points.txt")]
        assert "cleanlabel = cleanlabel.__main__:script" in archive.read(entry).decode()
