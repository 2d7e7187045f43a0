"""The scratch disk of an ensemble's draws: whether it will do is checked before the first draw is made."""

from cleanlabel.flows.environment import Engine, scratch
from cleanlabel.flows.orchestration.machine import gpus, workers
from cleanlabel.models.params import TrainParams
from cleanlabel.models.plan import Plan
from cleanlabel.models.scratch import copies_at_once, copy_bytes, require_read_in_batches, require_room
from cleanlabel.models.stacked import stackable
from cleanlabel.sanitize.device import default_device, is_accelerator
from cleanlabel.sanitize.paths import SETS
from cleanlabel.sanitize.sources import open_source


def require_scratch(plan: Plan, engine: Engine) -> None:
    """InputError if CLEANLABEL_SCRATCH is set and this machine's workers cannot hold their copies there.

    Every worker checks its own disk again, on whichever machine it is.
    """
    folder = scratch()
    if folder is None:
        return
    recipe, raw, device = TrainParams.model_validate(plan.recipe), open_source(SETS["raw"]), default_device()
    require_read_in_batches(recipe)
    shape = (*(raw.size or (1, 1)), raw.channels)
    size = copy_bytes(max(plan.block_sizes or [len(raw)]), shape, denoised=plan.denoiser_digest is not None)
    pixels = copy_bytes(len(raw), shape, denoised=False)
    if engine == "processes" and not stackable(recipe, device, plan.batch_of_draws, pixels):
        at_once = max(1, gpus()) if is_accelerator(device) else workers()
        require_room(folder, size, at_once * copies_at_once(plan.batch_of_draws, device))
