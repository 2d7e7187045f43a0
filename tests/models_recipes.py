"""Recipes that train in a blink."""

from models.params import TrainParams

QUICK = TrainParams(
    architecture="mlp",
    width=8,
    epochs=2,
    batch=8,
    learning_rate=2e-3,
    weight_decay=0.0,
    label_smoothing=0.0,
    shift=0,
    normalise="constants",
    warm_epochs=0,
    initial_weights=None,
    initial_provenance="disjoint",
)
