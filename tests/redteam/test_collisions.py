"""Poison Frogs, Convex Polytope and Bullseye Polytope: features are brought to where the target's are."""

import numpy as np
import pytest
import torch
from redteam_sets import RECIPE, digit_extractor, digit_sets, digit_target
from scipy.optimize import minimize

from benchmarks.crafting import published
from cleanlabel.redteam.attacks.bullseye_polytope import BullseyePolytope
from cleanlabel.redteam.attacks.convex_polytope import ConvexPolytope, nearest_mixture, on_simplex
from cleanlabel.redteam.attacks.crafting import features, pixels_of
from cleanlabel.redteam.attacks.poison_frogs import PoisonFrogs
from cleanlabel.redteam.threat.attacker import Budget, Knowledge, Poisons, Target
from cleanlabel.redteam.threat.victims import Victim, answers

ATTACKS = {
    "frogs": PoisonFrogs(steps=60),
    "convex": ConvexPolytope(steps=60),
    "bullseye": BullseyePolytope(steps=60),
}
BUDGETS = {"linf": Budget(12, 96 / 255), "l2": Budget(12, 2.0, "l2")}


def craft(name: str, goal: Target, budget: Budget = BUDGETS["linf"], seed: int = 0, networks: int = 1) -> Poisons:
    known = Knowledge(tuple(digit_extractor(i) for i in range(networks)), digit_sets()["raw"])
    return ATTACKS[name].craft(goal, known, budget, seed)


@pytest.mark.parametrize("norm", BUDGETS)
@pytest.mark.parametrize("name", ATTACKS)
def test_the_objective_falls_within_the_budget(name, norm):
    poisons = craft(name, digit_target(), BUDGETS[norm])
    assert poisons.within(BUDGETS[norm])
    assert poisons.history[-1] < 0.5 * poisons.history[0]
    assert (digit_sets()["raw"].labels[poisons.rows] == digit_target().intended).all()


@pytest.mark.parametrize("name", ATTACKS)
def test_two_targets_give_different_poisons_and_the_same_one_the_same(name):
    first = digit_target()
    other = next(t for t in map(digit_target, range(1, 300)) if t.intended == first.intended)
    one, again, another = craft(name, first), craft(name, first), craft(name, other)
    assert (one.images == again.images).all()
    assert (one.rows == another.rows).all()
    assert (one.images != another.images).any()


@pytest.mark.parametrize("name", ATTACKS)
def test_the_poisons_come_nearer_to_their_own_target_than_to_another(name):
    first = digit_target()
    other = next(t for t in map(digit_target, range(1, 300)) if t.intended == first.intended)

    def distance(poisons: Poisons, target: Target) -> float:
        network = digit_extractor()
        with torch.no_grad():
            found, aim = (features(network, pixels_of(x)) for x in (poisons.images, target.image[None]))
        uniform = torch.full((len(found),), 1 / len(found))
        mixture = nearest_mixture(found, aim[0], uniform, 1e-6, 10000) if name == "convex" else uniform
        return float((mixture @ found - aim[0]).norm() / aim.norm())

    for own, not_own in ((first, other), (other, first)):
        poisons = craft(name, own)
        assert distance(poisons, own) < distance(poisons, not_own)


def test_a_head_that_fits_bullseye_poisons_gives_the_target_their_answer():
    raw, budget = digit_sets()["raw"], Budget(20, 128 / 255)
    victim = Victim("transfer", RECIPE, 10, raw.image_shape, digit_extractor())
    clean = victim.trained(raw.images, raw.labels, 0)
    taken = []
    for number in range(5):
        goal = digit_target(number)
        assert answers(clean, goal.image[None])[0] == goal.label
        poisons = BullseyePolytope(steps=100).craft(goal, Knowledge((digit_extractor(),), raw), budget, number)
        poisoned = poisons.injected(raw)
        network = victim.trained(poisoned.images, poisoned.labels, 0)
        taken.append(int(answers(network, goal.image[None])[0]) == goal.intended)
    assert sum(taken) >= 4


