"""Flow `smooth`: the ensemble. m draws, each sanitized anew, trained and asked for its votes.

    python -m flows.smooth

The plan is recorded before the first draw. Killed at any point, the same command trains the missing draws only.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np
from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture, as_completed
from prefect.states import Failed, State
from prefect.task_runners import ProcessPoolTaskRunner
from tqdm import tqdm

from flows.assembly import assemble, find_draws
from flows.ensemble import only_one, open_ensemble, save_ensemble, version_tags
from flows.package import package
from flows.server import end_with, prefect_server
from flows.store import (
    SMOOTHED,
    answering,
    connect,
    finish,
    register,
)
from models.params import CertifyParams, SmoothParams, TrainParams
from models.plan import Plan, code_digest, recipe_of
from sanitize import errors
from sanitize.denoiser_files import PROVENANCE, Facts, digest_of, layout, read_config
from sanitize.errors import InputError
from sanitize.files import file_digest
from sanitize.fitting import fitting_for
from sanitize.imageset import ImageSet, load, require_trainable
from sanitize.params import SanitizeParams, read_params
from sanitize.paths import DENOISER, ENSEMBLE, SETS
from sanitize.timestep import require_reachable


def make_plan() -> Plan:
    """The plan that params.yaml and the data under data/ ask for."""
    recipe = read_params("train", TrainParams)
    smooth_params, certify_params = read_params("smooth", SmoothParams), read_params("certify", CertifyParams)
    sanitize_params = read_params("sanitize", SanitizeParams)
    raw, test = load(SETS["raw"]), load(SETS["test"])
    require_trainable(raw, "raw")
    if not len(test):
        raise InputError("the test set has no images; there is nothing to certify")
    if (certify_params.method == "split") != (smooth_params.selection > 0):
        raise InputError(
            f"params certify.method={certify_params.method!r} and smooth.selection={smooth_params.selection} do not "
            "fit: split needs models that choose the class (smooth.selection: 20, say), the other methods take none"
        )
    sigma, test_sigma = sanitize_params.sigma, smooth_params.test_sigma
    denoiser = denoiser_facts(raw, max(sigma, test_sigma)) if sanitize_params.denoise else {}
    return Plan(
        m=smooth_params.m,
        selection=smooth_params.selection,
        sigma=sigma,
        test_sigma=test_sigma,
        raw_digest=raw.digest,
        test_digest=test.digest,
        denoiser_digest=denoiser.get("digest"),
        denoiser_state=_state_of(denoiser, raw),
        initial_digest=_digest_of_initial(recipe),
        initial_state=recipe.initial_provenance if recipe.initial_weights else None,
        recipe=recipe_of(recipe),
        classes=len(raw.classes),
        n_test=len(test),
        alpha=certify_params.alpha,
        method=certify_params.method,
        simultaneous=certify_params.simultaneous,
        entropy_spec=sanitize_params.entropy,
        code_digest=code_digest(),
    )


def _state_of(denoiser: dict[str, Any], raw: ImageSet) -> str | None:
    trained_here_on = denoiser.get("trained_on")
    return "on-raw" if trained_here_on == raw.digest else denoiser.get("state")


def _digest_of_initial(recipe: TrainParams) -> str | None:
    if recipe.initial_weights is None:
        return None
    if not Path(recipe.initial_weights).is_file():
        raise InputError(
            f"param train.initial_weights={recipe.initial_weights!r} does not exist; put a classifier that this "
            "project saved under data/pretrained/"
        )
    return file_digest(Path(recipe.initial_weights))


def denoiser_facts(raw: ImageSet, sigma: float) -> dict[str, Any]:
    """What the denoiser stage recorded of its denoiser. InputError unless it fits the images and sigma."""
    layout(DENOISER)
    provenance = read_config(DENOISER / PROVENANCE)
    if provenance["digest"] != digest_of(DENOISER):
        raise InputError(f"{DENOISER} was changed after it was made; run `dvc repro --force denoiser`")
    facts = Facts(**provenance["made_for"])
    require_reachable(sigma, facts.largest_sigma)
    fitting_for(np.array([raw.image_shape[:2]]), raw.image_shape[2], facts, "exact")
    return provenance


@task(name="train-draws", task_run_name="draws {draws}", cache_policy=NO_CACHE, persist_result=False)
def train_draws(run_id: str, draws: list[int]) -> int:
    """Train a batch of draws in this worker process; how many were made."""
    from flows.worker import train_batch  # imported late: only the workers need torch and its half gigabyte

    return train_batch(run_id, draws)


@flow(name="smooth", persist_result=False)
def smooth(run_id: str, draws: list[int], planned: int, batch_of_draws: int) -> State | int:
    """Train the given draws of a planned ensemble on this machine's process pool, with progress."""
    batches = [draws[i : i + batch_of_draws] for i in range(0, len(draws), batch_of_draws)]
    futures = [train_draws.submit(run_id, batch) for batch in batches]
    made, failures = 0, []
    with tqdm(total=planned, initial=planned - len(draws), desc="smooth", unit="model", mininterval=1) as bar:
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
        missing = [draw for draw in range(plan.draws) if draw not in finished]
        for reason in plan.voids:
            print(f"not certifiable: {reason}; its models are defended, no radius will be attached")
        if missing:
            if finished:
                print(f"{len(finished)} of {plan.draws} draws are done; training the other {len(missing)}")
            runner = ProcessPoolTaskRunner(workers(), initializer=end_with, initargs=(os.getpid(),))
            with prefect_server():
                state = smooth.with_options(task_runner=runner)(
                    ensemble.run_id, missing, plan.draws, params.batch_of_draws, return_state=True
                )
            if not state.is_completed():
                raise InputError(f"{state.message}; mend that and run again: finished draws are kept")
        assembly = assemble(store, ensemble)
        content = save_ensemble(store, ensemble, assembly.votes, ENSEMBLE)
        package(store, ensemble, assembly, load(SETS["raw"]))
        finish(store, ensemble.run_id)
        version = register(
            store,
            SMOOTHED,
            ensemble.run_id,
            "ensemble",
            version_tags(ensemble, content["votes_root"]),
            f"{plan.m} smoothed models at sigma {plan.sigma:g}. "
            + (f"**Not certifiable**: {'; '.join(plan.voids)}." if plan.voids else "Not certified yet."),
        )
    print(f"{ENSEMBLE}: {len(assembly.votes)} of {plan.draws} draws voted; {SMOOTHED} version {version}")


if __name__ == "__main__":
    errors.run(main)
