"""Review the registered versions: list them with their figures, and approve or reject one with a reason.

    python -m flows.review
    python -m flows.review approve N --reason WHY
    python -m flows.review reject N --reason WHY

An approval runs the gate on the version again, audit included, before the version gets the alias `certified`. Of the
other versions, only the one that was `certified` until then loses its alias. Without --by, the reviewer is $USER,
$LOGNAME (unless that is root) or git's user.name.
"""

import argparse
import os
import subprocess
from dataclasses import replace

from mlflow.entities.model_registry import ModelVersion

from cleanlabel.flows.artifacts import CERTIFICATE_ARTIFACT, REVIEWS
from cleanlabel.flows.certificate.gate import Verdict, assess, decide
from cleanlabel.flows.certificate.record import certify_version
from cleanlabel.flows.certificate.reviews import CERTIFIED, about, history, identity_of
from cleanlabel.flows.store.client import TAG, Store, connect, read_json
from cleanlabel.flows.store.errors import translate_store_errors
from cleanlabel.flows.store.registry import SMOOTHED, aliases_of, all_versions, get_version
from cleanlabel.models.params import CertifyParams, GateParams
from cleanlabel.sanitize import errors
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.imageset import load
from cleanlabel.sanitize.params import read_params
from cleanlabel.sanitize.paths import SETS

COLUMNS = {
    "sigma": "sigma",
    "m": "m",
    "level": "level",
    "vote_accuracy": "vote",
    "abstention_rate": "abstained",
    "entropy_source": "entropy",
    "gate": "gate",
    "review": "review",
}


def side_by_side(store: Store) -> str:
    """All versions with their figures, one row each, in Markdown; the reasons of gate and review are below."""
    versions = all_versions(store, SMOOTHED)
    if not versions:
        return f"{SMOOTHED} has no version yet; run `dvc repro`"
    aliases = aliases_of(store, SMOOTHED)
    radii = sorted(
        {key for version in versions for key in version.tags if key.startswith(f"{TAG}certified_accuracy_r")}
    )
    header = ["version", "alias", *COLUMNS.values(), *(_radius_name(key) for key in radii)]
    rows = [header, ["---"] * len(header)]
    notes = []
    for version in versions:
        number = int(version.version)
        held = ", ".join(sorted(alias for alias, named in aliases.items() if named == number))
        figures = [version.tags.get(f"{TAG}{key}", "-") for key in COLUMNS]
        rows.append([str(number), held or "-", *figures, *(version.tags.get(key, "-") for key in radii)])
        notes += _notes(store, version)
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |" for row in rows]
    lines[1] = "|" + "|".join("-" * (w + 2) for w in widths) + "|"
    return "\n".join([*lines, *([""] if notes else []), *notes])


def _radius_name(key: str) -> str:
    return "R > " + key.removeprefix(f"{TAG}certified_accuracy_r").replace("_", ".")


def _notes(store: Store, version: ModelVersion) -> list[str]:
    said = []
    if version.tags.get(f"{TAG}certifiable") == "false":
        said.append(f"version {version.version} is not certifiable, so no radius is attached to it")
    if version.tags.get(f"{TAG}gate_reasons"):
        said.append(f"version {version.version} did not pass the gate: {version.tags[f'{TAG}gate_reasons']}")
    actions = about(history(), identity_of(store, version))
    said += [f"version {version.version}, {action.words}" for action in actions]
    if f"{TAG}review" in version.tags and not any(action.outcome != "gate" for action in actions):
        who, outcome = version.tags.get(f"{TAG}reviewed_by", "?"), version.tags[f"{TAG}review"]
        said.append(f"version {version.version} says {outcome} by {who}, of which {REVIEWS} has no line")
    return said


def approve(store: Store, number: int, reason: str, by: str) -> Verdict:
    """Make a version `certified`. If it does not pass the gate now: InputError, and nothing is changed.

    The version's verdict stays the one that its certification found; the line in the history has the one of now.
    """
    version = get_version(store, SMOOTHED, number)
    raw, test = load(SETS["raw"]), load(SETS["test"])
    certified, _ = certify_version(store, version, raw, test, read_params("certify", CertifyParams))
    verdict = assess(store, version, certified, test.labels, read_params("gate", GateParams))
    if not verdict.passed:
        raise InputError(f"{SMOOTHED} version {number} does not pass the gate and was not approved: {verdict.reasons}")
    seal = read_json(store, str(version.run_id), CERTIFICATE_ARTIFACT)["seal"]
    moves = decide(store, version, CERTIFIED, "approved", verdict="passed", seal=seal, by=by, reason=reason)
    return replace(verdict, moves=moves)


def reject(store: Store, number: int, reason: str, by: str) -> tuple[str, ...]:
    """Reject a version: it loses its aliases, and no later run of the gate gives them back.

    Returns what it lost, one clause each.
    """
    version = get_version(store, SMOOTHED, number)
    try:
        seal = read_json(store, str(version.run_id), CERTIFICATE_ARTIFACT).get("seal")
    except InputError:  # never certified, or damaged: all the more reason to reject it
        seal = None
    verdict = version.tags.get(f"{TAG}gate", "not asked")
    return decide(store, version, None, "rejected", verdict=verdict, seal=seal, by=by, reason=reason)


def reviewer(given: str | None) -> str:
    """The reviewer's name: the given one, or this account's. InputError asks for a name if there is none.

    The name root, as in containers, identifies no person and is not used.
    """
    if given is None:
        accounts = [os.environ.get(name, "").strip() for name in ("USER", "LOGNAME")]
        given = next((account for account in accounts if account not in ("", "root")), None) or _git_user()
    if not given.strip():
        raise InputError(
            "the reviewer is unknown: USER and LOGNAME are empty or root, and git has no user.name; "
            "name the reviewer with --by NAME, or set `git config user.name`"
        )
    return given.strip()


def _git_user() -> str:
    try:
        asked = subprocess.run(["git", "config", "user.name"], capture_output=True, text=True, check=False)
    except OSError:  # no git here
        return ""
    return asked.stdout.strip()


def parser() -> argparse.ArgumentParser:
    """The command's flags."""
    flags = argparse.ArgumentParser(prog="python -m flows.review", description=__doc__.splitlines()[0])
    actions = flags.add_subparsers(dest="action", metavar="approve|reject", title="(nothing: list the versions)")
    for name in ("approve", "reject"):
        action = actions.add_parser(name, help=f"{name} a version")
        action.add_argument("version", type=int, help=f"the version of {SMOOTHED}")
        action.add_argument("--reason", required=True, help="why; the registry and reports/reviews.jsonl record it")
        action.add_argument("--by", metavar="NAME", help="the reviewer (default: this account's or git's user)")
    return flags


def main() -> None:
    args = parser().parse_args()
    with translate_store_errors():
        store = connect()
        if args.action is None:
            print(side_by_side(store))
            return
        if not args.reason.strip():
            raise InputError("--reason is empty; give the reason, which the registry records")
        by = reviewer(args.by)
        if args.action == "approve":
            verdict = approve(store, args.version, args.reason, by)
            for check in verdict.checks:
                print(f"ok    {check.name}: {check.found}")
            changed = "; ".join(verdict.moves) or f"it had the alias {CERTIFIED} already"
            print(f"{SMOOTHED} version {args.version} is approved by {by}: {changed}")
        else:
            changed = "; ".join(reject(store, args.version, args.reason, by)) or "it had no alias"
            print(f"{SMOOTHED} version {args.version} is rejected by {by}: {changed}")
        print(f"{REVIEWS} has one more line; commit it, with reports/")


if __name__ == "__main__":
    errors.run(main)
