"""The units of work of each phase, in their order: one crafting with its undefended victim, or one victim, each."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.conv.networks import trained
from benchmarks.conv.poisons import Crafted, crafted, left_of
from benchmarks.conv.rivals import RIVALS
from benchmarks.conv.sets import Aim, Sets, accuracy, leads, margins
from benchmarks.conv.setting import CLASSES, SCALES, Cell, Size
from cleanlabel.sanitize.imageset import ImageSet

Row = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Unit:
    """One row of a record's list: `key` identifies it there, `make` computes the rest."""

    table: str
    key: Row
    make: Callable[[], Row]


@dataclass(frozen=True, eq=False)
class Work:
    """What every unit needs."""

    sets: Sets
    size: Size

    def tuning(self, cells: dict[str, Cell], wanted: list[Aim]) -> Iterator[Unit]:
        """Undefended alone: every cell on the tuning targets, one victim each."""
        for name, cell in cells.items():
            for i, aim in enumerate(wanted):
                yield Unit("tuning", {"cell": name, "target": i}, partial(self._undefended, cell, aim))

    def controls(
        self, name: str, cell: Cell, sigmas: tuple[float, ...], seeds: int, drawn: list[Aim]
    ) -> Iterator[Unit]:
        """Clean networks: one per sigma and seed serves every target."""
        for sigma in sigmas:
            for seed in range(seeds):
                key = {"cell": name, "sigma": sigma, "seed": seed}
                yield Unit("controls", key, partial(self._control, cell, sigma, seed, drawn))

    def victims(
        self, name: str, cell: Cell, sigmas: tuple[float, ...], seeds: int, wanted: list[Aim]
    ) -> Iterator[Unit]:
        """Target by target, every sigma, seeds in the inner loop: the first whole targets are a valid result."""
        for i, aim in enumerate(wanted):
            for sigma in sigmas:
                for seed in range(seeds):
                    key = {"cell": name, "target": i, "sigma": sigma, "seed": seed}
                    yield Unit("victims", key, partial(self._victim, cell, aim, sigma, seed))

    def scaled(self, name: str, cell: Cell, wanted: list[Aim]) -> Iterator[Unit]:
        """Without noise, every poison's change scaled down: what a smaller change alone does."""
        for i, aim in enumerate(wanted):
            for scale in SCALES:
                key = {"cell": name, "target": i, "scale": scale, "seed": 0}
                yield Unit("scaled", key, partial(self._scaled, cell, aim, scale))

    def rivals(self, cell: Cell, wanted: list[Aim], drawn: list[Aim]) -> Iterator[Unit]:
        """Clean sets first, then target by target, every defence: the first whole targets are a valid result."""
        for name in RIVALS:
            yield Unit("rival_controls", {"defence": name}, partial(self._rival_control, name, cell, drawn))
        for i, aim in enumerate(wanted):
            for name in RIVALS:
                yield Unit("rivals", {"defence": name, "target": i}, partial(self._rival, name, cell, aim))

    def _rival_control(self, name: str, cell: Cell, drawn: list[Aim]) -> Row:
        row = self._defended(name, cell, self.sets.clean, drawn)[1]
        del row["scores"]  # those of fifty targets
        return row

    def _rival(self, name: str, cell: Cell, aim: Aim) -> Row:
        found, clean = self._poisons(cell, aim), self.sets.clean
        images = clean.images.copy()
        images[found.rows] = found.images
        removed, row = self._defended(name, cell, clean.with_images(images), [aim])
        row = {"margin": row.pop("margins")[0], "scores": row.pop("scores")[0]} | row | {"taken": row["taken"][0]}
        if removed is not None:
            row["poisons_removed"] = len(np.intersect1d(removed, found.rows))
        return row

    def _defended(
        self, name: str, cell: Cell, raw: ImageSet, wanted: list[Aim]
    ) -> tuple[NDArray[np.int64] | None, Row]:
        made, test = RIVALS[name](self.sets, raw, cell.victim), self.sets.test
        scores = made.scores(test.images)
        answers = scores.argmax(axis=1)  # equal votes: the smaller class, as published
        row = {
            "margins": leads(scores[[i for i, _ in wanted]], wanted),
            "scores": [[round(float(of), 4) for of in scores[i]] for i, _ in wanted],
            "taken": [bool(answers[i] == label) for i, label in wanted],
            "accuracy": round(float((answers == test.labels).mean()), 4),
            "seconds": round(made.seconds, 1),
        }
        if made.removed is not None:
            row["removed"] = len(made.removed)
        return made.removed, row

    def _poisons(self, cell: Cell, aim: Aim) -> Crafted:
        return crafted(self.sets, cell, aim)

    def _undefended(self, cell: Cell, aim: Aim) -> Row:
        clean = np.mean([margins(n, self.sets.test, [aim])[0] for n in self.sets.attackers(cell.victim, cell.networks)])
        return self._victim(cell, aim, 0.0, 0) | {"clean_margin": round(float(clean), 4)}

    def _control(self, cell: Cell, sigma: float, seed: int, drawn: list[Aim]) -> Row:
        clean = self.sets.clean
        network = trained(self.sets.copy(sigma, seed), clean.labels, len(CLASSES), cell.victim, seed)
        return {"margins": margins(network, self.sets.test, drawn), "accuracy": accuracy(network, self.sets.test)}

    def _victim(self, cell: Cell, aim: Aim, sigma: float, seed: int) -> Row:
        found, clean = self._poisons(cell, aim), self.sets.clean
        whole, after = self.sets.poisoned(found.images, found.rows, sigma, seed)
        network = trained(whole, clean.labels, len(CLASSES), cell.victim, seed)
        row = {"margin": margins(network, self.sets.test, [aim])[0], "accuracy": accuracy(network, self.sets.test)}
        if not sigma:
            return row | {"poisons": found.facts} if not seed else row
        return row | {"kept": left_of(found, self.sets, after, sigma, seed)}

    def _scaled(self, cell: Cell, aim: Aim, scale: float) -> Row:
        found, clean = self._poisons(cell, aim), self.sets.clean
        base = clean.images[found.rows]
        smaller = np.rint(base + 255 * scale * found.delta(base)).clip(0, 255).astype(np.uint8)
        whole, _ = self.sets.poisoned(smaller, found.rows, 0.0, 0)
        network = trained(whole, clean.labels, len(CLASSES), cell.victim, 0)
        return {"margin": margins(network, self.sets.test, [aim])[0]}
