"""Recipes for training from scratch."""

from typing import Any

from cleanlabel.models.params import TrainParams


def recipe(architecture: str, width: int, epochs: int, **others: Any) -> TrainParams:
    """A recipe for training from scratch: constants for normalisation, no warm start, no weights from elsewhere."""
    common = {
        "mode": "scratch",
        "batch": 64,
        "learning_rate": 2e-3,
        "weight_decay": 5e-4,
        "label_smoothing": 0.1,
        "shift": 0,
        "flip": False,
        "normalise": "constants",
        "warm_epochs": 0,
        "warm_on": "copy",
        "initial_weights": None,
        "initial_provenance": None,
        "head": "direction",
        "head_l2": 0.01,
        "head_prior": False,
    }
    return TrainParams.model_validate(
        common | {"architecture": architecture, "width": width, "epochs": epochs} | others
    )


RECIPE = recipe("small-cnn", 16, 5, shift=2, head="ridge")
"""The ordinary classifier of the image sets."""
