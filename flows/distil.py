"""Distil a twin of the extractor for one noise level.

    python -m flows.distil --output data/pretrained/twin.safetensors

It reads params.yaml (train.initial_weights, sanitize), the denoiser and data/trusted.npz. The twin learns on sanitized
copies of trusted images, without their labels, to answer as the extractor does on the clean ones. Set train.twin to
its file: the ensemble's copies then go through the twin, and test images through the extractor itself.
"""

import argparse
from pathlib import Path

import numpy as np

from cleanlabel.models.distil import distilled
from cleanlabel.models.extractors import features, load_extractor, require_fits
from cleanlabel.models.materials import Materials
from cleanlabel.models.params import TrainParams
from cleanlabel.models.public_part import PUBLIC_ENTROPY
from cleanlabel.models.twins import save_twin
from cleanlabel.models.weights import TrainedOn
from cleanlabel.sanitize import errors
from cleanlabel.sanitize.denoiser import load_denoiser
from cleanlabel.sanitize.device import default_device
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.imageset import load
from cleanlabel.sanitize.overlap import record_of
from cleanlabel.sanitize.params import SanitizeParams, read_params
from cleanlabel.sanitize.paths import DENOISER, SETS
from cleanlabel.sanitize.sanitizer import sanitize

FIRST_COPY = 1_000
"""The first copy number under public noise. It differs from those that an instrument is fitted to."""


def distil(output: Path, epochs: int, copies: int) -> None:
    """Make the twin that params.yaml asks for."""
    recipe, params = read_params("train", TrainParams), read_params("sanitize", SanitizeParams)
    if recipe.mode != "transfer" or recipe.initial_weights is None:
        raise InputError(
            f"param train.mode={recipe.mode!r} has no frozen extractor to distil; set train.mode: transfer and "
            "train.initial_weights"
        )
    if not params.sigma:
        raise InputError(
            "param sanitize.sigma=0 does not change the images, so the extractor needs no twin; set a sigma above 0"
        )
    trusted = load(SETS["trusted"])
    if len(trusted) < 2:
        raise InputError(f"{SETS['trusted']} has {len(trusted)} images; a twin learns from trusted images, so add some")
    device = default_device()
    extractor = load_extractor(Path(recipe.initial_weights))
    require_fits(extractor, trusted.image_shape)
    extractor.network.to(device)
    denoiser = load_denoiser(DENOISER, device) if params.denoise else None
    materials = Materials(trusted, trusted, params.sigma, denoiser, recipe, copies, device=device)
    fast = materials.fast(params.sigma)
    copied = [
        sanitize(
            trusted,
            params.sigma,
            denoiser,
            PUBLIC_ENTROPY,
            FIRST_COPY + copy,
            role="public-noise",
            denoise=fast,
            batch=materials.batch,
            progress=True,
        )
        for copy in range(copies)
    ]
    wanted = features(extractor, trusted.images, device).repeat(copies, 1)
    network = distilled(extractor, np.concatenate(copied), wanted, epochs, device, f"σ={params.sigma:g}")
    saw = TrainedOn(trusted.digest, record_of(trusted.images, trusted.ids))
    save_twin(network, output, extractor.digest, params.sigma, denoiser.digest if denoiser else None, saw)
    print(f"{output}: a twin for sigma {params.sigma:g}, from {len(trusted)} trusted images; name it by train.twin")


def parser() -> argparse.ArgumentParser:
    """The command's flags."""
    flags = argparse.ArgumentParser(prog="python -m flows.distil", description=__doc__.splitlines()[0])
    flags.add_argument("--output", type=Path, required=True, help="the twin's .safetensors file")
    flags.add_argument("--epochs", type=int, default=2, help="passes over the copies")
    flags.add_argument("--copies", type=int, default=2, help="sanitized copies of the trusted images")
    return flags


def main() -> None:
    args = parser().parse_args()
    for name in ("epochs", "copies"):
        if getattr(args, name) < 1:
            raise InputError(f"--{name} {getattr(args, name)} is too small; give 1 or more")
    distil(args.output, args.epochs, args.copies)


if __name__ == "__main__":
    errors.run(main)
