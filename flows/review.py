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

from cleanlabel.flows.certificate.gate import CERTIFIED, Verdict, assess, give_alias, record_verdict
from cleanlabel.flows.certificate.record import certify_version
from cleanlabel.flows.store.client import TAG, Store, connect
from cleanlabel.flows.store.errors import translate_store_errors
from cleanlabel.flows.store.registry import SMOOTHED, aliases_of, all_versions, get_version, tag_version
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
        notes += _notes(version)
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |" for row in rows]
    lines[1] = "|" + "|".join("-" * (w + 2) for w in widths) + "|"
    return "\n".join([*lines, *([""] if notes else []), *notes])


def _radius_name(key: str) -> str:
    return "R > " + key.removeprefix(f"{TAG}certified_accuracy_r").replace("_", ".")


def _notes(version: ModelVersion) -> list[str]:
    said = []
    if version.tags.get(f"{TAG}certifiable") == "false":
        said.append(f"version {version.version} is not certifiable, so no radius is attached to it")
    if version.tags.get(f"{TAG}gate_reasons"):
        said.append(f"version {version.version} did not pass the gate: {version.tags[f'{TAG}gate_reasons']}")
    if f"{TAG}review" in version.tags:
        who, why = version.tags.get(f"{TAG}reviewed_by", "?"), version.tags.get(f"{TAG}review_reason", "")
        said.append(f"version {version.version} was {version.tags[f'{TAG}review']} by {who}: {why}")
    return said


def approve(store: Store, number: int, reason: str, by: str) -> Verdict:
    """Make a version `certified`. If it does not pass the gate now: InputError, and the registry is unchanged."""
    version = get_version(store, SMOOTHED, number)
    raw, test = load(SETS["raw"]), load(SETS["test"])
    certified, _ = certify_version(store, version, raw, test, read_params("certify", CertifyParams))
    verdict = assess(store, version, certified, test.labels, read_params("gate", GateParams))
    if not verdict.passed:
        raise InputError(f"{SMOOTHED} version {number} does not pass the gate and was not approved: {verdict.reasons}")
    record_verdict(store, version, verdict)
    _record(store, version, "approved", reason, by)
    return replace(verdict, moves=give_alias(store, version, CERTIFIED))


def reject(store: Store, number: int, reason: str, by: str) -> tuple[str, ...]:
    """Reject a version: it loses its aliases, and no later run of the gate gives them back.

    Returns what it lost, one clause each.
    """
    version = get_version(store, SMOOTHED, number)
    _record(store, version, "rejected", reason, by)
    return give_alias(store, version, None)


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


def _record(store: Store, version: ModelVersion, outcome: str, reason: str, by: str) -> None:
    tag_version(store, version, {"review": outcome, "review_reason": reason, "reviewed_by": by})


def parser() -> argparse.ArgumentParser:
    """The command's flags."""
    flags = argparse.ArgumentParser(prog="python -m flows.review", description=__doc__.splitlines()[0])
    actions = flags.add_subparsers(dest="action", metavar="approve|reject", title="(nothing: list the versions)")
    for name in ("approve", "reject"):
        action = actions.add_parser(name, help=f"{name} a version")
        action.add_argument("version", type=int, help=f"the version of {SMOOTHED}")
        action.add_argument("--reason", required=True, help="why; the registry records it")
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


if __name__ == "__main__":
    errors.run(main)
