"""Certificates under optional stopping: exact and simulated error rates, slow twins, and what a look decides."""

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, optimize, stats

from cleanlabel.models.anytime import (
    ConfidenceSequence,
    Looks,
    certify_anytime,
    default_looks,
    look_levels,
    sequence_lower_bound,
    unanimous_radius,
)
from cleanlabel.models.certificate import ABSTAIN, certified_accuracy, certify, lower_confidence_bound
from cleanlabel.models.decision import decide
from cleanlabel.models.plan import least_models


@cache
def bounds(t: int, alpha: float) -> np.ndarray:
    return sequence_lower_bound(np.arange(t + 1), t, alpha)


def chance_of_ever_crossing(p: float, level: float, times: int, alpha: float) -> float:
    """Exact, no sampling: P_p(L_t(k_t) > level for some t <= times), stepping the law of k_t of uncrossed paths."""
    law, crossed = np.array([1.0]), 0.0
    for t in range(1, times + 1):
        law = np.append(law * (1 - p), 0) + np.append(0, law * p)
        over = bounds(t, alpha) > level
        crossed += law[over].sum()
        law[over] = 0
    return float(crossed)


@pytest.mark.parametrize("p", [0.05, 0.3, 0.5, 0.7, 0.9, 0.97])
@pytest.mark.parametrize("alpha", [0.001, 0.05])
def test_the_sequence_exceeds_the_truth_at_any_time_with_probability_at_most_alpha(p, alpha):
    assert chance_of_ever_crossing(p, p, 200, alpha) <= alpha


def test_a_bound_for_one_fixed_t_does_not():
    law, crossed = np.array([1.0]), 0.0
    for t in range(1, 201):
        law = np.append(law * 0.5, 0) + np.append(0, law * 0.5)
        over = lower_confidence_bound(np.arange(t + 1), t, 0.05) > 0.5
        crossed += law[over].sum()
        law[over] = 0
    assert crossed > 2 * 0.05


def test_crossing_one_half_grows_at_least_in_proportion_to_p():
    # The lemma of the alpha/2 rule.
    ratios = [chance_of_ever_crossing(p, 0.5, 200, 0.05) / p for p in (0.05, 0.1, 0.2, 0.3, 0.4, 0.45, 0.5)]
    assert ratios == sorted(ratios)


def test_the_exact_chance_is_that_of_every_path_counted():
    p, alpha, times = 0.4, 0.2, 12
    paths = (np.arange(2**times)[:, None] >> np.arange(times)) & 1
    k = paths.cumsum(axis=1)
    ever = np.any([bounds(t, alpha)[k[:, t - 1]] > p for t in range(1, times + 1)], axis=0)
    chance = p ** k[:, -1] * (1 - p) ** (times - k[:, -1])
    assert chance[ever].sum() == pytest.approx(chance_of_ever_crossing(p, p, times, alpha))


def slow_bound(k: int, t: int, alpha: float, b: float) -> float:
    """The definition: the wealth integrated over the stake u, its root by brentq."""

    def excess(p: float) -> float:
        def wealth(u: float) -> float:
            return (1 + u * (1 - p) / p) ** k * (1 - u) ** (t - k) * b

        # Beta(1, b) is b (1-u)^(b-1) du: the algebraic end is quad's own weight.
        return integrate.quad(wealth, 0, 1, weight="alg", wvar=(0, b - 1))[0] - 1 / alpha

    return optimize.brentq(excess, 0.02, k / t - 1e-9, xtol=1e-12)


@pytest.mark.parametrize(("k", "t"), [(20, 20), (19, 20), (12, 20), (60, 60), (55, 60), (40, 60), (25, 60)])
@pytest.mark.parametrize("b", [0.5, 1.0, 2.0])
def test_the_closed_form_is_the_mixture_of_bets(k, t, b):
    assert sequence_lower_bound(k, t, 0.05, b) == pytest.approx(slow_bound(k, t, 0.05, b), abs=1e-6)


