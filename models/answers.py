"""What an ensemble answers: from its draws' votes to labels and radii, by the rule that its plan fixed."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from cleanlabel.models import anytime
from cleanlabel.models.certificate import Floats, Ints
from cleanlabel.models.influenced import Influenced, influenced
from cleanlabel.models.influenced import largest_radius as influenced_radius
from cleanlabel.models.partition import block_certificates, partition_radius, plurality
from cleanlabel.models.plan import Plan
from cleanlabel.models.votes import NOBODY, count_block_votes, count_votes


@dataclass(frozen=True)
class Answers:
    """Of n test points: label and radius as `models.certificate.certify` means them, (n,).

    vote (n,): what most models answer, without a guarantee; of k blocks, the plurality of what most models of each do.
    counts (n, K): how many models voted for each class; of k blocks, how many are certified for it.
    block_labels, block_radii (n, k): what each block certifies by itself, at its share of the level; None of one block.
    influenced: of a bounded-influence head, all that its sums say; `counts` are then the classes' mean sums, in whole
    images, from 0 on.
    """

    label: Ints
    radius: Floats
    vote: Ints
    counts: Ints
    block_labels: Ints | None = None
    block_radii: Floats | None = None
    influenced: Influenced | None = None


def answers(plan: Plan, attempt: int, m: int, votes: Mapping[int, Ints], n: int) -> Answers:
    """The answers for n test points of draws 0..m-1, and of those after `plan.m` that only choose the class.

    votes: by draw, (n,) or (k, n); a draw that is missing is a vote for nobody. InputError for votes that are none.
    """
    bounding = {draw: row for draw, row in votes.items() if draw < m}
    if plan.bounded_influence:
        found = influenced_of(plan, attempt, m, bounding, n)
        return Answers(
            found.label,
            found.radius(),
            found.vote,
            np.maximum(np.rint(found.scores), 0).astype(np.int64),
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
    """What the class sums of a bounded-influence plan's draws 0..m-1 say on n test points."""
    level, distance = plan.level_at(m, attempt), plan.noise_distance
    return influenced(sums, m, n, plan.class_sizes, plan.sides, plan.sigma, level, distance=distance)


def _of_blocks(labels: Ints, classes: int) -> Ints:
    return count_votes(dict(enumerate(labels)), len(labels), labels.shape[1], classes)


def largest_radius(plan: Plan, attempt: int, m: int) -> float:
    """The radius where all m models, of every block, agree on the first class, which wins ties: there is no larger.

    Of a bounded-influence head: where every image of one class has the most influence, and of all others the least.
    """
    if plan.bounded_influence:
        level, distance = plan.level_at(m, attempt), plan.noise_distance
        return influenced_radius(m, plan.class_sizes, plan.sides, plan.sigma, level, distance=distance)
    if plan.partitions == 1:
        return anytime.largest_radius(plan.rule(attempt), m, plan.classes)
    counts = np.zeros((plan.partitions, 1, plan.classes), dtype=np.int64)
    counts[:, :, 0] = m
    level, distance = plan.level_at(m, attempt), plan.noise_distance
    labels, radii = block_certificates(counts, m, plan.sigma, level, distance=distance)
    return float(partition_radius(labels, radii, plan.classes)[1][0])
