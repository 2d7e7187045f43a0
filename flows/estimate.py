"""Estimate how long `dvc repro` takes, stage by stage, from a few seconds of measurement.

    python -m flows.estimate

The stage `denoiser` begins with it. It reads params.yaml and the sets that `ingest` made, writes nothing, and never
stops the pipeline: it reports what a later stage will refuse, and that stage refuses it.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from cleanlabel.flows.ensemble.planning import make_plan
from cleanlabel.flows.ensemble.reach import radius_asked, require_reach
from cleanlabel.flows.orchestration.machine import gpus, words, workers
from cleanlabel.models.draw import make_batch
from cleanlabel.models.materials import Materials
from cleanlabel.models.params import GateParams, SmoothParams, TrainParams
from cleanlabel.models.stacked import never_stacked
from cleanlabel.models.start import start_of
from cleanlabel.models.tasks import task_sizes, timing
from cleanlabel.sanitize import errors
from cleanlabel.sanitize.denoiser import Denoiser, load_denoiser
from cleanlabel.sanitize.denoiser_training import Training
from cleanlabel.sanitize.device import default_device, is_accelerator
from cleanlabel.sanitize.door import STATED_BY, Part, admit
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.fast import accelerate
from cleanlabel.sanitize.imageset import ImageSet, load
from cleanlabel.sanitize.overlap import record_of
from cleanlabel.sanitize.params import DenoiserParams, SanitizeParams, read_params
from cleanlabel.sanitize.paths import SETS
from cleanlabel.sanitize.pretrain import steps_for
from cleanlabel.sanitize.sanitizer import sanitize

BUDGET = 1.2
"""Seconds that each measurement may take, plus one step."""
UNBOUNDED = 1_000_000
"""Steps of the denoiser's training that is timed: it must not end while it is timed, and its speed does not depend on
them."""
AT_ONCE = 25
"""The most draws that the measurement trains at once."""
START = {"denoiser": 20, "sanitize": 20, "train": 25, "smooth": 60, "certify": 60}
"""Fixed seconds of a stage, measured on 2 cores: libraries, the store, its services, pictures."""
WORTH = 60.0
"""If the denoiser's training takes at least this many seconds, a smaller denoiser is suggested."""


@dataclass(frozen=True)
class Costs:
    """Seconds per step of the denoiser's training, per sanitized image, and per model trained on the raw set."""

    step: float | None
    image: float
    model: float


def estimate() -> str:
    """A table of the stages after `ingest`, and ways to make them shorter."""
    wanted, recipe = read_params("denoiser", DenoiserParams), read_params("train", TrainParams)
    smooth, noise = read_params("smooth", SmoothParams), read_params("sanitize", SanitizeParams)
    gate = read_params("gate", GateParams)
    trusted, raw, test = (load(SETS[name]) for name in ("trusted", "raw", "test"))
    steps = wanted.steps or steps_for(trusted.image_shape)
    trained_here = wanted.source == "train"
    training = Training(trusted, wanted, UNBOUNDED) if trained_here else None
    costs = Costs(
        _each(training.step) if training else None,
        _sanitizing(raw, noise, training, wanted),
        _model(raw, test, noise.sigma, recipe, smooth),
    )
    images = len(raw) + (len(test) if smooth.test_sigma else 0)
    draw, draws = images * costs.image + costs.model, smooth.m + smooth.selection
    at_once = max(1, gpus()) if is_accelerator(default_device()) else workers()
    sizes = task_sizes(draws, at_once, smooth.batch_of_draws, regroup=never_stacked(recipe))
    work = {
        "denoiser": (
            steps * (costs.step or 0.0),
            f"{steps:,} steps" if trained_here else f"from {wanted.source}",
        ),
        "sanitize": (len(raw) * costs.image, f"{len(raw):,} images"),
        "train": (costs.model, "one model"),
        "smooth": (timing(sizes, at_once, draw).makespan, f"{draws:,} models, {min(at_once, len(sizes))} processes"),
        "certify": (gate.replay * smooth.batch_of_draws * draw, f"{gate.replay} draws made again"),
    }
    seconds = {stage: START[stage] + spent for stage, (spent, _) in work.items()}
    total = sum(seconds.values())
    lines = [f"`dvc repro` will take about {words(total)} from here, if this machine stays as busy as it is now:"]
    lines += [f"  {stage:9} {words(seconds[stage]):>8}   {what}" for stage, (_, what) in work.items()]
    if training and costs.step and work["denoiser"][0] > max(WORTH, total / 3):
        lines.append(_smaller(trusted, wanted, steps))
    try:
        if trained_here and noise.denoise:
            seen = record_of(trusted.images, trusted.ids)
            own = {"made_here": True, "state": wanted.provenance, "asks": STATED_BY, "record": seen}
            admit(raw, [Part("denoiser", None, **own)])
        require_reach(make_plan({}), 0, radius_asked(gate))
    except InputError as error:
        lines.append(f"The stage smooth will refuse this: {error}.")
    return "\n".join(lines)


