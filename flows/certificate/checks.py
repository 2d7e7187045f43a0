"""The checks of a registered version: compute its certificate again, and compare everything that should agree."""

import json
import secrets
from collections.abc import Iterator
from typing import Any

import numpy as np
from mlflow.entities.model_registry import ModelVersion
from numpy.typing import NDArray

from cleanlabel.flows.artifacts import CERTIFICATE, CERTIFICATE_ARTIFACT
from cleanlabel.flows.certificate.check import Check, committed, held_by_git
from cleanlabel.flows.certificate.record import compute, require_certifiable, tags_of
from cleanlabel.flows.certificate.reviews import check_reviews
from cleanlabel.flows.certificate.sealed import check_reports, check_seal
from cleanlabel.flows.ensemble.assembly import Assembly, assemble, check_registration, check_seals
from cleanlabel.flows.ensemble.record import Ensemble, read_ensemble, root_of, version_tags
from cleanlabel.flows.ensemble.seal import ROOTS
from cleanlabel.flows.store.client import TAG, Store, read_json
from cleanlabel.flows.store.registry import SMOOTHED, get_version
from cleanlabel.models.params import CertifyParams
from cleanlabel.models.plan import Plan
from cleanlabel.models.sums import STEPS
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.imageset import load
from cleanlabel.sanitize.noise import Entropy
from cleanlabel.sanitize.paths import SETS

TOLERANCE = 0.98
"""Share of votes that a replayed draw must repeat on another machine or library version; on the same one: all."""
NEAR = 0.01
"""A sum recomputed on another machine may differ by this share of its class's largest sum, as features are rounded."""


def audit(
    store: Store,
    number: int,
    replay: int,
    assembly: Assembly | None = None,
    *,
    sealed: bool = True,
    decided: bool = True,
) -> Iterator[Check]:
    """The checks of a registered version, one after the other. Stops when nothing further can be read.

    assembly: its votes, if this process has just read and checked them; otherwise they are read from the store.
    sealed: False while it is being certified: its reports and its reviews are not compared, and the seal covers only
    what was registered. decided: False before a decision, which will itself set tags, aliases and words about reviews;
    then only the history is checked.
    """
    version = get_version(store, SMOOTHED, number)
    yield check_seal(store, version, whole=sealed)
    name = "plan"
    try:
        ensemble = read_ensemble(store, store.client.get_run(version.run_id))
        plan = ensemble.plan
        _expect(version, version_tags(ensemble, version.tags.get(f"{TAG}votes_root", "")))
        yield Check(name, passed=True, found=f"{plan.digest[:12]}, m = {ensemble.m}, sigma = {plan.sigma:g}")
        name = "certifiable"
        require_certifiable(ensemble)
        name = "votes"
        assembly = assembly or assemble(store, ensemble)
        found = f"{len(assembly.votes)} of {ensemble.draws} draws, each once and as its run recorded it"
        yield Check(name, passed=True, found=found)
        name = "registered votes"
        lost = check_registration(store, ensemble, version, assembly.votes)
        root = root_of(assembly.votes, ensemble.draws)
        gone = f"; draws {', '.join(map(str, lost))} were lost since; they count for no class" if lost else ""
        yield Check(name, passed=True, found=f"root {root[:12]}{gone}")
        name = "attached certificate"
        attached = read_json(store, version.run_id, CERTIFICATE_ARTIFACT)
        if attached["plan_digest"] != plan.digest:
            raise InputError(
                f"the one attached to {SMOOTHED} version {number} is of another version's plan "
                f"({attached['plan_digest'][:12]}); run `python -m flows.certify --version {number}`"
            )
        yield Check(name, passed=True, found="of this version's plan")
        name = "git-tracked certificate"
        yield _git_tracked(root, attached)
        name = "entropy"
        entropy = Entropy(bytes.fromhex(attached["entropy"]), attached["entropy_source"])
        if (entropy.commitment, entropy.source) != (ensemble.commitment, ensemble.entropy_source):
            raise InputError("the revealed entropy is not the one this ensemble committed to")
        check_seals(assembly, entropy)
        found = f"from {entropy.source}, as committed before the draws; every draw was made from it"
        yield Check(name, passed=True, found=found)
        name = "certificate"
        yield _recomputed(ensemble, assembly, lost, entropy, attached)
        name = "version tags"
        _expect(version, tags_of(attached))
        yield Check(name, passed=True, found="say what the certificate says")
        if sealed:
            name = "reports"
            yield check_reports(store, version)
            name = "reviews"
            yield check_reviews(store, version, attached, decided=decided)
    except InputError as error:
        yield Check(name, passed=False, found=str(error))
        return
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        yield Check(name, passed=False, found=f"cannot be read ({error!r}); it was edited or is damaged")
        return
    if replay:
        yield from replayed(store, ensemble, assembly, entropy, replay)


