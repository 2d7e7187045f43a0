"""A drill: craft poisons, inject, sanitize, train and measure, per target and sigma; each result is kept at once."""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from cleanlabel.models.extractors import Extractor
from cleanlabel.redteam.drill.kept import read_poisons, write_poisons
from cleanlabel.redteam.drill.networks import Networks, Noise
from cleanlabel.redteam.threat.attacker import Backdoor, Goal, Knowledge, Poisons, View, as_it_is
from cleanlabel.redteam.threat.setups import Setup
from cleanlabel.redteam.threat.views import ThroughSanitizer
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.files import write_json
from cleanlabel.sanitize.keys import Inputs, key_of
from cleanlabel.sanitize.noise import training_seed

Tick = Callable[[str, float], None]


@dataclass(frozen=True)
class CellInputs(Inputs):
    """What a cell depends on in the folder of its drill and target. draws: for sums, how many an ensemble has."""

    noise: Noise
    draws: int | None


@dataclass(frozen=True)
class PoisonsInputs(Inputs):
    """What poisons depend on in the folder of their drill and target: the noise that they are crafted through."""

    through: Noise


@dataclass(frozen=True)
class Cell:
    """One victim: trained on one poisoned set at one sigma.

    success: share of the attacked test images that are classified as the intended class (0 or 1 for one target).
    control: the same for a victim trained on the clean set, sanitized alike. accuracy on the clean test set. Seconds of
    its steps; norms of the poisons in [0,1] units; the attack's own objective, at its first step and after rounding.
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
class Drill(Networks):
    """One attack against one victim: choose targets, craft poisons, train victims on them and measure success."""

    @property
    def white_box(self) -> bool:
        """Whether the attacker crafts on the victim's own network."""
        return not self.params.known

    def chosen(self, say: Callable[[str], None] = lambda _: None) -> list[Setup]:
        """The first `targets` candidates whose target the undefended victim classifies correctly without an attack.

        A target that is misclassified anyway shows nothing about the attack: it is left out, and `say` is told.
        InputError if too few are left.
        """
        found: list[Setup] = []
        tried = 0
        while len(found) < self.params.targets and (setup := next(self.candidates, None)):
            tried += 1
            goal = setup.goal
            if isinstance(goal, Backdoor):
                found.append(setup)
                continue
            clean = self.summed(setup.clean, 0.0, 0) if self.victim.summed else self.control(setup, 0.0, None)
            answer = int(self.answers(clean, goal.image[None])[0])
            if answer == goal.label:
                found.append(setup)
            else:
                say(f"{setup.name}: of class {goal.label}, classified as {answer} without an attack; left out")
        if len(found) < self.params.targets:
            raise InputError(
                f"{len(found)} of {tried} targets can be attacked (the others are misclassified without an attack), "
                f"but --targets is {self.params.targets}; lower it, or train a better victim"
            )
        return found

    def run(self, number: int, setup: Setup, tick: Tick = lambda *_: None) -> Iterator[Cell]:
        """The cells of one target, in the order of the sigmas; those on disk are read."""
        for sigma in self.params.sigma:
            inputs = CellInputs(self.noise(sigma), self.params.draws if self.victim.summed else None)
            path = self.state / setup.name / f"sigma-{sigma:g}-{key_of(inputs)}.json"
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
        named = f"-through-{through:g}-{key_of(PoisonsInputs(self.noise(through)))}" if through else ""
        path = self.state / setup.name / f"poisons{named}.npz"
        if path.is_file():
            return read_poisons(path)
        started = time.perf_counter()
        view: View = ThroughSanitizer(self.denoiser, through, self.params.chances) if through else as_it_is
        networks = self.attackers_networks(setup, through)
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
            raise RuntimeError(
                f"{self.params.attack} exceeds its budget at {setup.name}: l_inf {made.linf}, l2 {made.l2}"
            )
        seconds = time.perf_counter() - started
        write_poisons(path, made, seconds)
        return made, seconds

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
            control = self.control(setup, sigma, (number, poisons, copy))
        return Cell(
            setup=setup.name,
            sigma=sigma,
            success=self._success(network, setup.goal),
            control=self._success(control, setup.goal),
            accuracy=float(np.mean(self.test_answers(network) == self.test.labels)),
            linf=poisons.linf,
            l2=poisons.l2,
            joint_l2=poisons.joint_l2,
            objective_before=poisons.history[0],
            objective_after=poisons.history[-1],
            craft_seconds=round(craft_seconds, 2),
            sanitize_seconds=round(sanitized - started, 2),
            train_seconds=round(trained - sanitized, 2),
        )

    def asked(self, goal: Goal) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """The attacked test images, uint8 (k, h, w, c), and their true labels (k,). InputError if there are none."""
        if not isinstance(goal, Backdoor):
            return goal.image[None], np.array([goal.label])
        wanted = self.test.labels != goal.intended if goal.source is None else self.test.labels == goal.source
        if not wanted.any():
            raise InputError(f"the test set has no image of class {goal.source}; give one that has")
        return goal.trigger.put(self.test.images[wanted], seed=self.params.seed), self.test.labels[wanted]

    def _success(self, network: Extractor, goal: Goal) -> float:
        return float(np.mean(self.answers(network, self.asked(goal)[0]) == goal.intended))
