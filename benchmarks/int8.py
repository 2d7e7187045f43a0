"""The denoiser in 8-bit integers on a CPU: how fast, how near its float32 twin, and what it costs in accuracy.

    python -m benchmarks.int8 --root DIR --denoiser DIR [--quick] [--only speed]

DIR: torchvision's folder of CIFAR-10, and a denoiser for it. The digits' sets and denoiser are the pipeline's (run
`dvc repro denoiser` first). One thread. Scales are set on images that are neither sanitized nor tested on. With
ONEDNN_MAX_CPU_ISA=AVX2 and ATEN_CPU_CAPABILITY=avx2 in the environment, the same networks run with the instructions of
a processor without AVX-512.
"""

import argparse
import os
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.common.recipes import RECIPE
from benchmarks.common.record import flags, record, results
from benchmarks.sanitizer import CIFAR10, random_denoiser
from cleanlabel.models.certificate import certified_accuracy, certify
from cleanlabel.models.draw import make_batch
from cleanlabel.models.materials import Materials
from cleanlabel.models.params import CertifyParams, TrainParams
from cleanlabel.models.rounding import down
from cleanlabel.models.training import predict, train
from cleanlabel.models.votes import count_votes
from cleanlabel.sanitize import errors
from cleanlabel.sanitize.copies import NETWORK_BATCH
from cleanlabel.sanitize.denoiser import Denoiser, load_denoiser
from cleanlabel.sanitize.denoiser_files import copy_denoiser
from cleanlabel.sanitize.fast import Mode, accelerate, choose_mode
from cleanlabel.sanitize.imageset import ImageSet, load, read_all
from cleanlabel.sanitize.int8 import installed
from cleanlabel.sanitize.noise import draw_entropy
from cleanlabel.sanitize.params import SanitizeParams, read_params
from cleanlabel.sanitize.paths import DENOISER, SETS
from cleanlabel.sanitize.quantise import quantise
from cleanlabel.sanitize.sanitizer import sanitize
from cleanlabel.sanitize.sources import open_published

SIGMAS, TRAINED = (0.1, 0.25, 0.5, 1.0), (0.25, 1.0)
"""Noise at which image quality is measured, and at which classifiers are trained."""
RADII = (0.0, 0.25, 0.5, 1.0)
RUN, COPY = 10_000, 5_000
"""Images of the run for which our way without int8 chooses its mode, and of the copies that classifiers train on."""
BATCH = 32
CAP = "ONEDNN_MAX_CPU_ISA"


def quantised(directory: Path, sigma: float, trusted: ImageSet, folder: Path) -> Denoiser:
    """The denoiser in `directory`, with an int8 network for this sigma; the files are in `folder`."""
    made = Path(tempfile.mkdtemp(dir=folder))
    copy_denoiser(directory, made)
    quantise(load_denoiser(made), sigma, trusted, made)
    return load_denoiser(made)


def psnr(a: Tensor, b: Tensor) -> float:
    """PSNR in dB of images in [0, 1]."""
    return round(-10 * torch.log10(torch.mean((a - b) ** 2)).item(), 2)


def speed(denoiser: Denoiser, sigma: float, images: int, rounds: int) -> dict[str, Any]:
    """Images per second of float32 (eager, folded, channels-last), our usual way and int8, in turn; int8's ratios.

    Seconds are the process's own on the processor: one thread works at a time, and other processes do not count.
    """
    side, channels = denoiser.facts.sample_size, denoiser.facts.channels
    noised = torch.rand(images, channels, side, side, generator=torch.Generator().manual_seed(0))
    ways: dict[str, Mode] = {"float32": "float32", "int8": "int8"}
    if CAP not in os.environ:  # the choice does not see that bfloat16 is capped
        ways["usual"] = choose_mode(denoiser, RUN)
    fast = {way: accelerate(denoiser, sigma, BATCH, mode=mode) for way, mode in ways.items()}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(rounds + 1):
        for way, run in fast.items():
            started = time.process_time()
            for part in noised.split(BATCH):
                run(part)
            if turn:  # the first warms up
                seconds[way].append(time.process_time() - started)
    found: dict[str, Any] = {
        "parameters": sum(p.numel() for p in denoiser.unet.parameters()),
        "modes": {way: run.mode for way, run in fast.items()},
        "images_per_second": {way: round(images / statistics.median(of), 2) for way, of in seconds.items()},
    }
    part = noised[:BATCH]
    found["int8_to_float32"] = psnr(fast["int8"](part), fast["float32"](part))
    for way in ways.keys() - {"int8"}:
        ratios = [a / b for a, b in zip(seconds[way], seconds["int8"], strict=True)]
        found[f"over_{way}"] = round(statistics.median(ratios), 2)
        found[f"over_{way}_range"] = [round(min(ratios), 2), round(max(ratios), 2)]
    return found


