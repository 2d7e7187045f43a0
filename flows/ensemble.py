"""An ensemble in the store: planned before its draws are made, resumed where it stopped, read back exactly."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from mlflow.entities import Run
from numpy.typing import NDArray

from cleanlabel.flows.attempts import least_attempt, standing
from cleanlabel.flows.environment import state
from cleanlabel.flows.ledger import Line, Past, only_planner, write_line
from cleanlabel.flows.reach import require_reach
from cleanlabel.flows.store import TAG, Store, create_run, find_runs, finish, log_files, log_inputs, read_json
from cleanlabel.models.plan import Plan, plan_from_dict
from cleanlabel.models.votes import NOBODY, merkle_root, votes_hash
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.files import replacing, write_json
from cleanlabel.sanitize.noise import Entropy, draw_entropy

Votes = dict[int, NDArray[np.int64]]
"""The votes of each finished draw, `votes_shape` each."""

CERTIFICATE_ARTIFACT = "ensemble/certificate/certificate.json"
LATER_PARAMS = ("raw_content", "ensembles", "ledger", "instrument_digest", "twin_digest")
"""Params that the run of an ensemble has where its plan says something of them."""
NETWORKS = "ensemble/data/networks"
"""Where the ensemble's run keeps the draws' networks: where MLflow looks for a pyfunc's data."""


@dataclass(frozen=True)
class Ensemble:
    """A planned ensemble: its parent run, its plan, which attempt it is, and the entropy's commitment."""

    run_id: str
    plan: Plan
    attempt: int
    commitment: str
    entropy_source: str
    ledger: Past | None = None
    """Whether the project's ledger of attempts was there before it; None: it was planned before there were ledgers."""
    stopped: int | None = None
    """The planned look at which it stopped; None: it goes on, or has all its models."""

    @property
    def m(self) -> int:
        """The models its certificate is about: draws 0..m-1."""
        return self.stopped or self.plan.m

    @property
    def draws(self) -> int:
        """All of its draws: those, and the ones that only choose the class."""
        return self.m + self.plan.selection


def open_ensemble(store: Store, plan: Plan, asked: float = -1.0) -> Ensemble:
    """The ensemble of this plan: the one that was begun, or a new one with new entropy.

    asked: the largest radius that the gate asks for; a new ensemble that could never certify it is refused.

    A plan has one ensemble: a finished one is returned as it is, never made anew. Earlier ensembles on the same raw set
    make this one a further attempt (`flows.attempts`).
    """
    for run in find_runs(store, f"tags.`{TAG}plan` = '{plan.digest}' and tags.`{TAG}kind` = 'ensemble'"):
        if f"{TAG}planned" in run.data.tags:
            return read_ensemble(store, run)
        finish(store, run.info.run_id, "KILLED")  # died before its plan was recorded
    with only_planner(plan):  # until it stands in the store, so that ledger and store have one order
        return _plan_ensemble(store, plan, asked)


def _plan_ensemble(store: Store, plan: Plan, asked: float) -> Ensemble:
    """Record a new ensemble's plan and entropy, in the ledger first: one that is then lost was an attempt all the same.

    InputError if it could never certify anything; then it was none.
    """
    entropy = draw_entropy(plan.entropy_spec)  # the raw set's digest stands in the plan: it is fixed
    stands = standing(store, plan, entropy)
    attempt = stands.attempt
    least = plan.least_m(attempt)
    if plan.certifiable and plan.m < least:
        again = f", attempt {attempt + 1} on this raw set," if attempt else ""
        raise InputError(
            f"param smooth.m={plan.m}: even if all agreed, fewer than {least} models{again} certify nothing at "
            f"alpha={plan.level_at(plan.m, attempt) / plan.partitions:.3g}; raise smooth.m to at least {least}"
        )
    require_reach(plan, attempt, asked)
    keep_entropy(entropy)
    ensemble = Ensemble("", plan, attempt, entropy.commitment, entropy.source, stands.ledger)
    write_line(plan, Line(plan.digest, entropy.commitment, plan.ensembles, attempt, stands.ledger))
    most = "at most " if plan.stopping != "none" else ""
    run_id = create_run(
        store,
        f"ensemble {most}m={plan.m} sigma={plan.sigma:g}{'' if plan.denoiser_digest else ' noise-only'}",
        _ensemble_tags(ensemble),
        _ensemble_params(ensemble),
    )
    store.client.log_dict(run_id, describe(ensemble), "ensemble/plan.json")
    if plan.instrument_digest:
        from cleanlabel.flows.instrument import keep_with_run  # imported late: it needs torch

        log_files(store, run_id, keep_with_run(plan.instrument_digest))
    log_inputs(store, run_id, _datasets(plan))
    store.client.set_tag(run_id, f"{TAG}planned", "true")
    return replace(ensemble, run_id=run_id)


