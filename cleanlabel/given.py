"""What a caller gives for a certificate: every number and array is checked before memory is taken for it."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cleanlabel.models.certificate import METHODS, Ints
from cleanlabel.models.plan import noise_distance_of
from cleanlabel.models.votes import NOBODY, repeated
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.noise import check_sigma
from cleanlabel.sanitize.sources import MOST_CLASSES

Votes = NDArray[np.int64] | Sequence[Any]
"""(m, n) integers, or m rows of n. A row that is None is a missing model."""
MOST_COUNTS = 1 << 28
"""The largest table of counts, points times classes: 2 GiB."""
MOST = 1 << 53
"""The largest whole number that is taken: beyond it, floating-point numbers skip some."""


def whole(value: Any, name: str, least: int = 1, most: int = MOST) -> int:
    """The value as an int. InputError unless it is a whole number from `least` to `most`."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer):
        raise InputError(f"{name}={value!r} is not a whole number; give {least} or more")
    if not least <= value <= most:
        raise InputError(f"{name}={value} is too {'small' if value < least else 'large'}; give {least} to {most}")
    return int(value)


def check_noise(sigma: float) -> None:
    """InputError unless sigma is the noise of copies whose votes can certify something."""
    if not check_sigma(sigma):
        raise InputError("sigma=0: without noise no vote certifies anything; give the sigma of the copies")


def check_method(method: str, classes: int | None) -> None:
    """InputError unless `method` exists, knows the classes if it bounds each, and there are two or more."""
    if method not in METHODS:
        raise InputError(f"method={method!r} is unknown; it is one of {', '.join(METHODS)}")
    if method == "margin" and classes is None:
        raise InputError("method='margin' bounds every class and must know how many there are; give classes")
    if classes is not None:
        whole(classes, "classes", 2, MOST_CLASSES)


def check_alpha(alpha: float) -> None:
    """InputError unless alpha is a probability strictly between 0 and 1."""
    if not 0 < alpha < 1:
        raise InputError(f"alpha={alpha:g} is not a probability of error; give a number between 0 and 1, such as .001")


def level_and_distance(
    sigma: float, training_set: Sequence[int], alpha: float, ensembles: int, points: int
) -> tuple[float, float]:
    """The level of one point, and the distance between the drawn noise and ideal noise."""
    check_noise(sigma)
    check_alpha(alpha)
    try:
        shape = tuple(whole(size, "training_set") for size in training_set)
    except (InputError, TypeError):
        shape = ()
    if len(shape) not in (3, 4):
        raise InputError(f"training_set={training_set!r} is not a shape of images; give (n, height, width[, 3])")
    distance = noise_distance_of(shape[0], shape[1:], sigma)
    if not distance < 0.5:
        raise InputError(
            f"training_set={shape} has {math.prod(shape):.3g} values: the noise drawn for so many is too far from "
            "ideal noise to certify anything; give the shape (n, height, width[, 3]) of the raw training images"
        )
    level = alpha / whole(ensembles, "ensembles") / points
    if not level:
        raise InputError(f"alpha={alpha:g} shared by {ensembles} ensembles and {points} points is 0; give a larger one")
    return level, distance


def rows_of(votes: Votes, axes: int) -> tuple[dict[int, Ints], int, int]:
    """The answers of each present model, by its number; the number of models; the number of test points."""
    what = "(m, n)" if axes == 1 else "(m, n, classes)"
    given = votes if isinstance(votes, list | tuple) else getattr(votes, "shape", None)
    if given is None:
        raise InputError(
            f"the answers are a {type(votes).__name__}; give an array of shape {what} or a list with one row per model"
        )
    if given is not votes and len(given) != axes + 1:
        raise InputError(f"the answers have the shape {tuple(given)}; give integers of shape {what}, one row per model")
    if given is not votes and 0 in given[1:]:
        raise InputError("there are no test points; give the answers for at least one")
    rows = {draw: np.asarray(row) for draw, row in enumerate(votes) if row is not None}
    if not rows:
        raise InputError("the answers of every model are missing; give those of at least one")
    first = next(iter(rows.values()))
    for draw, row in rows.items():
        if row.ndim != axes or row.shape != first.shape or not np.issubdtype(row.dtype, np.integer):
            raise InputError(
                f"the answers of model {draw} are {row.dtype} of shape {row.shape}; give integers of shape {what}, "
                "and None for a model that is missing"
            )
    if not len(first):
        raise InputError("there are no test points; give the answers for at least one")
    return {draw: row.astype(np.int64) for draw, row in rows.items()}, len(votes), len(first)


def classes_of(votes: dict[int, Ints], points: int, classes: int | None) -> int:
    """The number of classes: `classes`, or one more than the largest vote. InputError if counts need too much memory.

    points: the number of test points. The sentence names the model with the largest vote.
    """
    draw, largest = max(((draw, int(row.max())) for draw, row in votes.items()), key=lambda pair: pair[1])
    count = max(2, 1 + largest) if classes is None else classes
    if points * count > MOST_COUNTS:
        why = f"draw {draw} votes for class {largest}" if classes is None else f"classes={classes}"
        raise InputError(
            f"{why}: counts of {count} classes for {points} points do not fit into memory; number the classes from 0 "
            "without gaps, or certify fewer points at a time"
        )
    return count


def selection_of(selection: Votes, votes: Votes, rows: dict[int, Ints], points: int) -> tuple[dict[int, Ints], int]:
    """The rows that choose the class for `split`, and their number.

    InputError if one is missing or has no answer for a point, or if they are the votes themselves, which must be those
    of further models.
    """
    choosing, m, n = rows_of(selection, 1)
    if len(choosing) < m or n != points:
        raise InputError(
            f"the selection votes have {len(choosing)} of {m} models and {n} of {points} points; none may be missing"
        )
    if _same_memory(selection, votes) or (equal := repeated(choosing, rows)) == m == len(rows):
        raise InputError("the selection votes are the votes themselves; give those of further models, or use 'binary'")
    if equal:
        raise InputError(
            f"{equal} of {m} selection models repeat the answers of a model of the votes, more than chance explains; "
            "give those of further models, or use 'binary'"
        )
    for draw, row in choosing.items():
        if (row <= NOBODY).any():
            at = int(np.argmax(row <= NOBODY))
            raise InputError(
                f"model {draw} of the selection votes {row[at]} on test point {at}, which is no class; give an answer "
                "of every selection model for every point, or leave the whole model out"
            )
    return choosing, m


def _same_memory(one: Votes, other: Votes) -> bool:
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return np.shares_memory(one, other)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return bool({id(row) for row in one} & {id(row) for row in other if row is not None})
    return one is other
