"""Flow `smooth`: make the ensemble of m draws. Each draw sanitizes the raw set anew, trains a model and votes.

    python -m flows.smooth [--engine processes|ray] [--plan]

The plan is recorded before the first draw. After a kill at any point, the same command trains only the missing draws.
With `smooth.stopping` it ends at the first look that decides the gate. `--plan` makes a few draws, records nothing, and
prints a forecast of the ensemble's cost.
"""

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from prefect import flow, task
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture, as_completed
from prefect.states import Failed, State
from tqdm import tqdm

from cleanlabel.flows.ensemble.attempts import Standing, standing_so_far
from cleanlabel.flows.ensemble.earlier_sets import worth_telling
from cleanlabel.flows.ensemble.lock import ensemble_lock
from cleanlabel.flows.ensemble.making import make_version
from cleanlabel.flows.ensemble.opening import open_ensemble
from cleanlabel.flows.ensemble.planning import make_plan
from cleanlabel.flows.ensemble.reach import radius_asked, require_reach
from cleanlabel.flows.ensemble.record import Ensemble
from cleanlabel.flows.ensemble.scratch import require_scratch
from cleanlabel.flows.environment import Engine, own_store
from cleanlabel.flows.orchestration.engine import at_once, engine_asked, resources, task_runner
from cleanlabel.flows.orchestration.log import note
from cleanlabel.flows.orchestration.server import prefect_server
from cleanlabel.flows.store.client import Store, connect, system_metrics
from cleanlabel.flows.store.errors import translate_store_errors
from cleanlabel.flows.store.home import project_home
from cleanlabel.models.params import GateParams, SmoothParams, TrainParams
from cleanlabel.models.plan import Plan
from cleanlabel.models.stacked import never_stacked
from cleanlabel.models.tasks import Task, dealt
from cleanlabel.sanitize import errors
from cleanlabel.sanitize.errors import InputError, ServiceUnavailable
from cleanlabel.sanitize.params import read_params


@task(name="make-draws", task_run_name="draws {wanted}", cache_policy=NO_CACHE, persist_result=False)
def make_draws(root: str, run_id: str, batch: range, wanted: list[int], keep: int | str, engine: Engine) -> int:
    """Make a batch of draws in this worker process, on whichever machine. Returns how many were recorded."""
    os.chdir(root)
    # imported late: only the workers need torch and its half gigabyte
    from cleanlabel.flows.ensemble.worker import train_batch

    return train_batch(run_id, batch, wanted, keep, engine)


@flow(name="smooth", persist_result=False)
def smooth(
    run_id: str, batches: list[Task], planned: int, keep: int | str, engine: Engine, *, regroup: bool
) -> State | int:
    """Make the wanted draws of these batches of a planned ensemble on the flow's task runner, with a progress bar.

    regroup: whether a task may hold any of them (`models.tasks`), so that all workers have work to the end.
    """
    wanted = sum(len(draws) for _, draws in batches)
    done_before = planned - wanted
    progress = create_progress_artifact(100 * done_before / planned, key="smoothed-models", description=f"of {planned}")
    with resources(engine):
        batches = dealt(batches, at_once(engine)) if regroup else batches
        note("draws dealt out", run=run_id, draws=wanted, tasks=len(batches), at_once=at_once(engine))
        futures = [make_draws.submit(str(Path.cwd()), run_id, *batch, keep, engine) for batch in batches]
    made, failures = 0, []
    with tqdm(total=planned, initial=done_before, desc="smooth", unit="model", mininterval=1) as bar:
        for future in as_completed(futures):
            done = _outcome(future)
            if isinstance(done, BaseException):
                failures.append(done)
            else:
                made += done
                bar.update(done)
                words = f"{done_before + made} of {planned} models, {_left(bar)}"
                update_progress_artifact(progress, 100 * (done_before + made) / planned, words)
    if failures:
        first = errors.sentence(failures[0]) if isinstance(failures[0], OSError) else str(failures[0])
        words = f"{len(failures)} of {len(batches)} batches failed, the first with: {first}"
        note("batches failed", run=run_id, failed=len(failures), first=first[:500])
        return Failed(
            message=words,
            data=ServiceUnavailable(words) if isinstance(failures[0], ServiceUnavailable) else InputError(words),
        )
    return made


