"""The two parts of a diffusers denoiser, read strictly: the network with all of its weights, and the noise schedule."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cleanlabel.sanitize.denoiser_files import Files, first_line, read_config
from cleanlabel.sanitize.errors import InputError

OTHER_KINDS = ("KarrasVe", "ScoreSdeVe", "EDM", "FlowMatch", "CMStochastic", "ConsistencyDecoder", "VQDiffusion")
"""Schedulers of diffusers whose noise is not a discrete-time DDPM's, whatever keys their files have."""
MOST_STEPS = 100_000
"""The most steps of a schedule; the longest published one has 4,000."""


def alphas_cumprod_of(schedule: dict[str, Any], file: Path) -> Tensor:
    """abar_t (T,) of a scheduler's configuration, computed by diffusers: all discrete schedulers share DDPM's keys.

    InputError unless it is a noise schedule: two steps or more, betas in (0, 1] that do not fall, abar falling from
    below 1 and not below 0.
    """
    kind = str(schedule.get("_class_name", "no _class_name"))
    if not {"beta_schedule", "trained_betas"} & set(schedule) or kind.startswith(OTHER_KINDS):
        raise InputError(
            f"{file} ({kind}) is not a discrete noise schedule with betas; choose a denoiser with one, such as "
            "DDPM's or DDIM's"
        )
    steps = schedule.get("num_train_timesteps", 1000)
    if type(steps) is not int or not 2 <= steps <= MOST_STEPS:
        raise InputError(f"{file} has num_train_timesteps={steps!r}; a noise schedule has 2 to {MOST_STEPS:,} steps")
    from diffusers import DDPMScheduler  # imported late: it takes seconds

    known = {key: value for key, value in schedule.items() if key != "rescale_timesteps"}
    try:
        with quiet():
            made = DDPMScheduler.from_config(known)
        betas: Tensor = made.betas.double()
        alphas_cumprod: Tensor = made.alphas_cumprod
        falls = bool((betas[-1] < betas[0]) | (alphas_cumprod.diff() > 0).any())
    except Exception as error:  # diffusers raises many kinds here
        raise InputError(f"{file} does not define a noise schedule: {first_line(error)}") from error
    if betas.shape != (steps,):
        raise InputError(f"{file} has {betas.numel()} betas for num_train_timesteps={steps}; restore it")
    if not bool(betas.isfinite().all()) or betas.min() <= 0 or betas.max() > 1 or betas[0] == 1:
        raise InputError(
            f"{file} has betas from {betas.min():g} to {betas.max():g}, but a noise schedule's lie between 0 "
            "and 1; restore it"
        )
    if falls:
        raise InputError(
            f"{file} has betas that fall from {betas[0]:g} to {betas[-1]:g}, but in a noise schedule they rise "
            "with the timestep; restore it"
        )
    return alphas_cumprod


def load_unet(files: Files) -> Any:
    """The network in float32, with every weight from the files.

    InputError names the first weight that is missing, unknown, of another shape or not finite: diffusers would continue
    with random numbers in its place.
    """
    kind = read_config(files.config).get("_class_name", "UNet2DModel")
    if kind != "UNet2DModel":
        raise InputError(f"{files.unet_dir} holds a {kind}; choose a denoiser whose network is a UNet2DModel")
    from diffusers import UNet2DModel  # imported late: it takes seconds

    try:
        with quiet():
            unet, told = UNet2DModel.from_pretrained(
                str(files.unet_dir),
                use_safetensors=True,
                variant=files.variant,
                local_files_only=True,
                low_cpu_mem_usage=False,
                torch_dtype=torch.float32,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # checked below
            )
    except Exception as error:  # diffusers raises many kinds here
        raise InputError(f"the denoiser in {files.unet_dir} does not load: {first_line(error)}") from error
    for kind, fault in (("missing", "missing"), ("unexpected", "unknown to it"), ("mismatched", "of another shape")):
        keys = sorted(str(key[0] if isinstance(key, tuple) else key) for key in told.get(f"{kind}_keys", ()))
        if keys:
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            raise InputError(
                f"the weights in {files.unet_dir} do not fit its config.json ({fault}: {keys[0]}{more}); "
                "download the denoiser again"
            )
    if told.get("error_msgs"):
        raise InputError(f"the denoiser in {files.unet_dir} does not load: {told['error_msgs'][0]}")
    for name, weight in unet.state_dict().items():
        if not bool(weight.isfinite().all()):
            raise InputError(
                f"the weight {name} in {files.unet_dir} is not finite (nan or infinite); download the denoiser again, "
                "or take it in full precision"
            )
    return unet


@contextmanager
def quiet() -> Iterator[None]:
    """Silence diffusers' own warnings: this module reports the important ones, in one sentence."""
    log = logging.getLogger("diffusers")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
