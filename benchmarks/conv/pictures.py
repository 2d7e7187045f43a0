"""Poisons before and after sanitizing, of the conv network and of the MLP."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.conv.poisons import crafted
from benchmarks.conv.sets import Aim
from benchmarks.conv.setting import EPSILON, Cell
from benchmarks.conv.units import Work

SHOWN = {"conv": "conv net", "MLP, 4 % poisons": "MLP"}
POISONS = 2
"""Poisons shown of each."""


def picture(work: Work, cells: dict[str, Cell], wanted: list[Aim], path: Path) -> None:
    """The first target's poisons: clean base, poison, its change; what sanitizing leaves of that at each sigma."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    sigmas = [sigma for sigma in work.size.sigmas if sigma][:2]
    heads = ["clean base", "poison", "its change", *(f"left of it,\nσ = {sigma:g}" for sigma in sigmas)]
    heads += ["mean change\nof all poisons", *(f"left of the mean,\nσ = {sigma:g}" for sigma in sigmas)]
    figure, panels = plt.subplots(
        POISONS * len(SHOWN), len(heads), figsize=(1.25 * len(heads), 1.25 * POISONS * len(SHOWN) + 0.4),
        layout="constrained",
    )  # fmt: skip
    for kind, (name, title) in enumerate(SHOWN.items()):
        found = crafted(work.sets, cells[name], wanted[0])
        base = work.sets.clean.images[found.rows]
        delta, left = found.delta(base), [changes(work, found.images, found.rows, sigma) for sigma in sigmas]
        means = [tinted(part.mean(axis=0), np.abs(delta.mean(axis=0)).max()) for part in (delta, *left)]
        for i in range(POISONS):
            row = panels[kind * POISONS + i]
            shown = [base[i], found.images[i], *(tinted(part[i], EPSILON) for part in (delta, *left))]
            for panel, image in zip(row, [*shown, *(means if not i else [])], strict=False):
                panel.imshow(image)
            for panel in row:
                panel.set_axis_off()
            row[0].text(-0.15, 0.5, title, rotation=90, va="center", ha="center", transform=row[0].transAxes)
    for panel, head in zip(panels[0], heads, strict=True):
        panel.set_title(head, fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def changes(work: Work, images: NDArray[np.uint8], rows: NDArray[np.int64], sigma: float) -> NDArray[np.float64]:
    """Sanitized poisons less their sanitized bases under the same noise, in [0,1] units."""
    part = work.sets.clean.take(rows)
    after, before = (work.sets.sanitized(one, sigma, 0).astype(np.float64) for one in (part.with_images(images), part))
    return (after - before) / 255


def tinted(change: NDArray[np.float64], most: float) -> NDArray[np.float64]:
    """A change as a picture: grey where nothing changed; `most` is the whole range."""
    return (0.5 + change / (2 * most)).clip(0, 1)