def quality(denoiser: Denoiser, sigma: float, test: ImageSet) -> dict[str, float]:
    """PSNR in dB to the clean images, of the float32 twin and of int8, and of int8 to the twin."""
    clean = torch.from_numpy(test.images).permute(0, 3, 1, 2) / 255
    noised = clean + sigma * torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))
    modes: tuple[Mode, Mode] = ("float32", "int8")
    fast = [accelerate(denoiser, sigma, NETWORK_BATCH, mode=mode) for mode in modes]
    twin, ours = (torch.cat([run(part) for part in noised.split(NETWORK_BATCH)]) for run in fast)
    return {
        "float32_to_clean": psnr(twin, clean),
        "int8_to_clean": psnr(ours, clean),
        "int8_to_float32": psnr(ours, twin),
    }


def trained(copy: NDArray[np.uint8], raw: ImageSet, test: ImageSet, recipe: TrainParams, seed: int) -> float:
    """Test accuracy of the ordinary classifier trained on this copy, in a process of its own."""
    torch.set_num_threads(1)
    model = train(copy, raw.labels, len(raw.classes), recipe, seed)
    return round(float(np.mean(predict(model, test.images) == test.labels)), 4)


def accuracies(
    denoiser: Denoiser, sigma: float, raw: ImageSet, test: ImageSet, recipe: TrainParams, seeds: int
) -> dict[str, list[float]]:
    """Test accuracy of classifiers trained on copies with the same noise, denoised in float32 and in int8, by seed."""
    entropy, found = draw_entropy("os").value, {}
    modes: tuple[Mode, Mode] = ("float32", "int8")
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        for mode in modes:
            fast = accelerate(denoiser, sigma, NETWORK_BATCH, mode=mode)
            copy = sanitize(raw, sigma, denoiser, entropy, denoise=fast, batch=NETWORK_BATCH, progress=True)
            found[mode] = list(
                pool.map(trained, *zip(*[(copy, raw, test, recipe, s) for s in range(seeds)], strict=True))
            )
    return found


def certified(denoiser: Denoiser, sets: dict[str, ImageSet], m: int, ensembles: int) -> dict[str, Any]:
    """Certified accuracy on the digits at RADII, of ensembles with the same noise, without and with int8."""
    sigma, alpha = read_params("sanitize", SanitizeParams).sigma, read_params("certify", CertifyParams).alpha
    recipe, raw, test = read_params("train", TrainParams), sets["raw"], sets["test"]
    found: dict[str, Any] = {"sigma": sigma, "m": m, "alpha": alpha, "radii": RADII, "usual": [], "int8": []}
    for _ in range(ensembles):
        entropy = draw_entropy("os").value
        for way, using in (("usual", replace(denoiser, int8=None)), ("int8", denoiser)):
            materials = Materials(raw, test, sigma, using, recipe, m)
            votes = {}
            for start in range(0, m, 25):
                votes |= {
                    one.draw: one.votes for one in make_batch(materials, entropy, range(start, min(m, start + 25)))
                }
            label, radius = certify(count_votes(votes, m, len(test), len(raw.classes)), m, sigma, alpha)
            shares = certified_accuracy(label, radius, test.labels, RADII)
            found[way].append([down(share, 4) for share in shares])
            print(f"{way}: certified accuracy {found[way][-1]}", flush=True)
    found["points"] = [
        round(100 * float(np.mean([b[i] - a[i] for a, b in zip(found["usual"], found["int8"], strict=True)])), 2)
        for i in range(len(RADII))
    ]
    return found


