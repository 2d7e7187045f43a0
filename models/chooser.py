"""Choose (sigma, k) for a target (a, R) from a pilot on trusted images. The result is a forecast, not a certificate.

The ensemble on the raw set will have k blocks of n/k images with m models each. A pilot (`models.pilot`) has a few
models of a few blocks of that size. Its votes give, for each image and block, an estimated chance that a model answers
correctly. From these chances m votes per block are drawn and certified like the ensemble's. The forecast is the average
certified accuracy on images like the trusted ones; it cannot know the effect of the raw images.
`python -m benchmarks.chooser` measures its error, which is larger than its interval says.
"""

from dataclasses import dataclass

import numpy as np

from cleanlabel.models.certificate import Floats, Ints, certified_accuracy
from cleanlabel.models.decision import fitted_prior
from cleanlabel.models.partition import block_certificates, partition_radius
from cleanlabel.models.pilot import OWN_IMAGE, Pilot

REPEATS = 24
INTERVAL = (5, 95)


@dataclass(frozen=True)
class Target:
    """The target: certified accuracy when `rewritten` images change at will and the others within `radius`.

    radius: joint l2; m: models per block; level: the error probability of one test point's certificate.
    """

    radius: float
    rewritten: int
    m: int
    level: float


@dataclass(frozen=True)
class Outlook:
    """The forecast for (sigma, k): certified accuracy at the target, and the interval of 90% of its bootstrap repeats.

    largest: the radius of k unanimous blocks at the target's `rewritten`. accuracy is None if there was no pilot; `why`
    gives the reason.
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


def unanimous_blocks_radius(sigma: float, k: int, target: Target, classes: int) -> float:
    """The joint radius of k unanimous blocks of m unanimous models each, if `rewritten` of the blocks are lost."""
    votes = np.zeros((k, 1, classes), dtype=np.int64)
    votes[:, :, 0] = target.m
    labels, radii = block_certificates(votes, target.m, sigma, target.level)
    return float(partition_radius(labels, radii, classes, target.rewritten)[1][0])


def forecast(pilot: Pilot, sigma: float, k: int, target: Target, seed: int = 0) -> Floats:
    """Certified accuracies at the target of `REPEATS` simulated ensembles of k blocks, (REPEATS,).

    Each repeat resamples the pilot's blocks and images (with replacement), the chances, and the votes. A simulated
    block is one of the pilot's blocks that has not seen the image. With v of d votes right, its chance of a right
    answer is drawn from Beta(a + v, b + d - v). The prior is fitted over all images and blocks (with a pull to
    Jeffreys' 1/2), so d unanimous votes do not give certainty. Wrong votes are distributed over the other classes as in
    all blocks. The same arguments give the same forecast.
    """
    generator = np.random.default_rng(seed)
    counts = _counts(pilot)
    draws, (blocks, n, classes) = pilot.votes.shape[1], counts.shape
    rows = np.arange(n)
    right, asked = counts[:, rows, pilot.truth], pilot.votes[:, 0] != OWN_IMAGE
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
    """The key figures of `forecast`."""
    shares = forecast(pilot, sigma, k, target)
    low, high = np.percentile(shares, INTERVAL)
    blocks, _, points = pilot.votes.shape
    largest = unanimous_blocks_radius(sigma, k, target, pilot.classes)
    figures = float(shares.mean()), float(low), float(high)
    return Outlook(sigma, k, pilot.size, largest, *figures, blocks, points)


def best_of(outlooks: list[Outlook]) -> Outlook | None:
    """The largest forecast accuracy; among equals, the fewest blocks, then the least noise. None without a forecast."""
    found = [(one.accuracy, -one.k, -one.sigma, one) for one in outlooks if one.accuracy]
    return max(found, key=lambda row: row[:3])[3] if found else None


def not_told_apart(outlooks: list[Outlook], best: Outlook) -> list[Outlook]:
    """The others whose interval reaches the best one's forecast accuracy."""
    mean = best.accuracy or 0.0
    return [one for one in outlooks if one is not best and one.high is not None and one.high >= mean]


def _counts(pilot: Pilot) -> Ints:
    """(blocks, n_points, K): the votes of each block's draws."""
    return np.stack([(pilot.votes == c).sum(axis=1) for c in range(pilot.classes)], axis=2)


def _chosen(generator: np.random.Generator, k: int, asked: np.ndarray, there: np.ndarray) -> Ints:
    """(k, n_points): the pilot block that represents each of k blocks: in a random order, the first that was asked.

    Blocks that are not `there` in this repeat come last. They are used if an image was in all the others.
    """
    order = generator.random((k, len(there))) + ~there
    place = np.where(asked[None], order[:, :, None], np.inf)
    chosen: Ints = place.argmin(axis=1)
    return chosen
