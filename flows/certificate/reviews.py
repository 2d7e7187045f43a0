"""The history of what was decided about versions: reports/reviews.jsonl, which only grows and which git keeps.

One line for each time that an alias moved or a person decided. Each line holds the sha256 of the line before it. An
ensemble is named by its plan and the commitment to its entropy: version numbers differ from store to store.
"""

import hashlib
import html
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from mlflow.entities.model_registry import ModelVersion

from cleanlabel.flows.artifacts import CERTIFICATE, PAGE, REVIEWS
from cleanlabel.flows.certificate.check import Check
from cleanlabel.flows.certificate.wording import escaped
from cleanlabel.flows.ensemble.ledger import versions_in_git
from cleanlabel.flows.ensemble.seal import REVIEW_TAGS, sealed_part
from cleanlabel.flows.ensemble.seal import REVIEWS as HEADING
from cleanlabel.flows.store.client import TAG, Store
from cleanlabel.flows.store.registry import SMOOTHED, aliases_of
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.files import replacing

Outcome = Literal["gate", "approved", "rejected"]
CANDIDATE, CERTIFIED = "candidate", "certified"
ALIASES = (CANDIDATE, CERTIFIED)
MOST = 5000
"""The longest description that MLflow's database keeps, in characters."""
START, END = "<!-- reviews -->", "<!-- /reviews -->"
"""What stands around the reviews in a page. They are all of it that is not sealed."""
LATER = (
    "<p>Reviews come after this page is sealed: the description of the version in the registry shows all of them, and "
    "so does <code>reports/index.html</code> in the project.</p>"
)


@dataclass(frozen=True)
class Action:
    """One line of the history. given, taken: aliases that the version got and lost. before: the line before, hashed."""

    version: int
    plan_digest: str
    entropy_commitment: str
    seal: str | None
    outcome: Outcome
    by: str
    reason: str
    time: str
    gate: str
    given: list[str]
    taken: list[str]
    before: str

    @property
    def words(self) -> str:
        """What was decided, when, by whom, why and what followed, in one line."""
        gate = f"gate {self.gate}"
        said = f"{self.outcome} by {_line(self.by)}: {_line(self.reason)}"
        moved = [f"given {alias}" for alias in self.given] + [f"lost {alias}" for alias in self.taken]
        facts = [*([] if self.outcome == "gate" else [gate]), *moved, f"seal {(self.seal or 'none')[:12]}"]
        return f"{_minute(self.time)}: {gate if self.outcome == 'gate' else said} ({'; '.join(facts)})"


def _minute(time: str) -> str:
    return f"{time[:10]} {time[11:16]} UTC"


