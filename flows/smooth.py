"""Flow `smooth`: the ensemble. m draws, each sanitized anew, trained and asked for its votes.

    python -m flows.smooth [--engine processes|ray] [--plan]

The plan is recorded before the first draw. Killed at any point, the same command trains the missing draws only. With
`smooth.stopping` it ends at the first look that decides the gate. `--plan` makes a few draws, records nothing, and says
what the ensemble will take.
"""

import argparse
import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture, as_completed
from prefect.states import Failed, State
from tqdm import tqdm

from flows.assembly import assemble, find_draws
from flows.engine import engine_asked, resources, task_runner
from flows.ensemble import Ensemble, only_one, open_ensemble, save_ensemble, stop_at, version_tags
from flows.environment import Engine
from flows.package import package
from flows.server import prefect_server
from flows.store import SMOOTHED, Store, answering, connect, finish, register, system_metrics
from models.anytime import default_looks
from models.decision import decide
from models.params import CertifyParams, GateParams, SmoothParams, TrainParams, check_recipe
from models.plan import Plan, code_digest, least_models, recipe_of
from models.votes import count_votes
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
    check_recipe(recipe)
    check_initial(recipe, raw)
    if not len(test):
        raise InputError("the test set has no images; there is nothing to certify")
    if (certify_params.method == "split") != (smooth_params.selection > 0):
        raise InputError(
            f"params certify.method={certify_params.method!r} and smooth.selection={smooth_params.selection} do not "
            "fit: split needs models that choose the class (smooth.selection: 20, say), the other methods take none"
        )
    looks, shares = looks_of(smooth_params, certify_params, len(raw.classes), len(test))
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
        stopping=smooth_params.stopping,
        looks=looks,
        shares=shares,
        batch_of_draws=smooth_params.batch_of_draws,
        entropy_spec=sanitize_params.entropy,
        code_digest=code_digest(),
    )


def looks_of(
    smooth: SmoothParams, certify: CertifyParams, classes: int, n_test: int
) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Where the gate is looked at before m, and what part of alpha each look spends. Nowhere without stopping."""
    if smooth.stopping == "none":
        if smooth.looks:
            raise InputError(f"param smooth.looks={smooth.looks} needs smooth.stopping: looks or sequence")
        return (), ()
    allowed = ("binary",) if smooth.stopping == "sequence" else ("binary", "margin")
    if certify.method not in allowed:
        raise InputError(
            f"param smooth.stopping={smooth.stopping!r} does not go with certify.method={certify.method!r}; "
            f"choose the method {' or '.join(allowed)}, or smooth.stopping: none"
        )
    batch, m = smooth.batch_of_draws, smooth.m
    least = least_models(certify.alpha / (n_test if certify.simultaneous else 1), certify.method, classes)
    times = tuple(smooth.looks) if smooth.looks else default_looks(m, min(least, m))[0]
    if not smooth.looks:  # whole batches
        times = tuple(sorted({min(m, -(-t // batch) * batch) for t in times}))
    if times[-1] != m or any(a >= b for a, b in pairwise(times)) or any(t % batch for t in times[:-1]):
        raise InputError(
            f"param smooth.looks={list(times)} must increase, end with smooth.m={m} and, before that, be multiples of "
            f"smooth.batch_of_draws={batch}"
        )
    if smooth.stopping == "sequence":
        return times, ()
    weights = np.sqrt(np.array(times, dtype=np.float64))
    return times, tuple(float(share) for share in weights / weights.sum())


def _state_of(denoiser: dict[str, Any], raw: ImageSet) -> str | None:
    trained_here_on = denoiser.get("trained_on")
    return "on-raw" if trained_here_on == raw.digest else denoiser.get("state")


def _digest_of_initial(recipe: TrainParams) -> str | None:
    return file_digest(Path(recipe.initial_weights)) if recipe.initial_weights else None


def check_initial(recipe: TrainParams, raw: ImageSet) -> None:
    """InputError unless the initial weights, where there are any, fit the recipe and the images."""
    if recipe.initial_weights is None:
        return
    path = Path(recipe.initial_weights)
    if not path.is_file():
        raise InputError(
            f"param train.initial_weights={recipe.initial_weights!r} does not exist; put the weights' safetensors "
            "file under data/pretrained/"
        )
    from models.extractors import load_extractor, require_fits  # imported late: only here this process needs torch
    from models.training import architecture_of
    from models.weights import read_weights

    if recipe.mode == "transfer":
        require_fits(load_extractor(path), raw.image_shape)
        return
    found, wanted = read_weights(path)[0], architecture_of(recipe, raw.image_shape, len(raw.classes))
    if found != wanted:
        raise InputError(f"{path} holds a {found}, train.mode='fine-tune' needs a {wanted}; correct params.yaml")


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


@task(name="make-draws", task_run_name="draws {wanted}", cache_policy=NO_CACHE, persist_result=False)
def make_draws(root: str, run_id: str, batch: range, wanted: list[int], keep: int | str, engine: Engine) -> int:
    """Make a batch of draws in this worker process, wherever it is; how many were recorded."""
    os.chdir(root)
    from flows.worker import train_batch  # imported late: only the workers need torch and its half gigabyte

    return train_batch(run_id, batch, wanted, keep, engine)


@flow(name="smooth", persist_result=False)
def smooth(
    run_id: str, batches: list[tuple[range, list[int]]], planned: int, keep: int | str, engine: Engine
) -> State | int:
    """Make the wanted draws of these batches of a planned ensemble on the flow's task runner, with progress."""
    wanted = sum(len(draws) for _, draws in batches)
    with resources(engine):
        futures = [make_draws.submit(str(Path.cwd()), run_id, *batch, keep, engine) for batch in batches]
    made, failures = 0, []
    with tqdm(total=planned, initial=planned - wanted, desc="smooth", unit="model", mininterval=1) as bar:
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
    try:
        result = future.result(raise_on_failure=False)
    except BaseException as error:  # Ray raises here what became of the worker
        return error
    return result if isinstance(result, int | BaseException) else RuntimeError(str(result))


