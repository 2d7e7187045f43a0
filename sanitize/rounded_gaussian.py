"""The Gaussian rounded to whole pixel values, J = round(255 sigma Z) with Z ~ N(0, 1), drawn from 64 random bits.

Why whole numbers: a pixel X in 0..255 is an integer, so X + J = round(X + 255 sigma Z) exactly. The noised integer
image is a function of the ideally noised image, and all that follows it is post-processing: the theorem about ideal
Gaussian noise covers it. A float32 sum lies on a lattice that depends on the pixel under it, and is not covered
(Voracek & Hein 2023; Jin et al. 2022). The price is a variance that is larger by (1/255)^2 / 12.

How it is drawn: P(J <= j) = Phi((j + 1/2) / (255 sigma)). A 64-bit word w counts the thresholds
T_j = ceil(2^64 Phi((j + 1/2) / (255 sigma))), j < 0, that are <= w; those of the upper half are their mirror images,
T_{-1-j} = 2^64 - T_j. They are computed once per sigma in high precision, with sigma as the decimal that was written.
So a draw uses no library's transcendental functions: the noise is bitwise the same on every machine.

How far the drawn J is from the ideal one, in total variation: let u = 2^-64 and N = 2n be the number of thresholds.
Those with 2^64 Phi < 1 are left out. Each threshold is off by less than u, in one direction per half, so the mass of
each value between two neighbouring thresholds of a half is off by less than u, the mass at 0 by less than 2u, and
either tail by less than 3u altogether. Half the sum is (N - 2 + 2 + 6) u / 2 <= N u, since n >= 3.
"""

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from threading import Lock
from typing import Any

import mpmath
import numpy as np
from numpy.typing import NDArray

from cleanlabel.sanitize.errors import InputError

LEVELS = 255
"""A pixel's whole values are 0..255; the noise comes in the same units."""
LEAST_SIGMA = 0.5 / LEVELS
LARGEST_SIGMA = 100.0
"""The largest sigma: it needs 463,000 thresholds and tables of 40 MiB, made in half a minute."""
WORD = 1 << 64
PRECISION = 160
"""Bits of the thresholds' arithmetic: 2^64 Phi is known to 90 bits after the binary point."""
SEARCH = np.iinfo(np.int32).min
"""The table's entry for a cell whose words have different values."""
CHUNK = 1 << 14
"""Words that are looked up at once, so that intermediate results stay in the cache."""
MAKING = Lock()
"""mpmath changes its precision while it computes, so only one thread may use it."""


@dataclass(frozen=True, eq=False)
class RoundedGaussian:
    """Turns 64-bit words into the noise of one sigma.

    thresholds: uint64 (2n,), increasing. A word's value is the number of thresholds <= it, minus n: -n..n. The word's
    upper bits name a cell; `values` holds the value of all words of a cell, or SEARCH where a threshold lies inside it:
    only the words of such cells (0.3 to 3 percent) are searched for.
    """

    sigma: float
    thresholds: NDArray[np.uint64]
    shift: int
    values: NDArray[np.int32]

    @property
    def total_variation(self) -> float:
        """An upper bound on the total variation between a pixel's drawn and ideal noise; see the module's docstring."""
        return len(self.thresholds) / WORD

    def draw(self, words: NDArray[np.uint64]) -> NDArray[np.int32]:
        """The noise for uniform random words, in steps of 1/255; the same shape."""
        noise = np.empty(words.size, dtype=np.int32)
        for start in range(0, words.size, CHUNK):
            part, made = words.reshape(-1)[start : start + CHUNK], noise[start : start + CHUNK]
            cells = (part >> np.uint64(self.shift)).view(np.int64)
            self.values.take(cells, out=made, mode="clip")  # no cell is out of range; the other modes copy
            searched = np.flatnonzero(made == SEARCH)
            made[searched] = np.searchsorted(self.thresholds, part[searched], "right") - len(self.thresholds) // 2
        return noise.reshape(words.shape)