def describe(ensemble: Ensemble) -> dict[str, Any]:
    """The plan as it is recorded, with the attempt and the entropy's commitment."""
    return {
        **ensemble.plan.as_dict(),
        "attempt": ensemble.attempt,
        "entropy_commitment": ensemble.commitment,
        "entropy_source": ensemble.entropy_source,
        **({"ledger": ensemble.ledger} if ensemble.ledger else {}),
    }


def read_ensemble(store: Store, run: Run) -> Ensemble:
    """The ensemble of a parent run. InputError if its plan, its tags or its params are not what was recorded."""
    run_id = run.info.run_id
    content = read_json(store, run_id, "ensemble/plan.json")
    try:
        plan = plan_from_dict(content)
        said = (content[key] for key in ("attempt", "entropy_commitment", "entropy_source"))
        ensemble = Ensemble(run_id, plan, *said, content.get("ledger"))
    except (KeyError, TypeError) as error:
        raise InputError(f"the plan of ensemble run {run_id} is incomplete ({error}); it cannot be used") from error
    if plan.digest != run.data.tags.get(f"{TAG}plan") or plan.digest != content.get("plan_digest"):
        raise InputError(f"the plan of ensemble run {run_id} was changed after it was recorded; it cannot be used")
    check_labels(run, _ensemble_tags(ensemble), _ensemble_params(ensemble))
    ensemble = replace(ensemble, stopped=_stopped_at(run, plan))
    earlier = least_attempt(store, plan, ensemble.commitment)
    if ensemble.attempt < earlier:
        raise InputError(
            f"ensemble run {run_id} calls itself attempt {ensemble.attempt + 1} on its raw set, but {earlier} were "
            "planned before it; it cannot be certified at the level it claims"
        )
    return ensemble


def stop_at(store: Store, ensemble: Ensemble, t: int) -> Ensemble:
    """The ensemble ended at its look at draws 0..t-1, and recorded as such: it is never continued."""
    store.client.set_tag(ensemble.run_id, f"{TAG}stopped", str(t))
    return replace(ensemble, stopped=t)


def _stopped_at(run: Run, plan: Plan) -> int | None:
    tag = run.data.tags.get(f"{TAG}stopped")
    if tag is None:
        return None
    if plan.stopping == "none" or tag not in map(str, plan.looks):
        raise InputError(f"ensemble run {run.info.run_id} stopped at {tag!r} draws, where no look was planned")
    return int(tag)


def _datasets(plan: Plan) -> dict[str, str]:
    found = {"raw": plan.raw_digest, "test": plan.test_digest, "denoiser": plan.denoiser_digest}
    return {name: digest for name, digest in found.items() if digest}


def _ensemble_tags(ensemble: Ensemble) -> dict[str, str]:
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


def _ensemble_params(ensemble: Ensemble) -> dict[str, Any]:
    description = describe(ensemble)
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


def version_tags(ensemble: Ensemble, votes_root: str) -> dict[str, str]:
    """What the registered version says of its ensemble from the beginning."""
    own, plan = _ensemble_tags(ensemble), ensemble.plan
    kept = {key: own[key] for key in ("plan", "entropy_source", "sigma", "certifiable", "stopping")}
    if plan.partitions > 1:
        kept["partitions"] = str(plan.partitions)
    return kept | {"m": str(ensemble.m), "method": plan.method, "votes_root": votes_root}


