"""What is attacked and how; what counts as success, declared before the run."""

from dataclasses import dataclass, replace
from typing import Any, Literal

from cleanlabel.models.heads import HeadKind
from cleanlabel.redteam.attacks.bullseye_polytope import BullseyePolytope
from cleanlabel.redteam.attacks.convex_polytope import ConvexPolytope
from cleanlabel.redteam.attacks.poison_frogs import PoisonFrogs
from cleanlabel.redteam.threat.attacker import Attack

SIGMAS = (0.0, 0.1, 0.25, 0.5, 1.0)
FILTERED = (0.0, 0.1, 0.25)
"""Sigmas at which Deep k-NN filters the sanitized copy (0: the raw set)."""
SEEDS = 3
"""Sanitized copies, so victims, per target and sigma. Without noise nothing is random: one victim."""
NEIGHBOURS = 0.01
"""Deep k-NN's k as a share of the raw set: the 500 of 50,000 of the paper's Table 4."""
HEADS: dict[str, tuple[HeadKind, float]] = {"logistic": ("logistic", 0.001), "lda": ("lda", 1.0)}
"""Kind and l2. The first is the published victim's."""
SUMS = "bounded influence"
SMALL = (1000, 1001)
"""Seeds of the black-box attacker's small networks."""
ALIKE = ((1000, 0.0), (1001, 0.0), (1002, 0.1))
"""Seeds of his networks of the victim's depth, and the noise in their training images, which are clipped."""
SURROGATE_ENTROPY = "fixed:1"
CRAFTING_SEED = 0
RANDOM = {"crafting": CRAFTING_SEED, "small": SMALL, "alike": ALIKE, "alike_entropy": SURROGATE_ENTROPY}
"""For the record: the attacker's seeds."""
FIRST_TUNED = 30
"""Setups from here on serve to choose the attacker's cells, undefended."""

DECLARED = {
    "setups": "The public benchmark's transfer setups for CIFAR-10 in their order: a target of the test split, its "
    "intended class and 25 bases of the training split. The first k are a valid result. Cells are tried, undefended, "
    f"on setups from number {FIRST_TUNED} on, which are not reported.",
    "raw": "CIFAR-10's test split without every setup's target and without 100 test images of each class, and the "
    "bases. Extractor and denoiser were trained on the training split.",
    "taken": "Most of a target's victims give it the intended class. A victim is a head on one sanitized copy; the "
    f"copies of {SEEDS} seeds per sigma, and one victim where nothing is random. Intervals are over targets "
    "(Clopper-Pearson, 95 %) and hold for these copies of the pool, which all targets share.",
    "black-box": "The attacker does not have the victim's extractor. He crafts on the published ResNet-56 and on three "
    "ResNet-20 that he trains on the training split for 12 epochs, one of them on images with noise of sigma .1. Each "
    "step sees the poisons moved by up to 2 pixels and mirrored, and their mean feature is to go 1.5 times the way "
    "from the bases' to the target's.",
    "Deep k-NN": f"k = {NEIGHBOURS:.0%} of the raw set, the share that the paper's 500 has; on the copies of seed 0.",
    "control": "The same victim with the bases unchanged.",
    "accuracy": "On the 1,000 test images, the mean over targets and seeds.",
}


@dataclass(frozen=True)
class Cell:
    """An attack with its budget. known: `victim`, the victim's extractor, or networks that are not his (black-box):

    `small`, the published ResNet-56 and two small ones; `alike`, the ResNet-56 and three ResNet-20. moved: each step
    sees the poisons moved and mirrored at random. poisons: the public bases, and where they are fewer, the first images
    of their class among the raw ones.
    """

    attack: Attack
    known: Literal["victim", "small", "alike"] = "victim"
    poisons: int = 25
    epsilon_255: int = 16
    moved: bool = False

    def facts(self) -> dict[str, Any]:
        """For the record."""
        named = {"attack": type(self.attack).__name__, "settings": vars(self.attack)}
        budget = {"poisons": self.poisons, "epsilon_255": self.epsilon_255}
        return named | {"known": self.known, "moved": self.moved} | budget


MANY = 90
"""1 % of the raw set: the paper's share, and the public benchmark's."""
FROGS, CONVEX, BULLSEYE = Cell(PoisonFrogs()), Cell(ConvexPolytope()), Cell(BullseyePolytope())
BLACK_BOX = replace(BULLSEYE, known="small")
BEYOND = Cell(BullseyePolytope(steps=100, aim=1.5), "alike", MANY, moved=True)
TRIED = {
    "bullseye": BULLSEYE,
    "frogs": FROGS,
    "convex": CONVEX,
    "bullseye, 90": replace(BULLSEYE, poisons=MANY),
    "frogs, 90": replace(FROGS, poisons=MANY),
    "black-box, 25": BLACK_BOX,
    "black-box, 90": replace(BLACK_BOX, poisons=MANY),
    "convex, 90": replace(CONVEX, poisons=MANY),
    "black-box, 90, beyond": BEYOND,
    "convex, 1,200 steps": replace(CONVEX, attack=ConvexPolytope(steps=1200)),
}
"""What is tried undefended on setups that are not reported."""
CELLS = {
    "bullseye": replace(BULLSEYE, poisons=MANY),
    "bullseye, 25": BULLSEYE,
    "frogs": replace(FROGS, poisons=MANY),
    "bullseye, ε = 8/255": replace(BULLSEYE, poisons=MANY, epsilon_255=8),
    "bullseye, black-box": BEYOND,
    "bullseye, moved": replace(BEYOND, known="victim"),
}
"""What is reported: of the cells that were tried, those that take targets undefended. Convex Polytope takes none.

The last one was added once the black-box poisons turned out to hold through a small sigma: it tells what does it.
"""


@dataclass(frozen=True)
class Size:
    """How much is computed."""

    test_each: int = 100
    raw: int | None = None
    trusted: int = 4000
    targets: int = 20
    tuned: int = 5
    surrogates: int = 50_000
    epochs: int = 8
    alike_epochs: int = 12
    sigmas: tuple[float, ...] = SIGMAS


FULL = Size()
QUICK = Size(2, raw=60, trusted=60, targets=1, tuned=1, surrogates=100, epochs=1, alike_epochs=1, sigmas=(0.0, 0.1))


def small(cell: Cell) -> Cell:
    """The cell as `--quick` runs it."""
    return replace(cell, poisons=3, attack=replace(cell.attack, steps=2))  # type: ignore[type-var]
