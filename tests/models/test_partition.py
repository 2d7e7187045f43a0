"""Partitioned smoothing: the exact search, held to all final assignments, to a slow twin and to an adversary."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from cleanlabel.models.blocks import block_of
from cleanlabel.models.certificate import ABSTAIN, certify, radius_beside_a_trigger
from cleanlabel.models.partition import block_certificates, frontier, partition_radius, plurality


def blocks(max_k: int = 6, max_classes: int = 4, least_radius: int = 0, abstain: bool = True):
    """(labels, radii, K) of one test point: quarters, so that squares and their sums are exact, and many are equal."""

    def labelled(shape):
        k, n_classes = shape
        label = st.integers(ABSTAIN if abstain else 0, n_classes - 1)
        radius = st.integers(least_radius, 5).map(lambda quarters: quarters / 4)
        return st.tuples(
            st.lists(label, min_size=k, max_size=k), st.lists(radius, min_size=k, max_size=k), st.just(n_classes)
        )

    return st.tuples(st.integers(1, max_k), st.integers(2, max_classes)).flatmap(labelled)


def single(labels, radii, n_classes: int, free: int = 0) -> tuple[int, float]:
    label, radius = partition_radius([labels], [radii], n_classes, free)
    return int(label[0]), float(radius[0])


def waived(costs: list[float], free: int) -> float:
    return sum(sorted(costs)[: max(len(costs) - free, 0)])


def all_assignments(labels, radii, n_classes: int, free: int) -> float:
    """The cost of the cheapest final assignment of classes to blocks whose plurality is not A. No gap, no worth."""
    k = len(labels)
    A = max(range(n_classes), key=lambda c: (labels.count(c), -c))
    finals = np.array(list(product(range(n_classes), repeat=k)))
    votes = np.stack([(finals == c).sum(axis=1) for c in range(n_classes)], axis=1)
    lost = finals[votes.argmax(axis=1) != A]  # argmax: ties to the smaller class
    changed = (lost != np.array(labels)) & (np.array(labels) != ABSTAIN)  # whatever an abstained block says, it said
    costs = np.sort(np.where(changed, np.array(radii) ** 2, 0.0), axis=1)
    return float(costs[:, : max(k - free, 0)].sum(axis=1).min())


def slow_twin(labels, radii, n_classes: int, free: int = 0) -> tuple[float, int, list[int]]:
    """(R^2, rival, blocks to change) by the definition: every rival and pair of sizes, the dearest waived inside."""
    A = max(range(n_classes), key=lambda c: (labels.count(c), -c))
    by_price = sorted(range(len(labels)), key=lambda j: radii[j])
    best = (np.inf, ABSTAIN, [])
    for B in set(range(n_classes)) - {A}:
        gap = labels.count(A) - labels.count(B) - labels.count(ABSTAIN) + (A < B)
        for_A = [j for j in by_price if labels[j] == A]
        others = [j for j in by_price if labels[j] not in (A, B, ABSTAIN)]
        for s_1, s_2 in product(range(len(for_A) + 1), range(len(others) + 1)):
            if 2 * s_1 + s_2 >= gap:
                chosen = for_A[:s_1] + others[:s_2]
                cost = waived([radii[j] ** 2 for j in chosen], free)
                best = min(best, (cost, B, chosen), key=lambda found: found[0])
    return best


@given(blocks(max_k=14, max_classes=5), st.integers(0, 6))
@settings(max_examples=300, deadline=None)
def test_the_search_is_its_slow_twin(point, free):
    assert single(*point, free)[1] == np.sqrt(slow_twin(*point, free)[0])


def test_all_points_at_once_are_each_point_alone():
    generator = np.random.default_rng(0)
    labels, radii = generator.integers(ABSTAIN, 4, (200, 30)), generator.exponential(size=(200, 30))
    labels[generator.random((200, 30)) < 0.4] = 2
    together = partition_radius(labels, radii, 4, 3)
    for row in range(200):
        alone = single(labels[row].tolist(), radii[row].tolist(), 4, 3)
        assert (together[0][row], together[1][row]) == alone
        assert alone[1] == pytest.approx(np.sqrt(slow_twin(labels[row].tolist(), radii[row].tolist(), 4, 3)[0]))


def test_one_block_is_the_ordinary_certificate():
    counts = np.random.default_rng(0).multinomial(100, [0.8, 0.1, 0.1], size=500)
    counts[:100] = np.random.default_rng(1).multinomial(100, [0.5, 0.3, 0.2], size=100)
    label, radius = certify(counts, 100, 0.5, 0.001)
    joint_label, joint_radius = partition_radius(*block_certificates(counts[None], 100, 0.5, 0.001), 3)
    assert (label == ABSTAIN).any()
    assert np.array_equal(joint_label, label)
    assert np.array_equal(joint_radius, radius)


@given(blocks(max_k=12, max_classes=5, least_radius=1), st.booleans())
def test_the_most_images_tolerated_is_dpas_bound_whatever_the_positive_radii(point, equal):
    labels, radii, n_classes = point
    A = int(np.bincount(np.array(labels) + 1, minlength=n_classes + 1)[1:].argmax())
    dpa = min(
        (labels.count(A) - labels.count(B) - labels.count(ABSTAIN) - (B < A)) // 2 for B in set(range(n_classes)) - {A}
    )
    frees = range(len(labels) + 2)
    label, radius = frontier([labels], [[0.75] * len(labels) if equal else radii], n_classes, frees)
    assert [a for a in frees if radius[a, 0] > 0] == list(range(dpa + 1))  # none at all where it is below 0
    assert ((label[:, 0] == A) == (radius[:, 0] > 0)).all()


def test_worked_cases():
    assert single([0, 0, 0], [1, 2, 3], 2) == (0, pytest.approx(np.sqrt(1 + 4)))  # a tie is class 0's: two must turn
    assert single([1, 1, 1], [1, 2, 3], 2) == (1, pytest.approx(np.sqrt(1 + 4)))
    assert single([0, 0, 1, 1], [1, 2, 3, 4], 2) == (0, 1)
    assert single([0, 0, 1, 2], [3, 3, 1, 1], 3) == (0, 3)  # class 2's block gives class 1 no more than a tie
    assert single([0, 0, 1, 2, 2], [3, 3, 9, 1, 1], 3) == (0, pytest.approx(np.sqrt(2)))  # both of its blocks do
    assert single([1, 1, 0, 2], [3, 3, 1, 1], 3) == (1, 1)  # a tie with the smaller class 0 is lost: 2 goes to it


def test_the_blocks_that_are_for_the_rival_already_have_nothing_to_sell():
    assert single([0, 0, 0, 1, 1], [2, 2, 2, 0.25, 0.25], 2) == (0, 2)


def test_an_abstained_block_counts_for_the_rival_and_its_radius_for_nothing():
    assert single([0, 0, 0, ABSTAIN], [1, 1, 1, 9], 2) == single([0, 0, 0, 1], [1, 1, 1, 9], 2)
    assert single([0, 0, 0, ABSTAIN], [1, 1, 1, 9], 2) == (0, np.sqrt(2))
    assert single([0, 0, ABSTAIN], [1, 1, 0], 2) == (0, 1)
    assert single([0, ABSTAIN, ABSTAIN], [1, 0, 0], 2) == (ABSTAIN, 0)
    assert single([1, ABSTAIN], [1, 0], 2) == (ABSTAIN, 0)  # a tie with class 0
    assert single([0, ABSTAIN], [1, 0], 2) == (0, 1)
    assert single([ABSTAIN] * 3, [0, 0, 0], 3) == (ABSTAIN, 0)
    assert plurality([[ABSTAIN] * 3, [ABSTAIN, 2, 1], [0, 2, 2]], 3).tolist() == [ABSTAIN, 1, 2]


def test_the_dearest_are_waived_inside_the_minimum_and_not_after_it():
    # Two of three must turn. Waived after the minimum (blocks 1 and 2) 1 would be left; and with two free, nothing.
    assert single([1, 1, 1, 1, 1], [1, 2, 3, 4, 5], 2, free=0)[1] == pytest.approx(np.sqrt(1 + 4 + 9))
    assert single([1, 1, 1, 1, 1], [1, 2, 3, 4, 5], 2, free=1)[1] == pytest.approx(np.sqrt(1 + 4))
    assert single([1, 1, 1, 1, 1], [1, 2, 3, 4, 5], 2, free=2) == (1, 1)
    assert single([1, 1, 1, 1, 1], [1, 2, 3, 4, 5], 2, free=3) == (ABSTAIN, 0)
    # The cheapest choice for class 1 is three of the blocks worth 1; a free block goes to one worth 2 outside it.
    labels, radii = [0, 0, 0, 0, 1, 1, 2, 2, 3, 3], [5, 5, 5, 5, 1, 1, 1, 1, 1, 1]
    assert single(labels, radii, 4)[1] == pytest.approx(np.sqrt(3))
    assert single(labels, radii, 4, free=1)[1] == 1


@given(blocks(max_k=12, max_classes=5), st.integers(0, 4), st.randoms())
def test_more_free_blocks_never_help_and_the_order_of_blocks_is_nothing(point, free, random):
    labels, radii, n_classes = point
    label, radius = single(labels, radii, n_classes, free)
    more_label, more_radius = single(labels, radii, n_classes, free + 1)
    assert more_radius <= radius
    assert more_label in (label, ABSTAIN)
    irregular = [r * 1.1 for r in radii]  # sums of these are rounded
    order = random.sample(range(len(labels)), len(labels))
    shuffled = single([labels[j] for j in order], [irregular[j] for j in order], n_classes, free)
    assert shuffled == single(labels, irregular, n_classes, free)


@given(blocks(max_k=10, max_classes=4), st.integers(0, 3), st.data())
def test_a_larger_block_radius_never_shrinks_the_joint_one(point, free, data):
    labels, radii, n_classes = point
    j = data.draw(st.integers(0, len(labels) - 1))
    larger = [r + 0.5 * (i == j) for i, r in enumerate(radii)]
    assert single(labels, larger, n_classes, free)[1] >= single(labels, radii, n_classes, free)[1]


def test_the_frontier_is_partition_radius_at_every_number_of_free_blocks():
    generator = np.random.default_rng(0)
    labels, radii = np.maximum(generator.integers(-3, 3, (50, 20)), ABSTAIN), generator.random((50, 20))
    labels[:, :12] = 1
    label, radius = frontier(labels, radii, 3, [4, 0, 2])
    assert label.shape == radius.shape == (3, 50)
    for row, a in enumerate([4, 0, 2]):
        alone = partition_radius(labels, radii, 3, a)
        assert np.array_equal(label[row], alone[0])
        assert np.array_equal(radius[row], alone[1])


class HalfSpaces:
    """Blocks of three one-pixel images each whose smoothed answer is known: c_j until their mean has moved by a margin.

    As in test_analytic: the learner compares the noised block's mean with a threshold, p is a normal distribution
    function and R_j = margin * sqrt(3) exactly. Past the threshold (and, where abstained, at once) the block answers
    what the attacker likes best, which is all that its certificate leaves open.
    """

    SIZE, SIGMA = 3, 0.5

    def __init__(self, labels, margins):
        self.labels, self.margins = np.array(labels), np.array(margins)
        p = stats.norm.cdf(self.margins * np.sqrt(self.SIZE) / self.SIGMA)
        self.radii = np.where(self.labels == ABSTAIN, 0.0, self.SIGMA * stats.norm.ppf(p))

    def answer(self, delta, rival: int, n_classes: int, rewritten=()) -> int:
        shift = -delta.reshape(-1, self.SIZE).mean(axis=1)
        turned = (self.labels == ABSTAIN) | (self.margins - shift < 0)
        turned[list(rewritten)] = True
        return int(np.bincount(np.where(turned, rival, self.labels), minlength=n_classes).argmax())


@pytest.mark.parametrize("free", [0, 1, 2])
@pytest.mark.parametrize("seed", range(6))
def test_an_adversary_just_inside_the_radius_never_wins_and_one_just_outside_does(seed, free):
    generator = np.random.default_rng(seed)
    n_classes, k = int(generator.integers(2, 5)), 11
    labels = np.where(generator.random(k) < 0.7, 1, generator.integers(ABSTAIN, n_classes, k))
    labels[:8] = np.where(seed % 2, 1, labels[:8])
    world = HalfSpaces(labels, generator.uniform(0.05, 0.4, k))
    A, radius = single(labels.tolist(), world.radii.tolist(), n_classes, free)
    cost, rival, chosen = slow_twin(labels.tolist(), world.radii.tolist(), n_classes, free)
    rewritten = sorted(chosen, key=lambda j: -world.radii[j])[:free]
    paid = [j for j in chosen if j not in rewritten]
    assert radius == pytest.approx(np.sqrt(cost))

    attack = np.zeros((k, world.SIZE))
    attack[paid] = -world.radii[paid, None] / np.sqrt(world.SIZE)  # all images of a block alike: the best there is
    if A == ABSTAIN:
        assert world.answer(attack, rival, n_classes, rewritten) != plurality([labels], n_classes)[0]
        return
    assert np.linalg.norm(attack) == pytest.approx(radius)
    assert world.answer(attack * (1 + 1e-6), rival, n_classes, rewritten) == rival
    for other in set(range(n_classes)) - {A}:
        assert world.answer(attack * (1 - 1e-6), other, n_classes, rewritten) == A
        for _ in range(200):
            # Random blocks given away, and a random direction weighed to few or many of the other blocks.
            given_away = generator.choice(k, free, replace=False)
            weights = generator.exponential(size=(k, 1)) ** generator.integers(0, 6)
            best = -np.ones((k, world.SIZE)) * world.radii[:, None] if generator.random() < 0.5 else -weights
            direction = best * weights + 0.1 * generator.normal(size=(k, world.SIZE)) * weights
            direction[given_away] = 0.0  # changed without limit already
            delta = direction / np.linalg.norm(direction) * radius * (1 - 1e-6)
            assert world.answer(delta, other, n_classes, given_away) == A


def test_block_certificates_are_certify_at_a_kth_of_the_level():
    counts = np.random.default_rng(0).multinomial(60, [0.85, 0.1, 0.05], size=(7, 40))
    labels, radii = block_certificates(counts, 60, 0.25, 0.01)
    assert labels.shape == radii.shape == (40, 7)
    for j in range(7):
        label, radius = certify(counts[j], 60, 0.25, 0.01 / 7)
        assert np.array_equal(labels[:, j], label)
        assert np.array_equal(radii[:, j], radius)


def test_all_blocks_certificates_are_true_at_once_with_probability_one_minus_alpha():
    # Blocks whose true p, hence radius, is known. Without the division by k this would not hold.
    m, alpha, trials = 100, 0.05, 20_000
    p = np.array([[0.8, 0.2], [0.85, 0.15], [0.7, 0.3], [0.65, 0.35], [0.505, 0.495], [0.9, 0.1]])
    generator = np.random.default_rng(3)
    counts = np.stack([generator.multinomial(m, p_j, size=trials) for p_j in p])
    limits = stats.norm.ppf(p.max(axis=1))

    def any_false(labels, radii):
        return ((labels != ABSTAIN) & ((labels != 0) | (radii > limits))).any(axis=1)

    labels, radii = block_certificates(counts, m, 1.0, alpha)
    false = any_false(labels, radii)
    assert stats.binomtest(int(false.sum()), trials, alpha, alternative="greater").pvalue > 1e-4
    each_at_alpha = [certify(rows, m, 1.0, alpha) for rows in counts]
    assert any_false(*(np.stack(columns, axis=1) for columns in zip(*each_at_alpha, strict=True))).mean() > 1.2 * alpha

    for free in (0, 1):
        label, radius = partition_radius(labels, radii, 2, free)
        limit = single([0] * 6, limits.tolist(), 2, free)[1]
        assert not (((label == 1) | (radius > limit)) & ~false).any()  # past the blocks nothing is left to chance
        assert (label == 0).mean() > 0.5


def test_k_blocks_reach_past_the_limit_of_one_ensemble():
    # The limit of one ensemble is sigma * Phi^-1((alpha/2)**(1/m)) however unanimous it is; blocks cost the same.
    k, m, unanimous = 10, 100, [[100, 0]]
    one = certify(unanimous, m, 0.25, 0.001)[1][0]
    assert one == pytest.approx(0.363, abs=5e-4)
    labels, radii = block_certificates([unanimous] * k, m, 0.25, 0.001)
    assert radii[0] == pytest.approx([certify(unanimous, m, 0.25, 0.0001)[1][0]] * k)
    label, radius = frontier(labels, radii, 2, range(7))
    # Class 0 of ten blocks keeps a tie: six must turn, and each image rewritten at will gives one of them away.
    assert radius[:, 0] == pytest.approx(radii[0, 0] * np.sqrt(range(6, -1, -1)))
    assert label[:, 0].tolist() == [0] * 6 + [ABSTAIN]
    assert radius[0, 0] > 2 * one


@pytest.mark.parametrize(("k", "of_a_block", "joint"), [(1, 1.452, 1.452), (10, 1.315, 2.940), (100, 1.201, 8.491)])
def test_the_ceilings_in_the_docs(k, of_a_block, joint):
    labels, radii = block_certificates([[[0, 100]]] * k, 100, 1.0, 0.001)
    assert radii[0] == pytest.approx([of_a_block] * k, abs=5e-4)
    label, radius = partition_radius(labels, radii, 2)
    assert (label[0], radius[0]) == (1, pytest.approx(joint, abs=5e-4))
    assert radius[0] == pytest.approx(radii[0, 0] * np.sqrt(np.ceil(k / 2)))


@given(blocks(max_k=6, max_classes=3, least_radius=1), st.integers(0, 1), st.integers(0, 30))
@settings(max_examples=150, deadline=None)
def test_a_test_input_moved_by_a_given_norm_lowers_every_blocks_radius_first(point, free, quarters):
    # ||omega||^2/sigma_x^2 = w is paid once and lowers the price of all blocks, to R_j^2/sigma^2 - w or to nothing.
    labels, radii, n_classes = point
    sigma, sigma_x, w = 0.5, 0.25, quarters / 4
    left = radius_beside_a_trigger(radii, sigma, sigma_x, sigma_x * np.sqrt(w))
    prices = np.maximum((np.array(radii) / sigma) ** 2 - w, 0.0)
    expected = sigma * np.sqrt(all_assignments(labels, np.sqrt(prices).tolist(), n_classes, free))
    assert single(labels, left.tolist(), n_classes, free)[1] == pytest.approx(expected, abs=1e-7)


@given(blocks(max_k=6, max_classes=3), st.integers(0, 1))
@settings(max_examples=60, deadline=None)
def test_one_budget_for_input_and_images_together_buys_the_dearest_block_of_the_cheapest_choice(point, free):
    # min over w of w + sum max(r_j^2 - w, 0) is max r_j^2: moving the input alone by that much turns all of them.
    labels, radii, n_classes = point
    spent = []
    for w in sorted({0.0, *(r**2 for r in radii)}):  # linear between these, so the least is at one of them
        left = np.sqrt(np.maximum(np.array(radii) ** 2 - w, 0.0))
        spent.append(w + all_assignments(labels, left.tolist(), n_classes, free))
    bottleneck = min(
        r for r in {0.0, *radii} if all_assignments(labels, [float(x > r) for x in radii], n_classes, free) == 0
    )
    assert min(spent) == pytest.approx(bottleneck**2, abs=1e-12)


IDS = [f"{c}/{i:05d}.png" for c in ("cat", "dog") for i in range(5000)]


def test_blocks_are_disjoint_cover_all_and_are_even():
    block = block_of(IDS, 20)
    assert block.shape == (len(IDS),)
    assert set(block.tolist()) == set(range(20))
    assert stats.chisquare(np.bincount(block, minlength=20)).pvalue > 1e-4
    for c in range(2):  # of each class too: ids start with its name
        assert stats.chisquare(np.bincount(block[c * 5000 : (c + 1) * 5000], minlength=20)).pvalue > 1e-4
    assert block_of([str(i) for i in range(100)], 1).tolist() == [0] * 100
    assert block_of([], 5).shape == (0,)


def test_a_block_depends_on_the_id_alone():
    block = dict(zip(IDS, block_of(IDS, 7), strict=True))
    fewer = [*IDS[:10], "another", *IDS[20:4000:3]][::-1]  # some removed, one added, another order
    assert [block[i] for i in fewer if i in block] == [
        b for i, b in zip(fewer, block_of(fewer, 7), strict=True) if i in block
    ]
    # The rule is part of every plan that used it: these may never change.
    assert block_of(["0", "1", "2", "cat/00000.png", "katze/ü.png"], 10).tolist() == [6, 0, 0, 6, 4]


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: block_of(["a"], 0), "k=0"),
        (lambda: block_certificates([[3, 0]], 3, 1.0, 0.1), "shape"),
        (lambda: block_certificates(np.zeros((0, 4, 2), int), 3, 1.0, 0.1), "shape"),
        (lambda: block_certificates(np.zeros((2, 4, 2), int), 3, 1.0, 1.5), "alpha=1.5"),
        (lambda: partition_radius([[0]], [[1.0]], 1), "n_classes=1"),
        (lambda: partition_radius([[0]], [[1.0, 2.0]], 2), "must both be"),
        (lambda: partition_radius([0], [1.0], 2), "must both be"),
        (lambda: partition_radius(np.zeros((3, 0), int), np.zeros((3, 0)), 2), "must both be"),
        (lambda: partition_radius([[0.5]], [[1.0]], 2), "must be integers"),
        (lambda: partition_radius([[2]], [[1.0]], 2), "labels 2..2"),
        (lambda: partition_radius([[-2]], [[1.0]], 2), "labels -2..-2"),
        (lambda: partition_radius([[0]], [[-1.0]], 2), "negative or not finite"),
        (lambda: partition_radius([[0]], [[np.nan]], 2), "negative or not finite"),
        (lambda: partition_radius([[0]], [[1.0]], 2, free=-1), "free=-1"),
    ],
)
def test_what_makes_no_sense_is_refused(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()
