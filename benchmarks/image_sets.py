"""Sanitizing real image sets: PSNR, images per second, and the accuracy of ordinary training.

    python -m benchmarks.image_sets --set cifar10 --root DIR --denoiser DIR [--quick]
    python -m benchmarks.image_sets --set NAME --raw data/raw.npz --test data/test.npz --denoiser data/denoiser

The second form takes the pipeline's own sets, where the denoiser was trained on others. For each sigma the raw set is
sanitized by `python -m sanitize`'s own code; then the same classifier is trained on the raw and on the sanitized
images, several seeds each, and tested on clean images.
"""

import argparse
import math
import os
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common.recipes import RECIPE
from benchmarks.common.record import flags, record, results
from cleanlabel.models.params import TrainParams
from cleanlabel.models.training import predict, train
from cleanlabel.sanitize import errors
from cleanlabel.sanitize.copies import make_copy
from cleanlabel.sanitize.denoiser import Denoiser, load_denoiser
from cleanlabel.sanitize.imageset import ImageSet, load, read_all, save_npz
from cleanlabel.sanitize.noise import draw_entropy
from cleanlabel.sanitize.sanitizer import as_pixels, sanitize
from cleanlabel.sanitize.sources import open_published, open_source


def accuracy(copy: Path, test: Path, recipe: TrainParams, seed: int) -> float:
    """Test accuracy of the ordinary classifier on one copy, in a worker process on one core."""
    torch.set_num_threads(1)
    images, clean = load(copy), load(test)
    model = train(images.images, images.labels, len(images.classes), recipe, seed)
    return float(np.mean(predict(model, clean.images) == clean.labels))


def noisy_psnr(raw: ImageSet, sigma: float) -> float:
    """PSNR of the noised images, clipped to the pixel range, over the first 1,000."""
    shown = raw.take(np.arange(min(1000, len(raw))))
    noised = as_pixels(sanitize(shown, sigma, None, draw_entropy("os").value))
    mse = float(np.mean((noised.astype(np.float64) - shown.images) ** 2)) / 255**2
    return round(-10 * math.log10(mse), 2)


def sets_of(args: argparse.Namespace) -> tuple[ImageSet, ImageSet]:
    """The raw images, as many as the flags ask for, and the test images."""
    whole = load(args.raw) if args.raw else read_all(open_published(args.set, args.root, "train"), args.set)
    test = load(args.test) if args.test else read_all(open_published(args.set, args.root, "test"), args.set)
    return whole.take(np.arange(min(100 if args.quick else args.images, len(whole)))), test


def sanitized(raw: ImageSet, sigma: float, denoiser: Denoiser, folder: Path) -> dict[str, Any]:
    """Write the sanitized copy to the folder; what it cost and what it left."""
    started = time.perf_counter()
    output = folder / f"{sigma:g}.npz"
    made = make_copy(open_source(folder / "raw.npz"), output, sigma, denoiser, "os", 0, progress=True)
    return {
        "psnr_db": made["psnr_db"],
        "noisy_psnr_db": noisy_psnr(raw, sigma),
        "images_per_second": round(len(raw) / (time.perf_counter() - started), 1),
        "network": made["network"],
    }


def trained(names: Iterable[str], folder: Path, recipe: TrainParams, seeds: int) -> dict[str, list[float]]:
    """Test accuracies of the trainings on each copy, by its name; all at once, one core each."""
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), mp_context=get_context("spawn")) as pool:
        futures = {
            name: [pool.submit(accuracy, folder / f"{name}.npz", folder / "test.npz", recipe, s) for s in range(seeds)]
            for name in names
        }
        return {name: [future.result() for future in of] for name, of in futures.items()}


def show(rows: dict[str, dict[str, Any]]) -> None:
    """Print a line per sigma."""
    print("| σ | noisy PSNR, dB | sanitized PSNR, dB | images/s | test accuracy |\n|---|---|---|---|---|")
    for name, row in rows.items():
        cells = [row[key] for key in ("noisy_psnr_db", "psnr_db", "images_per_second")]
        shown = " | ".join("-" if c is None else str(c) for c in cells)
        print(f"| {name} | {shown} | {row['test_accuracy']:.3f} |")


def main() -> None:
    parser = flags("image_sets", __doc__, "100 images, the first two sigmas, one seed, one epoch")
    parser.add_argument("--set", required=True, help="a published set, or a name for your own")
    parser.add_argument("--root", type=Path, default=Path("data/incoming"), help="where torchvision put that set")
    parser.add_argument("--raw", type=Path, help="your own training set, in place of the published one's first images")
    parser.add_argument("--test", type=Path, help="your own test set")
    parser.add_argument("--denoiser", type=Path, required=True, help="a diffusers directory")
    parser.add_argument("--images", type=int, default=10_000, help="training images taken (default 10,000)")
    parser.add_argument("--sigmas", type=float, nargs="+", default=[0.1, 0.25, 0.5, 1.0])
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each copy (default 3)")
    args = parser.parse_args()
    seeds, sigmas = (1, args.sigmas[:2]) if args.quick else (args.seeds, args.sigmas)
    recipe = RECIPE.model_copy(update={"epochs": 1} if args.quick else {})
    denoiser = load_denoiser(args.denoiser)
    raw, test = sets_of(args)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        save_npz(raw, folder / "raw.npz")
        save_npz(test, folder / "test.npz")
        rows: dict[str, dict[str, Any]] = {"raw": dict.fromkeys(("psnr_db", "noisy_psnr_db", "images_per_second"))}
        rows |= {f"{sigma:g}": sanitized(raw, sigma, denoiser, folder) for sigma in sigmas}
        for name, found in trained(rows, folder, recipe, seeds).items():
            rows[name] |= {"test_accuracy": round(float(np.mean(found)), 4), "accuracies": [round(a, 4) for a in found]}
    print(f"\n{args.set}, {len(raw)} training images, {seeds} seed(s)\n")
    show(rows)
    figures = {"set": args.set, "images": len(raw), "recipe": recipe.model_dump(), "rows": rows}
    record(f"image_sets_{args.set}", figures, results(args))


if __name__ == "__main__":
    errors.run(main)
