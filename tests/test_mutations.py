"""Each of the design's rules has tests that fail when it is broken: the list of slips, and the command for them."""

import subprocess
import sys
from collections import Counter

import pytest
from filled import filled
from mutate import ROOT, Mutation, mutations

BUILT = range(17)
"""The design's rules (section 5) that the code keeps today."""
LEAST = {"sanitize": 14, "models": 14, "flows": 14, "redteam": 14, "cleanlabel": 10}
"""Mutations of each room, and of the Python API."""
SAMPLE = ("draws-share-their-noise", "predict-one-sided", "an-attack-beyond-its-budget")


@pytest.mark.parametrize("mutation", mutations(), ids=lambda one: f"{one.room}/{one.name}")
def test_a_mutation_still_applies_and_leaves_code_that_can_be_read(mutation: Mutation):
    compile(mutation.applied(ROOT), mutation.file, "exec")
    assert mutation.file.startswith(f"{mutation.room}/")
    for test in filled(mutation.tests):
        path, _, name = test.partition("::")
        assert (ROOT / path).is_file()
        assert not name or f"def {name}(" in (ROOT / path).read_text()


def test_every_rule_and_every_room_has_its_mutations():
    assert {one.rule for one in mutations()} >= {*BUILT}
    rooms = Counter(one.room for one in mutations())
    assert rooms.keys() == LEAST.keys()
    assert all(rooms[room] >= least for room, least in LEAST.items())


def test_names_are_ones_of_one_mutation_each():
    names = [one.name for one in mutations()]
    assert len(names) == len(set(names))


def test_a_text_that_is_gone_is_an_error_that_names_the_mutation():
    gone = Mutation("models", "gone", 1, "models/votes.py", "a text that stands nowhere", "", ())
    with pytest.raises(ValueError, match=r"mutation models/gone: its text stands 0 times in models/votes.py, not once"):
        gone.applied(ROOT)


def run(*wanted: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "tests/mutate.py", *wanted]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)


@pytest.mark.slow
def test_a_sample_is_tried_and_caught():
    done = run(*SAMPLE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["caught"] * len(SAMPLE) + [str(len(SAMPLE))]
    assert done.stdout.endswith(f"{len(SAMPLE)} of {len(SAMPLE)} caught\n")


def test_a_name_that_is_none_is_refused():
    done = run("no-such-slip")
    assert done.returncode == 1
    assert done.stderr == "error: no-such-slip: no room and no mutation of tests/mutations/\n"
