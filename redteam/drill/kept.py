"""Poisons on disk."""

from pathlib import Path

import numpy as np

from cleanlabel.redteam.threat.attacker import Poisons
from cleanlabel.sanitize.files import replacing


def write_poisons(path: Path, poisons: Poisons, seconds: float) -> None:
    """Write poisons and the seconds that they took, atomically."""
    nothing = np.zeros((0, 0), dtype=bool)
    with replacing(path) as scratch, scratch.open("wb") as stream:
        np.savez(
            stream,
            images=poisons.images,
            rows=poisons.rows,
            base=poisons.base,
            history=np.array(poisons.history),
            trigger=nothing if poisons.trigger is None else poisons.trigger,
            seconds=np.array(seconds),
        )


def read_poisons(path: Path) -> tuple[Poisons, float]:
    """What `write_poisons` wrote."""
    with np.load(path, allow_pickle=False) as kept:
        trigger = kept["trigger"] if kept["trigger"].size else None
        history = tuple(float(v) for v in kept["history"])
        return Poisons(kept["images"], kept["rows"], kept["base"], history, trigger), float(kept["seconds"])