def _line(text: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def one_ensemble(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two certificates, or lines of the history, are about the same ensemble."""
    keys = ("plan_digest", "entropy_commitment")
    return all(one.get(key) is not None and one.get(key) == other.get(key) for key in keys)


def identity_of(store: Store, version: ModelVersion) -> dict[str, str]:
    """The plan and the commitment that a version's run records."""
    params = store.client.get_run(str(version.run_id)).data.params
    return {
        "plan_digest": version.tags.get(f"{TAG}plan", ""),
        "entropy_commitment": params.get("entropy_commitment", ""),
    }


def history() -> list[Action]:
    """All lines, oldest first. InputError names a line that is damaged or does not follow the one before it."""
    found: list[Action] = []
    before = ""
    for number, line in enumerate(_lines(), 1):
        try:
            action = Action(**json.loads(line))
        except (TypeError, ValueError) as error:
            raise InputError(f"line {number} of {REVIEWS} is damaged; restore the file from git") from error
        if action.before != before:
            raise InputError(
                f"line {number} of {REVIEWS} does not follow the one before it: a line was changed, or taken out; "
                "restore the file from git"
            )
        before = hashlib.sha256(line).hexdigest()
        found.append(action)
    return found


def _lines() -> list[bytes]:
    return REVIEWS.read_bytes().removesuffix(b"\n").split(b"\n") if REVIEWS.is_file() else []


def write_action(action: dict[str, Any]) -> None:
    """Add a line to the history. It is on disk when this returns. InputError if the history was damaged."""
    history()
    lines = _lines()
    before = hashlib.sha256(lines[-1]).hexdigest() if lines else ""
    line = json.dumps(action | {"before": before}, sort_keys=True, ensure_ascii=False)
    REVIEWS.parent.mkdir(parents=True, exist_ok=True)
    with REVIEWS.open("ab") as stream:
        stream.write(f"{line}\n".encode())
        stream.flush()
        os.fsync(stream.fileno())


def about(actions: Sequence[Action], ensemble: Mapping[str, Any]) -> list[Action]:
    """The lines about one ensemble."""
    return [action for action in actions if one_ensemble(asdict(action), ensemble)]


def holders(actions: Sequence[Action]) -> dict[str, Action]:
    """Who has each alias, as the history says: the line that gave it."""
    held: dict[str, Action] = {}
    for action in actions:
        for alias in action.taken:
            if alias in held and one_ensemble(asdict(held[alias]), asdict(action)):
                del held[alias]
        held |= dict.fromkeys(action.given, action)
    return held


def described(description: str, actions: Sequence[Action]) -> str:
    """A version's description with the history of its reviews, as `described` was given it before or not.

    If MLflow's database cannot keep so much, reasons are cut, then the lines that moved aliases without a person.
    """
    sealed = sealed_part(description)
    if not actions:
        return sealed
    room = MOST - len(sealed) - len(HEADING)
    decided = [action for action in actions if action.outcome != "gate"]
    left_out = f"- not all of it fits here; the whole history is in `{REVIEWS}`"
    for said, longest in ((actions, room), (actions, 200), (decided, 200), (decided, 100), (decided, 60)):
        lines = [escaped(action.words[:longest] + ("…" if len(action.words) > longest else "")) for action in said]
        words = "\n".join([*(f"- {line}" for line in lines), *([] if longest == room else [left_out])])
        if len(words) <= room:
            return sealed + HEADING + words
    return sealed + HEADING + f"- {len(decided)} decisions, the last: {escaped(decided[-1].words[:60])}…\n{left_out}"


def with_reviews(page: str, actions: Sequence[Action]) -> str:
    """A review page that shows these lines."""
    items = "\n".join(f"<li>{html.escape(action.words)}</li>" for action in actions)
    return _between_marks(page, f"<ol>\n{items}\n</ol>" if actions else "<p>Nothing was decided yet.</p>")


def without_reviews(page: str) -> str:
    """A review page as it is sealed."""
    return _between_marks(page, LATER)


def _between_marks(page: str, section: str) -> str:
    before, start, rest = page.partition(START)
    _, end, after = rest.partition(END)
    return f"{before}{START}\n{section}\n{END}{after}" if start and end else page


def show_on_page(ensemble: Mapping[str, Any]) -> None:
    """Show the reviews on the page in reports/, if it is this ensemble's."""
    if not PAGE.is_file() or not CERTIFICATE.is_file():
        return
    if not one_ensemble(json.loads(CERTIFICATE.read_text()), ensemble):
        return
    page = with_reviews(PAGE.read_text(encoding="utf-8"), about(history(), ensemble))
    with replacing(PAGE) as scratch:
        scratch.write_text(page, encoding="utf-8")


def check_reviews(
    store: Store, version: ModelVersion, certificate: Mapping[str, Any], *, decided: bool = True
) -> Check:
    """Compare the version's review tags, aliases and words with the history, and the history with git's.

    decided: False compares the history with git's alone. InputError if a line of it is damaged.
    """
    actions, lines = history(), _lines()
    if not decided:
        words = _not_grown(lines)
        return Check("reviews", not words, words or f"{len(actions)} lines of {REVIEWS}, each after the one before")
    mine, held = about(actions, certificate), aliases_of(store, version.name)
    wrong = [_not_grown(lines), *_tags_differ(version, mine)]
    given = holders(actions)
    for alias in ALIASES:
        has = held.get(alias) == int(version.version)
        should = alias in given and one_ensemble(asdict(given[alias]), certificate)
        if has != should:
            where = f"is on version {held[alias]}" if alias in held else "is on no version"
            said = f"{REVIEWS} gives it to version {given[alias].version}" if alias in given else "nobody gave it"
            wrong.append(f"the alias {alias} {where}, and {said}; decide again with `python -m flows.review`")
    if (version.description or "") != described(version.description or "", mine):
        wrong.append(f"the reviews in the version's description are not those in {REVIEWS}")
    if PAGE.is_file():
        page = PAGE.read_text(encoding="utf-8")
        if page != with_reviews(page, mine):
            wrong.append(f"the reviews in {PAGE} are not those in {REVIEWS}")
    failed = [words for words in wrong if words]
    if failed:
        return Check("reviews", passed=False, found="; ".join(failed))
    own = sorted(alias for alias, number in held.items() if number == int(version.version) and alias not in ALIASES)
    others = f"; set by hand, outside the history: {', '.join(own)}" if own else ""
    return Check("reviews", passed=True, found=("; ".join(a.words for a in mine) or "nothing was decided yet") + others)


def _not_grown(lines: list[bytes]) -> str:
    """What is wrong if git once held a history that this one does not begin with."""
    for text in versions_in_git(REVIEWS, "-m", "--first-parent"):
        before = text.removesuffix(b"\n").split(b"\n")
        if lines[: len(before)] != before:
            gone = next(n for n, line in enumerate(before, 1) if lines[n - 1 : n] != [line])
            return f"line {gone} of {REVIEWS} is not the one that git held; the history only grows: restore it from git"
    return ""


def _tags_differ(version: ModelVersion, mine: Sequence[Action]) -> list[str]:
    decided = [action for action in mine if action.outcome != "gate"]
    last = decided[-1] if decided else None
    says = dict.fromkeys(REVIEW_TAGS) if last is None else review_tags(last.outcome, last.reason, last.by)
    has = {name: version.tags.get(f"{TAG}{name}") for name in REVIEW_TAGS}
    if has == says:
        return []
    name = f"{SMOOTHED} version {version.version}"
    if last is None:
        return [
            f"{name} says {has['review']} by {has['reviewed_by']}, and {REVIEWS} has no such line; pull the commit "
            "that has it, or review the version again"
        ]
    return [
        f"version tag {TAG}{key} is {has[key]!r} where {REVIEWS} says {says[key]!r}; it was edited"
        for key in REVIEW_TAGS
        if has[key] != says[key]
    ]


def review_tags(outcome: str, reason: str, by: str) -> dict[str, str]:
    """The tags of a version that somebody decided about."""
    return dict(zip(REVIEW_TAGS, (outcome, reason, by), strict=True))
