"""Forecast the cost of an ensemble: make a batch of draws, time it and discard it."""

import time
from dataclasses import replace

from cleanlabel.flows.ensemble.record import draw_params, draw_tags
from cleanlabel.flows.ensemble.worker import Keep, kept, prepare
from cleanlabel.flows.orchestration.machine import gpus, words, workers
from cleanlabel.models.answers import largest_radius
from cleanlabel.models.draw import Smoothed, make_batch
from cleanlabel.models.plan import Plan, least_models
from cleanlabel.models.rounding import down_text, up_text
from cleanlabel.models.stacked import never_stacked
from cleanlabel.models.tasks import Timing, balanced_batch, batch_sizes, task_sizes, timing
from cleanlabel.models.votes import votes_to_bytes
from cleanlabel.sanitize.device import is_accelerator
from cleanlabel.sanitize.noise import draw_entropy
from cleanlabel.sanitize.overlap import HASH

SIZES = (20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000)
WORTH = 0.05
"""The least share of the workers' time that advice about tasks must save."""
ROWS_BESIDE = 14
"""Rows of a child run in MLflow's tables, apart from its params and tags: the run itself, three metrics (two rows
each), its hashes, its parent and its name."""


def forecast(plan: Plan, keep: Keep, attempt: int = 0) -> str:
    """The time, GPU-hours, disk space and MLflow rows for the plan's m models, and a table of what other m certify.

    It makes draws with another entropy: a small batch as warm-up, then a timed one. It records nothing.
    """
    materials = prepare(plan)
    entropy = draw_entropy("os").value
    list(make_batch(materials, entropy, range(2)))
    started = time.perf_counter()
    made = list(make_batch(materials, entropy, plan.batches[0]))
    seconds = (time.perf_counter() - started) / len(made)

    on_gpu = is_accelerator(materials.device)
    at_once = max(1, gpus()) if on_gpu else workers()
    where = f"{at_once} GPU{'s' if at_once > 1 else ''}" if on_gpu else f"{at_once} processes"
    disk = sum(_bytes_kept(made[0], draw, keep, len(materials.raw)) for draw in range(plan.draws))
    rows = len(draw_params(plan, 0)) + len(draw_tags(plan, 0)) + ROWS_BESIDE
    hours = seconds * plan.draws / 3600
    regroup = never_stacked(materials.recipe)
    sizes = task_sizes(plan.draws, at_once, plan.batch_of_draws, regroup=regroup)
    whole = timing(sizes, at_once, seconds)
    lines = [
        f"{plan.draws} draws, {seconds:.2f} s each "
        f"(sanitizing {made[-1].sanitize_seconds:.2f}, training {made[-1].train_seconds:.2f}), {where} at once:",
        f"  time         {words(whole.makespan)}, and about a minute to start and to register",
        f"  tasks        {len(sizes)} of up to {sizes[0]} draws; workers are idle {whole.idle:.0%} of the time"
        + ("" if regroup else _advice(plan, at_once, whole)),
        f"  GPU-hours    {hours:.2f}" if on_gpu else f"  core-hours   {hours:.2f} (no GPU here)",
        f"  disk         {disk / 1e6:,.1f} MB of networks ({keep}) and votes",
        f"  MLflow       {plan.draws} child runs, {rows * plan.draws:,} rows",
    ]
    if plan.stopping != "none":
        lines.append(
            f"These are upper limits: it stops at the first of {', '.join(map(str, plan.looks))} models that decides "
            "the gate."
        )
    lines += ["", _table(plan, seconds / at_once, attempt)]
    return "\n".join(lines)


def _advice(plan: Plan, workers: int, whole: Timing) -> str:
    """A better batch of draws, if there is one. It stays a param: bits of networks that train at once depend on it."""
    better = balanced_batch(plan.draws, workers, plan.batch_of_draws)
    least = timing(batch_sizes(plan.draws, better), workers, 1)
    if whole.idle - least.idle < WORTH:
        return ""
    return f" ({least.idle:.0%} with smooth.batch_of_draws: {better})"


def _table(plan: Plan, seconds: float, attempt: int) -> str:
    """One row per m: the radius of unanimous votes at the attempt's level, and the time for m models."""
    level = plan.level(attempt)
    least = 1 if plan.bounded_influence else least_models(level / plan.partitions, plan.method, plan.classes)
    rows = ["| m | largest certifiable R | time |", "|--:|--:|--:|"]
    for m in sorted({least, plan.m, *SIZES}):
        if m < least:
            continue
        radius = largest_radius(replace(plan, m=m, stopping="none", looks=(), shares=()), attempt, m)
        rows.append(f"| {m:,} | {down_text(radius)} | {words(seconds * (m + plan.selection))} |")
    if plan.bounded_influence:
        note = f"R where one class has all the influence it can have; level {up_text(level)} (attempt {attempt + 1})"
        return "\n".join([*rows, "", note])
    how = f"method {plan.method}, level {up_text(level)} (attempt {attempt + 1})"
    note = f"R in [0,1] pixel units, when all m agree: {how}"
    return "\n".join([*rows, "", note])


def _bytes_kept(made: Smoothed, draw: int, keep: Keep, images: int) -> int:
    """Bytes kept per draw: its votes, and its network with the hashes of its training images (base64)."""
    network = sum(weight.numel() * weight.element_size() for weight in made.model.state_dict().values())
    network += images * HASH * 4 // 3
    return len(votes_to_bytes(made.votes)) + (network if kept(draw, keep) else 0)