@pytest.mark.parametrize(
    ("attack", "budget"),
    [(PoisonFrogs(steps=60), Budget(20, 128 / 255)), (ConvexPolytope(steps=60, rate=0.03), Budget(30, 220 / 255))],
)
def test_the_other_two_succeed_where_the_budget_is_wide(attack, budget):
    raw = digit_sets()["raw"]
    victim = Victim("transfer", RECIPE, 10, raw.image_shape, digit_extractor())
    taken = []
    for number in range(5):
        goal = digit_target(number)
        poisoned = attack.craft(goal, Knowledge((digit_extractor(),), raw), budget, number).injected(raw)
        network = victim.trained(poisoned.images, poisoned.labels, 0)
        taken.append(int(answers(network, goal.image[None])[0]) == goal.intended)
    assert sum(taken) >= 3


def test_several_known_networks_are_all_collided_with():
    goal = digit_target()
    poisons = craft("bullseye", goal, networks=3)
    for i in range(3):
        net = digit_extractor(i)
        aim = features(net, pixels_of(goal.image[None]))
        clean = (features(net, pixels_of(poisons.base)).mean(0) - aim).norm()
        assert (features(net, pixels_of(poisons.images)).mean(0) - aim).norm() < 0.6 * clean


def test_a_bullseye_that_aims_beyond_goes_on_in_the_same_direction():
    raw, goal, budget = digit_sets()["raw"], digit_target(), Budget(12, 1.0)
    network = digit_extractor()

    def gone(aim: float) -> float:
        poisons = BullseyePolytope(steps=100, rate=0.03, aim=aim).craft(goal, Knowledge((network,), raw), budget, 0)
        with torch.no_grad():
            base, found = (features(network, pixels_of(of)).mean(dim=0) for of in (poisons.base, poisons.images))
            way = features(network, pixels_of(goal.image[None]))[0] - base
        return float((found - base) @ way / (way @ way))

    assert gone(0.5) == pytest.approx(0.5, abs=0.15)
    assert gone(1.0) == pytest.approx(1, abs=0.15)
    assert gone(1.5) > gone(1.0) + 0.2


@pytest.mark.parametrize(
    ("name", "twin"),
    [
        ("frogs", published.feature_collision),
        ("convex", published.convex_polytope),
        ("bullseye", published.bullseye_polytope),
    ],
)
def test_the_fast_attack_is_the_published_loop(name, twin):
    raw, goal, budget = digit_sets()["raw"], digit_target(), BUDGETS["linf"]
    rows = np.flatnonzero(raw.labels == goal.intended)[:12]
    known = Knowledge((digit_extractor(),), raw, rows)
    attack = ATTACKS[name]
    fast = attack.craft(goal, known, budget, 0)
    delta, history = twin(attack, digit_extractor(), pixels_of(raw.images[rows]), pixels_of(goal.image[None]), budget)
    np.testing.assert_allclose(fast.history[:10], history[:10], rtol=2e-3)
    np.testing.assert_allclose(fast.history[-2], history[-1], rtol=0.2, atol=2e-3)
    change = np.abs(fast.images.astype(int) - budget.rounded(raw.images[rows], delta))
    assert np.mean(change <= 3) > 0.9


def test_the_mixture_is_the_nearest_there_is():
    generator = torch.Generator().manual_seed(0)
    points, wanted = torch.randn(6, 9, generator=generator), torch.randn(9, generator=generator)
    for start in (torch.full((6,), 1 / 6), torch.eye(6)[0]):
        c = nearest_mixture(points, wanted, start, 1e-9, 100000)
        assert c.min() >= 0
        assert float(c.sum()) == pytest.approx(1)
        best = minimize(
            lambda x: float(((x @ points.double().numpy() - wanted.double().numpy()) ** 2).sum()),
            np.full(6, 1 / 6),
            bounds=[(0, 1)] * 6,
            constraints={"type": "eq", "fun": lambda x: x.sum() - 1},
            options={"ftol": 1e-14, "maxiter": 1000},
        )
        assert float(((c @ points - wanted) ** 2).sum()) == pytest.approx(best.fun, rel=1e-4)
        slow = published.forward_backward(points, wanted, start, 1e-10, 100000)
        torch.testing.assert_close(c, slow, rtol=1e-3, atol=1e-4)


def test_a_point_of_the_simplex_stays_and_any_other_goes_to_the_nearest():
    c = np.array([0.2, 0.5, 0.3])
    np.testing.assert_allclose(on_simplex(c), c)
    np.testing.assert_allclose(on_simplex(np.array([2.0, 0.0, -1.0])), [1, 0, 0])
    np.testing.assert_allclose(on_simplex(np.array([0.6, 0.6])), [0.5, 0.5])
