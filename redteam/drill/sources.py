"""The project's own code that a module needs, read from its imports."""

import ast
import hashlib
from functools import cache
from pathlib import Path

from cleanlabel.sanitize.files import file_digest

PACKAGE = "cleanlabel"
ROOT = Path(__file__).resolve().parents[2]
"""The folder that holds the rooms: the checkout's, or the installed package's."""
ROOMS = ("sanitize", "models", "redteam")


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
