"""What a drill and a comparison keep is named by all the code it was made with, as the imports say."""

from pathlib import Path

import pytest
from imports import ROOT, needed

from cleanlabel.redteam.attacks import ATTACKS
from cleanlabel.redteam.defences import DEFENCES
from cleanlabel.redteam.drill.params import checked
from cleanlabel.redteam.drill.prepare import prepared
from cleanlabel.redteam.drill.run import run_drill
from cleanlabel.sanitize.keys import code_digest, sources_of

TINY = {
    "attack": "witches-brew",
    "settings": {"steps": "2", "restarts": "1"},
    "targets": 1,
    "sigma": [0.0],
    "poisons": 4,
    "epsilon_255": 32.0,
    "recipe": {"epochs": 8, "width": 64},
}


def changed(path: Path) -> None:
    """Add a byte."""
    path.write_bytes(path.read_bytes() + b"\n")


@pytest.mark.parametrize("made_by", [*ATTACKS.values(), *DEFENCES.values()], ids=[*ATTACKS, *DEFENCES])
def test_the_sources_are_the_modules_that_are_imported(made_by):
    module = made_by.__module__
    packages = {path for path in needed(module) if path.name == "__init__.py"}
    assert set(sources_of(module)) - packages == needed(module) - packages


def test_a_byte_in_any_module_that_an_attack_or_the_drill_imports_changes_the_digest(code):
    modules = (ATTACKS["sleeper-agent"].__module__, "cleanlabel.redteam.drill.drill")
    digests = {code_digest(*modules)}
    imported = {path.relative_to(ROOT) for module in modules for path in needed(module) if path.name != "__init__.py"}
    for name in (
        "attacks/gradient_matching.py",
        "attacks/crafting.py",
        "threat/triggers.py",
        "threat/views.py",
        "threat/victims.py",
    ):
        assert Path("redteam") / name in imported
    for path in sorted(imported):
        changed(code / path)
        digests.add(code_digest(*modules))
    assert len(digests) == len(imported) + 1


def test_a_byte_elsewhere_changes_nothing(code):
    module = ATTACKS["sleeper-agent"].__module__
    before = code_digest(module, "cleanlabel.redteam.drill.drill")
    for name in ("attacks/poison_frogs.py", "defences/friends.py", "drill/report.py", "drill/sheet.py"):
        changed(code / "redteam" / name)
    assert code_digest(module, "cleanlabel.redteam.drill.drill") == before


def test_a_name_that_is_no_module_of_the_rooms_has_no_digest():
    with pytest.raises(ValueError, match=r"'redteam\.drill\.drill' is no module of cleanlabel"):
        code_digest("redteam.drill.drill")


def test_a_drill_goes_on_only_with_what_the_same_code_made(project, code):
    def kept(module: str) -> dict[str, dict[Path, int]]:
        """What stands in each drill's folder after a run for which this module is another than before."""
        changed(code / module)
        run_drill(prepared(checked(TINY)), Path("out"))
        return {
            folder.name: {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
            for folder in Path("data/redteam").iterdir()
        }

    first = kept("redteam/drill/report.py")
    assert len(first) == 1
    assert kept("redteam/drill/sheet.py") == first
    both = kept("redteam/attacks/gradient_matching.py")
    assert len(both) == 2
    assert all(any(path.name == "poisons.npz" for path in files) for files in both.values())
