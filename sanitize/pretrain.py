"""Stage `denoiser`: train a small DDPM on the trusted split, or use a pretrained one.

    python -m sanitize.pretrain

Either way, data/denoiser/ then contains a diffusers pipeline directory (`unet/`, `scheduler/`, safetensors) and its
provenance: provenance.json, and images.npz if there is a record of its training images.
"""

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import trange

from cleanlabel.sanitize import errors
from cleanlabel.sanitize.denoiser import load_denoiser
from cleanlabel.sanitize.denoiser_files import HERE, IMAGES, PROVENANCE, copy_denoiser, copy_record, find_denoiser
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.files import file_digest, replacing, write_json
from cleanlabel.sanitize.imageset import ImageSet, load
from cleanlabel.sanitize.overlap import record_of, to_bytes
from cleanlabel.sanitize.params import DenoiserParams, read_params, require_stated
from cleanlabel.sanitize.paths import DENOISER, SETS

LARGEST_TIMESTEP = 600
"""Training draws timesteps below this (of 1,000): sigma up to 2.6, which destroys any image."""
EMA, EMA_WINDOWS = 0.998, 8
"""Weights are averaged over about the last eighth of the steps, at most 500: including the untrained first weights
would cost .5 dB (digits, 800 steps)."""
STEPS_8X8, LEAST_SHARE = 800, 0.5
"""Steps for 8x8 images, and the least share of them. Larger images need fewer: each has more pixels to learn from."""
LEAST_IMAGES = 16


def steps_for(image_shape: tuple[int, int, int]) -> int:
    """The number of training steps for images of this shape (h, w, channels), which alone determines it."""
    h, w, _ = image_shape
    return round(STEPS_8X8 * max(LEAST_SHARE, min(1.0, 8 / math.sqrt(h * w))))


def train_denoiser(trusted: ImageSet, params: DenoiserParams, directory: Path) -> int:
    """Train a UNet2DModel (epsilon-prediction, linear 1,000 steps) on the trusted images; save it in `directory`.

    Deterministic: the same images, params and number of threads on one machine give the same bytes. Returns the number
    of steps.
    """
    steps = params.steps or steps_for(trusted.image_shape)
    training = Training(trusted, params, steps)
    progress = trange(steps, desc="denoiser", unit="step", mininterval=1)
    for _ in progress:
        progress.set_postfix(loss=f"{training.step():.3f}", refresh=False)
    training.save(directory)
    return steps


class Training:
    """The training of a new denoiser, step by step. InputError for unsuitable images."""

    def __init__(self, trusted: ImageSet, params: DenoiserParams, steps: int) -> None:
        from diffusers import DDPMScheduler, UNet2DModel  # imported late: it takes seconds

        require_trusted(trusted, params)
        torch.manual_seed(params.seed)
        depth = len(params.channels)
        self.unet = UNet2DModel(
            sample_size=trusted.image_shape[0],
            in_channels=trusted.image_shape[2],
            out_channels=trusted.image_shape[2],
            layers_per_block=1,
            block_out_channels=params.channels,
            down_block_types=("DownBlock2D",) * depth,
            up_block_types=("UpBlock2D",) * depth,
            norm_num_groups=8,
            add_attention=False,
        )
        self.scheduler = DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear", prediction_type="epsilon")
        self.clean = torch.from_numpy(trusted.images).permute(0, 3, 1, 2).float() / 127.5 - 1
        self.batch = params.batch
        self.optimiser = torch.optim.AdamW(self.unet.parameters(), lr=params.learning_rate)
        rising = 0.1 if steps == 20 else 0.05  # a rise of exactly one step would divide by zero
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimiser, params.learning_rate, total_steps=steps, pct_start=rising
        )
        decay = min(EMA, max(0.0, 1 - EMA_WINDOWS / steps))
        self.average = AveragedModel(self.unet, multi_avg_fn=get_ema_multi_avg_fn(decay))  # type: ignore[no-untyped-call]
        self.generator = torch.Generator().manual_seed(params.seed)

    def step(self) -> float:
        """Make one step. Returns its loss."""
        shape, generator = (self.batch, *self.clean.shape[1:]), self.generator
        rows = torch.randint(len(self.clean), (self.batch,), generator=generator)
        t = torch.randint(LARGEST_TIMESTEP, (self.batch,), generator=generator)
        noise = torch.randn(shape, generator=generator)
        predicted = self.unet(self.scheduler.add_noise(self.clean[rows], noise, t), t).sample
        loss = functional.mse_loss(predicted, noise)
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        self.schedule.step()
        self.average.update_parameters(self.unet)
        return loss.item()

    def save(self, directory: Path) -> None:
        """Save the network with averaged weights and its scheduler as a diffusers directory."""
        averaged: Any = self.average.module
        averaged.save_pretrained(directory / "unet", safe_serialization=True)
        self.scheduler.save_pretrained(directory / "scheduler")


def require_trusted(trusted: ImageSet, params: DenoiserParams) -> None:
    """InputError unless a denoiser with these channels can be trained on these images."""
    h, w, _ = trusted.image_shape
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


def main() -> None:
    params = read_params("denoiser", DenoiserParams)
    here = params.source == "train"
    if not here:
        source = f"the denoiser (denoiser.source={params.source!r})"
        require_stated(source, ("denoiser.provenance", params.provenance), ("denoiser.origin", params.origin))
    trusted = load(SETS["trusted"])
    with replacing(DENOISER) as scratch:
        scratch.mkdir()
        steps, trained_on = None, None
        if here:
            steps, trained_on = train_denoiser(trusted, params, scratch), trusted.digest
            (scratch / IMAGES).write_bytes(to_bytes(record_of(trusted.images, trusted.ids)))
        else:
            source_dir = find_denoiser(params.source, params.revision)
            copy_denoiser(source_dir, scratch)
            trained_on = copy_record(source_dir, scratch)
        denoiser = load_denoiser(scratch)  # refuses an unusable denoiser before anything is replaced
        write_json(
            scratch / PROVENANCE,
            {
                "digest": denoiser.digest,
                "source": HERE if here else params.source,
                "revision": params.revision,
                "state": params.provenance or "disjoint",
                "origin": params.origin,
                "trained_on": trained_on,
                "images": file_digest(scratch / IMAGES) if (scratch / IMAGES).is_file() else None,
                "steps": steps,
                "made_for": asdict(denoiser.facts),
            },
        )
    parameters = sum(p.numel() for p in denoiser.unet.parameters())
    print(f"{DENOISER}: {parameters / 1e6:.2f} M parameters, digest {denoiser.digest[:12]}")


if __name__ == "__main__":
    errors.run(main)
