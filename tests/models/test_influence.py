"""The certificate of bounded influences, held against its formulas, against attackers, and against chance."""

import itertools
import math

import mpmath
import numpy as np
import pytest
from filled import filled
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri
from scipy.stats import norm

from cleanlabel.models.certificate import ABSTAIN
from cleanlabel.models.influence import (
    SLOPE,
    TOUCH,
    class_bounds,
    counts_left,
    margins,
    radius_between,
    radius_left,
    score_margins,
    spread,
    spread_inverse,
)
from cleanlabel.models.influenced import COSTS, influenced
from cleanlabel.models.sums import STEPS
from cleanlabel.sanitize.errors import InputError

SIZES = np.array([300, 300, 200])


def known(means: list[float], sizes: np.ndarray, width: float = 1.0, low: float = 0.0) -> tuple:
    """Label, margins and bounds of one point whose class means (from lo to hi) are known without doubt."""
    scores = (sizes * (width * np.array(means) + low))[None, :]
    bounds = class_bounds(scores, sizes, width, low, 1, None)
    return *margins(scores, bounds, sizes, width, low), bounds


def test_margins_and_radii_are_those_of_the_page():
    scores, m, alpha, width, height, sigma = np.array([[150.0, 30.0, 10.0]]), 50, 0.01, 2.0, 1.5, 0.25
    label, margin = score_margins(scores, SIZES, width, m, alpha)
    assert label == [0]
    assert margin[0, 0] == math.inf
    for b in (1, 2):
        pair = SIZES[0] + SIZES[b]
        deviation = width * math.sqrt(pair * math.log(3 * 2 / alpha) / (2 * m))
        assert margin[0, b] == pytest.approx(scores[0, 0] - scores[0, b] - deviation)
    radius = radius_left(label, margin, SIZES, width, height, sigma, rewritten=3, relabelled=2, inserted=1)
    expected = min(
        (margin[0, b] - 3 * width - 2 * 2 * height - height)
        / (width / (sigma * math.sqrt(2 * math.pi)) * math.sqrt(SIZES[0] + SIZES[b]))
        for b in (1, 2)
    )
    assert radius == pytest.approx([expected])


@pytest.mark.parametrize("low", [0.0, -1.0])
def test_margins_with_missing_draws_and_a_distance_are_those_of_the_page_class_by_class(low):
    rng = np.random.default_rng(3)
    m, missing, alpha, distance = 20, 3, 0.05, 0.02
    scores, widths = rng.normal(0, 60, (4, 3)), np.array([0.5, 1.0, 2.0, 3.0])
    label, margin = score_margins(
        scores, SIZES, widths, m, alpha, low=low * widths / 2, missing=missing, distance=distance
    )
    for point, width in enumerate(filled(widths)):
        lowest, a = low * width / 2, scores[point].argmax()
        for b in {0, 1, 2} - {a}:
            deviation = width * math.sqrt((SIZES[a] + SIZES[b]) * math.log(3 * 2 / alpha) / (2 * m))
            worst = missing / m * (SIZES[a] * lowest - SIZES[b] * (lowest + width))
            expected = scores[point, a] - scores[point, b] + worst - deviation - width * distance
            assert margin[point, b] == pytest.approx(expected, rel=1e-12)
        assert label[point] == (a if margin[point].min() > 0 else ABSTAIN)


def kl(p: float, q: float) -> mpmath.mpf:
    """The divergence of two coins."""
    return mpmath.fsum(a * mpmath.log(a / b) for a, b in ((p, q), (1 - p, 1 - q)) if a > 0)


