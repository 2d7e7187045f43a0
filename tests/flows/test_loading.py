"""What MLflow loads of a registered version: nothing but the sealed files, whichever way they were changed."""

import importlib.util
import json
import os
import py_compile
import shutil
import subprocess
import sys
from pathlib import Path

import mlflow.pyfunc
import numpy as np
import pytest
from filled import filled
from imports import ROOT
from mlflow.exceptions import MlflowException
from registered import Registered, seal_again

from cleanlabel import loading
from cleanlabel.flows.store.registry import SMOOTHED, set_alias
from cleanlabel.sanitize.imageset import load
from cleanlabel.sanitize.paths import SETS

URI = f"models:/{SMOOTHED}/1"
RAN = 'open("ran", "a").write("it ran\\n")\n'
"""Planted code: it leaves a file in the working directory."""


def files_of(version: Registered) -> Path:
    return Path(f".mlflow/artifacts/{version.version.run_id}/artifacts/ensemble").absolute()


def in_new_process(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run code that sees the installed libraries and, unless PYTHONPATH says so, no checkout."""
    start = (
        "import sys\nsys.path[:] = [entry for entry in sys.path if entry]\nimport json, mlflow.pyfunc, numpy as np\n"
    )
    return subprocess.run(
        [sys.executable, "-c", start + code],
        env=os.environ | {"PYTHONPATH": ""} | env,
        capture_output=True,
        text=True,
        check=False,
    )


LOAD = f"""
try:
    mlflow.pyfunc.load_model({URI!r})
except ValueError as error:
    print(error)
"""
ANSWER = f"""
model = mlflow.pyfunc.load_model({URI!r})
answers = model.predict(np.load("images.npy")).to_dict("records")
json.dump(answers, open("answers.json", "w"))
print(type(model._model_impl).__module__, sys.modules[type(model._model_impl).__module__].__file__)
"""


@pytest.fixture
def expected(version) -> list[dict]:
    """The version's answers about the test set."""
    images = load(SETS["test"]).images[..., 0]
    np.save("images.npy", images, allow_pickle=False)
    return mlflow.pyfunc.load_model(URI).predict(images).to_dict("records")


def appended(path: Path) -> None:
    path.write_text(f"{path.read_text()}\n{RAN}")


def with_bytecode(path: Path) -> None:
    """Bytecode for a source file that stays as it was: Python takes it, as its time and size are the source's."""
    planted, stat = path.parent / "planted.py", path.stat()
    planted.write_text(RAN)
    made = Path(importlib.util.cache_from_source(str(path)))
    py_compile.compile(str(planted), str(made), doraise=True)
    planted.unlink()
    content = bytearray(made.read_bytes())
    content[8:16] = int(stat.st_mtime).to_bytes(4, "little") + (stat.st_size & 0xFFFFFFFF).to_bytes(4, "little")
    made.write_bytes(bytes(content))


def written(path: Path, text: str = RAN) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


CODE = {
    "code/cleanlabel/served.py was changed": lambda d: appended(d / "code/cleanlabel/served.py"),
    "code/cleanlabel/__init__.py was changed": lambda d: appended(d / "code/cleanlabel/__init__.py"),
    "code/wave.py was added": lambda d: written(d / "code/wave.py"),
    "code/hashlib.py was added": lambda d: [
        written(d / f"code/{n}.py") for n in ("hashlib", "ast", "json", "stat", "re")
    ],
    "code/cleanlabel/served/__init__.py was added": lambda d: written(d / "code/cleanlabel/served/__init__.py"),
    f"code/cleanlabel/__pycache__/served.cpython-{sys.version_info[0]}{sys.version_info[1]}.pyc was added": (
        lambda d: with_bytecode(d / "code/cleanlabel/served.py")
    ),
    "code/cleanlabel is not a plain file": lambda d: [
        shutil.copytree(d / "code/cleanlabel", "elsewhere"),
        appended(Path("elsewhere/served.py")),
        shutil.rmtree(d / "code/cleanlabel"),
        (d / "code/cleanlabel").symlink_to(Path("elsewhere").absolute()),
    ],
}


@pytest.mark.parametrize("said", CODE)
def test_code_that_was_put_into_a_version_never_runs_and_is_named(version, said):
    CODE[said](files_of(version))
    done = in_new_process(f"{LOAD}\nimport wave\n")  # nor may it run later, when somebody imports a library
    assert said in done.stdout, done.stderr
    assert not Path("ran").exists()


def edited(path: Path, **changes: object) -> None:
    content = json.loads(path.read_text())
    content.update(changes)
    path.write_text(json.dumps(content))


def edited_plan(directory: Path, **changes: object) -> None:
    path = directory / "data/networks/smoothed.json"
    plan = json.loads(path.read_text())["plan"]
    edited(path, plan=plan | changes)


FILES = {
    "data/networks/smoothed.json was changed": lambda d: edited_plan(d, alpha=0.5),
    "data/networks/draw-00002.safetensors was changed": lambda d: shutil.copy(
        d / "data/networks/draw-00001.safetensors", d / "data/networks/draw-00002.safetensors"
    ),
    "data/networks/draw-00003.safetensors is gone": lambda d: (d / "data/networks/draw-00003.safetensors").unlink(),
    "MLmodel was changed": lambda d: (d / "MLmodel").write_text(
        (d / "MLmodel").read_text().replace("python_function:", "python_function:\n    predict_fn: votes", 1)
    ),
    "requirements.txt was changed": lambda d: (d / "requirements.txt").write_text("torch==2.0.0\n"),
    "certificate/certified_accuracy.csv was changed": lambda d: (d / "certificate/certified_accuracy.csv").write_text(
        "radius,certified_accuracy\n"
    ),
    "the certificate in": lambda d: edited(d / "certificate/certificate.json", seal="0" * 64),
    "names the seal None": lambda d: (d / "certificate/certificate.json").write_text("[1]"),
    "there is no seal.json": lambda d: (d / "seal.json").unlink(),
    "is damaged: it is no list of digests": lambda d: (d / "seal.json").write_text('{"entries": [], "format": "x"'),
    "has the format 'cleanlabel-seal/2'": lambda d: edited(d / "seal.json", format="cleanlabel-seal/2"),
    "names the seal": lambda d: edited(d / "seal.json", entries=loading.digests_of(d) | {"run:x": "0" * 64}),
}


@pytest.mark.parametrize("said", FILES)
def test_a_file_that_was_changed_in_a_version_is_named_and_nothing_is_loaded(version, said):
    FILES[said](files_of(version))
    with pytest.raises(MlflowException, match=said) as refusal:
        mlflow.pyfunc.load_model(URI)
    assert isinstance(refusal.value, ValueError)
    assert "\n" not in str(refusal.value)


def test_a_version_loads_by_every_address_and_leaves_the_store_as_it_was(version, expected, tmp_path):
    set_alias(version.store, version.version, "certified")
    (logged,) = (
        m
        for m in version.store.client.search_logged_models([version.store.experiment_id])
        if m.source_run_id == version.version.run_id
    )
    before, images = loading.digests_of(files_of(version)), np.load("images.npy")
    copied = mlflow.artifacts.download_artifacts(URI, dst_path=str(tmp_path / "copy"))
    for uri in (
        URI,
        f"models:/{SMOOTHED}@certified",
        f"runs:/{version.version.run_id}/ensemble",
        f"models:/{logged.model_id}",
        copied,
        str(files_of(version)),
    ):
        for _ in range(2):
            assert mlflow.pyfunc.load_model(uri).predict(images).to_dict("records") == expected, uri
        assert not [entry for entry in sys.path if (Path(entry) / "cleanlabel").is_dir() and Path(entry).name == "code"]
    assert in_new_process(LOAD).stdout == ""
    assert loading.digests_of(files_of(version)) == before


def test_a_logged_model_answers_with_the_networks_of_its_own_run_only(version, expected, snapshot):
    store = version.store
    other = store.client.get_model_version(SMOOTHED, "2").run_id
    (logged,) = (
        m for m in store.client.search_logged_models([store.experiment_id]) if m.source_run_id == version.version.run_id
    )
    uri = f"models:/{logged.model_id}"
    place = Path(logged.artifact_location.removeprefix("file://"))
    pointer = place / "data/networks/networks.json"
    right = pointer.read_text()
    pointer.write_text(right.replace(version.version.run_id, other))
    with pytest.raises(MlflowException, match="its MLmodel names runs:/"):
        mlflow.pyfunc.load_model(uri)
    pointer.write_text("{")
    with pytest.raises(MlflowException, match=r"says None, and its MLmodel names runs:/"):
        mlflow.pyfunc.load_model(uri)
    pointer.write_text(right.replace(version.version.run_id, other))
    model = (place / "MLmodel").read_text()
    (place / "MLmodel").write_text(model.replace(f"run_id: {version.version.run_id}", f"run_id: {other}"))
    with pytest.raises(MlflowException, match="MLmodel was changed"):
        mlflow.pyfunc.load_model(uri)
    pointer.write_text(right)
    (place / "MLmodel").write_text(model)
    appended(place / "code/cleanlabel/models/answers.py")
    with pytest.raises(MlflowException, match="code/cleanlabel/models/answers.py was changed"):
        mlflow.pyfunc.load_model(uri)


@pytest.mark.parametrize("absolute", [False, True])
def test_an_mlmodel_that_names_another_versions_data_is_refused(version, absolute):
    other = version.store.client.get_model_version(SMOOTHED, "2").run_id
    there = files_of(version).parents[2] / other / "artifacts" / "ensemble" / "data" / "networks"
    relative = f"../../../{other}/artifacts/ensemble/data/networks"
    model = files_of(version) / "MLmodel"
    model.write_text(model.read_text().replace("data: data/networks", f"data: {there if absolute else relative}"))
    with pytest.raises(MlflowException, match="it was changed|MLmodel was changed"):
        mlflow.pyfunc.load_model(URI)


def test_bytecode_planted_for_the_loader_itself_is_removed_unless_it_runs(version):
    directory = files_of(version)
    (loader,) = (directory / "code").glob("cleanlabel_loader_*.py")
    stale = Path(importlib.util.cache_from_source(str(loader)))
    written(stale, "no bytecode")
    assert in_new_process(LOAD).stdout == ""
    assert not stale.parent.exists()


OTHER = """
import cleanlabel.models.answers, cleanlabel.served
assert cleanlabel.models.answers.MINE
"""


def other_cleanlabel(folder: Path) -> Path:
    """Another release of the package: its radii are 99, and a mark says whose code it is."""
    shutil.copytree(ROOT / "cleanlabel", folder / "cleanlabel", ignore=shutil.ignore_patterns("__pycache__"))
    path = folder / "cleanlabel" / "models" / "answers.py"
    text = path.read_text()
    assert text.count("    return Answers(label, radius, counts.argmax(axis=1), counts)\n") == 1
    path.write_text(
        text.replace("return Answers(label, radius, counts", "return Answers(label, 0 * radius + 99, counts")
    )
    path.write_text(f"{path.read_text()}\nMINE = True\n")
    return folder


def test_a_process_with_another_cleanlabel_gets_the_versions_own_answers(version, expected, tmp_path):
    other = other_cleanlabel(tmp_path / "other")
    done = in_new_process(OTHER + ANSWER + OTHER, PYTHONPATH=str(other))
    assert done.returncode == 0, done.stderr
    assert json.loads(Path("answers.json").read_text()) == expected
    assert done.stdout.startswith("cleanlabel_")
    assert str(files_of(version)) in done.stdout


def test_imported_or_not_the_same_cleanlabel_answers_once(version, expected):
    for first, where in (("import cleanlabel.served\n", ROOT), ("", files_of(version))):
        done = in_new_process(first + ANSWER, PYTHONPATH=str(ROOT))
        assert done.returncode == 0, done.stderr
        assert json.loads(Path("answers.json").read_text()) == expected
        assert done.stdout.startswith(f"cleanlabel.served {where}")


def test_two_versions_with_different_code_answer_in_one_process_each_with_its_own(version, expected):
    store, second = version.store, files_of(version).parents[2]
    run = store.client.get_model_version(SMOOTHED, "2").run_id
    directory = second / run / "artifacts" / "ensemble"
    (old,) = (directory / "code").glob("cleanlabel_loader_*.py")
    answers = directory / "code/cleanlabel/models/answers.py"
    answers.write_text(
        answers.read_text().replace("label, radius, counts.argmax", "label, 0 * radius + 99, counts.argmax")
    )
    new = old.rename(old.with_name("cleanlabel_loader_0123456789ab.py"))  # as `package` names other code
    (directory / "MLmodel").write_text((directory / "MLmodel").read_text().replace(old.stem, new.stem))
    seal_again(store, 2)
    done = in_new_process(
        f"""
images = np.load("images.npy")
one, two = (mlflow.pyfunc.load_model(f"models:/{SMOOTHED}/{{number}}") for number in (1, 2))
assert set(two.predict(images)["radius"]) == {{99.0}}
json.dump(one.predict(images).to_dict("records"), open("answers.json", "w"))
try:
    import cleanlabel.flows
except ModuleNotFoundError as error:
    print(error)
"""
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(Path("answers.json").read_text()) == expected
    assert "import cleanlabel before the version is loaded" in done.stdout


def test_the_code_of_a_version_can_be_imported_under_another_name():
    # `import cleanlabel.x` binds the name `cleanlabel`, which a rewritten import cannot.
    import ast

    for path in [
        *(ROOT / "cleanlabel").glob("*.py"),
        *(ROOT / "models").glob("*.py"),
        *(ROOT / "sanitize").glob("*.py"),
    ]:
        for node in filled(ast.walk(ast.parse(path.read_text()))):
            if isinstance(node, ast.Import):
                assert not [a for a in node.names if a.name.startswith("cleanlabel.") and not a.asname], path


def test_the_loader_needs_only_what_mlflow_has_imported_before_it():
    # Its own imports look first in the folder that it has not checked yet.
    done = in_new_process(
        "import ast\n"
        f"tree = ast.parse(open({str(ROOT / 'cleanlabel' / 'loading.py')!r}).read())\n"
        "names = [a.name for n in tree.body if isinstance(n, ast.Import) for a in n.names]\n"
        "names += [n.module for n in tree.body if isinstance(n, ast.ImportFrom)]\n"
        "print([name for name in names if name not in sys.modules], len(names))"
    )
    assert done.stdout.split()[0] == "[]", done.stderr
    assert int(done.stdout.split()[1]) > 10
