"""The closed forms of partition aggregation: how many of the members' votes may change before the answer does.

One image inserted or removed changes the training set of one member, hence one member's whole answer. NumPy alone;
ties go to the smaller class throughout. Published certificates (Levine & Feizi 2021; Rezaei et al. 2023) by gaps:
gap(a, b) = N_a - N_b + [a < b] is how much the difference has to shrink until b stands before a.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Ints = NDArray[np.int64]
NEVER = np.iinfo(np.int64).max // 4
"""More changes than there can be: where no change of votes has the effect."""


def votes_of(logits: NDArray[np.floating]) -> Ints:
    """The class each member votes for, (members, n), by logits (members, n, K); -1 where they are not finite."""
    best = logits.argmax(axis=2).astype(np.int64)
    best[~np.isfinite(logits).all(axis=2)] = -1
    return best


def gaps_to(counts: Ints, ahead: Ints) -> Ints:
    """gap(ahead, c) for every class c, (n, K); counts (n, K), ahead (n,). Its own column is meaningless."""
    rows, classes = np.arange(len(counts)), np.arange(counts.shape[1])
    return counts[rows, ahead][:, None] - counts + (ahead[:, None] < classes)


def moves_past_one(gap: ArrayLike) -> Ints:
    """The least number of votes that must change until one class leads: each closes a gap by at most 2."""
    return np.maximum(0, -(-np.asarray(gap, dtype=np.int64) // 2))


def moves_past_two(gap_1: ArrayLike, gap_2: ArrayLike) -> Ints:
    """The least number until both of two classes lead: max(ceil(g1/2), ceil(g2/2), ceil((g1 + g2)/3)).

    A vote taken from the class ahead closes one gap by 2 and the other by 1: three in all.
    """
    one, two = np.asarray(gap_1, dtype=np.int64), np.asarray(gap_2, dtype=np.int64)
    both = -(-(np.maximum(one, 0) + np.maximum(two, 0)) // 3)
    return np.maximum(np.maximum(moves_past_one(one), moves_past_one(two)), both)


def aggregated(counts: Ints) -> tuple[Ints, Ints]:
    """Deep Partition Aggregation: (labels, tolerated), (n,) each, by the plurality of counts (n, K).

    The answer is the same while at most `tolerated` votes change: floor((n1 - n2 - [class 2 < class 1]) / 2) over every
    rival class.
    """
    label = counts.argmax(axis=1)
    gaps = gaps_to(counts, label)
    gaps[np.arange(len(label)), label] = NEVER
    return label, moves_past_one(gaps.min(axis=1)) - 1


def run_off(logits: NDArray[np.floating]) -> tuple[Ints, Ints]:
    """Run-Off Election: (labels, tolerated), (n,) each, from logits (members, n, K).

    Round 1 is the plurality; in round 2 every member votes for the one of the two leading classes with the higher
    logit. The answer changes only if either two classes pass the winner in round 1, or one passes the other leader in
    round 1 and the winner in round 2. K >= 2. A member without finite logits votes in neither round.
    """
    votes = votes_of(logits)
    _, n, classes = logits.shape
    counts = np.stack([(votes == c).sum(axis=0) for c in range(classes)], axis=1)
    rows = np.arange(n)
    order = np.argsort(-counts, axis=1, kind="stable")  # ties: the smaller class first
    low, high = np.sort(order[:, :2], axis=1).T
    for_high = _preferring(logits, votes, high[:, None], low[:, None])[:, 0]
    label = np.where(2 * for_high > (votes != -1).sum(axis=0), high, low)
    second = np.where(label == low, high, low)

    gaps = gaps_to(counts, label)
    past_two = np.full(n, NEVER)
    for a in range(classes):
        for b in range(a):
            rivals = (label != a) & (label != b)
            past_two = np.where(rivals, np.minimum(past_two, moves_past_two(gaps[:, a], gaps[:, b])), past_two)

    everybody = np.broadcast_to(np.arange(classes), (n, classes))
    for_rival = _preferring(logits, votes, everybody, label[:, None])
    for_label = (votes != -1).sum(axis=0)[:, None] - for_rival
    in_second_round = for_label - for_rival + (label[:, None] < everybody)
    in_first_round = gaps_to(counts, second)
    in_first_round[rows, second] = 0  # it is there already
    overtaken = np.maximum(moves_past_one(in_first_round), moves_past_one(in_second_round))
    overtaken[rows, label] = NEVER
    return label, np.minimum(past_two, overtaken.min(axis=1)) - 1


def _preferring(logits: NDArray[np.floating], votes: Ints, one: Ints, other: Ints) -> Ints:
    """How many members prefer `one` to `other`, classes (n, j) and (n, 1 or j): (n, j); ties: the smaller class."""
    total = np.zeros(one.shape, dtype=np.int64)
    for scores, cast in zip(logits, votes, strict=True):
        mine, its = (
            np.take_along_axis(scores, classes, axis=1) for classes in (one, np.broadcast_to(other, one.shape))
        )
        total += ((mine > its) | ((mine == its) & (one < other))) & (cast != -1)[:, None]
    return total
