"""The certificate end to end against a closed form: one-dimensional images, a learner that is a half-space.

Each image is one pixel. The learner asks whether the mean of the noised set (plus the noised test input, where that is
noised too) lies above a threshold, so the smoothed decision is a normal distribution function, the certified set is
exactly the half-space's side, and the best adversary is known.
"""

import numpy as np
import pytest
from scipy import stats
from tiny import FIXED

from cleanlabel.models.certificate import certify, radius_beside_a_trigger
from cleanlabel.models.votes import count_votes
from cleanlabel.sanitize.imageset import ImageSet
from cleanlabel.sanitize.sanitizer import sanitize

N, M, ALPHA = 9, 3000, 0.001
PIXELS = np.array([120, 150, 170, 140, 155, 160, 135, 165, 145], np.uint8)
TRAINING = ImageSet(PIXELS.reshape(N, 1, 1, 1), np.zeros(N, np.int64), tuple(map(str, range(N))), ("below", "above"))
TEST = TRAINING.take(np.array([4]))  # the same id as a training image: the roles keep the streams apart
MEAN, INPUT = PIXELS.mean() / 255, 155 / 255


def measured(sigma: float, sigma_x: float) -> np.ndarray:
    """counts (1, 2) of M half-space models, by the project's own noise and counting."""
    votes = {}
    for draw in range(M):
        total = sanitize(TRAINING, sigma, None, FIXED, draw).mean()
        if sigma_x:
            total += sanitize(TEST, sigma_x, None, FIXED, draw, role="test-noise").mean() - 0.5
        votes[draw] = np.array([int(total > 0.5)])
    return count_votes(votes, M, 1, 2)


@pytest.mark.parametrize("sigma", [0.25, 1.0])
def test_the_measured_share_of_votes_is_the_closed_form(sigma):
    counts = measured(sigma, 0.0)
    p_a = stats.norm.cdf((MEAN - 0.5) * np.sqrt(N) / sigma)
    assert stats.binomtest(int(counts[0, 1]), M, p_a).pvalue > 1e-4
    label, radius = certify(counts, M, sigma, ALPHA)
    assert label[0] == 1
    assert 0 < radius[0] < sigma * stats.norm.ppf(p_a)


@pytest.mark.parametrize("sigma", [0.25, 1.0])
def test_an_adversary_just_inside_the_radius_never_wins_and_one_just_outside_does(sigma):
    p_a = stats.norm.cdf((MEAN - 0.5) * np.sqrt(N) / sigma)
    exact = sigma * stats.norm.ppf(p_a)

    def answer(delta: np.ndarray) -> int:
        return int(stats.norm.cdf((MEAN + delta.mean() - 0.5) * np.sqrt(N) / sigma) > 0.5)

    best = -np.ones(N) / np.sqrt(N)  # all images alike
    others = np.random.default_rng(0).normal(size=(500, N))
    for direction in [best, *(others / np.linalg.norm(others, axis=1, keepdims=True))]:
        assert answer(direction * exact * (1 - 1e-3)) == 1
    assert answer(best * exact * (1 + 1e-3)) == 0


def test_the_certified_radius_of_many_votes_comes_up_to_the_exact_one():
    sigma, m = 0.5, 10**10  # so many that the bound is nearly p_a itself
    p_a = stats.norm.cdf((MEAN - 0.5) * np.sqrt(N) / sigma)
    k = round(p_a * m)
    exact = sigma * stats.norm.ppf(p_a)
    assert 0.999 * exact < certify([[m - k, k]], m, sigma, ALPHA)[1][0] < exact


def test_noise_on_the_test_input_too_certifies_a_trigger_exactly():
    sigma, sigma_x = 0.5, 0.1
    spread = np.sqrt(sigma**2 / N + sigma_x**2)
    margin = MEAN + INPUT - 1
    p_a = stats.norm.cdf(margin / spread)
    assert stats.binomtest(int(measured(sigma, sigma_x)[0, 1]), M, p_a).pvalue > 1e-4
    exact = sigma * stats.norm.ppf(p_a)

    def answer(trigger: float, joint_norm: float) -> int:  # the poison spread evenly, the best it can do
        return int(margin - trigger - joint_norm / np.sqrt(N) > 0)

    limit = exact * sigma_x / sigma
    for trigger in np.linspace(0, limit, 50):
        assert answer(trigger, float(radius_beside_a_trigger(exact, sigma, sigma_x, trigger)) * (1 - 1e-3)) == 1
    worst = sigma_x**2 / spread * exact / sigma  # where trigger and poison together gain most
    beside = float(radius_beside_a_trigger(exact, sigma, sigma_x, worst))
    assert answer(worst, beside * (1 + 1e-3)) == 0
