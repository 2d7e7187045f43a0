"""Votes, stopping, attempts and blocks, held against everything that can happen.

The oracles use nothing of the product but the function under test. They sum exact binomial and multinomial
probabilities over all counts, go through all sequences of votes and all choices of blocks, and find the worst case
between two Gaussians by filling bins in the order of their likelihood ratio.
"""

from dataclasses import replace
from fractions import Fraction
from itertools import combinations, product
from math import comb, prod

import mpmath
import numpy as np
import pytest
from filled import filled
from models_recipes import PLAN
from scipy import stats

from cleanlabel.api import certify_votes
from cleanlabel.models.answers import answers
from cleanlabel.models.anytime import ConfidenceSequence, Looks, look_levels
from cleanlabel.models.certificate import ABSTAIN, certify, lower_confidence_bound, predict, upper_confidence_bound
from cleanlabel.models.partition import block_certificates, frontier
from cleanlabel.models.plan import noise_distance_of

METHODS = ("binary", "margin", "split")


def tail(k: int, m: int, p: Fraction) -> Fraction:
    """P(at least k of m), in whole fractions: every number of successes from k to m."""
    return sum((comb(m, i) * p**i * (1 - p) ** (m - i) for i in range(k, m + 1)), Fraction(0))


def own_bound(k: int, m: int, alpha: float) -> float:
    """The p at which k or more of m have probability alpha, by bisection of the sum of binomial probabilities."""
    low, high = 0.0, k / m
    for _ in range(60):
        p = (low + high) / 2
        low, high = (p, high) if stats.binom.sf(k - 1, m, p) <= alpha else (low, p)
    return low


def every_count(m: int, classes: int) -> np.ndarray:
    """All ways in which m models, or fewer, can vote for these classes: (ways, K)."""
    return np.array([way for way in product(range(m + 1), repeat=classes) if sum(way) <= m])