def _each(step: Callable[[], object]) -> float:
    """Median seconds per call: after a warm-up call, at least three calls and as many as fit the budget.

    It is the median because on a busy machine one call may take ten times as long as the next.
    """
    step()
    spent: list[float] = []
    started = time.perf_counter()
    while len(spent) < 3 or time.perf_counter() < started + BUDGET:
        before = time.perf_counter()
        step()
        spent.append(time.perf_counter() - before)
    return statistics.median(spent)


def _sanitizing(raw: ImageSet, noise: SanitizeParams, training: Training | None, wanted: DenoiserParams) -> float:
    """Seconds per image, measured with the untrained denoiser, which is as fast as the trained one."""
    some = raw.take(np.arange(min(len(raw), 64)))
    denoiser: Denoiser | None = None
    if noise.denoise and training:
        with tempfile.TemporaryDirectory() as folder:
            training.save(Path(folder))
            denoiser = load_denoiser(Path(folder), default_device())
    elif noise.denoise and Path(wanted.source).is_dir():
        denoiser = load_denoiser(Path(wanted.source), default_device())
    threads = torch.get_num_threads()
    torch.set_num_threads(int(os.environ.get("CLEANLABEL_THREADS", "1")))
    fast = accelerate(denoiser, noise.sigma, len(some), len(some)) if denoiser else None
    seconds = _each(lambda: sanitize(some, noise.sigma, denoiser, bytes(32), 0, denoise=fast, batch=len(some)))
    torch.set_num_threads(threads)
    return seconds / len(some)


def _model(raw: ImageSet, test: ImageSet, sigma: float, recipe: TrainParams, smooth: SmoothParams) -> float:
    """Seconds per trained model, from an epoch on a part of the raw set, noised but not denoised."""
    part = raw.take(np.arange(min(len(raw), max(64, 4 * recipe.batch))))
    threads = torch.get_num_threads()
    torch.set_num_threads(int(os.environ.get("CLEANLABEL_THREADS", "1")))
    device = default_device()
    short = recipe.model_copy(update={"epochs": 1, "warm_epochs": 0, "twin": None})
    if recipe.bounded_influence:  # its sums take about as long as a fitted head
        short = short.model_copy(update={"head": "lda"})
    if recipe.mode != "transfer":
        short = short.model_copy(update={"mode": "scratch", "initial_weights": None})
    asked = test.take(np.arange(min(len(test), 16)))
    materials = Materials(part, asked, sigma, None, short, AT_ONCE, start=start_of(short, device), device=device)
    count = min(AT_ONCE, smooth.batch_of_draws)
    draws = range(count if materials.stacked(count) else 1)
    made = [list(make_batch(replace(materials), bytes(32), draws)) for _ in range(2)][1]  # the first warms up
    torch.set_num_threads(threads)
    epochs = 1 if recipe.mode == "transfer" else recipe.epochs + recipe.warm_epochs
    return sum(one.train_seconds for one in made) / len(made) * epochs * len(raw) / len(part)


def _smaller(trusted: ImageSet, wanted: DenoiserParams, steps: int) -> str:
    """The time for a smaller denoiser, as a sentence."""
    channels = tuple(max(8, width // 16 * 8) for width in wanted.channels)
    own = steps_for(trusted.image_shape)
    fewer = f" With denoiser.steps: null it takes {own:,} steps, not {steps:,}." if own < steps else ""
    if channels == wanted.channels:
        return f"Most of it is the denoiser.{fewer}"
    least = wanted.model_copy(update={"channels": channels})
    seconds = min(steps, own) * _each(Training(trusted, least, UNBOUNDED).step)
    return (
        f"Much of it is the denoiser's training: denoiser.channels: {list(channels)} takes about {words(seconds)}, "
        f"and denoises less well; a pretrained one (denoiser.source) takes none.{fewer}"
    )


def main() -> None:
    try:
        print(estimate(), flush=True)
    except InputError as error:  # the stage concerned will refuse it
        print(f"No estimate of the time: {error}.", flush=True)


if __name__ == "__main__":
    errors.run(main)
