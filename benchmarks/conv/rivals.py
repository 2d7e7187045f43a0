"""Rival defences that train the same network, by the same recipe, on the same poisons."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.common.runs import kept
from benchmarks.conv.networks import Recipe, logits, trained
from benchmarks.conv.sets import NetworkInputs, Sets
from cleanlabel.models.extractors import features
from cleanlabel.redteam.defences.deep_knn import strangers
from cleanlabel.redteam.defences.friends import Friends
from cleanlabel.redteam.defences.partitions import partitioned
from cleanlabel.redteam.defences.spectral_signatures import outstanding
from cleanlabel.sanitize.imageset import ImageSet
from cleanlabel.sanitize.keys import in_order, key_of

Images = NDArray[np.uint8]
Scores = Callable[[Images], NDArray[np.floating]]
"""Images (n, h, w, c) -> scores (n, K): logits, or shares of votes."""
SEED = 0
SHARE = 0.2
"""Spectral signatures: the share of a class that may be poisoned. The attacker's own number (400 of 2,000)."""
PART = 200
"""Deep Partition Aggregation: images of a part, as published (250 parts of 50,000 images)."""
PART_EPOCHS, PART_BATCH = 2, 32
"""Its networks: as many epochs as this for one of the victim's, and the images of a batch at most."""


@dataclass(frozen=True, eq=False)
class Trained:
    """What a defence hands back. removed: the rows that a filter took out; None: it is no filter.

    seconds: processor time of everything, a network that two filters share included.
    """

    scores: Scores
    seconds: float
    removed: NDArray[np.int64] | None = None


def noise_only(sets: Sets, raw: ImageSet, recipe: Recipe, sigma: float) -> Trained:
    """Noise of sigma that is left in."""
    started = time.process_time()
    copy = sets.noised(raw, sigma, SEED)
    network = trained(copy, raw.labels, len(raw.classes), recipe, SEED)
    return Trained(lambda images: logits(network, images), time.process_time() - started)


def filtered(
    sets: Sets, raw: ImageSet, recipe: Recipe, judged: Callable[[NDArray[np.float32]], NDArray[np.int64]]
) -> Trained:
    """A network trained on the set, its features judged, and a new network trained on what is left."""
    classes = len(raw.classes)

    def first() -> dict[str, NDArray[Any]]:
        started = time.process_time()
        network = trained(raw.images, raw.labels, classes, recipe, SEED)
        found = features(network, raw.images, "cpu").float().numpy()
        return {"features": found, "seconds": np.array(time.process_time() - started)}

    named = key_of(NetworkInputs(in_order(raw), repr(recipe), SEED))
    known = kept(sets.scratch / f"features-{named}.npz", first)
    started = time.process_time()
    removed = judged(known["features"])
    rest = np.setdiff1d(np.arange(len(raw)), removed)
    network = trained(raw.images[rest], raw.labels[rest], classes, recipe, SEED)
    seconds = float(known["seconds"]) + time.process_time() - started
    return Trained(lambda images: logits(network, images), seconds, removed)


def spectral(sets: Sets, raw: ImageSet, recipe: Recipe) -> Trained:
    """Spectral signatures: of every class 1.5 * SHARE is removed."""
    return filtered(sets, raw, recipe, lambda found: outstanding(found, raw.labels, SHARE))


def deep_knn(sets: Sets, raw: ImageSet, recipe: Recipe) -> Trained:
    """Deep k-NN with the authors' k, twice the mean size of a class."""
    k = round(2 * len(raw) / len(raw.classes))
    return filtered(sets, raw, recipe, lambda found: strangers(torch.from_numpy(found), raw.labels, k))


def partitions(sets: Sets, raw: ImageSet, recipe: Recipe) -> Trained:
    """Deep Partition Aggregation: a network on each part of about PART images; the shares of their votes."""
    started, networks = time.process_time(), []
    small = replace(recipe, epochs=PART_EPOCHS * recipe.epochs, batch=min(PART_BATCH, recipe.batch))
    for part in partitioned(raw, max(2, len(raw) // PART)):
        rows = np.array(part.rows, dtype=np.int64)
        networks.append(trained(raw.images[rows], raw.labels[rows], len(raw.classes), small, part.number))

    def votes(images: Images) -> NDArray[np.float64]:
        cast = np.stack([logits(network, images).argmax(axis=1) for network in networks])
        return (cast[:, :, None] == np.arange(len(raw.classes))).mean(axis=0)

    return Trained(votes, time.process_time() - started)


def friends(sets: Sets, raw: ImageSet, recipe: Recipe) -> Trained:
    """FrieNDs with its published settings, from epoch 5 on as published."""
    started = time.process_time()
    published = replace(Friends(), begin=min(Friends().begin, recipe.epochs - 1))
    network = trained(raw.images, raw.labels, len(raw.classes), recipe, SEED, published)
    return Trained(lambda images: logits(network, images), time.process_time() - started)


RIVALS: dict[str, Callable[[Sets, ImageSet, Recipe], Trained]] = {
    "spectral": spectral,
    "deep-knn": deep_knn,
    "noise-only, σ = 0.25": lambda sets, raw, recipe: noise_only(sets, raw, recipe, 0.25),
    "dpa": partitions,
    "friends": friends,
    "noise-only, σ = 0.1": lambda sets, raw, recipe: noise_only(sets, raw, recipe, 0.1),
}
"""In the order in which they are run."""
