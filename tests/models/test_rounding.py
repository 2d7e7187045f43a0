"""Rule 0: bounds and radii err on the safe side, held to exact arithmetic; the noise's distance comes off."""

import math
from dataclasses import replace
from fractions import Fraction

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models_recipes import PLAN

from cleanlabel.models.answers import answers
from cleanlabel.models.anytime import ConfidenceSequence, Looks, certify_anytime, sequence_lower_bound
from cleanlabel.models.certificate import ABSTAIN, ROUNDING, certify, lower_confidence_bound, upper_confidence_bound
from cleanlabel.models.partition import block_certificates
from cleanlabel.models.plan import noise_distance_of


def exact_tail(k: int, m: int, p: float) -> Fraction:
    """P(Bin(m, p) >= k) of exactly this float p, in whole numbers."""
    exact = Fraction(p)
    a, b = exact.numerator, exact.denominator - exact.numerator
    few = range(k, m + 1) if k > m // 2 else range(k)
    total = sum(math.comb(m, i) * a**i * b ** (m - i) for i in few)
    tail = Fraction(total, exact.denominator**m)
    return tail if k > m // 2 else 1 - tail


@pytest.mark.parametrize("m", [1, 2, 11, 50, 100, 400])
@pytest.mark.parametrize("alpha", [0.05, 0.0005, 1e-9])
def test_the_bound_never_exceeds_the_exact_one(m, alpha):
    """At the returned p, k or more successes have at most alpha: the exact Clopper-Pearson bound is no smaller."""
    for k in sorted({1, m // 2, (9 * m) // 10, m - 1, m} - {0}):
        assert exact_tail(k, m, float(lower_confidence_bound(k, m, alpha))) <= Fraction(alpha)


@settings(max_examples=15, deadline=None)
@given(m=st.integers(500, 1000), share=st.floats(0.5, 1), alpha=st.sampled_from([0.001, 1e-6]))
def test_the_bound_never_exceeds_the_exact_one_up_to_a_thousand_models(m, share, alpha):
    k = math.ceil(share * m)
    bound = float(lower_confidence_bound(k, m, alpha))
    assert exact_tail(k, m, bound) <= Fraction(alpha)
    assert exact_tail(k, m, bound + 3 * ROUNDING) > Fraction(alpha)  # and is rounded down by no more than that


@given(m=st.integers(1, 200), share=st.floats(0, 1), alpha=st.floats(1e-9, 0.4))
def test_the_upper_bound_mirrors_the_lower_one_outwards(m, share, alpha):
    k = int(share * m)
    upper = float(upper_confidence_bound(k, m, alpha))
    assert upper >= 1 - float(lower_confidence_bound(m - k, m, alpha))


def exact_quantile(p: float) -> mpmath.mpf:
    with mpmath.workprec(200):
        return mpmath.sqrt(2) * mpmath.erfinv(2 * mpmath.mpf(p) - 1)


@given(k=st.integers(60, 1000))
def test_the_radius_never_exceeds_that_of_the_bound_in_high_precision(k):
    m = 1000
    label, radius = certify([[k, m - k]], m, 0.25, 0.001)
    if label[0] == ABSTAIN:
        assert radius[0] == 0
        return
    exact = exact_quantile(float(lower_confidence_bound(max(k, m - k), m, 0.0005))) / 4
    assert radius[0] <= exact
    assert radius[0] == pytest.approx(float(exact), rel=1e-11)


@pytest.mark.parametrize(("k", "t"), [(50, 50), (95, 100), (180, 200), (300, 500)])
def test_the_sequences_bound_never_exceeds_the_exact_one(k, t):
    alpha, b = 0.0005, mpmath.mpf(1) / 2
    p = mpmath.mpf(float(sequence_lower_bound(k, t, alpha)))
    with mpmath.workprec(300):
        kernel = lambda q: q**k * (1 - q) ** (t - k + b - 1)  # noqa: E731
        mass = mpmath.quad(kernel, [p, (p + mpmath.mpf(k) / t) / 2, mpmath.mpf(k) / t, (1 + mpmath.mpf(k) / t) / 2, 1])
        wealth = b * mass / (p**k * (1 - p) ** (t - k + b))
    assert wealth >= 1 / mpmath.mpf(alpha)


# The distance between drawn and ideal noise, in every way of certifying.

COUNTS = np.array([[96, 3, 1], [100, 0, 0]])
SHIFT = 0.01


@pytest.mark.parametrize("method", ["binary", "split", "margin"])
def test_the_distance_is_taken_from_the_top_classs_bound_and_added_to_the_rivals(method):
    chosen = COUNTS if method == "split" else None
    level = {"binary": 0.0005, "split": 0.001, "margin": 0.001 / 6}[method]
    radius = certify(COUNTS, 100, 1.0, 0.001, method, chosen, distance=SHIFT)[1]
    p_a = lower_confidence_bound(COUNTS[:, 0], 100, level) - SHIFT
    p_b = 1 - p_a
    if method == "margin":
        p_b = np.minimum(upper_confidence_bound(COUNTS[:, 1], 100, level) + SHIFT, p_b)
    exact = [(exact_quantile(a) - exact_quantile(b)) / 2 for a, b in zip(p_a, p_b, strict=True)]
    np.testing.assert_allclose(radius, np.array(exact, dtype=float), rtol=1e-9)
    assert (radius < certify(COUNTS, 100, 1.0, 0.001, method, chosen)[1]).all()


def test_a_bound_that_the_distance_brings_to_one_half_certifies_nothing():
    bound = float(lower_confidence_bound(70, 100, 0.0005))
    assert bound > 0.5
    assert certify([[70, 30]], 100, 1.0, 0.001, distance=bound - 0.5)[0][0] == ABSTAIN


def test_looks_sequences_and_blocks_take_the_distance_off_as_well():
    looks = [Looks((100,), (0.001,), 1.0, "binary", shift) for shift in (0.0, SHIFT)]
    assert looks[1].certify(COUNTS, 100)[1].tolist() == certify(COUNTS, 100, 1.0, 0.001, distance=SHIFT)[1].tolist()
    sequences = [ConfidenceSequence(200, 1.0, 0.001, distance=shift) for shift in (0.0, SHIFT)]
    early = [rule.certify(COUNTS, 100)[1] for rule in sequences]
    assert (early[1] < early[0]).all()
    assert early[1].tolist() == certify_anytime(COUNTS, 100, 1.0, 0.0005, distance=SHIFT)[1].tolist()
    last = [rule.certify(2 * COUNTS, 200)[1] for rule in sequences]
    assert (last[1] < last[0]).all()
    blocks = [block_certificates(COUNTS[None], 100, 1.0, 0.001, distance=shift)[1] for shift in (0.0, SHIFT)]
    assert (blocks[1] < blocks[0]).all()


@pytest.mark.parametrize("changes", [{}, {"stopping": "sequence"}, {"partitions": 2, "block_sizes": (9, 9)}])
def test_a_plans_distance_reaches_every_certificate_made_by_it(changes):
    plan = replace(PLAN, **changes)
    votes = {draw: np.zeros((2, 1) if plan.partitions > 1 else 1, dtype=np.int64) for draw in range(plan.m)}
    near, far = (answers(replace(plan, noise_distance=shift), 0, plan.m, votes, 1).radius[0] for shift in (0.0, SHIFT))
    assert 0 < far < near


def test_the_distance_counts_every_pixel_of_a_draw_and_the_test_image_that_is_noised():
    per_pixel = 1158 / 2**64  # thresholds at sigma = .25
    assert noise_distance_of(50_000, (32, 32, 3), 0.25) == pytest.approx(50_000 * 3072 * per_pixel, rel=1e-9, abs=0)
    assert noise_distance_of(50_000, (32, 32, 3), 0.25) < 2**-26
    assert noise_distance_of(0, (8, 8, 1), 0.25, test_sigma=0.25) == pytest.approx(64 * per_pixel, rel=1e-9, abs=0)


@pytest.mark.parametrize("distance", [-1e-9, 0.5, math.nan])
def test_a_distance_that_is_none_is_refused(distance):
    with pytest.raises(ValueError, match=f"distance={distance}"):
        certify([[3, 0]], 3, 1.0, 0.001, distance=distance)
