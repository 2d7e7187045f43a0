"""Stage `denoiser`: train a small DDPM on the trusted split, or take a pretrained one.

    python -m sanitize.pretrain

Either way data/denoiser/ then holds a diffusers pipeline directory (`unet/`, `scheduler/`, safetensors).
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import trange

from sanitize import errors
from sanitize.denoiser import load_denoiser
from sanitize.denoiser_files import PROVENANCE, copy_denoiser, find_denoiser
from sanitize.errors import InputError
from sanitize.files import replacing, write_json
from sanitize.imageset import ImageSet, load
from sanitize.params import DenoiserParams, read_params
from sanitize.paths import DENOISER, SETS

LARGEST_TIMESTEP = 600
"""Training draws timesteps below this (of 1,000): sigma up to 2.6, more than any image survives."""
EMA = 0.998
"""Weights are averaged over the last 500 steps or so."""
LEAST_IMAGES = 16


def train_denoiser(trusted: ImageSet, params: DenoiserParams, directory: Path) -> None:
    """Train a UNet2DModel (epsilon-prediction, linear 1,000 steps) on the trusted images; save it in `directory`.

    Deterministic: the same images, params and number of threads on one machine give the same bytes.
    """
    from diffusers import DDPMScheduler, UNet2DModel  # imported late: it takes seconds

    h, w, channels = trusted.image_shape
    if len(trusted) < LEAST_IMAGES:
        raise InputError(
            f"the trusted set has {len(trusted)} images, too few to train a denoiser; "
            f"give at least {LEAST_IMAGES}, or name a pretrained one in denoiser.source"
        )
    if h != w or h % 2 ** (len(params.channels) - 1):
        raise InputError(
            f"the trusted images are {w}x{h}; the denoiser trained here takes square images whose side divides by "
            f"{2 ** (len(params.channels) - 1)}, so resize them or name a pretrained one in denoiser.source"
        )
    torch.manual_seed(params.seed)
    depth = len(params.channels)
    unet = UNet2DModel(
        sample_size=h,
        in_channels=channels,
        out_channels=channels,
        layers_per_block=1,
        block_out_channels=params.channels,
        down_block_types=("DownBlock2D",) * depth,
        up_block_types=("UpBlock2D",) * depth,
        norm_num_groups=8,
        add_attention=False,
    )
    scheduler = DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear", prediction_type="epsilon")
    clean = torch.from_numpy(trusted.images).permute(0, 3, 1, 2).float() / 127.5 - 1
    optimiser = torch.optim.AdamW(unet.parameters(), lr=params.learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, params.learning_rate, total_steps=params.steps, pct_start=0.05
    )
    average = AveragedModel(unet, multi_avg_fn=get_ema_multi_avg_fn(EMA))  # type: ignore[no-untyped-call]
    generator = torch.Generator().manual_seed(params.seed)
    progress = trange(params.steps, desc="denoiser", unit="step", mininterval=1)
    for _ in progress:
        rows = torch.randint(len(clean), (params.batch,), generator=generator)
        t = torch.randint(LARGEST_TIMESTEP, (params.batch,), generator=generator)
        noise = torch.randn((params.batch, channels, h, w), generator=generator)
        predicted = unet(scheduler.add_noise(clean[rows], noise, t), t).sample
        loss = functional.mse_loss(predicted, noise)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        average.update_parameters(unet)
        progress.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    averaged: Any = average.module
    averaged.save_pretrained(directory / "unet", safe_serialization=True)
    scheduler.save_pretrained(directory / "scheduler")


def main() -> None:
    params = read_params("denoiser", DenoiserParams)
    trusted = load(SETS["trusted"])
    with replacing(DENOISER) as scratch:
        scratch.mkdir()
        if params.source == "train":
            train_denoiser(trusted, params, scratch)
        else:
            copy_denoiser(find_denoiser(params.source, params.revision), scratch)
        denoiser = load_denoiser(scratch)  # refuses what cannot be used before anything is replaced
        write_json(
            scratch / PROVENANCE,
            {
                "digest": denoiser.digest,
                "source": "trained on the trusted split" if params.source == "train" else params.source,
                "revision": params.revision,
                "state": "disjoint" if params.source == "train" else params.provenance,
                "trained_on": trusted.digest if params.source == "train" else None,
                "made_for": asdict(denoiser.facts),
            },
        )
    parameters = sum(p.numel() for p in denoiser.unet.parameters())
    print(f"{DENOISER}: {parameters / 1e6:.2f} M parameters, digest {denoiser.digest[:12]}")


if __name__ == "__main__":
    errors.run(main)
