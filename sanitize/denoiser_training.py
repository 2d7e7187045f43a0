"""The training of a new denoiser, step by step; it can be saved and resumed at any step."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from cleanlabel.sanitize.denoiser import Prediction, clean_from
from cleanlabel.sanitize.device import has_fast_bfloat16
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.files import replacing
from cleanlabel.sanitize.imageset import ImageSet
from cleanlabel.sanitize.keys import Inputs, code_digest, in_order, key_of
from cleanlabel.sanitize.params import DenoiserParams
from cleanlabel.sanitize.timestep import timestep_for

TIMESTEPS, LARGEST_TIMESTEP = 1000, 600
"""Training draws timesteps whose noise is below that of the linear schedule's 600th: sigma up to 2.6, which destroys
any image."""
EMA, EMA_WINDOWS = 0.998, 8
"""Weights are averaged over about the last eighth of the steps, at most 500: including the untrained first weights
would cost .5 dB (digits, 800 steps)."""
LEAST_IMAGES = 16
SCHEDULES = {"linear": "linear", "cosine": "squaredcos_cap_v2"}
"""Our names and diffusers' names."""
SHOWN_SIGMAS = (0.1, 0.25, 0.5, 1.0)
"""Noise levels at which the PSNR of held-out images is measured."""


@dataclass(frozen=True)
class TrainingInputs(Inputs):
    """What a training depends on: its trusted images in their order, its steps, its params, its code."""

    trusted: str
    steps: int
    params: dict[str, Any]
    code: str


class Training:
    """The training of a new denoiser. InputError for unsuitable images or a precision that the machine lacks.

    The same images, params and number of threads on one machine give the same weights, with or without interruption.
    """

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
        self.scheduler = DDPMScheduler(
            num_train_timesteps=TIMESTEPS,
            beta_schedule=SCHEDULES[params.schedule],
            prediction_type=params.prediction,
        )
        self.prediction: Prediction = params.prediction
        self.timesteps = trained_timesteps(self.scheduler.alphas_cumprod)
        order = np.random.default_rng(params.seed).permutation(len(trusted)) if params.held_out else slice(None)
        images = trusted.images[order]
        split = len(images) - params.held_out
        self.clean, self.held_out = as_pixels(images[:split]), as_pixels(images[split:])
        self.batch = params.batch
        self.autocast = params.precision == "bfloat16"
        self.optimiser = torch.optim.AdamW(self.unet.parameters(), lr=params.learning_rate)
        rising = 0.1 if steps == 20 else 0.05  # a rise of exactly one step would divide by zero
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimiser, params.learning_rate, total_steps=steps, pct_start=rising
        )
        decay = min(EMA, max(0.0, 1 - EMA_WINDOWS / steps))
        self.average = AveragedModel(self.unet, multi_avg_fn=get_ema_multi_avg_fn(decay))  # type: ignore[no-untyped-call]
        self.generator = torch.Generator().manual_seed(params.seed)
        self.done = 0
        self.inputs = TrainingInputs(
            in_order(trusted),
            steps,
            params.model_dump(exclude={"int8"}),  # the finished network is quantised
            code_digest("cleanlabel.sanitize.denoiser_training"),
        )

    def step(self) -> float:
        """Make one step. Returns its loss."""
        shape, generator = (self.batch, *self.clean.shape[1:]), self.generator
        rows = torch.randint(len(self.clean), (self.batch,), generator=generator)
        t = torch.randint(self.timesteps, (self.batch,), generator=generator)
        noise = torch.randn(shape, generator=generator)
        noised = self.scheduler.add_noise(self.clean[rows], noise, t)
        wanted = noise
        if self.prediction == "v_prediction":
            wanted = self.scheduler.get_velocity(self.clean[rows], noise, t)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
            predicted = self.unet(noised, t).sample
        loss = functional.mse_loss(predicted.float(), wanted)
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        self.schedule.step()
        self.average.update_parameters(self.unet)
        self.done += 1
        return loss.item()

    @torch.inference_mode()
    def psnr(self) -> dict[str, float]:
        """PSNR in dB of the held-out images, noised and denoised by the averaged weights, at each of SHOWN_SIGMAS."""
        found = {}
        for sigma in SHOWN_SIGMAS:
            alpha_bar = self.scheduler.alphas_cumprod
            t = timestep_for(sigma, alpha_bar.numpy())
            noise = torch.randn(self.held_out.shape, generator=torch.Generator().manual_seed(0))
            x_t = alpha_bar[t].sqrt() * (self.held_out + 2 * sigma * noise)
            output = torch.cat([self.average(part, t).sample for part in x_t.split(self.batch)])
            clean = (self.held_out + 1) / 2
            error = functional.mse_loss(clean_from(output, x_t, alpha_bar[t], self.prediction), clean).item()
            found[f"{sigma:g}"] = round(-10 * math.log10(error), 2)
        return found

    def save(self, directory: Path) -> None:
        """Save the network with averaged weights and its scheduler as a diffusers directory."""
        averaged: Any = self.average.module
        averaged.save_pretrained(directory / "unet", safe_serialization=True)
        self.scheduler.save_pretrained(directory / "scheduler")

    def keep(self, path: Path) -> None:
        """Write everything that the next steps depend on, atomically."""
        tensors = {f"unet.{name}": value for name, value in self.unet.state_dict().items()}
        tensors |= {f"average.{name}": value for name, value in self.average.state_dict().items()}
        state = self.optimiser.state_dict()
        tensors |= {f"optimiser.{i}.{name}": v for i, of in state["state"].items() for name, v in of.items()}
        tensors["generator"] = self.generator.get_state()
        facts = {"done": self.done, "groups": state["param_groups"], "schedule": self.schedule.state_dict()}
        tensors = {name: value.detach().clone().contiguous() for name, value in tensors.items()}
        with replacing(path) as scratch:
            safetensors.torch.save_file(
                tensors, scratch, metadata={"key": key_of(self.inputs), "facts": json.dumps(facts)}
            )

    def resume(self, path: Path) -> bool:
        """Go on from a file of `keep`. False, and nothing changed, if it is missing, damaged or of another training."""
        try:
            with safetensors.safe_open(path, framework="pt") as archive:
                if (archive.metadata() or {}).get("key") != key_of(self.inputs):
                    return False
                facts = json.loads(archive.metadata()["facts"])
                tensors: dict[str, Tensor] = {name: archive.get_tensor(name) for name in archive.keys()}  # noqa: SIM118
        except (OSError, safetensors.SafetensorError):
            return False
        self.unet.load_state_dict(_below("unet.", tensors))
        self.average.load_state_dict(_below("average.", tensors))
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in _below("optimiser.", tensors).items():
            number, _, key = name.partition(".")
            state.setdefault(int(number), {})[key] = value
        self.optimiser.load_state_dict({"state": state, "param_groups": facts["groups"]})
        self.schedule.load_state_dict(facts["schedule"])
        self.generator.set_state(tensors["generator"])
        self.done = facts["done"]
        return True


