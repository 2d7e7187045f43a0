"""What training starts from: random weights, weights trained elsewhere, or a frozen extractor."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from cleanlabel.models.extractors import Extractor, accelerated, load_extractor
from cleanlabel.models.instrument import Instrument
from cleanlabel.models.params import TrainParams
from cleanlabel.models.twins import load_twin
from cleanlabel.models.weights import read_weights


@dataclass(frozen=True, eq=False)
class Start:
    """What a recipe's training starts from; empty for random weights.

    weights: fine-tuning starts from them. extractor: transfer's heads use its features. twin: takes the features of
    sanitized images in its place. instrument: the public part of a bounded-influence head.
    """

    weights: dict[str, Tensor] | None = None
    extractor: Extractor | None = None
    twin: Extractor | None = None
    instrument: Instrument | None = None


FROM_SCRATCH = Start()


def start_of(recipe: TrainParams, device: torch.device, instrument: Instrument | None = None) -> Start:
    """The recipe's start, read from its files; extractors are in their fastest form on the device.

    InputError if a file is missing, damaged, or the twin of another extractor.
    """
    if recipe.mode == "scratch" or recipe.initial_weights is None:
        return FROM_SCRATCH
    path = Path(recipe.initial_weights)
    if recipe.mode == "fine-tune":
        return Start(weights=read_weights(path)[1])
    extractor = load_extractor(path)
    twin = load_twin(extractor, Path(recipe.twin)) if recipe.twin else None
    return Start(extractor=on_device(extractor, device), twin=twin and on_device(twin, device), instrument=instrument)


def on_device(extractor: Extractor, device: torch.device) -> Extractor:
    """The extractor in its fastest form on a device."""
    return accelerated(replace(extractor, network=extractor.network.to(device)))