def draw_tags(plan: Plan, draw: int) -> dict[str, str]:
    """What a child run says of itself from the beginning."""
    return {"kind": "draw", "draw": str(draw), "plan": plan.digest, "sigma": f"{plan.sigma:g}"}


def draw_params(plan: Plan, draw: int) -> dict[str, Any]:
    """A child run's params."""
    return {"draw": draw, "sigma": plan.sigma, "recipe_digest": plan.recipe_digest, "m": plan.m}


def network_file(draw: int) -> str:
    """The name of a draw's network among the ensemble's."""
    return f"draw-{draw:05d}.safetensors"


def check_labels(run: Run, tags: dict[str, str], params: dict[str, Any]) -> None:
    """InputError names the first tag or param of a run that does not say what the plan says."""
    found = [("tag", f"{TAG}{key}", run.data.tags.get(f"{TAG}{key}"), value) for key, value in tags.items()]
    found += [("param", key, run.data.params.get(key), str(value)) for key, value in params.items()]
    for kind, key, says, planned in found:
        if says != planned:
            raise InputError(
                f"run {run.info.run_id} has the {kind} {key}={says!r} where its plan says {planned!r}; "
                "it was edited, so the run cannot be believed"
            )


def root_of(votes: Votes, draws: int) -> str:
    """The Merkle root over (draw, votes hash) of all planned draws."""
    return merkle_root({draw: votes_hash(row) for draw, row in votes.items()}, draws)


def keep_entropy(entropy: Entropy) -> None:
    """Keep the value on this machine, readable by its owner, until the certificate reveals it."""
    path = _entropy_file(entropy.commitment)
    with replacing(path) as scratch:
        scratch.touch(mode=0o600)
        scratch.write_text(f"{entropy.source}:{entropy.hex}\n")


def recall_entropy(ensemble: Ensemble) -> Entropy:
    """The entropy behind an ensemble's commitment. InputError if this machine does not have it."""
    path = _entropy_file(ensemble.commitment)
    if not path.is_file():
        raise InputError(
            f"{path} does not exist: the entropy of ensemble run {ensemble.run_id} was drawn on another machine; "
            "go on there, or copy that file here"
        )
    source, _, digits = path.read_text().strip().partition(":")
    entropy = Entropy(bytes.fromhex(digits), "fixed" if source == "fixed" else "os")
    if entropy.commitment != ensemble.commitment:
        raise InputError(f"{path} does not hold the entropy it is named after; restore it")
    return entropy


@contextmanager
def only_one(plan: Plan) -> Iterator[None]:
    """Hold the plan's lock on this machine. InputError if another process works on the same ensemble."""
    path = state() / "locks" / plan.digest
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            stream.seek(0)
            raise InputError(
                f"process {stream.read().strip()} is working on this ensemble already; wait for it, or stop it"
            ) from error
        stream.truncate(0)
        stream.write(str(os.getpid()))
        stream.flush()
        yield


def save_ensemble(store: Store, ensemble: Ensemble, votes: Votes, directory: Path) -> Any:
    """Write the ensemble as DVC tracks it and attach it to its run: the plan, its votes, their root.

    A missing draw's row is all -1. Nothing in the files says when or where they were made.
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


def reveal_entropy(store: Store, ensemble: Ensemble) -> Entropy:
    """The entropy of an ensemble whose draws are made: this machine's, or what its certificate revealed."""
    if _entropy_file(ensemble.commitment).is_file():
        return recall_entropy(ensemble)
    try:
        revealed = read_json(store, ensemble.run_id, CERTIFICATE_ARTIFACT).get("entropy", "")
        entropy = Entropy(bytes.fromhex(revealed), "fixed" if ensemble.entropy_source == "fixed" else "os")
    except (InputError, TypeError, ValueError):
        return recall_entropy(ensemble)  # says that it is not here
    return entropy if entropy.commitment == ensemble.commitment else recall_entropy(ensemble)


def _entropy_file(commitment: str) -> Path:
    return state() / "entropy" / commitment
