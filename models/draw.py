"""One draw of the ensemble: sanitize the raw set anew, train, vote."""

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import nn

from models.params import TrainParams
from models.training import predict, train
from sanitize.denoiser import Denoiser
from sanitize.imageset import ImageSet
from sanitize.noise import training_seed
from sanitize.sanitizer import sanitize


@dataclass(frozen=True)
class Smoothed:
    """A smoothed model, its votes on the test set (n_test,), and the seconds its two steps took."""

    model: nn.Module
    votes: NDArray[np.int64]
    sanitize_seconds: float
    train_seconds: float


def make_draw(
    raw: ImageSet,
    test: ImageSet,
    sigma: float,
    denoiser: Denoiser | None,
    recipe: TrainParams,
    entropy: bytes,
    draw: int,
) -> Smoothed:
    """Draw `draw`: one noise sample for the whole training, one training seed of its own, one vote a test image.

    Model and votes follow from the arguments (on one machine and library set, bit for bit). The test images are
    read as they are.
    """
    device = denoiser.device if denoiser else "cpu"
    started = time.perf_counter()
    copy = sanitize(raw, sigma, denoiser, entropy, draw)
    sanitized = time.perf_counter()
    model = train(copy, raw.labels, len(raw.classes), recipe, training_seed(entropy, draw), device)
    votes = predict(model, test.images, device)
    return Smoothed(model, votes, sanitized - started, time.perf_counter() - sanitized)
