"""A contact sheet of poisons: clean bases, poisons, their difference, and the sanitized poisons."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cleanlabel.redteam.drill.drill import Drill
from cleanlabel.redteam.threat.setups import Setup
from cleanlabel.sanitize.preview import AMPLIFIED, draw_sheet
from cleanlabel.sanitize.sanitizer import as_pixels

COLUMNS = 8


def draw_poisons(drill: Drill, setups: list[Setup], path: Path) -> None:
    """Write a PNG of the first poisons of the first targets (the paper's Table 8), one column each.

    PSNR is to the clean base. The sanitized images are those that the victim trained on, with the same noise.
    """
    taken = setups[:COLUMNS]
    each = -(-COLUMNS // len(taken))
    sigmas = [sigma for sigma in drill.params.sigma if sigma]
    lines: dict[str, list[NDArray[Any]]] = {}
    for number, setup in enumerate(taken):
        for sigma in sigmas or [0.0]:
            poisons, _ = drill.poisons(number, setup, sigma)
            if sigma == (sigmas or [0.0])[0]:
                difference = AMPLIFIED * (poisons.images.astype(np.int64) - poisons.base) + 128
                lines.setdefault("clean base", []).append(poisons.base[:each])
                lines.setdefault("poison", []).append(poisons.images[:each])
                shown = difference.clip(0, 255).astype(np.uint8)
                lines.setdefault(f"difference x{AMPLIFIED}", []).append(shown[:each])
            if sigma:
                raw = poisons.injected(setup.clean).take(poisons.rows[:each])
                copy = as_pixels(drill.sanitized(raw, sigma, number))
                lines.setdefault(f"sanitized\nsigma {sigma:g}", []).append(copy)
    draw_sheet([("", [(name, np.concatenate(parts)[:COLUMNS]) for name, parts in lines.items()])], path)
