"""An ensemble in the store: planned before its draws are made, resumed where it stopped, read back exactly."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mlflow.entities import Run
from numpy.typing import NDArray

from flows.environment import STATE
from flows.store import TAG, Store, create_run, find_runs, finish, log_files, read_file, read_json
from models.plan import Plan, plan_from_dict
from models.votes import merkle_root, votes_from_bytes, votes_hash
from sanitize.errors import InputError
from sanitize.files import replacing, write_json
from sanitize.noise import Entropy, draw_entropy

Votes = dict[int, NDArray[np.int64]]
"""The votes (n_test,) of each finished draw."""


@dataclass(frozen=True)
class Ensemble:
    """A planned ensemble: its parent run, its plan, which attempt it is, and the entropy's commitment."""

    run_id: str
    plan: Plan
    attempt: int
    commitment: str
    entropy_source: str


def open_ensemble(store: Store, plan: Plan) -> Ensemble:
    """The ensemble of this plan: the one that was begun, or a new one with new entropy.

    A plan has one ensemble: a finished one is returned as it is, never made anew. Earlier ensembles of the same
    family (raw set, denoiser, recipe, sigma) make this one a further attempt.
    """
    for run in find_runs(store, f"tags.`{TAG}plan` = '{plan.digest}' and tags.`{TAG}kind` = 'ensemble'"):
        if f"{TAG}planned" in run.data.tags:
            return read_ensemble(store, run)
        finish(store, run.info.run_id, "KILLED")  # died before its plan was recorded
    return _plan_ensemble(store, plan)


def _plan_ensemble(store: Store, plan: Plan) -> Ensemble:
    """Record a new ensemble's plan and entropy. InputError if it could never certify anything."""
    family = f"tags.`{TAG}family` = '{plan.family}' and tags.`{TAG}planned` = 'true'"
    attempt = len(find_runs(store, family, deleted=True))  # deleting an ensemble does not undo having looked at it
    least = plan.least_m(attempt)
    if plan.m < least:
        again = f", attempt {attempt + 1} on this raw set, recipe and sigma," if attempt else ""
        raise InputError(
            f"param smooth.m={plan.m}: even if all agreed, fewer than {least} models{again} certify nothing at "
            f"alpha={plan.level(attempt):.3g}; raise smooth.m to at least {least}"
        )
    entropy = draw_entropy(plan.entropy_spec)  # the raw set's digest stands in the plan: it is fixed
    keep_entropy(entropy)
    description = {
        **plan.as_dict(),
        "attempt": attempt,
        "entropy_commitment": entropy.commitment,
        "entropy_source": entropy.source,
    }
    run_id = create_run(
        store,
        f"ensemble m={plan.m} sigma={plan.sigma:g}{'' if plan.denoiser_digest else ' noise-only'}",
        {"kind": "ensemble", "plan": plan.digest, "family": plan.family, "entropy_source": entropy.source},
        {
            key: description[key]
            for key in (
                *("m", "sigma", "alpha", "method", "simultaneous", "attempt", "entropy_commitment", "entropy_source"),
                *("raw_digest", "test_digest", "denoiser_digest", "denoiser_state", "recipe_digest"),
            )
        }
        | {f"recipe.{key}": value for key, value in plan.recipe.items()},
    )
    store.client.log_dict(run_id, description, "ensemble/plan.json")
    store.client.set_tag(run_id, f"{TAG}planned", "true")
    return Ensemble(run_id, plan, attempt, entropy.commitment, entropy.source)


def read_ensemble(store: Store, run: Run) -> Ensemble:
    """The ensemble of a parent run. InputError if its plan is not the one its tag names."""
    run_id = run.info.run_id
    content = read_json(store, run_id, "ensemble/plan.json")
    try:
        plan = plan_from_dict(content)
        attempt, commitment, source = (content[k] for k in ("attempt", "entropy_commitment", "entropy_source"))
    except (KeyError, TypeError) as error:
        raise InputError(f"the plan of ensemble run {run_id} is incomplete ({error}); it cannot be used") from error
    if plan.digest != run.data.tags.get(f"{TAG}plan") or plan.digest != content.get("plan_digest"):
        raise InputError(f"the plan of ensemble run {run_id} was changed after it was recorded; it cannot be used")
    return Ensemble(run_id, plan, attempt, commitment, source)


