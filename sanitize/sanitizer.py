"""The sanitizer: noise every image, remove the noise with one step of a diffusion denoiser."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from sanitize.denoiser import Denoiser
from sanitize.imageset import ImageSet
from sanitize.noise import Role, standard_normal
from sanitize.timestep import require_reachable

BATCH = 256


def sanitize_batch(
    images: NDArray[np.uint8],
    ids: Sequence[str],
    sigma: float,
    denoiser: Denoiser | None,
    entropy: bytes,
    draw: int,
    role: Role = "noise",
) -> NDArray[Any]:
    """The five steps, for images uint8 (n, h, w, c). Row i depends on images[i], ids[i] and the arguments alone.

    Returns uint8 (n, h, w, c). Without a denoiser (RAB's way) step 4 is left out and the noised images come back as
    they are: float32 in [0,1] units, neither clipped nor rounded.
    """
    # 1. pixels in [0, 1], exactly as supplied: nothing is computed from them, nothing is clipped
    pixels = images.astype(np.float32) / 255
    # 2. this image's noise of this draw
    noise = standard_normal(entropy, role, draw, ids, images.shape[1:])
    # 3. noise of exactly sigma; everything after this line is post-processing
    noised = pixels + np.float32(sigma) * noise
    if denoiser is None:
        return noised
    # 4. one step of the denoiser
    batch = torch.from_numpy(noised).permute(0, 3, 1, 2).to(denoiser.device)
    clean = denoiser.denoise(batch, sigma).permute(0, 2, 3, 1)
    # 5. back to whole pixel values
    return (clean * 255).round().to(torch.uint8).cpu().numpy()


def sanitize(
    raw: ImageSet,
    sigma: float,
    denoiser: Denoiser | None,
    entropy: bytes,
    draw: int = 0,
    *,
    role: Role = "noise",
    batch: int = BATCH,
    progress: bool = False,
) -> NDArray[Any]:
    """One sanitized copy of a set: `sanitize_batch` over all of it, in the set's order. Shapes and types as there.

    InputError unless sigma is within reach and the denoiser is made for images of this size.
    """
    if denoiser is None:
        require_reachable(sigma, math.inf)
    else:
        denoiser.facts.require_fit(raw, sigma)
    done = np.empty(raw.images.shape, dtype=np.uint8 if denoiser else np.float32)
    with tqdm(total=len(raw), unit="img", desc="sanitize", disable=not progress) as bar:
        for start in range(0, len(raw), batch):
            rows = slice(start, start + batch)
            done[rows] = sanitize_batch(raw.images[rows], raw.ids[rows], sigma, denoiser, entropy, draw, role)
            bar.update(len(raw.ids[rows]))
    return done


def as_pixels(images: NDArray[Any]) -> NDArray[np.uint8]:
    """Images as they are stored: a noise-only copy is clipped and rounded, a denoised one is whole already."""
    return images if images.dtype == np.uint8 else (images.clip(0, 1) * 255).round().astype(np.uint8)
