"""Pages with marks: which there are, what belongs in each mark, and a page with its marks filled."""

import re
from collections.abc import Callable
from pathlib import Path

from benchmarks.tables import (
    attacks,
    defences,
    demo,
    ensembles,
    features,
    frozen,
    int8,
    overlap,
    partitions,
    results,
    sanitizing,
    scratch,
    speed,
)
from cleanlabel.sanitize.errors import InputError

MADE: dict[str, Callable[[], str]] = (
    attacks.MADE
    | defences.MADE
    | demo.MADE
    | ensembles.MADE
    | features.MADE
    | frozen.MADE
    | int8.MADE
    | overlap.MADE
    | partitions.MADE
    | results.MADE
    | sanitizing.MADE
    | scratch.MADE
    | speed.MADE
)
"""What belongs in each mark, by its name."""
MARK = re.compile(r"<!-- (table|figure): ([\w.-]+) -->(.*?)<!-- end -->", re.DOTALL)


def pages(root: Path) -> list[Path]:
    """The pages that may have marks."""
    return [root / "README.md", *sorted((root / "docs").rglob("*.md"))]


def filled(text: str) -> str:
    """The text with what belongs in each of its marks. InputError for a mark of another name."""
    return MARK.sub(_filled, text)


def _filled(mark: re.Match[str]) -> str:
    kind, name, _ = mark.groups()
    if name not in MADE:
        raise InputError(f"no table or figure is called {name!r}; choose one of {', '.join(sorted(MADE))}")
    around = "" if kind == "figure" else "\n\n"
    return f"<!-- {kind}: {name} -->{around}{MADE[name]()}{around}<!-- end -->"
