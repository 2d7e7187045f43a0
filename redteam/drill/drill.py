"""The drill: craft, inject, sanitize, train, ask; target by target, sigma by sigma, each kept as soon as it is done."""

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
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
from cleanlabel.redteam.drill.kept import read_poisons, write_poisons
from cleanlabel.redteam.drill.params import HEAD, DrillParams
from cleanlabel.redteam.threat.attacker import Attack, Backdoor, Budget, Goal, Knowledge, Poisons, View, as_it_is
from cleanlabel.redteam.threat.setups import Setup
from cleanlabel.redteam.threat.victims import Victim, answers, answers_to_features, required_extractor
from cleanlabel.redteam.threat.views import ThroughSanitizer
from cleanlabel.sanitize.denoiser import Denoiser
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.fast import accelerate
from cleanlabel.sanitize.files import replacing, write_json
from cleanlabel.sanitize.imageset import ImageSet
from cleanlabel.sanitize.noise import Entropy, training_seed
from cleanlabel.sanitize.sanitizer import sanitize

CONTROL_DRAW, ENSEMBLE_DRAW, ATTACKERS_DRAW = 1_000_000, 2_000_000, 3_000_000
"""Draws of the noise from here on: controls', the ensemble's, the attacker's own networks'. Below: the targets'."""
Tick = Callable[[str, float], None]


@dataclass(frozen=True)
class Cell:
    """One victim: trained on one poisoned set at one sigma.

    success: share of the asked test images that are taken for the intended class (0 or 1 for one target). control: the
    same for a victim trained on the clean set, sanitized alike. accuracy on the clean test set. Seconds of its steps;
    norms of the poisons in [0,1] units; the attack's own objective, at its first step and after rounding.
    """

    setup: str
    sigma: float
    success: float
    control: float
    accuracy: float
    linf: float
    l2: float
    joint_l2: float
    objective_before: float
    objective_after: float
    craft_seconds: float
    sanitize_seconds: float
    train_seconds: float


