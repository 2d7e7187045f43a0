"""The noise as a tensor on the denoiser's device, equal to `pixel_noise` to the bit.

An accelerator is sent the Philox words and looks them up itself, in the same tables: integers throughout.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from sanitize.noise import Role, noise_words, pixel_noise
from sanitize.rounded_gaussian import rounded_gaussian


def pixel_noise_on(
    device: torch.device,
    entropy: bytes,
    role: Role,
    draw: int,
    ids: Sequence[str],
    shape: tuple[int, ...],
    sigma: float,
) -> Tensor:
    """`pixel_noise` of these arguments on `device`: int32 (len(ids), *shape), in steps of 1/255."""
    if device.type == "cpu":
        return torch.from_numpy(pixel_noise(entropy, role, draw, ids, shape, sigma))
    words = torch.from_numpy(noise_words(entropy, role, draw, ids, math.prod(shape)).view(np.int64))
    return look_up(words.to(device), sigma).reshape(len(ids), *shape)


def look_up(words: Tensor, sigma: float) -> Tensor:
    """`RoundedGaussian.draw` on the device of `words`, which holds the bits of 64-bit words as int64: int32."""
    values, mixed, thresholds = _tables(sigma, words.device)
    cells = (words >> rounded_gaussian(sigma).shift) & (len(values) - 1)
    searched = torch.bucketize(_ordered(words), thresholds, right=True, out_int32=True) - len(thresholds) // 2
    return torch.where(mixed[cells], searched, values[cells])


@lru_cache(maxsize=8)
def _tables(sigma: float, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    gaussian = rounded_gaussian(sigma)
    thresholds = _ordered(torch.from_numpy(gaussian.thresholds.view(np.int64)))
    values, mixed = torch.from_numpy(gaussian.values), torch.from_numpy(gaussian.mixed)
    return values.to(device), mixed.to(device), thresholds.to(device)


def _ordered(words: Tensor) -> Tensor:
    """The words as signed numbers that lie in the order of the unsigned ones."""
    return words ^ torch.iinfo(torch.int64).min