def test_unanimous_votes_have_closed_forms():
    p = float(sequence_lower_bound(100, 100, 0.0005, b=1.0))
    assert (1 - p**101) / (101 * p**100 * (1 - p)) == pytest.approx(2000)
    looks = Looks((50, 100), look_levels(0.001, (0.5, 0.5)), 0.7)
    assert unanimous_radius(looks, 100) == pytest.approx(0.7 * stats.norm.ppf(0.00025 ** (1 / 100)))
    assert unanimous_radius(Looks((50,), (0.001,), 0.7, "split"), 50) == pytest.approx(
        0.7 * stats.norm.ppf(0.001 ** (1 / 50))
    )
    sequence = ConfidenceSequence(2000, 1.0, 0.001, last=0)
    assert [round(unanimous_radius(sequence, t), 2) for t in (50, 100, 1000)] == [0.99, 1.38, 2.38]
    assert unanimous_radius(ConfidenceSequence(100, 1.0, 0.001), 5) == 0


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 400), st.sampled_from([1e-5, 1e-3, 0.05]))
def test_the_sequence_rises_with_k_and_stays_below_the_share_and_the_fixed_bound(t, alpha):
    bound = bounds(t, alpha)
    assert bound[0] == 0
    assert (np.diff(bound) > 0).all()
    assert (bound[1:] < np.arange(1, t + 1) / t).all()
    assert (bound <= lower_confidence_bound(np.arange(t + 1), t, alpha) + 1e-12).all()


M, ALPHA, TRIALS = 150, 0.05, 4000
SHARES = [
    (0.5, 0.5),
    (0.501, 0.499),
    (0.6, 0.4),
    (0.9, 0.1),
    (0.4, 0.4, 0.2),
    (1 / 3, 1 / 3, 1 / 3),
    (0.45, 0.45, *(0.0125,) * 8),
    (0.503, *(0.497 / 9,) * 9),
]


def paths(p: tuple[float, ...], trials: int = TRIALS) -> np.ndarray:
    """counts (M, trials, K) of simulated ensembles, after each draw."""
    votes = np.random.default_rng(11).choice(len(p), size=(M, trials), p=np.array(p) / sum(p))
    return np.cumsum(votes[:, :, None] == np.arange(len(p)), axis=0, dtype=np.int64)


def times_ever_false(p: tuple[float, ...], times, certified) -> int:
    """How many ensembles issue a false certificate at some look: the stop an adversary would choose."""
    share = np.array(p)
    rivals = np.array([np.delete(share, c).max() for c in range(len(p))])
    truth = np.append((stats.norm.ppf(share) - stats.norm.ppf(rivals)) / 2, np.inf)
    counts, false = paths(p), np.zeros(TRIALS, dtype=bool)
    for t in times:
        label, radius = certified(counts[t - 1], t)
        false |= (label != ABSTAIN) & (radius > truth[label])
    return int(false.sum())


PLAN = default_looks(M, least_models(ALPHA))


@pytest.mark.parametrize("p", SHARES)
@pytest.mark.parametrize("method", ["binary", "margin"])
def test_looks_stopped_where_it_hurts_most_are_false_no_more_often_than_alpha(p, method):
    rule = Looks(PLAN[0], look_levels(ALPHA, PLAN[1]), 1.0, method)
    false = times_ever_false(p, rule.times, rule.certify)
    assert stats.binomtest(false, TRIALS, ALPHA, alternative="greater").pvalue > 1e-4


@pytest.mark.parametrize("p", SHARES)
def test_the_sequence_stopped_where_it_hurts_most_is_false_no_more_often_than_alpha(p):
    rule = ConfidenceSequence(M, 1.0, ALPHA)
    false = times_ever_false(p, range(5, M + 1, 5), rule.certify)
    assert stats.binomtest(false, TRIALS, ALPHA, alternative="greater").pvalue > 1e-4


