"""One draw of the ensemble: sanitize the raw set anew, train, vote."""

import hashlib
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from models.params import TrainParams
from models.training import predict, reads_raw_images, train
from sanitize.denoiser import Denoiser
from sanitize.imageset import ImageSet
from sanitize.noise import seal, training_seed
from sanitize.sanitizer import sanitize


@dataclass(frozen=True)
class Smoothed:
    """A smoothed model and its votes on the test set (n_test,).

    `seal` names the random streams it was made from, `copy_sha256` the pixels it was trained on; seconds of its steps.
    """

    model: nn.Module
    votes: NDArray[np.int64]
    seal: str
    copy_sha256: str
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
    *,
    test_sigma: float = 0.0,
    initial: dict[str, Tensor] | None = None,
) -> Smoothed:
    """Draw `draw`: one noise sample for the whole training, one training seed of its own, one vote a test image.

    Model and votes follow from the arguments (on one machine and library set, bit for bit). The test images are
    read as they are; with `test_sigma` they are noised and denoised as well, one sample an image and draw.
    """
    device = denoiser.device if denoiser else "cpu"
    started = time.perf_counter()
    copy = sanitize(raw, sigma, denoiser, entropy, draw)
    inputs = sanitize(test, test_sigma, denoiser, entropy, draw, role="test-noise") if test_sigma else test.images
    sanitized = time.perf_counter()
    model = train(
        copy,
        raw.labels,
        len(raw.classes),
        recipe,
        training_seed(entropy, draw),
        device,
        raw=raw.images if reads_raw_images(recipe) else None,
        initial=initial,
    )
    votes = predict(model, inputs, device)
    trained = time.perf_counter()
    content = hashlib.sha256(np.ascontiguousarray(copy)).hexdigest()
    return Smoothed(model, votes, seal(entropy, draw), content, sanitized - started, trained - sanitized)
