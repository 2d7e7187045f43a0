"""What a drill and a comparison keep is named by all the code it was made with, as the imports say."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from imports import ROOT, needed

from redteam.attacks import ATTACKS
from redteam.defences import DEFENCES
from redteam.sources import ROOMS, code_digest, sources_of

TINY = "--attack witches-brew --set steps=2 --set restarts=1 --targets 1 --sigma 0 --poisons 4 --epsilon 32"
RECIPE = ("--recipe", "epochs=4", "--recipe", "width=32", "--entropy", "fixed:7")


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the rooms' code."""
    root = tmp_path_factory.mktemp("code")
    for room in ROOMS:
        shutil.copytree(ROOT / room, root / room, ignore=shutil.ignore_patterns("__pycache__"))
    return root


def changed(path: Path) -> None:
    """Add a byte."""
    path.write_bytes(path.read_bytes() + b"\n")


@pytest.mark.parametrize("made_by", [*ATTACKS.values(), *DEFENCES.values()], ids=[*ATTACKS, *DEFENCES])
def test_the_sources_are_the_modules_that_are_imported(made_by):
    module = made_by.__module__
    packages = {path for path in needed(module) if path.name == "__init__.py"}
    assert set(sources_of(module)) - packages == needed(module) - packages


def test_a_byte_in_any_module_that_an_attack_or_the_drill_imports_changes_the_digest(code):
    modules = (ATTACKS["sleeper-agent"].__module__, "redteam.drill")
    digests = {code_digest(*modules, root=code)}
    imported = {path.relative_to(ROOT) for module in modules for path in needed(module) if path.name != "__init__.py"}
    for name in ("attacks/gradient_matching.py", "attacks/crafting.py", "triggers.py", "views.py", "victims.py"):
        assert Path("redteam") / name in imported
    for path in sorted(imported):
        changed(code / path)
        digests.add(code_digest(*modules, root=code))
    assert len(digests) == len(imported) + 1


def test_a_byte_elsewhere_changes_nothing(code):
    module = ATTACKS["sleeper-agent"].__module__
    before = code_digest(module, "redteam.drill", root=code)
    for name in ("attacks/poison_frogs.py", "attacks/plain.py", "defences/friends.py", "report.py", "sheet.py"):
        changed(code / "redteam" / name)
    assert code_digest(module, "redteam.drill", root=code) == before


def test_a_drill_goes_on_only_with_what_the_same_code_made(project, code):
    def kept(module: str) -> dict[str, dict[Path, int]]:
        """What stands in each drill's folder after a run in which this module is another than before."""
        changed(code / module)
        command = [sys.executable, "-m", "redteam", *TINY.split(), *RECIPE, "--output", "out", "--device", "cpu"]
        done = subprocess.run(
            command, env=os.environ | {"PYTHONPATH": str(code)}, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return {
            folder.name: {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
            for folder in Path("data/redteam").iterdir()
        }

    first = kept("redteam/report.py")
    assert len(first) == 1
    assert kept("redteam/sheet.py") == first
    both = kept("redteam/attacks/gradient_matching.py")
    assert len(both) == 2
    assert all(any(path.name == "poisons.npz" for path in files) for files in both.values())
