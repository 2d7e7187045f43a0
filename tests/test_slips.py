"""The machine that makes slips: what its operators do, that both ways of trying one agree, and what the record says."""

import ast
import importlib.util
import json
import sys
from pathlib import Path

import pytest
from cosmic_ray.mutating import mutate_code
from filled import filled
from mutants import MODULES, RECORD, ROOT, exchange, functions
from slips import Mutant, mutants, operators

SOURCE = '''"""A module."""

LIMIT = 3


def least(values: list[int] | None, *, above: int = 0) -> int:
    """The least value above a bound."""
    if not values:
        raise ValueError(f"values={values or 0}: give one at least")
    return min(value + 1 for value in values if value > above) - 1


class Box:
    sides = 4

    @property
    def both(self) -> tuple[int, int]:
        return least([self.sides, LIMIT], above=1), pow(self.sides, LIMIT)
'''


@pytest.mark.parametrize("name", operators())
def test_an_operator_does_what_its_example_says(name):
    example = next(iter(operators()[name].examples()))
    made = mutate_code(example.pre_mutation_code, operators()[name], example.occurrence)
    assert made.split() == example.post_mutation_code.split()


def of_source() -> list[Mutant]:
    return mutants("a.py", SOURCE)


def test_slips_are_named_by_what_they_change():
    slips = {(one.function, one.was, one.becomes) for one in of_source()}
    assert ("", "LIMIT = 3", "LIMIT = 4") in slips
    assert ("", "sides = 4", "sides = 5") in slips
    assert ("least", "if not values:", "if values:") in slips
    assert ("Box.both", *both("least([self.sides, LIMIT], above=1)", "least([self.sides, LIMIT])")) in slips
    assert ("Box.both", *both("pow(self.sides, LIMIT)", "pow( LIMIT,self.sides)")) in slips


def both(was: str, becomes: str) -> tuple[str, str]:
    whole = "return least([self.sides, LIMIT], above=1), pow(self.sides, LIMIT)"
    return whole, whole.replace(was, becomes)


def test_annotations_and_the_words_of_a_refusal_stay_as_they_are():
    assert len(of_source()) > 12
    for one in of_source():
        tree = ast.parse(one.text)
        assert "def least(values: list[int] | None, *, above: int = " in one.text
        assert ast.get_docstring(tree) == "A module."
        assert "raise ValueError" not in one.text or "{values or 0}" in one.text


def test_no_two_slips_are_the_same_or_have_one_name():
    slips = of_source()
    assert len({one.text for one in slips}) == len({one.key for one in slips}) == len(slips)
    twice = mutants("b.py", "def f(x):\n    x += 1\n    x += 1\n    return x\n")
    assert [one.nth for one in twice if one.becomes == "x += 2"] == [0, 1]


def loaded(path: Path, name: str):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def answers(module) -> list[object]:
    found = []
    for call in (lambda: module.least([5, 3, 1]), lambda: module.least([], above=2), lambda: module.Box().both):
        try:
            found.append(call())
        except Exception as error:
            found.append(type(error))
    return found


def test_exchanging_a_functions_code_is_the_same_as_importing_the_slip_anew(tmp_path):
    path = tmp_path / "a.py"
    path.write_text(SOURCE)
    honest = answers(loaded(path, "honest"))
    changed = 0
    for at, one in enumerate(filled(slip for slip in of_source() if slip.inside)):
        path.write_text(SOURCE)
        warm = loaded(path, f"warm_{at}")
        assert exchange(one, tmp_path)
        path.write_text(one.text)
        anew = loaded(path, f"anew_{at}")
        assert answers(warm) == answers(anew), one
        changed += answers(anew) != honest
    assert changed > 8
    assert not exchange(Mutant("a.py", "none", "gone", True, 1, 1, "", "", 0, SOURCE), tmp_path)


RECORDED = json.loads(RECORD.read_text())["modules"] if RECORD.exists() else {}


def recorded_of(path: str) -> dict:
    if path not in RECORDED:
        pytest.skip("not tried yet: make mutations-all")
    return RECORDED[path]


@pytest.mark.parametrize("path", MODULES)
def test_the_record_knows_the_reason_of_every_survivor(path):
    recorded = recorded_of(path)
    assert recorded["caught"] + recorded["survived"] == recorded["mutants"] > 0
    assert len(recorded["survivors"]) == recorded["survived"]
    unexplained = [one for one in recorded["survivors"] if len(one["why"]) < 10]
    assert unexplained == []
    assert all((ROOT / file).is_file() for file in recorded["tests"])


@pytest.mark.parametrize("path", MODULES)
def test_the_record_is_of_the_code_as_it_is(path):
    changed = dict(functions(path).items() ^ recorded_of(path)["functions"].items())
    assert sorted(changed) == [], "run `make mutations`, and commit tests/mutations/record.json"


def test_a_module_that_is_none_of_them_is_refused(monkeypatch):
    import mutants as command

    monkeypatch.setattr(sys, "argv", ["mutants.py", "models/heads.py"])
    with pytest.raises(SystemExit, match="models/heads.py: none of the modules that decide what is true"):
        command.main()
