"""Digits to attack, and a network trained on other digits that everybody knows."""

from functools import cache

from models_recipes import QUICK

from cleanlabel.models.extractors import Extractor
from cleanlabel.models.params import TrainParams
from cleanlabel.redteam.drill.params import HEAD
from cleanlabel.redteam.threat.attacker import Target
from cleanlabel.redteam.threat.victims import Victim
from cleanlabel.sanitize.imageset import ImageSet
from cleanlabel.sanitize.ingest import digits

RECIPE = TrainParams.model_validate(
    QUICK.model_dump() | HEAD | {"architecture": "mlp", "width": 64, "epochs": 10, "label_smoothing": 0.0}
)


@cache
def digit_sets() -> dict[str, ImageSet]:
    return digits(600, 400, seed=3, test=300)


@cache
def digit_extractor(seed: int = 0) -> Extractor:
    """A network trained on the trusted digits alone."""
    trusted = digit_sets()["trusted"]
    return Victim("scratch", RECIPE, 10, trusted.image_shape).trained(trusted.images, trusted.labels, seed)


def digit_target(number: int = 0) -> Target:
    """A test digit that shall be taken for the next one."""
    test = digit_sets()["test"]
    label = int(test.labels[number])
    return Target(test.images[number], label, (label + 1) % 10)
