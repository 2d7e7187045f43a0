"""What the red team's tests share: digits of 8x8, tiny victims of theirs, and how often an attack succeeds."""

import copy
from functools import cache

import numpy as np
import torch
from filled import filled
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch import Tensor, nn

from cleanlabel.models.classifiers import features_of
from cleanlabel.models.extractors import Extractor
from cleanlabel.models.params import TrainParams
from cleanlabel.models.training import predict, train
from cleanlabel.redteam.threat.attacker import Backdoor, Poisons, Target
from cleanlabel.redteam.threat.triggers import Trigger
from cleanlabel.sanitize.imageset import ImageSet

CLASSES = 10
TRIGGER = Trigger(size=3)
RECIPE = TrainParams(
    architecture="mlp",
    width=64,
    mode="scratch",
    epochs=20,
    batch=32,
    learning_rate=3e-3,
    weight_decay=5e-4,
    label_smoothing=0.0,
    shift=0,
    flip=False,
    normalise="constants",
    warm_epochs=0,
    warm_on="copy",
    initial_weights=None,
    initial_provenance=None,
    head="logistic",
    head_l2=0.01,
    head_prior=False,
)


@cache
def digits() -> tuple[ImageSet, ImageSet]:
    """1,200 digits to train on and 597 to test with."""
    pixels, labels = load_digits(return_X_y=True)
    images = (pixels.reshape(-1, 8, 8, 1) * 255 / 16).round().astype(np.uint8)
    order = np.random.default_rng(0).permutation(len(images))
    names = tuple(str(i) for i in range(len(images)))
    everything = ImageSet(images, labels.astype(np.int64), names, tuple("0123456789"), False)
    return everything.take(order[:1200]), everything.take(order[1200:])


@cache
def victim(seed: int) -> nn.Sequential:
    """A network trained on the clean digits."""
    clean, _ = digits()
    return trained(clean, seed)


def trained(images: ImageSet, seed: int) -> nn.Sequential:
    return train(images.images, images.labels, CLASSES, RECIPE, seed)


def extractor(model: nn.Sequential) -> Extractor:
    """The network as an attacker knows it, frozen like one from a file; the model itself stays as it is."""
    frozen = copy.deepcopy(model).requires_grad_(False)
    frozen.zero_grad()
    return Extractor(features_of(frozen), frozen[-1], (8, 8, 1), "")


def train_as_known(images: NDArray[np.uint8], labels: NDArray[np.int64], seed: int) -> Extractor:
    return extractor(train(images, labels, CLASSES, RECIPE, seed))


def known_networks(count: int = 1) -> tuple[Extractor, ...]:
    return tuple(extractor(victim(100 + i)) for i in range(count))


def target(label: int, intended: int, which: int = 0) -> Target:
    _, test = digits()
    return Target(test.images[np.flatnonzero(test.labels == label)[which]], label, intended)


def backdoor(source: int | None, intended: int, trigger: Trigger = TRIGGER) -> Backdoor:
    """A goal with the trigger, for which the attacker has training images of the source."""
    clean, _ = digits()
    of_source = clean.labels == source if source is not None else clean.labels != intended
    return Backdoor(trigger, source, intended, clean.images[of_source])


def taken_for(model: nn.Module, goal: Backdoor, *, marked: bool = True) -> float:
    """Share of the goal's test images that the model takes for the intended class, with the trigger or without."""
    _, test = digits()
    chosen = test.labels == goal.source if goal.source is not None else test.labels != goal.intended
    images = goal.trigger.put(test.images[chosen], seed=1) if marked else test.images[chosen]
    return float((predict(model, images) == goal.intended).mean())


def right(model: nn.Module) -> float:
    """Accuracy on the clean test digits."""
    _, test = digits()
    return float((predict(model, test.images) == test.labels).mean())


def falls(poisons: Poisons) -> bool:
    """Whether the objective of the rounded poisons lies below what it was at first."""
    return poisons.history[-1] < poisons.history[0]


def state_of(networks: tuple[Extractor, ...]) -> list[Tensor]:
    """The weights of the caller's networks, which an attack has to leave frozen and as they are."""
    modules = [module for net in networks for module in (net.network, net.head)]
    parameters = [p for module in modules for p in module.parameters()]
    assert all(not p.requires_grad and p.grad is None for p in filled(parameters))
    return [p.clone() for p in parameters]


class TwoChances:
    """A view for tests: the image darkened by a random factor, twice, as an attacker might expect of a sanitizer."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        self.asked += 1
        return torch.stack([pixels * (0.5 + 0.5 * float(torch.rand(1, generator=generator))) for _ in range(2)])
