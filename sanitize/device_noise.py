"""The noise as a tensor on the denoiser's device, bitwise equal to `pixel_noise`.

An accelerator gets the Philox words and looks them up in the same tables. All values are integers.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from cleanlabel.sanitize.device import is_accelerator, sent
from cleanlabel.sanitize.noise import Role, noise_words, pixel_noise
from cleanlabel.sanitize.rounded_gaussian import SEARCH, rounded_gaussian


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
    if not is_accelerator(device):
        return torch.from_numpy(pixel_noise(entropy, role, draw, ids, shape, sigma))
    words = torch.from_numpy(noise_words(entropy, role, draw, ids, math.prod(shape)).view(np.int64))
    return look_up(sent(words, device), sigma).reshape(len(ids), *shape)


def look_up(words: Tensor, sigma: float) -> Tensor:
    """`RoundedGaussian.draw` on the device of `words`, which holds the bits of 64-bit words as int64: int32."""
    table, thresholds = _tables(sigma, words.device)
    values = table[(words >> rounded_gaussian(sigma).shift) & (len(table) - 1)]
    searched = torch.bucketize(_ordered(words), thresholds, right=True, out_int32=True) - len(thresholds) // 2
    return torch.where(values == SEARCH, searched, values)  # search all words: selecting some would wait for the host


@lru_cache(maxsize=8)
def _tables(sigma: float, device: torch.device) -> tuple[Tensor, Tensor]:
    gaussian = rounded_gaussian(sigma)
    thresholds = _ordered(torch.from_numpy(gaussian.thresholds.view(np.int64)))
    return torch.from_numpy(gaussian.values).to(device), thresholds.to(device)


def _ordered(words: Tensor) -> Tensor:
    """The words as signed numbers in the order of the unsigned ones."""
    return words ^ torch.iinfo(torch.int64).min
