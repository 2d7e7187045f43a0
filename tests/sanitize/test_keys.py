"""Keys: every field of every record is part of its key, as are identities of plans, sets, denoisers and instruments."""

import ast
import importlib
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

import numpy as np
import pytest
from filled import filled
from hypothesis import given
from hypothesis import strategies as st
from imports import ROOMS, ROOT, modules
from models_recipes import PLAN
from tiny import save_int8_facts, save_tiny_denoiser

from cleanlabel.models.instrument import Instrument
from cleanlabel.models.plan import LATER, Plan, plan_from_dict
from cleanlabel.sanitize.denoiser_files import digest_of
from cleanlabel.sanitize.files import write_json
from cleanlabel.sanitize.imageset import ImageSet, save_npz
from cleanlabel.sanitize.ingest import digits
from cleanlabel.sanitize.int8 import read_int8
from cleanlabel.sanitize.keys import Inputs, in_order, key_of
from cleanlabel.sanitize.sources import open_source


def records() -> Iterator[type[Inputs]]:
    """Every record of the project, found by its base in the sources."""
    for room in ROOMS:
        for name, path in modules(room).items():
            for node in ast.parse(path.read_text()).body:
                if isinstance(node, ast.ClassDef) and "Inputs" in [ast.unparse(base) for base in node.bases]:
                    yield getattr(importlib.import_module(name), node.name)


RECORDS = list(records())


def example(hint: Any) -> Any:
    """A value of this type. KeyError for a type that no example is known of."""
    if get_origin(hint) is UnionType:
        return example(next(kind for kind in get_args(hint) if kind is not NoneType))
    if isinstance(hint, type) and issubclass(hint, Inputs):
        return hint(**{name: example(of) for name, of in get_type_hints(hint).items()})
    of = {bool: False, int: 3, float: 0.25, str: "abc", bytes: b"abc", tuple: (), dict: {"a": 0.5, "b": ["x", None]}}
    return of[get_origin(hint) or hint]


def others(value: Any, hint: Any) -> list[Any]:
    """Values that are not this one, each as near to it as can be."""
    if get_origin(hint) is UnionType:
        kinds = get_args(hint)
        some = next(kind for kind in kinds if kind is not NoneType)
        rest = [None] if NoneType in kinds and value is not None else []
        return rest + ([example(some)] if value is None else others(value, some))
    if isinstance(value, Inputs):
        return [replace(value, **change) for change in changes(value)]
    match value:
        case bool():
            return [not value]
        case int():
            return [value + 1]
        case float():
            return [math.nextafter(value, 9), value + 0.5]
        case str():
            return [value[:-1] + "x", value + " "]
        case bytes():
            return [value[:-1] + b"x", value + b"\0"]
        case tuple():
            one = example(get_args(hint)[0])
            return [(*value, one), (*value, one, *others(one, get_args(hint)[0]))]
        case dict():
            first, *_ = value
            rest = {name: of for name, of in value.items() if name != first}
            return [
                rest,
                {**rest, f"{first}2": value[first]},
                {**value, first: [value[first]]},
                {**value, "more": None},
            ]
    raise KeyError(type(value))


def changes(record: Any) -> list[dict[str, Any]]:
    """One change for each field of a dataclass and each other value of it."""
    hints = get_type_hints(type(record))
    return [{f.name: other} for f in fields(record) for other in others(getattr(record, f.name), hints[f.name])]


def test_there_are_records():
    assert {"TrainingInputs", "InstrumentInputs", "DrillInputs"} <= {kind.__name__ for kind in RECORDS}


@pytest.mark.parametrize("kind", RECORDS, ids=lambda kind: kind.__name__)
def test_every_field_of_a_record_changes_its_key(kind):
    record = example(kind)
    made = [replace(record, **change) for change in changes(record)]
    assert {name for change in changes(record) for name in change} == {f.name for f in fields(kind)} != set()
    assert len({key_of(one) for one in (record, *made)}) == 1 + len(made)
    assert key_of(example(kind)) == key_of(record)


@dataclass(frozen=True)
class One(Inputs):
    value: Any
    name: str = ""


@dataclass(frozen=True)
class Other(Inputs):
    value: Any
    name: str = ""


NUMBERS = (0, 1, 2**80, 0.0, -0.0, 1.0, 0.1, math.nextafter(0.1, 1), 5e-324, 1e300, math.inf, -math.inf)
SCALARS = st.sampled_from([None, True, False, *NUMBERS, "", "1", "a", "é", "\ud800", "[]", b"", b"a", b"1"])
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=2),
        st.lists(inner, max_size=2).map(tuple),
        st.dictionaries(st.sampled_from(["a", "b", ""]), inner, max_size=2),
        st.builds(One, inner),
        st.builds(Other, inner),
    ),
    max_leaves=4,
)


@given(VALUES, VALUES)
def test_keys_are_equal_where_records_are(a, b):
    assert (key_of(One(a)) == key_of(One(b))) == (a == b)
    assert key_of(One(a)) != key_of(Other(a))
    assert key_of(One(a, "x")) != key_of(One(a, "y"))


