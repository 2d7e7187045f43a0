"""The galleries of the review page: test images with a wrong certificate, and test images that got none."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from cleanlabel.flows.certificate.influences import influence_of
from cleanlabel.flows.certificate.partitions import partitions_of
from cleanlabel.flows.certificate.record import Certified
from cleanlabel.flows.report.drawing import thumbnail, votes_bar
from cleanlabel.models.certificate import ABSTAIN
from cleanlabel.models.rounding import down
from cleanlabel.sanitize.imageset import ImageSet

SHOWN = 48
"""The most test images in a gallery: enough to see what they share, few enough for a mail attachment."""


@dataclass(frozen=True)
class Case:
    """A test image for the reviewer, with its top classes and their votes."""

    id: str
    image: str
    truth: str
    label: str | None
    radius: float
    top: list[tuple[str, int]]
    bar: str


@dataclass(frozen=True)
class Gallery:
    """The shown cases of one kind, and the number of all of them."""

    cases: list[Case]
    total: int


def galleries(certified: Certified, test: ImageSet) -> tuple[Gallery, Gallery]:
    """Two galleries: wrong certificates, largest radius first; abstentions, fewest votes for the top class first."""
    wrong = np.flatnonzero((certified.label != test.labels) & (certified.label != ABSTAIN))
    abstained = np.flatnonzero(certified.label == ABSTAIN)
    in_order = (
        wrong[np.argsort(-certified.radius[wrong], kind="stable")],
        abstained[np.argsort(certified.counts[abstained].max(axis=1), kind="stable")],
    )
    first, second = (Gallery([_case(certified, test, i) for i in rows[:SHOWN]], len(rows)) for rows in in_order)
    return first, second


def _case(certified: Certified, test: ImageSet, row: np.int64) -> Case:
    votes, label = certified.counts[row], int(certified.label[row])
    top = [int(i) for i in np.argsort(-votes, kind="stable")[:2]]
    return Case(
        test.ids[row],
        thumbnail(test.images[row]),
        test.classes[int(test.labels[row])],
        None if label == ABSTAIN else test.classes[label],
        down(certified.radius[row], 3),
        [(test.classes[i], int(votes[i])) for i in top],
        votes_bar([int(votes[i]) for i in top], _bar(certified.certificate)),
    )


def most_voters(c: dict[str, Any]) -> int:
    """The most that a class can have: votes, blocks, or images' worth of influence."""
    section, influence = partitions_of(c), influence_of(c)
    return max(influence["class_sizes"]) if influence else section["k"] if section else c["m"]


def _bar(c: dict[str, Any]) -> int:
    """The full length of a bar of two classes: votes are divided between classes, sums are not."""
    return most_voters(c) * (2 if influence_of(c) else 1)
