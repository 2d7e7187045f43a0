"""Certified transfer on CIFAR-10: a frozen extractor trained elsewhere, and a linear head on every sanitized copy.

    python -m benchmarks.transfer --root DIR --denoiser DIR --extractor FILE [--sigma .25 .5 1] [--quick]

Raw and test images come from the two halves of the *test* split, which neither extractor nor denoiser has seen; trusted
images from the training split, which both have. `frozen` takes the copy's features by the extractor as it is;
`distilled` by a twin that learned, on sanitized copies of trusted images and without labels, to answer as the extractor
does on the clean ones. Clean test images always go through the extractor itself. Every draw is run through all
extractors and heads at once, denoised and with noise only. An interrupted run goes on from --scratch. Heads, l2
and the twins' training were chosen on images 6,000 to 9,999 of the test split, which are in neither set.

What this flatters: the extractor was trained on the same ten classes. Its own head uses no raw image, and its accuracy
is printed as well.
"""

import argparse
import json
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from benchmarks.common.record import flags, record, results
from benchmarks.common.runs import kept, resumed
from benchmarks.transfer.draws import Sanitizer, figures_of, twins, vote
from benchmarks.transfer.plan import ALPHA, BATCH, FULL, HEADS, QUICK, RADII, TIMED, VARIANTS, WAYS, Size
from benchmarks.transfer.shown import draw_curves, table
from cleanlabel.models.extractors import Extractor, accelerated, features, load_extractor, require_fits
from cleanlabel.sanitize import errors
from cleanlabel.sanitize.denoiser import Denoiser, load_denoiser
from cleanlabel.sanitize.fast import accelerate
from cleanlabel.sanitize.imageset import ImageSet, read_all
from cleanlabel.sanitize.keys import in_order
from cleanlabel.sanitize.sources import open_published


@dataclass(frozen=True, eq=False)
class Inputs:
    """The three sets and the two networks; clean: the test images' features."""

    raw: ImageSet
    test: ImageSet
    trusted: ImageSet
    extractor: Extractor
    denoiser: Denoiser
    clean: Tensor


def parsed() -> argparse.Namespace:
    """The flags, with the size of the run."""
    parser = flags("transfer", __doc__, f"{QUICK.m} draws of {QUICK.raw} images at the first sigma")
    parser.add_argument("--root", type=Path, required=True, help="where torchvision put CIFAR-10")
    parser.add_argument("--denoiser", type=Path, required=True, help="a diffusers directory")
    parser.add_argument("--extractor", type=Path, required=True, help="a .safetensors file")
    parser.add_argument("--sigma", type=float, nargs="+", default=[0.25, 0.5, 1.0])
    parser.add_argument("--m", type=int, help="draws at each sigma (default 100)")
    parser.add_argument("--images", type=int, help="raw images, up to 5000 (default 5000)")
    parser.add_argument("--scratch", type=Path, default=Path("data/transfer"), help="keeps votes and distilled weights")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    size = QUICK if args.quick else FULL
    args.size = replace(size, m=args.m or size.m, raw=args.images or size.raw)
    args.sigma = args.sigma[:1] if args.quick else args.sigma
    args.scratch = args.scratch / ("quick" if args.quick else "full")
    return args


def read(args: argparse.Namespace) -> Inputs:
    """The sets and networks that the flags name."""
    held_out = read_all(open_published("cifar10", args.root, "test"), "cifar10")
    half = len(held_out) // 2
    raw = held_out.take(np.arange(min(args.size.raw, half)))
    test = held_out.take(np.arange(half, half + args.size.test))
    train = read_all(open_published("cifar10", args.root, "train"), "cifar10")
    extractor, denoiser = load_extractor(args.extractor), load_denoiser(args.denoiser, args.device)
    require_fits(extractor, raw.image_shape)
    extractor.network.to(args.device)
    clean = features(extractor, test.images, args.device)
    return Inputs(raw, test, train.take(np.arange(args.size.trusted)), extractor, denoiser, clean)


