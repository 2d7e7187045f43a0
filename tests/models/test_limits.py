"""At their limits: what the certificate's functions take just within a bound, refuse just beyond it, and round down."""

import mpmath
import numpy as np
import pytest
from filled import filled

from cleanlabel.models.anytime import default_looks, look_levels
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
)
from cleanlabel.models.partition import block_certificates, frontier


def quantile(p: float) -> mpmath.mpf:
    """Phi^-1(p) to 30 digits."""
    return mpmath.sqrt(2) * mpmath.erfinv(2 * mpmath.mpf(p) - 1)


@pytest.mark.parametrize("method", ["binary", "split", "margin"])
def test_a_radius_is_rounded_down_from_the_quantiles_of_its_bounds_and_not_by_more_than_it_says(method):
    counts = np.array([[k, 100 - k] for k in range(70, 101)])
    selection = counts if method == "split" else None
    label, radius = certify(counts, 100, 1.0, 0.01, method, selection)
    level = {"binary": 0.005, "split": 0.01, "margin": 0.0025}[method]
    with mpmath.workdps(30):
        for k, certified in filled(zip(counts[:, 0], radius, strict=True)):
            exact = quantile(float(lower_confidence_bound(int(k), 100, level)))
            assert exact * (1 - 3 * ROUNDING) < certified < exact * (1 - ROUNDING / 3)
    assert (label == 0).all()


def test_a_bound_is_rounded_down_by_what_it_says():
    for k, m, alpha in ((90, 100, 0.01), (100, 100, 0.001), (1, 10, 0.05)):
        bound = float(lower_confidence_bound(k, m, alpha))
        with mpmath.workdps(30):

            def tail(p, k=k, m=m):
                return mpmath.fsum(mpmath.binomial(m, i) * p**i * (1 - p) ** (m - i) for i in range(k, m + 1))

            assert tail(mpmath.mpf(bound) + ROUNDING / 3) < alpha < tail(mpmath.mpf(bound) + 3 * ROUNDING)


@pytest.mark.parametrize("alpha", [0.0, 1.0, 1.5])
def test_a_level_is_strictly_between_0_and_1(alpha):
    with pytest.raises(ValueError, match=rf"alpha={alpha} is not a probability strictly between 0 and 1"):
        lower_confidence_bound(1, 2, alpha)


@pytest.mark.parametrize("k", [[-1, 3], [3, 5]])
def test_each_count_lies_within_the_models(k):
    with pytest.raises(ValueError, match=r"lies outside 0..m=4"):
        lower_confidence_bound(k, 4, 0.1)
    assert lower_confidence_bound([0, 4], 4, 0.1)[1] == pytest.approx(0.1**0.25)


@pytest.mark.parametrize("distance", [-0.1, 0.5, 0.75])
def test_a_distance_leaves_something_to_certify(distance):
    with pytest.raises(ValueError, match=rf"distance={distance} leaves nothing to certify"):
        certify([[100, 0]], 100, 1.0, 0.01, distance=distance)
    assert certify([[100, 0]], 100, 1.0, 0.01, distance=0.0)[0] == [0]


@pytest.mark.parametrize("sigma", [0.0, -1.0, np.inf])
def test_votes_need_noise(sigma):
    with pytest.raises(ValueError, match="must be a positive number, in"):
        certify([[100, 0]], 100, sigma, 0.01)


@pytest.mark.parametrize("method", ["binary", "margin"])
def test_a_bound_of_exactly_one_half_certifies_nothing(method):
    level = 0.01 / (4 if method == "margin" else 2)
    distance = float(lower_confidence_bound(100, 100, level)) - 0.5
    label, radius = certify([[100, 0]], 100, 1.0, 0.01, method, distance=distance)
    assert (label[0], radius[0]) == (ABSTAIN, 0.0)
    label, radius = certify([[100, 0]], 100, 1.0, 0.01, method, distance=distance - 1e-9)
    assert label[0] == 0
    assert radius[0] > 0


