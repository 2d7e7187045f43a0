"""Where the tests meet the noise: what the sanitizer asks for, and noise that absorbs the difference of two raw sets.

The one place that knows the name and the arguments of the function that makes the noise.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from sanitize import sanitizer
from sanitize.noise import standard_normal

SOURCE = "standard_normal"
"""Of `sanitize.sanitizer`: (entropy, role, draw, ids, shape) -> float32 noise in units of sigma."""
STEP = 2.0**-8
"""Noise in multiples of it, on pixels of 0 and 1 with sigma a power of 2, adds up without any rounding."""


@dataclass(frozen=True)
class Asked:
    """The noise of one image, as it was asked for."""

    role: str
    draw: int
    image_id: str


def record(patch: pytest.MonkeyPatch) -> list[Asked]:
    """Every image's noise that the sanitizer asks for from here on, in order. The noise stays what it is."""
    asked: list[Asked] = []

    def source(entropy: bytes, role: Any, draw: int, ids: Sequence[str], *rest: Any) -> NDArray[Any]:
        asked.extend(Asked(role, draw, image_id) for image_id in ids)
        return standard_normal(entropy, role, draw, ids, *rest)

    patch.setattr(sanitizer, SOURCE, source)
    return asked


def absorb(patch: pytest.MonkeyPatch, difference: Mapping[str, NDArray[np.uint8]], sigma: float) -> None:
    """Add `difference`, by image id and in [0, 255], to the noised training images, by way of their noise.

    With the difference A - B the noised images of B are those of A to the bit, where both hold 0 and 255 alone.
    """

    def source(entropy: bytes, role: Any, draw: int, ids: Sequence[str], *rest: Any) -> NDArray[Any]:
        noise = np.rint(standard_normal(entropy, role, draw, ids, *rest) / STEP) * np.float32(STEP)
        if role == "noise":
            noise = noise + np.stack([difference[image_id] for image_id in ids]).astype(np.float32) / 255 / sigma
        return noise.astype(np.float32)

    patch.setattr(sanitizer, SOURCE, source)
