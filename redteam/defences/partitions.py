"""Disjoint parts of a training set by the images' content, and one network per part."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cleanlabel.redteam.defences.interface import Context, Images, Ints, logits_of, trained_on_what_is_there
from cleanlabel.redteam.threat.victims import Victim
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.imageset import ImageSet


@dataclass(frozen=True)
class Part:
    """Rows of the set, ordered by their contents, not by their positions."""

    number: int
    rows: tuple[int, ...]


def partitioned(raw: ImageSet, parts: int) -> list[Part]:
    """Disjoint parts: an image belongs to part sha256(pixels) mod `parts`, whatever its position and the other images.

    So an image that is inserted, removed or relabelled changes only one part. (The authors take
    the sum of the pixels modulo k. The certificate holds for any such function of the content alone.)
    """
    digests = [hashlib.sha256(image.tobytes()).digest() for image in raw.images]
    order = sorted(range(len(raw)), key=lambda row: (digests[row], raw.labels[row]))
    members: list[list[int]] = [[] for _ in range(parts)]
    for row in order:
        members[int.from_bytes(digests[row], "big") % parts].append(row)
    return [Part(number, tuple(rows)) for number, rows in enumerate(members)]


def require_partitions(parts: int, raw: ImageSet, victim: Victim) -> None:
    """InputError unless there are fewer parts than half the images, and networks that can be trained on one."""
    if not 1 <= parts <= len(raw) // 2:
        raise InputError(
            f"partitions={parts} of a set of {len(raw)} images leave fewer than two images each; choose 1 to "
            f"{len(raw) // 2} (published: 50 and 250 for 50,000)"
        )
    if victim.recipe.normalise == "raw" or victim.recipe.warm_on == "raw":
        raise InputError(
            "a part must not depend on the others: set the recipe's normalise to constants and warm_on to copy"
        )


def members_of(raw: ImageSet, victim: Victim, context: Context, parts: int) -> Callable[[Images], NDArray[np.float32]]:
    """Train a network on each part; images -> logits (parts, n, K), NaN where a part is empty.

    A member depends only on its part's contents and number, not on the order or the run's seed: the certificate
    compares sets that must be trained with the same seed.
    """
    asked = []
    for part in partitioned(raw, parts):
        rows = np.array(part.rows, dtype=np.int64)
        asked.append(_member(raw.images[rows], raw.labels[rows], victim, context, part.number))

    def ask(images: Images) -> NDArray[np.float32]:
        nothing = np.full((len(images), victim.classes), np.nan, dtype=np.float32)
        return np.stack([nothing if member is None else member(images) for member in asked])

    return ask


def _member(
    images: Images, labels: Ints, victim: Victim, context: Context, number: int
) -> Callable[[Images], NDArray[np.float32]] | None:
    if not len(images):
        return None
    ask = logits_of(trained_on_what_is_there(images, labels, victim, seed=number), victim, context)
    return lambda asked: ask(asked).numpy()
