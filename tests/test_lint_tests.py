"""The rules that find checks which cannot fail: each finds its fault and leaves the sound twin alone."""

import ast

import pytest
from filled import filled
from lint_tests import MARKER, RULES, faults, helpers_of

HELPER = "def held(x):\n    assert x\n"

PAIRS = {
    "below_the_tolerance": [
        ("assert x == approx(4e-15)", "assert x == approx(4e-15, abs=0)"),
        ("assert x == approx([1, -3e-12])", "assert x == approx([1, 0])"),
        ("assert x == approx(0.01, abs=0.05)", "assert x == approx(0.01, abs=0.005)"),
        ("assert_allclose(x, 1e-7, atol=1e-6)", "assert_allclose(x, 1e-7)"),
        ("assert np.allclose(x, 2 * 1e-9)", "assert np.allclose(x, 2e-9, atol=0)"),
    ],
    "no_assertion": [
        ("made(3)", "held(3)"),
        ("found = x == 3", "with raises(KeyError, match='of it'):\n    made(3)"),
    ],
    "always_true": [
        ("assert path.exists", "assert path.exists()"),
        ("assert held", "assert held(3) is None"),
        ("assert (one == 3 for one in found)", "assert 3 in found"),
        ("assert x == 3 or 'no three'", "assert x == 3, 'no three'"),
    ],
    "wide_raises": [
        ("with raises(Exception, match='of it'):\n    x()", "with raises(OSError, match='of it'):\n    x()"),
        ("with raises(InputError):\n    x()", "with raises(InputError) as refused:\n    x()"),
        ("with raises(InputError, match='sigma'):\n    x()", "with raises(InputError, match='sigma=3'):\n    x()"),
    ],
    "swallowed": [
        (f"try:\n    assert x\nexcept {kind}:\n    pass", f"try:\n    assert x\nexcept {other}:\n    pass")
        for kind, other in (("Exception", "KeyError"), ("(OSError, AssertionError)", "(OSError, InputError)"))
    ],
    "empty_loop": [
        ("for x in found:\n    assert x", "for x in found:\n    made(x)"),
        ("for x in found:\n    held(x)", "assert len(found) == 3\nfor x in found:\n    held(x)"),
        ("assert all(x for x in made())", "assert all(x for x in filled(made()))"),
        ("assert not any(x for x in made())", "assert any(x for x in made())"),
        ("for x in [y for y in (1, 2) if y > z]:\n    assert x", "for x in [y + z for y in (1, 2)]:\n    assert x"),
        ("for x in d.items():\n    assert x", "assert d\nfor x in d.items():\n    assert x"),
        ("for x, y in zip(a, (1, 2)):\n    assert x", "for x, y in zip(a, (1, 2), strict=True):\n    assert x"),
        ("a = []\nfor x in a:\n    assert x", "a = [1]\nfor x in a:\n    assert x"),
        ("for x in range(n):\n    for y in z:\n        assert y", "for x in range(n):\n    assert x"),
    ],
}


def test_every_rule_is_tried():
    assert {rule.__name__ for rule in RULES} == {*PAIRS}


@pytest.mark.parametrize(("rule", "number"), [(name, i) for name, pairs in PAIRS.items() for i in range(len(pairs))])
def test_a_rule_finds_its_fault_and_leaves_the_sound_twin_alone(rule, number):
    (check,) = [one for one in RULES if one.__name__ == rule]
    for body, count in zip(PAIRS[rule][number], (1, 0), strict=True):
        tree = ast.parse(HELPER + "def test_it(found, a, d, n, z):\n    " + body.replace("\n", "\n    "))
        assert len([*check(tree, helpers_of([tree]))]) == count, body


def test_a_fault_is_said_in_a_sentence_with_its_place_and_a_marker_with_a_reason_lifts_it(tmp_path):
    path = tmp_path / "test_x.py"
    path.write_text("def test_x(found):\n    for x in found:\n        assert x\n")
    assert faults([path]) == [f"{path}:2: nothing is checked if found is empty; go over filled(found)"]
    path.write_text(path.read_text().replace("in found:", f"in found:  {MARKER}found is never empty"))
    assert faults([path]) == []


def test_nothing_found_fails():
    assert filled(iter("ab")) == ["a", "b"]
    with pytest.raises(AssertionError, match="there is nothing to check"):
        filled([])
