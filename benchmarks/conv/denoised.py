"""What a denoiser is worth to the conv network: its accuracy on sanitized images, and what is left of the poisons."""

from pathlib import Path
from typing import Any

from benchmarks.conv.poisons import Crafted, crafted, left_of
from benchmarks.conv.sets import Sets, accuracy, aims, kept_network, read_sets
from benchmarks.conv.setting import EVIDENCE_SEED, Cell, Size
from cleanlabel.sanitize.denoiser import Denoiser

POISONED = 3
"""Targets whose poisons are sanitized; of 400 poisons each, so that a few will do."""


def worth(root: Path, denoiser: Denoiser, size: Size, cell: Cell, scratch: Path) -> dict[str, dict[str, Any]]:
    """By sigma: test accuracy of each seed's network, and the share of the poisons' change that is kept, by target.

    Noise, seeds and poisons do not depend on the denoiser: two of them can be compared.
    """
    sets = read_sets(root, denoiser, size, scratch)
    networks = sets.attackers(cell.victim, cell.networks)
    found = [crafted(sets, cell, aim) for aim in aims(networks, sets.test, min(POISONED, size.targets), EVIDENCE_SEED)]
    return {
        f"{sigma:g}": {
            "accuracy": [clean_accuracy(sets, cell, sigma, seed) for seed in range(size.seeds)],
            "kept": [kept_of(sets, poisons, sigma) for poisons in found],
        }
        for sigma in size.sigmas
        if sigma
    }


def clean_accuracy(sets: Sets, cell: Cell, sigma: float, seed: int) -> float:
    """Test accuracy of a network that is trained on a sanitized copy without poisons."""
    copy = sets.clean.with_images(sets.copy(sigma, seed))
    return accuracy(kept_network(sets.scratch, copy, cell.victim, seed), sets.test)


def kept_of(sets: Sets, poisons: Crafted, sigma: float) -> float:
    """What one sanitizing keeps of these poisons' change: its projection on the change, mean over the poisons."""
    _, after = sets.poisoned(poisons.images, poisons.rows, sigma, 0)
    return left_of(poisons, sets, after, sigma, 0)["all"]
