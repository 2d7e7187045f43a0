"""Records, and how their figures are written in Markdown."""

import json
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common.record import RESULTS
from cleanlabel.models.rounding import down_text, up

REPORTS = Path(__file__).resolve().parents[2] / "reports"
Record = dict[str, Any]


def read(name: str) -> Record:
    """A benchmark's record, by its name."""
    content: Record = json.loads((RESULTS / f"{name}.json").read_text())
    return content


def report(name: str) -> Record:
    """A report of the embedded default's run, by its file's name."""
    content: Record = json.loads((REPORTS / name).read_text())
    return content


def where(record: Record) -> str:
    """The machine and day of a record, such as "2 cores of an AMD EPYC (AVX2, no AMX), no GPU, 2026-11-25"."""
    facts = record["machine"]
    cpu = facts["cpu"].replace("(R)", "").removesuffix(" Processor")
    amx = "AMX" if facts["amx_bf16"] else ", ".join([*filter(None, [facts.get("instructions")]), "no AMX"])
    article = "an" if cpu[:1] in "AEIOU" else "a"
    return f"{facts['cores']} cores of {article} {cpu} ({amx}), {facts['gpu'] or 'no GPU'}, {record['date']}"


def grid(head: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """A Markdown table; the columns after the first `left` are set to the right."""
    lines = [head, ["---"] * left + ["--:"] * (len(head) - left), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def with_source(table: str, command: str, *records: Record, note: str = "") -> str:
    """The table, and under it the command, machine and day. Equal machines and days are named once."""
    places = "; ".join(dict.fromkeys(where(record) for record in records))
    line = f"`python -m benchmarks.{command}`, {places}.{f' {note}' if note else ''}"
    return f"{table}\n\n{paragraph(line)}"


def paragraph(text: str) -> str:
    """The text in lines of at most 120 characters; an item of a list is indented as one."""
    indent = "  " if text.startswith("- ") else ""
    wrapped = textwrap.wrap(text, 120, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    return "\n".join(wrapped)


def share(value: float | None) -> str:
    """A share with three digits, rounded down, such as .729. Zero is 0, and None is a dash."""
    if value is None:
        return "-"
    return down_text(value).removeprefix("0") if value else "0"


def limit(value: float) -> str:
    """An upper bound on a share, with three digits, rounded up: of an error, or of what is left of an attack."""
    return f"{up(value, 3):.3f}".removeprefix("0") if value else "0"


def percent(value: float) -> str:
    """A share in whole %, without the sign."""
    return f"{100 * value:.0f}"


def success(row: Record) -> str:
    """Attack success in % with its 95 % interval over targets."""
    return f"{percent(row['success'])} [{percent(row['low'])}–{percent(row['high'])}]"


def span(values: Sequence[float]) -> str:
    """One number in %, or from the least to the largest."""
    low, high = percent(min(values)), percent(max(values))
    return f"{low} %" if low == high else f"{low} to {high} %"
