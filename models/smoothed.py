"""The smoothed classifier: all its networks, their votes on new images, and the certificates of the votes."""

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from cleanlabel.models.answers import Answers, answers
from cleanlabel.models.certificate import ABSTAIN
from cleanlabel.models.extractors import Extractor, accelerated, features, load_extractor
from cleanlabel.models.influenced import COSTS
from cleanlabel.models.instrument import Features, Instrument, load_features, load_instrument
from cleanlabel.models.pixels import as_pixels
from cleanlabel.models.plan import attempts_before, plan_from_dict, require_exact_noise
from cleanlabel.models.rounding import down
from cleanlabel.models.training import as_tensor, predict_inputs
from cleanlabel.models.weights import load_weights
from cleanlabel.sanitize.denoiser import Denoiser, load_denoiser
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.files import file_digest
from cleanlabel.sanitize.imageset import ImageSet
from cleanlabel.sanitize.noise import draw_entropy
from cleanlabel.sanitize.sanitizer import sanitize

if TYPE_CHECKING:
    import pandas as pd

DESCRIPTION = "smoothed.json"
EXTRACTOR = "extractor.safetensors"
INSTRUMENT = "instrument.safetensors"


class SmoothedClassifier:
    """An ensemble read back from its directory: `smoothed.json`, a safetensors file per draw, and other files it needs.

    InputError if a network's file is not the recorded one, or the noise is of an older kind, whose radii do not hold.
    Nothing is unpickled.
    """

    def __init__(self, directory: Path) -> None:
        description = json.loads((directory / DESCRIPTION).read_text())
        self.plan = plan_from_dict(description["plan"])
        require_exact_noise(self.plan)
        self.m: int = description["m"]
        self.attempts_before = attempts_before(description)
        self.classes: list[str] = description["classes"]
        self.image_shape: tuple[int, ...] = tuple(description["image_shape"])
        self.networks: dict[int, nn.Module] = {}
        for draw, digest in description["weights"].items():
            path = directory / f"draw-{int(draw):05d}.safetensors"
            if not path.is_file() or file_digest(path) != digest:
                raise InputError(f"{path} is not the network that draw {draw} recorded; download the model again")
            self.networks[int(draw)] = load_features(path) if self.plan.bounded_influence else load_weights(path)
        self.extractor: Extractor | None = None
        if self.plan.recipe["mode"] == "transfer":
            self.extractor = accelerated(load_extractor(directory / EXTRACTOR))
            if self.extractor.digest != self.plan.initial_digest:
                raise InputError(f"{directory / EXTRACTOR} is not the planned one; download the model again")
        self.instrument: Instrument | None = None
        self.labels = np.array(description.get("labels", []), dtype=np.int64)
        if self.plan.instrument_digest:
            self.instrument = load_instrument(directory / INSTRUMENT, self.plan.instrument_digest)
        self.denoiser: Denoiser | None = None
        if (directory / "denoiser").is_dir():
            self.denoiser = load_denoiser(directory / "denoiser")
            if self.denoiser.digest != self.plan.denoiser_digest:
                raise InputError(f"{directory}/denoiser is not the planned one; download the model again")

    def votes(self, images: NDArray[np.uint8]) -> dict[int, NDArray[np.int64]]:
        """The votes of each draw's network or of its k blocks' networks: images uint8 (n, h, w[, c]) -> (n,) or (k, n).

        For a bounded-influence head: each draw's class sums, (n, K). If the plan noises test inputs, every network gets
        these images under new, unpredictable noise.
        """
        pixels = as_pixels(images, self.image_shape)
        if not self.plan.test_sigma:
            seen = self._inputs_of(pixels)
            if self.instrument:
                return {draw: self._sums(copy, seen) for draw, copy in self.networks.items()}
            return {draw: _answers_of(network, seen) for draw, network in self.networks.items()}
        entropy = draw_entropy("os").value
        inputs = ImageSet(pixels, np.zeros(len(pixels), np.int64), tuple(map(str, range(len(pixels)))), ("?",))
        votes = {}
        for draw, network in self.networks.items():
            noised = sanitize(inputs, self.plan.test_sigma, self.denoiser, entropy, draw, role="test-noise")
            votes[draw] = predict_inputs(network, self._inputs_of(noised))
        return votes

    def _sums(self, copy: nn.Module, seen: Tensor) -> NDArray[np.int64]:
        if self.instrument is None or not isinstance(copy, Features):
            raise TypeError("a draw of a bounded-influence head keeps features, and its version an instrument")
        return self.instrument.class_sums(copy, self.labels, len(self.classes), seen)

    def _inputs_of(self, images: NDArray[Any]) -> Tensor:
        return features(self.extractor, images) if self.extractor else as_tensor(images)

    def certify(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
        """(label, radius, counts) of each image: (n,) with ABSTAIN if nothing is certified, (n,), (n, K).

        counts: how many models voted for each class; for a partitioned ensemble, how many blocks are certified for it.

        Each certificate has the error probability of the plan's certificates, for images that were not chosen by
        looking at these networks. An ensemble that is not certifiable answers by plurality, with radius 0.
        """
        found = self.answers(images)
        return *self._claims(found), found.counts

    def _claims(self, found: Answers) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The labels and radii that may be claimed: an ensemble that is not certifiable claims no radius."""
        if not self.plan.certifiable:
            return found.vote, np.zeros(len(found.vote))
        return found.label, found.radius

    def answers(self, images: NDArray[np.uint8]) -> Answers:
        """The full answers for these images, as the certificate has them for the test images."""
        return answers(self.plan, self.attempts_before, self.m, self.votes(images), len(images))

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> "pd.DataFrame":
        """MLflow's method: one row per image with `label` (-1: abstained), `class`, `radius` and `votes` by class.

        The radius is rounded down to 6 digits. For a bounded-influence head also `rewritten`, `relabelled` and
        `inserted`: how many training images may change in this way at will while nothing else changes.

        model_input: images as for `models.pixels.as_pixels`. InputError for anything else.
        """
        import pandas as pd  # imported late: it comes with MLflow, and may be missing without it

        pixels = as_pixels(model_input, self.image_shape)
        found = self.answers(pixels)
        label, radius = self._claims(found)
        names = ["abstain" if y == ABSTAIN else self.classes[y] for y in label]
        columns = {"label": label, "class": names, "radius": down(radius, 6), "votes": found.counts.tolist()}
        if found.influenced:
            certified = int(self.plan.certifiable)
            columns |= {way: certified * found.influenced.counts(way) for way in COSTS}
        return pd.DataFrame(columns)


def _answers_of(network: nn.Module, inputs: Tensor) -> NDArray[np.int64]:
    if isinstance(network, nn.ModuleList):
        return np.stack([predict_inputs(block, inputs) for block in network])
    return predict_inputs(network, inputs)


def _load_pyfunc(path: str) -> SmoothedClassifier:
    """MLflow calls this for versions whose `MLmodel` names this module; newer ones name `cleanlabel.served`."""
    warnings.warn(
        "MLflow's server truncates numbers to integers before this version sees them; "
        "send only whole numbers 0..255, or serve a newer version, which refuses other numbers",
        stacklevel=2,
    )
    return SmoothedClassifier(Path(path))
