"""A picture of what the sanitizer does: raw, noised and sanitized images side by side."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sanitize.denoiser import Denoiser
from sanitize.files import replacing
from sanitize.imageset import ImageSet
from sanitize.sanitizer import as_pixels, sanitize_batch


def examples(raw: ImageSet, count: int) -> ImageSet:
    """The first image of each class in turn, then the second of each, until there are `count`."""
    rank = np.empty(len(raw), dtype=np.int64)
    for label in np.unique(raw.labels):
        rows = np.flatnonzero(raw.labels == label)
        rank[rows] = np.arange(len(rows))
    return raw.take(np.lexsort((raw.labels, rank))[:count])


def contact_sheet(
    raw: ImageSet, sigma: float, denoiser: Denoiser | None, entropy: bytes, draw: int, path: Path, columns: int = 10
) -> None:
    """Write a PNG with one column an image: raw, noised (clipped to be shown) and, with a denoiser, sanitized."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # imported late: it takes a second
    from matplotlib.figure import Figure

    shown = examples(raw, columns)
    noised = sanitize_batch(shown.images, shown.ids, sigma, None, entropy, draw)
    rows: list[tuple[str, NDArray[Any]]] = [("raw", shown.images), (f"noised, σ = {sigma:g}", as_pixels(noised))]
    if denoiser is not None:
        rows.append(("sanitized", sanitize_batch(shown.images, shown.ids, sigma, denoiser, entropy, draw)))

    figure = Figure(figsize=(1.0 * len(shown) + 1.3, 1.05 * len(rows) + 0.1), dpi=110)
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), len(shown), squeeze=False)
    for line, (name, images) in zip(axes, rows, strict=True):
        for axis, image in zip(line, images, strict=True):
            axis.imshow(image.squeeze(), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(b=False)
        label = f"{name}\n{_psnr(shown.images, images)}" if images is not shown.images else name
        line[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=10)
    figure.subplots_adjust(left=1.25 / (len(shown) + 1.3), right=0.995, top=0.98, bottom=0.02, wspace=0.06, hspace=0.06)
    with replacing(path) as scratch:
        figure.savefig(scratch, format="png")


def _psnr(clean: NDArray[np.uint8], other: NDArray[Any]) -> str:
    mse = float(np.mean((clean.astype(np.float64) - other) ** 2)) / 255**2
    return f"{-10 * np.log10(mse):.1f} dB" if mse else "identical"
