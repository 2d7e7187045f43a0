"""Anytime certificates: look at the votes while the ensemble grows, and stop as soon as the gate is decided.

The certificate of models/certificate.py is for one m that was fixed beforehand. Checking it after every batch and
stopping at a good moment makes it invalid. The two rules here stay valid:

Looks     certificates at planned prefixes of the draws, each with its own share of alpha (union bound);
ConfidenceSequence  a bound that holds at every prefix at once (a confidence sequence), so that any t is a look.

With either rule, and with probability at least 1 - alpha per test point, *every* certificate issued on the way is
true. So the released one is true, whatever made the training stop there. `counts` at t is (n_points, K): the votes of
draws 0..t-1. A missing or late draw of that prefix stays in t and votes for no class. That can only lower a count, and
every bound here is monotone in the count. Only numpy and scipy are needed.
"""

import math
from collections.abc import Sequence as Series
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import betaincc, betaln
from scipy.stats import norm

from cleanlabel.models.certificate import ABSTAIN, ROUNDING, Floats, Ints, certify


def look_levels(alpha: float, shares: Series[float]) -> tuple[float, ...]:
    """The level of each look: alpha times its share. ValueError unless shares are positive and sum to at most 1."""
    if not 0 < alpha < 1:
        raise ValueError(f"alpha={alpha} is not a probability strictly between 0 and 1")
    if not shares or min(shares) <= 0 or math.fsum(shares) > 1 + 1e-12:
        raise ValueError(f"shares {list(shares)} sum to {math.fsum(shares):g}; they are positive and sum to at most 1")
    return tuple(alpha * share for share in shares)


def default_looks(m: int, least: int, ratio: float = 1.5) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """(times, shares): looks from 2 * least on, each about `ratio` times the one before, the last at m.

    `least` is the least m that certifies anything at the whole alpha (models.plan.least_models). Twice as many models
    certify something at any share above 2^-least. Shares are proportional to sqrt(t). ValueError unless
    1 <= least <= m and ratio > 1.
    """
    # Measured on the digits: m = 1000, ten gates, seven of them within 2 points of their thresholds; means over 40
    # orders of the draws. The saving factor (10 m / sum of stops) is 5.3 at ratio 1.3 (16 looks), 5.0 at 1.5 (10 looks)
    # and 4.4 at 2 (7 looks). At 1.5 it is 5.05 with equal shares, 5.02 with ~sqrt(t), 4.8 with ~t. The last look then
    # has .10, .22 or .35 of alpha. At R = 0, .25, .5, 1 and 2 it certifies 1, 1, 1, 3, 3 or 0, 1, 1, 3, 1 or
    # 0, 1, 1, 1, 1 of 397 points fewer than all of alpha would.
    if not 1 <= least <= m or not ratio > 1:
        raise ValueError(f"least={least}, ratio={ratio}: looks need 1 <= least <= m={m} and a ratio above 1")
    first = min(2 * least, m)
    gaps = round(math.log(m / first) / math.log(ratio))
    times = sorted({round(m * (first / m) ** (i / gaps)) for i in range(1, gaps + 1)} | {m})
    return tuple(times), look_shares(times)


def look_shares(times: Series[int]) -> tuple[float, ...]:
    """Each look's share of alpha: proportional to sqrt(t); the shares sum to 1."""
    total = math.fsum(math.sqrt(t) for t in times)
    return tuple(math.sqrt(t) / total for t in times)


