"""Attacks on labels and gradients are their published loops, up to the order of additions."""

import numpy as np
import pytest
import torch
from redteam_sets import digit_extractor, digit_sets, digit_target

from benchmarks.crafting import published
from cleanlabel.redteam.attacks.crafting import pixels_of
from cleanlabel.redteam.attacks.label_consistent import LabelConsistent
from cleanlabel.redteam.attacks.witches_brew import WitchesBrew
from cleanlabel.redteam.threat.attacker import Backdoor, Budget, Knowledge
from cleanlabel.redteam.threat.triggers import Trigger

BUDGETS = {"linf": Budget(6, 32 / 255), "l2": Budget(6, 1.0, "l2")}


def bases(label: int) -> np.ndarray:
    return np.flatnonzero(digit_sets()["raw"].labels == label)[:6]


@pytest.mark.parametrize("norm", BUDGETS)
def test_hard_images_are_those_of_one_at_a_time(norm):
    raw, network, budget = digit_sets()["raw"], digit_extractor(), BUDGETS[norm]
    attack, rows = LabelConsistent(steps=10), bases(4)
    goal = Backdoor(Trigger(3), None, 4, raw.images[raw.labels != 4])
    made = attack.craft(goal, Knowledge((network,), raw, rows), budget, 0)
    delta, history = published.label_consistent(attack, network, pixels_of(raw.images[rows]), 4, budget)
    np.testing.assert_allclose(made.history[:-1], history, rtol=1e-3)
    expected = goal.trigger.put(budget.rounded(raw.images[rows], delta))
    assert np.mean(np.abs(made.images.astype(int) - expected) <= 1) > 0.99


@pytest.mark.parametrize("norm", BUDGETS)
def test_a_brew_is_the_published_one(norm):
    raw, network, budget, goal = digit_sets()["raw"], digit_extractor(), BUDGETS[norm], digit_target()
    attack, rows = WitchesBrew(steps=8, restarts=1, shift=0, flip=False), bases(goal.intended)
    made = attack.craft(goal, Knowledge((network,), raw, rows), budget, 7)
    base, target = pixels_of(raw.images[rows]), pixels_of(goal.image[None])
    start = budget.epsilon * torch.randn(base.shape, generator=torch.Generator().manual_seed(7))
    _, history = published.witches_brew(attack, network, base, target, goal.intended, budget, start)
    np.testing.assert_allclose(made.history[:4], history[:4], rtol=5e-3)
    np.testing.assert_allclose(made.history[-2], history[-1], rtol=0.1)
