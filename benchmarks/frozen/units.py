"""The units of work, in their order: one crafting with its victims, one row each."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.common.runs import kept
from benchmarks.conv.units import Row, Unit
from benchmarks.frozen.sets import Sets
from benchmarks.frozen.setting import CRAFTING_SEED, FILTERED, HEADS, NEIGHBOURS, SUMS, Cell
from cleanlabel.models.extractors import features
from cleanlabel.models.heads import fit_head_of_some
from cleanlabel.redteam.attacks.crafting import pixels_of
from cleanlabel.redteam.defences.deep_knn import strangers
from cleanlabel.redteam.threat.attacker import Budget, Knowledge, as_it_is
from cleanlabel.redteam.threat.setups import Published
from cleanlabel.redteam.threat.victims import SumsHead
from cleanlabel.redteam.threat.views import MovedAtRandom
from cleanlabel.sanitize.imageset import ImageSet
from cleanlabel.sanitize.keys import Inputs, in_order, key_of


@dataclass(frozen=True)
class PoisonsInputs(Inputs):
    """What a setup's poisons depend on, but for the code. raw: with the bases; target: its pixels.

    train, size: what the attacker's own networks are trained on.
    """

    raw: str
    train: str
    target: bytes
    intended: int
    cell: str
    victim: str
    deeper: str
    size: str


@dataclass(frozen=True, eq=False)
class Work:
    """What every unit needs."""

    sets: Sets

    def tried(self, cells: dict[str, Cell], numbers: list[int]) -> Iterator[Unit]:
        """Undefended alone, on setups that are not reported."""
        for name, cell in cells.items():
            for i in numbers:
                yield Unit("tried", {"cell": name, "target": i}, partial(self._victim, cell, i, 0.0, 0))

    def evidence(
        self, cells: dict[str, Cell], numbers: list[int], sigmas: tuple[float, ...], seeds: int
    ) -> Iterator[Unit]:
        """Attack by attack, target by target: every copy, and Deep k-NN on the same poisons; controls with the first.

        So an attack's first targets are a valid result.
        """
        for number, (name, cell) in enumerate(cells.items()):
            for i in numbers:
                for sigma, seed in () if number else copies(sigmas, seeds):
                    key = {"target": i, "sigma": sigma, "seed": seed}
                    yield Unit("controls", key, partial(self._control, cells, i, sigma, seed))
                for sigma, seed in copies(sigmas, seeds):
                    key = {"cell": name, "target": i, "sigma": sigma, "seed": seed}
                    yield Unit("victims", key, partial(self._victim, cell, i, sigma, seed))
                for sigma in (sigma for sigma in sigmas if sigma in FILTERED):
                    key = {"cell": name, "target": i, "sigma": sigma, "seed": 0}
                    yield Unit("filtered", key, partial(self._filtered, cell, i, sigma))

    def _control(self, cells: dict[str, Cell], number: int, sigma: float, seed: int) -> Row:
        setup = self.sets.setups[number]
        raw, rows = self.sets.raw(setup, next(iter(cells.values())))
        return self._judged(setup, self.sets.raw_features(raw, raw.take(rows), rows, sigma, seed), raw.labels, sigma)

    def _victim(self, cell: Cell, number: int, sigma: float, seed: int) -> Row:
        setup = self.sets.setups[number]
        raw, changed, rows, facts = self._poisons(cell, setup)
        row = self._judged(setup, self.sets.raw_features(raw, changed, rows, sigma, seed), raw.labels, sigma)
        return row if sigma else row | {"poisons": facts}

    def _filtered(self, cell: Cell, number: int, sigma: float) -> Row:
        setup = self.sets.setups[number]
        raw, changed, rows, _ = self._poisons(cell, setup)
        found = self.sets.raw_features(raw, changed, rows, sigma, 0)
        removed = strangers(found, raw.labels, max(1, round(NEIGHBOURS * len(raw))))
        rest = np.setdiff1d(np.arange(len(raw)), removed)
        row = self._judged(setup, found[rest], raw.labels[rest], sigma)
        return row | {"removed": len(removed), "poisons_removed": len(np.intersect1d(removed, rows))}

    def _judged(self, setup: Published, found: Tensor, labels: NDArray[np.int64], sigma: float) -> Row:
        """Of each head on these features: its margin on the target, and its accuracy on the test images."""
        sets = self.sets
        asked = torch.cat([features(sets.victim, sets.target(setup).image[None]), sets.test_features])
        scores = self._scores(found, labels, sigma, asked)
        right = {name: (of[1:].argmax(axis=1) == sets.test.labels).mean() for name, of in scores.items()}
        return {
            "margins": {name: margin(of[0], setup.base_class) for name, of in scores.items()},
            "accuracy": {name: round(float(share), 4) for name, share in right.items()},
        }

    def _scores(
        self, found: Tensor, labels: NDArray[np.int64], sigma: float, asked: Tensor
    ) -> dict[str, NDArray[np.floating[Any]]]:
        """Each head's scores (n, K) of clean features; bounded influence: sums over the largest."""
        truth, classes = torch.from_numpy(labels), self.sets.classes
        heads = {
            name: fit_head_of_some(found, truth, classes, kind, l2)(asked).numpy() for name, (kind, l2) in HEADS.items()
        }
        sums = SumsHead(self.sets.instrument(sigma), found, labels, classes)(asked).numpy()
        return heads | {SUMS: sums / np.abs(sums).max(axis=1, keepdims=True).clip(min=1)}

    def _poisons(self, cell: Cell, setup: Published) -> tuple[ImageSet, ImageSet, NDArray[np.int64], dict[str, Any]]:
        """(raw set before, poisons, their rows, facts): from the scratch folder, or made and put there."""
        raw, rows = self.sets.raw(setup, cell)
        sets = self.sets
        of = (in_order(raw), in_order(sets.train), sets.target(setup).image.tobytes(), setup.base_class)
        known = key_of(PoisonsInputs(*of, repr(cell), sets.victim.digest, sets.deeper.digest, repr(sets.size)))
        found = kept(sets.scratch / f"poisons-{known}.npz", lambda: self._crafted(cell, setup, raw, rows))
        changed = raw.take(rows).with_images(found.pop("images"))
        return raw, changed, rows, {name: value.item() for name, value in found.items()}

    def _networks(self, cell: Cell) -> tuple[Any, ...]:
        match cell.known:
            case "victim":
                return (self.sets.victim,)
            case "small":
                return self.sets.small
            case "alike":
                return self.sets.alike

    def _crafted(self, cell: Cell, setup: Published, raw: ImageSet, rows: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        """The poisons, and facts of their crafting: what `kept` writes."""
        goal, budget = self.sets.target(setup), Budget(cell.poisons, cell.epsilon_255 / 255)
        known = Knowledge(self._networks(cell), raw, rows, MovedAtRandom() if cell.moved else as_it_is)
        poisons = cell.attack.craft(goal, known, budget, CRAFTING_SEED)
        left = self._distance(goal.image, poisons.images)
        before = self._distance(goal.image, poisons.base)
        facts = {"joint_l2": poisons.joint_l2, "distance": left, "distance_before": before}
        return {"images": poisons.images, **{name: np.asarray(round(of, 3)) for name, of in facts.items()}}

    @torch.inference_mode()
    def _distance(self, target: NDArray[np.uint8], images: NDArray[np.uint8]) -> float:
        """From the images' mean feature to the target's, over its length, in the victim's extractor."""
        network = self.sets.victim.network
        wanted, found = (network(2 * pixels_of(of) - 1) for of in (target[None], images))
        return float((found.mean(dim=0) - wanted[0]).norm() / wanted[0].norm())


def copies(sigmas: tuple[float, ...], seeds: int) -> list[tuple[float, int]]:
    """Every copy's sigma and seed; without noise there is one copy."""
    return [(sigma, seed) for sigma in sigmas for seed in range(seeds if sigma else 1)]


def margin(scores: NDArray[np.floating[Any]], intended: int) -> float:
    """The intended class's score less the largest other; above 0 the attack has succeeded."""
    others = np.delete(scores, intended)
    return round(float(scores[intended] - others.max()), 4)