def _expect(version: ModelVersion, tags: dict[str, str]) -> None:
    for key, value in tags.items():
        says = version.tags.get(f"{TAG}{key}")
        if says != value:
            raise InputError(
                f"{SMOOTHED} version {version.version} has the tag {TAG}{key}={says!r} where its ensemble says "
                f"{value!r}; it was edited"
            )


def _git_tracked(root: str, attached: dict[str, Any]) -> Check:
    """Compare with git: votes, tags and certificate can be edited together in the store, but not unseen in git."""
    name = "git-tracked certificate"
    tracked = json.loads(CERTIFICATE.read_text()) if CERTIFICATE.is_file() else {}
    if tracked.get("plan_digest") != attached["plan_digest"]:
        way_out = "check out the commit that holds this version's"
        return Check(name, passed=False, found=f"{CERTIFICATE} is of another ensemble; {way_out}")
    held = held_by_git(CERTIFICATE)
    one_ensemble = all(held.get(key) == attached[key] for key in ("plan_digest", "entropy_commitment"))
    if one_ensemble and held.get("votes_root") != root:  # a later `certify` has overwritten the file, but not git's
        way_out = "if a run was lost and you know why, commit the new certificate"
        return Check(name, passed=False, found=f"git holds another root for this ensemble; {way_out}")
    same = tracked == attached and tracked["votes_root"] == root
    verdict = f"equal, {committed(CERTIFICATE)}" if same else "it and the store disagree: one of them was edited"
    return Check(name, passed=same, found=f"{CERTIFICATE} with root {tracked['votes_root'][:12]}: {verdict}")


def _recomputed(
    ensemble: Ensemble, assembly: Assembly, lost: list[int], entropy: Entropy, attached: dict[str, Any]
) -> Check:
    params = CertifyParams.model_validate(attached["reported"])
    test = load(SETS["test"])
    again = compute(ensemble, assembly.votes, lost, entropy, test, tuple(attached["image_shape"]), params).certificate
    keys = (again.keys() | attached.keys()) - {*ROOTS}
    differs = sorted(key for key in keys if again.get(key) != attached.get(key))
    found = f"differs in {', '.join(differs)}" if differs else "computed again from the votes, equal in every field"
    return Check("certificate", not differs, found)


def replayed(store: Store, ensemble: Ensemble, assembly: Assembly, entropy: Entropy, count: int) -> Iterator[Check]:
    """Retrain `count` draws, chosen at random. On the draw's own machine and libraries all bits must be equal."""
    from cleanlabel.flows.ensemble.worker import (  # imported late: only a replay needs torch
        environment,
        instrument_of,
        prepare,
    )
    from cleanlabel.models.draw import make_again

    try:
        materials = prepare(ensemble.plan, instrument_of(store, ensemble))
    except InputError as error:
        yield Check("replay", passed=False, found=str(error))
        return
    runs, here = assembly.runs, environment(materials)
    for draw in sorted(secrets.SystemRandom().sample(sorted(runs), min(count, len(runs)))):
        made = make_again(materials, entropy.value, ensemble.plan.batch_of(draw), draw)
        there = runs[draw].data.tags.get(f"{TAG}environment", "an unknown machine")
        needed = 1.0 if there == here else TOLERANCE
        agreement = agreeing(ensemble.plan, made.votes, assembly.votes[draw], exactly=there == here)
        must = (
            "all must, on the same machine and libraries" if there == here else f"{TOLERANCE:.0%} must; made on {there}"
        )
        answers = "sums" if ensemble.plan.bounded_influence else "votes"
        found = f"{agreement:.1%} of the {answers} repeated ({must}); run {runs[draw].info.run_id}"
        yield Check(f"replay of draw {draw}", agreement >= needed, found)


def agreeing(plan: Plan, made: NDArray[np.int64], recorded: NDArray[np.int64], *, exactly: bool) -> float:
    """The share of votes or sums that a replay repeats. Unless `exactly`, a sum may differ by NEAR of its class's
    largest possible sum."""
    if exactly or not plan.bounded_influence:
        return float(np.mean(made == recorded))
    return float(np.mean(np.abs(made - recorded) <= NEAR * STEPS * np.array(plan.class_sizes)))
