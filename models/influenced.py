"""The answers of a bounded-influence ensemble: labels, radii and counts from its draws' class sums."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cleanlabel.models.certificate import Floats, Ints
from cleanlabel.models.influence import class_bounds, counts_left, margins, radius_between
from cleanlabel.models.sums import STEPS, Sides, Sums
from cleanlabel.sanitize.errors import InputError

COSTS = ("rewritten", "relabelled", "inserted")
"""Ways to change an image at will: under its own label; with its label; adding or removing it."""


@dataclass(frozen=True)
class Influenced:
    """The answers for n test points, in units of hi_t: an image's influence is at most 1 (`models.influence`).

    label (n,): ABSTAIN if nothing is certified; vote (n,): the class of the largest sum, without a guarantee; scores
    (n, K): the mean of the sums over the planned draws; margin (n, K): lower bounds of F_A - F_b, inf at A; bounds:
    lower and upper bounds of each class's mean influence, on the scale from lo to hi.
    """

    label: Ints
    vote: Ints
    scores: Floats
    margin: Floats
    bounds: tuple[Floats, Floats]
    class_sizes: tuple[int, ...]
    sides: Sides
    sigma: float

    @property
    def width(self) -> float:
        """B: the range of one image's influence."""
        return 2.0 if self.sides == "two" else 1.0

    @property
    def low(self) -> float:
        """lo: the least influence."""
        return -1.0 if self.sides == "two" else 0.0

    def cost(self, way: str) -> float:
        """The most that one image takes from F_A - F_b: B if rewritten, 2H if relabelled, H if added or removed."""
        return {"rewritten": self.width, "relabelled": 2.0, "inserted": 1.0}[way]

    def counts(self, way: str) -> Ints:
        """How many images may change in this way at will while nothing else changes: (n,)."""
        return counts_left(self.label, self.margin, self.cost(way))

    def radius(self, rewritten: int = 0, relabelled: int = 0, inserted: int = 0) -> Floats:
        """The joint l2 radius left after these numbers of images change at will: (n,); 0 without noise.

        InputError for a number below 0 or a fraction.
        """
        spent = 0.0
        for way, images in zip(COSTS, (rewritten, relabelled, inserted), strict=True):
            if isinstance(images, bool) or not isinstance(images, int | np.integer) or images < 0:
                raise InputError(f"{way}={images} is not a number of images; give 0 or more")
            spent += self.cost(way) * images
        if not self.sigma:
            return np.zeros(len(self.label))
        return radius_between(self.label, self.bounds, self.class_sizes, self.width, self.low, self.sigma, spent)


def influenced(
    sums: Mapping[int, Sums],
    m: int,
    n: int,
    class_sizes: Sequence[int],
    sides: Sides,
    sigma: float,
    level: float,
    *,
    distance: float = 0.0,
) -> Influenced:
    """The answers from the sums of draws 0..m-1, by draw, int64 (n, K) each, in steps of hi_t / STEPS.

    A missing draw counts as the worst possible one. Each point's answer holds with probability at least 1 - level; at
    sigma = 0 it is certain. InputError for a draw outside the plan, sums of another shape, or a sum that is impossible
    for these class sizes.
    """
    shape = (n, len(class_sizes))
    least = np.array(class_sizes, dtype=np.int64) * (-STEPS if sides == "two" else 0)
    most = np.array(class_sizes, dtype=np.int64) * STEPS
    total = np.zeros(shape, dtype=np.int64)
    for draw, own in sorted(sums.items()):
        if not 0 <= draw < m:
            raise InputError(f"draw {draw} is not in the plan of draws 0..{m - 1}")
        if own.shape != shape:
            raise InputError(f"draw {draw} has sums of shape {own.shape}; the plan's have {shape}")
        if (own < least).any() or (own > most).any():
            raise InputError(f"draw {draw} has a sum that its class's images cannot reach; it is damaged")
        total += own
    scores = total / (m * STEPS)
    width, low = (2.0, -1.0) if sides == "two" else (1.0, 0.0)
    alpha = level if sigma else None
    missing = m - len(sums)
    bounds = class_bounds(scores, class_sizes, width, low, m, alpha, missing=missing, distance=distance)
    label, margin = margins(scores, bounds, class_sizes, width, low)
    return Influenced(label, scores.argmax(axis=1), scores, margin, bounds, tuple(class_sizes), sides, sigma)


def extreme_radius(
    m: int, class_sizes: Sequence[int], sides: Sides, sigma: float, level: float, *, distance: float = 0.0
) -> float:
    """The largest possible radius: every image of one class has the most influence, all other images the least."""
    most = STEPS * np.array(class_sizes, dtype=np.int64)
    best = np.tile(-most if sides == "two" else 0 * most, (len(most), 1))
    np.fill_diagonal(best, most)
    draws = dict.fromkeys(range(m), best)
    return float(influenced(draws, m, len(most), class_sizes, sides, sigma, level, distance=distance).radius().max())
