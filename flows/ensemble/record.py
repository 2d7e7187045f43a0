"""The record of an ensemble in its MLflow run: written once, read back exactly."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from mlflow.entities import Run
from numpy.typing import NDArray

from cleanlabel.flows.artifacts import PLAN_ARTIFACT
from cleanlabel.flows.ensemble.attempts import Standing, check_standing
from cleanlabel.flows.ensemble.ledger import Past
from cleanlabel.flows.store.client import TAG, Store, log_files, read_json
from cleanlabel.models.plan import Plan, attempts_before, plan_from_dict
from cleanlabel.models.votes import NOBODY, merkle_root, votes_hash
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.files import replacing, write_json

Votes = dict[int, NDArray[np.int64]]
"""The votes of each finished draw, `votes_shape` each."""
LATER_PARAMS = ("raw_content", "ensembles", "ledger", "earlier_raw_sets", "instrument_digest", "twin_digest")
"""Params that an ensemble's run has only if its plan sets them."""


@dataclass(frozen=True)
class Ensemble:
    """A planned ensemble: its parent run, its plan, the number of attempts before it, and the entropy's commitment."""

    run_id: str
    plan: Plan
    attempts_before: int
    commitment: str
    entropy_source: str
    ledger: Past | None = None
    """What the project's ledger of attempts was before it. None: it was planned before ledgers were kept."""
    earlier_raw_sets: dict[str, Any] | None = None
    """What earlier raw sets share with its own (`flows.ensemble.earlier_sets`). None: it was planned before that was
    recorded, and its record counts attempts from 0."""
    stopped: int | None = None
    """The planned look at which it stopped. None: it is unfinished, or has all its models."""

    @property
    def m(self) -> int:
        """The number of models in its certificate: draws 0..m-1."""
        return self.stopped or self.plan.m

    @property
    def draws(self) -> int:
        """The number of all draws: m, and those that only choose the class."""
        return self.m + self.plan.selection


def describe(ensemble: Ensemble) -> dict[str, Any]:
    """The recorded form of the plan, with what was known of earlier attempts and the entropy's commitment."""
    before, earlier = ensemble.attempts_before, ensemble.earlier_raw_sets
    return {
        **ensemble.plan.as_dict(),
        **({"attempt": before} if earlier is None else {"attempts_before": before, "earlier_raw_sets": earlier}),
        "entropy_commitment": ensemble.commitment,
        "entropy_source": ensemble.entropy_source,
        **({"ledger": ensemble.ledger} if ensemble.ledger else {}),
    }


def read_ensemble(store: Store, run: Run) -> Ensemble:
    """The ensemble of a parent run. InputError if its plan, its tags or its params are not what was recorded."""
    run_id = run.info.run_id
    content = read_json(store, run_id, PLAN_ARTIFACT)
    try:
        plan = plan_from_dict(content)
        said = (content[key] for key in ("entropy_commitment", "entropy_source"))
        stands = Standing(attempts_before(content), content.get("ledger"), content.get("earlier_raw_sets"))
        ensemble = Ensemble(run_id, plan, stands.attempts_before, *said, stands.ledger, stands.earlier_raw_sets)
    except (KeyError, TypeError) as error:
        raise InputError(f"the plan of ensemble run {run_id} is incomplete ({error}); it cannot be used") from error
    if plan.digest != run.data.tags.get(f"{TAG}plan") or plan.digest != content.get("plan_digest"):
        raise InputError(f"the plan of ensemble run {run_id} was changed after it was recorded; it cannot be used")
    check_labels(run, ensemble_tags(ensemble), ensemble_params(ensemble))
    ensemble = replace(ensemble, stopped=_stopped_at(run, plan))
    check_standing(store, plan, ensemble.commitment, stands, run_id)
    return ensemble


def stop_at(store: Store, ensemble: Ensemble, t: int) -> Ensemble:
    """The ensemble, stopped at its look at draws 0..t-1. The stop is recorded: it is never continued."""
    store.client.set_tag(ensemble.run_id, f"{TAG}stopped", str(t))
    return replace(ensemble, stopped=t)


def _stopped_at(run: Run, plan: Plan) -> int | None:
    tag = run.data.tags.get(f"{TAG}stopped")
    if tag is None:
        return None
    if plan.stopping == "none" or tag not in map(str, plan.looks):
        raise InputError(f"ensemble run {run.info.run_id} stopped at {tag!r} draws, where no look was planned")
    return int(tag)


