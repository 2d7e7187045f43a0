"""The certificate of a bounded-influence head: from sums over training images to answers that poisoning cannot change.

For a test point t let every training image i have an *influence* k_t(x_i), a number in [lo, hi] that depends on nothing
of the raw set but the noised image x_i + sigma z (`models.instrument` makes it). With B = hi - lo and H = max(hi, -lo):

    g_t(x) = E k_t(x + sigma z)          F_c(D) = sum of g_t(x_i) over the images labelled c          n_c of them
    G(D)   = argmax over c of F_c(D), ties to the smaller class

The statement: G(D') = A for every D' that differs from D in a1 images rewritten under their own labels, a2 rewritten
and relabelled, a3 added or removed, all at will, and in all others by a joint l2 norm of at most R, if for every b != A
the rest of F_A - F_b after the costs of all these changes is positive. The costs:

 1. *Rewritten*: one term, of one class, changes by at most B.
 2. *Rewritten and relabelled*: A to b costs 2 hi, b to A costs -2 lo, all others less: at most 2H.
 3. *Added or removed*: one term appears or disappears: at most H.
 4. *Moved*. Scale a term to h = (g - lo)/B in [0, 1]. Phi^-1(h) is 1/sigma-Lipschitz (Salman et al. 2019, lemma 2), so
    |grad h| <= I(h)/sigma with I = phi(Phi^-1(.)), the Gaussian isoperimetric function; and I <= 1/sqrt(2 pi).

Bounding I by its maximum gives `radius_left`: moves of joint norm R lower F_A - F_b by at most
B/(sigma sqrt(2 pi)) sqrt(n_A + n_b) R (Cauchy-Schwarz). `radius_between` is sharper. Let p be a class's mean of h,
moved by a joint norm r along a straight line, and C the least concave function above I^2. Then

    |dp| <= 1/(n sigma) sum I(h_i) |d_i| <= 1/(n sigma) sqrt(sum I(h_i)^2) r <= r sqrt(C(p)) / (sigma sqrt(n)),

by Cauchy-Schwarz and Jensen. With S' = 1/sqrt(C) this says |S(p_moved) - S(p)| <= r / (sigma sqrt(n)); `spread` is S.
So an attacker who ends at means u of class A and v of class b has spent at least

    R^2 = sigma^2 [ n_A (S(p_A) - S(u))^2 + n_b (S(v) - S(p_b))^2 ],

and R is the least of that over all (u, v) at which F_A - F_b is used up. I^2 is convex near 0 and 1, so C is a straight
line up to p* (there I^2 touches it: phi(z) = -2 z Phi(z) at p* = Phi(z)), then I^2, then its mirror image.

*A class without images* is a class of G all the same: its sum is exactly 0, whatever moves. As the rival b it wins as
soon as F_A <= 0, which costs n_A (S(p_A) - S(u))^2 sigma^2 with u = -lo/B, where F_A is 0; as A it wins while every
other sum is below 0. If lo = 0 and nothing else was spent, moves never end F_A > 0: a mean above 0 has a term above 0,
and Phi^-1 of a term stays finite.

*From draws to the statement.* The draws' sums are sums of m n_c independent terms in [lo, hi]. For each class the true
mean is within [lower, upper] by the Chernoff-Hoeffding bound (Hoeffding 1963, theorem 1: N kl(mean, p) <= ln(1/level),
for independent terms of any distributions), each of the 2K bounds at level alpha/(2K): they hold at once with
probability at least 1 - alpha, so that A may be chosen after seeing the sums. `score_margins` is Hoeffding's simpler
bound of every difference. A missing draw counts as the worst possible one: all lo for a lower bound, all hi for an
upper one. `distance` is the total variation between one draw's noise and ideal noise, over the whole raw set: it
changes the mean of a sum of one draw by at most B distance.

At sigma = 0 nothing is random: there is one draw, no level and no radius, and the counts hold with certainty.

Needs only numpy and scipy. Throughout: scores (n_points, K) are a point's class sums, the mean over m planned draws;
class_sizes (K,); label (n_points,) is ABSTAIN if nothing is certified. The full proof is in
docs/explanation/bounded-influence.md.
"""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri, rel_entr

from cleanlabel.models.certificate import ABSTAIN, Floats, Ints

CELLS = 256
"""Number of cells for the attacker's choices. Each cell counts as its cheapest corner, which only lowers a radius."""
ROUNDING = 1e-9
"""How far bounds and radii are rounded down: far more than the numerical error of the functions here."""
BISECTIONS = 50


def score_margins(
    scores: ArrayLike,
    class_sizes: ArrayLike,
    width: ArrayLike,
    m: int,
    alpha: float,
    *,
    low: ArrayLike = 0.0,
    missing: int = 0,
    distance: float = 0.0,
) -> tuple[Ints, Floats]:
    """Labels and lower bounds of F_A - F_b by Hoeffding's inequality: (n_points,), (n_points, K) with inf at A.

    width, low (n_points,): B and lo. `missing` of the m planned draws are absent and add 0 to `scores`. Per test point,
    all bounds hold at once with probability at least 1 - alpha.
    """
    f, n = _checked(scores, class_sizes)
    b, lo = (_column(value, len(f)) for value in (width, low))
    top = f.argmax(axis=1)
    pairs = n[top][:, None] + n
    deviation = b * np.sqrt(pairs * math.log(f.shape[1] * (f.shape[1] - 1) / alpha) / (2 * m))
    worst = missing / m * (n[top][:, None] * lo - n * (lo + b))
    margin = f[np.arange(len(f)), top][:, None] - f + worst - deviation - b * distance
    return _decided(top, margin)