@pytest.mark.parametrize("low", [0.0, -0.75])
def test_bounds_of_class_means_are_those_of_the_page_class_by_class(low):
    m, missing, alpha, distance, width = 20, 3, 0.05, 0.02, 1.5
    sizes = np.array([30, 0, 50])
    means = np.array([[0.9, 0.0, 0.2], [0.5, 0.0, 0.5], [0.02, 0.0, 1.0]])
    present = (m - missing) / m
    scores, tried = sizes * (width * means + low) * present, 0
    least, most = class_bounds(scores, sizes, width, low, m, alpha, missing=missing, distance=distance)
    for point, k in itertools.product(range(3), (0, 2)):
        strength = math.log(2 * 3 / alpha) / (m * sizes[k])
        off = distance / sizes[k]
        seen = (means[point, k] * present, means[point, k] * present + missing / m)
        with mpmath.workdps(30):
            for bound, mean, side in ((least, seen[0], 1), (most, seen[1], -1)):
                if bound[point, k] in (0, 1):
                    continue  # as far as it can go
                edge = mpmath.mpf(float(bound[point, k])) + side * off  # where the divergence is `strength`
                inside, outside = edge + side * 3e-9, edge - side * 1e-10
                assert kl(mean, outside) > strength > kl(mean, inside), (point, k, side)
                tried += 1
    assert tried >= 8
    assert (least[:, 1] == 0).all()
    assert (most[:, 1] == 0).all()
    assert (least >= 0).all()
    assert (most <= 1).all()


def test_a_count_is_of_each_point_and_a_tie_of_cost_and_lead_is_not_enough():
    margin = np.array([[np.inf, 3.0, 9.0], [np.inf, 8.0, 4.0], [1.0, np.inf, 1.5], [np.inf, np.inf, np.inf]])
    assert counts_left([0, 0, 1, 0], margin, 1.0).tolist() == [2, 3, 0, 0]
    assert counts_left([0, 0, ABSTAIN, 0], margin, 0.5).tolist() == [5, 7, 0, 0]
    assert counts_left([0], [[np.inf, 3]], 1).tolist() == [2]


def test_a_radius_is_rounded_down_from_the_worst_case_of_two_coins():
    # Two classes of one image each, the first without a doubt above: the least move makes the means equal at 1/2.
    for p in (0.6, 0.75, 0.9):
        bounds = (np.array([[p, 0.0]]), np.array([[p, 1 - p]]))
        radius = radius_between([0], bounds, np.array([1, 1]), 1.0, 0.0, 2.0)[0]
        exact = 2.0 * math.sqrt(2) * float(spread(p))
        assert exact * (1 - 2 / 256) < radius <= exact * (1 - 0.5e-9)


def test_each_point_has_the_radius_of_its_own_margins_rounded_down():
    margin = np.array([[np.inf, 30.0, 50.0], [20.0, np.inf, 10.0]])
    radius = radius_left([0, 1], margin, SIZES, 2.0, 2.0, 0.5, rewritten=1, relabelled=1, inserted=1)
    for point, (a, b) in enumerate([(0, 1), (1, 2)]):
        exact = 0.5 * (margin[point, b] - 2 - 4 - 2) / (2 / math.sqrt(2 * math.pi) * math.sqrt(SIZES[a] + SIZES[b]))
        assert exact * (1 - 3e-9) < radius[point] < exact * (1 - 3e-10)


def test_a_radius_beside_a_class_without_images_is_exact_and_rounded_down():
    for p in (0.3, 0.6, 0.95):
        bounds = (np.array([[p, 0.0]]), np.array([[p, 0.0]]))
        radius = radius_between([0], bounds, [9, 0], 1.0, 0.0, 2.0, spent=1.0)[0]
        exact = 2.0 * 3 * float(spread(p) - spread(1 / 9))
        assert exact * (1 - 3e-9) < radius < exact * (1 - 3e-10)


def test_a_margin_that_is_not_positive_abstains_and_has_no_radius():
    label, margin = score_margins([[100.0, 99.0, 0.0]], SIZES, 1.0, 50, 0.01)
    assert label == [ABSTAIN]
    assert radius_left(label, margin, SIZES, 1.0, 1.0, 0.5) == [0]
    assert counts_left(label, margin, 1.0) == [0]


