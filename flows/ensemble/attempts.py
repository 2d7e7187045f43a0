"""Count the attempts at a raw set: each ensemble is tested on the same data and spends alpha.

A raw set is identified by its content (`sanitize.content`). Another recipe, sigma, denoiser, test set or number of
models, or other ids or another order of the images, does not make it a new raw set. Three records are read, and each
ensemble counts once: the project's ledger, the MLflow store (with its deleted runs), and the certificates in git
(`flows.ensemble.ledger`). An ensemble made on another machine or in a lost store is unknown; the certificate says so.

Only equal content is the same raw set. A set with an added image or a changed pixel is other data: its certificates
are statements about another training set, made with their own noise. A rule based on the share of common images would
only move the border. What it shares with earlier raw sets is disclosed (`flows.ensemble.earlier_sets`). The count
prevents accidents; it does not stop a user who changes a pixel of every image to get a new alpha.
"""

from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from mlflow.entities import Run
from numpy.typing import NDArray

from cleanlabel.flows.artifacts import PLAN_ARTIFACT
from cleanlabel.flows.ensemble.earlier_sets import compared, hashes_of
from cleanlabel.flows.ensemble.ledger import Line, Past, Planned, certificates, past, read_lines
from cleanlabel.flows.store.client import TAG, Store, find_runs, read_json
from cleanlabel.models.plan import Plan, attempts_before
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.noise import Entropy

UNKNOWN = {
    "kept": "attempts on this raw set where this project's ledger, store and git history do not look: on another "
    "machine, or in another store",
    "new": "attempts on this raw set before this ensemble that neither the store nor git knew, on this machine or "
    "another: the project's ledger of attempts began with it",
    "copied": "attempts on this raw set where this project's ledger, store and git history do not look: in another "
    "store, or in the folder that this one was copied or restored from (or moved from, on another disk)",
}
"""What a certificate cannot know. The key says what the project's ledger was before its ensemble."""
COPIES = "; attempts in a clone or a copy of this project's folder are unknown too"
"""What certificates add since they say what is shared with earlier raw sets."""


@dataclass(frozen=True)
class Standing:
    """How many attempts came before an ensemble, what the project's ledger was, and what earlier raw sets share."""

    attempts_before: int
    ledger: Past | None
    earlier_raw_sets: dict[str, Any] | None


def standing(
    store: Store | None, plan: Plan, own_images: NDArray[np.uint64] | None, entropy: Entropy | None = None
) -> Standing:
    """The standing of an ensemble of this plan and entropy if it were planned now. store: None if there is none yet.

    own_images: the hashes of its raw set. The same plan with the same (fixed) entropy makes the same votes, so it keeps
    its standing. InputError if the earlier ensembles declared another way to share alpha.
    """
    own = (plan.digest, entropy.commitment) if entropy else None
    lines = read_lines(plan.family)
    others = [one for one in _known(store, plan, lines) if one.key != own]
    for other in others:
        if other.ensembles not in (None, plan.ensembles):
            raise InputError(
                f"param smooth.ensembles={plan.ensembles}: an earlier ensemble on this raw set was planned with "
                f"{other.ensembles}, and all of them must share alpha equally; set it to {other.ensembles}"
            )
    recorded = _own_line(lines, own)
    if recorded:
        return Standing(recorded.attempts_before, recorded.ledger, recorded.earlier_raw_sets)
    return Standing(len(others), past(), compared(plan, own_images, store))


def standing_so_far(store: Store | None, plan: Plan) -> Standing:
    """The standing of the plan's ensemble, or the one that it would have if it were planned now."""
    begun = store and find_runs(
        store, f"tags.`{TAG}plan` = '{plan.digest}' and tags.`{TAG}kind` = 'ensemble' and tags.`{TAG}planned` = 'true'"
    )
    if store is None or not begun:
        return standing(store, plan, hashes_of(plan))
    content = read_json(store, begun[0].info.run_id, PLAN_ARTIFACT)
    return Standing(attempts_before(content), content.get("ledger"), content.get("earlier_raw_sets"))


def check_standing(store: Store, plan: Plan, commitment: str, stands: Standing, run_id: str) -> None:
    """InputError if a planned ensemble claims another standing than ledger and store know."""
    earlier = _least_before(store, plan, commitment)
    if stands.attempts_before < earlier:
        raise InputError(
            f"ensemble run {run_id} claims to be attempt {stands.attempts_before + 1} on its raw set, but {earlier} "
            "were planned before it; it cannot be certified at the level it claims"
        )
    line = _own_line(read_lines(plan.family), (plan.digest, commitment))
    if line and (line.ledger, line.earlier_raw_sets) != (stands.ledger, stands.earlier_raw_sets):
        raise InputError(
            f"ensemble run {run_id} says another thing about earlier attempts and raw sets than the project's ledger "
            "recorded when it was planned; it was edited, so it cannot be certified"
        )


def _least_before(store: Store, plan: Plan, commitment: str) -> int:
    """How many attempts at least came before a planned ensemble, given the order of the store and the ledger."""
    keys = list(dict.fromkeys(one.key for one in _in_store(store, plan)))
    own = (plan.digest, commitment)
    recorded = _own_line(read_lines(plan.family), own)
    return max(keys.index(own) if own in keys else 0, recorded.attempts_before if recorded else 0)


def _own_line(lines: list[Line], own: tuple[str, str] | None) -> Line | None:
    return next((line for line in lines if line.key == own), None)


def _known(store: Store | None, plan: Plan, lines: list[Line]) -> list[Planned]:
    """Every ensemble known to be planned on the plan's raw set, once each."""
    found = chain(lines, _in_store(store, plan) if store else (), certificates(plan))
    return list({one.key: one for one in found}.values())


def _in_store(store: Store, plan: Plan) -> list[Planned]:
    """The planned ensembles in the store, oldest first. Deleted ones count: their results may have been seen.

    Older plans do not record the raw set's content; they are found by its digest.
    """
    same = [f"tags.`{TAG}family` = '{plan.family}'"]
    if plan.raw_content is not None:
        same.append(f"params.raw_digest = '{plan.raw_digest}'")
    runs: dict[str, Run] = {}
    for condition in same:
        found = find_runs(store, f"{condition} and tags.`{TAG}planned` = 'true'", deleted=True)
        runs |= {run.info.run_id: run for run in found}
    return [
        Planned(
            run.data.tags[f"{TAG}plan"],
            run.data.params["entropy_commitment"],
            int(run.data.params.get("ensembles", 1)),
        )
        for run in sorted(runs.values(), key=lambda run: run.info.start_time)
    ]
