"""What others certify on the same features, raw and test images: votes, partitions, nearest neighbours.

Votes (`models.certificate`) know radii alone, partitions and neighbours counts alone. Partitions and neighbours take
clean features, no noise. Their k, and the neighbours' radius, are tried out; the best is chosen afterwards, on the
test images, in their favour.
"""

from collections.abc import Sequence
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from benchmarks.frontiers.rivals import rivals_of
from benchmarks.frontiers.sets import Head, Task, noise_only
from benchmarks.influence.sets import Sets
from cleanlabel.models.certificate import Floats, Ints, certified_accuracy, certify
from cleanlabel.models.extractors import features
from cleanlabel.models.heads import fit_head
from cleanlabel.models.plan import noise_distance_of
from cleanlabel.models.rounding import down
from cleanlabel.models.votes import count_votes
from cleanlabel.redteam.defences.elections import aggregated, gaps_to

PARTS = (50, 100, 250, 500, 1000)
NEIGHBOURS = (50, 100, 200, 500, 1000, 2000, 4000)
NEAR = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
"""Shares of the raw images that lie within rNN's radius at the median; the radius is set on trusted images."""
ALPHA = 0.001


def vote_row(sets: Sets, copies: Sequence[torch.Tensor], sigma: float, radii: Sequence[float]) -> dict[str, Any]:
    """LDA on the features of each copy, and what the votes of all of them certify."""
    labels, classes, started = torch.from_numpy(sets.raw.labels), len(sets.raw.classes), perf_counter()
    votes = {
        draw: fit_head(rows.float(), labels, classes, "lda", sets.l2)(sets.asked).argmax(dim=1).numpy()
        for draw, rows in enumerate(copies)
    }
    counts = count_votes(votes, len(votes), len(sets.test), classes)
    distance = noise_distance_of(len(sets.raw), sets.raw.image_shape, sigma)
    label, radius = certify(counts, len(votes), sigma, ALPHA, distance=distance)
    return {
        "head": "votes", "sigma": sigma, "m": len(votes),
        "accuracy": share(counts.argmax(axis=1) == sets.test.labels),
        "certified": rounded(certified_accuracy(label, radius, sets.test.labels, radii)),
        "largest_radius": down(radius.max(), 3),
        "certify_seconds": round(perf_counter() - started, 1),
        "curve": (label, radius),
    }  # fmt: skip


def partition_rows(sets: Sets, counts: Sequence[int]) -> list[dict[str, Any]]:
    """Deep Partition Aggregation and Run-Off Election, LDA on each part's clean features."""
    body = lambda images: sets.clean if images is sets.raw.images else sets.asked  # noqa: E731
    heads = {"clean features": Head("lda", sets.l2, body, lambda _: body)}
    task = Task(sets.raw, sets.test, (len(sets.raw),), heads, {}, noise_only(sets.raw), {})
    rows = []
    for k in PARTS:
        started = perf_counter()
        for row in rivals_of(task, [k], 1, [0, *counts]):
            at = [row["certified"][str(a)] for a in (0, *counts)]
            seconds = round(perf_counter() - started, 1)
            of = {"head": row["defence"], "k": k, "accuracy": at[0], "rewritten": at[1:], "relabelled": at[1:]}
            rows.append(of | {"certify_seconds": seconds})
    return rows


def neighbour_rows(sets: Sets, counts: Sequence[int]) -> list[dict[str, Any]]:
    """Certified nearest neighbours by the cosine of clean features: kNN for each k, rNN for each radius."""
    started = perf_counter()
    phi = functional.normalize(sets.clean, dim=1)
    near = (functional.normalize(sets.asked, dim=1) @ phi.T).numpy()
    own = functional.normalize(features(sets.extractor, sets.moments.images), dim=1)
    trusted = (functional.normalize(features(sets.extractor, sets.tuned_test.images), dim=1) @ own.T).numpy()
    found = []
    ks = [k for k in NEIGHBOURS if k < len(sets.raw)] or [max(1, len(sets.raw) // 2)]
    for k, votes in zip(ks, nearest(near, sets.raw.labels, len(sets.raw.classes), ks), strict=True):
        found.append(({"head": "kNN", "k": k}, *certified_neighbours(votes, joined=True)))
    for of in NEAR:
        least = float(np.median(np.quantile(trusted, 1 - of, axis=1)))
        votes = np.stack([(near[:, sets.raw.labels == c] >= least).sum(axis=1) for c in range(len(sets.sizes))], axis=1)
        found.append(({"head": "rNN", "share": of, "cosine": round(least, 4)}, *certified_neighbours(votes)))
    rows = []
    for facts, label, relabelled, rewritten in found:
        right = label == sets.test.labels
        rows.append(
            facts
            | {
                "accuracy": share(right),
                "rewritten": [share(right & (rewritten >= a)) for a in counts],
                "relabelled": [share(right & (relabelled >= a)) for a in counts],
                "certify_seconds": round((perf_counter() - started) / len(found), 1),
            }
        )
    return rows


def nearest(near: NDArray[np.float32], labels: Ints, classes: int, ks: Sequence[int]) -> list[Ints]:
    """For each k: how many of the k nearest images have each label, (n_test, classes); near: (n_test, n).

    Of images as near as each other the first ones count.
    """
    order = np.argsort(-near, axis=1, kind="stable")[:, : max(ks)]
    ordered = labels[order]
    return [np.stack([(ordered[:, :k] == c).sum(axis=1) for c in range(classes)], axis=1) for k in ks]


def certified_neighbours(votes: Ints, *, joined: bool = False) -> tuple[Ints, Ints, Ints]:
    """(label, relabelled, rewritten): the majority, and how many images may change, with and without their labels.

    votes (n_test, K): of the neighbours. An image that is changed at will is in the neighbourhood or not, before and
    after: one vote is taken from the label and one is given to a rival at most, the gap falls by 2, and the label stays
    for ceil(gap / 2) - 1 images (Jia et al. 2022, theorem 1). An image that keeps its label can do only one of the two,
    unless the neighbourhood has k members (`joined`) and the image that enters drives another one out.
    """
    label, relabelled = aggregated(votes)
    if joined:
        return label, relabelled, relabelled
    gaps = gaps_to(votes, label)
    gaps[np.arange(len(label)), label] = votes.sum(axis=1).max() + 2
    return label, relabelled, gaps.min(axis=1) - 1


def share(held: NDArray[np.bool_]) -> float:
    """The share of true entries, rounded down to 4 digits."""
    return down(held.mean(), 4)


def rounded(values: Floats) -> list[float]:
    """The values, to 4 digits."""
    return [round(float(v), 4) for v in values]
