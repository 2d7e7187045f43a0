"""The denoiser, the smoothed models, and what an ensemble of them certifies."""

import hashlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.common.runs import kept
from benchmarks.fashion.plan import ALPHA, RADII
from cleanlabel.models.certificate import ABSTAIN, certified_accuracy, certify
from cleanlabel.models.params import TrainParams
from cleanlabel.models.rounding import down
from cleanlabel.models.training import predict, train
from cleanlabel.models.votes import count_votes
from cleanlabel.sanitize.denoiser import Denoiser, load_denoiser
from cleanlabel.sanitize.denoiser_files import PROVENANCE, read_config
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.fast import FastDenoiser
from cleanlabel.sanitize.files import replacing, write_json
from cleanlabel.sanitize.imageset import ImageSet
from cleanlabel.sanitize.noise import training_seed
from cleanlabel.sanitize.params import DenoiserParams
from cleanlabel.sanitize.pretrain import train_denoiser
from cleanlabel.sanitize.rows import NETWORK_BATCH
from cleanlabel.sanitize.sanitizer import sanitize

Step = tuple[Denoiser, FastDenoiser]
"""A denoiser and its fast path for one sigma."""


@dataclass(frozen=True)
class Draw:
    """One smoothed model: its votes (n_test,), seconds, and the mean squared error of its copy (pixels in [0,1])."""

    votes: NDArray[np.int64]
    sanitize_seconds: float
    train_seconds: float
    squared_error: float


def make_copy(raw: ImageSet, sigma: float, denoise: Step | None, entropy: bytes, draw: int) -> NDArray[Any]:
    """The raw images sanitized, or with the noise left in where there is no `denoise`."""
    denoiser, fast = denoise or (None, None)
    return sanitize(raw, sigma, denoiser, entropy, draw, denoise=fast, batch=NETWORK_BATCH)


def make_draw(
    raw: ImageSet, test: ImageSet, sigma: float, denoise: Step | None, chosen: TrainParams, entropy: bytes, draw: int
) -> Draw:
    """`models.draw.make_draw` by the fast path: sanitize, train from scratch, vote."""
    started = time.perf_counter()
    copy = make_copy(raw, sigma, denoise, entropy, draw)
    sanitized = time.perf_counter()
    votes = predict(train(copy, raw.labels, len(raw.classes), chosen, training_seed(entropy, draw)), test.images)
    trained = time.perf_counter()
    scale = 255 if copy.dtype == np.uint8 else 1
    error = float(np.mean((copy / np.float64(scale) - raw.images / 255) ** 2))
    return Draw(votes, sanitized - started, trained - sanitized, error)


def kept_draw(path: Path, make: Callable[[], Draw]) -> Draw:
    """The draw in `path`, made and written there if it is not."""
    found = kept(path, lambda: {name: np.asarray(value) for name, value in vars(make()).items()})
    return Draw(found["votes"], *(float(found[name]) for name in list(Draw.__annotations__)[1:]))


def the_denoiser(
    trusted: ImageSet, directory: Path | None, scratch: Path, params: DenoiserParams
) -> tuple[Denoiser, dict[str, Any]]:
    """The denoiser in `directory`, or one trained here, and where it comes from.

    InputError unless it saw exactly the trusted images.
    """
    here, directory = directory is None, directory or scratch / "denoiser"
    if not directory.exists():
        with replacing(directory) as made:
            made.mkdir()
            train_denoiser(trusted, params, made)
            write_json(made / PROVENANCE, {"trained_on": trusted.digest, "params": params.model_dump()})
    known = read_config(directory / PROVENANCE) if (directory / PROVENANCE).is_file() else {}
    if known.get("trained_on") != trusted.digest:
        raise InputError(
            f"{directory} does not say that it was trained on this split's trusted images "
            f"({PROVENANCE}: trained_on {trusted.digest[:12]}…); leave --denoiser out to have one trained"
        )
    if here and known.get("params") != json.loads(json.dumps(params.model_dump())):
        raise InputError(f"{directory} was trained with other params; remove it, or name it with --denoiser")
    return load_denoiser(directory), known


def figures_of(draws: list[Draw], test: ImageSet, sigma: float, curve: NDArray[np.float64]) -> dict[str, Any]:
    """What one ensemble certifies, and what it cost."""
    m = len(draws)
    counts = count_votes(dict(enumerate(d.votes for d in draws)), m, len(test), len(test.classes))
    label, radius = certify(counts, m, sigma, ALPHA)
    return {
        "one_model": round(float(np.mean([np.mean(d.votes == test.labels) for d in draws])), 4),
        "vote": round(float(np.mean(counts.argmax(axis=1) == test.labels)), 4),
        "abstentions": int(np.sum(label == ABSTAIN)),
        "certified": {
            f"{r:g}": down(c, 4)
            for r, c in zip(RADII, certified_accuracy(label, radius, test.labels, RADII), strict=True)
        },
        "curve": [down(c, 4) for c in certified_accuracy(label, radius, test.labels, curve)],
        "largest_radius": down(radius.max(), 4),
        "psnr_db": round(-10 * math.log10(np.mean([d.squared_error for d in draws])), 2),
        "sanitize_seconds_a_model": round(float(np.mean([d.sanitize_seconds for d in draws])), 2),
        "train_seconds_a_model": round(float(np.mean([d.train_seconds for d in draws])), 2),
        "counts_sha256": hashlib.sha256(np.ascontiguousarray(counts, dtype="<i8").tobytes()).hexdigest(),
    }
