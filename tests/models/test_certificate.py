"""Rules 7, 8 and 14: the bound, held to outside values, exact coverage and the theorem's own identities."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from cleanlabel.models.certificate import (
    ABSTAIN,
    ROUNDING,
    certified_accuracy,
    certified_accuracy_grid,
    certify,
    images_tolerated,
    lower_confidence_bound,
    per_image_radius,
    predict,
    radius_beside_a_trigger,
    upper_confidence_bound,
)
from cleanlabel.models.plan import least_models


def split_all_for_one(k: int, m: int, sigma: float, alpha: float) -> float:
    return certify([[k, 0]], m, sigma, alpha, "split", selection=[[1, 0]])[1][0]


@pytest.mark.parametrize(
    ("sigma", "alpha", "k", "radius"),
    [
        (0.12, 0.001, 100_000, 0.457),
        (0.12, 0.001, 99_999, 0.449),
        (0.12, 0.001, 99_997, 0.438),
        (0.12, 0.001, 99_995, 0.431),
        (0.25, 0.01, 100_000, 0.978),
        (0.25, 0.01, 99_998, 0.941),
        (0.25, 0.01, 99_996, 0.92),
    ],
)
def test_published_certification_runs_are_reproduced(sigma, alpha, k, radius):
    assert float(f"{split_all_for_one(k, 100_000, sigma, alpha):.3}") == radius


@given(
    st.integers(1, 300).flatmap(lambda m: st.tuples(st.integers(0, m), st.just(m))), st.sampled_from([1e-4, 1e-3, 0.05])
)
def test_the_bounds_are_scipys_exact_ones(k_m, alpha):
    k, m = k_m
    exact_low = stats.binomtest(k, m, alternative="greater").proportion_ci(1 - alpha, "exact").low
    exact_high = stats.binomtest(k, m, alternative="less").proportion_ci(1 - alpha, "exact").high
    assert lower_confidence_bound(k, m, alpha) == pytest.approx(max(exact_low - ROUNDING, 0), abs=3e-12)
    assert upper_confidence_bound(k, m, alpha) == pytest.approx(min(exact_high + ROUNDING, 1), abs=3e-12)


@pytest.mark.parametrize("m", [1, 10, 100, 1000])
def test_the_papers_formula_is_the_all_agree_case(m):
    assert lower_confidence_bound(m, m, 0.001) == pytest.approx(0.001 ** (1 / m), rel=1e-12)
    assert lower_confidence_bound(0, m, 0.001) == 0


@pytest.mark.parametrize(
    ("m", "ratio"),
    [(20, 0.547), (50, 1.131), (100, 1.500), (200, 1.826), (500, 2.205), (1000, 2.463), (10_000, 3.199)],
)
def test_radii_of_unanimous_votes(m, ratio):
    assert split_all_for_one(m, m, 1.0, 0.001) == pytest.approx(ratio, abs=5e-4)
    assert split_all_for_one(m, m, 0.25, 0.001) == pytest.approx(ratio / 4, abs=5e-4)


def test_the_default_rule_pays_for_choosing_the_class_on_the_same_votes():
    assert certify([[100, 0]], 100, 1.0, 0.001)[1][0] == pytest.approx(1.452, abs=5e-4)
    assert certify([[1000, 0]], 1000, 1.0, 0.001)[1][0] == pytest.approx(2.429, abs=5e-4)


def test_margin_may_certify_below_one_half():
    label, radius = certify([[700, 200, 100]], 1000, 1.0, 0.001, "margin")
    assert (label[0], radius[0]) == (0, pytest.approx(0.527, abs=5e-4))
    label, radius = certify([[450, 200, 200, 150]], 1000, 1.0, 0.001, "margin")
    assert (label[0], radius[0]) == (0, pytest.approx(0.202, abs=5e-4))
    assert certify([[450, 200, 200, 150]], 1000, 1.0, 0.001)[0][0] == ABSTAIN


def outcomes(m: int, p: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Every count vector of m votes over len(p) classes, and its exact probability."""
    if len(p) == 2:
        counts = np.array([(k, m - k) for k in range(m + 1)])
    else:
        counts = np.array([(a, b, m - a - b) for a in range(m + 1) for b in range(m + 1 - a)])
    return counts, stats.multinomial(m, p).pmf(counts)


