"""A bounded-influence head's public part: made from trusted images under public noise, as its recipe asks for it."""

import hashlib

import numpy as np
import torch
from numpy.typing import NDArray

from cleanlabel.models.extractors import Extractor, features
from cleanlabel.models.instrument import Instrument, make_instrument
from cleanlabel.models.params import TrainParams
from cleanlabel.sanitize.denoiser import Denoiser
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.imageset import ImageSet
from cleanlabel.sanitize.overlap import Record, record_of, shared
from cleanlabel.sanitize.sanitizer import BATCH, Denoise, sanitize

PUBLIC_ENTROPY = hashlib.sha256(b"cleanlabel/instrument/1").digest()
"""Of the noise on trusted images. It is no secret: no certificate needs it to be one."""


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
    """(psi, phi), float32 (copies * n, d) each: of so many sanitized copies of trusted images, and of clean ones.

    twin: what takes the sanitized ones, where it is not the extractor itself.
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
    """psi, float32 (n, d), of one copy under public noise; the noise's streams are shared with no draw."""
    images = sanitize(trusted, sigma, denoiser, PUBLIC_ENTROPY, copy, role="public-noise", denoise=denoise, batch=batch)
    return features(extractor, images, device).half().float().numpy()


def fitted(recipe: TrainParams, psi: NDArray[np.float32], phi: NDArray[np.float32]) -> Instrument:
    """The recipe's instrument of the instrumental form from `trusted_features`. InputError for less than two images."""
    return make_instrument(
        psi,
        phi,
        ridge=recipe.influence_ridge,
        quantile=recipe.influence_clip,
        sides=recipe.influence_sides,
        threshold=recipe.influence_threshold,
    )


def require_apart(raw: ImageSet, seen: Record, among: str) -> None:
    """InputError that counts and names raw images that are among `seen` ones, to the bit or as near copies."""
    own = record_of(raw.images, raw.ids)
    found = shared(own, seen)
    if len(found):
        raise InputError(
            f"{len(found)} of {len(raw)} raw images are among {among} ({found.in_words(own, seen)}), and what is "
            "public about a head must depend on none of them; remove them from one side"
        )
