"""Review the registered versions: side by side with their figures, then approve or reject one, with a reason.

    python -m flows.review
    python -m flows.review approve N --reason WHY
    python -m flows.review reject N --reason WHY

An approval holds the version against the gate once more, audit included, before it gets the alias `certified`.
"""

import argparse
import os

from mlflow.entities.model_registry import ModelVersion

from flows.audit import Check
from flows.certificates import certify_version
from flows.gate import CANDIDATE, CERTIFIED, run_gate
from flows.store import (
    SMOOTHED,
    TAG,
    Store,
    aliases_of,
    all_versions,
    answering,
    clear_alias,
    connect,
    get_version,
    set_alias,
    tag_version,
)
from models.params import CertifyParams, GateParams
from sanitize import errors
from sanitize.errors import InputError
from sanitize.imageset import load
from sanitize.params import read_params
from sanitize.paths import SETS

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
    """Every version with its figures, a row each, in Markdown; gate reasons and review reasons below."""
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
        said.append(f"version {version.version} is not certifiable: no radius is attached to it")
    if version.tags.get(f"{TAG}gate_reasons"):
        said.append(f"version {version.version} did not pass the gate: {version.tags[f'{TAG}gate_reasons']}")
    if f"{TAG}review" in version.tags:
        who, why = version.tags.get(f"{TAG}reviewed_by", "?"), version.tags.get(f"{TAG}review_reason", "")
        said.append(f"version {version.version} was {version.tags[f'{TAG}review']} by {who}: {why}")
    return said


def approve(store: Store, number: int, reason: str, by: str) -> list[Check]:
    """Make a version `certified`. InputError if it does not pass the gate now; what the gate found otherwise."""
    version = get_version(store, SMOOTHED, number)
    raw, test = load(SETS["raw"]), load(SETS["test"])
    certified, _ = certify_version(store, version, raw, test, read_params("certify", CertifyParams))
    verdict = run_gate(store, version, certified, test.labels, read_params("gate", GateParams))
    if not verdict.passed:
        raise InputError(f"{SMOOTHED} version {number} does not pass the gate and was not approved: {verdict.reasons}")
    _record(store, version, "approved", reason, by)
    set_alias(store, version, CERTIFIED)
    clear_alias(store, version, CANDIDATE)
    return verdict.checks


def reject(store: Store, number: int, reason: str, by: str) -> None:
    """Take a version out of the running: it loses its aliases, and no later run of the gate gives them back."""
    version = get_version(store, SMOOTHED, number)
    _record(store, version, "rejected", reason, by)
    clear_alias(store, version, CANDIDATE, CERTIFIED)


def _record(store: Store, version: ModelVersion, outcome: str, reason: str, by: str) -> None:
    tag_version(store, version, {"review": outcome, "review_reason": reason, "reviewed_by": by})


def main() -> None:
    flags = argparse.ArgumentParser(prog="python -m flows.review", description=__doc__.splitlines()[0])
    actions = flags.add_subparsers(dest="action", metavar="approve|reject", title="(nothing: list the versions)")
    for name in ("approve", "reject"):
        action = actions.add_parser(name, help=f"{name} a version")
        action.add_argument("version", type=int, help=f"of {SMOOTHED}")
        action.add_argument("--reason", required=True, help="why; it stands in the registry")
        action.add_argument(
            "--by", default=os.environ.get("USER", "somebody"), help="who decides (default: %(default)s)"
        )
    args = flags.parse_args()
    with answering():
        store = connect()
        if args.action is None:
            print(side_by_side(store))
            return
        if not args.reason.strip():
            raise InputError("--reason is empty; say why, for whoever reads the registry later")
        if args.action == "approve":
            for check in approve(store, args.version, args.reason, args.by):
                print(f"ok    {check.name}: {check.found}")
            print(f"{SMOOTHED} version {args.version} is approved and has the alias {CERTIFIED}")
        else:
            reject(store, args.version, args.reason, args.by)
            print(f"{SMOOTHED} version {args.version} is rejected")


if __name__ == "__main__":
    errors.run(main)
