"""What (sigma, k) to choose for a target (a, R), from a pilot on trusted images: a forecast, and no certificate.

The ensemble on the raw set will have k blocks of n/k images with m models each. A pilot (`models.pilot`) has a few
models of a few blocks of that size. From its votes the chance that a model of a block answers right is estimated for
each image and block, m votes a block are drawn from that, and certified as the ensemble's will be. The forecast is of
the average certified accuracy on images like the trusted ones; what raw images would do to it, it cannot know.
`python -m benchmarks.chooser` measures how far off it is: by more than its interval says.
"""

from dataclasses import dataclass

import numpy as np

from cleanlabel.models.certificate import Floats, Ints, certified_accuracy
from cleanlabel.models.decision import fitted_prior
from cleanlabel.models.partition import block_certificates, partition_radius
from cleanlabel.models.pilot import NO_VOTE, Pilot

REPEATS = 24
INTERVAL = (5, 95)


@dataclass(frozen=True)
class Target:
    """What is asked for: certified accuracy where `rewritten` images change at will, the others within `radius`.

    radius: joint l2; m: models a block; level: the error probability of one test point's certificate.
    """

    radius: float
    rewritten: int
    m: int
    level: float


@dataclass(frozen=True)
class Outlook:
    """What is to be expected of (sigma, k): certified accuracy at the target, and 90% of its bootstrap repeats.

    largest: the radius that k unanimous blocks have at the target's `rewritten`; accuracy is None where nothing was
    piloted, and `why` says why.
    """

    sigma: float
    k: int
    images_a_block: int
    largest: float
    accuracy: float | None
    low: float | None
    high: float | None
    blocks: int
    points: int
    why: str = ""


def largest_radius(sigma: float, k: int, target: Target, classes: int) -> float:
    """The joint radius of k unanimous blocks of m unanimous models each, `rewritten` of them given away."""
    votes = np.zeros((k, 1, classes), dtype=np.int64)
    votes[:, :, 0] = target.m
    labels, radii = block_certificates(votes, target.m, sigma, target.level)
    return float(partition_radius(labels, radii, classes, target.rewritten)[1][0])


def forecast(pilot: Pilot, sigma: float, k: int, target: Target, seed: int = 0) -> Floats:
    """Certified accuracies at the target that `REPEATS` simulated ensembles of k blocks reach, (REPEATS,).

    Each repeat draws anew which of the pilot's blocks and images there were (with replacement), the chances, and the
    votes. A simulated block is one of the pilot's that has not seen the image. Its chance of a right answer given v of
    d right votes is drawn from Beta(a + v, b + d - v), the prior fitted over all images and blocks (a pull to Jeffreys'
    1/2): d unanimous votes do not make a certainty. Wrong votes fall on other classes as they did in all blocks.
    The same arguments give the same forecast.
    """
    generator = np.random.default_rng(seed)
    counts = _counts(pilot)
    draws, (blocks, n, classes) = pilot.votes.shape[1], counts.shape
    rows = np.arange(n)
    right, asked = counts[:, rows, pilot.truth], pilot.votes[:, 0] != NO_VOTE
    a, b = fitted_prior(right[asked], draws)
    rivals = counts.sum(axis=0) + 1.0 / (classes - 1)
    rivals[rows, pilot.truth] = 0
    rivals /= rivals.sum(axis=1, keepdims=True)
    shares = np.empty(REPEATS)
    for repeat in range(REPEATS):
        there = np.isin(np.arange(blocks), generator.integers(0, blocks, blocks))
        chosen = _chosen(generator, k, asked, there)
        votes_right = right[chosen, rows]
        chance = generator.beta(a + votes_right, b + draws - votes_right)[:, :, None]
        probabilities = (1 - chance) * rivals
        probabilities[:, rows, pilot.truth] = chance[:, :, 0]
        votes = generator.multinomial(target.m, probabilities)
        labels, radii = block_certificates(votes, target.m, sigma, target.level)
        label, radius = partition_radius(labels, radii, classes, target.rewritten)
        points = generator.integers(0, n, n)
        shares[repeat] = certified_accuracy(label[points], radius[points], pilot.truth[points], target.radius)[0]
    return shares


def outlook(pilot: Pilot, sigma: float, k: int, target: Target) -> Outlook:
    """`forecast` in figures."""
    shares = forecast(pilot, sigma, k, target)
    low, high = np.percentile(shares, INTERVAL)
    blocks, _, points = pilot.votes.shape
    largest = largest_radius(sigma, k, target, pilot.classes)
    figures = float(shares.mean()), float(low), float(high)
    return Outlook(sigma, k, pilot.size, largest, *figures, blocks, points)


def best_of(outlooks: list[Outlook]) -> Outlook | None:
    """The largest expected accuracy; of equals the fewest blocks, then the least noise. None if nothing is expected."""
    found = [(one.accuracy, -one.k, -one.sigma, one) for one in outlooks if one.accuracy]
    return max(found, key=lambda row: row[:3])[3] if found else None


def not_told_apart(outlooks: list[Outlook], best: Outlook) -> list[Outlook]:
    """The others whose interval reaches the best one's expected accuracy."""
    mean = best.accuracy or 0.0
    return [one for one in outlooks if one is not best and one.high is not None and one.high >= mean]


def _counts(pilot: Pilot) -> Ints:
    """(blocks, n_points, K): the draws' votes of each block."""
    return np.stack([(pilot.votes == c).sum(axis=1) for c in range(pilot.classes)], axis=2)


def _chosen(generator: np.random.Generator, k: int, asked: np.ndarray, there: np.ndarray) -> Ints:
    """(k, n_points): which pilot block stands for each of k: the first, in an order of its own, that was asked.

    Those that are not `there` in this repeat come last; they stand in where an image was in all the others.
    """
    order = generator.random((k, len(there))) + ~there
    place = np.where(asked[None], order[:, :, None], np.inf)
    chosen: Ints = place.argmin(axis=1)
    return chosen