def radius_left(
    label: ArrayLike,
    margin: ArrayLike,
    class_sizes: ArrayLike,
    width: ArrayLike,
    height: ArrayLike,
    sigma: float,
    rewritten: int = 0,
    relabelled: int = 0,
    inserted: int = 0,
) -> Floats:
    """The joint l2 radius that is left after these numbers of images change at will: (n_points,), in [0,1] pixel units.

    It uses the bound 1/sqrt(2 pi) of every slope. 0 if nothing is certified or nothing is left.
    """
    labels, left = np.asarray(label), np.asarray(margin, dtype=np.float64)
    n = np.asarray(class_sizes, dtype=np.float64)
    b = _column(width, len(labels))
    spent = b * rewritten + _column(height, len(labels)) * (2 * relabelled + inserted)
    slope = b / math.sqrt(2 * math.pi) * np.sqrt(n[labels][:, None] + n)
    reach = sigma * ((left - spent) / slope).min(axis=1) * (1 - ROUNDING)
    return np.where(labels == ABSTAIN, 0.0, np.maximum(reach, 0.0))


def class_bounds(
    scores: ArrayLike,
    class_sizes: ArrayLike,
    width: float,
    low: float,
    m: int,
    alpha: float | None,
    *,
    missing: int = 0,
    distance: float = 0.0,
) -> tuple[Floats, Floats]:
    """Lower and upper bounds, (n_points, K) each, of every class's mean influence on the scale from lo (0) to hi (1).

    All bounds of a point hold at once with probability at least 1 - alpha. alpha None: nothing was random, and the
    bounds are the means themselves. A class without images has the bounds 0 and 0.
    """
    f, n = _checked(scores, class_sizes)
    size = np.maximum(n, 1.0)
    seen = f / size * m - (m - missing) * low  # the sum over the present draws, each term shifted to start at 0
    least, most = (seen / (m * width), (seen + missing * width) / (m * width))
    least, most = (np.where(n > 0, np.clip(p, 0.0, 1.0), 0.0) for p in (least, most))
    if alpha is not None:
        strength = math.log(2 * len(n) / alpha) / (m * size)
        off = distance / size + ROUNDING
        least = np.clip(_chernoff(least, strength) - off, 0.0, 1.0)
        most = np.clip(1.0 - _chernoff(1.0 - most, strength) + off, 0.0, 1.0)
    return np.where(n > 0, least, 0.0), np.where(n > 0, most, 0.0)


def margins(
    scores: ArrayLike, bounds: tuple[Floats, Floats], class_sizes: ArrayLike, width: float, low: float
) -> tuple[Ints, Floats]:
    """Labels and lower bounds of F_A - F_b, as `score_margins` gives them, from the classes' own bounds.

    None is above the difference of the scores, so that rounding never makes a lead of a tie.
    """
    f, n = _checked(scores, class_sizes)
    top, rows = f.argmax(axis=1), np.arange(len(f))
    lower, upper = (n * (width * p + low) for p in bounds)
    lead = f[rows, top][:, None] - f
    return _decided(top, np.minimum(lower[rows, top][:, None] - upper, lead))


def counts_left(label: ArrayLike, margin: ArrayLike, cost: float) -> Ints:
    """How many images may change at will, each at this cost (B, 2H or H): the largest a with a * cost < F_A - F_b."""
    least = np.asarray(margin, dtype=np.float64).min(axis=1, initial=np.inf)
    finite = np.where(np.isfinite(least), least, 0.0)
    return np.where(np.asarray(label) == ABSTAIN, 0, np.maximum(np.ceil(finite / cost * (1 - ROUNDING)) - 1, 0)).astype(
        np.int64
    )


def radius_between(
    label: ArrayLike,
    bounds: tuple[Floats, Floats],
    class_sizes: ArrayLike,
    width: float,
    low: float,
    sigma: float,
    spent: float = 0.0,
) -> Floats:
    """The joint l2 radius that is left after changes at will that cost `spent` of F_A - F_b: (n_points,).

    It is the least over all rivals and all ways to divide a norm between the two classes' images. 0 if nothing is
    certified or nothing is left.
    """
    labels, n = np.asarray(label), np.asarray(class_sizes, dtype=np.float64)
    lower, upper = bounds
    certified = np.flatnonzero(labels != ABSTAIN)
    radius = np.zeros(len(labels))
    reach = np.full(len(certified), np.inf)
    top = labels[certified]
    p_a = lower[certified, top]
    for b in range(len(n)):
        other = top != b
        if not n[b] and not spent and not low:
            continue  # its sum is 0, and moves alone leave every other sum above 0
        cost = (spent - low * (n[top] - n[b])) / width
        found = _pair_radius(p_a, upper[certified, b], n[top], n[b], cost)
        reach = np.where(other, np.minimum(reach, found), reach)
    radius[certified] = sigma * np.where(np.isfinite(reach), reach, 0.0) * (1 - ROUNDING)
    return radius