def _left(bar: tqdm) -> str:
    rate = bar.format_dict["rate"]
    return f"about {(bar.total - bar.n) / rate:.0f} s left" if rate else "no rate yet"


def _outcome(future: PrefectFuture[int]) -> int | BaseException:
    try:
        result = future.result(raise_on_failure=False)
    except BaseException as error:  # Ray raises the worker's failure here
        return error
    return result if isinstance(result, int | BaseException) else RuntimeError(str(result))


def run_with_prefect(keep: int | str, engine: Engine, ensemble: Ensemble, batches: list[Task], planned: int) -> None:
    """Run the flow `smooth` on these batches. InputError or ServiceUnavailable says what stopped it."""
    flow_on_engine = smooth.with_options(task_runner=task_runner(engine))
    regroup = never_stacked(TrainParams.model_validate(ensemble.plan.recipe))
    state = flow_on_engine(ensemble.run_id, batches, planned, keep, engine, regroup=regroup, return_state=True)
    if not state.is_completed():
        away = isinstance(state.result(raise_on_failure=False), ServiceUnavailable)
        raise (ServiceUnavailable if away else InputError)(str(state.message))


@contextmanager
def at_work(store: Store, ensemble: Ensemble) -> Iterator[None]:
    """Run a Prefect server, and record this machine's load at the ensemble's run."""
    with prefect_server(), system_metrics(store, ensemble.run_id):
        yield


def standing_now(plan: Plan) -> Standing:
    """The standing the plan's ensemble has, or would have. Does not create a store if there is none."""
    home = project_home()
    if os.environ["MLFLOW_TRACKING_URI"] == own_store(home) and not (home / ".mlflow" / "mlflow.db").is_file():
        return standing_so_far(None, plan)
    with translate_store_errors():
        return standing_so_far(connect(), plan)


def parser() -> argparse.ArgumentParser:
    """The command's flags."""
    flags = argparse.ArgumentParser(prog="python -m flows.smooth", description=__doc__.splitlines()[0])
    flags.add_argument("--engine", help="processes (on this machine; default) or ray")
    flags.add_argument("--plan", action="store_true", help="print the ensemble's time and space, and record nothing")
    return flags


def main() -> None:
    args = parser().parse_args()
    engine = engine_asked(args.engine)
    plan = make_plan()
    params = read_params("smooth", SmoothParams)
    require_scratch(plan, engine)
    if args.plan:
        from cleanlabel.flows.ensemble.forecast import forecast  # imported late: it trains

        stands = standing_now(plan)
        print(forecast(plan, params.keep_weights, stands.attempts_before))
        for sentence in worth_telling(stands.earlier_raw_sets):
            print(sentence)
        require_reach(plan, stands.attempts_before, radius_asked(read_params("gate", GateParams)))
        return
    with ensemble_lock(plan), translate_store_errors():
        store = connect()
        # dvc.yaml does not list the gate as a param of this stage: a new threshold must not remake a finished ensemble.
        ensemble = open_ensemble(store, plan, radius_asked(read_params("gate", GateParams)))
        note(
            "ensemble opened",
            ensemble=plan.digest[:12],
            run=ensemble.run_id,
            m=plan.m,
            attempt=ensemble.attempts_before + 1,
        )
        for sentence in worth_telling(ensemble.earlier_raw_sets):
            print(sentence)
        for reason in plan.voids:
            print(f"not certifiable: {reason}; its models are defended, but get no radius")
        with_prefect = partial(run_with_prefect, params.keep_weights, engine)
        make_version(store, ensemble, with_prefect, at_work(store, ensemble))


if __name__ == "__main__":
    errors.run(main)
