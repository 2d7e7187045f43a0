"""What Deep Partition Aggregation and Run-Off Election certify on the same images, models and blocks, without noise."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.frontiers.curves import FREES
from benchmarks.frontiers.sets import Task
from benchmarks.frontiers.votes import block_logits, trained_logits, votes_of
from cleanlabel.models.blocks import block_of
from cleanlabel.models.rounding import down
from cleanlabel.models.votes import count_votes
from cleanlabel.redteam.defences.elections import aggregated, run_off

MORE_KS = (50, 100, 250)
SEEDS = 10
LEAST_IMAGES = 8
"""A block of fewer, on average, is not tried."""


def rivals_of(task: Task, ks: list[int], seeds: int, frees: Sequence[int] = FREES) -> list[dict[str, Any]]:
    """One row per model, k and defence: the certified accuracy for each number of images rewritten at will (frees).

    Blocks are by id, as ours: a rewritten image costs one. With blocks by content, as published, it costs two where it
    changes blocks. `cost` is in trainings of the whole raw set: 1 as published. Where models depend on a seed, a member
    of `seeds` models also answers by their mean probability; heads in closed form are the same for every seed.
    """
    rows: list[dict[str, Any]] = []
    labels, classes = task.raw.labels, len(task.raw.classes)
    features = {name: (head.clean(task.raw.images), head.clean(task.test.images)) for name, head in task.heads.items()}
    for k in sorted({*ks} - {1}):
        if k * LEAST_IMAGES > len(task.raw):
            continue
        blocks = block_of(task.raw.ids, k)
        for name, head in task.heads.items():
            found, asked = features[name]
            logits = block_logits(found, labels, blocks, k, asked, classes, head.kind, head.l2)
            rows += levels(task, name, k, 1, logits, frees)
        for name, recipe in task.recipes.items():
            every = trained_logits(task, [task.raw.images] * seeds, blocks, k, recipe, list(range(seeds)))
            rows += levels(task, name, k, 1, every[0], frees)
            rows += levels(task, name, k, seeds, mean_probability(every), frees)
    return rows


def mean_probability(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """(members, n, K) from logits (m, members, n, K)."""
    raised = np.exp(logits - logits.max(axis=3, keepdims=True))
    shares: NDArray[np.float32] = (raised / raised.sum(axis=3, keepdims=True)).mean(axis=0)
    return shares


def levels(
    task: Task, model: str, k: int, cost: int, logits: NDArray[np.float32], frees: Sequence[int] = FREES
) -> list[dict[str, Any]]:
    """The rows of both defences, from their members' logits (k, n_test, K)."""
    votes = dict(enumerate(votes_of(logits).astype(np.int64)))
    counts = count_votes(votes, k, len(task.test), len(task.test.classes))
    rows = []
    for defence, (label, tolerated) in (("DPA", aggregated(counts)), ("ROE", run_off(logits))):
        right = label == task.test.labels
        at = {str(a): down((right & (tolerated >= a)).mean(), 4) for a in frees}
        rows.append({"defence": defence, "model": model, "k": k, "cost": cost, "certified": at})
    return rows
