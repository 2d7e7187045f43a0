"""The answers of an ensemble: labels and radii from its draws' votes, by the rule in its plan."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from cleanlabel.models import anytime
from cleanlabel.models.certificate import Floats, Ints
from cleanlabel.models.influenced import Influenced, extreme_radius, influenced
from cleanlabel.models.partition import block_certificates, partition_radius, plurality
from cleanlabel.models.plan import Plan
from cleanlabel.models.votes import NOBODY, count_block_votes, count_votes


@dataclass(frozen=True)
class Answers:
    """The answers for n test points: label and radius (n,), as `models.certificate.certify` defines them.

    vote (n,): the class with most votes, without a guarantee; with k blocks, the plurality of the blocks' votes.
    counts (n, K): how many models voted for each class; with k blocks, how many blocks are certified for it.
    block_labels, block_radii (n, k): each block's own certificate at its share of the level; None with one block.
    influenced: for a bounded-influence head, the full result of its sums; `counts` are then the classes' mean sums, in
    whole images, rounded down, and 0 where they are below it.
    """

    label: Ints
    radius: Floats
    vote: Ints
    counts: Ints
    block_labels: Ints | None = None
    block_radii: Floats | None = None
    influenced: Influenced | None = None


def answers(plan: Plan, attempt: int, m: int, votes: Mapping[int, Ints], n: int) -> Answers:
    """The answers for n test points from draws 0..m-1 and the draws from `plan.m` on that only choose the class.

    votes: by draw, (n,) or (k, n); a missing draw votes for no class. InputError for invalid votes.
    """
    bounding = {draw: row for draw, row in votes.items() if draw < m}
    if plan.bounded_influence:
        found = influenced_of(plan, attempt, m, bounding, n)
        return Answers(
            found.label,
            found.radius(),
            found.vote,
            np.maximum(np.floor(found.scores), 0).astype(np.int64),
            influenced=found,
        )
    if plan.partitions > 1:
        counts = count_block_votes(bounding, m, plan.partitions, n, plan.classes)
        level, distance = plan.level_at(m, attempt), plan.noise_distance
        labels, radii = block_certificates(counts, m, plan.sigma, level, distance=distance)
        label, radius = partition_radius(labels, radii, plan.classes)
        top = np.where(counts.any(axis=2), counts.argmax(axis=2), NOBODY)
        vote = plurality(top.T, plan.classes)
        return Answers(label, radius, vote, _of_blocks(labels.T, plan.classes), labels, radii)
    counts = count_votes(bounding, m, n, plan.classes)
    choosing = {draw - m: row for draw, row in votes.items() if draw >= m}
    selection = count_votes(choosing, plan.selection, n, plan.classes) if plan.selection else None
    label, radius = plan.rule(attempt).certify(counts, m, selection)
    return Answers(label, radius, counts.argmax(axis=1), counts)


def influenced_of(plan: Plan, attempt: int, m: int, sums: Mapping[int, Ints], n: int) -> Influenced:
    """The result for n test points from the class sums of a bounded-influence plan's draws 0..m-1."""
    level, distance = plan.level_at(m, attempt), plan.noise_distance
    return influenced(sums, m, n, plan.class_sizes, plan.sides, plan.sigma, level, distance=distance)


def _of_blocks(labels: Ints, classes: int) -> Ints:
    return count_votes(dict(enumerate(labels)), len(labels), labels.shape[1], classes)


def largest_radius(plan: Plan, attempt: int, m: int) -> float:
    """The largest possible radius: all m models of every block vote for the first class, which wins ties.

    For a bounded-influence head: each image of one class has the most influence, each image of the others the least.
    """
    if plan.bounded_influence:
        level, distance = plan.level_at(m, attempt), plan.noise_distance
        return extreme_radius(m, plan.class_sizes, plan.sides, plan.sigma, level, distance=distance)
    if plan.partitions == 1:
        return anytime.unanimous_radius(plan.rule(attempt), m, plan.classes)
    counts = np.zeros((plan.partitions, 1, plan.classes), dtype=np.int64)
    counts[:, :, 0] = m
    level, distance = plan.level_at(m, attempt), plan.noise_distance
    labels, radii = block_certificates(counts, m, plan.sigma, level, distance=distance)
    return float(partition_radius(labels, radii, plan.classes)[1][0])
