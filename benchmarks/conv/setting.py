"""What is attacked, how, and how much of it is computed; the statistics, declared before the run."""

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from benchmarks.conv.networks import Recipe

CLASSES = (0, 1, 3, 6, 8)
"""Classes of CIFAR-10: airplane, automobile, cat, frog, ship."""
SIGMAS = (0.0, 0.1, 0.25, 0.5)
EPSILON = 16 / 255
ATTACKER_SEED = 1000
"""Seeds of the attacker's networks count from here; those of victims from 0."""
TUNING_SEED, EVIDENCE_SEED = 7, 2026
ENTROPY = "fixed:2026"
"""The noise: replayed by a run that goes on. The attacker does not look at it."""
TEN, ENOUGH = 10, 6
"""Tuning targets, and how many of them a cell must take undefended before its setting is used."""

DECLARED = {
    "targets": "Test images that all of the attacker's clean networks classify correctly, and an intended class, both "
    "drawn by a seed. Tuning and evidence share no image. In the order of the draw: the first k are a valid result.",
    "tuning": f"Undefended only. The first cell that takes {ENOUGH} of ten tuning targets is used; a cell ends once "
    "that is decided.",
    "taken": "At a sigma, a target is taken if more than half of the victims trained on its poisons (one per seed) "
    "classify it as intended.",
    "success": "Share of targets taken, with Clopper and Pearson's exact 95 % interval over targets.",
    "paired": "McNemar's exact two-sided test over targets: taken undefended against taken at sigma.",
    "margin": "Logit of the intended class less the largest other. Its shift at a sigma: the mean over the seeds' "
    "victims less the mean over clean networks of the same sigma and seeds. Mean over targets with Student's 95 % "
    "interval.",
    "control": "The same networks trained without poisons, one per sigma and seed, shared by all targets.",
    "power": "At 5 %, two-sided, with 80 % power: 65 % against 9 % needs 20 targets, 65 % against 30 % needs 50. 9 % "
    "against 3 % is not claimed.",
}


@dataclass(frozen=True)
class Cell:
    """One setting of attacker and victim. A target's poisons follow from it and the target alone."""

    poisons: int = 400
    steps: int = 60
    networks: int = 2
    victim: Recipe = field(default_factory=Recipe)
    restarts: int = 1
    hardest: bool = True

    def facts(self) -> dict[str, Any]:
        """For the record."""
        return asdict(self)


MLP = Recipe(network="mlp", shift=0, flip=False, rate=1e-3, batch=64)
TUNED = {
    "A": Cell(),
}
"""Cells in the order in which they were tried on the tuning targets."""
CHOSEN = "A"
WHY = {
    "MLP, 4 % poisons": replace(TUNED[CHOSEN], victim=MLP),
    "MLP, 1 % poisons": replace(TUNED[CHOSEN], victim=MLP, poisons=100),
    "conv": TUNED[CHOSEN],
    "conv, no augmentation": replace(TUNED[CHOSEN], victim=replace(TUNED[CHOSEN].victim, shift=0, flip=False)),
    "conv, 1 % poisons": replace(TUNED[CHOSEN], poisons=100),
}
"""The ablation, the quick ones first: the chosen cell, and cells that differ from it in one thing or two."""
SCALES = (0.5, 0.25)
"""Shares to which every poison's change is scaled, without any noise: what a loss of that size alone does."""


@dataclass(frozen=True)
class Size:
    """How much is computed."""

    each: int = 2000
    test_each: int = 1000
    tuning: int = TEN
    targets: int = 20
    drawn: int = 50
    seeds: int = 3
    why_targets: int = 10
    why_seeds: int = 1
    sigmas: tuple[float, ...] = SIGMAS


FULL = Size()
QUICK = Size(
    each=60, test_each=30, tuning=1, targets=1, drawn=2, seeds=1, why_targets=1, why_seeds=1, sigmas=(0.0, 0.1)
)


def small(cell: Cell) -> Cell:
    """The cell as `--quick` runs it."""
    return replace(cell, poisons=6, steps=2, networks=1, victim=replace(cell.victim, epochs=1, batch=32))
