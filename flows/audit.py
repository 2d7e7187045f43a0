"""Audit a registered version: compute its certificate again from its runs, and compare all that should agree.

    python -m flows.audit --version N [--replay K]

One line a check; the exit status is 1 if any fails. `--replay K` retrains K draws, chosen at random, from the revealed
entropy and compares their votes.
"""

import argparse
import json
import secrets
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from flows.certify import CERTIFICATE, compute
from flows.ensemble import Ensemble, Votes, read_ensemble, read_votes, root_of
from flows.store import SMOOTHED, TAG, Store, answering, connect, get_version, read_json
from sanitize import errors
from sanitize.errors import InputError
from sanitize.imageset import load
from sanitize.noise import Entropy
from sanitize.paths import SETS

TOLERANCE = 0.98
"""Share of votes a replayed draw must repeat on another machine or library version; on the same one it repeats all."""


@dataclass(frozen=True)
class Check:
    """One comparison: what was compared, whether it agreed, and what was found."""

    name: str
    passed: bool
    found: str


def audit(store: Store, number: int, replay: int) -> Iterator[Check]:
    """The checks of a registered version, one after the other; stops where nothing further can be read."""
    version = get_version(store, SMOOTHED, number)
    run_id = version.run_id

    def attempt(name: str, read: Callable[[], Any]) -> tuple[Check | None, Any]:
        try:
            return None, read()
        except InputError as error:
            return Check(name, passed=False, found=str(error)), None
        except (KeyError, TypeError, ValueError) as error:
            return Check(name, passed=False, found=f"cannot be read ({error!r}); it was edited or is damaged"), None

    failed, ensemble = attempt("plan", lambda: read_ensemble(store, store.client.get_run(run_id)))
    if failed:
        yield failed
        return
    plan = ensemble.plan
    registered = version.tags.get(f"{TAG}plan") == plan.digest
    yield Check("plan", registered, f"{plan.digest[:12]}, m = {plan.m}, sigma = {plan.sigma:g}")

    failed, votes = attempt("votes", lambda: read_votes(store, ensemble))
    if failed:
        yield failed
        return
    missing = plan.m - len(votes)
    yield Check("votes", passed=True, found=f"{len(votes)} of {plan.m} draws match their hashes, {missing} missing")

    failed, attached = attempt("certificate", lambda: read_json(store, run_id, "ensemble/certificate/certificate.json"))
    if failed:
        yield failed
        return
    yield from _roots(root_of(votes, plan.m), plan.digest, version.tags.get(f"{TAG}votes_root"), attached)
    failed, entropy = attempt(
        "entropy", lambda: Entropy(bytes.fromhex(attached["entropy"]), attached["entropy_source"])
    )
    if failed:
        yield failed
        return
    yield Check(
        "entropy",
        (entropy.commitment, entropy.source) == (ensemble.commitment, ensemble.entropy_source),
        f"revealed value and commitment {ensemble.commitment[:12]}, from {ensemble.entropy_source}",
    )
    failed, check = attempt("certificate", lambda: _recomputed(ensemble, votes, entropy, attached))
    yield failed or check
    if replay:
        yield from _replayed(ensemble, votes, entropy, replay)


def _roots(root: str, plan_digest: str, tag: str | None, attached: dict[str, Any]) -> Iterator[Check]:
    yield Check("registered root", tag == root, f"votes {root[:12]}, tag {str(tag)[:12]}")
    tracked = json.loads(CERTIFICATE.read_text()) if CERTIFICATE.is_file() else {}
    if tracked.get("plan_digest") == plan_digest:
        # Votes, tags and certificate can be edited together in the store; what git tracks cannot follow unseen.
        same = tracked == attached and tracked["votes_root"] == root
        yield Check("git-tracked certificate", same, f"{CERTIFICATE}: votes {tracked['votes_root'][:12]}")
    else:
        way_out = "check out the commit that holds this version's"
        yield Check("git-tracked certificate", passed=False, found=f"{CERTIFICATE} is of another ensemble; {way_out}")


def _recomputed(ensemble: Ensemble, votes: Votes, entropy: Entropy, attached: dict[str, Any]) -> Check:
    radii = [row["radius"] for row in attached["at_radii"]]
    shape = load(SETS["raw"]).image_shape
    again = compute(ensemble, votes, entropy, load(SETS["test"]), shape, radii, attached["epsilon"]).certificate
    differs = sorted(key for key in again.keys() | attached.keys() if again.get(key) != attached.get(key))
    found = f"differs in {', '.join(differs)}" if differs else "computed again from the votes, equal in every field"
    return Check("certificate", not differs, found)


def _replayed(ensemble: Ensemble, votes: Votes, entropy: Entropy, count: int) -> Iterator[Check]:
    from flows.worker import prepare  # imported late: only a replay needs torch
    from models.draw import make_draw
    from models.params import TrainParams

    plan = ensemble.plan
    try:
        raw, test, denoiser = prepare(plan)
    except InputError as error:
        yield Check("replay", passed=False, found=str(error))
        return
    recipe = TrainParams.model_validate(plan.recipe)
    for draw in sorted(secrets.SystemRandom().sample(sorted(votes), min(count, len(votes)))):
        made = make_draw(raw, test, plan.sigma, denoiser, recipe, entropy.value, draw)
        agreement = float(np.mean(made.votes == votes[draw]))
        found = "every vote repeated" if agreement == 1 else f"{agreement:.1%} of the votes repeated"
        yield Check(f"replay of draw {draw}", agreement >= TOLERANCE, f"{found} (at least {TOLERANCE:.0%} must be)")


def main() -> None:
    flags = argparse.ArgumentParser(prog="python -m flows.audit", description=__doc__.splitlines()[0])
    flags.add_argument("--version", type=int, required=True, help=f"of {SMOOTHED}")
    flags.add_argument("--replay", type=int, default=0, metavar="K", help="retrain K draws and compare their votes")
    args = flags.parse_args()
    if args.replay < 0:
        raise InputError(f"--replay {args.replay} is negative; give the number of draws to retrain")
    passed = True
    with answering():
        for check in audit(connect(), args.version, args.replay):
            passed &= check.passed
            print(f"{'ok  ' if check.passed else 'FAIL'}  {check.name}: {check.found}", flush=True)
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    errors.run(main)