def all_voted(m: int, p: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """All counts of m votes, and their exact probabilities when a vote is for class c with chance p[c]."""
    counts = every_count(m, len(p) - 1)
    counts = np.column_stack([counts, m - counts.sum(axis=1)])
    return counts, stats.multinomial(m, p).pmf(counts)


def true_radius(p: tuple[float, ...], answer: int) -> float:
    """How far the smoothed classifier with these shares keeps this answer, at sigma = 1 (below 0 if it is another)."""
    rival = max(share for c, share in enumerate(p) if c != answer)
    return float(stats.norm.ppf(p[answer]) - stats.norm.ppf(rival)) / 2


def is_false(label: np.ndarray, radius: np.ndarray, p: tuple[float, ...]) -> np.ndarray:
    """Which certificates claim more than is true of the smoothed classifier with these shares, at sigma = 1."""
    truth = np.array([*(true_radius(p, c) for c in range(len(p))), np.inf])  # the last is what ABSTAIN looks up
    return (label != ABSTAIN) & (radius > truth[label])


@pytest.mark.parametrize("m", [1, 2, 7, 12])
@pytest.mark.parametrize("alpha", [0.3, 0.05, 0.0005])
def test_bounds_are_where_the_exact_sum_of_binomial_probabilities_is_alpha(m, alpha):
    level = Fraction(alpha)
    for k in range(m + 1):
        low, high = (Fraction(float(b(k, m, alpha))) for b in (lower_confidence_bound, upper_confidence_bound))
        assert tail(k, m, low) <= level or k == 0 == low
        assert tail(m - k, m, 1 - high) <= level or (k == m and high == 1)
        assert k == 0 or tail(k, m, low + Fraction(1, 10**11)) > level
        assert k == m or tail(m - k, m, 1 - high + Fraction(1, 10**11)) > level


def worst_case(p_a: float, p_b: float, shift: float, bins: int = 20_001) -> tuple[float, float]:
    """(least chance of A, most chance of b) after the noise N(0, 1) moves by `shift`, over all classifiers of a line
    whose answers have these chances before: bins are given out in the order of their likelihood ratio."""
    edges = stats.norm.ppf(np.linspace(0, 1, bins))
    before, after = np.diff(stats.norm.cdf(edges)), np.diff(stats.norm.cdf(edges - shift))
    order = np.argsort(after / before)

    def filled_up(chance: float, order: np.ndarray) -> float:
        room = np.clip(chance - np.append(0, np.cumsum(before[order])[:-1]), 0, before[order])
        return float((room / before[order] * after[order]).sum())

    return filled_up(p_a, order), filled_up(p_b, order[::-1])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("distance", [0.0, 4e-15, 1e-6, 0.07])
def test_the_radius_ends_where_the_worst_classifier_between_two_gaussians_changes_its_answer(method, distance):
    m, sigma, alpha = 60, 0.25, 0.01
    rows = [(60, 0, 0), (57, 2, 1), (50, 10, 0), (0, 3, 55), (1, 46, 9), (25, 30, 5), (36, 3, 3), (35, 13, 12)]
    selection = rows if method == "split" else None
    label, radius = certify(rows, m, sigma, alpha, method, selection, distance=distance)
    held = []
    for row, found, reach in zip(rows, label.tolist(), radius.tolist(), strict=True):
        top = int(np.argmax(row))
        level = {"binary": alpha / 2, "margin": alpha / 6, "split": alpha}[method]
        p_a = max(own_bound(row[top], m, level) - distance, 0.0)
        others = [1 - own_bound(sum(row) - row[c], m, level) for c in range(3) if c != top]
        p_b = min(max(others) + distance, 1 - p_a) if method == "margin" else 1 - p_a
        if p_a <= p_b:
            assert (found, reach) == (ABSTAIN, 0.0)
            continue
        assert found == top
        inside, outside = (worst_case(p_a, p_b, reach / sigma * by) for by in (0.999, 1.001))
        assert inside[0] > inside[1]
        assert outside[0] < outside[1]
        exact = sigma / 2 * (stats.norm.ppf(p_a) - stats.norm.ppf(p_b))
        assert reach <= exact
        assert reach == pytest.approx(exact, rel=1e-8, abs=0)
        held.append(row)
    assert len(held) >= 3


@pytest.mark.parametrize("method", METHODS)
def test_all_points_at_once_are_each_point_alone(method):
    m, alpha = 12, 0.2
    counts = every_count(m, 3)
    selection = counts[::-1] if method == "split" else None
    label, radius = certify(counts, m, 0.5, alpha, method, selection)
    alone = [
        certify(counts[[i]], m, 0.5, alpha, method, None if selection is None else selection[[i]])
        for i in range(len(counts))
    ]
    assert label.tolist() == [int(one[0][0]) for one in alone]
    assert radius.tolist() == [float(one[1][0]) for one in alone]
    assert 0 < (label != ABSTAIN).sum() < len(label)
    assert ((label == ABSTAIN) == (radius == 0)).all()


@pytest.mark.parametrize("method", METHODS)
def test_a_bound_of_exactly_one_half_certifies_nothing(method):
    """The distance is what leaves exactly 1/2 of the bound: then the rivals may have as much."""
    m, alpha = 40, 0.01
    level = {"binary": alpha / 2, "margin": alpha / 4, "split": alpha}[method]
    ties = []
    for k in range(30, 41):
        distance = float(lower_confidence_bound(k, m, level)) - 0.5
        if not 0 < distance < 0.5:
            continue
        rows = [[k, m - k]]
        label, radius = certify(rows, m, 1.0, alpha, method, rows if method == "split" else None, distance=distance)
        assert radius[0] < 1e-15
        if method != "margin" or float(upper_confidence_bound(m - k, m, level)) + distance >= 0.5:
            assert (label[0], radius[0]) == (ABSTAIN, 0)
            ties.append(k)
    assert ties


def test_of_two_classes_the_rival_has_no_more_than_what_is_left_of_the_first_to_the_last_bit():
    """`margin` is then `binary` at half the level, never below it: the rival's own bound is the same number or less."""
    counts = [[k, 60 - k] for k in range(61)]
    for distance in filled(np.random.default_rng(0).uniform(0, 0.2, 20)):
        label, radius = certify(counts, 60, 1.0, 0.02, "margin", distance=distance)
        plain_label, plain = certify(counts, 60, 1.0, 0.01, distance=distance)
        assert (radius >= plain).all()
        assert radius == pytest.approx(plain, rel=1e-12, abs=1e-14)
        assert label[plain > 1e-12].tolist() == plain_label[plain > 1e-12].tolist()


IDEAL = [((0.5, 0.5), 0.2), ((0.4, 0.4, 0.2), 0.2), ((0.35, 0.35, 0.3), 0.1), ((0.6, 0.3, 0.1), 0.1), ((0.7, 0.3), 0.0)]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("p", "distance"), IDEAL)
def test_votes_under_noise_that_far_from_ideal_are_certified_falsely_with_at_most_alpha(p, distance, method):
    """Every count of m votes: the votes are drawn with the rival's chance moved to A, the claims are about p."""
    m, alpha = 100, 0.05
    drawn = (p[0] + distance, p[1] - distance, *p[2:])
    counts, chance = all_voted(m, drawn)
    selection = np.tile(np.eye(len(p), dtype=int)[0], (len(counts), 1)) if method == "split" else None
    label, radius = certify(counts, m, 1.0, alpha, method, selection, distance=distance)
    assert chance.sum() == pytest.approx(1)
    assert chance[is_false(label, radius, p)].sum() <= alpha
    if distance > 0.1:  # without the distance nearly all of them are false
        label, radius = certify(counts, m, 1.0, alpha, method, selection)
        assert chance[is_false(label, radius, p)].sum() > 2 * alpha