@dataclass(frozen=True, eq=False)
class Drill:
    """An attack, its victim, and all that they need. `attackers`: victims as the attacker believes them to train.

    `state` is where poisons and cells are kept; what is there already is not made again.
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
    """Networks that several targets share, by what they were trained on."""

    @property
    def white_box(self) -> bool:
        return not self.params.known

    @cached_property
    def test_features(self) -> Tensor:
        """What the frozen extractor makes of the test images."""
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
        """What the head of the published victims would be on these images, as they are."""
        recipe = self.victim.recipe.model_copy(update=HEAD)
        return replace(self.victim, recipe=recipe).fitted(self.copies.of(images, 0.0, 0), images.labels)

    def chosen(self, say: Callable[[str], None] = lambda _: None) -> list[Setup]:
        """The first so many candidates whose target the undefended victim gets right without any attack.

        A target that is misclassified anyway shows nothing of the attack; it is left out and said so. InputError if
        too few are left.
        """
        found: list[Setup] = []
        tried = 0
        while len(found) < self.params.targets and (setup := next(self.candidates, None)):
            tried += 1
            goal = setup.goal
            if isinstance(goal, Backdoor):
                found.append(setup)
                continue
            clean = self.summed(setup.clean, 0.0, 0) if self.victim.summed else self._control(setup, 0.0, None)
            answer = int(self._answers(clean, goal.image[None])[0])
            if answer == goal.label:
                found.append(setup)
            else:
                say(f"{setup.name}: of class {goal.label}, taken for {answer} without any attack; left out")
        if len(found) < self.params.targets:
            raise InputError(
                f"{len(found)} of {tried} targets can be attacked (the others are misclassified without an attack), "
                f"{self.params.targets} are asked for; lower --targets or train a better victim"
            )
        return found

    def run(self, number: int, setup: Setup, tick: Tick = lambda *_: None) -> Iterator[Cell]:
        """The cells of one target, in the order of the sigmas; those on disk are read."""
        for sigma in self.params.sigma:
            draws = f"-of-{self.params.draws}" if self.victim.summed else ""
            path = self.state / setup.name / f"sigma-{self._noise(sigma)}{draws}.json"
            if path.is_file():
                yield Cell(**json.loads(path.read_text()))
                continue
            poisons, seconds = self.poisons(number, setup, sigma, tick)
            cell = self._measured(number, setup, poisons, sigma, seconds)
            write_json(path, asdict(cell))
            yield cell

    def poisons(self, number: int, setup: Setup, sigma: float, tick: Tick = lambda *_: None) -> tuple[Poisons, float]:
        """The poisons for one target and the seconds they took; an adaptive attacker makes others for every sigma."""
        through = sigma if self.params.adaptive else 0.0
        path = self.state / setup.name / (f"poisons-through-{self._noise(through)}.npz" if through else "poisons.npz")
        if path.is_file():
            return read_poisons(path)
        started = time.perf_counter()
        view: View = ThroughSanitizer(self.denoiser, through, self.params.chances) if through else as_it_is
        networks = self._networks(setup, through)
        attacker = self.attackers[0]
        known = Knowledge(
            networks,
            setup.clean,
            setup.bases,
            view,
            None if attacker.summed else attacker.trained,  # sums have no gradient to craft on
            attacker.device,
            lambda value: tick(setup.name, value),
        )
        made = self.attack.craft(setup.goal, known, self.budget, self.params.seed * 1000 + number)
        if not made.within(self.budget):
            raise RuntimeError(f"{self.params.attack} left its budget at {setup.name}: l_inf {made.linf}, l2 {made.l2}")
        seconds = time.perf_counter() - started
        write_poisons(path, made, seconds)
        return made, seconds

    def sanitized(self, images: ImageSet, sigma: float, draw: int) -> NDArray[Any]:
        """What the victim trains on: the images as they are at sigma 0, else one sanitized copy."""
        if not sigma:
            return images.images
        fast = accelerate(self.denoiser, sigma, BATCH, len(images)) if self.denoiser else None
        return sanitize(images, sigma, self.denoiser, self.entropy.value, draw, denoise=fast, batch=BATCH)

    def vote(self, clean: ImageSet, images: NDArray[np.uint8], sigma: float, draw: int) -> NDArray[np.int64]:
        """One vote on these images of an ensemble on the clean set; kept, a file a draw."""
        asked = hashlib.sha256(clean.digest.encode() + images.tobytes()).hexdigest()[:8]
        path = self.state / f"ensemble-{self._noise(sigma)}-{asked}" / f"draw-{draw:04d}.npy"
        if not path.is_file():
            copy = self.sanitized(clean, sigma, ENSEMBLE_DRAW + draw)
            network = self.victim.trained(copy, clean.labels, training_seed(self.entropy.value, ENSEMBLE_DRAW + draw))
            with replacing(path) as scratch, scratch.open("wb") as stream:
                np.save(stream, self._answers(network, images), allow_pickle=False)
        return np.load(path, allow_pickle=False)

    def _noise(self, sigma: float) -> str:
        """Sigma and, where noise is removed, by what: two denoisers' cells never mix."""
        return f"{sigma:g}-{self.denoiser.digest[:8]}" if sigma and self.denoiser else f"{sigma:g}"

    def _measured(self, number: int, setup: Setup, poisons: Poisons, sigma: float, craft_seconds: float) -> Cell:
        raw = poisons.injected(setup.clean)
        started = time.perf_counter()
        if self.victim.summed:
            draw = number % self.params.draws  # one of the clean ensembles', whose copies it shares
            control = self.summed(setup.clean, sigma, draw)
            sanitized = time.perf_counter()
            network = self.summed(raw, sigma, draw)
            trained = time.perf_counter()
        else:
            copy = self.sanitized(raw, sigma, number)
            sanitized = time.perf_counter()
            network = self.victim.trained(copy, raw.labels, training_seed(self.entropy.value, number))
            trained = time.perf_counter()
            control = self._control(setup, sigma, (number, poisons, copy))
        return Cell(
            setup=setup.name,
            sigma=sigma,
            success=self._success(network, setup.goal),
            control=self._success(control, setup.goal),
            accuracy=float(np.mean(self._test_answers(network) == self.test.labels)),
            linf=poisons.linf,
            l2=poisons.l2,
            joint_l2=poisons.joint_l2,
            objective_before=poisons.history[0],
            objective_after=poisons.history[-1],
            craft_seconds=round(craft_seconds, 2),
            sanitize_seconds=round(sanitized - started, 2),
            train_seconds=round(trained - sanitized, 2),
        )

    def _control(self, setup: Setup, sigma: float, poisoned: tuple[int, Poisons, NDArray[Any]] | None) -> Extractor:
        """A victim of the clean set. With a new head alone, on the poisoned copy with clean bases, of the same noise;
        where training takes long, one for all targets of the same clean set."""
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

    def _networks(self, setup: Setup, through: float) -> tuple[Extractor, ...]:
        """What the attacker crafts on: networks he was given, or that he trains himself, as the victim would."""
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

    def asked(self, goal: Goal) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """The test images by which success is measured, uint8 (k, h, w, c), and their true labels (k,)."""
        if not isinstance(goal, Backdoor):
            return goal.image[None], np.array([goal.label])
        wanted = self.test.labels != goal.intended if goal.source is None else self.test.labels == goal.source
        if not wanted.any():
            raise InputError(f"the test set has no image of class {goal.source}; bring one")
        return goal.trigger.put(self.test.images[wanted], seed=self.params.seed), self.test.labels[wanted]

    def _success(self, network: Extractor, goal: Goal) -> float:
        return float(np.mean(self._answers(network, self.asked(goal)[0]) == goal.intended))

    def _answers(self, network: Extractor, images: NDArray[np.uint8]) -> NDArray[np.int64]:
        return answers(network, images, self.victim.device)

    def _test_answers(self, network: Extractor) -> NDArray[np.int64]:
        if self.victim.scenario == "transfer":  # the features are the same for every head
            return answers_to_features(network, self.test_features)
        return self._answers(network, self.test.images)
