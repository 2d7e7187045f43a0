"""Flow `smooth`: the ensemble. m draws, each sanitized anew, trained and asked for its votes.

    python -m flows.smooth

The plan is recorded before the first draw. Killed at any point, the same command trains the missing draws only.
"""

import json
import os
from functools import cache
from pathlib import Path

import numpy as np
import torch
from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture, as_completed
from prefect.states import Failed, State
from prefect.task_runners import ProcessPoolTaskRunner
from tqdm import tqdm

from flows.ensemble import (
    Ensemble,
    find_draws,
    only_one,
    open_ensemble,
    read_ensemble,
    read_votes,
    recall_entropy,
    save_ensemble,
)
from flows.server import end_with, prefect_server
from flows.store import (
    SMOOTHED,
    Store,
    answering,
    connect,
    create_run,
    finish,
    log_files,
    log_metrics,
    register,
)
from models.draw import make_draw
from models.params import CertifyParams, SmoothParams, TrainParams, least_m
from models.plan import Plan, code_digest, recipe_of
from models.votes import votes_hash, votes_to_bytes
from models.weights import save_weights
from sanitize import errors
from sanitize.denoiser import PROVENANCE, Denoiser, load_denoiser
from sanitize.errors import InputError
from sanitize.imageset import ImageSet, load, require_trainable
from sanitize.params import SanitizeParams, read_params
from sanitize.paths import DENOISER, ENSEMBLE, SETS
from sanitize.sanitizer import check


def make_plan() -> Plan:
    """The plan that params.yaml and the data under data/ ask for. InputError if it could never certify anything."""
    recipe = read_params("train", TrainParams)
    smooth_params, certify_params = read_params("smooth", SmoothParams), read_params("certify", CertifyParams)
    sanitize_params = read_params("sanitize", SanitizeParams)
    raw, test = load(SETS["raw"]), load(SETS["test"])
    require_trainable(raw, "raw")
    if not len(test):
        raise InputError("the test set has no images; there is nothing to certify")
    denoiser = load_denoiser(DENOISER) if sanitize_params.denoise else None
    check(raw, sanitize_params.sigma, denoiser)
    least = least_m(certify_params, len(test), 0, len(raw.classes))
    if smooth_params.m < least:
        raise InputError(
            f"param smooth.m={smooth_params.m}: even if all agreed, fewer than {least} models certify nothing at "
            f"alpha={certify_params.alpha:g}; raise smooth.m to at least {least}"
        )
    return Plan(
        m=smooth_params.m,
        sigma=sanitize_params.sigma,
        raw_digest=raw.digest,
        test_digest=test.digest,
        denoiser_digest=denoiser.digest if denoiser else None,
        denoiser_state=denoiser_state() if denoiser else None,
        recipe=recipe_of(recipe),
        classes=len(raw.classes),
        n_test=len(test),
        alpha=certify_params.alpha,
        method=certify_params.method,
        simultaneous=certify_params.simultaneous,
        entropy_spec=sanitize_params.entropy,
        code_digest=code_digest(),
    )


def denoiser_state() -> str:
    """What the pipeline's denoiser saw: `disjoint` or `fixed-before` (design rule 11)."""
    return str(json.loads((DENOISER / PROVENANCE).read_text())["state"])


