"""Networks that are trained all at once are the ones that are trained one at a time."""

import numpy as np
import pytest
import torch
from models_recipes import QUICK

from cleanlabel.models.stacked import stackable, train_stack
from cleanlabel.models.training import as_tensor, predict, train

SEEDS = (11, 7, 13)


def copies(small_set) -> list[np.ndarray]:
    return [np.roll(small_set.images, shift, axis=2) // (1 + shift) for shift in range(len(SEEDS))]


@pytest.mark.parametrize(
    "change",
    [
        {"architecture": "linear"},
        {"architecture": "mlp"},
        {"architecture": "mlp", "normalise": "copy", "label_smoothing": 0.3, "weight_decay": 0.1},
        {"architecture": "small-cnn", "width": 4},
        {"architecture": "small-cnn", "width": 4, "normalise": "copy", "batch": 7},
    ],
)
def test_a_stack_is_its_networks_trained_one_at_a_time(change, small_set):
    recipe = QUICK.model_copy(update=change)
    together = train_stack(copies(small_set), small_set.labels, 3, recipe, SEEDS)
    for model, copy, seed in zip(together, copies(small_set), SEEDS, strict=True):
        alone = train(copy, small_set.labels, 3, recipe, seed)
        # logits, not weights: a bias that the normalisation takes out again follows the signs of roundings
        pixels = as_tensor(small_set.images)
        torch.testing.assert_close(model(pixels), alone(pixels), atol=1e-4, rtol=1e-4)
        np.testing.assert_array_equal(predict(model, small_set.images), predict(alone, small_set.images))
        assert not model.training


def test_a_network_depends_on_its_own_copy_and_seed_alone(small_set):
    first = train_stack(copies(small_set), small_set.labels, 3, QUICK, SEEDS)[1]
    strangers = [255 - copies(small_set)[0], copies(small_set)[1], small_set.images[::-1]]
    again = train_stack(strangers, small_set.labels, 3, QUICK, (1, SEEDS[1], 2))[1]
    for name, tensor in first.state_dict().items():
        torch.testing.assert_close(tensor, again.state_dict()[name], atol=0, rtol=0)


@pytest.mark.parametrize(
    ("change", "copies", "size"),
    [
        ({"architecture": "small-cnn"}, 10, 1000),
        ({"shift": 1}, 10, 1000),
        ({"flip": True}, 10, 1000),
        ({"warm_epochs": 1}, 10, 1000),
        ({"normalise": "raw"}, 10, 1000),
        ({"mode": "fine-tune"}, 10, 1000),
        ({}, 1, 1000),
        ({}, 10, 10**9),
    ],
)
def test_what_a_stack_cannot_do_is_trained_one_at_a_time(change, copies, size):
    assert stackable(QUICK, "cpu", 10, 1000)
    assert not stackable(QUICK.model_copy(update=change), "cpu", copies, size)