@pytest.mark.parametrize("p", [(0.5, 0.5), (0.4, 0.4, 0.2), (0.34, 0.33, 0.33), (0.55, 0.45), (0.1, 0.9)])
def test_a_prediction_is_another_class_than_the_most_likely_with_at_most_alpha(p):
    for m, alpha in ((15, 0.2), (40, 0.05)):
        counts, chance = all_voted(m, p)
        label = predict(counts, m, alpha)
        wrong = (label != ABSTAIN) & (np.append(p, 1.0)[label] < max(p))
        tied = (label != ABSTAIN) & (label != 0) & (p.count(max(p)) > 1)  # a tie is nobody's answer but the first's
        assert chance[wrong | tied].sum() <= alpha
        assert (label != ABSTAIN).any()


def sequences(m: int, classes: int) -> np.ndarray:
    """Every sequence of m votes, as counts after each vote: (m, K^m, K)."""
    votes = np.stack(np.meshgrid(*[np.arange(classes)] * m, indexing="ij"), axis=-1).reshape(-1, m)
    return np.cumsum(votes.T[:, :, None] == np.arange(classes), axis=0, dtype=np.int64)


def chance_of_a_false_look(rule, times, p: tuple[float, ...], ideal: tuple[float, ...]) -> float:
    """The probability that some look of some sequence of votes issues a false certificate, by all sequences."""
    counts = sequences(times[-1], len(p))
    false = np.zeros(counts.shape[1], dtype=bool)
    for t in times:
        false |= is_false(*rule(counts[t - 1], t), ideal)
    return float(np.prod(np.array(p) ** counts[-1], axis=1)[false].sum())


DRAWN = [
    ((0.5, 0.5), 0.0),
    ((0.501, 0.499), 0.0),
    ((0.5, 0.5), 0.15),
    ((0.4, 0.35, 0.25), 0.0),
    ((0.45, 0.3, 0.25), 0.1),
]