def ensemble_tags(ensemble: Ensemble) -> dict[str, str]:
    """The tags of the parent run, without the project's prefix."""
    plan = ensemble.plan
    return {
        "kind": "ensemble",
        "plan": plan.digest,
        "family": plan.family,
        "entropy_source": ensemble.entropy_source,
        "sigma": f"{plan.sigma:g}",
        "certifiable": str(plan.certifiable).lower(),
        "stopping": plan.stopping,
    }


def ensemble_params(ensemble: Ensemble) -> dict[str, Any]:
    """The params of the parent run: the plan's fields and the recipe."""
    description = describe(ensemble)
    description["attempt"] = attempt_in_labels(description)
    if ensemble.earlier_raw_sets:
        description["earlier_raw_sets"] = json.dumps(ensemble.earlier_raw_sets, sort_keys=True)
    named: tuple[str, ...] = (
        *("m", "selection", "sigma", "test_sigma", "alpha", "method", "simultaneous", "stopping", "attempt"),
        *("entropy_commitment", "entropy_source", "raw_digest", "test_digest", "denoiser_digest", "denoiser_state"),
        *("initial_digest", "initial_state", "recipe_digest", "code_digest", "certifiable"),
    )
    if ensemble.plan.partitions > 1:
        named += ("partitions", "partition_rule")
    named += tuple(key for key in LATER_PARAMS if key in description)
    recipe = {f"recipe.{key}": value for key, value in ensemble.plan.recipe.items()}
    return {key: description[key] for key in named} | recipe


def attempt_in_labels(record: dict[str, Any]) -> int:
    """An ensemble's attempt in tags and params: 1 is the first. Runs whose record counts from 0 have that number."""
    return attempts_before(record) + ("attempts_before" in record)


def version_tags(ensemble: Ensemble, votes_root: str) -> dict[str, str]:
    """The tags that a registered version has from the start."""
    own, plan = ensemble_tags(ensemble), ensemble.plan
    kept = {key: own[key] for key in ("plan", "entropy_source", "sigma", "certifiable", "stopping")}
    if plan.partitions > 1:
        kept["partitions"] = str(plan.partitions)
    return kept | {"m": str(ensemble.m), "method": plan.method, "votes_root": votes_root}


def draw_tags(plan: Plan, draw: int) -> dict[str, str]:
    """The tags that a child run has from the start."""
    return {"kind": "draw", "draw": str(draw), "plan": plan.digest, "sigma": f"{plan.sigma:g}"}


def draw_params(plan: Plan, draw: int) -> dict[str, Any]:
    """The params of a child run."""
    return {"draw": draw, "sigma": plan.sigma, "recipe_digest": plan.recipe_digest, "m": plan.m}


def network_file(draw: int) -> str:
    """The file name of a draw's network among the ensemble's artifacts."""
    return f"draw-{draw:05d}.safetensors"


def check_labels(run: Run, tags: dict[str, str], params: dict[str, Any]) -> None:
    """InputError names the first tag or param of a run that differs from the given ones."""
    found = [("tag", f"{TAG}{key}", run.data.tags.get(f"{TAG}{key}"), value) for key, value in tags.items()]
    found += [("param", key, run.data.params.get(key), str(value)) for key, value in params.items()]
    for kind, key, says, planned in found:
        if says != planned:
            raise InputError(
                f"run {run.info.run_id} has the {kind} {key}={says!r} where its plan says {planned!r}; "
                "it was edited, so the run cannot be trusted"
            )


def root_of(votes: Votes, draws: int) -> str:
    """The Merkle root over (draw, votes hash) of all planned draws."""
    return merkle_root({draw: votes_hash(row) for draw, row in votes.items()}, draws)


def save_ensemble(store: Store, ensemble: Ensemble, votes: Votes, directory: Path) -> Any:
    """Write the files of the ensemble that DVC tracks and attach them to its run: the plan, its votes, their root.

    A missing draw's row is all -1. The files do not depend on when or where they were made.
    """
    draws = ensemble.draws
    matrix = np.full((draws, *ensemble.plan.votes_shape), NOBODY, dtype="<i8")
    for draw, row in votes.items():
        matrix[draw] = row
    content = {
        **describe(ensemble),
        "stopped_at": ensemble.stopped,
        "missing_draws": [draw for draw in range(draws) if draw not in votes],
        "votes_sha256": [votes_hash(votes[draw]) if draw in votes else None for draw in range(draws)],
        "votes_root": root_of(votes, draws),
    }
    with replacing(directory) as scratch:
        scratch.mkdir()
        np.save(scratch / "votes.npy", matrix, allow_pickle=False)
        write_json(scratch / "ensemble.json", content)
        files = {f"ensemble/{path.name}": path.read_bytes() for path in sorted(scratch.iterdir())}
    log_files(store, ensemble.run_id, files)
    return content