@dataclass(frozen=True)
class Looks:
    """Certificates at planned prefixes: draws 0..t_j-1 at level alpha_j, for t_1 < .. < t_J = m.

    For any K and with missing votes, P(some look certifies a point falsely) <= sum_j alpha_j: each look's certificate
    is false with probability at most alpha_j (models.certificate.certify), and the plan was fixed before the first
    draw. The choice of the last look may depend on anything.
    """

    times: tuple[int, ...]
    levels: tuple[float, ...]
    sigma: float
    method: str = "binary"
    distance: float = 0.0
    """As in `certify`: how far the drawn noise is from the ideal one."""

    def __post_init__(self) -> None:
        if not self.times or self.times[0] < 1 or any(a >= b for a, b in zip(self.times, self.times[1:], strict=False)):
            raise ValueError(f"looks at {list(self.times)} draws; the numbers must be positive and increase")
        if len(self.levels) != len(self.times):
            raise ValueError(f"{len(self.times)} looks have {len(self.levels)} levels; give one level per look")

    @property
    def m(self) -> int:
        return self.times[-1]

    def certify(self, counts: ArrayLike, t: int, selection: ArrayLike | None = None) -> tuple[Ints, Floats]:
        """certify() at t's own level. ValueError if no look is planned at t."""
        if t not in self.times:
            raise ValueError(f"no look was planned at {t} draws; the planned ones are {list(self.times)}")
        level = self.levels[self.times.index(t)]
        return certify(counts, t, self.sigma, level, self.method, selection, distance=self.distance)


@dataclass(frozen=True)
class ConfidenceSequence:
    """The confidence sequence's certificates: any t up to m may be a look, at no further cost.

    The share `last` of alpha is reserved for the certificate at m itself, where the bound for a fixed m is tighter; the
    sequence has the rest (union bound). With last = 0 the sequence is used at m too. On the digits (m = 1000) it then
    certifies 2, 3, 2, 4 and 11 of 397 points fewer than the fixed bound at R = 0, .25, .5, 1 and 2, and the saving
    factor is 5.5 instead of 4.6.
    """

    m: int
    sigma: float
    alpha: float
    last: float = 0.5
    distance: float = 0.0
    """As in `certify`: how far the drawn noise is from the ideal one."""

    def __post_init__(self) -> None:
        if not 0 <= self.last < 1:
            raise ValueError(f"last={self.last} is the share of alpha that is kept for m; give 0 or more, less than 1")

    def certify(self, counts: ArrayLike, t: int, selection: ArrayLike | None = None) -> tuple[Ints, Floats]:
        """certify_anytime() before m, certify() at m. ValueError if `selection` is given: this rule uses none."""
        if selection is not None or not 1 <= t <= self.m:
            raise ValueError(f"the sequence looks at 1..m={self.m} draws, not {t}, and takes no selection counts")
        if t == self.m and self.last:
            return certify(counts, t, self.sigma, self.alpha * self.last, distance=self.distance)
        return certify_anytime(counts, t, self.sigma, self.alpha * (1 - self.last), distance=self.distance)


Rule = Looks | ConfidenceSequence
"""How the votes of a prefix are certified. Both have `m`, the largest number of models, and `certify(counts, t)`."""