@pytest.mark.parametrize(("p", "distance"), DRAWN)
def test_no_stopping_rule_makes_a_certificate_false_more_often_than_alpha(p, distance):
    """An adversary stops each sequence of votes at its worst look."""
    m, alpha = (14 if len(p) == 2 else 9), 0.25
    times = (5, 7, 9, m)[: 4 if m > 9 else 3]
    drawn = (p[0] + distance, p[1] - distance, *p[2:])
    shares = [t / sum(times) for t in times]
    looks = Looks(times, look_levels(alpha, shares), 1.0, distance=distance)
    sequence = ConfidenceSequence(m, 1.0, alpha, distance=distance)
    assert chance_of_a_false_look(looks.certify, times, drawn, p) <= alpha
    assert chance_of_a_false_look(sequence.certify, range(1, m + 1), drawn, p) <= alpha
    for t, share in zip(times, shares, strict=True):
        label, radius = looks.certify([[t] + [0] * (len(p) - 1)], t)
        p_a = (alpha * share / 2) ** (1 / t) - distance
        assert (label[0], radius[0]) == (
            (0, pytest.approx(stats.norm.ppf(p_a), rel=1e-8)) if p_a > 0.5 else (ABSTAIN, 0)
        )


@pytest.mark.parametrize("distance", [0.0, 0.04])
@pytest.mark.parametrize(("votes", "t"), [(30, 30), (28, 30)])
def test_the_sequence_claims_what_the_mean_wealth_of_all_stakes_allows(votes, t, distance):
    """The wealth of a bettor against the chance p, summed over stakes: it is 2 over the level at the bound."""
    alpha, last, stakes = 0.1, 0.25, 1 - ((np.arange(200_000) + 0.5) / 200_000) ** 2  # Beta(1, 1/2)

    def bound(level: float) -> float:
        low, high = 0.3, votes / t
        for _ in range(40):
            p = (low + high) / 2
            wealth = float(((1 + stakes * (1 - p) / p) ** votes * (1 - stakes) ** (t - votes)).mean())
            low, high = (p, high) if wealth >= 1 / level else (low, p)
        return low

    rule = ConfidenceSequence(50, 1.0, alpha, last, distance)
    label, radius = rule.certify([[t - votes, votes]], t)
    assert label == [1]
    assert radius == pytest.approx([stats.norm.ppf(bound(alpha * (1 - last) / 2) - distance)], rel=1e-5)
    at_m = rule.certify([[0, 50]], 50)[1]
    assert at_m == pytest.approx([stats.norm.ppf((alpha * last / 2) ** (1 / 50) - distance)], rel=1e-8)


def test_looking_at_the_whole_level_again_and_again_is_false_too_often():
    """If this fails, the test above could not."""
    times = (5, 7, 9, 14)
    assert chance_of_a_false_look(lambda counts, t: certify(counts, t, 1.0, 0.25), times, (0.5, 0.5), (0.5, 0.5)) > 0.25


def votes_of(counts: np.ndarray) -> dict[int, np.ndarray]:
    """By draw, (n,): votes with which point i of n gets counts[i]."""
    rows = np.stack([np.repeat(np.arange(len(row)), row) for row in counts], axis=1)
    return dict(enumerate(rows.astype(np.int64)))


def own_level(alpha: float, ensembles: int, before: int, points: int) -> float:
    """alpha over the declared ensembles; a further one has half, a quarter .. of it; shared among points."""
    return alpha / points * (1 / ensembles if before < ensembles else 0.5 ** (before - ensembles + 1))