@pytest.mark.parametrize(
    "value",
    [math.nan, np.int64(3), np.float32(0.5), np.zeros(2), {1, 2}, frozenset(), Path("a"), {1: 2}, 1j, np.str_("a")],
    ids=repr,
)
def test_what_a_key_cannot_hold_exactly_is_refused_in_a_sentence(value):
    with pytest.raises(ValueError, match=r"One\.value\['deep'\]\[0\]=.* cannot be part of a key: give numbers, text"):
        key_of(One({"deep": [value]}))


def test_a_number_that_numpy_says_is_a_float_is_that_float():
    assert key_of(One(np.float64(0.1))) == key_of(One(0.1))


def test_a_record_whose_fields_would_be_missed_is_refused():
    @dataclass
    class Open(Inputs):
        value: int

    class Undecorated(One):
        more: int = 0

    for record in (Open(1), Undecorated(1), Inputs()):
        with pytest.raises(ValueError, match="is no frozen dataclass, so its key would miss fields; make it one"):
            key_of(record)


ASKED = """
from dataclasses import dataclass
from cleanlabel.sanitize.keys import Inputs, key_of

@dataclass(frozen=True)
class Made(Inputs):
    sigma: float
    recipe: dict

print(key_of(Made(0.1, {name: (name, b"1", None) for name in {"head", "twin", "code", "trusted"}})))
"""


def test_a_key_is_the_same_in_every_process():
    told = {
        subprocess.check_output([sys.executable, "-c", ASKED], env={**os.environ, "PYTHONHASHSEED": seed}, cwd=ROOT)
        for seed in ("1", "2", "3")
    }
    assert len(told) == 1
    assert len(told.pop()) == 65


def test_every_field_of_a_plan_changes_its_digest():
    hints = get_type_hints(Plan)
    ordinary = replace(PLAN, **{name: example(hints[name]) for name in LATER})
    for plan in (PLAN, ordinary):
        made = [replace(plan, **change) for change in changes(plan)]
        assert {name for change in changes(plan) for name in change} == set(hints)
        assert len({one.digest for one in (plan, *made)}) == 1 + len(made)
        assert plan_from_dict(plan.as_dict()) == plan
    for name in filled(PLAN.recipe):
        assert replace(PLAN, recipe=PLAN.recipe | {name: "other"}).recipe_digest != PLAN.recipe_digest


def test_every_file_of_a_denoiser_changes_its_digest_but_for_what_is_told_of_it(tmp_path):
    directory = save_tiny_denoiser(tmp_path / "denoiser")
    plain = digest_of(directory)
    save_int8_facts(directory, 0.5, digits(120, 150, 0)["trusted"])
    whole = digest_of(directory)
    files = [path for path in directory.rglob("*") if path.is_file()]
    found = {plain, whole}
    for path in files:
        content = path.read_bytes()
        path.write_bytes(content + b" ")
        found.add(digest_of(directory))
        path.write_bytes(content)
    assert len(files) == 7
    assert len(found) == 2 + len(files)
    int8 = read_int8(directory)
    for name in filled(int8.hashes):
        assert replace(int8, hashes=int8.hashes | {name: "other"}).digest != int8.digest
    write_json(directory / "provenance.json", {})
    assert digest_of(directory) == whole


def test_everything_of_an_instrument_changes_its_digest():
    matrix, row, sample = np.eye(2), np.zeros(2), np.ones((3, 2), dtype=np.float32)
    one = Instrument("instrumental", "one", 0.8, matrix, row, row, sample, 0.5)
    other = {"form": "cosine", "sides": "two", "quantile": math.nextafter(0.8, 1), "threshold": None}
    other |= {
        "weight": matrix * math.nextafter(1, 2),
        "psi_0": row + 5e-324,
        "phi_0": row - 5e-324,
        "sample": sample[:2],
    }
    assert set(other) == {f.name for f in fields(Instrument)}
    assert len({one.digest, *(replace(one, **{name: of}).digest for name, of in other.items())}) == 1 + len(other)


def test_everything_of_a_set_but_its_order_changes_its_digest_and_the_order_changes_what_is_kept(small_set, tmp_path):
    pixels, labels = small_set.images.copy(), small_set.labels.copy()
    pixels[5, 0, 0, 0] ^= 1
    labels[5] = (labels[5] + 1) % 3
    moved = (*small_set.ids[:5], "other", *small_set.ids[6:])
    other = [
        replace(small_set, images=pixels),
        replace(small_set, labels=labels),
        replace(small_set, ids=moved),
        replace(small_set, images=small_set.images.reshape(24, 4, 16, 1)),
        small_set.take(np.arange(23)),
    ]
    assert len({one.digest for one in (small_set, *other)}) == 1 + len(other)
    untold = {"classes", "channel_axis", "resized"}  # names and forms: no pixel that anything is made from
    assert {f.name for f in fields(ImageSet)} == {"images", "labels", "ids"} | untold
    turned = small_set.take(np.arange(24)[::-1])
    assert turned.digest == small_set.digest
    assert len({in_order(one) for one in (small_set, turned, *other)}) == 2 + len(other)
    save_npz(turned, tmp_path / "set.npz")
    assert in_order(open_source(tmp_path / "set.npz")) == in_order(turned)
    joined = replace(small_set.take(np.arange(2)), ids=("a\n1 b", "c"))
    assert in_order(joined) != in_order(replace(joined, ids=("a", "b\n1 c")))
