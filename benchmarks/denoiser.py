"""Train a denoiser on CIFAR-10's training split, and compare it with another on the test split.

    python -m benchmarks.denoiser --root DIR --denoiser DIR [--scratch DIR] [--steps N]

First short trainings of the cells in PROBED, then the training of the cell CHOSEN, by the functions of
`sanitize.pretrain`. A training that was interrupted goes on from --scratch, where the finished denoiser lies as well.
The figures: PSNR on the first test images, which neither has seen, under the same noise; and what each is worth to the
conv network of `benchmarks.conv`.
"""

import argparse
import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common.record import flags, record, results
from benchmarks.conv import setting as conv
from benchmarks.conv.denoised import worth
from benchmarks.conv.networks import without_denormals
from cleanlabel.sanitize import errors
from cleanlabel.sanitize.denoiser import Denoiser, load_denoiser
from cleanlabel.sanitize.denoiser_training import SHOWN_SIGMAS, Training
from cleanlabel.sanitize.device import has_fast_bfloat16
from cleanlabel.sanitize.files import replacing
from cleanlabel.sanitize.imageset import ImageSet, read_all
from cleanlabel.sanitize.noise import draw_entropy
from cleanlabel.sanitize.params import DenoiserParams
from cleanlabel.sanitize.pretrain import train_denoiser
from cleanlabel.sanitize.quality import psnr
from cleanlabel.sanitize.sanitizer import as_pixels, sanitize_batch
from cleanlabel.sanitize.sources import open_published

Cell = dict[str, Any]
PROBED: dict[str, Cell] = {
    "A": {"channels": (32, 64, 128), "schedule": "linear", "prediction": "epsilon"},
    "B": {"channels": (32, 64, 128), "schedule": "cosine", "prediction": "v_prediction"},
    "C": {"channels": (32, 64, 128, 128), "schedule": "cosine", "prediction": "v_prediction"},
}
"""What is tried. C costs about as much as B: its fourth resolution has few pixels."""
CHOSEN = "C"
BATCH, LEARNING_RATE, SEED = 64, 2e-3, 0
NARROW = (8, 16)
"""Widths with which `--quick` shows that the command works."""
TEST_IMAGES = 500
TIMED = 10


@dataclass(frozen=True)
class Size:
    """How much is computed."""

    images: int
    held_out: int
    probe: int
    steps: int


FULL = Size(images=50_000, held_out=200, probe=200, steps=10_000)
JUDGED = replace(conv.FULL, sigmas=(0.25, 0.5))
"""The conv network that judges the denoisers, at sigma .25 and .5: at .1 sanitizing costs it little accuracy."""
QUICK = Size(images=200, held_out=20, probe=2, steps=2)


def parsed() -> argparse.Namespace:
    """The flags."""
    parser = flags("denoiser", __doc__, f"{QUICK.images} images, {QUICK.steps} steps")
    parser.add_argument("--root", type=Path, required=True, help="where torchvision put CIFAR-10")
    parser.add_argument("--denoiser", type=Path, required=True, help="the one to compare with")
    scratch = Path("data/pretrained/denoiser-cifar10")
    parser.add_argument("--scratch", type=Path, default=scratch, help="keeps the denoisers")
    parser.add_argument("--steps", type=int, help=f"of the long training (default {FULL.steps:,})")
    return parser.parse_args()


def params_of(cell: Cell, steps: int, held_out: int, precision: str) -> DenoiserParams:
    """The section `denoiser` of params.yaml for this training."""
    fixed = {"source": "train", "revision": None, "provenance": None, "origin": None}
    training = {"batch": BATCH, "learning_rate": LEARNING_RATE, "seed": SEED, "steps": steps}
    return DenoiserParams.model_validate({**fixed, **training, **cell, "held_out": held_out, "precision": precision})


def made(trusted: ImageSet, params: DenoiserParams, directory: Path) -> tuple[Path, dict[str, Any]]:
    """The denoiser trained with these params, and its facts; found in `directory` if it was trained there before."""
    facts = directory / "facts.json"
    if not directory.is_dir():
        directory.parent.mkdir(parents=True, exist_ok=True)
        with replacing(directory) as part:
            part.mkdir()
            steps, held_out = train_denoiser(trusted, params, part, directory.with_suffix(".unfinished"))
            found = {"steps": steps, "held_out_psnr": held_out, "core_seconds": round(steps * a_step(trusted, params))}
            (part / facts.name).write_text(json.dumps(found))
    return directory, json.loads(facts.read_text())


def a_step(trusted: ImageSet, params: DenoiserParams) -> float:
    """Processor time of a step in seconds; measured apart, since a training may have been interrupted."""
    training = Training(trusted, params, 2 * TIMED)
    training.step()
    started = time.process_time()
    for _ in range(TIMED):
        training.step()
    return (time.process_time() - started) / TIMED


def quality(denoiser: Denoiser | None, images: ImageSet) -> dict[str, float]:
    """PSNR in dB of sanitized images at each of SHOWN_SIGMAS, under one fixed noise; None: noise left in, clipped."""
    entropy, found = draw_entropy("fixed:2026").value, {}
    for sigma in SHOWN_SIGMAS:
        copy = sanitize_batch(images.images, images.ids, sigma, denoiser, entropy, 0)
        found[f"{sigma:g}"] = round(psnr(images.images, copy if denoiser else as_pixels(copy)), 2)
    return found


def main() -> None:
    args = parsed()
    size, scratch = (QUICK, args.scratch / "quick") if args.quick else (FULL, args.scratch)
    steps = args.steps or size.steps
    precision = "bfloat16" if has_fast_bfloat16(torch.device("cpu")) else "float32"
    trusted, test = (read_all(open_published("cifar10", args.root, split), "cifar10") for split in ("train", "test"))
    trusted, test = trusted.take(np.arange(size.images)), test.take(np.arange(min(TEST_IMAGES, size.images)))
    cells = {name: cell | {"channels": NARROW} for name, cell in PROBED.items()} if args.quick else PROBED
    other, probes = load_denoiser(args.denoiser), {}
    theirs, left_in = {"psnr": quality(other, test), "digest": other.digest}, quality(None, test)
    print(f"--denoiser: PSNR in dB by sigma {theirs['psnr']}; noise left in {left_in}", flush=True)
    for name, cell in cells.items():
        params = params_of(cell, size.probe, size.held_out, precision)
        _, probes[name] = made(trusted, params, scratch / f"probe-{name}-{size.probe}-{precision}")
    params = params_of(cells[CHOSEN], steps, size.held_out, precision)
    directory, facts = made(trusted, params, scratch / f"{CHOSEN}-{steps}-{precision}")
    trained = load_denoiser(directory)
    weights = sum(p.numel() for p in trained.unet.parameters())
    victim, cell = (conv.QUICK, conv.small(conv.Cell())) if args.quick else (JUDGED, conv.Cell())
    with without_denormals():
        bought = {
            name: worth(args.root, of, victim, cell, scratch / "victims")
            for name, of in (("compared", other), ("trained", trained))
        }
    own = {"directory": directory.name, **facts, "psnr": quality(trained, test), "weights": weights}
    figures = {
        "cells": cells, "chosen": CHOSEN, "params": params.model_dump(mode="json"), "probes": probes,
        "trained": own | {"digest": trained.digest}, "compared": theirs, "noise_left_in": left_in,
        "worth": bought, "images": len(trusted), "test_images": len(test),
    }  # fmt: skip
    record("denoiser", figures, results(args))


if __name__ == "__main__":
    errors.run(main)
