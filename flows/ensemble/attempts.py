"""Count the attempts at a raw set: each ensemble is tested on the same data and spends alpha.

A raw set is identified by its content (`sanitize.content`). Another recipe, sigma, denoiser, test set or number of
models, or other ids or another order of the images, does not make it a new raw set. Three records are read, and each
ensemble counts once: the project's ledger, the MLflow store (with its deleted runs), and the certificates in git
(`flows.ensemble.ledger`). An ensemble made on another machine or in a lost store is unknown; the certificate says so.

Only equal content is the same raw set. A set with an added image or a changed pixel is other data: its certificates
are statements about another training set, made with their own noise. A rule based on the share of common images would
only move the border. The count prevents accidents; it does not stop a user who changes a pixel to get a new alpha.
"""

from dataclasses import dataclass
from itertools import chain

from mlflow.entities import Run

from cleanlabel.flows.ensemble.ledger import Line, Past, Planned, certificates, past, read_lines
from cleanlabel.flows.store.client import TAG, Store, find_runs
from cleanlabel.models.plan import Plan
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.noise import Entropy

UNKNOWN = {
    "kept": "attempts on this raw set where this project's ledger, store and git history do not look: on another "
    "machine, or in another store",
    "new": "attempts on this raw set before this ensemble that neither the store nor git knew, on this machine or "
    "another: the project's ledger of attempts began with it",
}
"""What a certificate cannot know. The key says whether there was a ledger before its ensemble."""


@dataclass(frozen=True)
class Standing:
    """Which attempt an ensemble is, 0 the first, and whether the project's ledger was there before it."""

    attempt: int
    ledger: Past


def standing(store: Store | None, plan: Plan, entropy: Entropy | None = None) -> Standing:
    """The standing of an ensemble of this plan and entropy if it were planned now. store: None if there is none yet.

    The same plan with the same (fixed) entropy makes the same votes, so it keeps its attempt number. InputError if
    the earlier ensembles declared another way to share alpha.
    """
    own = (plan.digest, entropy.commitment) if entropy else None
    lines = read_lines(plan)
    others = [one for one in _known(store, plan, lines) if one.key != own]
    for other in others:
        if other.ensembles not in (None, plan.ensembles):
            raise InputError(
                f"param smooth.ensembles={plan.ensembles}: an earlier ensemble on this raw set was planned with "
                f"{other.ensembles}, and all of them must share alpha equally; set it to {other.ensembles}"
            )
    recorded = _own_line(lines, own)
    return Standing(recorded.attempt, recorded.ledger) if recorded else Standing(len(others), past())


def attempt_of(store: Store | None, plan: Plan) -> int:
    """Which attempt the plan's ensemble is, or would be if it were planned now; 0 is the first."""
    begun = store and find_runs(
        store, f"tags.`{TAG}plan` = '{plan.digest}' and tags.`{TAG}kind` = 'ensemble' and tags.`{TAG}planned` = 'true'"
    )
    return int(begun[0].data.params["attempt"]) if begun else standing(store, plan).attempt


def least_attempt(store: Store, plan: Plan, commitment: str) -> int:
    """The lowest attempt number that a planned ensemble can have, given the order of the store and the ledger."""
    keys = list(dict.fromkeys(one.key for one in _in_store(store, plan)))
    own = (plan.digest, commitment)
    recorded = _own_line(read_lines(plan), own)
    return max(keys.index(own) if own in keys else 0, recorded.attempt if recorded else 0)


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
