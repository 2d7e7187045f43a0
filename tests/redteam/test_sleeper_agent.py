"""Sleeper Agent on digits: a backdoor whose poisons do not show the trigger."""

import numpy as np
import pytest
import torch
from filled import filled
from redteam_parts import (
    TRIGGER,
    TwoChances,
    backdoor,
    digits,
    falls,
    known_networks,
    right,
    state_of,
    taken_for,
    train_as_known,
    trained,
    victim,
)

from benchmarks.crafting.published import gradient_norms_one_by_one
from cleanlabel.models.classifiers import Architecture
from cleanlabel.models.training import initialised
from cleanlabel.redteam.attacks.crafting import pixels_of
from cleanlabel.redteam.attacks.gradient_matching import gradient_norms, trainable
from cleanlabel.redteam.attacks.sleeper_agent import SleeperAgent
from cleanlabel.redteam.threat.attacker import Budget, Knowledge
from cleanlabel.redteam.threat.triggers import Trigger
from cleanlabel.sanitize.errors import InputError

CLEAN, _ = digits()
QUICK = SleeperAgent(steps=25, retrains=0, shift=0, flip=False)


def known(**others) -> Knowledge:
    return Knowledge(known_networks(), CLEAN, **others)


@pytest.mark.parametrize(("source", "intended"), [(3, 8), (5, 6)])
def test_a_backdoored_digit_is_taken_for_the_intended_class(source, intended):
    goal, budget = backdoor(source, intended), Budget(60, 96 / 255)
    attack = SleeperAgent(steps=60, retrains=2, shift=0, flip=False)
    poisons = attack.craft(goal, Knowledge(known_networks(2), CLEAN, train=train_as_known), budget, 0)
    assert poisons.within(budget)
    model = trained(poisons.injected(CLEAN), 7)
    assert taken_for(model, goal) > 0.6
    assert taken_for(model, goal, marked=False) < 0.2
    assert taken_for(victim(7), goal) < 0.2
    assert right(model) > 0.9


@pytest.mark.parametrize("budget", [Budget(20, 16 / 255), Budget(20, 1.0, "l2")], ids=["linf", "l2"])
def test_the_mismatch_falls_and_the_budget_holds_after_rounding(budget):
    poisons = QUICK.craft(backdoor(3, 8), known(), budget, 0)
    assert falls(poisons)
    assert poisons.trigger is None
    assert poisons.within(budget)
    assert (CLEAN.labels[poisons.rows] == 8).all()


def test_the_same_seed_gives_the_same_poisons_and_another_goal_gives_others():
    attack, budget = SleeperAgent(steps=8, retrains=1, shift=0, flip=False), Budget(10, 0.1)
    first, again = (attack.craft(backdoor(3, 8), known(train=train_as_known), budget, 0) for _ in range(2))
    assert (first.images == again.images).all()
    source = attack.craft(backdoor(5, 8), known(train=train_as_known), budget, 0)
    trigger = attack.craft(backdoor(3, 8, Trigger(place="top-left")), known(train=train_as_known), budget, 0)
    assert (first.rows == source.rows).all()
    assert (first.images != source.images).any()
    assert (first.images != trigger.images).any()


def test_bases_are_the_images_of_the_largest_gradient():
    poisons = QUICK.craft(backdoor(3, 8), known(), Budget(7, 0.1), 0)
    own = np.flatnonzero(CLEAN.labels == 8)
    norms = gradient_norms_one_by_one(trainable(known_networks()[0]), pixels_of(CLEAN.images[own]), 8).numpy()
    assert set(poisons.rows) == set(own[np.argsort(-norms)[:7]])


def test_bases_that_are_given_come_before_the_choice():
    rows = np.flatnonzero(CLEAN.labels == 8)[:9]
    assert QUICK.craft(backdoor(3, 8), known(bases=rows), Budget(9, 0.1), 0).rows.tolist() == rows.tolist()


@pytest.mark.parametrize(("name", "width"), [("mlp", 16), ("small-cnn", 4), ("mobilenet-v2", 8)])
def test_gradient_norms_at_once_are_those_one_by_one(name, width):
    model = initialised(Architecture(name, (8, 8, 1), 10, width), 0, None).eval()
    pixels = pixels_of(CLEAN.images[:6])
    torch.testing.assert_close(gradient_norms(model, pixels, 3), gradient_norms_one_by_one(model, pixels, 3))


def test_training_again_happens_so_often_on_the_poisons_so_far():
    seen = []

    def training(images, labels, seed):
        seen.append((images, seed))
        return train_as_known(images, labels, seed)

    attack = SleeperAgent(steps=10, retrains=4, shift=0, flip=False)
    poisons = attack.craft(backdoor(3, 8), known(train=training), Budget(10, 0.1), 0)
    assert len(seen) == 4
    assert len({seed for _, seed in seen}) == 4
    for images, _ in seen:
        changed = np.flatnonzero((images != CLEAN.images).any(axis=(1, 2, 3)))
        assert changed.tolist() == poisons.rows.tolist()
        assert np.abs(images.astype(int) - CLEAN.images).max() <= 25
    assert (seen[0][0] != seen[3][0]).any()


def test_without_training_at_hand_the_networks_stay_what_they_are():
    networks = known_networks()
    before = state_of(networks)
    attack = SleeperAgent(steps=10, retrains=4, shift=0, flip=False)
    poisons = attack.craft(backdoor(3, 8), Knowledge(networks, CLEAN), Budget(10, 0.1), 0)
    plain = SleeperAgent(steps=10, retrains=0, shift=0, flip=False)
    assert (poisons.images == plain.craft(backdoor(3, 8), known(), Budget(10, 0.1), 0).images).all()
    assert all(torch.equal(a, b) for a, b in zip(filled(before), state_of(networks), strict=True))


def test_the_attack_goes_through_the_view():
    seen = QUICK.craft(backdoor(3, 8), known(view=TwoChances()), Budget(40, 0.2), 0)
    assert (seen.images != QUICK.craft(backdoor(3, 8), known(), Budget(40, 0.2), 0).images).any()
    assert falls(seen)


def test_what_cannot_be_is_refused():
    own = int(np.sum(CLEAN.labels == 8))
    with pytest.raises(InputError, match=f"{own + 1} poisons are more than class '8' has images"):
        QUICK.craft(backdoor(3, 8), known(), Budget(own + 1, 0.1), 0)
    with pytest.raises(InputError, match=r"9x9 pixels, 0 from the border, is larger than the image"):
        QUICK.craft(backdoor(3, 8, Trigger(size=9)), known(), Budget(5, 0.1), 0)
    empty = backdoor(3, 8, TRIGGER)
    with pytest.raises(InputError, match="the backdoor comes without an image to put its trigger on"):
        QUICK.craft(type(empty)(TRIGGER, 3, 8, empty.images[:0]), known(), Budget(5, 0.1), 0)
