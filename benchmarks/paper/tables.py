"""The paper's tables as data: one JSON file each, every number as it is printed."""

import json
import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from cleanlabel.sanitize.errors import InputError

FOLDER = Path(__file__).parent
NUMBERS = (1, 2, 3, 4, 5, 6, 7)
BOUNDS = {1: 16, 2: 16, 3: 16, 4: 16, 5: 16, 6: 8, 7: 16}
"""The l_infinity bound of each table's poisons, in 255ths."""
KEYS = ("attack", "knowledge", "initialization", "norm")

Cell = tuple[float, float] | None
"""(clean accuracy, attack success) in %; None: the paper has none."""


@dataclass(frozen=True)
class Line:
    """A row of a table: what it is about, by key, and its cells by column. removed: (poisons, others), of Table 4."""

    about: dict[str, str]
    cells: dict[str, Cell]
    removed: tuple[int, int] | None = None

    def printed(self) -> str:
        """The row's numbers in the order and form of the paper's text."""
        first = f"{self.removed[0]} {self.removed[1]} " if self.removed else ""
        return first + " ".join("-" if c is None else f"({c[0]:.1f}){c[1]:.1f}" for c in self.cells.values())


@dataclass(frozen=True)
class Table:
    """One of the paper's tables."""

    number: int
    title: str
    row: str
    column: str
    runs: int
    lines: list[Line] = field(default_factory=list)

    @property
    def columns(self) -> list[str]:
        """The names of the columns, in order."""
        return list(self.lines[0].cells)


@cache
def table(number: int) -> Table:
    """One of the paper's tables. InputError for another number."""
    if number not in NUMBERS:
        raise InputError(f"table {number} is not one of the paper's tables; choose 1 to 7")
    content = json.loads((FOLDER / f"table{number}.json").read_text())
    lines = [
        Line(
            {key: row[key] for key in KEYS if key in row},
            {column: None if cell is None else (cell[0], cell[1]) for column, cell in row["cells"].items()},
            tuple(row["removed"]) if "removed" in row else None,
        )
        for row in content["rows"]
    ]
    return Table(content["table"], content["title"], content["row"], content["column"], content["runs"], lines)


@cache
def statements() -> dict[str, dict[str, Any]]:
    """What the paper says with Figure 1, by a name for each statement."""
    content = json.loads((FOLDER / "figure1.json").read_text())
    return {row["id"]: row for row in content["rows"]}


def missing_from(text: str) -> list[str]:
    """The rows and quotes whose words are not in the paper's text, white space, '.0' and N/A aside."""
    plain = squeezed(text)
    wanted = [(f"Table {n}", line.printed()) for n in NUMBERS for line in table(n).lines]
    wanted += [("Figure 1", each["quote"]) for each in statements().values()]
    return [f"{where}: {words}" for where, words in wanted if squeezed(words) not in plain]


def squeezed(text: str) -> str:
    """The text without white space, with whole numbers as such and one sign for what is left empty."""
    return re.sub(r"\s", "", re.sub(r"(\d)\.0(?!\d)", r"\1", text.replace("\xa0", " ").replace("N/A", "-")))