def true_radii(p: tuple[float, ...]) -> np.ndarray:
    """The smoothed classifier's own margin for each class it might be said to answer, at sigma = 1; inf ends it."""
    shares = np.array(p)
    rivals = np.array([np.delete(shares, c).max() for c in range(len(p))])
    return np.append((stats.norm.ppf(shares) - stats.norm.ppf(rivals)) / 2, np.inf)


def chance_of_a_false_certificate(m: int, p: tuple[float, ...], alpha: float, method: str) -> float:
    """Exact, no sampling: the true margin is known, a certificate beyond it is false."""
    counts, chance = outcomes(m, p)
    if method != "split":
        label, radius = certify(counts, m, 1.0, alpha, method)
        return float(chance[(label != ABSTAIN) & (radius > true_radii(p)[label])].sum())
    selected, weight = outcomes(M0, p)
    chosen = selected.argmax(axis=1)
    total = 0.0
    for c in range(len(p)):
        selection = np.tile(np.eye(len(p), dtype=np.int64)[c] * M0, (len(counts), 1))
        label, radius = certify(counts, m, 1.0, alpha, method, selection)
        false = (label != ABSTAIN) & (radius > true_radii(p)[label])
        total += weight[chosen == c].sum() * chance[false].sum()
    return float(total)


M0 = 10
GRID = [
    (0.5, 0.5),
    (0.5014, 0.4986),
    (0.52, 0.48),
    (0.6, 0.4),
    (0.9, 0.1),
    (1 / 3, 1 / 3, 1 / 3),
    (0.4, 0.4, 0.2),
    (0.5, 0.25, 0.25),
    (0.499, 0.499, 0.002),
    (0.45, 0.3, 0.25),
    (0.7, 0.15, 0.15),
]


@pytest.mark.parametrize("method", ["binary", "split", "margin"])
@pytest.mark.parametrize("p", GRID)
@pytest.mark.parametrize("m", [11, 20, 57, 100])
@pytest.mark.parametrize("alpha", [0.001, 0.05])
def test_a_certificate_is_false_with_probability_at_most_alpha(m, p, alpha, method):
    assert chance_of_a_false_certificate(m, p, alpha, method) <= alpha


@pytest.mark.parametrize("method", ["binary", "split", "margin"])
@pytest.mark.parametrize("p", [(0.1,) * 10, (0.45, 0.45, *(0.0125,) * 8), (0.503, *(0.497 / 9,) * 9)])
def test_simulated_ensembles_of_ten_classes_are_certified_falsely_no_more_often_than_alpha(p, method):
    m, alpha, trials = 200, 0.05, 20_000
    generator = np.random.default_rng(7)
    counts = generator.multinomial(m, p, size=trials)
    selection = generator.multinomial(M0, p, size=trials) if method == "split" else None
    label, radius = certify(counts, m, 1.0, alpha, method, selection)
    false = int(((label != ABSTAIN) & (radius > true_radii(p)[label])).sum())
    assert stats.binomtest(false, trials, alpha, alternative="greater").pvalue > 1e-4


def test_choosing_and_bounding_on_the_same_votes_at_alpha_would_not_be_sound():
    # What public code does; the rule above halves alpha for this. If this fails, the test above could not.
    def naive(m: int, p: float, alpha: float) -> float:
        k = np.arange(m + 1)
        bound = lower_confidence_bound(np.maximum(k, m - k), m, alpha)
        false = (bound > 0.5) & (bound > np.where(k >= m - k, p, 1 - p))
        return float(stats.binom(m, p).pmf(k)[false].sum())

    assert naive(100, 0.5014, 0.001) > 1.5 * 0.001
    assert naive(100, 0.5014, 0.05) > 1.5 * 0.05


def test_split_bounds_the_chosen_class_at_alpha():
    for m, p in ((20, 0.5), (57, 0.52), (100, 0.8)):
        k = np.arange(m + 1)
        counts = np.stack([k, m - k], axis=1)
        label, radius = certify(counts, m, 1.0, 0.05, "split", selection=np.tile([[1, 0]], (m + 1, 1)))
        false = (label == 0) & (radius > stats.norm.ppf(p))
        assert stats.binom(m, p).pmf(k)[false].sum() <= 0.05


