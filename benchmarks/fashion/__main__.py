"""Certified accuracy on Fashion-MNIST from scratch: 2,000 raw images, and the noise removed or left in.

    python -m benchmarks.fashion --root DIR [--denoiser DIR] [--scratch DIR] [--quick | --pilot]

The denoiser saw 20,000 other training images, the test images are of the test split. Every model's votes are kept in
the scratch directory: an interrupted run goes on there. `--pilot` compares recipes on images the run never sees.
"""

import argparse
import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.common.record import flags, record, results
from benchmarks.common.runs import resumed
from benchmarks.fashion.draws import Step, figures_of, kept_draw, make_draw, the_denoiser
from benchmarks.fashion.pilot import pilot
from benchmarks.fashion.plan import (
    ALPHA,
    CANDIDATES,
    DENOISER,
    ENSEMBLES,
    FULL,
    PILOT_RAW,
    PILOT_TEST,
    QUICK,
    QUICK_DENOISER,
    RADII,
    SPLIT_SEED,
    Size,
)
from benchmarks.fashion.shown import plot, show
from cleanlabel.models.certificate import images_tolerated
from cleanlabel.sanitize import errors
from cleanlabel.sanitize.denoiser import Denoiser
from cleanlabel.sanitize.denoiser_files import read_config
from cleanlabel.sanitize.fast import accelerate
from cleanlabel.sanitize.imageset import ImageSet
from cleanlabel.sanitize.ingest import published
from cleanlabel.sanitize.rows import NETWORK_BATCH

CURVE = np.linspace(0, 2, 401)


def parsed() -> argparse.Namespace:
    """The flags."""
    less = f"{QUICK.m} models of {QUICK.raw} images, a denoiser of {QUICK_DENOISER.steps} steps"
    parser = flags("fashion", __doc__, less)
    parser.add_argument("--root", type=Path, required=True, help="where torchvision put Fashion-MNIST")
    parser.add_argument("--denoiser", type=Path, help="one that was trained on the trusted images; default: train it")
    parser.add_argument("--sigma", type=float, nargs="+", default=[0.5, 1.0])
    parser.add_argument("--scratch", type=Path, default=Path(".cache/fashion"), help="keeps every draw's votes")
    parser.add_argument("--pilot", action="store_true", help="compare the candidate recipes, on other images")
    args = parser.parse_args()
    args.scratch = args.scratch / "quick" if args.quick else args.scratch
    return args


def unused(root: Path, size: Size, raw: ImageSet) -> ImageSet:
    """The pilot's images, which are neither raw, trusted nor test."""
    wanted = size.raw + PILOT_RAW + PILOT_TEST
    more = published("fashion-mnist", root, size.trusted, wanted, SPLIT_SEED, size.test)["raw"]
    used = set(raw.ids)
    return more.take(np.array([i for i, name in enumerate(more.ids) if name not in used]))


def facts_of(size: Size, raw: ImageSet, test: ImageSet, denoiser: Denoiser) -> dict[str, Any]:
    """What determines the ensembles, but for their entropy."""
    return {
        "m": size.m,
        "alpha": ALPHA,
        "split": {"trusted": size.trusted, "raw": len(raw), "test": len(test), "seed": SPLIT_SEED},
        "raw_digest": raw.digest,
        "test_digest": test.digest,
        "denoiser_digest": denoiser.digest,
        "recipes": {name: CANDIDATES[chosen].model_dump() for name, (_, chosen) in ENSEMBLES.items()},
    }


def measured(
    raw: ImageSet, test: ImageSet, m: int, fast: dict[float, Step], entropy: bytes, scratch: Path
) -> dict[str, dict[str, Any]]:
    """A row per ensemble and sigma; kept draws are read."""
    ensembles = [(name, sigma) for name in ENSEMBLES for sigma in fast]
    rows: dict[str, dict[str, Any]] = {}
    with tqdm(total=m * len(ensembles), unit="model", mininterval=5) as bar:
        for name, sigma in ensembles:
            bar.set_description(f"σ = {sigma:g}, {name}")
            way, chosen = ENSEMBLES[name]
            folder = scratch / f"{name.replace(', ', '_').replace(' ', '_')}_{sigma:g}"
            denoise = fast[sigma] if way == "denoised" else None
            draws = []
            for i in range(m):
                work = partial(make_draw, raw, test, sigma, denoise, CANDIDATES[chosen], entropy, i)
                draws.append(kept_draw(folder / f"{i:03d}.npz", work))
                bar.update()
            row = figures_of(draws, test, sigma, CURVE)
            rows[f"{name}, {sigma:g}"] = {"ensemble": name, "recipe": chosen, "sigma": sigma, **row}
    return rows


def main() -> None:
    args = parsed()
    torch.set_num_threads(1)
    size, params = (QUICK, QUICK_DENOISER) if args.quick else (FULL, DENOISER)
    sets = published("fashion-mnist", args.root, size.trusted, size.raw, SPLIT_SEED, size.test)
    raw, test, m = sets["raw"], sets["test"], size.m
    denoiser, origin = the_denoiser(sets["trusted"], args.denoiser, args.scratch, params)
    if args.pilot:
        pilot(unused(args.root, size, raw), args.sigma, denoiser, args.scratch)
        return
    facts, scratch = facts_of(size, raw, test, denoiser), args.scratch / "draws"
    entropy = resumed(scratch, facts)
    fast = {sigma: (denoiser, accelerate(denoiser, sigma, NETWORK_BATCH, m * len(raw))) for sigma in args.sigma}
    rows = measured(raw, test, m, fast, entropy, scratch)
    show(rows)
    step = math.sqrt(raw.images[0].size) / 255
    changed = ", ".join(f"R = {r:g}: {images_tolerated(r, step)}" for r in RADII)
    print(f"\nm = {m}, α = {ALPHA:g} per point; images that may each change by 1/255 everywhere: {changed}\n")
    plot(rows, CURVE, m, results(args) / "fashion.png")
    tried = args.scratch / "pilot.json"
    more = {
        "method": "binary",
        "threads": 1,
        "network": {f"{sigma:g}": step.mode for sigma, (_, step) in fast.items()},
        "denoiser": origin,
        "entropy": entropy.hex(),
        "pilot": read_config(tried) if tried.is_file() else None,
        "curve_radii": [0.0, 2.0, len(CURVE)],
        "rows": rows,
    }
    record("fashion", facts | more, results(args))


if __name__ == "__main__":
    errors.run(main)