def sequence_lower_bound(k: ArrayLike, t: ArrayLike, alpha: float, b: float = 0.5) -> Floats:
    """L_t(k): P(some t has L_t(k_t) > p) <= alpha when k_t counts the successes of t iid Bernoulli(p) trials.

    k and t are integers or arrays of them, 0 <= k <= t. L is 0 at k = 0, increases with k and stays below k/t.

    To test the claim "the chance is p", bet at every trial the share u of the wealth on success at the fair odds
    (1-p)/p. A success multiplies the wealth by 1 + u(1-p)/p, a failure by 1 - u. The mean factor is
    p + u(1-p) + (1-p)(1-u) = 1, so with u drawn once from Beta(1, b)

        W_t(p) = E_u[(1 + u(1-p)/p)^k (1-u)^(t-k)]

    is a nonnegative martingale that starts at 1, and P_p(exists t: W_t(p) >= 1/alpha) <= alpha (Ville 1939). W falls in
    p and rises in k, and by Jensen's inequality W_t(p) <= 1 for p >= k/t. L_t is the p at which W_t(p) = 1/alpha:
    L_t > p means W_t(p) > 1/alpha. With q = p + (1-p)u this is the one-sided mixture over q > p with density
    proportional to (1-q)^(b-1), and in closed form

        W_t(p) = b B(k+1, t-k+b) P(Beta(k+1, t-k+b) > p) / (p^k (1-p)^(t-k+b)).

    Robbins 1970 (mixtures); Howard, Ramdas, McAuliffe & Sekhon 2021 (the one-sided beta-binomial one); Waudby-Smith &
    Ramdas 2024 (betting). At k = t the loss is nearly the same for all t: at alpha = .0005, R/sigma is .99, 1.38 and
    2.38 for t = 50, 100 and 1000 (1.08, 1.45 and 2.43 for a t fixed beforehand; the two-sided mixture's uniform prior
    gives .82, 1.20 and 2.19). A smaller b is tighter at k = t and looser at k/t = .8.
    """
    k, t = np.broadcast_arrays(np.asarray(k), np.asarray(t))
    if not (np.issubdtype(k.dtype, np.integer) and np.issubdtype(t.dtype, np.integer)):
        raise ValueError(f"k and t must be integers, not {k.dtype} and {t.dtype}")
    if not 0 < alpha < 1 or not b > 0:
        raise ValueError(f"alpha={alpha} must lie strictly between 0 and 1, and b={b} above 0")
    if k.size and (t.min() < 1 or k.min() < 0 or (k > t).any()):
        raise ValueError(f"k={k.min()}..{k.max()} lies outside 0..t with t={t.min()}..{t.max()}, or t is not positive")
    low, high = np.zeros(k.shape), k / t
    fixed = np.log(b) + betaln(k + 1, t - k + b) + np.log(alpha)
    for _ in range(60):  # to the last bit; returns the lower end, where the wealth is at least 1/alpha
        p = np.maximum((low + high) / 2, np.finfo(float).tiny)
        wealth = fixed - k * np.log(p) - (t - k + b) * np.log1p(-p) + np.log(betaincc(k + 1, t - k + b, p))
        low, high = np.where(wealth >= 0, p, low), np.where(wealth >= 0, high, p)
    return np.where(k == 0, 0.0, np.maximum(low - ROUNDING, 0.0))


def certify_anytime(
    counts: ArrayLike, t: int, sigma: float, alpha: float, *, distance: float = 0.0
) -> tuple[Ints, Floats]:
    """(label, radius) of every point from the votes of draws 0..t-1: valid at every t at once.

    With probability at least 1 - alpha per point no (label, radius) returned at any t = 1, 2, ... is false. The
    top class is bounded by sequence_lower_bound at alpha/2 and certified only above 1/2. That suffices for any K and
    with missing votes. Proof: let L be the bound at alpha/2. A false certificate needs L_t(k_c) > max(p_c, 1/2) for
    some t and c.

    If p_1 > 1/2: for class 1 the probability is at most alpha/2. The votes of all other classes together are Bernoulli
    with p <= 1/2 and no fewer than those of each class, and L rises with k. So L_t(k_c) > 1/2 for some c implies that
    the merged count's L exceeds 1/2 >= p: again with probability at most alpha/2.

    If all p_c <= 1/2: let f(p) = P_p(exists t: L_t(k_t) > 1/2). Sum over the paths that end at their first crossing:
    one with k successes in t trials adds p^k (1-p)^(t-k). Divided by p it increases on [0, (k-1)/(t-1)], and a
    crossing has k/t > L_t > 1/2, so k - 1 >= (t-1)/2: on all of [0, 1/2]. Hence f(p) <= 2p f(1/2), and
    sum_c f(p_c) <= 2 f(1/2) sum_c p_c <= alpha. A missing vote only lowers counts.
    """
    certify(counts, t, sigma, alpha, distance=distance)  # for its checks of the arguments
    counts = np.asarray(counts)
    distinct, where = np.unique(counts.max(axis=1), return_inverse=True)
    p_a = sequence_lower_bound(distinct, t, alpha / 2)[where] - distance
    certified = p_a > 0.5
    radius = np.where(certified, sigma * norm.ppf(np.where(certified, p_a, 0.5)) * (1 - ROUNDING), 0.0)
    return np.where(certified, counts.argmax(axis=1), ABSTAIN), radius


def unanimous_radius(rule: Rule, t: int, classes: int = 2) -> float:
    """The radius of unanimous votes at t, which no ensemble of t models can exceed. 0 if nothing is certified."""
    row = np.zeros((1, classes), dtype=np.int64)
    row[0, 0] = 1
    selection = row if isinstance(rule, Looks) and rule.method == "split" else None
    return float(rule.certify(row * t, t, selection)[1][0])