def test_a_test_point_is_answered_by_its_own_votes_alone():
    rows = np.array([[9, 1, 0], [0, 20, 0], [3, 3, 4], [0, 0, 15], [11, 0, 9]])
    for method in ("binary", "margin"):
        together = certify(rows, 20, 0.5, 0.2, method)
        alone = [certify(row[None], 20, 0.5, 0.2, method) for row in rows]
        assert [*together[0]] == [label[0] for label, _ in alone]
        assert [*together[1]] == [radius[0] for _, radius in alone]
    assert [*predict(rows, 20, 0.2)] == [predict(row[None], 20, 0.2)[0] for row in rows] == [-1, 1, -1, 2, -1]


def test_a_significance_of_exactly_alpha_is_enough_to_predict():
    assert predict([[10, 0]], 10, 2 * 0.5**10) == [0]
    assert predict([[10, 0]], 10, 2 * 0.5**10 * (1 - 1e-9)) == [ABSTAIN]
    assert predict([[10]], 10, 2 * 0.5**10) == [0]
    assert predict([[10]], 11, 2 * 0.5**10) == [ABSTAIN]  # the vote that is missing is the runner-up's


def test_one_image_may_use_the_whole_radius():
    assert per_image_radius([3, 4], 1).tolist() == [3.0, 4.0]
    assert per_image_radius(3, 4) == 1.5
    with pytest.raises(ValueError, match="r=0 images cannot share a radius"):
        per_image_radius(1.0, 0)


@pytest.mark.parametrize("epsilon", [0.0, -1.0, np.nan])
def test_an_image_moves_by_a_positive_norm(epsilon):
    with pytest.raises(ValueError, match="must be a positive l2 norm"):
        images_tolerated(1.0, epsilon)


def test_radii_that_are_whole_numbers_are_numbers_as_well():
    assert images_tolerated([2, 3], 1).tolist() == [3, 8]
    assert radius_beside_a_trigger([5], 1, 1, 3).tolist() == pytest.approx([4.0])
    assert radius_beside_a_trigger([5], 2, 1, 1.5).tolist() == pytest.approx([4.0])
    assert radius_beside_a_trigger([5], 2, 1, 0).tolist() == pytest.approx([5.0])
    assert certified_accuracy([0, 1], [1, 2], [0, 1], [0, 1, 2]).tolist() == [1.0, 0.5, 0.0]
    assert certified_accuracy_grid([0, 1], [1, 2], [0, 1], [1, 3], [1, 2]).tolist() == [[0.5, 0.0], [0.5, 0.0]]


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1])
def test_a_level_that_is_shared_is_strictly_between_0_and_1(alpha):
    words = rf"alpha={alpha} is not a probability strictly between 0 and 1"
    with pytest.raises(ValueError, match=words):
        look_levels(alpha, (0.5, 0.5))
    with pytest.raises(ValueError, match=words):
        block_certificates(np.zeros((2, 4, 2), int), 3, 1.0, alpha)


def test_shares_of_a_level_sum_to_at_most_1():
    assert look_levels(0.5, (0.5, 0.5)) == (0.25, 0.25)
    assert look_levels(0.5, (0.1,) * 10) == (0.05,) * 10  # their sum is rounded above 1
    with pytest.raises(ValueError, match=r"sum to 1; they are positive and sum to at most 1"):
        look_levels(0.5, (0.5, 0.5 + 1e-9))


def test_one_model_may_be_enough_for_a_look():
    assert default_looks(1, 1) == ((1,), (1.0,))
    assert default_looks(5, 1)[0] == (2, 3, 5)


def test_free_blocks_are_no_negative_number_and_each_of_them_counts():
    labels, radii = np.array([[0, 0, 0, 1]]), np.ones((1, 4))
    with pytest.raises(ValueError, match="free=-1 is not a number of blocks; give 0 or more"):
        frontier(labels, radii, 2, [0, -1])
    assert frontier(labels, radii.astype(int), 2, [0, 1])[0].tolist() == [[0], [0]]


def test_a_block_too_many_is_needed_only_against_a_class_that_loses_ties():
    labels, radii = np.array([[0, 0, 1], [1, 1, 0]]), np.ones((2, 3))
    found = frontier(labels, radii, 2, [0])
    assert found[0].tolist() == [[0, 1]]
    assert found[1].tolist() == [[pytest.approx(1.0), pytest.approx(1.0)]]
    two = frontier(np.array([[0, 0], [1, 1]]), np.ones((2, 2)), 2, [0])[1]
    assert two.tolist() == [[pytest.approx(np.sqrt(2)), 1.0]]  # class 0 wins a tie, class 1 loses it
