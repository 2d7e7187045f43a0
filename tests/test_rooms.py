"""The rooms and who may know whom; what is never imported; what DVC must know of."""

import re

import pytest
from filled import filled
from imports import PACKAGE, ROOMS, ROOT, imported, modules, needed, room_of
from ruamel.yaml import YAML

from cleanlabel.models.draw_sources import DRAW_SOURCES

MAY_KNOW = {
    "sanitize": {"sanitize"},
    "models": {"sanitize", "models"},
    "redteam": {"sanitize", "models", "redteam"},
}
SERVICES = {"prefect", "mlflow", "dvc", "ray", "sqlalchemy"}


@pytest.mark.parametrize("room", MAY_KNOW)
def test_data_flows_one_way(room):
    for name, path in filled(modules(room).items()):
        tops = {room_of(dotted) for dotted in imported(path)}
        assert not tops & SERVICES, f"{name} runs on a bare GPU machine and may not need {tops & SERVICES}"
        assert not (tops & set(ROOMS)) - MAY_KNOW[room], f"{name} may not know {tops & set(ROOMS)}"


UPWARDS = {
    "flows": ("store", "orchestration", "ensemble", "certificate", "report"),
    "redteam": ("threat", "attacks", "drill", "defences", "comparison"),
}
"""The steps of a room's life cycle, from the lowest one up; commands are above them."""
BELOW = {"flows": {"artifacts", "environment"}, "redteam": set()}
"""Modules beside the commands that every step may know."""


@pytest.mark.parametrize(("room", "step"), [(room, step) for room, steps in UPWARDS.items() for step in steps])
def test_a_step_knows_no_higher_step_and_no_command(room, step):
    steps = UPWARDS[room]
    known = {*steps[: steps.index(step) + 1]} | BELOW[room]
    mine = {name: path for name, path in modules(room).items() if name.split(".")[2:3] == [step]}
    for name, path in filled(mine.items()):
        needs = {dotted.split(".")[2] for dotted in imported(path) if dotted.startswith(f"{PACKAGE}.{room}.")}
        assert not needs - known, f"{name} may not know {needs - known}"


@pytest.mark.parametrize("room", [r for r in ROOMS if (ROOT / r).is_dir()])
def test_nothing_is_ever_unpickled(room):
    for name, path in filled(modules(room).items()):
        source = path.read_text()
        assert not {"pickle", "cloudpickle", "joblib", "dill"} & {i.partition(".")[0] for i in imported(path)}, name
        assert not re.search(r"torch\.load\(|allow_pickle=True|trust_remote_code|\byaml\.load", source), name


def stages() -> dict:
    """Every stage by its address, paths as from the root: of the pipeline, and of the drill beside it."""
    found = {}
    for path in ("dvc.yaml", "redteam/dvc.yaml"):
        for name, stage in YAML(typ="safe", pure=True).load((ROOT / path).read_text())["stages"].items():
            assert ((ROOT / path).parent / stage.get("wdir", ".")).resolve() == ROOT
            found[name if path == "dvc.yaml" else f"{path}:{name}"] = stage
    return found


@pytest.mark.parametrize("stage", stages())
def test_dvc_knows_all_the_code_a_stage_runs(stage):
    definition = stages()[stage]
    listed = {ROOT / dep for dep in definition["deps"]}
    commands = [definition["cmd"]] if isinstance(definition["cmd"], str) else definition["cmd"]
    (module,) = {command.removeprefix("python -m ") for command in commands} - {"flows.estimate"}
    for path in filled(needed(module if module.startswith(PACKAGE) else f"{PACKAGE}.{module}")):
        known = path in listed or any(parent in listed for parent in path.parents) or not path.read_text().strip()
        assert known, f"stage {stage} runs {path.relative_to(ROOT)}, which is not among its deps"


@pytest.mark.parametrize("stage", stages())
def test_bad_input_leaves_earlier_outputs_in_place(stage):
    # DVC deletes an output before it runs a stage, unless the output is `persist`.
    for out in stages()[stage]["outs"]:
        assert next(iter(out.values()))["persist"] is True


@pytest.mark.parametrize("stage", stages())
def test_no_stage_depends_on_the_folder_of_its_own_lock_file(stage):
    # The lock would hold a digest of itself, and the stage never be up to date.
    folder = ROOT / stage.rpartition("dvc.yaml")[0]
    assert folder not in {(ROOT / dep).resolve() for dep in stages()[stage]["deps"]}


def test_the_plan_names_all_the_code_that_determines_a_draw():
    rest = {"errors", "files", "params"}  # sentences, files, and validation change no draw
    run = {path for path in needed("cleanlabel.models.draw") if path.stem not in rest and path.read_text().strip()}
    assert {str(path.relative_to(ROOT)) for path in run} == set(DRAW_SOURCES)


def test_the_lock_file_names_no_registry_and_has_a_hash_for_everything():
    lock = (ROOT / "requirements.txt").read_text()
    assert "://" not in lock
    assert "--index-url" not in lock
    pins = re.findall(r"^[a-z0-9][\w.-]*==", lock, flags=re.MULTILINE)
    assert len(pins) > 100
    assert lock.count("--hash=sha256:") >= len(pins)


def test_nothing_happens_at_import_but_in_flows():
    for room in ("sanitize", "models"):
        assert not (ROOT / room / "__init__.py").read_text().strip()