def speeds(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Speed of the three networks, and image quality. folder: for files that may be removed then."""
    rounds, images, sigmas = (
        (1, 64, TRAINED[:1]) if args.quick else (5, 256, TRAINED[:1] if CAP in os.environ else SIGMAS)
    )
    trusted, _, test = cifar(args)
    digits, sigma = load(SETS["trusted"]), read_params("sanitize", SanitizeParams).sigma
    small = {s: quantised(args.denoiser, s, trusted, folder) for s in sigmas}
    rows = {
        "digits": speed(quantised(DENOISER, sigma, digits, folder), sigma, 8 * images, rounds),
        "small": speed(small[0.25], 0.25, images, rounds),
    }
    if not args.quick:
        large = quantised(random_denoiser(CIFAR10, folder / "large"), 0.5, trusted.take(np.arange(32)), folder)
        rows["cifar10"] = speed(large, 0.5, BATCH, rounds)
    shown = test.take(np.arange(images))
    psnrs = {f"{s:g}": quality(denoiser, s, shown) for s, denoiser in small.items()}
    return {"networks": rows, "quality": psnrs, "rounds": rounds, "capped": os.environ.get(CAP)}


def on_digits(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Certified accuracy on the digits."""
    digits = {name: load(path) for name, path in SETS.items()}
    denoiser = quantised(DENOISER, read_params("sanitize", SanitizeParams).sigma, digits["trusted"], folder)
    m, ensembles = (20, 1) if args.quick else (100, 10)
    return certified(denoiser, digits, m, ensembles)


def on_copies(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Accuracy of classifiers trained on copies of CIFAR-10."""
    trusted, raw, test = cifar(args)
    recipe, seeds = RECIPE.model_copy(update={"epochs": 1} if args.quick else {}), 1 if args.quick else 3
    found = {}
    for s in TRAINED[:1] if args.quick else TRAINED:
        found[f"{s:g}"] = accuracies(quantised(args.denoiser, s, trusted, folder), s, raw, test, recipe, seeds)
        print(f"accuracy at sigma={s:g}: {found[f'{s:g}']}", flush=True)
    return {"accuracies": found, "images": len(raw)}


PARTS = {"speed": speeds, "certified": on_digits, "accuracy": on_copies}


def cifar(args: argparse.Namespace) -> tuple[ImageSet, ImageSet, ImageSet]:
    """CIFAR-10: 256 images for the scales, those that are sanitized, and the test images."""
    published = {split: open_published("cifar10", args.root, split) for split in ("train", "test")}
    train_split, test = (read_all(source, "cifar10") for source in published.values())
    last = len(train_split)
    raw = train_split.take(np.arange(min(256 if args.quick else COPY, last - 16)))
    return train_split.take(np.arange(max(len(raw), last - 256), last)), raw, test


def main() -> None:
    parser = flags("int8", __doc__, "one round, one seed, 20 models, without the network for CIFAR-10")
    parser.add_argument("--root", type=Path, required=True, help="where torchvision put CIFAR-10")
    parser.add_argument("--denoiser", type=Path, required=True, help="a diffusers directory, for CIFAR-10")
    parser.add_argument("--only", choices=PARTS, help="measure this part alone")
    args = parser.parse_args()
    torch.set_num_threads(1)
    versions = {"versions": {name: installed(name) for name in ("openvino", "nncf")}}
    for part in [args.only] if args.only else PARTS:
        with tempfile.TemporaryDirectory() as scratch:
            found = PARTS[part](args, Path(scratch))
        suffix = f"_{os.environ[CAP].lower()}" if CAP in os.environ else ""
        record(f"int8_{part}{suffix}", versions | found, results(args))


if __name__ == "__main__":
    errors.run(main)
