"""Check that a denoiser helps: its images should be closer to the originals than the noised ones are.

The result is only for people. It does not affect any copy, model or manifest.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cleanlabel.sanitize.denoiser import Denoiser
from cleanlabel.sanitize.fitting import Fitting
from cleanlabel.sanitize.noise import draw_entropy
from cleanlabel.sanitize.sanitizer import BATCH, Denoise, as_pixels, sanitize_batch

LOOKED_AT = 32
"""The number of images that suffices for the check."""


def psnr(images: NDArray[np.uint8], others: NDArray[np.uint8]) -> float:
    """Peak signal-to-noise ratio in dB; infinite if they are equal."""
    error = float(np.mean((images.astype(np.float64) - others) ** 2)) / 255**2
    return -10 * math.log10(error) if error else math.inf


def worse_than_noise(
    images: NDArray[np.uint8],
    ids: Sequence[str],
    sigma: float,
    denoiser: Denoiser,
    *,
    fitting: Fitting | None = None,
    denoise: Denoise | None = None,
    batch: int = BATCH,
) -> str | None:
    """A sentence if `denoiser` leaves these images (n, h, w, c) further from the originals than clipped noise does.

    It uses separate noise, which has no other use. None if the denoiser helps.
    """
    entropy = draw_entropy("os").value
    noised = as_pixels(sanitize_batch(images, ids, sigma, None, entropy, 0))
    made = sanitize_batch(images, ids, sigma, denoiser, entropy, 0, fitting=fitting, denoise=denoise, batch=batch)
    return harm_of(images, noised, made, sigma)


def harm_of(images: NDArray[np.uint8], noised: NDArray[np.uint8], made: NDArray[np.uint8], sigma: float) -> str | None:
    """A sentence if the sanitized images are further from `images` than the noised and clipped ones are."""
    before, after = psnr(images, noised), psnr(images, made)
    if after >= before:
        return None
    return (
        f"the denoiser makes images worse than the noise alone: PSNR to the input {after:.1f} dB, {before:.1f} dB with "
        f"the noise left in and clipped, at sigma={sigma:g} ({len(images)} images compared); choose a denoiser that "
        "was trained on images like these, or another sigma, by trusted images alone (`cleanlabel preview`): a choice "
        "by raw images voids a certificate"
    )
