"""Sums of bounded influences, held against every attacker of small sets, and against attackers that move images.

Without noise every set that an attacker can make is made: images with the least, a middle and the most influence, under
every label. With noise, attackers search for the moves that lower a lead most, and the page's formula is computed in
another way. The oracles use nothing of the product but the function under test.
"""

import math
from dataclasses import replace
from functools import cache
from itertools import combinations, product

import numpy as np
import pytest
import torch
from filled import filled
from models_recipes import PLAN
from scipy import stats
from scipy.special import ndtr, ndtri

from cleanlabel.models.answers import answers
from cleanlabel.models.certificate import ABSTAIN
from cleanlabel.models.influence import class_bounds, margins, radius_between, radius_left, score_margins
from cleanlabel.models.influenced import Influenced, influenced
from cleanlabel.models.instrument import Features, Instrument
from cleanlabel.models.sums import STEPS, Sides

CLASSES = 3
VALUES = {"one": (0, 1, 2), "two": (-2, 0, 2)}
"""Influences in halves of the most: the least, a middle one and the most."""
Images = tuple[tuple[int, int], ...]
"""A set: (class, influence in halves) of each image, sorted."""
CHANGES = list(product(range(CLASSES), repeat=3))


def sums_of(images: Images) -> list[int]:
    """Each class's sum, in halves: exactly 0 for a class without images."""
    return [sum(value for label, value in images if label == c) for c in range(CLASSES)]


def answer(images: Images) -> int:
    """The class of the largest sum, ties to the smaller class."""
    sums = sums_of(images)
    return sums.index(max(sums))


@cache
def one_change(images: Images, way: str, sides: Sides) -> frozenset[Images]:
    """Every set that one change of this way makes of these images, with influences of VALUES.

    rewritten: each image, to each value. relabelled: each image, to each value under each label. inserted: each image
    removed, and one added with each value under each label.
    """
    found = []
    for i, (label, _) in enumerate(images):
        rest = images[:i] + images[i + 1 :]
        labels = {"rewritten": [label], "relabelled": range(CLASSES), "inserted": []}[way]
        found += [(*rest, (c, value)) for c in labels for value in VALUES[sides]]
        found += [rest] if way == "inserted" else []
    if way == "inserted":
        found += [(*images, (c, value)) for c in range(CLASSES) for value in VALUES[sides]]
    return frozenset(tuple(sorted(one)) for one in found)


def every_set(start: frozenset[Images], way: str, sides: Sides) -> frozenset[Images]:
    """Every set that one more change of this way makes of any of these; no change is one too."""
    return start.union(*(one_change(images, way, sides) for images in start))


def least_to_win(images: Images, way: str, sides: Sides, most: int) -> int:
    """The least number of changes of this way after which some set has another answer; most + 1 if none has."""
    reached = frozenset([images])
    for changes in range(1, most + 1):
        reached = every_set(reached, way, sides)
        if any(answer(one) != answer(images) for one in reached):
            return changes
    return most + 1


