"""The label-consistent backdoor on digits: made hard, then marked."""

import numpy as np
import pytest
import torch
from filled import filled
from redteam_parts import (
    TwoChances,
    backdoor,
    digits,
    falls,
    known_networks,
    right,
    state_of,
    taken_for,
    trained,
    victim,
)

from cleanlabel.models.training import as_tensor
from cleanlabel.redteam.attacks.label_consistent import LabelConsistent
from cleanlabel.redteam.threat.attacker import Budget, Knowledge
from cleanlabel.redteam.threat.triggers import Trigger
from cleanlabel.sanitize.errors import InputError

CLEAN, _ = digits()
QUICK = LabelConsistent(steps=20)


def known(count: int = 1, **others) -> Knowledge:
    return Knowledge(known_networks(count), CLEAN, **others)


@pytest.mark.parametrize("budget", [Budget(60, 64 / 255), Budget(60, 1.5, "l2")], ids=["linf", "l2"])
def test_a_backdoored_digit_is_taken_for_the_intended_class(budget):
    goal = backdoor(None, 2)
    model = trained(QUICK.craft(goal, known(2), budget, 0).injected(CLEAN), 7)
    assert taken_for(model, goal) > 0.6
    assert taken_for(model, goal, marked=False) < 0.1
    assert taken_for(victim(7), goal) < 0.2
    assert right(model) > 0.9


def test_the_trigger_alone_teaches_less_than_on_images_made_hard():
    goal, budget = backdoor(None, 2), Budget(20, 1.5, "l2")
    hard = QUICK.craft(goal, known(2), budget, 0)
    images = CLEAN.images.copy()
    images[hard.rows] = goal.trigger.put(hard.base)
    assert taken_for(trained(hard.injected(CLEAN), 7), goal) > taken_for(trained(CLEAN.with_images(images), 7), goal)


@pytest.mark.parametrize("budget", [Budget(20, 16 / 255), Budget(20, 1.0, "l2")], ids=["linf", "l2"])
def test_the_likelihood_falls_and_the_budget_holds_outside_the_trigger(budget):
    goal = backdoor(None, 2)
    poisons = QUICK.craft(goal, known(), budget, 0)
    assert falls(poisons)
    assert len(poisons.history) == QUICK.steps + 1
    assert poisons.within(budget)
    mask = goal.trigger.mask(CLEAN.image_shape)
    assert (poisons.trigger == mask).all()
    assert (poisons.images[:, mask] == goal.trigger.put(CLEAN.images[poisons.rows])[:, mask]).all()
    assert poisons.linf > 0.5  # the trigger is put on in full


def test_the_first_objective_is_the_clean_log_likelihood():
    poisons = QUICK.craft(backdoor(None, 2), known(), Budget(20, 0.1), 0)
    with torch.no_grad():
        net = known_networks()[0]
        expected = net.head(net.network(as_tensor(poisons.base))).log_softmax(dim=1)[:, 2].mean()
    assert poisons.history[0] == pytest.approx(float(expected), abs=1e-5)


def test_the_same_seed_gives_the_same_poisons_and_another_class_gives_others():
    first, again = (QUICK.craft(backdoor(None, 2), known(), Budget(10, 0.1), 0) for _ in range(2))
    assert (first.images == again.images).all()
    assert (first.rows == again.rows).all()
    other = QUICK.craft(backdoor(None, 4), known(), Budget(10, 0.1), 0)
    assert not set(first.rows) & set(other.rows)
    assert (first.images != other.images).any()


def test_the_attack_goes_through_the_view_and_leaves_the_networks_alone():
    networks = known_networks(2)
    before = state_of(networks)
    seen = QUICK.craft(backdoor(None, 2), Knowledge(networks, CLEAN, view=TwoChances()), Budget(10, 0.1), 0)
    plain = QUICK.craft(backdoor(None, 2), Knowledge(networks, CLEAN), Budget(10, 0.1), 0)
    assert (seen.images != plain.images).any()
    assert falls(seen)
    assert all(torch.equal(a, b) for a, b in zip(filled(before), state_of(networks), strict=True))


def test_what_cannot_be_is_refused():
    own = int(np.sum(CLEAN.labels == 2))
    with pytest.raises(InputError, match=f"{own + 1} poisons are more than class '2' has images"):
        QUICK.craft(backdoor(None, 2), known(), Budget(own + 1, 0.1), 0)
    with pytest.raises(InputError, match=r"9x9 pixels, 0 from the border, is larger than the image"):
        QUICK.craft(backdoor(None, 2, Trigger(size=9)), known(), Budget(5, 0.1), 0)
    with pytest.raises(InputError, match="place='random' is no such place, choose a corner"):
        QUICK.craft(backdoor(None, 2, Trigger(place="random")), known(), Budget(5, 0.1), 0)