@pytest.mark.parametrize(("width", "low"), [(1.0, 0.0), (2.0, -1.0)])
def test_the_sharper_radius_is_never_below_the_page_s(width, low):
    for seed in range(40):
        means = np.random.default_rng(seed).dirichlet([1, 1, 1])
        label, margin, bounds = known(means.tolist(), SIZES, width, low)
        height = max(width + low, -low)
        for a in (0, 2):
            page = radius_left(label, margin, SIZES, width, height, 0.5, rewritten=a)
            sharper = radius_between(label, bounds, SIZES, width, low, 0.5, spent=a * width)
            assert sharper >= page * (1 - 2 / 256)  # which is cut into cells


def moved(h: np.ndarray, norms: np.ndarray, sigma: float) -> np.ndarray:
    """Where an attacker brings influences h by moving each image by its norm: a half-space attains Phi^-1's bound."""
    return ndtr(ndtri(h) - norms / sigma)


def attacked(h_a: np.ndarray, h_b: np.ndarray, budget: float, sigma: float, steps: int = 400) -> float:
    """F_A - F_b after the greediest attack of a joint norm: step by step where the slopes are steepest."""
    z = np.concatenate([ndtri(h_a), -ndtri(h_b)])  # both kinds are lowered
    z0 = z.copy()
    for step in range(1, steps + 1):
        slope = norm.pdf(z)
        spent = (z0 - z) * sigma
        room = budget * step / steps
        # the step that stays within the joint norm, in the direction of steepest descent
        wanted = spent + slope / max(np.linalg.norm(slope), 1e-300) * budget / steps * 2
        z = z0 - wanted * min(1.0, room / np.linalg.norm(wanted)) / sigma
    value = ndtr(z)
    return float(value[: len(h_a)].sum() - (1 - value[len(h_a) :]).sum())


@pytest.mark.parametrize("shape", ["equal", "spread", "at the touching point or nothing", "all or nothing"])
def test_no_attacker_wins_within_the_radius(shape):
    n, sigma = 60, 0.5
    for seed in range(6):
        rng = np.random.default_rng(seed)
        goal = rng.uniform(0.35, 0.9), rng.uniform(0.02, 0.3)
        h_a, h_b = (influences_with(mean, n, shape, rng) for mean in goal)
        label, _, bounds = known([h_a.mean(), h_b.mean()], np.array([n, n]))
        (radius,) = radius_between(label, bounds, [n, n], 1.0, 0.0, sigma)
        assert label == [0]
        assert attacked(h_a, h_b, radius * 0.9999, sigma) > 0


def influences_with(mean: float, n: int, shape: str, rng: np.random.Generator) -> np.ndarray:
    tiny = 1e-9
    if shape == "equal":
        h = np.full(n, mean)
    elif shape == "spread":
        h = rng.beta(4 * mean, 4 * (1 - mean), n)
    else:
        top = TOUCH if shape.startswith("at") and mean < TOUCH else 1.0
        h = np.where(np.arange(n) < mean / top * n, top, 0.0)
    return np.clip(h, tiny, 1 - tiny)


def test_an_attacker_wins_just_beyond_the_radius_where_all_influences_are_alike():
    n, sigma = 60, 0.5
    label, _, bounds = known([0.7, 0.3], np.array([n, n]))
    (radius,) = radius_between(label, bounds, [n, n], 1.0, 0.0, sigma)
    assert attacked(np.full(n, 0.7), np.full(n, 0.3), radius * 1.01, sigma) < 0
    assert radius == pytest.approx(sigma * math.sqrt(2 * n) * ndtri(0.7), rel=0.01)


def test_and_comes_near_it_where_they_are_at_the_touching_point_or_nothing():
    n, sigma = 400, 0.5
    h_a, h_b = np.full(n, 0.5), influences_with(0.1, n, "at the touching point or nothing", np.random.default_rng(0))
    label, _, bounds = known([0.5, float(h_b.mean())], np.array([n, n]))
    (radius,) = radius_between(label, bounds, [n, n], 1.0, 0.0, sigma)
    assert attacked(h_a, h_b, radius * 1.15, sigma) < 0