@cache
def _inputs(*, denoise: bool) -> tuple[ImageSet, ImageSet, Denoiser | None]:
    """What every draw of a worker needs, read once a process."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return load(SETS["raw"]), load(SETS["test"]), load_denoiser(DENOISER, device) if denoise else None


def train_one(store: Store, ensemble: Ensemble, draw: int) -> None:
    """Make one draw and record it as a child run: params, metrics, votes, weights, hashes. Finished comes last."""
    plan = ensemble.plan
    raw, test, denoiser = _inputs(denoise=plan.denoiser_digest is not None)
    recipe = TrainParams.model_validate(plan.recipe)
    entropy = recall_entropy(ensemble)
    run_id = create_run(
        store,
        f"draw {draw}",
        {"kind": "draw", "draw": str(draw), "plan": plan.digest},
        {"draw": draw, "sigma": plan.sigma, "recipe_digest": plan.recipe_digest, "m": plan.m},
        parent_id=ensemble.run_id,
    )
    try:
        made = make_draw(raw, test, plan.sigma, denoiser, recipe, entropy.value, draw)
        weights = Path(".state") / "weights" / f"{run_id}.safetensors"
        save_weights(made.model, weights, recipe.architecture, raw.image_shape, plan.classes, recipe.width)
        log_files(
            store,
            run_id,
            {"votes.npy": votes_to_bytes(made.votes), "weights.safetensors": weights.read_bytes()},
        )
        weights.unlink()
        log_metrics(
            store,
            run_id,
            {
                "test_accuracy": float(np.mean(made.votes == test.labels)),
                "sanitize_seconds": made.sanitize_seconds,
                "train_seconds": made.train_seconds,
            },
            {"votes_sha256": votes_hash(made.votes)},
        )
    except BaseException:
        finish(store, run_id, "FAILED")
        raise
    finish(store, run_id)


@task(name="train-draws", task_run_name="draws {draws}", cache_policy=NO_CACHE, persist_result=False)
def train_draws(run_id: str, draws: list[int]) -> int:
    """Train a batch of draws in this worker; how many were made."""
    torch.set_num_threads(int(os.environ.get("CLEANLABEL_THREADS", "1")))
    store = connect()
    ensemble = read_ensemble(store, store.client.get_run(run_id))
    for draw in draws:
        train_one(store, ensemble, draw)
    return len(draws)


@flow(name="smooth", persist_result=False)
def smooth(run_id: str, draws: list[int], m: int, batch_of_draws: int) -> State | int:
    """Train the given draws of a planned ensemble on this machine's process pool, with progress."""
    batches = [draws[i : i + batch_of_draws] for i in range(0, len(draws), batch_of_draws)]
    futures = [train_draws.submit(run_id, batch) for batch in batches]
    made, failures = 0, []
    with tqdm(total=m, initial=m - len(draws), desc="smooth", unit="model", mininterval=1) as bar:
        for future in as_completed(futures):
            done = _outcome(future)
            if isinstance(done, BaseException):
                failures.append(done)
            else:
                made += done
                bar.update(done)
    if failures:
        return Failed(message=f"{len(failures)} of {len(batches)} batches failed, the first with: {failures[0]}")
    return made


def _outcome(future: PrefectFuture[int]) -> int | BaseException:
    result = future.result(raise_on_failure=False)
    return result if isinstance(result, int | BaseException) else RuntimeError(str(result))


def workers() -> int:
    """How many processes train at once: CLEANLABEL_WORKERS, or one a core."""
    asked = os.environ.get("CLEANLABEL_WORKERS", "")
    if asked and not (asked.isdecimal() and int(asked) > 0):
        raise InputError(f"CLEANLABEL_WORKERS={asked!r} is no number of processes; give 1 or more")
    return int(asked) if asked else len(os.sched_getaffinity(0))


def main() -> None:
    plan = make_plan()
    params = read_params("smooth", SmoothParams)
    with only_one(plan), answering():
        store = connect()
        ensemble = open_ensemble(store, plan)
        finished, unfinished = find_draws(store, ensemble)
        for run in unfinished:
            if run.info.status in ("RUNNING", "SCHEDULED"):
                finish(store, run.info.run_id, "KILLED")
        missing = [draw for draw in range(plan.m) if draw not in finished]
        if missing:
            if finished:
                print(f"{len(finished)} of {plan.m} draws are done; training the other {len(missing)}")
            runner = ProcessPoolTaskRunner(workers(), initializer=end_with, initargs=(os.getpid(),))
            with prefect_server():
                state = smooth.with_options(task_runner=runner)(
                    ensemble.run_id, missing, plan.m, params.batch_of_draws, return_state=True
                )
            if not state.is_completed():
                raise InputError(f"{state.message}; mend that and run again: finished draws are kept")
        votes = read_votes(store, ensemble)
        content = save_ensemble(store, ensemble, votes, ENSEMBLE)
        finish(store, ensemble.run_id)
        version = register(
            store,
            SMOOTHED,
            ensemble.run_id,
            "ensemble",
            {"plan": plan.digest, "votes_root": content["votes_root"], "entropy_source": ensemble.entropy_source},
            f"{plan.m} smoothed models at sigma {plan.sigma:g}; not certified yet.",
        )
    print(f"{ENSEMBLE}: {len(votes)} of {plan.m} draws voted; {SMOOTHED} version {version}")


if __name__ == "__main__":
    errors.run(main)