def settings_of(size: Size, inputs: Inputs) -> dict[str, Any]:
    """What an interrupted run must have in common with the one that goes on."""
    return {
        "m": size.m, "raw_images": len(inputs.raw), "test_images": len(inputs.test),
        "trusted_images": len(inputs.trusted), "epochs": size.epochs, "alpha": ALPHA, "raw_digest": inputs.raw.digest,
        "test_digest": inputs.test.digest, "denoiser_digest": inputs.denoiser.digest,
        "extractor_digest": inputs.extractor.digest, "heads": {name: list(head) for name, head in HEADS.items()},
        "variants": [list(v) for v in VARIANTS],
    }  # fmt: skip


def measured(
    args: argparse.Namespace, inputs: Inputs, sigma: float, entropy: bytes, bar: tqdm
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The rows of one sigma, a way and variant each, and the seconds per draw; kept votes are read."""
    m, raw = args.size.m, inputs.raw
    sanitizer = Sanitizer(sigma, inputs.denoiser, accelerate(inputs.denoiser, sigma, BATCH, m * len(raw)))
    made = twins(inputs.extractor, inputs.trusted, sanitizer, args.size.epochs, args.device, args.scratch)
    bodies = {way: {"frozen": accelerated(inputs.extractor), "distilled": accelerated(made[way])} for way in WAYS}

    def one_draw(draw: int) -> dict[str, NDArray[Any]]:
        cast, took = vote(inputs.extractor, bodies, raw, inputs.clean, sanitizer, entropy, draw, args.device)
        return {"votes": cast, "seconds": np.array([took[step] for step in TIMED])}

    draws = []
    for draw in range(m):
        draws.append(kept(args.scratch / f"votes-{sigma:g}" / f"{draw:05d}.npz", partial(one_draw, draw)))
        bar.update()
    votes = np.stack([draw["votes"] for draw in draws])
    rows = {
        f"{way} | {' | '.join(variant)}": figures_of(votes[:, w, v], m, sigma, inputs.test.labels, len(raw.classes))
        for w, way in enumerate(WAYS)
        for v, variant in enumerate(VARIANTS)
    }
    took = zip(TIMED, np.mean([draw["seconds"] for draw in draws], axis=0).tolist(), strict=True)
    return rows, {step: round(s, 2) for step, s in took} | {"network": sanitizer.fast.mode}


def main() -> None:
    args = parsed()
    inputs = read(args)
    settings = settings_of(args.size, inputs)
    entropy = resumed(args.scratch, settings | {"trusted": in_order(inputs.trusted)})
    rows: dict[float, dict[str, Any]] = {}
    seconds: dict[str, Any] = {}
    with tqdm(total=len(args.sigma) * args.size.m, desc="draws", unit="draw") as bar:
        for sigma in args.sigma:
            rows[sigma], seconds[f"{sigma:g}"] = measured(args, inputs, sigma, entropy, bar)
            print(table(sigma, rows[sigma]), flush=True)
            print(f"\nseconds per draw: {json.dumps(seconds[f'{sigma:g}'])}", flush=True)
    own = float((inputs.extractor.head.cpu()(inputs.clean).argmax(dim=1).numpy() == inputs.test.labels).mean())
    print(f"\nthe extractor's own head, which uses no raw image: {own:.3f}")
    draw_curves(rows, inputs.test.labels, results(args) / "transfer.png")
    stripped = {
        f"{sigma:g}": {key: {k: v for k, v in row.items() if k != "curve"} for key, row in of.items()}
        for sigma, of in rows.items()
    }
    figures = {**settings, "own_head_accuracy": round(own, 4), "radii": RADII, "seconds_a_draw": seconds}
    record("transfer", figures | {"rows": stripped}, results(args))


if __name__ == "__main__":
    errors.run(main)