def left_after_the_attack(
    h: list[np.ndarray], a: int, b: int, low: float, at_will: dict[str, int], budget: float, sigma: float
) -> float:
    """F_a - F_b after the changes at will that pay most, and moves of this joint norm by half-space classifiers."""
    own, rival, width = np.sort(h[a]), np.sort(h[b])[::-1], 1.0 - low
    held = 0.0
    for _ in range(at_will["relabelled"]):  # from a to b, to the most influence
        if len(own):
            own, held = own[:-1], held - 1.0
        elif len(rival) and low:  # from b to a, to the least
            rival, held = rival[:-1], held + low
    for _ in range(at_will["rewritten"]):
        if len(own) and (not len(rival) or own[-1] > 1 - rival[-1]):
            own, held = own[:-1], held + low
        elif len(rival):
            rival, held = rival[:-1], held - 1.0
    held -= at_will["inserted"]
    moved_sums = attacked(own, rival, budget, sigma) if len(own) or len(rival) else 0.0
    return width * moved_sums + low * (len(own) - len(rival)) + held


@pytest.mark.parametrize(("rewritten", "inserted"), [(0, 0), (3, 0), (0, 2)])
def test_a_class_without_images_wins_just_beyond_the_radius(rewritten, inserted):
    """It has the sum 0: it wins when the images of class A have less than no influence."""
    n, sigma = 60, 0.5
    sizes, h = np.array([n, n, 0]), [np.full(n, 0.65), np.full(n, 0.01), np.empty(0)]
    label, _, bounds = known([0.65, 0.01, 0.0], sizes, 2.0, -1.0)
    spent = 2.0 * rewritten + inserted
    (radius,) = radius_between(label, bounds, sizes, 2.0, -1.0, sigma, spent)
    end = 0.5 + spent / (2 * n)
    assert radius == pytest.approx(sigma * math.sqrt(n) * (ndtri(0.65) - ndtri(end)), rel=1e-6)
    if not spent:  # the costs are those of the worst images, so that the bound is attained without them
        changes = dict.fromkeys(COSTS, 0)
        assert left_after_the_attack(h, 0, 2, -1.0, changes, 1.001 * radius, sigma) < 0
        assert left_after_the_attack(h, 0, 2, -1.0, changes, 0.999 * radius, sigma) > 0
        others = [bound[:, :2] for bound in bounds]
        (without,) = radius_between(label, (others[0], others[1]), sizes[:2], 2.0, -1.0, sigma)
        assert without > 3 * radius  # what it would be if only classes with images could win


def test_a_class_without_images_is_certified_while_every_other_sum_is_below_zero():
    n, sigma = 60, 0.5
    sizes, h = np.array([n, n, 0]), [np.full(n, 0.3), np.full(n, 0.2), np.empty(0)]
    label, margin, bounds = known([0.3, 0.2, 0.0], sizes, 2.0, -1.0)
    (radius,) = radius_between(label, bounds, sizes, 2.0, -1.0, sigma)
    assert label == [2]
    assert counts_left(label, margin, 1.0) == [23]  # 24 images that are added to class 0 make it a tie
    changes = dict.fromkeys(COSTS, 0)
    assert left_after_the_attack(h, 2, 0, -1.0, changes, 0.999 * radius, sigma) > 0
    assert left_after_the_attack(h, 2, 0, -1.0, changes, 1.02 * radius, sigma) < 0


def test_two_classes_without_images_are_never_told_apart():
    label, _, bounds = known([0.3, 0.0, 0.0], np.array([60, 0, 0]), 2.0, -1.0)
    assert label == [ABSTAIN]
    assert radius_between(label, bounds, [60, 0, 0], 2.0, -1.0, 0.5) == [0]


