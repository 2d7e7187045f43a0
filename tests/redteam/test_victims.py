"""The three scenarios end in a network and a head, each trained on what it should be."""

import numpy as np
import pytest
import torch
from models_recipes import QUICK
from redteam_sets import RECIPE, digit_extractor, digit_sets

from cleanlabel.redteam.threat.victims import Victim, answers
from cleanlabel.sanitize.errors import InputError


def accuracy(network) -> float:
    test = digit_sets()["test"]
    return float(np.mean(answers(network, test.images) == test.labels))


@pytest.mark.parametrize("scenario", ["transfer", "fine-tune", "scratch"])
def test_every_scenario_learns_and_the_same_seed_gives_the_same_network(scenario):
    raw = digit_sets()["raw"]
    victim = Victim(scenario, RECIPE, 10, raw.image_shape, None if scenario == "scratch" else digit_extractor())
    one, two = (victim.trained(raw.images, raw.labels, 5) for _ in range(2))
    assert accuracy(one) > 0.85
    assert torch.equal(one.head.weight, two.head.weight)


def test_transfer_leaves_the_extractor_as_it_is_and_fine_tuning_a_copy_of_it():
    raw, extractor = digit_sets()["raw"], digit_extractor()
    before = [p.clone() for p in extractor.network.parameters()]
    for scenario in ("transfer", "fine-tune"):
        trained = Victim(scenario, RECIPE, 10, raw.image_shape, extractor).trained(raw.images, raw.labels, 0)
        moved = any(
            not torch.equal(a, b)
            for a, b in zip(trained.network.parameters(), extractor.network.parameters(), strict=True)
        )
        assert moved == (scenario == "fine-tune")
    assert all(torch.equal(a, b) for a, b in zip(before, extractor.network.parameters(), strict=True))


def test_a_scenario_without_what_it_needs_is_refused():
    with pytest.raises(InputError, match="scenario transfer needs an extractor trained elsewhere; see --extractor"):
        Victim("transfer", QUICK, 10, (8, 8, 1))
    with pytest.raises(InputError, match="scenario scratch takes no extractor"):
        Victim("scratch", QUICK, 10, (8, 8, 1), digit_extractor())
    with pytest.raises(InputError, match="scenario 'home' is unknown; choose one of transfer, fine-tune, scratch"):
        Victim("home", QUICK, 10, (8, 8, 1))


def test_an_extractor_for_another_size_is_refused():
    with pytest.raises(InputError, match="are 16x16 with 3 channels, the extractor takes 8x8 with 1 channel"):
        Victim("transfer", QUICK, 10, (16, 16, 3), digit_extractor())
