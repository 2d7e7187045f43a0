"""Where the tests meet the noise: what the sanitizer asks for, and noise that absorbs the difference of two raw sets.

The one place that knows the name and the arguments of the function that makes the noise.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from cleanlabel.sanitize import sanitizer
from cleanlabel.sanitize.device_noise import pixel_noise_on

SOURCE = "pixel_noise_on"
"""Of `sanitize.sanitizer`: (device, entropy, role, draw, ids, shape, sigma) -> int32 noise in whole pixel values."""


@dataclass(frozen=True)
class Asked:
    """The noise of one image, as it was asked for."""

    role: str
    draw: int
    image_id: str


def record(patch: pytest.MonkeyPatch) -> list[Asked]:
    """Every image's noise that the sanitizer asks for from here on, in order. The noise stays what it is."""
    asked: list[Asked] = []

    def source(device: torch.device, entropy: bytes, role: Any, draw: int, ids: Sequence[str], *rest: Any) -> Tensor:
        asked.extend(Asked(role, draw, image_id) for image_id in ids)
        return pixel_noise_on(device, entropy, role, draw, ids, *rest)

    patch.setattr(sanitizer, SOURCE, source)
    return asked


def absorb(patch: pytest.MonkeyPatch, difference: Mapping[str, NDArray[np.int64]]) -> None:
    """Add `difference`, by image id and in whole pixel values, to the noised training images, by way of their noise.

    With the difference A - B the noised images of B are those of A to the bit: sums of whole numbers are exact.
    """

    def source(device: torch.device, entropy: bytes, role: Any, draw: int, ids: Sequence[str], *rest: Any) -> Tensor:
        noise = pixel_noise_on(device, entropy, role, draw, ids, *rest)
        if role != "noise":
            return noise
        return noise + torch.from_numpy(np.stack([difference[image_id] for image_id in ids]).astype(np.int32))

    patch.setattr(sanitizer, SOURCE, source)
