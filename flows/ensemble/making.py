"""Make an ensemble: its draws, one look after another, then its votes, its model and its registered version.

The caller passes in the function that runs the batches: Prefect's flow in `flows.smooth`, a plain loop in a test.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from cleanlabel.flows.ensemble.assembly import assemble, find_draws
from cleanlabel.flows.ensemble.package import package
from cleanlabel.flows.ensemble.record import Ensemble, save_ensemble, stop_at, version_tags
from cleanlabel.flows.ensemble.seal import DIRECTORY, changed_since_registration, in_words, is_sealed, write_seal
from cleanlabel.flows.orchestration.log import note
from cleanlabel.flows.store.client import Store, finish
from cleanlabel.flows.store.registry import SMOOTHED, get_version, register, version_of_run
from cleanlabel.models.decision import decide
from cleanlabel.models.params import GateParams
from cleanlabel.models.votes import count_votes
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.imageset import load
from cleanlabel.sanitize.params import read_params
from cleanlabel.sanitize.paths import ENSEMBLE, SETS

RunBatches = Callable[[Ensemble, list[tuple[range, list[int]]], int], None]
"""Makes and records draws. Arguments: ensemble, batches with the wanted draws of each, total number of draws.

InputError if any batch failed; the draws of the others are still recorded.
"""


def make_version(
    store: Store, ensemble: Ensemble, run_batches: RunBatches, while_drawing: AbstractContextManager[Any] | None = None
) -> int:
    """Make the missing parts of an opened ensemble and register it. Returns the number of its version.

    while_drawing: a context that is held while draws are made, such as a server that `run_batches` needs.
    """
    with while_drawing or nullcontext():
        ensemble = make_draws(store, ensemble, run_batches)
    return register_ensemble(store, ensemble)


def make_draws(store: Store, ensemble: Ensemble, run_batches: RunBatches) -> Ensemble:
    """Make all draws, or those up to the look that decides the gate. Returns the ensemble, stopped or whole."""
    plan = ensemble.plan
    if ensemble.stopped or plan.stopping == "none":
        make_prefix(store, ensemble, ensemble.m, run_batches)
        return ensemble
    for t in plan.looks:
        make_prefix(store, ensemble, t, run_batches)
        if t == plan.m or any(draw >= t for draw in find_draws(store, ensemble)[0]):
            continue  # this look was passed under some gate and is not taken again: later draws exist
        if decided(store, ensemble, t):
            return stop_at(store, ensemble, t)
    return ensemble


def make_prefix(store: Store, ensemble: Ensemble, t: int, run_batches: RunBatches) -> None:
    """Make the missing draws of 0..t-1 and the missing ones that choose the class. Each is recorded once.

    A failed batch is run again as long as each round adds draws. InputError after a round that adds none.
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
        try:
            run_batches(ensemble, batches, t + plan.selection)
        except InputError as error:
            if len(finished) <= before:
                raise type(error)(f"{error}; fix the cause and run again; finished draws are kept") from error
        before = len(finished)


def decided(store: Store, ensemble: Ensemble, t: int) -> bool:
    """Whether the votes of draws 0..t-1 decide the gate of params.yaml. Prints the verdict."""
    plan, gate, test = ensemble.plan, read_params("gate", GateParams), load(SETS["test"])
    votes = {draw: row for draw, row in assemble(store, ensemble).votes.items() if draw < t}
    counts = count_votes(votes, t, plan.n_test, plan.classes)
    asked = [(threshold.radius, threshold.at_least) for threshold in gate.certified_accuracy]
    decision = decide(plan.rule(ensemble.attempts_before), counts, t, test.labels, gate.accuracy, asked)
    print(f"look at {t} models: the gate is {'not decided yet' if decision.verdict == 'open' else decision.verdict}")
    note("look", ensemble=plan.digest[:12], models=t, verdict=decision.verdict)
    return decision.verdict != "open"


def register_ensemble(store: Store, ensemble: Ensemble) -> int:
    """Write data/ensemble, package the model, register both as a version and seal it. Returns its number.

    A version that is as it was registered stays so. One that is not is packaged and sealed again, with a note.
    """
    plan = ensemble.plan
    assembly = assemble(store, ensemble)
    present = version_of_run(store, SMOOTHED, ensemble.run_id)
    sealed = present is not None and is_sealed(store, present)
    changed = changed_since_registration(store, present) if sealed else []
    content = save_ensemble(store, ensemble, assembly.votes, ENSEMBLE)
    if sealed and not changed:
        print(f"{ENSEMBLE}: {SMOOTHED} version {present.version}, as it was registered")
        return int(present.version)
    if changed:
        print(f"note: {SMOOTHED} version {present.version} is sealed again, for {in_words(changed)}; certify it again")
    package(store, ensemble, assembly, load(SETS["raw"]))
    finish(store, ensemble.run_id)
    state = f"**Not certifiable**: {'; '.join(plan.voids)}." if plan.voids else "Not certified yet."
    description = f"{ensemble.m} smoothed models at sigma {plan.sigma:g}. {state}"
    tags = version_tags(ensemble, content["votes_root"])
    version = register(store, SMOOTHED, ensemble.run_id, DIRECTORY, tags, description)
    write_seal(store, get_version(store, SMOOTHED, version))
    note("registered", ensemble=plan.digest[:12], run=ensemble.run_id, version=version, draws=len(assembly.votes))
    print(f"{ENSEMBLE}: {len(assembly.votes)} of {ensemble.draws} draws voted; {SMOOTHED} version {version}")
    return version
