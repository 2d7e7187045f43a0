"""The known ensembles on a raw set, from the project's ledger and from the certificates in git.

The ledger is in the project's `.state/attempts`: one file per raw set, one line per ensemble. Lines are only ever
added, and `make clean` keeps them.
"""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from cleanlabel.flows.artifacts import CERTIFICATE
from cleanlabel.flows.environment import state
from cleanlabel.flows.store.home import ask_git
from cleanlabel.models.plan import Plan

Past = Literal["kept", "new"]
"""Whether the project's ledger existed before an ensemble was planned, or began with it."""

MOST_COMMITS = 500
"""The largest number of commits to the certificate that are read, newest first."""


@dataclass(frozen=True)
class Planned:
    """A planned ensemble: its plan, the commitment to its entropy, and how many ensembles were to share alpha.

    Plan and commitment together identify it: the same plan with new entropy is another ensemble.
    """

    plan: str
    entropy_commitment: str
    ensembles: int | None = 1
    """None: not known."""

    @property
    def key(self) -> tuple[str, str]:
        return self.plan, self.entropy_commitment


@dataclass(frozen=True)
class Line(Planned):
    """A line of the ledger. It adds the ensemble's attempt number, and what was known when it was planned."""

    attempt: int = 0
    ledger: Past = "kept"


def past() -> Past:
    """Whether this project already has a ledger."""
    return "kept" if any(_folder().glob("*.jsonl")) else "new"


@contextmanager
def only_planner(plan: Plan) -> Iterator[None]:
    """Hold the raw set's planning lock: one process per machine plans on a raw set, the others wait."""
    path = state() / "locks" / f"attempts-{plan.family}"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def write_line(plan: Plan, line: Line) -> None:
    """Add a line to the ledger of the plan's raw set. The line is on disk when this returns."""
    path = _path(plan)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as stream:
        stream.seek(0)
        before = stream.read()
        torn = before and not before.endswith(b"\n")  # the process that wrote it was killed
        stream.write((b"\n" if torn else b"") + json.dumps(asdict(line), sort_keys=True).encode() + b"\n")
        stream.flush()
        os.fsync(stream.fileno())


def read_lines(plan: Plan) -> list[Line]:
    """The ledger of the plan's raw set, oldest first. An unreadable line still counts as an attempt."""
    path = _path(plan)
    if not path.is_file():
        return []
    return [_line(number, text) for number, text in enumerate(path.read_text(errors="replace").splitlines())]


def certificates(plan: Plan) -> list[Planned]:
    """The ensembles on the plan's raw set in reports/certificate.json, now or in the history of HEAD.

    Empty without git. A certificate whose noise the proof does not cover is withdrawn, and spends no alpha.
    """
    found = [content for content in _certificates() if _is_about(content, plan)]
    return [Planned(c["plan_digest"], c["entropy_commitment"], c.get("ensembles", 1)) for c in found]


def _is_about(content: dict[str, Any], plan: Plan) -> bool:
    if not {"plan_digest", "entropy_commitment", "raw_digest"} <= content.keys():
        return False
    if plan.raw_content is not None and "raw_content" in content:
        return bool(content["raw_content"] == plan.raw_content)
    return content["raw_digest"] == plan.raw_digest and content.get("noise_stream") == plan.noise_stream


def _certificates() -> Iterator[dict[str, Any]]:
    texts = [CERTIFICATE.read_bytes()] if CERTIFICATE.is_file() else []
    for text in [*committed(CERTIFICATE, "-m", "--full-history"), *texts]:
        try:
            content = json.loads(text)
        except ValueError:
            continue
        if isinstance(content, dict):
            yield content


def committed(path: Path, *history: str) -> list[bytes]:
    """Every version of a file in the history of HEAD, oldest first. history: what `git log` is to follow."""
    wanted = ("log", *history, f"-n{MOST_COMMITS}", "--format=", "--raw", "--no-abbrev", "--no-renames")
    listed = ask_git(Path.cwd(), *wanted, "--", str(path))
    lines = (listed or b"").decode(errors="replace").splitlines()
    blobs = dict.fromkeys(line.split()[3] for line in lines if line.startswith(":"))
    names = [blob for blob in blobs if set(blob) != {"0"}][::-1]  # zeros: the commit deleted it
    answer = ask_git(Path.cwd(), "cat-file", "--batch", told="".join(f"{name}\n" for name in names)) if names else None
    found = []
    while answer:
        head, _, answer = answer.partition(b"\n")
        size = head.split()[-1]
        if size.isdigit():  # otherwise: missing
            found.append(answer[: int(size)])
            answer = answer[int(size) + 1 :]
    return found


def _line(number: int, text: str) -> Line:
    try:
        return Line(**json.loads(text))
    except (ValueError, TypeError):
        return Line("unreadable", str(number), None)


def _path(plan: Plan) -> Path:
    return _folder() / f"{plan.family}.jsonl"


def _folder() -> Path:
    return state() / "attempts"