def trained_timesteps(alphas_cumprod: Tensor) -> int:
    """How many of a schedule's timesteps have less noise than the linear schedule's LARGEST_TIMESTEP."""
    linear = torch.cumprod(1 - torch.linspace(1e-4, 0.02, TIMESTEPS, dtype=torch.float32), 0)
    return int((alphas_cumprod > linear[LARGEST_TIMESTEP]).sum())


def as_pixels(images: NDArray[np.uint8]) -> Tensor:
    """float32 (n, c, h, w) in [-1, 1] of images (n, h, w, c)."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


def require_trusted(trusted: ImageSet, params: DenoiserParams) -> None:
    """InputError unless a denoiser with these params can be trained on these images."""
    h, w, _ = trusted.image_shape
    if len(trusted) - params.held_out < LEAST_IMAGES:
        held = f", and denoiser.held_out={params.held_out} are kept apart" if params.held_out else ""
        raise InputError(
            f"the trusted set has {len(trusted)} images{held}, too few to train a denoiser; "
            f"give at least {LEAST_IMAGES + params.held_out}, or name a pretrained one in denoiser.source"
        )
    if h != w or h % 2 ** (len(params.channels) - 1):
        raise InputError(
            f"the trusted images are {w}x{h}; the denoiser trained here takes square images whose side divides by "
            f"{2 ** (len(params.channels) - 1)}, so resize them or name a pretrained one in denoiser.source"
        )
    if params.precision == "bfloat16" and not has_fast_bfloat16(torch.device("cpu")):
        raise InputError(
            "param denoiser.precision=bfloat16: this processor has no instructions for it and would be slower; "
            "set it to float32"
        )


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
