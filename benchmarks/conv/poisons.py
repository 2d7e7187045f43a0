"""Crafted poisons, from the cell and the target alone; kept in a scratch folder, and crafted again if they are gone."""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.common.runs import kept
from benchmarks.conv.measures import coherence, high_share
from benchmarks.conv.measures import kept as kept_parts
from benchmarks.conv.sets import Aim, Sets
from benchmarks.conv.setting import EPSILON, Cell
from cleanlabel.redteam.attacks.witches_brew import WitchesBrew
from cleanlabel.redteam.threat.attacker import Budget, Knowledge, Target
from cleanlabel.sanitize.keys import Inputs, in_order, key_of


@dataclass(frozen=True)
class PoisonsInputs(Inputs):
    """What a target's poisons depend on, but for the code. target: its pixels."""

    clean: str
    cell: dict[str, Any]
    epsilon: float
    target: bytes
    label: int
    intended: int


@dataclass(frozen=True, eq=False)
class Crafted:
    """A target's poisons, uint8 (n, h, w, c), the rows that they replace, and facts for the record."""

    images: NDArray[np.uint8]
    rows: NDArray[np.int64]
    facts: dict[str, Any]

    def delta(self, clean: NDArray[np.uint8]) -> NDArray[np.float64]:
        """The change (n, h, w, c) in [0,1] units; clean: the images there before."""
        return (self.images.astype(np.float64) - clean) / 255


def crafted(sets: Sets, cell: Cell, aim: Aim) -> Crafted:
    """The poisons for a target: from the scratch folder, or made and put there.

    A set of poisons is kept with the facts of its crafting.
    """
    path = sets.scratch / f"poisons-{digest(sets, cell, aim)}-{aim[0]}-{aim[1]}.npz"
    found = kept(path, lambda: arrays(craft(sets, cell, aim)))
    return Crafted(found.pop("images"), found.pop("rows"), {name: value.item() for name, value in found.items()})


def arrays(made: Crafted) -> dict[str, NDArray[Any]]:
    """What `kept` writes of poisons."""
    return {"images": made.images, "rows": made.rows, **{name: np.asarray(of) for name, of in made.facts.items()}}


def craft(sets: Sets, cell: Cell, aim: Aim) -> Crafted:
    """Witches' Brew on the attacker's own networks, with the victim's augmentation."""
    networks = sets.attackers(cell.victim, cell.networks)
    started, (row, intended) = time.process_time(), aim
    attack = WitchesBrew(
        steps=cell.steps,
        restarts=cell.restarts,
        shift=cell.victim.shift,
        flip=cell.victim.flip,
        hardest=cell.hardest,
        reduced=cell.victim.network == "conv",
    )
    goal = Target(sets.test.images[row], int(sets.test.labels[row]), intended)
    found = attack.craft(goal, Knowledge(networks, sets.clean), Budget(cell.poisons, EPSILON), row)
    delta = (found.images.astype(np.float64) - found.base) / 255
    facts = {
        "mismatch_before": round(found.history[0], 4),
        "mismatch": round(found.history[-1], 4),
        "joint_l2": round(found.joint_l2, 2),
        "coherence": round(coherence(delta), 4),
        "high": round(high_share(delta), 4),
        "core_seconds": round(time.process_time() - started, 1),
    }
    return Crafted(found.images, found.rows, facts)


def left_of(found: Crafted, sets: Sets, after: NDArray[np.uint8], sigma: float, draw: int) -> dict[str, float]:
    """What a sanitizing keeps of the poisons' change, by `measures.kept`; after: the poisons as a victim gets them."""
    before = sets.copy(sigma, draw)[found.rows]
    change = (after.astype(np.float64) - before) / 255
    left = kept_parts(found.delta(sets.clean.images[found.rows]), change)
    return {part: round(value, 4) for part, value in left.items()}


def digest(sets: Sets, cell: Cell, aim: Aim) -> str:
    """The key of the poisons."""
    row, intended = aim
    target, label = sets.test.images[row].tobytes(), int(sets.test.labels[row])
    return key_of(PoisonsInputs(in_order(sets.clean), cell.facts(), EPSILON, target, label, intended))