@pytest.mark.parametrize("ensembles", [1, 2, 3])
@pytest.mark.parametrize("points", [1, 4])
def test_all_attempts_and_all_points_together_are_false_no_more_often_than_they_say(ensembles, points):
    """Every count of every attempt: the attempts, and the points of `simultaneous`, are false at chances that add."""
    m, alpha, p = 14, 0.4, (0.5, 0.5)
    counts, chance = all_voted(m, p)
    plan = replace(
        PLAN,
        m=m,
        alpha=alpha,
        classes=2,
        noise_distance=0.0,
        ensembles=ensembles,
        n_test=points,
        simultaneous=points > 1,
    )
    false = []
    for before in range(6):
        found = answers(plan, before, m, votes_of(counts), len(counts))
        assert (found.counts == counts).all()
        false.append(points * chance[is_false(found.label, found.radius, p)].sum())
        level = own_level(alpha, ensembles, before, points)
        assert plan.level(before) == pytest.approx(level, rel=1e-12)
        assert found.radius.max() == pytest.approx(stats.norm.ppf((level / 2) ** (1 / m)), rel=1e-8)
    assert sum(false[:ensembles]) <= alpha
    assert sum(false) <= 2 * alpha
    assert ensembles > 1 or 6 * false[0] > 2 * alpha  # what the first one's level would cost at each attempt


@pytest.mark.parametrize(("simultaneous", "ensembles"), [(False, 1), (True, 1), (False, 3), (True, 2)])
def test_certificates_of_ones_own_votes_share_alpha_among_points_and_ensembles(simultaneous, ensembles):
    m, n, alpha, sigma = 20, 5, 0.05, 0.5
    found = certify_votes(
        np.zeros((m, n), int), sigma, (3, 2, 2), alpha=alpha, classes=2, simultaneous=simultaneous, ensembles=ensembles
    )
    level = alpha / (n if simultaneous else 1) / ensembles
    assert found.radius == pytest.approx([sigma * stats.norm.ppf((level / 2) ** (1 / m))] * n, rel=1e-8)


@pytest.mark.parametrize("before", [0, 2])
def test_blocks_and_sums_too_have_each_attempt_s_own_level(before):
    m, alpha, blocks, n = 30, 0.05, 2, 3
    level = own_level(alpha, 1, before, n)
    shared = replace(PLAN, m=m, alpha=alpha, sigma=1.0, simultaneous=True, n_test=n, classes=2, noise_distance=0.01)
    plan = replace(shared, partitions=blocks, block_sizes=(4, 4))
    found = answers(plan, before, m, dict.fromkeys(range(m), np.zeros((blocks, n), np.int64)), n)
    reach = stats.norm.ppf((level / blocks / 2) ** (1 / m) - 0.01)
    assert found.radius == pytest.approx(
        [np.sqrt(blocks) * reach] * n, rel=1e-8
    )  # a tie is class 0's: both blocks must turn
    assert found.block_radii == pytest.approx(np.full((n, blocks), reach), rel=1e-8)


@pytest.mark.parametrize(("stopping", "share"), [("none", 1.0), ("looks", 0.75), ("sequence", 0.5)])
def test_every_rule_of_a_plan_loses_the_noise_s_distance(stopping, share):
    m, alpha, distance = 40, 0.05, 0.03
    plan = replace(
        PLAN, m=m, alpha=alpha, noise_distance=distance, stopping=stopping, looks=(20, m), shares=(0.25, 0.75)
    )
    found = answers(plan, 1, m, dict.fromkeys(range(m), np.ones(2, np.int64)), 2)
    p_a = (alpha / 2 * share / 2) ** (1 / m) - distance  # the second attempt at half of alpha, both sides at half of it
    assert found.label.tolist() == [1, 1]
    assert found.radius == pytest.approx([stats.norm.ppf(p_a)] * 2, rel=1e-8)


def all_outcomes(labels: tuple[int, ...], classes: int) -> list[tuple[int, frozenset[int]]]:
    """Every way in which an attacker can leave the blocks: (the plurality, the blocks whose certified answer changed).

    A block that abstained may answer anything, and has not changed.
    """
    found = []
    for final in product(range(classes), repeat=len(labels)):
        answer = max(range(classes), key=lambda c: (final.count(c), -c))
        found.append((answer, frozenset(j for j, c in enumerate(final) if labels[j] not in (c, ABSTAIN))))
    return found


