"""The gate: judge a version's certificate and audit by the thresholds for promotion."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
from mlflow.entities.model_registry import ModelVersion
from numpy.typing import NDArray

from cleanlabel.flows.certificate.check import Check
from cleanlabel.flows.certificate.checks import audit
from cleanlabel.flows.certificate.record import Certified
from cleanlabel.flows.certificate.reviews import (
    ALIASES,
    CANDIDATE,
    CERTIFIED,
    Action,
    Outcome,
    about,
    described,
    history,
    holders,
    identity_of,
    one_ensemble,
    review_tags,
    show_on_page,
    write_action,
)
from cleanlabel.flows.certificate.wording import accuracy_name
from cleanlabel.flows.orchestration import events
from cleanlabel.flows.store.client import TAG, Store
from cleanlabel.flows.store.registry import (
    SMOOTHED,
    aliases_of,
    clear_alias,
    describe_version,
    get_version,
    set_alias,
    tag_version,
)
from cleanlabel.models.certificate import certified_accuracy
from cleanlabel.models.params import GateParams
from cleanlabel.models.rounding import down_text, exact


@dataclass(frozen=True)
class Verdict:
    """What the gate found; a version passes if every check does."""

    checks: list[Check]
    moves: tuple[str, ...] = ()
    """The resulting changes of aliases in the registry, one clause each."""

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)

    @property
    def reasons(self) -> str:
        """Why it did not pass, in one line."""
        return "; ".join(f"{check.name}: {check.found}" for check in self.checks if not check.passed)

    def as_dict(self) -> dict[str, Any]:
        """The verdict for JSON. It does not depend on which draws the audit replayed."""
        return {"passed": self.passed, "checks": [asdict(check) for check in self.checks]}


def judge(certified: Certified, truth: NDArray[np.int64], audited: list[Check], params: GateParams) -> Verdict:
    """Compare a certificate and the checks of its audit with the thresholds."""
    certificate = certified.certificate
    accuracy = certificate["vote_accuracy"]
    found = _found(accuracy, params.accuracy)
    checks = [Check(accuracy_name(certificate), accuracy >= params.accuracy, found)]
    for threshold in params.certified_accuracy:
        share = float(certified_accuracy(certified.label, certified.radius, truth, [threshold.radius])[0])
        name = f"certified accuracy at R = {exact(threshold.radius)}"
        checks.append(Check(name, share >= threshold.at_least, _found(share, threshold.at_least)))
    checks += _counted(certified, truth, params)
    source = certificate["entropy_source"]
    wanted = "os required" if params.entropy == "os" else "any source accepted"
    checks.append(Check("entropy", params.entropy in ("any", source), f"{source}, {wanted}"))
    failed = [check.name for check in audited if not check.passed]
    failed = list(dict.fromkeys("replay" if name.startswith("replay of") else name for name in failed))
    replayed = f"{params.replay} draw{'s' if params.replay != 1 else ''} replayed"
    words = f"failed: {', '.join(failed)}; see flows.audit" if failed else f"every check passed, {replayed}"
    checks.append(Check("audit", not failed, words))
    return Verdict(checks)


def _counted(certified: Certified, truth: NDArray[np.int64], params: GateParams) -> Iterator[Check]:
    """Check certified accuracy against images changed at will; it is missing without a bounded-influence head."""
    for way, asked in (("rewritten", params.rewritten), ("relabelled", params.relabelled)):
        for threshold in asked:
            name = f"certified accuracy against {threshold.images} images {way}"
            if certified.influenced is None:
                yield Check(name, passed=False, found="votes certify none; set train.head: bounded-influence")
                continue
            enough = certified.influenced.counts(way) >= threshold.images
            share = float(np.mean(enough & (certified.label == truth)))
            yield Check(name, share >= threshold.at_least, _found(share, threshold.at_least))


def _found(share: float, at_least: float) -> str:
    return f"{down_text(share, 4)}, at least {exact(at_least)} required"


def assess(
    store: Store,
    version: ModelVersion,
    certified: Certified,
    truth: NDArray[np.int64],
    params: GateParams,
    *,
    sealed: bool = True,
) -> Verdict:
    """Audit a certified version and judge it, before a decision. Nothing in the registry changes.

    sealed: as for `checks.audit`.
    """
    number = int(version.version)
    audited = list(audit(store, number, params.replay, certified.assembly, sealed=sealed, decided=False))
    return judge(certified, truth, audited, params)


def run_gate(
    store: Store, version: ModelVersion, certified: Certified, truth: NDArray[np.int64], params: GateParams
) -> Verdict:
    """Audit and judge a version that is being certified. Writes the verdict and the reasons to the registry."""
    verdict = assess(store, version, certified, truth, params, sealed=False)
    tag_version(store, version, {"gate": "passed" if verdict.passed else "failed", "gate_reasons": verdict.reasons})
    return verdict


def promote(
    store: Store, version: ModelVersion, verdict: Verdict, params: GateParams, certificate: dict[str, Any]
) -> Verdict:
    """Give or take the aliases that a certified and sealed version earns. Returns the verdict with what moved."""
    number, given = int(version.version), holders(history())
    reviews = [action.outcome for action in about(history(), certificate) if action.outcome != "gate"]
    review = reviews[-1] if reviews else "rejected" if version.tags.get(f"{TAG}review") == "rejected" else None
    held = {  # an alias that somebody set by hand is none that this version can keep
        alias: holder
        for alias, holder in aliases_of(store, version.name).items()
        if holder != number or (alias in given and one_ensemble(asdict(given[alias]), certificate))
    }
    automatic = params.approval == "automatic"
    alias = earned(held, number, passed=verdict.passed, review=review, automatic=automatic)
    moves = decide(
        store, version, alias, "gate", verdict="passed" if verdict.passed else "failed", seal=certificate["seal"]
    )
    if verdict.passed and review != "rejected" and alias is None:
        moves += (f"version {number} has no alias: another one is certified or a newer one awaits its review",)
    return replace(verdict, moves=moves)


def decide(
    store: Store,
    version: ModelVersion,
    alias: str | None,
    outcome: Outcome,
    *,
    verdict: str,
    seal: str | None,
    by: str = "",
    reason: str = "",
) -> tuple[str, ...]:
    """Move aliases, tag the version with a person's decision, and write it into the history and wherever that shows.

    outcome: "gate" if no person decided; it adds a line only where an alias moved. Returns what moved, in words. The
    registry comes first: what it refuses leaves no line.
    """
    actions, ensemble, number = history(), identity_of(store, version), int(version.version)
    held, given = aliases_of(store, version.name), holders(actions)
    if outcome != "gate":
        tag_version(store, version, review_tags(outcome, reason, by))
    moves = give_alias(store, version, alias)
    by_store = {name for name in ALIASES if held.get(name) == number}
    by_history = {name for name in given if one_ensemble(asdict(given[name]), ensemble)}
    action = {
        **ensemble,
        "version": number,
        "seal": seal,
        "outcome": outcome,
        "by": by,
        "reason": reason,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "gate": verdict,
        "given": [alias] if alias and alias not in by_store & by_history else [],
        "taken": sorted((by_store | by_history) - {alias}),
    }
    new = outcome != "gate" or action["given"] or action["taken"]
    mine = about([*actions, *([Action(**action, before="")] if new else [])], ensemble)
    now = get_version(store, version.name, number)
    if (now.description or "") != described(now.description or "", mine):
        describe_version(store, now, described(now.description or "", mine))
    if new:
        write_action(action)
    show_on_page(ensemble)
    return moves


def earned(held: dict[str, int], number: int, *, passed: bool, review: str | None, automatic: bool) -> str | None:
    """The alias that version `number` gets after the gate; changes nothing. held: alias -> the version that has it now.

    A version that failed or was rejected gets none. One that is `certified` stays so. If no review is required,
    `certified` goes to the newest version. An approved version gets it back if no other version has it. `candidate`
    goes to the newest version that awaits its review. An older version that passes again takes no alias from a newer
    one.
    """
    if not passed or review == "rejected":
        return None
    certified, candidate = held.get(CERTIFIED, 0), held.get(CANDIDATE, 0)
    if certified == number or (automatic and certified < number) or (review == "approved" and not certified):
        return CERTIFIED
    awaits = not automatic and review != "approved"
    return CANDIDATE if candidate == number or (awaits and candidate < number) else None


def give_alias(store: Store, version: ModelVersion, alias: str | None) -> tuple[str, ...]:
    """Give this version `alias` and remove the other of the two. Returns the changes, one clause each.

    Other versions keep their aliases, except the one that had `alias`.
    """
    number, held = int(version.version), aliases_of(store, version.name)
    moves = []
    if alias is not None and held.get(alias) != number:
        set_alias(store, version, alias)
        before = f", which version {held[alias]} had" if alias in held else ""
        moves.append(f"version {number} has the alias {alias}{before}")
    lost = [name for name in (CANDIDATE, CERTIFIED) if name != alias and held.get(name) == number]
    clear_alias(store, version, *lost)
    return (*moves, *(f"version {number} lost the alias {name}" for name in lost))


def tell_verdict(version: int, verdict: Verdict, aliases: list[str]) -> None:
    """Emit an event with the verdict on a version and who has to act on it."""
    name = f"{SMOOTHED} version {version}"
    if not verdict.passed:
        events.tell(events.GATE_FAILED, version, f"{name} does not pass the gate: {verdict.reasons}")
    elif CANDIDATE in aliases:
        way = f"python -m flows.review approve {version} --reason WHY"
        events.tell(events.AWAITING_REVIEW, version, f"{name} passed the gate and awaits its review: {way}")
    elif CERTIFIED in aliases:
        events.tell(events.CERTIFIED, version, f"{name} passed the gate and is certified")
