"""A pretrained diffusion model as a one-step denoiser: the slow twin, with one formula per kind of prediction."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cleanlabel.sanitize.denoiser_files import Facts, digest_of, layout, read_config
from cleanlabel.sanitize.denoiser_parts import alphas_cumprod_of, load_unet
from cleanlabel.sanitize.device import compute_repeatably, is_accelerator
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.int8 import Int8, read_int8
from cleanlabel.sanitize.timestep import largest_sigma, timestep_for

Prediction = Literal["epsilon", "v_prediction", "sample"]
"""What the network predicts: the noise, the velocity, or the clean image itself."""
RESCALED_STEPS = 1000
"""With `rescale_timesteps` the network counts its schedule, of any length, as this many steps (improved-diffusion)."""


@dataclass(frozen=True, eq=False)
class Denoiser:
    """A discrete-time diffusion model with its noise schedule, on a device, ready for one-step denoising.

    `digest` is the sha256 of its weights and configurations: the same files give the same digest. int8: the same
    network in 8-bit integers for one sigma, if its files are there; the fast path then takes it at that sigma.
    """

    unet: torch.nn.Module
    alphas_cumprod: Tensor
    facts: Facts
    digest: str
    device: torch.device
    prediction: Prediction = "epsilon"
    rescale_timesteps: bool = False
    int8: Int8 | None = None
    directory: Path | None = None
    """Where its files lie, with the record of its training images if there is one (`sanitize.door`)."""

    def timestep(self, sigma: float) -> int:
        """The timestep whose noise level matches sigma (in [0,1] pixel units); see `timestep_for`."""
        return timestep_for(sigma, self._schedule)

    @cached_property
    def _schedule(self) -> NDArray[np.float32]:
        return self.alphas_cumprod.cpu().numpy()

    def network_time(self, t: int) -> Tensor:
        """Timestep t on the network's own scale: t itself, or t * 1000 / T (Nichol & Dhariwal 2021, code)."""
        if self.rescale_timesteps:
            return torch.full((), t * (RESCALED_STEPS / len(self.alphas_cumprod)), device=self.device)
        return torch.full((), t, device=self.device)  # made there, not copied there

    @torch.inference_mode()
    def denoise(self, noised: Tensor, sigma: float) -> Tensor:
        """The network's one-step estimate of the clean images, in float32.

        noised: float32 (n, c, h, w) = clean + N(0, sigma^2), in [0,1] units, unclipped. Returns the same shape, in
        [0, 1]. With x = 2 * noised - 1 the diffusion's own x_t is sqrt(abar_t) x; the estimate is what one
        `DDPMScheduler.step` predicts.
        """
        t = self.timestep(sigma)
        alpha_bar = self.alphas_cumprod[t]
        x_t = scaled(noised, alpha_bar)
        return clean_from(self.unet(x_t, self.network_time(t)).sample, x_t, alpha_bar, self.prediction)


def scaled(noised: Tensor, alpha_bar: Tensor) -> Tensor:
    """x_t = sqrt(abar_t) x, where x = 2 * noised - 1 is the noised image in the network's [-1,1] units."""
    return alpha_bar.sqrt() * (2 * noised - 1)


def clean_from(output: Tensor, x_t: Tensor, alpha_bar: Tensor, prediction: Prediction) -> Tensor:
    """The clean images (n, c, h, w) in [0, 1] according to the network's output.

    output: (n, c or 2c, h, w). With a learned variance there are 2c channels: the first c are the prediction, the
    others do not affect x_0 (Nichol & Dhariwal 2021, eq. 15). Clamped to the pixel range, as published; nan where the
    output is not finite.
    """
    predicted = output[:, : x_t.shape[1]]
    if prediction == "epsilon":
        x_0 = (x_t - (1 - alpha_bar).sqrt() * predicted) / alpha_bar.sqrt()  # Ho et al. 2020, eq. 15
    elif prediction == "v_prediction":
        x_0 = alpha_bar.sqrt() * x_t - (1 - alpha_bar).sqrt() * predicted  # Salimans & Ho 2022, section 4
    else:
        x_0 = predicted
    # A clamp would turn an infinite output into a black or white pixel; as nan it is detected in `sanitize_batch`.
    return (torch.where(x_0.isfinite(), x_0.clamp(-1, 1), torch.nan) + 1) / 2


def load_denoiser(directory: Path, device: torch.device | str = "cpu") -> Denoiser:
    """Load a diffusers-format denoiser from a local directory (see `layout`); safetensors only, nothing is unpickled.

    InputError if a file is missing, the model is no `UNet2DModel` with a discrete noise schedule, or weights are
    missing or not finite.
    """
    files = layout(directory)
    schedule = read_config(files.scheduler)
    prediction = schedule.get("prediction_type", "epsilon")
    if prediction not in get_args(Prediction):
        raise InputError(
            f"the denoiser in {directory} predicts {prediction!r}; choose one that predicts "
            f"{', '.join(get_args(Prediction)[:-1])} or {get_args(Prediction)[-1]}"
        )
    alphas_cumprod = alphas_cumprod_of(schedule, files.scheduler)
    unet = load_unet(files)
    config: Any = unet.config
    size = config.sample_size[0] if isinstance(config.sample_size, (list, tuple)) else config.sample_size
    if not isinstance(size, int) or config.sample_size not in (size, [size, size], (size, size)):
        raise InputError(
            f"{files.config} has sample_size {config.sample_size}; a denoiser needs one square image "
            "size: set sample_size to the side it was trained for, or choose another denoiser"
        )
    if config.out_channels not in (config.in_channels, 2 * config.in_channels):
        raise InputError(
            f"the denoiser in {directory} has {config.out_channels} output channels for {config.in_channels} input "
            "channels; choose one with as many, or twice as many (a learned variance)"
        )
    if config.class_embed_type is not None or config.num_class_embeds is not None:
        raise InputError(f"the denoiser in {directory} needs a class label with every image; choose one that does not")
    target = torch.device(device)
    if is_accelerator(target):
        compute_repeatably()
    return Denoiser(
        unet=unet.to(target, memory_format=torch.channels_last).eval().requires_grad_(requires_grad=False),
        alphas_cumprod=alphas_cumprod.to(target, torch.float32),
        facts=Facts(config.in_channels, size, largest_sigma(alphas_cumprod.numpy())),
        digest=digest_of(directory),
        device=target,
        prediction=prediction,
        rescale_timesteps=bool(schedule.get("rescale_timesteps", False)),
        int8=read_int8(directory),
        directory=directory.absolute(),
    )
