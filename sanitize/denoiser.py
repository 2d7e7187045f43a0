"""An off-the-shelf diffusion model used as a one-step denoiser."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sanitize.denoiser_files import Facts, digest_of, first_line, layout, read_config
from sanitize.errors import InputError
from sanitize.timestep import largest_sigma, timestep_for


@dataclass(frozen=True, eq=False)
class Denoiser:
    """An epsilon-prediction DDPM with its noise schedule, on a device, ready for one-step denoising.

    `digest` is the sha256 over its weights and configurations: the same files give the same digest.
    """

    unet: torch.nn.Module
    alphas_cumprod: Tensor
    facts: Facts
    digest: str
    device: torch.device

    def timestep(self, sigma: float) -> int:
        """The timestep whose noise level matches sigma (in [0,1] pixel units); see `timestep_for`."""
        return timestep_for(sigma, self.alphas_cumprod.cpu().numpy())

    @torch.inference_mode()
    def denoise(self, noised: Tensor, sigma: float) -> Tensor:
        """The network's one-step estimate of the clean images.

        noised: float32 (n, c, h, w) = clean + N(0, sigma^2), in [0,1] units, unclipped. Returns the same shape, in
        [0, 1]. With x = 2 * noised - 1 the diffusion's own x_t is sqrt(abar_t) x, and the estimate is
        (x_t - sqrt(1 - abar_t) eps(x_t, t)) / sqrt(abar_t) (Ho et al. 2020, eq. 15; the same as one
        `DDPMScheduler.step` predicts).
        """
        t = self.timestep(sigma)
        alpha_bar = self.alphas_cumprod[t]
        x_t = alpha_bar.sqrt() * (2 * noised - 1)
        epsilon = self.unet(x_t, t).sample
        x_0 = (x_t - (1 - alpha_bar).sqrt() * epsilon) / alpha_bar.sqrt()
        clean: Tensor = (x_0.clamp(-1, 1) + 1) / 2
        return clean


def load_denoiser(directory: Path, device: torch.device | str = "cpu") -> Denoiser:
    """Load a diffusers-format denoiser from a local directory (`unet/`, `scheduler/`); safetensors only.

    InputError if a file is missing, the model is no epsilon-prediction DDPM, or its weights do not fit its config.
    """
    unet_dir, scheduler_file = layout(directory)
    schedule = read_config(scheduler_file)
    if schedule.get("prediction_type", "epsilon") != "epsilon":
        raise InputError(
            f"the denoiser in {directory} predicts {schedule['prediction_type']!r}; choose an epsilon-prediction model"
        )
    from diffusers import DDPMScheduler, UNet2DModel  # imported late: it takes seconds

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        try:
            unet = UNet2DModel.from_pretrained(
                str(unet_dir), use_safetensors=True, local_files_only=True, low_cpu_mem_usage=False
            )
        except Exception as error:  # diffusers raises many kinds here
            raise InputError(f"the denoiser in {unet_dir} does not load: {first_line(error)}") from error
        scheduler = DDPMScheduler.from_config(schedule)
    config: Any = unet.config
    if config.out_channels != config.in_channels:
        raise InputError(
            f"the denoiser in {directory} has {config.out_channels} output channels for {config.in_channels} input "
            "channels; models with a learned variance are not supported"
        )
    target = torch.device(device)
    unet = unet.to(target, memory_format=torch.channels_last).eval().requires_grad_(requires_grad=False)
    return Denoiser(
        unet=unet,
        alphas_cumprod=scheduler.alphas_cumprod.to(target, torch.float32),
        facts=Facts(config.in_channels, int(config.sample_size), largest_sigma(scheduler.alphas_cumprod.numpy())),
        digest=digest_of(directory),
        device=target,
    )
