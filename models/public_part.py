"""Make a bounded-influence head's public part from trusted images under public noise, according to its recipe."""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cleanlabel.models.extractors import Extractor, features
from cleanlabel.models.instrument import Instrument, make_instrument
from cleanlabel.models.params import TrainParams
from cleanlabel.sanitize.denoiser import Denoiser
from cleanlabel.sanitize.imageset import ImageSet
from cleanlabel.sanitize.keys import Inputs, in_order
from cleanlabel.sanitize.sanitizer import BATCH, Denoise, sanitize

PUBLIC_ENTROPY = hashlib.sha256(b"cleanlabel/instrument/1").digest()
"""The entropy of the noise on trusted images. It is public: no certificate needs it to be secret."""


@dataclass(frozen=True)
class InstrumentInputs(Inputs):
    """What an instrument depends on: trusted images in their order, sigma, the networks' files, its recipe, its code.

    The raw set is not among them: what of it is among the trusted images, the door finds again each time.
    """

    trusted: str
    sigma: float
    denoiser: str | None
    extractor: str
    twin: str | None
    recipe: dict[str, Any]
    code: str


def instrument_inputs(
    recipe: TrainParams,
    trusted: ImageSet,
    sigma: float,
    denoiser: str | None,
    extractor: str,
    code: str,
    twin: str | None = None,
) -> InstrumentInputs:
    """The record of the recipe's instrument. denoiser, extractor, twin: their digests."""
    own = recipe.model_dump(include={name for name in TrainParams.model_fields if "influence_" in name})
    return InstrumentInputs(in_order(trusted), sigma, denoiser if sigma else None, extractor, twin, own, code)


def trusted_features(
    extractor: Extractor,
    trusted: ImageSet,
    sigma: float,
    denoiser: Denoiser | None,
    copies: int = 1,
    *,
    denoise: Denoise | None = None,
    batch: int = BATCH,
    device: torch.device | str = "cpu",
    twin: Extractor | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(psi, phi), float32 (copies * n, d) each: features of `copies` sanitized copies of trusted images, and clean.

    twin: the extractor for the sanitized images, if it is not the extractor itself.
    """
    phi = features(extractor, trusted.images, device).numpy()
    psi = [
        sanitized_features(
            twin or extractor, trusted, sigma, denoiser, copy, denoise=denoise, batch=batch, device=device
        )
        for copy in range(copies)
    ]
    return np.concatenate(psi), np.tile(phi, (copies, 1))


def sanitized_features(
    extractor: Extractor,
    trusted: ImageSet,
    sigma: float,
    denoiser: Denoiser | None,
    copy: int,
    *,
    denoise: Denoise | None = None,
    batch: int = BATCH,
    device: torch.device | str = "cpu",
) -> NDArray[np.float32]:
    """psi, float32 (n, d), of one copy under public noise, whose random streams no draw shares."""
    images = sanitize(trusted, sigma, denoiser, PUBLIC_ENTROPY, copy, role="public-noise", denoise=denoise, batch=batch)
    return features(extractor, images, device).half().float().numpy()


def fitted(recipe: TrainParams, psi: NDArray[np.float32], phi: NDArray[np.float32]) -> Instrument:
    """The recipe's instrument, in the instrumental form, from `trusted_features`. InputError for under two images."""
    return make_instrument(
        psi,
        phi,
        ridge=recipe.influence_ridge,
        quantile=recipe.influence_clip,
        sides=recipe.influence_sides,
        threshold=recipe.influence_threshold,
    )
