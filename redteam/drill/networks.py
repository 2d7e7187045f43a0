"""The networks of a drill: trained on which images, with which noise; targets share them where they can."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from cleanlabel.models.extractors import Extractor, features
from cleanlabel.models.instrument import Instrument
from cleanlabel.redteam.drill.copies import BATCH, Copies
from cleanlabel.redteam.drill.instruments import kept_instrument
from cleanlabel.redteam.drill.params import HEAD, DrillParams
from cleanlabel.redteam.threat.attacker import Attack, Budget, Poisons
from cleanlabel.redteam.threat.setups import Setup
from cleanlabel.redteam.threat.victims import Victim, answers_to_features, required_extractor
from cleanlabel.redteam.threat.victims import answers as answers_of
from cleanlabel.sanitize.denoiser import Denoiser
from cleanlabel.sanitize.fast import accelerate
from cleanlabel.sanitize.files import replacing
from cleanlabel.sanitize.imageset import ImageSet
from cleanlabel.sanitize.keys import Inputs, in_order, key_of
from cleanlabel.sanitize.noise import Entropy, training_seed
from cleanlabel.sanitize.sanitizer import sanitize

CONTROL_DRAW, ENSEMBLE_DRAW, ATTACKERS_DRAW = 1_000_000, 2_000_000, 3_000_000
"""First draw of the noise for controls, for the ensemble, for the attacker's networks; lower ones are the targets'."""


@dataclass(frozen=True)
class Noise(Inputs):
    """What is done to images before training: noise of sigma, and the denoiser that removes it, if any."""

    sigma: float
    denoiser: str | None


@dataclass(frozen=True)
class VoteInputs(Inputs):
    """What an ensemble's vote depends on, in a drill's folder and but for the draw: the images are those asked."""

    clean: str
    images: str
    noise: Noise


@dataclass(frozen=True, eq=False)
class Networks:
    """An attack, its victim, and all that they need. `attackers`: the victims that the attacker assumes.

    `state` is the folder of poisons, cells and votes; what it holds is not made again.
    """

    params: DrillParams
    attack: Attack
    victim: Victim
    attackers: tuple[Victim, ...]
    known: tuple[Extractor, ...]
    candidates: Iterator[Setup]
    test: ImageSet
    denoiser: Denoiser | None
    budget: Budget
    entropy: Entropy
    state: Path
    trusted: ImageSet | None = None
    trained: dict[Any, Any] = field(default_factory=dict)
    """Networks that several targets share, by the set and noise that they were trained on."""

    @cached_property
    def test_features(self) -> Tensor:
        """The frozen extractor's features of the test images."""
        return features(self.victim.extractor, self.test.images, self.victim.device)

    @cached_property
    def copies(self) -> Copies:
        """Features of sanitized copies; drills on the same noise, denoiser and extractor share them."""
        extractor, device = required_extractor(self.victim), self.victim.device
        return Copies(extractor, self.denoiser, self.entropy.value, self.state.parent, device)

    def instrument(self, sigma: float) -> Instrument:
        """The public part of a bounded-influence head at this sigma; the same for all targets."""
        if ("instrument", sigma) not in self.trained:
            root = self.state.parent / "instruments"
            self.trained["instrument", sigma] = kept_instrument(self.victim, self.trusted, sigma, self.denoiser, root)
        made: Instrument = self.trained["instrument", sigma]
        return made

    def summed(self, images: ImageSet, sigma: float, draw: int) -> Extractor:
        """A victim with a bounded-influence head, on these images in the noise of the clean ensembles' draw `draw`."""
        ready = replace(self.victim, instrument=self.instrument(sigma))
        return ready.fitted(self.copies.of(images, sigma, draw if sigma else 0), images.labels)

    def undefended(self, images: ImageSet) -> Extractor:
        """The published victims' head, fitted on these images without noise."""
        recipe = self.victim.recipe.model_copy(update=HEAD)
        return replace(self.victim, recipe=recipe).fitted(self.copies.of(images, 0.0, 0), images.labels)

    def sanitized(self, images: ImageSet, sigma: float, draw: int) -> NDArray[Any]:
        """What the victim trains on: the images as they are at sigma 0, else one sanitized copy."""
        if not sigma:
            return images.images
        fast = accelerate(self.denoiser, sigma, BATCH, len(images)) if self.denoiser else None
        return sanitize(images, sigma, self.denoiser, self.entropy.value, draw, denoise=fast, batch=BATCH)

    def vote(self, clean: ImageSet, images: NDArray[np.uint8], sigma: float, draw: int) -> NDArray[np.int64]:
        """One vote on these images of an ensemble on the clean set; kept, one file per draw."""
        asked = hashlib.sha256(f"{images.shape}\n".encode() + images.tobytes()).hexdigest()
        key = key_of(VoteInputs(in_order(clean), asked, self.noise(sigma)))
        path = self.state / f"ensemble-{sigma:g}-{key}" / f"draw-{draw:04d}.npy"
        if not path.is_file():
            copy = self.sanitized(clean, sigma, ENSEMBLE_DRAW + draw)
            network = self.victim.trained(copy, clean.labels, training_seed(self.entropy.value, ENSEMBLE_DRAW + draw))
            with replacing(path) as scratch, scratch.open("wb") as stream:
                np.save(stream, self.answers(network, images), allow_pickle=False)
        return np.load(path, allow_pickle=False)

    def noise(self, sigma: float) -> Noise:
        """The noise of this sigma; results of two sigmas or denoisers never mix. Sigma 0 leaves images as they are."""
        return Noise(sigma, self.denoiser.digest if sigma and self.denoiser else None)

    def control(self, setup: Setup, sigma: float, poisoned: tuple[int, Poisons, NDArray[Any]] | None) -> Extractor:
        """A victim trained on the clean set.

        In transfer it is fitted on the poisoned copy with clean bases, under the same noise. Elsewhere training takes
        long, and one network serves all targets of the same clean set.
        """
        if self.victim.scenario == "transfer" and poisoned is not None:
            number, poisons, copy = poisoned
            clean = copy.copy()
            clean[poisons.rows] = self.sanitized(setup.clean.take(poisons.rows), sigma, number)
            return self.victim.trained(clean, setup.clean.labels, 0)
        key = ("control", setup.clean.digest, sigma)
        if key not in self.trained:
            copy = self.sanitized(setup.clean, sigma, CONTROL_DRAW)
            seed = training_seed(self.entropy.value, CONTROL_DRAW)
            self.trained[key] = self.victim.trained(copy, setup.clean.labels, seed)
        return self.trained[key]

    def attackers_networks(self, setup: Setup, through: float) -> tuple[Extractor, ...]:
        """What the attacker crafts on: given networks, or ones trained as the victim would."""
        if self.known:
            return self.known
        key = ("known", setup.clean.digest, through)
        if key not in self.trained:
            made = []
            for attacker in self.attackers:
                for i in range(self.params.networks):
                    copy = self.sanitized(setup.clean, through, ATTACKERS_DRAW + len(made))
                    made.append(attacker.trained(copy, setup.clean.labels, self.params.seed + 7919 * (i + 1)))
            self.trained[key] = tuple(made)
        return self.trained[key]

    def answers(self, network: Extractor, images: NDArray[np.uint8]) -> NDArray[np.int64]:
        """The predicted class of each image, (n,)."""
        return answers_of(network, images, self.victim.device)

    def test_answers(self, network: Extractor) -> NDArray[np.int64]:
        """The predicted class of each test image, (n_test,)."""
        if self.victim.scenario == "transfer":  # the features are the same for every head
            return answers_to_features(network, self.test_features)
        return self.answers(network, self.test.images)