@pytest.mark.parametrize("classes", [2, 3, 4])
def test_no_choice_of_blocks_beats_a_frontier_and_one_attains_it(classes):
    """Every choice of free blocks, and every answer of every block: others that change cost their radius squared."""
    generator = np.random.default_rng(classes)
    held = 0
    for _ in range(60):
        k = int(generator.integers(1, 6))
        labels = tuple(np.where(generator.random(k) < 0.75, 1, generator.integers(ABSTAIN, classes, k)).tolist())
        squares = [int(quarters) ** 2 for quarters in generator.integers(0, 6, k)]  # radii in quarters: whole squares
        frees = range(k + 1)
        label, radius = frontier([labels], [np.sqrt(squares) / 4], classes, frees)
        top = max(range(classes), key=lambda c: (labels.count(c), -c))
        lost = [changed for answer, changed in all_outcomes(labels, classes) if answer != top]
        for a in frees:
            costs = [sum(squares[j] for j in lot - set(free)) for lot in lost for free in combinations(range(k), a)]
            cheapest = min(filled(costs))
            assert label[a, 0] == (top if cheapest else ABSTAIN)
            assert radius[a, 0] == np.sqrt(cheapest / 16)
            held += a > 0 and cheapest > 0
    assert held > 10


def test_all_blocks_are_certified_falsely_with_at_most_alpha_together():
    """Every count of one block; blocks are drawn on their own, so the chance that none is false is a product."""
    m, alpha = 15, 0.5
    shares = [(0.5, 0.5), (0.501, 0.499), (0.45, 0.35, 0.2), (0.5, 0.5), (0.52, 0.48), (0.499, 0.501)]
    none_false, at_alpha = [], []
    for p in shares:
        counts, chance = all_voted(m, p)
        label, radius = block_certificates(np.stack([counts] * len(shares)), m, 1.0, alpha)
        none_false.append(1 - chance[is_false(label[:, 0], radius[:, 0], p)].sum())
        at_alpha.append(1 - chance[is_false(*certify(counts, m, 1.0, alpha), p)].sum())
    assert 1 - prod(none_false) <= alpha
    assert 1 - prod(at_alpha) > 1.2 * alpha  # without a share for each block


def test_blocks_lose_the_noise_s_distance():
    label, radius = block_certificates([[[50, 0]], [[0, 50]], [[30, 20]]], 50, 0.5, 0.01, distance=0.05)
    reach = 0.5 * stats.norm.ppf((0.01 / 3 / 2) ** (1 / 50) - 0.05)
    assert label.tolist() == [[0, 1, ABSTAIN]]
    assert radius[0] == pytest.approx([reach, reach, 0], rel=1e-8)


@pytest.mark.parametrize(("sigma", "test_sigma"), [(0.0, 0.25), (0.25, 0.0), (0.1, 0.5)])
def test_the_distance_has_every_threshold_of_every_pixel_and_of_the_test_input(sigma, test_sigma):
    """The thresholds are the j, of either sign, with 2^64 Phi(-(|j| + 1/2) / (255 sigma)) of 1 or more."""

    def thresholds(s: float) -> int:
        with mpmath.workdps(60):
            whole = (
                j for j in range(10**6) if 2**64 * mpmath.ncdf(-(j + mpmath.mpf(1) / 2) / (255 * mpmath.mpf(s))) < 1
            )
            return 2 * next(whole)

    images, shape = 7, (3, 5, 2)
    expected = (images * 30 * thresholds(sigma) if sigma else 0) + (30 * thresholds(test_sigma) if test_sigma else 0)
    assert Fraction(noise_distance_of(images, shape, sigma, test_sigma)) * 2**64 == expected