def make_prefix(store: Store, ensemble: Ensemble, t: int, keep: int | str, engine: Engine) -> None:
    """Make what is missing of draws 0..t-1 and of those that choose the class; each is recorded once.

    A batch that was lost with its worker is given out again, as long as any is getting done.
    """
    plan, before = ensemble.plan, -1
    while True:
        finished, unfinished = find_draws(store, ensemble)
        for run in unfinished:
            if run.info.status in ("RUNNING", "SCHEDULED"):
                finish(store, run.info.run_id, "KILLED")
        needed = {*range(t), *range(plan.m, plan.draws)} - finished.keys()
        if not needed:
            return
        if before < 0 and finished:
            print(f"{len(finished)} of {plan.draws} draws are done; making {len(needed)} more")
        batches = [(batch, wanted) for batch in plan.batches if (wanted := sorted(needed & {*batch}))]
        total = t + plan.selection
        state = smooth.with_options(task_runner=task_runner(engine))(
            ensemble.run_id, batches, total, keep, engine, return_state=True
        )
        if not state.is_completed() and len(finished) <= before:
            raise InputError(f"{state.message}; mend that and run again: finished draws are kept")
        before = len(finished)


def decided(store: Store, ensemble: Ensemble, t: int) -> bool:
    """Whether the gate of params.yaml is decided by the votes of draws 0..t-1; says how."""
    plan, gate, test = ensemble.plan, read_params("gate", GateParams), load(SETS["test"])
    votes = {draw: row for draw, row in assemble(store, ensemble).votes.items() if draw < t}
    counts = count_votes(votes, t, plan.n_test, plan.classes)
    asked = [(threshold.radius, threshold.at_least) for threshold in gate.certified_accuracy]
    decision = decide(plan.rule(ensemble.attempt), counts, t, test.labels, gate.accuracy, asked)
    print(f"look at {t} models: the gate is {'not decided yet' if decision.verdict == 'open' else decision.verdict}")
    return decision.verdict != "open"


def make_ensemble(store: Store, ensemble: Ensemble, keep: int | str, engine: Engine) -> Ensemble:
    """Make the draws: all of them, or those up to the look that decides the gate."""
    plan = ensemble.plan
    if ensemble.stopped or plan.stopping == "none":
        make_prefix(store, ensemble, ensemble.m, keep, engine)
        return ensemble
    for t in plan.looks:
        make_prefix(store, ensemble, t, keep, engine)
        if t == plan.m or any(draw >= t for draw in find_draws(store, ensemble)[0]):
            continue  # a look that was passed by, under whatever gate, is not taken again: later draws are there
        if decided(store, ensemble, t):
            return stop_at(store, ensemble, t)
    return ensemble


def main() -> None:
    flags = argparse.ArgumentParser(prog="python -m flows.smooth", description=__doc__.splitlines()[0])
    flags.add_argument("--engine", help="processes (of this machine; default) or ray")
    flags.add_argument("--plan", action="store_true", help="say what the ensemble will take; record nothing")
    args = flags.parse_args()
    engine = engine_asked(args.engine)
    plan = make_plan()
    params = read_params("smooth", SmoothParams)
    if args.plan:
        from flows.forecast import forecast  # imported late: it trains

        print(forecast(plan, params.keep_weights))
        return
    with only_one(plan), answering():
        store = connect()
        ensemble = open_ensemble(store, plan)
        for reason in plan.voids:
            print(f"not certifiable: {reason}; its models are defended, no radius will be attached")
        with prefect_server(), system_metrics(store, ensemble.run_id):
            ensemble = make_ensemble(store, ensemble, params.keep_weights, engine)
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
            f"{ensemble.m} smoothed models at sigma {plan.sigma:g}. "
            + (f"**Not certifiable**: {'; '.join(plan.voids)}." if plan.voids else "Not certified yet."),
        )
    print(f"{ENSEMBLE}: {len(assembly.votes)} of {ensemble.draws} draws voted; {SMOOTHED} version {version}")


if __name__ == "__main__":
    errors.run(main)