def test_the_certificate_for_one_m_looked_at_again_and_again_is_false_too_often():
    # What the two rules are for. If this fails, the tests above could not.
    def naive(counts, t):
        return certify(counts, t, 1.0, ALPHA)

    for times in (PLAN[0], range(5, M + 1, 5)):
        false = times_ever_false((0.501, 0.499), times, naive)
        assert stats.binomtest(false, TRIALS, ALPHA, alternative="greater").pvalue < 1e-6


def test_a_late_draw_lowers_the_radius_and_breaks_nothing():
    for rule in (ConfidenceSequence(100, 1.0, 0.001), Looks((50, 100), (0.0005, 0.0005), 1.0)):
        whole, late = rule.certify([[48, 2]], 50)[1], rule.certify([[47, 2]], 50)[1]
        assert 0 < late[0] < whole[0]
        assert late == pytest.approx(rule.certify([[47, 3]], 50)[1])
    assert certify_anytime([[0, 0]], 50, 1.0, 0.001)[0][0] == ABSTAIN


def test_the_share_kept_for_m_is_spent_there():
    rule, counts = ConfidenceSequence(100, 1.0, 0.001, last=0.25), [[95, 5], [60, 40]]
    assert rule.certify(counts, 100)[1] == pytest.approx(certify(counts, 100, 1.0, 0.00025)[1])
    assert rule.certify(counts, 99 + 1)[1][0] > ConfidenceSequence(100, 1.0, 0.001, last=0).certify(counts, 100)[1][0]
    early = [[90, 0]]
    assert rule.certify(early, 90)[1] == pytest.approx(certify_anytime(early, 90, 1.0, 0.00075)[1])


@given(st.integers(11, 5000), st.floats(1.1, 4))
def test_default_looks_increase_to_m_and_spend_alpha_once(m, ratio):
    times, shares = default_looks(m, 11, ratio)
    assert (times[0], times[-1]) == (min(22, m), m) or len(times) == 1
    assert list(times) == sorted(set(times))
    assert sum(shares) == pytest.approx(1)
    assert Looks(times, look_levels(0.001, shares), 1.0).certify([[times[0], 0]], times[0])[0][0] == 0 or m < 22


TRUTH = np.zeros(300, dtype=np.int64)
CHANCES = np.random.default_rng(3).beta(1.0, 0.11, size=300)
"""About what the digits' points have: most are sure, some are not."""


def ensemble(seed: int, m: int = 500) -> np.ndarray:
    """counts (m, 300, 2) after each draw."""
    votes = np.random.default_rng(seed).random((m, 300)) < CHANCES
    return np.cumsum(np.stack([votes, ~votes], axis=2), axis=0)


def rules() -> list:
    times, shares = default_looks(500, 11)
    return [Looks(times, look_levels(0.001, shares), 1.0), ConfidenceSequence(500, 1.0, 0.001)]


def stop(rule, counts, accuracy, thresholds):
    times = rule.times if isinstance(rule, Looks) else (*range(20, 500, 40), 500)
    for t in times:
        decision = decide(rule, counts[t - 1], t, TRUTH, accuracy, thresholds)
        if decision.verdict != "open":
            return t, decision
    raise AssertionError("nothing stays open at m")


def value(counts: np.ndarray, radius: float) -> float:
    return float(certified_accuracy(*certify(counts[-1], len(counts), 1.0, 0.001), TRUTH, [radius])[0])


@pytest.mark.parametrize("rule", rules(), ids=["looks", "sequence"])
def test_a_gate_far_below_passes_early_and_one_far_above_fails_early(rule):
    counts = ensemble(0)
    t, decision = stop(rule, counts, 0.5, [(0.5, value(counts, 0.5) - 0.15)])
    assert (decision.verdict, t < 80) == ("passed", True)
    assert certified_accuracy(decision.label, decision.radius, TRUTH, [0.5])[0] >= value(counts, 0.5) - 0.15
    for accuracy, thresholds in ((0.5, [(0.5, value(counts, 0.5) + 0.15)]), (0.999, []), (0.5, [(9.0, 0.1)])):
        t, decision = stop(rule, counts, accuracy, thresholds)
        assert (decision.verdict, t < 80) == ("failed", True)


