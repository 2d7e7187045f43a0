"""The certificate: from the votes of m smoothed models to a radius within which no poisoning changes the answer.

Let A(D) be: noise the training set D with N(0, sigma^2), denoise, train, predict. If A answers class
A with probability at least p_a and every other class with at most p_b, the smoothed prediction is the
same for every D' = D + Delta with

    sqrt(sum_i ||delta_i||_2^2)  <  R = sigma/2 * (Phi^-1(p_a) - Phi^-1(p_b))

(RAB: Weber et al. 2023, corollary for Gaussian smoothing; Hong, Carlini & Kurakin, section 3.1). With
p_b = 1 - p_a this is R = sigma * Phi^-1(p_a). R bounds the *joint* l2 norm over the whole training set,
in [0,1] pixel units, and does not shrink with the number of models. What the votes estimate is p_a; this
file bounds it from the counts. numpy and scipy only.

The theorem is about ideal noise, the votes about the drawn noise. `distance` bounds the total variation between the
two, over everything that one model draws. It is subtracted from p_a's bound and added to p_b's. Bounds and radii are
rounded down, by far more than SciPy's errors.

Throughout, `counts` is (n_points, K): how many of the m *planned* models voted for each class. A row may
sum to less than m: a missing vote counts for no class and stays in m.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import beta, binom, norm

ABSTAIN = -1
METHODS = ("binary", "split", "margin")
ROUNDING = 1e-12
"""How far bounds (absolutely) and radii (relatively) are rounded down. Observed SciPy errors: 1.3e-14 and 7e-16."""

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def lower_confidence_bound(k: ArrayLike, m: int, alpha: float) -> Floats:
    """One-sided Clopper-Pearson bound: p >= bound with probability at least 1 - alpha when k ~ Bin(m, p).

    k is an integer or an array of them, 0 <= k <= m. The bound is 0 at k = 0 and alpha**(1/m) at k = m, rounded down.
    """
    k = _integers(k, "k")
    if m < 1:
        raise ValueError(f"m={m} is not a number of models; give m >= 1")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha={alpha} is not a probability strictly between 0 and 1")
    if k.size and (k.min() < 0 or k.max() > m):
        raise ValueError(f"k={k.min()}..{k.max()} lies outside 0..m={m}")
    bound = beta.ppf(alpha, np.maximum(k, 1), m - k + 1)  # nan at k = 0 without the maximum
    return np.where(k == 0, 0.0, np.maximum(bound - ROUNDING, 0.0))


def upper_confidence_bound(k: ArrayLike, m: int, alpha: float) -> Floats:
    """p <= bound with probability at least 1 - alpha when k ~ Bin(m, p): the mirror of the lower bound."""
    return 1.0 - lower_confidence_bound(m - _integers(k, "k"), m, alpha)


def certify(
    counts: ArrayLike,
    m: int,
    sigma: float,
    alpha: float,
    method: str = "binary",
    selection: ArrayLike | None = None,
    *,
    distance: float = 0.0,
) -> tuple[Ints, Floats]:
    """Labels and joint radii, each wrong with probability at most alpha (per test point).

    Returns (label, radius), both (n_points,). If label is ABSTAIN, the radius is 0. Otherwise, with probability at
    least 1 - alpha over the draws, the smoothed classifier (with ideal noise) answers `label` for every training set
    within joint l2 distance `radius` (strictly) of the given one. `distance` is the total variation between the noise
    of one draw and ideal noise; 0 if the noise is ideal.

    binary  class and bound from the same votes at level alpha/2, certified only above 1/2. Sound for any K
            and with missing votes: a false certificate needs L(k_c) > max(p_c, 1/2) for some class c, which
            has probability at most alpha.
    split   the paper's Algorithm 2 (Cohen et al. 2019, CERTIFY): `selection` holds the counts of m0 other
            draws, which choose the class; the m draws in `counts` bound it at level alpha.
    margin  every class is bounded from both sides at alpha/(2K); this may certify below 1/2. Missing votes
            count for every rival.
    """
    counts = _checked_counts(counts, m)
    if not (np.isfinite(sigma) and sigma > 0):
        raise ValueError(f"sigma={sigma} must be a positive number, in [0,1] pixel units")
    if method not in METHODS:
        raise ValueError(f"method={method!r} is not one of {', '.join(METHODS)}")
    if not 0 <= distance < 0.5:
        raise ValueError(f"distance={distance} leaves nothing to certify; give a total variation from 0 to below 1/2")
    if (selection is not None) != (method == "split"):
        raise ValueError(f"method={method!r} {'needs' if method == 'split' else 'takes no'} selection counts")

    rows = np.arange(len(counts))
    if method == "margin":
        level = alpha / (2 * counts.shape[1])
        missing = m - counts.sum(axis=1)
        top = counts.argmax(axis=1)
        p_a = np.maximum(lower_confidence_bound(counts[rows, top], m, level) - distance, 0.0)
        rivals = upper_confidence_bound(counts + missing[:, None], m, level) + distance
        rivals[rows, top] = 0.0
        p_b = np.minimum(rivals.max(axis=1), 1.0 - p_a)
        certified = p_a > p_b
    else:
        chooser = _checked_counts(selection, None) if method == "split" else counts
        if chooser.shape != counts.shape:
            raise ValueError(f"selection counts have the shape {chooser.shape}, the counts {counts.shape}")
        top = chooser.argmax(axis=1)
        bound = lower_confidence_bound(counts[rows, top], m, alpha if method == "split" else alpha / 2)
        p_a = np.maximum(bound - distance, 0.0)
        p_b = 1.0 - p_a
        certified = p_a > 0.5
    with np.errstate(invalid="ignore"):  # Phi^-1(0) - Phi^-1(1) where nothing is certified
        radius = sigma / 2 * (norm.ppf(p_a) - norm.ppf(p_b)) * (1 - ROUNDING)
    return np.where(certified, top, ABSTAIN), np.where(certified, radius, 0.0)


def predict(counts: ArrayLike, m: int, alpha: float) -> Ints:
    """Cohen et al. 2019, PREDICT: the top class, or ABSTAIN if it does not beat the runner-up significantly.

    With probability at least 1 - alpha, a returned label is the smoothed classifier's own answer. It is a two-sided
    binomial test on the top two classes; missing votes go to the runner-up.
    """
    counts = _checked_counts(counts, m)
    top = counts.argmax(axis=1)
    ranked = np.sort(counts, axis=1)
    n_a = ranked[:, -1]
    n_b = (ranked[:, -2] if counts.shape[1] > 1 else 0) + m - counts.sum(axis=1)
    p_value = np.minimum(1.0, 2 * binom.sf(n_a - 1, n_a + n_b, 0.5))
    return np.where((n_a > n_b) & (p_value <= alpha), top, ABSTAIN)


def per_image_radius(radius: ArrayLike, r: int) -> Floats:
    """How far each of r images may move (l2) when the joint radius is shared equally: R / sqrt(r).

    The paper writes this sigma/sqrt(m) * Phi^-1(p_a); its m is the number of poisoned images, not of models.
    """
    if r < 1:
        raise ValueError(f"r={r} images cannot share a radius; give r >= 1")
    shared: Floats = np.asarray(radius, dtype=np.float64) / np.sqrt(r)
    return shared


def images_tolerated(radius: ArrayLike, epsilon: float) -> Ints:
    """How many images may each move by l2 norm epsilon: the largest r with sqrt(r) * epsilon < R.

    For an l_infinity bound e on images of d values, epsilon = e * sqrt(d).
    """
    if not (np.isfinite(epsilon) and epsilon > 0):
        raise ValueError(f"epsilon={epsilon} must be a positive l2 norm, in [0,1] pixel units")
    ratio = np.asarray(radius, dtype=np.float64) / epsilon
    images: Ints = np.maximum(0, np.ceil(ratio**2 * (1 - ROUNDING)) - 1).astype(np.int64)  # the quotient is rounded
    return images


def radius_beside_a_trigger(radius: ArrayLike, sigma: float, sigma_x: float, trigger: float) -> Floats:
    """The remaining joint radius when the test input may also move, by l2 norm `trigger`; 0 if none remains.

    With noise N(0, sigma_x^2) also on test inputs (RAB's Theorem 1), votes certify all (omega, Delta) with
    ||omega||^2 / sigma_x^2 + sum_i ||delta_i||^2 / sigma^2  <  (R / sigma)^2.
    """
    if not sigma_x > 0:
        raise ValueError(
            f"sigma_x={sigma_x} adds no noise to the test input, so no change of it is covered; give a number above 0"
        )
    if not trigger >= 0:
        raise ValueError(f"trigger={trigger} is not an l2 norm; give 0 or more")
    left = (np.asarray(radius, dtype=np.float64) / sigma) ** 2 - (trigger / sigma_x) ** 2
    remaining: Floats = sigma * np.sqrt(np.maximum(left, 0.0))
    return remaining


def certified_accuracy(label: ArrayLike, radius: ArrayLike, truth: ArrayLike, radii: ArrayLike) -> Floats:
    """For each r in radii, the share of points with label = truth and radius > r. Shape of `radii`.

    Strict: the guarantee is for ||Delta|| < R. An abstention is never correct.
    """
    correct = np.asarray(label) == np.asarray(truth)
    reach = np.where(correct, np.asarray(radius, dtype=np.float64), -np.inf)
    share: Floats = (reach[:, None] > np.atleast_1d(np.asarray(radii, dtype=np.float64))).mean(axis=0)
    return share


def certified_accuracy_grid(
    label: ArrayLike, radius: ArrayLike, truth: ArrayLike, images: ArrayLike, epsilons: ArrayLike
) -> Floats:
    """For r images that may each move by l2 norm epsilon (sqrt(r) epsilon < R): shape (len(images), len(epsilons))."""
    norms = np.sqrt(np.asarray(images, dtype=np.float64))[:, None] * np.asarray(epsilons, dtype=np.float64)[None, :]
    return certified_accuracy(label, radius, truth, norms.ravel()).reshape(norms.shape)


def _integers(values: Any, name: str) -> Ints:
    array = np.asarray(values)
    if not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"{name} must be integers, not {array.dtype}")
    return array.astype(np.int64)


def _checked_counts(values: Any, m: int | None) -> Ints:
    counts = _integers(values, "counts")
    if counts.ndim != 2 or counts.shape[1] < 1:
        raise ValueError(f"counts must have the shape (n_points, classes), not {counts.shape}")
    if counts.size and counts.min() < 0:
        raise ValueError(f"counts hold {counts.min()}; a count of votes is never negative")
    if m is not None and counts.size and counts.sum(axis=1).max() > m:
        raise ValueError(f"a row of counts sums to {counts.sum(axis=1).max()}, more than the m={m} planned models")
    return counts
