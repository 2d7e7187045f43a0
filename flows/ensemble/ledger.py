"""What is known of the ensembles that were planned on a raw set: the project's ledger, and the certificates in git.

The ledger is a file for each raw set in the project's `.state/attempts`, a line for each ensemble. Lines are only ever
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
"""Whether this project's ledger was there before an ensemble was planned, or began with it."""

MOST_COMMITS = 500
"""So many commits that changed the certificate are read, the newest ones."""


@dataclass(frozen=True)
class Planned:
    """An ensemble that was planned: its plan, the commitment to its entropy, and how many were to share alpha.

    Plan and commitment together name it: the same plan with new entropy is another ensemble.
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
    """A line of the ledger: with the attempt that the ensemble was planned as, and what was known by then."""

    attempt: int = 0
    ledger: Past = "kept"


def past() -> Past:
    """Whether this project has a ledger by now."""
    return "kept" if any(_folder().glob("*.jsonl")) else "new"


@contextmanager
def only_planner(plan: Plan) -> Iterator[None]:
    """Wait for other processes of this machine that plan on the same raw set, and keep them waiting."""
    path = state() / "locks" / f"attempts-{plan.family}"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def write_line(plan: Plan, line: Line) -> None:
    """Add a line to the ledger of the plan's raw set; it is on the disk when this returns."""
    path = _path(plan)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as stream:
        stream.seek(0)
        before = stream.read()
        torn = before and not before.endswith(b"\n")  # its writer was killed
        stream.write((b"\n" if torn else b"") + json.dumps(asdict(line), sort_keys=True).encode() + b"\n")
        stream.flush()
        os.fsync(stream.fileno())


def read_lines(plan: Plan) -> list[Line]:
    """The ledger of the plan's raw set, oldest first. A line that cannot be read was an attempt all the same."""
    path = _path(plan)
    if not path.is_file():
        return []
    return [_line(number, text) for number, text in enumerate(path.read_text(errors="replace").splitlines())]


def certificates(plan: Plan) -> list[Planned]:
    """The ensembles on the plan's raw set that reports/certificate.json is about, now or in the history of HEAD.

    None without git. A certificate of noise that the proof does not cover is withdrawn, so that it spends no alpha.
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
    for text in [*_committed(), *texts]:
        try:
            content = json.loads(text)
        except ValueError:
            continue
        if isinstance(content, dict):
            yield content


def _committed() -> list[bytes]:
    """Every version of the certificate that a commit of HEAD's history left, oldest first."""
    wanted = ("log", "-m", "--full-history", f"-n{MOST_COMMITS}", "--format=", "--raw", "--no-abbrev", "--no-renames")
    listed = ask_git(Path.cwd(), *wanted, "--", str(CERTIFICATE))
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
