"""Certificates from the answers of your own models, and the arithmetic to plan them. Needs only numpy and scipy."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cleanlabel.models import certificate as mathematics
from cleanlabel.models.anytime import Looks, unanimous_radius
from cleanlabel.models.certificate import ABSTAIN, METHODS, Floats, Ints
from cleanlabel.models.influenced import Influenced, influenced
from cleanlabel.models.plan import least_models, noise_distance_of
from cleanlabel.models.rounding import below, down_text, exact, percent_down, up_text
from cleanlabel.models.sums import Sides
from cleanlabel.models.votes import count_votes
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.noise import check_sigma

MOST_MODELS = 100_000
"""The largest number of models that is suggested; more would not be practical."""

Votes = NDArray[np.int64] | Sequence[Any]
"""(m, n) integers, or m rows of n. A row that is None is a missing model."""


@dataclass(frozen=True, eq=False)
class Certificate:
    """What the votes of m models certify about n test points.

    label (n,): the certified class, ABSTAIN (-1) if nothing is certified. radius (n,): the joint l2 norm, in [0,1]
    pixel units, that changes of the *whole* training set's pixels must reach before the label can change; 0 if nothing
    is certified. vote (n,): the class with most votes, without a guarantee. counts (n, K): votes for each class. level:
    the probability with which each point's statement may be false. entropy_source: `os`, `fixed` or `unknown`.
    """

    label: Ints
    radius: Floats
    vote: Ints
    counts: Ints
    m: int
    sigma: float
    level: float
    method: str
    noise_distance: float
    pixels: int
    entropy_source: Literal["os", "fixed", "unknown"]

    def certified_accuracy(self, truth: ArrayLike, radii: ArrayLike = 0.0) -> Floats:
        """For each of `radii`, the share of points whose certified label is `truth` and whose radius is larger."""
        return mathematics.certified_accuracy(self.label, self.radius, truth, radii)

    def images_tolerated(self, epsilon: float) -> Ints:
        """How many training images may each change by l2 norm `epsilon` without changing the answer: (n,)."""
        return mathematics.images_tolerated(self.radius, epsilon)

    def per_image_radius(self, images: int) -> Floats:
        """How far (l2) each of `images` training images may change without changing the answer: (n,)."""
        return mathematics.per_image_radius(self.radius, images)

    def summary(self, truth: ArrayLike | None = None) -> str:
        """The certificate in a few lines, with its radii in words. With `truth` (n,) also accuracies."""
        certified = self.label != ABSTAIN
        largest = float(self.radius.max(initial=0.0))
        lines = [
            f"{self.m} models at sigma {self.sigma:g}, method {self.method}, level {up_text(self.level)} per point: "
            f"{certified.sum()} of {len(self.label)} points certified, largest radius {down_text(largest)}"
        ]
        if truth is not None:
            lines.append(f"the vote is right on {np.mean(self.vote == np.asarray(truth)):.1%}, without a guarantee")
        for part in (0.0, 0.25, 0.5, 0.75):
            radius = part * largest
            if radius or not part:
                share = float(
                    np.mean(self.radius > radius) if truth is None else self.certified_accuracy(truth, radius)[0]
                )
                name = "points certified" if truth is None else "certified accuracy"
                words = bought(radius, self.pixels) if radius else ""
                lines.append(f"radius {down_text(radius)}: {name} {percent_down(share)}%{words}")
        if self.entropy_source == "fixed":
            lines.append(
                "made with fixed entropy: it holds only against an attacker who did not know it when the data were made"
            )
        return "\n".join(lines)


def bought(radius: float, pixels: int) -> str:
    """A joint radius in words: how many images may change by how much. pixels: the number of values of one image."""
    grey = math.sqrt(pixels) / 255
    images = int(mathematics.images_tolerated(radius, grey))
    alone = below(radius / grey)
    return (
        f"; holds while one image changes by {exact(alone)} of 255 levels in every value, or "
        f"{images} image{'' if images == 1 else 's'} by one level each"
    )


def certify_votes(
    votes: Votes,
    sigma: float,
    training_set: Sequence[int],
    *,
    alpha: float = 0.001,
    method: str = "binary",
    classes: int | None = None,
    simultaneous: bool = False,
    ensembles: int = 1,
    selection: Votes | None = None,
    entropy_source: Literal["os", "fixed", "unknown"] = "unknown",
) -> Certificate:
    """Certificates from the votes of your own models, by the rule of the pipeline.

    votes: (m, n) integers. Row i has the classes that the model of copy i predicts for n test points, -1 for no answer.
    A failed model is a row of -1 (or None): it stays in m and votes for no class. training_set: the shape (n, h, w) or
    (n, h, w, c) of the raw training images; the distance between the drawn noise and ideal noise, over all of their
    pixels, is subtracted. alpha: the probability with which a point's certificate may be false, or with `simultaneous`
    any of them. ensembles: how many ensembles on this training set share alpha. method: `binary`; `margin`, which
    bounds every class and needs `classes`; or `split`, in which the votes of further models (`selection`) choose the
    class. InputError says which argument is wrong.

    A certificate is true only if all of this holds. The votes alone cannot show it:

    - Copy i is the whole training set under noise of exactly `sigma` (as `SanitizedCopies` makes it), and model i saw
      the training set through copy i alone: no statistics, filter, early stopping or setting came from raw images.
    - One copy serves a model's whole training, and each model has its own.
    - All m models come from the same procedure, each with its own seed, and m was fixed before the first one. No model
      was left out, exchanged or repeated after its votes were seen.
    - The denoiser, initial weights and settings do not depend on the training set as it was supplied.
    - Nobody who could change the data knew the noise: its entropy came from the operating system afterwards.
    - All ensembles on this training set are counted in `ensembles`. They were not repeated until one had good results.
    """
    level, distance = _level_and_distance(sigma, training_set, alpha, ensembles)
    rows, m, n = _rows(votes, 1)
    level /= n if simultaneous else 1
    _check_method(method, classes)
    if method == "margin" and classes is None:
        raise InputError("method='margin' bounds every class and must know how many there are; give classes")
    if (method == "split") != (selection is not None):
        raise InputError(f"method={method!r} {'needs' if method == 'split' else 'takes no'} selection votes")
    chosen = None
    if selection is not None:
        choosing, m_chosen, n_chosen = _rows(selection, 1)
        if len(choosing) < m_chosen or n_chosen != n:
            raise InputError(
                f"the selection votes have {len(choosing)} of {m_chosen} models and {n_chosen} of {n} points; none may "
                "be missing"
            )
    every = [*rows.values(), *(choosing.values() if selection is not None else ())]
    count = max(2, 1 + max(int(row.max(initial=0)) for row in every)) if classes is None else classes
    if selection is not None:
        chosen = count_votes(choosing, m_chosen, n, count)
    counts = count_votes(rows, m, n, count)
    label, radius = mathematics.certify(counts, m, sigma, level, method, chosen, distance=distance)
    pixels = math.prod(training_set[1:])
    vote = np.where(counts.any(axis=1), counts.argmax(axis=1), ABSTAIN)
    return Certificate(label, radius, vote, counts, m, sigma, level, method, distance, pixels, entropy_source)


def certify_sums(
    sums: Votes,
    class_sizes: Sequence[int],
    sigma: float,
    training_set: Sequence[int],
    *,
    alpha: float = 0.001,
    sides: Sides = "one",
    simultaneous: bool = False,
    ensembles: int = 1,
) -> Influenced:
    """Certificates from class sums of bounded influences: label, `radius(...)` and `counts(...)`.

    sums: (m, n, K) integers. Row i has, for each test point and class, the sum of the influences of copy i's training
    images of that class. An influence is a whole number from 0 (`sides="two"`: from -10,000) to 10,000
    (`models.sums.STEPS`). A missing draw is None and counts as the worst possible one. class_sizes: the number of
    training images of each class. Other arguments as for `certify_votes`. The result holds with probability 1 - alpha
    per point.

    The conditions of `certify_votes` apply, with one in place of those on training: an image's influence depends on
    nothing of the training set except that one sanitized image. A class mean, a covariance or a scale computed from
    other images, even from their copies, voids the certificate.
    """
    level, distance = _level_and_distance(sigma, training_set, alpha, ensembles)
    rows, m, n = _rows(sums, 2)
    if len(class_sizes) < 2 or sum(class_sizes) != training_set[0]:
        raise InputError(
            f"class_sizes={list(class_sizes)} sum to {sum(class_sizes)} images, and the training set has "
            f"{training_set[0]}; give the number of training images of each class"
        )
    if sides not in ("one", "two"):
        raise InputError(f"sides={sides!r} is neither 'one' nor 'two'")
    return influenced(rows, m, n, class_sizes, sides, sigma, level / (n if simultaneous else 1), distance=distance)


def reach(m: int, sigma: float, alpha: float = 0.001, method: str = "binary", classes: int = 2) -> float:
    """The radius that m unanimous models certify, which is the largest possible. 0 if m is too small.

    It leaves out the distance of the noise, which a certificate subtracts: that is a probability below 1e-6 for 50,000
    colour images of 32x32.
    """
    _check_alpha(alpha)
    _check_method(method, classes)
    check_sigma(sigma)
    return unanimous_radius(Looks((m,), (alpha,), sigma, method), m, classes)


def models_for_radius(
    radius: float, sigma: float, alpha: float = 0.001, method: str = "binary", classes: int = 2
) -> int:
    """The least number of unanimous models that certify `radius`. InputError if 100,000 do not.

    At radius 0: the least number that certifies anything. Models that disagree certify less; plan for more.
    """
    if not 0 <= radius < math.inf:
        raise InputError(f"radius={exact(radius)} is not a joint l2 norm; give 0 or more")
    _check_method(method, classes)
    most = reach(MOST_MODELS, sigma, alpha, method, classes)
    if most <= radius:
        raise InputError(
            f"radius={exact(radius)} is out of reach at sigma={sigma:g}: {MOST_MODELS:,} models that all agree certify "
            f"radii up to {down_text(most)}; raise sigma, or ask for less"
        )
    low, high = least_models(alpha, method, classes) - 1, MOST_MODELS
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if reach(middle, sigma, alpha, method, classes) > radius else (middle, high)
    return high


def _check_method(method: str, classes: int | None) -> None:
    if method not in METHODS:
        raise InputError(f"method={method!r} is unknown; it is one of {', '.join(METHODS)}")
    if classes is not None and classes < 2:
        raise InputError(f"classes={classes} is too small; give 2 or more")


def _check_alpha(alpha: float) -> None:
    if not 0 < alpha < 1:
        raise InputError(f"alpha={alpha:g} is not a probability of error; give a number between 0 and 1, such as .001")


def _level_and_distance(sigma: float, training_set: Sequence[int], alpha: float, ensembles: int) -> tuple[float, float]:
    """The share of alpha, and the distance between the drawn noise and ideal noise."""
    if not check_sigma(sigma):
        raise InputError("sigma=0: without noise no vote certifies anything; give the sigma of the copies")
    _check_alpha(alpha)
    if ensembles < 1:
        raise InputError(f"ensembles={ensembles} is too small; give 1 or more")
    if len(training_set) not in (3, 4) or min(training_set) < 1:
        raise InputError(f"training_set={tuple(training_set)} is not a shape of images; give (n, height, width[, 3])")
    return alpha / ensembles, noise_distance_of(training_set[0], tuple(training_set[1:]), sigma)


def _rows(votes: Votes, axes: int) -> tuple[dict[int, Ints], int, int]:
    """The answers of each present model, by its number; the number of models; the number of test points."""
    what = "(m, n)" if axes == 1 else "(m, n, classes)"
    if not isinstance(votes, list | tuple) and np.ndim(votes) != axes + 1:
        raise InputError(
            f"the answers have the shape {np.shape(votes)}; give integers of shape {what}, one row per model"
        )
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
