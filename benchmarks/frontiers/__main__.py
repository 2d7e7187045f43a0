"""Measured frontiers of partitioned smoothing: how many images, and how far, at equal cost.

    python -m benchmarks.frontiers --data digits [--denoiser DIR] [--quick]
    python -m benchmarks.frontiers --data cifar10 --root DIR --extractor FILE
    python -m benchmarks.frontiers --data fashion-mnist --root DIR

Every draw sanitizes the whole raw set once. For every k each block has its own model, trained only on its own images of
that copy. m draws of k blocks of n/k images cost as much as m trainings on n images, for every k. k = 1 is the ordinary
ensemble. Deep Partition Aggregation and Run-Off Election are measured on the same images without noise, with the same
kind of model and the same blocks by id, so that a rewritten image costs them one block as well.

Each curve, of one (sigma, k), is a valid certificate by itself. The best curve for each R is chosen afterwards, on the
test images: it guides the choice of (sigma, k), but is not a certificate. The votes are kept in --scratch: an
interrupted run goes on there.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.common.record import flags, record, results
from benchmarks.common.runs import resumed
from benchmarks.fashion import plan as fashion
from benchmarks.frontiers.curves import FREES, RADII, Curve, best, curve_of, since, tables
from benchmarks.frontiers.picture import draw_picture
from benchmarks.frontiers.rivals import MORE_KS, SEEDS, rivals_of
from benchmarks.frontiers.sets import Task, cifar_task, digits_task, fashion_task
from benchmarks.frontiers.votes import ensemble_votes
from benchmarks.transfer import plan as transfer
from cleanlabel.models.params import TrainParams
from cleanlabel.models.rounding import down
from cleanlabel.sanitize import errors
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.params import read_params
from cleanlabel.sanitize.paths import DENOISER

ALPHA = 0.001
M, QUICK_M = 100, 12
QUICK_KS, QUICK_IMAGES = [1, 2], 100
QUICK_FASHION = replace(fashion.QUICK, trusted=500)  # an extractor is trained on them


def checked(args: argparse.Namespace) -> argparse.Namespace:
    """The flags with their defaults. InputError for values that no frontier can be measured at."""
    args.m = args.m or (QUICK_M if args.quick else M)
    if args.quick:
        args.sigma, args.k = args.sigma[:1], QUICK_KS
        args.images = args.images or (None if args.data == "digits" else QUICK_IMAGES)
    args.sigma, args.k = list(dict.fromkeys(args.sigma)), list(dict.fromkeys(args.k))
    for sigma in args.sigma:
        if not (np.isfinite(sigma) and sigma > 0):
            raise InputError(f"--sigma {sigma:g} is not a noise level; give numbers above 0, in [0,1] pixel units")
    if min(args.k) < 1 or 1 not in args.k:
        raise InputError(f"--k {' '.join(map(str, args.k))}: give numbers of blocks from 1 on, and 1 among them")
    least = int(np.log2(2 * max(args.k) / ALPHA)) + 1
    if args.m < least:
        raise InputError(f"--m {args.m}: with {max(args.k)} blocks no vote can be certified; give {least} or more")
    if args.images is not None and args.data == "digits":
        raise InputError(
            f"--images {args.images}: params.yaml (ingest.raw) sets how many digits are raw; leave --images out"
        )
    if args.images is not None and args.images < max(args.k):
        raise InputError(f"--images {args.images} do not fill {max(args.k)} blocks; give more")
    return args


def task_of(args: argparse.Namespace) -> Task:
    """The data set's task. InputError where a flag that it needs is missing."""
    if args.data == "digits":
        return digits_task(args.denoiser, read_params("train", TrainParams), args.m)
    if args.root is None:
        raise InputError(f"--data {args.data} needs --root, where torchvision put the set")
    if args.data == "fashion-mnist":
        return fashion_task(args.root, args.images or 10_000, QUICK_FASHION if args.quick else fashion.FULL)
    if args.extractor is None:
        raise InputError("--data cifar10 needs --extractor, a .safetensors file")
    size = transfer.QUICK if args.quick else transfer.FULL
    return cifar_task(args.root, args.extractor, args.images or 5000, size)


def row_of(curve: Curve) -> dict[str, Any]:
    """A curve, for the record."""
    at = {str(a): [down(c, 4) for c in curve.at(a, RADII)] for a in FREES}
    plain = {name: getattr(curve, name) for name in ("model", "n", "sigma", "k", "one_model", "plurality")}
    return {**plain, "certified": at, "largest_radius": down(curve.radius[0].max(), 4)}


def main() -> None:
    parser = flags("frontiers", __doc__, f"{QUICK_M} draws at one sigma, k = 1 and 2, {QUICK_IMAGES} images")
    parser.add_argument("--data", choices=["digits", "cifar10", "fashion-mnist"], required=True)
    parser.add_argument("--root", type=Path, help="cifar10, fashion-mnist: where torchvision put the set")
    parser.add_argument("--denoiser", type=Path, default=DENOISER, help="digits: a diffusers directory")
    parser.add_argument("--extractor", type=Path, help="cifar10: a .safetensors file")
    parser.add_argument("--sigma", type=float, nargs="+", default=[0.5, 1.0, 0.25, 2.0])
    parser.add_argument("--k", type=int, nargs="+", default=[1, 2, 5, 10, 20, 50])
    parser.add_argument("--m", type=int, help=f"draws at each sigma (default {M})")
    parser.add_argument("--images", type=int, help="raw images (default 5000 of CIFAR-10, 10000 of Fashion-MNIST)")
    parser.add_argument("--scratch", type=Path, default=Path(".cache/frontiers"), help="keeps every draw's votes")
    args = checked(parser.parse_args())
    torch.set_num_threads(1)
    task = task_of(args)
    settings = {
        "m": args.m, "alpha": ALPHA, "ks": args.k, "sizes": list(task.sizes), "raw_digest": task.raw.digest,
        "test_digest": task.test.digest, "test_images": len(task.test), **task.facts,
    }  # fmt: skip
    scratch = args.scratch / f"{args.data}{'-quick' if args.quick else ''}"
    recipes = {name: recipe.model_dump() for name, recipe in task.recipes.items()}
    entropy = resumed(scratch, settings | {"recipes": recipes})
    with tqdm(total=len(args.sigma) * args.m, desc="draws", unit="draw", mininterval=5) as bar:
        found = ensemble_votes(task, sorted(args.sigma), args.k, args.m, entropy, scratch, bar)
    curves = [
        curve_of(key, votes, sigma, ALPHA, task.test)
        for sigma, of in tqdm(found.items(), desc="certificates", unit="sigma")
        for key, votes in of.items()
    ]
    rivals = rivals_of(task, args.k, 2) if args.quick else rivals_of(task, [*args.k, *MORE_KS], SEEDS)
    print(tables(curves, rivals))
    name, folder = f"frontiers_{args.data}", results(args)
    draw_picture(args.data, args.m, ALPHA, curves, rivals, folder / f"{name}.png")
    record(
        name,
        settings
        | {
            "radii": RADII,
            "frees": FREES,
            "rows": [row_of(curve) for curve in curves],
            "best": best(curves),
            "best_is": "chosen for each R after the fact, on the test images: a guide, no certificate",
            "partitions_ahead_from_n": since(curves),
            "rivals": rivals,
            "threads": 1,
        },
        folder,
    )


if __name__ == "__main__":
    errors.run(main)