@pytest.mark.parametrize("rule", rules(), ids=["looks", "sequence"])
def test_what_is_not_decided_yet_is_open_and_nothing_is_at_m(rule):
    counts = ensemble(0)
    gate = [(1.0, value(counts, 1.0) - 0.003)]
    t = 22 if isinstance(rule, Looks) else 20
    assert decide(rule, counts[t - 1], t, TRUTH, 0.5, gate).verdict == "open"
    assert decide(rule, counts[-1], 500, TRUTH, 0.5, gate).verdict != "open"


@pytest.mark.parametrize("rule", rules(), ids=["looks", "sequence"])
def test_early_decisions_are_those_of_the_whole_ensemble(rule):
    for seed in range(2):
        counts = ensemble(seed)
        for radius in (0.0, 0.5, 1.0):
            for margin in (-0.03, 0.03):
                _, decision = stop(rule, counts, 0.5, [(radius, value(counts, radius) + margin)])
                assert decision.verdict == ("passed" if margin < 0 else "failed")


def test_an_accuracy_that_just_reaches_its_threshold_passes_only_when_the_rest_can_hardly_undo_it():
    rule = ConfidenceSequence(1000, 1.0, 0.001)
    counts = np.array([[60, 0]] * 90 + [[31, 29]] * 5 + [[0, 60]] * 5)
    truth = np.zeros(100, dtype=np.int64)
    assert decide(rule, counts, 60, truth, 0.95, []).verdict == "open"
    assert decide(rule, counts, 60, truth, 0.95, [], confirm=0.0).verdict == "passed"
    assert decide(rule, counts, 60, truth, 0.85, []).verdict == "passed"


def test_a_class_that_split_did_not_choose_is_not_forecast():
    rule = Looks((50, 100), (0.0005, 0.0005), 1.0, "split")
    counts, truth = np.array([[50, 0]] * 10), np.zeros(10, dtype=np.int64)
    chosen, missed = np.array([[9, 1]] * 10), np.array([[1, 9]] * 10)
    assert decide(rule, counts, 50, truth, 0.5, [(0.0, 0.9)], selection=chosen).verdict == "passed"
    assert decide(rule, counts, 50, truth, 0.5, [(0.0, 0.9)], selection=missed).verdict == "failed"


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: look_levels(0.001, (0.6, 0.5)), "sum to 1.1"),
        (lambda: look_levels(0.001, (0.5, 0.0)), "positive"),
        (lambda: look_levels(1.0, (1.0,)), "alpha=1.0"),
        (lambda: default_looks(10, 11), "least=11"),
        (lambda: default_looks(100, 11, 1.0), "ratio=1.0"),
        (lambda: Looks((20, 10), (0.1, 0.1), 1.0), "increase"),
        (lambda: Looks((10, 20), (0.1,), 1.0), "2 looks have 1 levels"),
        (lambda: Looks((10,), (0.1,), 1.0).certify([[5, 0]], 9), "no look was planned at 9"),
        (lambda: ConfidenceSequence(10, 1.0, 0.1).certify([[5, 0]], 11), "1..m=10 draws, not 11"),
        (lambda: ConfidenceSequence(10, 1.0, 0.1).certify([[5, 0]], 9, [[1, 0]]), "no selection counts"),
        (lambda: ConfidenceSequence(10, 1.0, 0.1, last=1.0), "last=1.0"),
        (lambda: sequence_lower_bound(5, 4, 0.1), "outside 0..t"),
        (lambda: sequence_lower_bound(0, 0, 0.1), "not positive"),
        (lambda: sequence_lower_bound(0.5, 4, 0.1), "must be integers"),
        (lambda: sequence_lower_bound(1, 4, 0.0), "alpha=0.0"),
        (lambda: certify_anytime([[3, 2]], 4, 1.0, 0.1), "sums to 5"),
        (lambda: decide(ConfidenceSequence(10, 1.0, 0.1), [[5, 0]], 9, [0, 1], 0.5, []), "truth has the shape"),
    ],
)
def test_what_makes_no_sense_is_refused(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()