def find_draws(store: Store, ensemble: Ensemble) -> tuple[dict[int, Run], list[Run]]:
    """(finished draws by number, runs that never finished). InputError names runs that claim one draw twice."""
    finished: dict[int, Run] = {}
    unfinished = []
    for run in find_runs(store, f"tags.mlflow.parentRunId = '{ensemble.run_id}'"):
        if run.info.status != "FINISHED":
            unfinished.append(run)
            continue
        draw = draw_number(run)
        if draw in finished:
            raise InputError(
                f"runs {finished[draw].info.run_id} and {run.info.run_id} both claim draw {draw}; "
                "a draw counts once, so delete the one that does not belong"
            )
        if not 0 <= draw < ensemble.plan.m:
            raise InputError(f"run {run.info.run_id} claims draw {draw}; the plan has draws 0..{ensemble.plan.m - 1}")
        finished[draw] = run
    return finished, unfinished


def draw_number(run: Run) -> int:
    """The draw a child run claims to be. InputError if it claims none."""
    claimed = run.data.tags.get(f"{TAG}draw", "")
    if not claimed.isdecimal():
        raise InputError(f"run {run.info.run_id} has the draw number {claimed!r}; it is no member of the ensemble")
    return int(claimed)


def read_votes(store: Store, ensemble: Ensemble) -> Votes:
    """The votes of every finished draw, each as its run recorded them.

    InputError names the run whose votes do not match their recorded hash, or which belongs to another plan.
    """
    votes = {}
    for draw, run in find_draws(store, ensemble)[0].items():
        tags, run_id = run.data.tags, run.info.run_id
        if tags.get(f"{TAG}plan") != ensemble.plan.digest:
            raise InputError(f"run {run_id} (draw {draw}) was made by another plan; it is no member of the ensemble")
        row = votes_from_bytes(read_file(store, run_id, "votes.npy"), f"run {run_id}")
        if votes_hash(row) != tags.get(f"{TAG}votes_sha256"):
            raise InputError(f"the votes of run {run_id} (draw {draw}) do not match the hash it recorded")
        votes[draw] = row
    return votes


def root_of(votes: Votes, m: int) -> str:
    """The Merkle root over (draw, votes hash) of all planned draws."""
    return merkle_root({draw: votes_hash(row) for draw, row in votes.items()}, m)


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
    path = STATE / "locks" / plan.digest
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
    """Write the ensemble as DVC tracks it and attach it to its run: the plan, the votes (m, n_test), their root.

    A missing draw's row is all -1. Nothing in the files says when or where they were made.
    """
    plan = ensemble.plan
    matrix = np.full((plan.m, plan.n_test), -1, dtype="<i8")
    for draw, row in votes.items():
        matrix[draw] = row
    content = {
        **plan.as_dict(),
        "attempt": ensemble.attempt,
        "entropy_commitment": ensemble.commitment,
        "entropy_source": ensemble.entropy_source,
        "missing_draws": [draw for draw in range(plan.m) if draw not in votes],
        "votes_root": root_of(votes, plan.m),
    }
    with replacing(directory) as scratch:
        scratch.mkdir()
        np.save(scratch / "votes.npy", matrix, allow_pickle=False)
        write_json(scratch / "ensemble.json", content)
        files = {f"ensemble/{path.name}": path.read_bytes() for path in sorted(scratch.iterdir())}
    log_files(store, ensemble.run_id, files)
    return content


def _entropy_file(commitment: str) -> Path:
    return STATE / "entropy" / commitment