def _pair_radius(p_a: Floats, p_b: Floats, n_a: Floats, n_b: float, cost: Floats) -> Floats:
    """The least norm, in units of sigma, after which n_a u - n_b v <= cost, from the means p_a and p_b: (n_points,).

    It searches cells of u, from where A's images need not move to where b's need not. In a cell, A's cost is that at
    the upper end and b's that at the lower end. In the first cell b's need not move, if u = 0 is not reached before.
    """
    end = np.clip((cost + n_b * p_b) / np.maximum(n_a, 1.0), 0.0, 1.0)  # n_a = 0: u = 0, and the cost is below 0
    left = n_a * p_a - n_b * p_b - cost > 0
    start, stop = spread(np.minimum(end, p_a)), spread(p_a)
    if not n_b:  # a class without images stays where it is
        return np.where(left, np.sqrt(n_a) * (stop - start), 0.0)
    grid = start[:, None] + (stop - start)[:, None] * np.linspace(0.0, 1.0, CELLS + 1)
    u = np.clip(spread_inverse(grid), 0.0, 1.0)
    paid_a = n_a[:, None] * (stop[:, None] - grid[:, 1:]) ** 2
    v = (n_a[:, None] * u[:, :-1] - cost[:, None]) / n_b
    moved = spread(np.clip(v - ROUNDING, 0.0, 1.0)) - spread(p_b)[:, None]
    paid_b = np.where(v > 1 + ROUNDING, np.inf, n_b * np.maximum(moved, 0.0) ** 2)
    paid_b[:, 0] = np.where(end > 0, 0.0, paid_b[:, 0])
    return np.where(left, np.sqrt((paid_a + paid_b).min(axis=1)), 0.0)


def _tangent() -> tuple[float, float, float]:
    """(p*, S(p*), slope of the straight part of C)."""
    z = brentq(lambda z: math.exp(-z * z / 2) / math.sqrt(2 * math.pi) + 2 * z * float(ndtr(z)), -1.0, -0.1, xtol=1e-15)
    p = float(ndtr(z))
    return p, z, math.exp(-z * z) / (2 * math.pi) / p


TOUCH, TOUCH_SPREAD, SLOPE = _tangent()


def spread(p: ArrayLike) -> Floats:
    """S(p): a class mean on a scale where a joint norm r moves it by at most r / (sigma sqrt(n)); S(1/2) = 0."""
    share = np.asarray(p, dtype=np.float64)
    tail = np.minimum(share, 1 - share)
    outer = TOUCH_SPREAD - 2 * (math.sqrt(TOUCH / SLOPE) - np.sqrt(np.maximum(tail, 0.0) / SLOPE))
    inner = ndtri(np.clip(tail, TOUCH, 0.5))
    value = np.where(tail < TOUCH, outer, inner)
    return np.where(share > 0.5, -value, value)


def spread_inverse(s: ArrayLike) -> Floats:
    """The p with S(p) = s."""
    value = np.asarray(s, dtype=np.float64)
    tail = -np.abs(value)
    root = np.maximum((tail - TOUCH_SPREAD) / 2 + math.sqrt(TOUCH / SLOPE), 0.0)
    p = np.where(tail < TOUCH_SPREAD, SLOPE * root**2, ndtr(np.maximum(tail, TOUCH_SPREAD)))
    return np.where(value > 0, 1 - p, p)


def _chernoff(mean: Floats, strength: Floats) -> Floats:
    """The least p <= mean with kl(mean, p) <= strength, by bisection, rounded down."""
    low, high = np.zeros_like(mean), mean.copy()
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        with np.errstate(divide="ignore", invalid="ignore"):
            inside = rel_entr(mean, middle) + rel_entr(1 - mean, 1 - middle) <= strength
        low, high = np.where(inside, low, middle), np.where(inside, middle, high)
    return low


def _decided(top: NDArray[np.int64], margin: Floats) -> tuple[Ints, Floats]:
    margin[np.arange(len(top)), top] = np.inf
    return np.where(margin.min(axis=1) > 0, top, ABSTAIN), margin


def _column(value: ArrayLike, n: int) -> Floats:
    return np.broadcast_to(np.asarray(value, dtype=np.float64), n)[:, None]


def _checked(scores: ArrayLike, class_sizes: ArrayLike) -> tuple[Floats, Floats]:
    f, n = np.asarray(scores, dtype=np.float64), np.asarray(class_sizes, dtype=np.float64)
    if f.ndim != 2 or n.shape != f.shape[1:] or len(n) < 2:
        raise ValueError(f"scores of shape {f.shape} do not fit class sizes of shape {n.shape}, of two classes or more")
    if not np.isfinite(f).all() or (n < 0).any():
        raise ValueError("scores must be finite, and class sizes 0 or more")
    return f, n
