"""The hidden-trigger backdoor on digits: a head fitted anew on features that the attacker knows."""

import numpy as np
import pytest
import torch
from filled import filled
from hypothesis import given
from hypothesis import strategies as st
from redteam_parts import (
    CLASSES,
    TRIGGER,
    TwoChances,
    backdoor,
    digits,
    falls,
    known_networks,
    right,
    state_of,
    taken_for,
)
from torch import nn

from benchmarks.crafting.published import closest_pairs_one_by_one
from cleanlabel.models.extractors import Extractor
from cleanlabel.models.heads import fit_head
from cleanlabel.models.training import as_tensor
from cleanlabel.redteam.attacks.hidden_trigger import HiddenTrigger, closest_pairs, closest_pairs_queued
from cleanlabel.redteam.threat.attacker import Backdoor, Budget, Knowledge
from cleanlabel.redteam.threat.triggers import Trigger
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.imageset import ImageSet

CLEAN, _ = digits()
QUICK = HiddenTrigger(steps=25)


def known(**others) -> Knowledge:
    return Knowledge(known_networks(), CLEAN, **others)


def transferred(images: ImageSet, network: Extractor) -> nn.Sequential:
    """The victim of the paper: the known network's features, and a head fitted anew on the images."""
    with torch.no_grad():
        features = network.network(as_tensor(images.images))
    head = fit_head(features, torch.from_numpy(images.labels), CLASSES, "logistic", 0.01)
    return nn.Sequential(network.network, head)


@pytest.mark.parametrize(("source", "intended"), [(3, 8), (5, 6)])
def test_a_backdoored_digit_is_taken_for_the_intended_class_by_a_head_fitted_anew(source, intended):
    (network,) = known_networks()
    goal, budget = backdoor(source, intended), Budget(60, 96 / 255)
    poisons = HiddenTrigger(steps=100).craft(goal, known(), budget, 0)
    assert poisons.within(budget)
    assert poisons.trigger is None
    model = transferred(poisons.injected(CLEAN), network)
    clean = transferred(CLEAN, network)
    assert taken_for(model, goal) > 0.6
    assert taken_for(model, goal, marked=False) < 0.2
    assert taken_for(clean, goal) < 0.2
    assert right(model) > 0.9


@pytest.mark.parametrize("budget", [Budget(20, 16 / 255), Budget(20, 1.0, "l2")], ids=["linf", "l2"])
def test_the_features_come_nearer_and_the_budget_holds_after_rounding(budget):
    poisons = QUICK.craft(backdoor(3, 8), known(), budget, 0)
    assert falls(poisons)
    assert poisons.within(budget)
    assert (CLEAN.labels[poisons.rows] == 8).all()


def test_the_same_seed_gives_the_same_poisons_and_another_goal_gives_others():
    first, again = (QUICK.craft(backdoor(3, 8), known(), Budget(10, 0.1), 0) for _ in range(2))
    assert (first.images == again.images).all()
    other = QUICK.craft(backdoor(5, 8), known(), Budget(10, 0.1), 0)
    assert (first.rows == other.rows).all()
    assert (first.images != other.images).any()


def test_the_attack_goes_through_the_view_and_leaves_the_networks_alone():
    networks = known_networks(2)
    before = state_of(networks)
    seen = QUICK.craft(backdoor(3, 8), Knowledge(networks, CLEAN, view=TwoChances()), Budget(20, 0.2), 0)
    plain = QUICK.craft(backdoor(3, 8), Knowledge(networks, CLEAN), Budget(20, 0.2), 0)
    assert (seen.images != plain.images).any()
    assert falls(seen)
    assert all(torch.equal(a, b) for a, b in zip(filled(before), state_of(networks), strict=True))


@given(st.integers(1, 30), st.integers(0, 2**31), st.booleans())
def test_pairs_found_at_once_are_those_found_one_by_one(n, seed, ties):
    distances = torch.rand(n, n, generator=torch.Generator().manual_seed(seed))
    distances = (4 * distances).round() if ties else distances
    pairs = closest_pairs(distances)
    assert pairs.tolist() == closest_pairs_one_by_one(distances).tolist() == closest_pairs_queued(distances).tolist()
    assert sorted(pairs.tolist()) == list(range(n))


def test_fewer_sources_than_poisons_serve_again():
    goal = backdoor(3, 8)
    few = Backdoor(goal.trigger, 3, 8, goal.images[:4])
    poisons = QUICK.craft(few, known(), Budget(10, 0.2), 0)
    assert len(poisons.rows) == 10
    assert falls(poisons)


def test_what_cannot_be_is_refused():
    own = int(np.sum(CLEAN.labels == 8))
    with pytest.raises(InputError, match=f"{own + 1} poisons are more than class '8' has images"):
        QUICK.craft(backdoor(3, 8), known(), Budget(own + 1, 0.1), 0)
    with pytest.raises(InputError, match=r"9x9 pixels, 0 from the border, is larger than the image"):
        QUICK.craft(backdoor(3, 8, Trigger(size=9)), known(), Budget(5, 0.1), 0)
    with pytest.raises(InputError, match="the backdoor comes without an image to put its trigger on"):
        QUICK.craft(Backdoor(TRIGGER, 3, 8, CLEAN.images[:0]), known(), Budget(5, 0.1), 0)
