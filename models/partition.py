"""Partitioned smoothing: one certificate for how many images, and how far, from k ensembles on disjoint blocks.

The raw set is split into blocks P_1..P_k by a hash of each image's id. Block j has m models of its own, made from
its own images and labels, the plan's constants and its own seeds. For a test input let g_j(D) be the class that block
j's *smoothed* model answers, and G(D) the plurality of g_1(D)..g_k(D), ties to the smaller class. The statement:

    With probability at least 1 - alpha over all draws, G(D') = A for every D' that differs from D without limit in at
    most `a` blocks (images rewritten, added, removed) and, in all the others, by sqrt(sum_i ||delta_i||_2^2) < R.

Block j's votes give a label c_j and a radius R_j at level alpha/k, or abstain; all k hold at once with probability at
least 1 - alpha (union bound: the blocks need not be independent). From then on nothing is random:

 1. g_j(D') != c_j needs ||Delta_j|| >= R_j. A block that abstained certifies nothing about g_j, not even at Delta = 0:
    it already counts as a vote for the rival, at no cost.
 2. B beats A if and only if N'_B - N'_A >= [A < B]: a tie goes to the smaller class. So the attacker must overcome

        gap_B = N_A - N_B - #abstained + [A < B],

    where N counts certified labels. A block for A that turns to B is worth 2, a block for a third class 1. A block for
    B is worth nothing to the attacker: "other classes" below are those that are neither A nor B.
 3. Blocks are disjoint, so ||Delta||^2 = sum_j ||Delta_j||^2 and costs add: R_j^2 each. Hence, with S_1 among the
    blocks for A and S_2 among those for other classes,

        R^2 = min over B != A and (S_1, S_2) with 2|S_1| + |S_2| >= gap_B of the cost of the choice,

    which is attained by the cheapest blocks of each group: a search over |S_1| alone.
 4. With `a` free blocks, the `a` most expensive blocks of a choice cost nothing, before the minimum is taken. That
    minimum is the one above with gap_B - 2a in place of gap_B: the paid blocks are worth at least gap_B - 2a, since a
    free block is worth at most 2. Conversely, free blocks can be added to any choice worth gap_B - 2a: either `a`
    blocks for A remain outside it, worth 2 each, or fewer do, and with all of those it is worth
    2 N_A >= N_A + 1 >= gap_B.

R is the largest radius that follows from the c_j and R_j, and the comparison is strict as in `models.certificate`. With
k = 1 and a = 0 it is the ordinary certificate. With every R_j positive, equal or not, R > 0 exactly for a <= min over B
of floor((N_A - N_B - #abstained - [B < A]) / 2): without abstentions the bound of DPA (Levine & Feizi 2021).
docs/explanation/partitioned-smoothing.md has the full proof, and the effect of noise on test inputs. This module needs
only numpy and scipy.

Throughout, labels and radii are (n_points, k); the label of a block that abstained is ABSTAIN.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cleanlabel.models.certificate import ABSTAIN, Floats, Ints, certify


def block_certificates(
    counts: ArrayLike, m: int, sigma: float, alpha: float, *, distance: float = 0.0
) -> tuple[Ints, Floats]:
    """Labels and radii of all blocks, (n_points, k): per test point, all true at once with probability 1 - alpha.

    counts is (k, n_points, K): how many of the m planned models of each block voted for each class. Each block is
    certified at level alpha/k by `models.certificate.certify` (class and bound from the same votes, at half of that).
    `distance` as there; the value for the whole raw set's noise is used for each block.
    """
    counts = np.asarray(counts)
    if counts.ndim != 3 or not counts.shape[0]:
        raise ValueError(f"counts must have the shape (blocks, n_points, classes), not {counts.shape}")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha={alpha} is not a probability strictly between 0 and 1")
    k, n_points, n_classes = counts.shape
    label, radius = certify(counts.reshape(k * n_points, n_classes), m, sigma, alpha / k, distance=distance)
    return label.reshape(k, n_points).T, radius.reshape(k, n_points).T


def plurality(labels: ArrayLike, n_classes: int) -> Ints:
    """The class that most blocks are certified for, (n_points,), ties to the smaller; ABSTAIN if all abstained.

    By itself it has no guarantee. It is the answer of `partition_radius` unless that abstains.
    """
    votes = _votes(np.asarray(labels), n_classes)
    return np.where(votes.any(axis=1), votes.argmax(axis=1), ABSTAIN)


def partition_radius(labels: ArrayLike, radii: ArrayLike, n_classes: int, free: int = 0) -> tuple[Ints, Floats]:
    """The answer and its joint radius, both (n_points,), from the blocks' own, if `free` blocks may change at will.

    If the label is not ABSTAIN and the blocks' certificates are true, the plurality of the smoothed blocks is `label`
    for every training set that differs without limit in at most `free` blocks and by a joint l2 norm strictly below
    `radius` in the others. If no positive radius follows, the label is ABSTAIN and the radius 0.
    """
    label, radius = frontier(labels, radii, n_classes, [free])
    return label[0], radius[0]


def frontier(labels: ArrayLike, radii: ArrayLike, n_classes: int, frees: Sequence[int]) -> tuple[Ints, Floats]:
    """`partition_radius` for each number of free blocks in `frees`: labels and radii, both (len(frees), n_points).

    All hold at once: they follow from the same k certificates, so the whole frontier spends no more alpha.
    """
    labels, radii = _checked(labels, radii, n_classes)
    if any(a < 0 for a in frees):
        raise ValueError(f"free={min(frees)} is not a number of blocks; give 0 or more")
    n_points, k = labels.shape
    votes = _votes(labels, n_classes)
    A = votes.argmax(axis=1)
    n_A = votes.max(axis=1)
    abstained = labels == ABSTAIN
    for_A = labels == A[:, None]
    costs = radii**2

    # No gap exceeds N_A + 1 <= k + 1, so more than k//2 + 1 blocks for A are never worth their cost.
    s_1 = np.arange(min(k, k // 2 + 1) + 1)
    cost_1 = _cheapest(costs, for_A)[:, s_1]
    least = np.full((len(frees), n_points), np.inf)
    for B in range(n_classes):
        gap = n_A - votes[:, B] - abstained.sum(axis=1) + (A < B)
        cost_2 = _cheapest(costs, ~for_A & ~abstained & (labels != B))
        for row, a in zip(least, frees, strict=True):
            # A gap of k + 1 needs all k blocks to be for A: the clipped index reads inf there, as required.
            s_2 = np.clip((gap - 2 * a)[:, None] - 2 * s_1, 0, k)
            cost = (cost_1 + np.take_along_axis(cost_2, s_2, axis=1)).min(axis=1)
            np.minimum(row, cost, out=row, where=A != B)
    return np.where(least > 0, A, ABSTAIN), np.sqrt(least)


def _cheapest(costs: Floats, group: NDArray[np.bool_]) -> Floats:
    """(n_points, k + 1): the total cost of the group's s cheapest blocks, inf if it has fewer than s."""
    prices = np.sort(np.where(group, costs, np.inf), axis=1)
    return np.concatenate([np.zeros((len(costs), 1)), np.cumsum(prices, axis=1)], axis=1)


def _votes(labels: Ints, n_classes: int) -> Ints:
    """(n_points, n_classes): how many blocks are for each class."""
    return np.stack([(labels == c).sum(axis=1) for c in range(n_classes)], axis=1)


def _checked(labels: ArrayLike, radii: ArrayLike, n_classes: int) -> tuple[Ints, Floats]:
    labels, radii = np.asarray(labels), np.asarray(radii, dtype=np.float64)
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"labels must be integers, not {labels.dtype}")
    if labels.ndim != 2 or not labels.shape[1] or labels.shape != radii.shape:
        raise ValueError(f"labels and radii must both be (n_points, blocks), not {labels.shape} and {radii.shape}")
    if n_classes < 2:
        raise ValueError(f"n_classes={n_classes} is too few; give 2 or more")
    if labels.size and not ABSTAIN <= labels.min() <= labels.max() < n_classes:
        raise ValueError(f"labels {labels.min()}..{labels.max()} are not all ABSTAIN or a class in 0..{n_classes - 1}")
    if not (np.isfinite(radii) & (radii >= 0)).all():
        raise ValueError("a radius is negative or not finite; give the radii of block_certificates")
    return labels.astype(np.int64), radii