def test_a_rival_is_not_forgotten_by_rounding_in_a_very_large_set():
    """Its one image has all influence already, so that only A's images need move; the third class is far below."""
    label, means = np.array([0]), np.array([[0.7, 1.0, 0.0]])
    for n in range(10**8, 10**8 + 20):
        (found,) = radius_between(label, (means, means), [n, 1, n], 2.0, -1.0, 0.5)
        assert found <= 0.5 * math.sqrt(n) * (ndtri(0.7) - ndtri(0.5))


def test_the_line_and_the_isoperimetric_function_meet_without_a_kink():
    assert pytest.approx(norm.pdf(ndtri(TOUCH)) ** 2) == SLOPE * TOUCH
    p = np.linspace(1e-6, 1 - 1e-6, 20_001)
    tail = np.minimum(p, 1 - p)
    envelope = np.where(tail < TOUCH, SLOPE * tail, norm.pdf(ndtri(tail)) ** 2)
    assert (envelope >= norm.pdf(ndtri(p)) ** 2 - 1e-12).all()
    assert (np.diff(envelope, 2) <= 1e-12).all()  # concave
    slopes = np.diff(spread(p)) / np.diff(p)
    middle = np.sqrt(np.interp((p[1:] + p[:-1]) / 2, p, envelope))
    np.testing.assert_allclose(slopes[100:-100], 1 / middle[100:-100], rtol=1e-3)
    np.testing.assert_allclose(spread_inverse(spread(p)), p, atol=1e-12)


def test_class_bounds_are_where_the_divergence_says():
    m, alpha, k = 20, 0.01, 3
    scores = SIZES[None, :] * np.array([[0.6, 0.2, 0.0]])
    lower, upper = class_bounds(scores, SIZES, 1.0, 0.0, m, alpha)

    def kl(q: float, p: float) -> float:
        return q * math.log(q / p) + (1 - q) * math.log((1 - q) / (1 - p))

    for c, q in ((0, 0.6), (1, 0.2)):
        strength = math.log(2 * k / alpha) / (m * SIZES[c])
        assert lower[0, c] == pytest.approx(brentq(lambda p, q=q, s=strength: kl(q, p) - s, 1e-9, q), abs=1e-8)
        assert upper[0, c] == pytest.approx(brentq(lambda p, q=q, s=strength: kl(q, p) - s, q, 1 - 1e-9), abs=1e-8)
        assert lower[0, c] < q < upper[0, c]
    assert lower[0, 2] == 0 < upper[0, 2]


@pytest.mark.parametrize(("sides", "least"), [("one", 0), ("two", -STEPS)])
def test_rounding_never_makes_a_lead_of_a_tie(sides, least):
    rng = np.random.default_rng(0)
    for sizes in filled(rng.integers(1, 2000, (300, 2))):
        tied = int(rng.integers(least * sizes.min(), STEPS * sizes.min()))
        found = influenced({0: np.array([[tied, tied]])}, 1, 1, sizes.tolist(), sides, 0.0, 0.01)
        assert (found.label[0], found.margin[0, 1] <= 0) == (ABSTAIN, True)


def test_without_noise_nothing_is_left_to_chance():
    sums = {0: STEPS * np.array([[40, 10, 5]])}
    found = influenced(sums, 1, 1, [50, 50, 50], "one", 0.0, 1e-9)
    assert found.label == [0]
    assert found.margin[0].tolist() == [math.inf, 30, 35]
    assert {way: found.counts(way).tolist() for way in COSTS} == {
        "rewritten": [29],
        "relabelled": [14],
        "inserted": [29],
    }
    assert found.radius() == [0]