@pytest.mark.parametrize("method", ["binary", "margin"])
def test_a_missing_draw_counts_against_the_top_class(method):
    whole = certify([[95, 5]], 100, 1.0, 0.001, method)[1][0]
    one_missing = certify([[94, 5]], 100, 1.0, 0.001, method)[1][0]
    assert one_missing < whole
    assert one_missing == pytest.approx(certify([[94, 6]], 100, 1.0, 0.001, method)[1][0])
    assert certify([[10, 0]], 100, 1.0, 0.001, method)[0][0] == ABSTAIN  # all that voted agree, 90 never did


def test_votes_of_nobody_certify_nothing():
    label, radius = certify([[0, 0, 0]], 50, 1.0, 0.001)
    assert (label[0], radius[0]) == (ABSTAIN, 0)
    assert certify([[0, 0, 0]], 50, 1.0, 0.001, "margin")[0][0] == ABSTAIN


@given(st.integers(11, 400), st.data())
def test_more_votes_never_shrink_the_radius(m, data):
    k = data.draw(st.integers(0, m - 1))
    radii = certify([[k, m - k], [k + 1, m - k - 1]], m, 0.5, 0.001)[1] if k >= m / 2 else (0, 0)
    assert radii[0] <= radii[1]


def test_r_does_not_shrink_with_the_number_of_models():
    # The paper's sigma/sqrt(m) reuses the letter: its m is the number of poisoned images (rule 8).
    radii = [certify([[m, 0]], m, 1.0, 0.001)[1][0] for m in (11, 50, 100, 1000)]
    assert radii == sorted(radii)
    assert per_image_radius(radii[-1], 4) == radii[-1] / 2


def test_the_radius_is_rabs_with_two_classes():
    p = lower_confidence_bound(90, 100, 0.0005)
    rab = 0.7 / 2 * (stats.norm.ppf(p) - stats.norm.ppf(1 - p))
    assert certify([[90, 10]], 100, 0.7, 0.001)[1][0] == pytest.approx(rab)
    assert rab == pytest.approx(0.7 * stats.norm.ppf(p))


@pytest.mark.parametrize(
    ("alpha", "method", "least"), [(0.001, "binary", 11), (0.001, "split", 10), (0.05, "split", 5)]
)
def test_the_least_m_that_can_certify(alpha, method, least):
    assert least_models(alpha, method) == least
    selection = [[1, 0]] if method == "split" else None
    assert certify([[least, 0]], least, 1.0, alpha, method, selection)[0][0] == 0
    assert certify([[least - 1, 0]], least - 1, 1.0, alpha, method, selection)[0][0] == ABSTAIN


def test_predict_is_a_two_sided_binomial_test_on_the_top_two():
    for counts in ([15, 5], [18, 2], [40, 30, 30], [61, 39], [67, 33]):
        m = sum(counts)
        top, second = sorted(counts)[::-1][:2]
        expected = int(np.argmax(counts)) if stats.binomtest(top, top + second).pvalue <= 0.05 else ABSTAIN
        assert predict([counts], m, 0.05)[0] == expected
    assert predict([[18, 0]], 20, 0.001)[0] == 0
    assert predict([[17, 0]], 20, 0.001)[0] == ABSTAIN  # three missing votes go to the runner-up
    assert predict([[0, 0]], 20, 0.001)[0] == ABSTAIN


def test_images_tolerated_is_strict():
    assert images_tolerated(1.0, 0.5) == 3  # four images moved by 0.5 have joint norm 1.0: not less than R
    assert images_tolerated(1.0000001, 0.5) == 4
    assert images_tolerated([0.0, 0.1, 2.43], 1.739).tolist() == [0, 0, 1]


