"""Keys of what is made once and reused: one function makes a key from a typed record of all that determines the thing.

A record is a frozen dataclass below `Inputs`, and each of its fields is part of its key. What no record has: the
machine and the versions of libraries. They may change last bits, and with them nobody would want to begin again a
training of hours. Where a certificate needs the exact bits, the thing itself has a digest.
"""

import ast
import hashlib
import json
import math
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cleanlabel.sanitize.files import file_digest

if TYPE_CHECKING:
    from cleanlabel.sanitize.imageset import ImageSet
    from cleanlabel.sanitize.sources import Source

PACKAGE = "cleanlabel"
ROOT = Path(__file__).resolve().parents[1]
"""The folder that holds the rooms: the checkout's, or the installed package's."""
ROOMS = ("sanitize", "models", "redteam", "flows")


class Inputs:
    """The base of all records. A subclass is a frozen dataclass whose fields are everything that its thing depends on.

    Fields hold None, bool, int, float, str, bytes, tuples, lists, dicts with str keys, and other records. A file or a
    set stands there by its digest.
    """


def key_of(record: Inputs) -> str:
    """sha256 that identifies a record: equal records have equal keys, in any process; records that differ do not.

    The type's name is part of it. ValueError for a value that the key could not hold exactly, or that does not say
    what is in a file: nan, a number or array of numpy, a set, a path.
    """
    return hashlib.sha256(json.dumps(_exact(record, type(record).__name__)).encode()).hexdigest()


def _exact(value: Any, where: str) -> Any:
    """The value as JSON that differs for every value, and is the same for equal ones."""
    if isinstance(value, Inputs):
        kind = type(value)
        if not is_dataclass(value) or "__dataclass_fields__" not in vars(kind) or not _frozen(kind):
            raise ValueError(f"{kind.__name__} is no frozen dataclass, so its key would miss fields; make it one")
        named = [[f.name, _exact(getattr(value, f.name), f"{where}.{f.name}")] for f in fields(value)]
        return ["record", f"{kind.__module__}.{kind.__qualname__}", named]
    if value is None or type(value) is str:
        return value
    if isinstance(value, int):  # True == 1: equal values have one key
        return ["number", str(int(value))]
    if isinstance(value, float) and not math.isnan(value):
        return ["number", str(int(value)) if value.is_integer() else float(value).hex()]
    if type(value) is bytes:
        return ["bytes", value.hex()]
    if type(value) in (tuple, list):
        return [type(value).__name__, [_exact(one, f"{where}[{i}]") for i, one in enumerate(value)]]
    if type(value) is dict and all(type(name) is str for name in value):
        return ["dict", [[name, _exact(value[name], f"{where}[{name!r}]")] for name in sorted(value)]]
    raise ValueError(
        f"{where}={value!r} ({type(value).__name__}) cannot be part of a key: give numbers, text, bytes, tuples, lists "
        "or dicts of them, and the digest of a file"
    )


def _frozen(kind: type) -> bool:
    return bool(kind.__dataclass_params__.frozen)  # type: ignore[attr-defined]


def in_order(images: "ImageSet | Source") -> str:
    """sha256 of a set with the order of its images, which the set's own digest leaves out."""
    names = "".join(f"{len(name.encode())} {name}\n" for name in images.ids)
    return hashlib.sha256(f"{images.digest}\n{names}".encode()).hexdigest()


def code_digest(*modules: str) -> str:
    """sha256 over the sources of these modules and of everything of the project that they import.

    ValueError for a name that is no module of the rooms.
    """
    for name in modules:
        if _file_of(name) is None:
            raise ValueError(f"{name!r} is no module of {PACKAGE}'s rooms {', '.join(ROOMS)}; give its full name")
    files = sources_of(*modules)
    content = "".join(f"{path.relative_to(ROOT).as_posix()} {file_digest(path)}\n" for path in files)
    return hashlib.sha256(content.encode()).hexdigest()


def sources_of(*modules: str) -> list[Path]:
    """The files of these modules and of what they import of the project's rooms, at their top or late, and so on.

    A package's own `__init__.py` belongs to them only where a module imports names from it.
    """
    todo, found = [*modules], dict[str, Path]()
    while todo:
        name = todo.pop()
        path = _file_of(name)
        if path is not None and name not in found:
            found[name] = path
            todo += _imported(path.read_text())
    return sorted(found.values())


def _file_of(name: str) -> Path | None:
    """The module's file; None where the name is no module of the rooms."""
    package, _, rest = name.partition(".")
    if package != PACKAGE or rest.partition(".")[0] not in ROOMS:
        return None
    stem = ROOT.joinpath(*rest.split("."))
    return next((path for path in (stem.with_suffix(".py"), stem / "__init__.py") if path.is_file()), None)


@cache
def _imported(source: str) -> tuple[str, ...]:
    """Every dotted name that a module imports, and every name that might be a module of a package it imports from."""
    names: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return tuple(names)