@pytest.mark.parametrize("sides", ["one", "two"])
def test_a_missing_draw_is_the_worst_that_it_could_have_been(sides):
    rng, m, sizes = np.random.default_rng(2), 6, [30, 40]
    least = -STEPS if sides == "two" else 0
    sums = {d: np.stack([rng.integers(0, n * STEPS, 8) for n in sizes], axis=1) for d in range(m)}
    little = sizes[1] * least // 2  # of two sides, less than nothing
    sums = {d: np.where([True, False], np.maximum(own, 25 * STEPS), own // 4 + little) for d, own in sums.items()}
    lost = {d: own for d, own in sums.items() if d != 3}
    worst = np.tile([sizes[0] * least, sizes[1] * STEPS], (8, 1))
    found, filled = (influenced(own, m, 8, sizes, sides, 0.5, 0.01) for own in (lost, {**lost, 3: worst}))
    certified = found.label == 0
    np.testing.assert_allclose(found.bounds[0][:, 0], filled.bounds[0][:, 0], atol=1e-8)
    np.testing.assert_allclose(found.bounds[1][:, 1], filled.bounds[1][:, 1], atol=1e-8)
    np.testing.assert_allclose(found.radius()[certified], filled.radius()[certified], atol=1e-6)
    whole = influenced(sums, m, 8, sizes, sides, 0.5, 0.01)
    assert certified.any()
    assert (whole.radius() >= found.radius()).all()


def test_counts_are_the_most_that_no_rewriting_can_beat():
    label, margin, _ = known([0.5, 0.3, 0.1], SIZES)
    (a,) = counts_left(label, margin, 1.0)
    left = 0.5 * 300 - 0.3 * 300
    assert a < left <= a + 1
    assert counts_left(label, margin, 2.0) == [math.ceil(left / 2) - 1]


def test_rewritten_images_and_moves_are_paid_from_one_margin():
    label, margin, bounds = known([0.6, 0.2, 0.1], SIZES)
    (most,) = counts_left(label, margin, 1.0)
    reach = [radius_between(label, bounds, SIZES, 1.0, 0.0, 1.0, spent=float(a))[0] for a in (0, 20, most, most + 1)]
    assert reach[0] > reach[1] > reach[2] > 0 == reach[3]


@pytest.mark.parametrize("number", [-1, 0.5, True])
def test_a_number_of_images_that_is_none_is_refused(number):
    found = influenced({0: STEPS * np.array([[40, 10]])}, 1, 1, [50, 50], "one", 0.5, 0.01)
    for way in COSTS:
        with pytest.raises(InputError, match=f"{way}={number} is not a number of images; give 0 or more"):
            found.radius(**{way: number})


def test_noise_that_is_not_ideal_costs_its_distance():
    scores = SIZES[None, :] * np.array([[0.6, 0.2, 0.1]])
    plain, off = (class_bounds(scores, SIZES, 1.0, 0.0, 20, 0.01, distance=d) for d in (0.0, 3.0))
    np.testing.assert_allclose(plain[0] - off[0], 3.0 / SIZES[None, :], atol=1e-6)
    np.testing.assert_allclose(off[1] - plain[1], 3.0 / SIZES[None, :], atol=1e-6)
    _, exact = score_margins(scores, SIZES, 1.0, 20, 0.01)
    _, lowered = score_margins(scores, SIZES, 1.0, 20, 0.01, distance=3.0)
    np.testing.assert_allclose(exact[0, 1:] - lowered[0, 1:], 3.0)


@pytest.mark.parametrize(
    ("sums", "words"),
    [
        ({5: np.zeros((2, 2), np.int64)}, "draw 5 is not in the plan of draws 0..4"),
        ({0: np.zeros((3, 2), np.int64)}, "draw 0 has sums of shape (3, 2); the plan's have (2, 2)"),
        ({0: np.full((2, 2), 11 * STEPS)}, "a sum that its class's images cannot reach"),
        ({0: np.full((2, 2), -1)}, "a sum that its class's images cannot reach"),
    ],
)
def test_sums_that_cannot_be_are_refused(sums, words):
    with pytest.raises(InputError, match=words.replace("(", r"\(").replace(")", r"\)")):
        influenced(sums, 5, 2, [10, 10], "one", 0.5, 0.01)
