"""The known ensembles on a raw set, from the project's ledger and from the certificates in git.

The ledger is in the project's `.state/attempts`. It has two files per raw set: `NAME.jsonl` with one line per ensemble,
and `NAME.images` with the hashes of its images. Lines are only ever added, and `make clean` keeps all of it. The file
`place` holds the inode of the ledger's folder, which a copy does not have.
"""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cleanlabel.flows.artifacts import CERTIFICATE
from cleanlabel.flows.environment import state
from cleanlabel.flows.store.home import ask_git
from cleanlabel.models.plan import Plan, attempts_before
from cleanlabel.sanitize.files import replacing
from cleanlabel.sanitize.overlap import HASH

Past = Literal["kept", "new", "copied"]
"""Whether the project's ledger existed before an ensemble was planned, began with it, or is a copy of another one."""

MOST_COMMITS = 2000
"""The largest number of commits to the certificate that are read, newest first."""
HISTORY = ("--all", "--reflog", "--full-history", "-m")
"""Git's words for all that it holds, what was merged included. In newer versions -m already means --full-history."""
RAW = ("--format=", "--raw", "--no-abbrev", "--no-renames")
LEDGER, IMAGES, PLACE = "attempts", ".images", "place"


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
    """A line of the ledger. It adds the number of attempts before it, and what was known when it was planned."""

    attempts_before: int = 0
    ledger: Past = "kept"
    earlier_raw_sets: dict[str, Any] | None = None


def past() -> Past:
    """What this project's ledger is. One that was copied, restored or moved to another disk has another inode."""
    if not families():
        return "new"
    place = _folder() / PLACE
    return "copied" if place.is_file() and place.read_text() != _inode() else "kept"


def families() -> list[str]:
    """The raw sets in the ledger."""
    return sorted(path.stem for path in _folder().glob("*.jsonl"))


@contextmanager
def only_planner() -> Iterator[None]:
    """Hold the planning lock: one process per machine plans, the others wait, so that each sees all before it."""
    path = state() / "locks" / "attempts"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def write_line(plan: Plan, line: Line) -> None:
    """Add a line to the ledger of the plan's raw set. The line is on disk when this returns."""
    path = _path(plan.family)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not (_folder() / PLACE).exists():
        with replacing(_folder() / PLACE) as scratch:
            scratch.write_text(_inode())
    with path.open("ab+") as stream:
        stream.seek(0)
        before = stream.read()
        torn = before and not before.endswith(b"\n")  # the process that wrote it was killed
        stream.write((b"\n" if torn else b"") + json.dumps(asdict(line), sort_keys=True).encode() + b"\n")
        stream.flush()
        os.fsync(stream.fileno())


def read_lines(family: str) -> list[Line]:
    """The ledger of a raw set, oldest first. An unreadable line still counts as an attempt."""
    path = _path(family)
    if not path.is_file():
        return []
    return [_line(number, text) for number, text in enumerate(path.read_text(errors="replace").splitlines())]


def keep_images(plan: Plan, hashes: NDArray[np.uint64]) -> None:
    """Keep the hashes of the images of the plan's raw set in the ledger. Nothing can be read from them."""
    with replacing(_folder() / f"{plan.family}{IMAGES}") as scratch:
        scratch.write_bytes(np.sort(hashes).astype("<u8").tobytes())


def kept_images(family: str) -> NDArray[np.uint64] | None:
    """The hashes kept of a raw set's images. None if there are none, or their file is damaged."""
    path = _folder() / f"{family}{IMAGES}"
    content = path.read_bytes() if path.is_file() else b""
    return np.frombuffer(content, "<u8") if content and len(content) % HASH == 0 else None


def certificates(plan: Plan) -> list[Planned]:
    """The ensembles on the plan's raw set among `every_certificate`.

    A certificate whose noise the proof does not cover is withdrawn, and spends no alpha.
    """
    found = [content for content in every_certificate() if _is_about(content, plan)]
    return [Planned(c["plan_digest"], c["entropy_commitment"], c.get("ensembles", 1)) for c in found]


def _is_about(content: dict[str, Any], plan: Plan) -> bool:
    if plan.raw_content is not None and "raw_content" in content:
        return bool(content["raw_content"] == plan.raw_content)
    return content["raw_digest"] == plan.raw_digest and content.get("noise_stream") == plan.noise_stream


def every_certificate() -> Iterator[dict[str, Any]]:
    """Every reports/certificate.json that lies here or that git holds: in any branch, tag, stash or reflog."""
    texts = [CERTIFICATE.read_bytes()] if CERTIFICATE.is_file() else []
    for text in [*versions_in_git(CERTIFICATE, *HISTORY), *texts]:
        try:
            content = json.loads(text)
        except ValueError:
            continue
        if isinstance(content, dict) and {"plan_digest", "entropy_commitment", "raw_digest"} <= content.keys():
            yield content


def versions_in_git(path: Path, *history: str) -> list[bytes]:
    """Every version of a file that git holds, oldest first. history: what `git log` is to follow."""
    listed = ask_git(Path.cwd(), "log", *history, f"-n{MOST_COMMITS}", *RAW, "--", str(path))
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
        content = json.loads(text)
        before = attempts_before(content)
        content.pop("attempt", None)  # the same number in older lines
        return Line(**content | {"attempts_before": before})
    except (AttributeError, KeyError, ValueError, TypeError):
        return Line("unreadable", str(number), None)


def _path(family: str) -> Path:
    return _folder() / f"{family}.jsonl"


def _inode() -> str:
    return str(_folder().stat().st_ino)


def _folder() -> Path:
    return state() / LEDGER
