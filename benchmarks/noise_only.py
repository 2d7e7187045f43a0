"""What the denoiser is worth: the same ensemble with the noise removed and with the noise left in.

    python -m benchmarks.noise_only [--quick]

Both use the pipeline's data, denoiser and recipe (run `dvc repro denoiser` first), the same entropy and the same m.
"""

import os
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from multiprocessing import get_context

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.record import flags, record, results
from cleanlabel.models.certificate import ABSTAIN, certified_accuracy, certify
from cleanlabel.models.draw import Materials, make_draw
from cleanlabel.models.params import CertifyParams, TrainParams
from cleanlabel.models.votes import count_votes
from cleanlabel.sanitize import errors
from cleanlabel.sanitize.denoiser import Denoiser, load_denoiser
from cleanlabel.sanitize.imageset import load
from cleanlabel.sanitize.noise import draw_entropy
from cleanlabel.sanitize.params import SanitizeParams, read_params
from cleanlabel.sanitize.paths import DENOISER, SETS


@cache
def the_denoiser() -> Denoiser:
    """The pipeline's, read once in each worker."""
    return load_denoiser(DENOISER)


def votes_of(draw: int, *, denoise: bool, sigma: float, recipe: TrainParams, entropy: bytes) -> np.ndarray:
    """One draw's votes, made in a worker process on one core."""
    torch.set_num_threads(1)
    denoiser = the_denoiser() if denoise else None
    materials = Materials(load(SETS["raw"]), load(SETS["test"]), sigma, denoiser, recipe, draws=1)
    return make_draw(materials, entropy, draw).votes


def main() -> None:
    parser = flags("noise_only", __doc__, "12 models each in place of 100")
    parser.add_argument("--sigma", type=float, help="default: the one in params.yaml")
    parser.add_argument("--architecture", help="another classifier than the recipe's mlp: small-cnn or linear")
    args = parser.parse_args()
    m = 12 if args.quick else 100
    recipe, certificate = read_params("train", TrainParams), read_params("certify", CertifyParams)
    if args.architecture:
        changed = {"architecture": args.architecture, "width": 16, "epochs": 10}
        recipe = TrainParams.model_validate(recipe.model_dump() | changed)
    sigma = args.sigma or read_params("sanitize", SanitizeParams).sigma
    entropy, test = draw_entropy("os"), load(SETS["test"])
    rows = {}
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), mp_context=get_context("spawn")) as pool:
        for name, denoise in (("denoised", True), ("noise only", False)):
            work = partial(votes_of, denoise=denoise, sigma=sigma, recipe=recipe, entropy=entropy.value)
            votes = dict(enumerate(tqdm(pool.map(work, range(m)), total=m, desc=name, unit="model")))
            counts = count_votes(votes, m, len(test), len(test.classes))
            label, radius = certify(counts, m, sigma, certificate.alpha)
            certified = certified_accuracy(label, radius, test.labels, certificate.radii)
            rows[name] = {
                "one_model": round(float(np.mean([np.mean(v == test.labels) for v in votes.values()])), 4),
                "vote": round(float(np.mean(counts.argmax(axis=1) == test.labels)), 4),
                "abstentions": int(np.sum(label == ABSTAIN)),
                "certified": {f"{r:g}": round(float(c), 4) for r, c in zip(certificate.radii, certified, strict=True)},
            }
    radii = [f"{r:g}" for r in certificate.radii]
    print(f"\nsigma = {sigma:g}, m = {m}, alpha = {certificate.alpha:g} per point, {len(test)} test images\n")
    print("| | one model | vote | abstain | " + " | ".join(f"R = {r}" for r in radii) + " |")
    print("|---|---|---|---|" + "---|" * len(radii))
    for name, row in rows.items():
        cells = " | ".join(f"{row['certified'][r]:.3f}" for r in radii)
        print(f"| {name} | {row['one_model']:.3f} | {row['vote']:.3f} | {row['abstentions']} | {cells} |")
    name = "_".join(filter(None, ("noise_only", args.architecture)))
    figures = {"sigma": sigma, "m": m, "alpha": certificate.alpha, "recipe": recipe.model_dump(), **rows}
    record(name, figures, results(args))


if __name__ == "__main__":
    errors.run(main)
