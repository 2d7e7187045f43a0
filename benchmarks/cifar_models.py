"""Seconds per smoothed CIFAR-10 model, with sanitizing, by the fast recipe from scratch; and what m of them certify.

    python -m benchmarks.cifar_models --root DIR --denoiser DIR [--sigma 0.25 0.5] [--models 100] [--quick]

Runs where torch and diffusers are, without the services around the pipeline: on a GPU if there is one. Votes are kept
in the scratch directory, one file per draw, so that an interrupted run goes on there. A denoiser that saw CIFAR-10's
training images flatters the accuracy (*fixed before*).
"""

import time
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.common.recipes import RECIPE
from benchmarks.common.record import flags, record, results
from benchmarks.common.runs import resumed
from cleanlabel.models.certificate import certified_accuracy, certify
from cleanlabel.models.draw import make_batch
from cleanlabel.models.materials import Materials
from cleanlabel.models.rounding import down, down_text
from cleanlabel.models.votes import count_votes, votes_from_bytes, votes_to_bytes
from cleanlabel.sanitize import errors
from cleanlabel.sanitize.denoiser import load_denoiser
from cleanlabel.sanitize.files import replacing
from cleanlabel.sanitize.imageset import ImageSet, read_all
from cleanlabel.sanitize.sources import open_published

ALPHA = 0.001
RADII = (0.0, 0.25, 0.5, 1.0)
FULL = {"width": 64, "epochs": 10, "batch": 1024, "learning_rate": 11.5, "weight_decay": 0.0153, "shift": 2}
QUICK = FULL | {"width": 16, "epochs": 2, "batch": 64}
"""airbench94's settings (K. Jordan, arXiv 2404.00498), and a narrow network that shows that the command works."""


def main() -> None:
    parser = flags("cifar_models", __doc__, "2 narrow networks on 100 images at each sigma")
    parser.add_argument("--root", type=Path, required=True, help="where torchvision put CIFAR-10")
    parser.add_argument("--denoiser", type=Path, required=True, help="a diffusers directory")
    parser.add_argument("--sigma", type=float, nargs="+", default=[0.25, 0.5])
    parser.add_argument("--models", type=int, default=100)
    parser.add_argument("--scratch", type=Path, default=Path(".cache/cifar_models"), help="where votes are kept")
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    raw = read_all(open_published("cifar10", args.root, "train"), "cifar10")
    test = read_all(open_published("cifar10", args.root, "test"), "cifar10")
    m = 2 if args.quick else args.models
    if args.quick:
        raw, test = raw.take(np.arange(100)), test.take(np.arange(100))
    changes = {"architecture": "fast-cifar", "flip": True, "label_smoothing": 0.2} | (QUICK if args.quick else FULL)
    recipe = RECIPE.model_copy(update=changes)
    denoiser = load_denoiser(args.denoiser, device)
    found = {}
    for sigma in args.sigma:
        materials = Materials(raw, test, sigma, denoiser, recipe, m, device=device)
        found[f"{sigma:g}"] = ensemble(
            materials, m, args.scratch / f"{'quick' if args.quick else 'full'}-{sigma:g}", test
        )
    print(f"\n| σ | s per model | accuracy of one model | of the vote | {' | '.join(f'R = {r:g}' for r in RADII)} |")
    print("|--:|--:|--:|--:|" + "--:|" * len(RADII))
    for sigma, row in found.items():
        shares = " | ".join(down_text(share) for share in row["certified"])
        print(f"| {sigma} | {row['seconds_a_model']:.2f} | {row['one_model']:.3f} | {row['vote']:.3f} | {shares} |")
    figures = {
        "denoiser_digest": denoiser.digest,
        "m": m,
        "alpha": ALPHA,
        "radii": RADII,
        "raw": len(raw),
        "test": len(test),
        "recipe": recipe.model_dump(),
    }
    record("cifar_models", figures | {"sigma": found}, results(args))


def ensemble(materials: Materials, m: int, scratch: Path, test: ImageSet) -> dict[str, object]:
    """The figures of m models at one sigma. The first model made warms up and is not timed."""
    scratch.mkdir(parents=True, exist_ok=True)
    digests = {"raw": materials.raw.digest, "test": test.digest, "denoiser": materials.denoiser.digest}
    entropy = resumed(scratch, digests | {"m": m, "sigma": materials.sigma, "recipe": materials.recipe.model_dump()})
    missing = [draw for draw in range(m) if not (scratch / f"{draw}.npy").exists()]
    started, timed = 0.0, 0
    for made in tqdm(make_batch(materials, entropy, missing) if missing else (), total=len(missing), unit="model"):
        if started:
            timed += 1
        else:
            started = time.perf_counter()
        with replacing(scratch / f"{made.draw}.npy") as partial:
            partial.write_bytes(votes_to_bytes(made.votes))
        ended = time.perf_counter()
    votes = {draw: votes_from_bytes((scratch / f"{draw}.npy").read_bytes(), f"draw {draw}") for draw in range(m)}
    counts = count_votes(votes, m, len(test), len(test.classes))
    label, radius = certify(counts, m, materials.sigma, ALPHA)
    return {
        "seconds_a_model": round((ended - started) / timed, 3) if timed else 0.0,
        "timed_models": timed,
        "one_model": round(float(np.mean([np.mean(row == test.labels) for row in votes.values()])), 4),
        "vote": round(float(np.mean(counts.argmax(axis=1) == test.labels)), 4),
        "certified": [down(share, 4) for share in certified_accuracy(label, radius, test.labels, RADII)],
    }


if __name__ == "__main__":
    errors.run(main)
