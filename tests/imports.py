"""Which of the project's modules a module needs, read from the sources."""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "cleanlabel"
ROOMS = ("sanitize", "models", "redteam", "flows", "benchmarks")

OUTSIDE = ("benchmarks",)
"""Rooms that are no part of the package."""


def room_of(name: str) -> str:
    """The room that a dotted name belongs to; the top package of anything else."""
    top, _, rest = name.partition(".")
    return rest.partition(".")[0] if top == PACKAGE and rest else top


def modules(room: str) -> dict[str, Path]:
    """Every module of a room by the name it is imported by."""
    found = {}
    for path in sorted((ROOT / room).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        parts = parts if room in OUTSIDE else (PACKAGE, *parts)
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(path: Path) -> set[str]:
    """Every dotted name a module imports, at its top or late."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def needed(start: str) -> set[Path]:
    """The files of the project that importing `start` reads, itself and its packages included."""
    known = {name: path for room in ROOMS for name, path in modules(room).items()}
    todo, seen = [start], set()
    while todo:
        name = todo.pop()
        if name in seen or name not in known:
            continue
        seen.add(name)
        todo += [".".join(name.split(".")[:2]), *imported(known[name])]
    return {known[name] for name in seen}
