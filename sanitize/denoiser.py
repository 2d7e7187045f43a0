"""An off-the-shelf diffusion model used as a one-step denoiser."""

import hashlib
import json
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sanitize.errors import InputError
from sanitize.timestep import timestep_for

WEIGHTS = "diffusion_pytorch_model.safetensors"
SCHEDULER = "scheduler_config.json"
PROVENANCE = "provenance.json"


@dataclass(frozen=True, eq=False)
class Denoiser:
    """An epsilon-prediction DDPM with its noise schedule, on a device, ready for one-step denoising.

    `digest` is the sha256 over its weights and configurations: the same files give the same digest.
    """

    unet: torch.nn.Module
    alphas_cumprod: Tensor
    channels: int
    sample_size: int
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
    schedule = _read_config(scheduler_file)
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
            raise InputError(f"the denoiser in {unet_dir} does not load: {_first_line(error)}") from error
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
        channels=config.in_channels,
        sample_size=int(config.sample_size),
        digest=digest_of(directory),
        device=target,
    )


def find_denoiser(source: str, revision: str | None = None) -> Path:
    """The local directory of `source`: a directory, or a hub id that is fetched (safetensors and configs only)."""
    path = Path(source)
    if path.is_dir():
        return path
    if path.parts[:1] in ((".",), ("..",), ("/",)) or source.count("/") != 1 or path.parent.is_dir():
        raise InputError(f"the denoiser directory {source} does not exist; give a directory with unet/ and scheduler/")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(source, revision=revision, allow_patterns=["*.json", "*.safetensors", "*/*.safetensors"])
        )
    except Exception as error:  # offline, no such repository, no such revision: many kinds
        raise InputError(
            f"the denoiser {source} cannot be fetched from the hub ({_first_line(error)}); "
            f"where there is a network run `hf download {source} --local-dir data/pretrained/denoiser`, "
            "copy that directory here and give its path"
        ) from error


def layout(directory: Path) -> tuple[Path, Path]:
    """(directory of the network, scheduler file) in a diffusers pipeline directory, nested or flat."""
    if not directory.is_dir():
        raise InputError(f"the denoiser directory {directory} does not exist; run `dvc repro denoiser` or give another")
    unet_dir = directory / "unet" if (directory / "unet").is_dir() else directory
    nested = directory / "scheduler" / SCHEDULER
    scheduler_file = nested if nested.is_file() else directory / SCHEDULER
    for needed in (unet_dir / "config.json", unet_dir / WEIGHTS, scheduler_file):
        if not needed.is_file():
            raise InputError(
                f"{needed} does not exist; a denoiser needs unet/config.json, unet/{WEIGHTS} and {SCHEDULER}"
            )
    return unet_dir, scheduler_file


def digest_of(directory: Path) -> str:
    """sha256 over the network's configuration and weights and the scheduler's configuration."""
    unet_dir, scheduler_file = layout(directory)
    digest = hashlib.sha256()
    for path in (unet_dir / "config.json", unet_dir / WEIGHTS, scheduler_file):
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text())
    except ValueError as error:
        raise InputError(f"{path} is no JSON ({error}); restore it") from error
    if not isinstance(config, dict):
        raise InputError(f"{path} holds no JSON object; restore it")
    return config


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
