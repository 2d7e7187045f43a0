"""Forecast what a bounded-influence head would certify at each noise, clip and sides, from trusted images alone."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import get_args

import numpy as np
import torch
from numpy.typing import NDArray

from cleanlabel.models.certificate import certified_accuracy
from cleanlabel.models.extractors import features
from cleanlabel.models.influence import counts_left
from cleanlabel.models.influenced import Influenced, influenced
from cleanlabel.models.instrument import Features, make_instrument
from cleanlabel.models.materials import Materials
from cleanlabel.models.public_part import sanitized_features
from cleanlabel.models.sums import STEPS, Sides
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.imageset import ImageSet

RIDGES = (0.05, 0.5, 2.0)
CLIPS = ((None, 0.6), (None, 0.8), (None, 0.95), (0.8, 0.95), (0.9, 0.97))
"""Candidate (threshold, clip) pairs; None is no threshold."""
PARTS = {"fitted": 0.5, "summed": 0.3}
"""The shares of trusted images that fit the instrument and that play the raw set; the rest are the test images."""
LEAST = 60
"""The least number of trusted images for a useful pilot."""


@dataclass(frozen=True)
class Choice:
    """Params of a bounded-influence head, and their forecast at the target."""

    sigma: float
    ridge: float
    threshold: float | None
    clip: float
    sides: Sides
    accuracy: float
    deviation: float
    """Standard error of the accuracy, only from the number of test images."""
    sums: float
    """Accuracy of the sums, certified or not."""


def forecasts(
    materials: Materials,
    images: int,
    m: int,
    level: float,
    radius: float,
    rewritten: int,
    draws: int,
    said: Callable[[int], object] = lambda _: None,
) -> list[Choice]:
    """What each ridge, clip and side would certify at `materials.sigma`, against `rewritten` images and the radius.

    `materials.raw` are the trusted images. A part of them plays the raw set: its sums are scaled to `images` images
    with the same shares of classes, and its bounds are those for m draws. InputError for too few images or an empty
    class.
    """
    extractor = materials.start.extractor
    if extractor is None or len(materials.raw) < LEAST:
        raise InputError(f"{len(materials.raw)} trusted images are too few for a forecast; give {LEAST} or more")
    fitted, summed, asked = _parts(materials.raw)
    classes = len(summed.classes)
    have = np.bincount(summed.labels, minlength=classes)
    if not have.all():
        raise InputError(f"too few trusted images of the class {summed.classes[int(have.argmin())]!r} for a forecast")
    sizes = np.rint(images * have / len(summed)).astype(np.int64)
    draws = draws if materials.sigma else 1

    def psi(part: ImageSet, copy: int) -> NDArray[np.float32]:
        said(1)
        own = materials.fast(materials.sigma)
        args = (extractor, part, materials.sigma, materials.denoiser, copy)
        return sanitized_features(*args, denoise=own, batch=materials.batch, device=materials.device)

    known = psi(fitted, 0)
    phi = features(extractor, fitted.images, materials.device).numpy()
    copies = [Features(torch.from_numpy(psi(summed, copy))) for copy in range(draws)]
    seen = features(extractor, asked.images, materials.device)
    found = []
    for ridge, (threshold, clip), sides in product(RIDGES, CLIPS, get_args(Sides)):
        if threshold is not None and sides == "two":
            continue
        instrument = make_instrument(known, phi, ridge=ridge, quantile=clip, sides=sides, threshold=threshold)
        total = sum(instrument.class_sums(copy, summed.labels, classes, seen) for copy in copies)
        mean = total / draws / have * sizes
        held = np.clip(np.rint(mean).astype(np.int64), sizes * instrument.low, sizes * STEPS)
        of_m = dict.fromkeys(range(m), held)
        answer = influenced(of_m, m, len(asked), sizes.tolist(), sides, materials.sigma, level)
        share = reached(answer, asked.labels, radius, rewritten)
        spread = float(np.sqrt(max(share * (1 - share), 0.25 / len(asked)) / len(asked)))
        sums = float(np.mean(answer.vote == asked.labels))
        found.append(Choice(materials.sigma, ridge, threshold, clip, sides, share, spread, sums))
    return found


def reached(answer: Influenced, truth: NDArray[np.int64], radius: float, rewritten: int) -> float:
    """Certified accuracy against `rewritten` images and a joint radius; if radius is 0, against the images alone."""
    if radius:
        return float(certified_accuracy(answer.label, answer.radius(rewritten=rewritten), truth, [radius])[0])
    enough = counts_left(answer.label, answer.margin, answer.cost("rewritten")) >= rewritten
    return float(np.mean(enough & (answer.label == truth)))


def _parts(trusted: ImageSet) -> tuple[ImageSet, ImageSet, ImageSet]:
    order = np.random.default_rng(0).permutation(len(trusted))
    first = round(PARTS["fitted"] * len(trusted))
    second = first + round(PARTS["summed"] * len(trusted))
    return trusted.take(order[:first]), trusted.take(order[first:second]), trusted.take(order[second:])
