"""The smoothed classifier: all its networks, their votes on new images, and the certificates of the votes."""

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from cleanlabel.loading import check_if_sealed
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

    InputError if the description contradicts itself or its plan's digest, if a file is not the recorded one, or if the
    noise is of an older kind, whose radii do not hold. Nothing is unpickled.

    A draw without a network counts as a vote for no class, with a warning: it stays among the m, as in the certificate.
    What no digest in the description covers (the attempt, which network is which draw's, the order of the labels) is
    covered by the seal that `cleanlabel.loading` checks.
    """

    def __init__(self, directory: Path) -> None:
        path = directory / DESCRIPTION
        try:
            description = json.loads(path.read_text())
            self.plan = plan_from_dict(description["plan"])
            named = description["plan"]["plan_digest"]
            self.m: int = description["m"]
            self.attempts_before: int = attempts_before(description)
            self.classes: list[str] = description["classes"]
            self.image_shape: tuple[int, ...] = tuple(description["image_shape"])
            self.labels = np.array(description.get("labels", []), dtype=np.int64)
            recorded = {int(draw): str(digest) for draw, digest in description["weights"].items()}
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
            raise InputError(f"{path} cannot be read ({error!r}); download the model again") from error
        wrong = self._contradictions(named, recorded, len(description["weights"]))
        if wrong:
            raise InputError(f"{path} was changed: {wrong}; download the model again")
        require_exact_noise(self.plan)
        self.networks: dict[int, nn.Module] = {}
        for draw, digest in recorded.items():
            file = directory / f"draw-{draw:05d}.safetensors"
            if not file.is_file() or file_digest(file) != digest:
                raise InputError(f"{file} is not the network that draw {draw} recorded; download the model again")
            self.networks[draw] = load_features(file) if self.plan.bounded_influence else load_weights(file)
        missing = self.m + self.plan.selection - len(recorded)
        if missing:
            warnings.warn(f"{missing} of the {self.m} draws have no network; they vote for no class", stacklevel=2)
        self.extractor: Extractor | None = None
        if self.plan.recipe["mode"] == "transfer":
            self.extractor = accelerated(load_extractor(directory / EXTRACTOR))
            if self.extractor.digest != self.plan.initial_digest:
                raise InputError(f"{directory / EXTRACTOR} is not the planned one; download the model again")
        self.instrument: Instrument | None = None
        if self.plan.instrument_digest:
            self.instrument = load_instrument(directory / INSTRUMENT, self.plan.instrument_digest)
        self.denoiser: Denoiser | None = None
        if self.plan.test_sigma and self.plan.denoiser_digest:
            self.denoiser = load_denoiser(directory / "denoiser")
            if self.denoiser.digest != self.plan.denoiser_digest:
                raise InputError(f"{directory}/denoiser is not the planned one; download the model again")

    def _contradictions(self, named: object, recorded: dict[int, str], listed: int) -> str:
        """What in the description cannot have been written with it; empty if nothing."""
        plan, m = self.plan, self.m
        if plan.digest != named:
            return f"its plan's digest is {plan.digest[:12]}, and it says {str(named)[:12]}"
        if type(m) is not int or m not in (plan.m, *plan.looks):
            return f"it has m = {m!r}, and its plan {plan.m}"
        if listed != len(recorded) or not recorded.keys() <= {*range(m), *range(plan.m, plan.draws)}:
            return f"it lists other draws than the {m + plan.selection} of its plan"
        if plan.selection and not recorded.keys() >= {*range(plan.m, plan.draws)}:
            return "a draw that chooses the class is missing"
        if len(self.classes) != plan.classes:
            return f"it has {len(self.classes)} classes, and its plan {plan.classes}"
        counted = tuple(int(np.sum(self.labels == c)) for c in range(plan.classes))
        if plan.bounded_influence and (counted != plan.class_sizes or sum(counted) != len(self.labels)):
            return "it has other labels than its plan counts by class"
        return ""

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
    """MLflow calls this for versions whose `MLmodel` names this module; newer ones name others."""
    warnings.warn(
        "MLflow's server truncates numbers to integers before this version sees them; "
        "send only whole numbers 0..255, or serve a newer version, which refuses other numbers",
        stacklevel=2,
    )
    try:
        check_if_sealed(Path(path))
    except ValueError as error:
        raise InputError(str(error)) from None
    return SmoothedClassifier(Path(path))