@given(epsilon=st.floats(1e-3, 10), images=st.integers(1, 10**6))
def test_images_tolerated_is_strict_in_exact_arithmetic(epsilon, images):
    for radius in (math.sqrt(images) * epsilon, math.nextafter(math.sqrt(images) * epsilon, 0)):
        tolerated = int(images_tolerated(radius, epsilon))
        assert tolerated * Fraction(epsilon) ** 2 < Fraction(radius) ** 2
        assert tolerated >= images - 1
    assert images_tolerated(0.5, 8 / 255 * 8) == 3


def test_certified_accuracy_is_strict_and_never_counts_an_abstention():
    label, radius, truth = [0, 1, ABSTAIN, 2], [0.5, 0.0, 0.0, 1.0], [0, 1, 1, 0]
    assert certified_accuracy(label, radius, truth, [0.0, 0.25, 0.5]).tolist() == [0.25, 0.25, 0.0]


def test_the_grid_of_images_and_changes_is_the_curve_at_their_joint_norms():
    label, radius, truth = [0, 1, 2, 2], [0.9, 1.0, 0.3, 2.0], [0, 1, 2, 0]
    grid = certified_accuracy_grid(label, radius, truth, [1, 4, 9], [0.1, 0.5])
    assert grid.tolist() == [[0.75, 0.5], [0.75, 0.0], [0.5, 0.0]]  # 4 images by .5: joint norm 1.0, not below 1.0
    for i, r in enumerate([1, 4, 9]):
        for j, epsilon in enumerate([0.1, 0.5]):
            tolerated = (np.array(label) == truth) & (images_tolerated(radius, epsilon) >= r)
            assert grid[i, j] == tolerated.mean()


def test_noise_on_the_test_input_certifies_a_trigger_beside_the_poison():
    # RAB: ||omega||^2/sigma_x^2 + sum ||delta||^2/sigma^2 < (R/sigma)^2, an ellipse with these two axes.
    radius, sigma, sigma_x = 1.2, 1.0, 0.5
    assert radius_beside_a_trigger(radius, sigma, sigma_x, 0.0) == pytest.approx(radius)
    assert radius_beside_a_trigger(radius, sigma, sigma_x, radius * sigma_x / sigma) == 0
    for trigger in (0.1, 0.3, 0.59):
        left = float(radius_beside_a_trigger(radius, sigma, sigma_x, trigger))
        assert (trigger / sigma_x) ** 2 + (left / sigma) ** 2 == pytest.approx((radius / sigma) ** 2)
    assert radius_beside_a_trigger([0.1, 2.0], sigma, sigma_x, 0.3).tolist() == [0, pytest.approx(np.sqrt(4 - 0.36))]


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: certify([[1, 2]], 2, 1.0, 0.001), "sums to 3, more than the m=2"),
        (lambda: certify([[-1, 2]], 2, 1.0, 0.001), "never negative"),
        (lambda: certify([1, 2], 3, 1.0, 0.001), "shape"),
        (lambda: certify([[0.5, 1]], 3, 1.0, 0.001), "must be integers"),
        (lambda: certify([[3, 0]], 3, -1.0, 0.001), "sigma=-1.0"),
        (lambda: certify([[3, 0]], 3, 1.0, 0.0), "alpha=0.0"),
        (lambda: certify([[3, 0]], 3, 1.0, 0.001, "naive"), "method='naive'"),
        (lambda: certify([[3, 0]], 3, 1.0, 0.001, "split"), "needs selection"),
        (lambda: certify([[3, 0]], 3, 1.0, 0.001, selection=[[1, 0]]), "takes no selection"),
        (lambda: lower_confidence_bound(5, 4, 0.001), "outside 0..m=4"),
        (lambda: lower_confidence_bound(0, 0, 0.001), "m=0"),
        (lambda: images_tolerated(1.0, 0.0), "epsilon=0.0"),
        (lambda: per_image_radius(1.0, 0), "r=0"),
        (lambda: certify([[3, 0]], 3, 1.0, 0.001, "split", selection=[[1, 0, 0]]), "selection counts have the shape"),
        (lambda: radius_beside_a_trigger(1.0, 1.0, 0.0, 0.1), "sigma_x=0.0"),
        (lambda: radius_beside_a_trigger(1.0, 1.0, 0.5, -0.1), "trigger=-0.1"),
    ],
)
def test_what_makes_no_sense_is_refused(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()
