"""Rule 7 at its edges: a bound of exactly one half, votes that tie, and the test that has two sides."""

import numpy as np
import pytest
from scipy import stats

from cleanlabel.models import anytime
from cleanlabel.models.anytime import Looks, certify_anytime
from cleanlabel.models.certificate import ABSTAIN, certify, lower_confidence_bound, predict
from cleanlabel.models.partition import block_certificates, partition_radius


def test_a_bound_of_exactly_one_half_certifies_nothing():
    assert lower_confidence_bound(2, 2, 0.25) == pytest.approx(0.5, abs=2e-12)  # rounded down from exactly that
    assert certify([[2, 0]], 2, 1.0, 0.5)[0].tolist() == [ABSTAIN]  # at half of alpha
    assert lower_confidence_bound(1, 1, 0.5) == pytest.approx(0.5, abs=2e-12)
    assert certify([[1, 0]], 1, 1.0, 0.5, "split", [[1, 0]])[0].tolist() == [ABSTAIN]
    assert Looks((2,), (0.5,), 1.0).certify([[2, 0]], 2)[0].tolist() == [ABSTAIN]
    assert block_certificates(np.array([[[2, 0]]]), 2, 1.0, 0.5)[0].tolist() == [[ABSTAIN]]


def test_a_bound_that_the_distance_brings_to_exactly_one_half_certifies_nothing():
    bound = float(lower_confidence_bound(30, 30, 0.01 / 2))
    assert certify([[30, 0]], 30, 1.0, 0.01, distance=bound - 0.5)[0].tolist() == [ABSTAIN]
    assert certify([[30, 0]], 30, 1.0, 0.01, distance=bound - 0.5 - 1e-9)[0].tolist() == [0]


def test_a_sequence_whose_bound_is_exactly_one_half_certifies_nothing(monkeypatch):
    monkeypatch.setattr(anytime, "sequence_lower_bound", lambda k, t, alpha: np.full(np.shape(k), 0.5))
    assert certify_anytime([[20, 0]], 20, 1.0, 0.001)[0].tolist() == [ABSTAIN]


def test_blocks_whose_radius_is_nought_certify_nothing():
    assert partition_radius([[0]], [[0.0]], 2)[0].tolist() == [ABSTAIN]


@pytest.mark.parametrize("alpha", [0.001, 0.05, 0.3])
def test_predict_is_the_two_sided_test_at_every_count(alpha):
    for m in range(1, 31):
        for k in range(m + 1):
            top = max(k, m - k)
            two_sided = stats.binomtest(top, m, 0.5, alternative="two-sided").pvalue
            if abs(two_sided - alpha) < 1e-12:
                continue
            expected = ABSTAIN if two_sided > alpha or k == m - k else int(m - k > k)
            assert predict([[k, m - k]], m, alpha).tolist() == [expected], (k, m)


@pytest.mark.parametrize("counts", [[5, 5], [0, 0], [3, 3, 3], [0, 4, 4]])
def test_predict_abstains_where_the_first_two_tie_at_any_level(counts):
    for alpha in (0.001, 0.5, 1.0):
        assert predict([counts], sum(counts), alpha).tolist() == [ABSTAIN]


def test_a_tie_with_the_missing_votes_is_a_tie():
    assert predict([[6, 4]], 12, 1.0).tolist() == [ABSTAIN]
    assert predict([[7, 4]], 12, 1.0).tolist() == [0]