def certified(images: Images, sides: Sides) -> Influenced:
    """The product's answer, without noise: one draw, whose sums are those of these images."""
    sums = np.array([sums_of(images)], dtype=np.int64) * (STEPS // 2)
    return influenced({0: sums}, 1, 1, sizes_of(images), sides, 0.0, 0.01)


def sizes_of(images: Images) -> list[int]:
    return [sum(label == c for label, _ in images) for c in range(CLASSES)]


def small_sets(sides: Sides, how_many: int) -> list[Images]:
    """Random sets of up to 6 images: most of one class, others of few images or none, many with ties."""
    generator = np.random.default_rng(7)
    found = []
    for _ in range(how_many):
        n = int(generator.integers(1, 7))
        labels = generator.choice(CLASSES, n, p=generator.permutation([0.8, 0.15, 0.05]))
        chances = np.where(labels == np.bincount(labels).argmax(), 0.75, 0.2)
        values = [generator.choice(VALUES[sides], p=[(1 - p) * 2 / 3, (1 - p) / 3, p]) for p in chances]
        found.append(tuple(sorted(zip(labels.tolist(), (int(v) for v in values), strict=True))))
    return found


def worst_set(top: int, rival: int, sides: Sides) -> Images:
    """A set in which each change can cost all that a change can: A's images have the most influence, b's the least."""
    least, middle, most = VALUES[sides]
    return tuple(
        sorted([(top, most)] * 5 + [(top, 1 if sides == "one" else middle)] + [(rival, least)] * (sides == "one"))
    )


@pytest.mark.parametrize("sides", ["one", "two"])
@pytest.mark.parametrize("way", ["rewritten", "relabelled", "inserted"])
def test_no_set_within_the_count_has_another_answer(way, sides):
    counted = []
    for images in filled(small_sets(sides, 80)):
        found = certified(images, sides)
        (count,), (label,) = found.counts(way).tolist(), found.label.tolist()
        tied = sorted(sums_of(images))[-1] == sorted(sums_of(images))[-2]
        assert label == (ABSTAIN if tied else answer(images))
        if count:
            assert least_to_win(images, way, sides, count) == count + 1, images
        counted.append(count)
    assert sum(count > 0 for count in counted) > 20
    assert max(counted) >= 2


@pytest.mark.parametrize("sides", ["one", "two"])
@pytest.mark.parametrize("way", ["rewritten", "relabelled", "inserted"])
@pytest.mark.parametrize(("top", "rival"), [(1, 0), (0, 1), (2, 1)])
def test_one_more_change_than_the_count_wins_where_each_costs_all_that_it_can(way, sides, top, rival):
    images = worst_set(top, rival, sides)
    found = certified(images, sides)
    (count,) = found.counts(way).tolist()
    lead = (sums_of(images)[top] - max(own for c, own in enumerate(sums_of(images)) if c != top)) / 2
    only_a_tie = (count + 1) * found.cost(way) == lead and top < rival  # which the smaller class wins
    assert least_to_win(images, way, sides, count + 2) == count + 1 + only_a_tie


@pytest.mark.parametrize("sides", ["one", "two"])
def test_no_mixture_of_changes_wins_while_a_radius_is_left(sides):
    """All of (rewritten, relabelled, inserted) up to two each: a radius is left only if no set has another answer."""
    left, lost, tiny = 0, 0, 1e-12
    for images in [worst_set(1, 0, sides), worst_set(2, 1, sides), *small_sets(sides, 12)]:
        found = replace(certified(images, sides), sigma=0.5)
        if found.label[0] == ABSTAIN:
            continue
        for changes in CHANGES:
            if sum(changes) > 3:
                continue
            reached = frozenset([images])
            for way, times in zip(("rewritten", "relabelled", "inserted"), changes, strict=True):
                for _ in range(times):
                    reached = every_set(reached, way, sides)
            wins = any(answer(one) != answer(images) for one in reached)
            page = radius_left(found.label, found.margin, sizes_of(images), found.width, 1.0, 0.5, *changes)
            assert not (wins and max(found.radius(*changes)[0], page[0]) > tiny), (images, changes)
            if images in (worst_set(1, 0, sides), worst_set(2, 1, sides)):
                assert wins == (page[0] < tiny) == (found.radius(*changes)[0] < tiny)
            left, lost = left + (not wins), lost + wins
    assert left > 20
    assert lost > 20


def test_no_rewriting_of_features_wins_against_a_head_with_a_threshold():
    """Every rewriting of the features of every choice of images, within the count, through the head itself."""
    generator = np.random.default_rng(3)
    sample = np.linspace(-1, 1, 21, dtype=np.float32)[:, None]
    head = Instrument("instrumental", "one", 0.8, np.eye(1), np.zeros(1), np.zeros(1), sample, threshold=0.5)
    asked, features = torch.ones((1, 1)), [-math.inf, -1.0, 0.0, 0.45, math.inf, math.nan]
    counted = []
    for _ in range(8):
        labels = np.array([1, 1, 1, *generator.integers(0, 2, 3)])
        rows = np.where(labels == 1, generator.uniform(0.3, 0.9, 6), generator.uniform(-0.5, 0.4, 6))
        held = np.clip(rows.astype(np.float16).astype(float) / 0.6, 0, 1)  # from the median, 0, to the .8 quantile, .6
        own = [held[labels == c].sum() for c in (0, 1)]

        def sums(rows: np.ndarray, labels: np.ndarray = labels) -> np.ndarray:
            return head.class_sums(Features(torch.tensor(rows)[:, None]), labels, 2, asked)

        assert sums(rows)[0] / STEPS == pytest.approx(own, abs=6e-4)
        found = influenced({0: sums(rows)}, 1, 1, np.bincount(labels, minlength=2).tolist(), "one", 0.0, 0.01)
        (count,) = found.counts("rewritten").tolist()
        counted.append(count)
        for chosen in filled(combinations(range(6), min(count, 2))):
            for new in filled(product(features, repeat=len(chosen))):
                changed = rows.copy()
                changed[list(chosen)] = new
                assert sums(changed)[0].argmax() == found.vote[0]
    assert max(counted) >= 2


def concave_hull(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The least concave function above (x, y), at x: a corner below the line between its neighbours is left out."""
    kept: list[int] = []
    for i in range(len(x)):
        while len(kept) > 1 and (y[kept[-1]] - y[kept[-2]]) * (x[i] - x[kept[-2]]) <= (y[i] - y[kept[-2]]) * (
            x[kept[-1]] - x[kept[-2]]
        ):
            kept.pop()
        kept.append(i)
    return np.interp(x, x[kept], y[kept])


@cache
def own_spread() -> tuple[np.ndarray, np.ndarray]:
    """(p, S(p)): S' = 1/sqrt(C) summed with p = sin^2, which takes the infinite slopes at 0 and 1 away."""
    angle = np.linspace(0, math.pi / 2, 20_001)
    p = np.sin(angle) ** 2
    hull = concave_hull(p, stats.norm.pdf(ndtri(p)) ** 2)
    middle = (angle[1:] + angle[:-1]) / 2
    slope = np.sin(2 * middle) / np.sqrt(np.interp(np.sin(middle) ** 2, p, hull))
    s = np.concatenate([[0], np.cumsum(slope * np.diff(angle))])
    return p, s - s[len(s) // 2]


def own_radius(p_a: float, p_b: float, n_a: int, n_b: int, width: float, low: float, spent: float) -> float:
    """The page's formula at sigma = 1: the least norm over 40,001 ends of A's mean, each with the end of b's."""
    p, s = own_spread()

    def at(mean: np.ndarray | float) -> np.ndarray:
        return np.interp(mean, p, s)

    if width * (n_a * p_a - n_b * p_b) + low * (n_a - n_b) - spent <= 0:
        return 0.0
    u = np.linspace(0, p_a, 40_001)
    needed = (n_a * (width * u + low) - spent) / n_b if n_b else np.where(n_a * (width * u + low) > spent, np.inf, 0)
    v = (needed - low) / width if n_b else needed
    paid_b = np.where(v > 1, np.inf, n_b * np.maximum(at(np.minimum(v, 1)) - at(p_b), 0) ** 2)
    return float(np.sqrt((n_a * (at(p_a) - at(u)) ** 2 + paid_b).min()))


@pytest.mark.parametrize(("width", "low"), [(1.0, 0.0), (2.0, -1.0)])
def test_the_radius_is_the_formula_of_the_page_and_never_above_it(width, low):
    """Class sizes of any kind, none included, and costs of changes at will; cells may only lower the radius."""
    generator = np.random.default_rng(5)
    ratios = []
    for _ in range(150):
        sizes = generator.choice([0, 1, 3, 20, 400], 3)
        means = np.where(sizes > 0, generator.beta(0.6, 0.6, 3), 0.0)
        sums = sizes * (width * means + low)
        top, spent = int(sums.argmax()), float(generator.choice([0.0, 0.5, 1.0, 2.0, 7.0]))
        if sorted(sums)[-1] == sorted(sums)[-2]:
            continue
        radius = radius_between([top], (means[None], means[None]), sizes, width, low, 0.25, spent)[0]
        rivals = [b for b in range(3) if b != top and (sizes[b] or low or spent)]
        if not rivals:  # of one side, moves never bring a sum above 0 to an empty class's 0: without end, said as 0
            assert radius == 0
            continue
        exact = 0.25 * min(own_radius(means[top], means[b], sizes[top], sizes[b], width, low, spent) for b in rivals)
        assert radius <= exact * (1 + 1e-4)
        assert radius >= exact * (1 - 0.02) - 1e-4
        ratios.append(radius / exact if exact else 1.0)
    assert len(ratios) > 100
    assert np.median(ratios) > 0.99


@pytest.mark.parametrize(("width", "low"), [(1.0, 0.0), (2.0, -1.0)])
@pytest.mark.parametrize(("n_a", "n_b"), [(4, 4), (30, 10), (5, 50)])
def test_the_radius_is_the_exact_worst_case_where_all_influences_of_a_class_are_alike(width, low, n_a, n_b):
    """Half-spaces: n alike images, Phi(z) each, fall to Phi(z - r / sqrt(n)) for a joint norm of r, at most.

    The least norm at which the sums are equal is found on a fine grid of A's ends.
    """
    held = 0
    for p_a, p_b in product((0.5, 0.6, 0.75), (0.25, 0.3, 0.45)):
        lead = n_a * (width * p_a + low) - n_b * (width * p_b + low)
        if lead <= 0:
            continue
        means = np.array([[p_a, p_b]])
        (radius,) = radius_between([0], (means, means), [n_a, n_b], width, low, 1.0)
        u = ndtri(p_a) - np.linspace(0, 3, 100_001)
        v = (n_a * (width * ndtr(u) + low) - n_b * low) / (width * n_b)
        ends = (v < 1) & (v > p_b)
        norms = np.sqrt(n_a * (ndtri(p_a) - u) ** 2 + n_b * (ndtri(np.clip(v, p_b, 1 - 1e-12)) - ndtri(p_b)) ** 2)
        best = int(np.argmin(np.where(ends, norms, np.inf)))
        assert radius <= norms[best] * (1 + 1e-6)
        if ndtr(u[best]) > 0.3 and v[best] < 0.7:  # all on the way lies where the envelope is the function itself
            assert radius >= norms[best] * (1 - 1 / 128)
            held += 1
    assert held or n_a != n_b


def attacks(z: np.ndarray, budget: float, generator: np.random.Generator) -> float:
    """The least sum of Phi(z - d) that many attackers find with norms d of joint norm `budget`, one for each image.

    Each starts with its own share of the budget for each image and goes where the sum falls most steeply.
    """
    d = generator.dirichlet(np.full(len(z), 0.3), 40) ** 0.5
    d[:, :] = np.vstack([np.eye(len(z)), d])[:40]
    for _ in range(50):
        slope = stats.norm.pdf(z - d * budget)
        d = d + 0.5 * slope / np.maximum(np.linalg.norm(slope, axis=1, keepdims=True), 1e-300)
        d /= np.linalg.norm(d, axis=1, keepdims=True)
    return float(ndtr(z - d * budget).sum(axis=1).min())


@pytest.mark.parametrize("sides", ["one", "two"])
def test_no_attacker_who_changes_images_at_will_and_moves_the_others_wins_within_the_radius(sides):
    """Small sets of all kinds; every choice of one image to rewrite or relabel, and one to add, before the moves."""
    generator = np.random.default_rng(11)
    low, width = (-1.0, 2.0) if sides == "two" else (0.0, 1.0)
    sigma, tried = 0.5, 0
    for trial in range(24):
        sizes = [int(n) for n in generator.permutation([int(generator.integers(2, 6)), trial % 3, (trial // 3) % 2])]
        h = [generator.beta(0.4, 0.4 if c else 0.2, n) for c, n in enumerate(sizes)]
        h[int(np.argmax(sizes))] = generator.beta(3, 0.4, max(sizes))
        h = [np.clip(own, 1e-6, 1 - 1e-6) for own in h]
        means = np.array([[own.mean() if len(own) else 0.0 for own in h]])
        sums = np.array([(width * own + low).sum() for own in h])
        bounds, scores = (means, means), sums[None]
        label, margin = margins(scores, bounds, np.array(sizes), width, low)
        if (a := int(label[0])) == ABSTAIN:
            continue
        found = Influenced(label, label, scores, margin, bounds, tuple(sizes), sides, sigma)
        for changes in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)):
            (radius,) = found.radius(*changes)
            if not radius:
                continue
            for b in {0, 1, 2} - {a}:
                for own, rival, held in filled(at_will(h[a], h[b], changes, low)):
                    z = np.concatenate([ndtri(own), -ndtri(rival)])  # Phi of the second: what the rival's lack
                    moved = attacks(z, 0.9999 * radius / sigma, generator) if len(z) else 0.0
                    lead = width * (moved - len(rival)) + low * (len(own) - len(rival)) + held
                    assert lead > -1e-9, (trial, changes, b)
                    tried += 1
    assert tried > 100


def at_will(own: np.ndarray, rival: np.ndarray, changes: tuple[int, ...], low: float):
    """Every choice of one image of A or b to change at will: (A's others, b's others, what it adds to the lead)."""
    rewritten, relabelled, inserted = changes
    if not any(changes):
        yield own, rival, 0.0
        return
    for i in range(len(own)):  # it loses all influence; it is b's with the most; it is gone
        yield np.delete(own, i), rival, low if rewritten else -1.0 if relabelled else 0.0
    for i in range(len(rival)):  # it has all influence; it is A's with the least; it is gone
        yield own, np.delete(rival, i), -1.0 if rewritten else low if relabelled else 0.0
    if inserted:
        yield own, rival, -1.0  # b has one more, with all influence


def integral(k, x: np.ndarray, sigma: float) -> np.ndarray:
    """E k(x + sigma z) for each x, summed over 20,001 equally likely z."""
    z = ndtri((np.arange(20_001) + 0.5) / 20_001)
    return np.array([k(one + sigma * z).mean() for one in x])


@pytest.mark.parametrize("kind", ["step", "ramp", "wave"])
def test_no_move_of_images_of_one_pixel_wins_within_the_radius_of_their_integrals(kind):
    """Influences of a real pixel under real noise; many directions of the joint move, all for the wave's slopes."""
    sigma, place = 0.5, np.linspace(-8, 8, 3_001)
    k = {
        "step": lambda x: (x > 0) * 1.0,
        "ramp": lambda x: np.clip(x + 0.5, 0, 1),
        "wave": lambda x: (np.sin(2 * x) + 1) / 2,
    }[kind]
    g = integral(k, place, sigma)
    generator = np.random.default_rng(2)
    for n_a, n_b in ((2, 2), (3, 1), (1, 0)):
        at = np.array([0.35] * n_a + [-0.35] * n_b)
        start = np.interp(at, place, g)
        bounds = (np.array([[start[:n_a].mean(), start[n_a:].mean() if n_b else 0.0]]),) * 2
        (radius,) = radius_between([0], bounds, [n_a, n_b], 2.0, -1.0, sigma)
        straight = np.array([-1.0] * n_a + [1.0] * n_b)
        way = np.vstack([straight, generator.normal(size=(4_000, n_a + n_b)), straight * generator.random((4_000, 1))])
        way /= np.linalg.norm(way, axis=1, keepdims=True)

        def leads(norm: float, way=way, at=at, n_a=n_a) -> np.ndarray:
            moved = 2 * np.interp(at + norm * way, place, g) - 1
            return moved[:, :n_a].sum(axis=1) - moved[:, n_a:].sum(axis=1)

        assert radius > 0.2
        for share in (0.25, 0.5, 0.75, 0.999):
            assert (leads(share * radius) > 0).all()
        if kind == "step":  # it is the steepest that there is
            assert leads(1.01 * radius).min() < 0


@pytest.mark.parametrize("distance", [0.0, 0.15])
def test_bounds_of_two_classes_are_both_true_but_for_alpha(distance):
    """Every number of times that images have all influence: two of class 0, unlike each other, and one of class 1.

    The drawn noise is `distance` from ideal: it changes a class's sum by so much of one image.
    """
    m, alpha, sizes = 40, 0.1, [2, 1]
    for p in ((0.4, 0.2, 0.2), (0.5, 0.5, 0.5), (0.9, 0.5, 0.05), (0.95, 0.85, 0.6)):
        for sign in (1, -1):
            q = np.clip([p[0] + sign * distance, p[1], p[2] - sign * distance], 0, 1)
            once = [stats.binom(m, chance).pmf(np.arange(m + 1)) for chance in q]
            chance = np.outer(np.convolve(once[0], once[1]), once[2]).ravel()
            seen = np.array(list(product(range(2 * m + 1), range(m + 1))))
            means, sums = np.array([(p[0] + p[1]) / 2, p[2]]), np.array([p[0] + p[1], p[2]])
            lower, upper = class_bounds(seen / m, sizes, 1.0, 0.0, m, alpha, distance=distance)
            assert chance.sum() == pytest.approx(1)
            assert chance[((lower > means) | (upper < means)).any(axis=1)].sum() <= alpha
            label, margin = score_margins(seen / m, sizes, 1.0, m, alpha, distance=2 * distance)
            lead = np.where(seen[:, 0] >= seen[:, 1], sums[0] - sums[1], sums[1] - sums[0])
            assert chance[margin.min(axis=1) > lead].sum() <= alpha
            assert (label != ABSTAIN).any()


def test_missing_draws_are_bounded_as_every_way_in_which_they_could_have_ended():
    m, alpha, missing, sizes = 6, 0.3, 2, [2, 1]
    for seen in product(range((m - missing) * 2 + 1), range(m - missing + 1)):
        scores = np.array([seen]) / m
        lower, upper = class_bounds(scores, sizes, 1.0, 0.0, m, alpha, missing=missing)
        ends = np.array([(seen[0] + i, seen[1] + j) for i in range(2 * missing + 1) for j in range(missing + 1)])
        each = class_bounds(ends / m, sizes, 1.0, 0.0, m, alpha)
        np.testing.assert_allclose(lower[0], each[0].min(axis=0), rtol=0, atol=1e-12)
        np.testing.assert_allclose(upper[0], each[1].max(axis=0), rtol=0, atol=1e-12)


@pytest.mark.parametrize("before", [0, 1, 4])
@pytest.mark.parametrize("simultaneous", [False, True])
def test_sums_are_bounded_at_the_level_of_their_attempt_and_point(before, simultaneous):
    """Chernoff's bound: m n kl(mean, bound) is the logarithm of 2K over the level."""
    m, sizes, n, alpha = 40, (30, 20), 4, 0.01
    plan = replace(
        PLAN,
        m=m,
        sigma=0.5,
        classes=2,
        class_sizes=sizes,
        instrument_digest="public",
        n_test=n,
        alpha=alpha,
        simultaneous=simultaneous,
        noise_distance=0.3,
    )
    sums = np.tile([int(0.7 * 30 * STEPS), int(0.2 * 20 * STEPS)], (n, 1))
    found = answers(plan, before, m, dict.fromkeys(range(m), sums), n).influenced
    assert found is not None
    level = alpha * 0.5**before / (n if simultaneous else 1)  # one ensemble was declared
    for c, mean in enumerate((0.7, 0.2)):
        off = 0.3 / sizes[c]  # the noise's distance changes a draw's sum by as much of one image
        for bound in (found.bounds[0][:, c] + off, found.bounds[1][:, c] - off):
            divergence = mean * np.log(mean / bound) + (1 - mean) * np.log((1 - mean) / (1 - bound))
            assert m * sizes[c] * divergence == pytest.approx(math.log(4 / level), rel=1e-5)
