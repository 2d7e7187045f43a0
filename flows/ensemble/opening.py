"""Begin an ensemble or continue the one that was begun. Its plan is recorded before its first draw."""

from dataclasses import replace

from cleanlabel.flows.artifacts import PLAN_ARTIFACT
from cleanlabel.flows.ensemble.attempts import standing
from cleanlabel.flows.ensemble.earlier_sets import hashes_of
from cleanlabel.flows.ensemble.entropy import keep_entropy
from cleanlabel.flows.ensemble.ledger import Line, keep_images, only_planner, write_line
from cleanlabel.flows.ensemble.reach import require_reach
from cleanlabel.flows.ensemble.record import Ensemble, describe, ensemble_params, ensemble_tags, read_ensemble
from cleanlabel.flows.store.client import TAG, Store, create_run, find_runs, finish, log_files, log_inputs
from cleanlabel.models.plan import Plan
from cleanlabel.models.rounding import up_text
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.noise import draw_entropy


def open_ensemble(store: Store, plan: Plan, asked: float = -1.0) -> Ensemble:
    """The ensemble of this plan: the one already begun, or a new one with new entropy.

    asked: the largest radius that the gate asks for. A new ensemble that could never certify it is refused.

    A plan has one ensemble: a finished one is returned unchanged, never made again. Earlier ensembles on the same raw
    set make this one a further attempt (`flows.ensemble.attempts`).
    """
    for run in find_runs(store, f"tags.`{TAG}plan` = '{plan.digest}' and tags.`{TAG}kind` = 'ensemble'"):
        if f"{TAG}planned" in run.data.tags:
            return read_ensemble(store, run)
        finish(store, run.info.run_id, "KILLED")  # its process died before the plan was recorded
    with only_planner():  # held until the store has the ensemble: ledger and store keep one order
        return _plan_ensemble(store, plan, asked)


def _plan_ensemble(store: Store, plan: Plan, asked: float) -> Ensemble:
    """Record a new ensemble's plan and entropy, in the ledger first: an ensemble lost after that is still an attempt.

    InputError if it could never certify anything; such an ensemble is not an attempt.
    """
    entropy = draw_entropy(plan.entropy_spec)  # the plan already fixes the raw set's digest
    images = hashes_of(plan)
    stands = standing(store, plan, images, entropy)
    before = stands.attempts_before
    least = plan.least_m(before)
    if plan.certifiable and plan.m < least:
        again = f", attempt {before + 1} on this raw set," if before else ""
        raise InputError(
            f"param smooth.m={plan.m}: fewer than {least} models{again} certify nothing, even if all agree, at "
            f"alpha={up_text(plan.level_at(plan.m, before) / plan.partitions)}; raise smooth.m to at least {least}"
        )
    require_reach(plan, before, asked)
    keep_entropy(entropy)
    known = (stands.ledger, stands.earlier_raw_sets)
    ensemble = Ensemble("", plan, before, entropy.commitment, entropy.source, *known)
    if images is not None:
        keep_images(plan, images)
    write_line(plan, Line(plan.digest, entropy.commitment, plan.ensembles, before, *known))
    most = "at most " if plan.stopping != "none" else ""
    run_id = create_run(
        store,
        f"ensemble {most}m={plan.m} sigma={plan.sigma:g}{'' if plan.denoiser_digest else ' noise-only'}",
        ensemble_tags(ensemble),
        ensemble_params(ensemble),
    )
    store.client.log_dict(run_id, describe(ensemble), PLAN_ARTIFACT)
    if plan.instrument_digest:
        from cleanlabel.flows.ensemble.instrument import keep_with_run  # imported late: it needs torch

        log_files(store, run_id, keep_with_run(plan.instrument_digest))
    log_inputs(store, run_id, _datasets(plan))
    store.client.set_tag(run_id, f"{TAG}planned", "true")
    return replace(ensemble, run_id=run_id)


def _datasets(plan: Plan) -> dict[str, str]:
    found = {"raw": plan.raw_digest, "test": plan.test_digest, "denoiser": plan.denoiser_digest}
    return {name: digest for name, digest in found.items() if digest}
