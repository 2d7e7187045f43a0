"""Decide the gate while the ensemble grows: it passes by an actual certificate, and fails by a forecast.

A wrong "failed" costs a promotion, never a false certificate: released certificates depend only on the rules of
models.anytime.
"""

import math
from collections.abc import Sequence as Series
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize
from scipy.special import betaln, ndtr

from cleanlabel.models.anytime import Looks, Rule
from cleanlabel.models.certificate import Floats, Ints, certified_accuracy

Verdict = Literal["passed", "failed", "open"]


@dataclass(frozen=True)
class Decision:
    """The decision at a look, with the certificate behind it.

    chances: the forecast probabilities that thresholds are met at m: the vote's accuracy, then each certified accuracy.
    """

    verdict: Verdict
    label: Ints
    radius: Floats
    chances: tuple[float, ...]


def decide(
    rule: Rule,
    counts: ArrayLike,
    t: int,
    truth: ArrayLike,
    accuracy: float,
    thresholds: Series[tuple[float, float]],
    *,
    selection: ArrayLike | None = None,
    risk: float = 1e-3,
    confirm: float = 0.99,
    inflation: float = 2.0,
) -> Decision:
    """Decide the gate at a look, from the vote's accuracy and the certified accuracies. truth is (n_points,).

    accuracy: the least accuracy of the vote; thresholds: (radius, least certified accuracy) pairs.

    passed  the certificate of *this* prefix meets every threshold, and the vote's accuracy meets its own here and, with
            forecast probability `confirm`, at m: unlike a certificate, an accuracy seen once is only an estimate.
    failed  for some threshold, the forecast probability that it is met at m is below `risk`.
    open    neither. At t = m there is no forecast and no "open".

    A wrong forecast never makes a false certificate: only a certificate that meets the gate passes. A wrong "failed"
    costs a promotion that more models would have earned; an unnecessary "open" costs models.

    The forecast: given a point's votes at t, its votes at m are beta-binomial, with a prior fitted over all points.
    This gives the mean and variance of a certified share, and a normal probability. The variance is multiplied by
    `inflation`: points are not independent, as the same m models vote on all of them, and the prior is not exactly a
    Beta.
    """
    # Measured on the digits, six radii, looks from 12 to 700 of m = 1000, 60 orders of the draws: the largest error of
    # the forecast was 3.9 of its own standard deviations, 2.8 with the variance doubled; risk = .001 corresponds to
    # 3.1. With 40 orders and thresholds one to four points of 397 below the value at m, up to 17% failed wrongly
    # (R = 2) without doubling, none with it. For a threshold one point above the accuracy at m, up to 75% passed
    # wrongly when confirmed with .5 in place of .99.
    counts, truth = np.asarray(counts), np.asarray(truth)
    if truth.shape != counts.shape[:1]:
        raise ValueError(f"truth has the shape {truth.shape}; counts are of {counts.shape[:1]} points")
    label, radius = rule.certify(counts, t, selection)
    asked = (accuracy, *(at_least for _, at_least in thresholds))
    certified = certified_accuracy(label, radius, truth, [r for r, _ in thresholds])
    reached = (float(np.mean(counts.argmax(axis=1) == truth)), *certified.tolist())
    met = tuple(share >= goal for share, goal in zip(reached, asked, strict=True))
    if t == rule.m:
        return Decision("passed" if all(met) else "failed", label, radius, tuple(float(m) for m in met))
    votes = counts[np.arange(len(truth)), truth]
    least = [_least_votes(rule, r, counts.shape[1]) for r, _ in thresholds]
    points = [_leads(counts, truth, t, rule.m), *_reaches(votes, t, rule.m, least)]
    if selection is not None:
        chosen = np.asarray(selection).argmax(axis=1) == truth
        points[1:] = [np.where(chosen, chance, 0.0) for chance in points[1:]]
    chances = tuple(_meets(chance, goal, inflation) for chance, goal in zip(points, asked, strict=True))
    verdict: Verdict = "open"
    if min(chances) < risk:
        verdict = "failed"
    elif all(met) and chances[0] >= confirm:
        verdict = "passed"
    return Decision(verdict, label, radius, chances)


@lru_cache(maxsize=1024)
def _least_votes(rule: Rule, radius: float, classes: int) -> int:
    """The least count at m with a radius above `radius`, if the other votes are spread evenly; m + 1 if none has."""
    k = np.arange(rule.m + 1)
    rest = rule.m - k
    rivals = [(rest + i) // (classes - 1) for i in range(classes - 1)]
    selection = (
        np.eye(classes, dtype=np.int64)[np.zeros_like(k)]
        if isinstance(rule, Looks) and rule.method == "split"
        else None
    )
    label, reach = rule.certify(np.stack([k, *rivals], axis=1), rule.m, selection)
    enough = (label == 0) & (reach > radius)
    return int(enough.argmax()) if enough.any() else rule.m + 1


def fitted_prior(k: Ints, t: int) -> tuple[float, float]:
    """The Beta(a, b) prior of the points' chances, fitted to the counts of all points.

    It maximises the marginal likelihood of the beta-binomial. A unit normal pulls log a and log b to Jeffreys' 1/2, as
    one point's counts say little. Jeffreys' prior itself would miss that most votes unanimous at t = 20 stay so.
    """
    distinct, times = np.unique(k, return_counts=True)

    def loss(x: Floats) -> float:
        a, b = np.exp(x) / 2
        return float(x @ x / 2 - times @ (betaln(distinct + a, t - distinct + b) - betaln(a, b)))

    a, b = np.exp(minimize(loss, np.zeros(2), method="L-BFGS-B", bounds=[(-7, 7)] * 2).x) / 2
    return float(a), float(b)


def _reaches(k: Ints, t: int, m: int, least: Series[int]) -> list[Floats]:
    """For each of `least`, the points' beta-binomial probabilities of at least that many votes at m, given k at t."""
    a, b = fitted_prior(k, t)
    distinct, where = np.unique(k, return_inverse=True)
    n, more = m - t, np.arange(m - t + 1)
    seen = distinct[:, None]
    choices = -np.log(n + 1) - betaln(n - more + 1, more + 1)
    log_pmf = choices + betaln(more + seen + a, n - more + t - seen + b) - betaln(seen + a, t - seen + b)
    tail = np.cumsum(np.exp(log_pmf)[:, ::-1], axis=1)[:, ::-1]
    tail = np.minimum(np.pad(tail, ((0, 0), (0, 1))), 1.0)
    rows = np.arange(len(distinct))
    return [tail[rows, np.clip(c - distinct, 0, n + 1)][where] for c in least]


def _leads(counts: Ints, truth: Ints, t: int, m: int) -> Floats:
    """Each point's probability that its true class leads its best rival at m: normal, with a Dirichlet's moments."""
    rows = np.arange(len(truth))
    votes = counts[rows, truth]
    others = counts.copy()
    others[rows, truth] = -1
    rival = others.max(axis=1)
    n, total = m - t, t + 1
    p, q = (votes + 0.5) / total, (rival + 0.5) / total
    variance = n * (p + q - (p - q) ** 2) * (total + n) / (total + 1)
    leads: Floats = ndtr((votes - rival + n * (p - q)) / np.sqrt(variance))
    return leads


def _meets(chance: Floats, at_least: float, inflation: float) -> float:
    """P(share of points at m >= at_least), from each point's chance."""
    need = math.ceil(at_least * len(chance) - 1e-9) - 0.5
    spread = math.sqrt(inflation * float(np.sum(chance * (1 - chance))) + 0.25)
    return float(ndtr((float(chance.sum()) - need) / spread))