@lru_cache(maxsize=8)
def rounded_gaussian(sigma: float) -> RoundedGaussian:
    """The tables of one sigma, in [0,1] pixel units; they take a quarter of a second per unit of sigma.

    InputError as in `require_drawable`.
    """
    require_drawable(sigma)
    with MAKING:
        n = _first(lambda j: bool(scaled_tail(sigma, j) < 1))
        lower = [int(_context().ceil(scaled_tail(sigma, j))) for j in range(n - 1, -1, -1)]
    thresholds = np.array(lower + [WORD - t for t in reversed(lower)], dtype=np.uint64)
    bits = max(16, (8 * len(thresholds)).bit_length())  # eight cells per threshold; the table stays in the cache
    shift = 64 - bits
    first = np.arange(1 << bits, dtype=np.uint64) << np.uint64(shift)
    last = first | np.uint64((1 << shift) - 1)
    at_first = np.searchsorted(thresholds, first, side="right")
    mixed = at_first != np.searchsorted(thresholds, last, side="right")
    values = np.where(mixed, SEARCH, at_first - n).astype(np.int32)
    return RoundedGaussian(sigma, thresholds, shift, values)


def reference_draw(word: int, sigma: float) -> int:
    """The slow twin of `RoundedGaussian.draw`, for one word: no table, each comparison made in high precision.

    The noise is symmetric: the words w and 2^64 - 1 - w have opposite values. For w in the lower half the value
    is minus the number of j >= 0 whose threshold, 2^64 Phi(-(j + 1/2) / (255 sigma)), is at least 1 and above w.
    """
    smaller = min(word, WORD - 1 - word)
    magnitude = _first(lambda j: scaled_tail(sigma, j) < 1 or scaled_tail(sigma, j) <= smaller)
    return -magnitude if word == smaller else magnitude


def require_drawable(sigma: float, name: str = "sigma") -> None:
    """InputError unless noise of this sigma can be drawn in whole pixel values."""
    if not (np.isfinite(sigma) and sigma > 0):
        raise InputError(f"{name}={sigma} is not a valid noise level; choose a positive number, in [0,1] pixel units")
    if sigma < LEAST_SIGMA:
        raise InputError(
            f"{name}={sigma:g} is less than half a grey level, {LEAST_SIGMA:.5f} in [0,1] pixel units: rounded to "
            f"whole grey levels, most of that noise would be zero; choose at least {LEAST_SIGMA:.5f}"
        )
    if sigma > LARGEST_SIGMA:
        raise InputError(
            f"{name}={sigma:g} exceeds {LARGEST_SIGMA:g}, beyond which the noise's tables outgrow memory; choose a "
            "smaller sigma, in [0,1] pixel units"
        )


def scaled_tail(sigma: float, j: int) -> Any:
    """2^64 Phi(-(j + 1/2) / (255 sigma)) in high precision; sigma is the shortest decimal of the float."""
    return _context().ldexp(_context().erfc((2 * j + 1) / _spread(sigma)), 63)


def _first(holds: Callable[[int], bool]) -> int:
    """The smallest j >= 0 for which `holds`, a condition that then also holds for all larger j."""
    high = 1
    while not holds(high):
        high *= 2
    return bisect_left(range(high), 1, key=holds)


@lru_cache(maxsize=8)
def _spread(sigma: float) -> Any:
    """2 sqrt(2) 255 sigma: (j + 1/2) / (255 sigma sqrt(2)) is (2j + 1) over it."""
    exact = Fraction(Decimal(repr(float(sigma)))) * LEVELS
    return _context().sqrt(8) * exact.numerator / exact.denominator


@lru_cache(maxsize=1)
def _context() -> Any:
    """A separate high-precision context, so that mpmath's global precision stays unchanged."""
    context = mpmath.MPContext()
    context.prec = PRECISION
    return context
