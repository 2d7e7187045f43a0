"""The figures as a picture and as a table."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.fashion.plan import ALPHA, ENSEMBLES, RADII
from cleanlabel.models.rounding import down_text


def plot(rows: dict[str, dict[str, Any]], curve: NDArray[np.float64], m: int, path: Path) -> None:
    """Certified accuracy against the joint radius, one line per ensemble."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # imported late: it takes a second
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.4), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    colours = {sigma: f"C{i}" for i, sigma in enumerate(sorted({row["sigma"] for row in rows.values()}))}
    for row in rows.values():
        style = dict(zip(ENSEMBLES, ("-", "--", ":"), strict=True))[row["ensemble"]]
        heights = np.array(row["curve"])
        shown = curve[: np.flatnonzero(heights)[-1] + 2] if heights.any() else curve[:1]
        label = f"σ = {row['sigma']:g}, {row['ensemble']}"
        axis.plot(shown, heights[: len(shown)], style, color=colours[row["sigma"]], label=label, drawstyle="steps-post")
    axis.set(xlabel="joint ℓ2 radius R over all training images, pixels in [0,1]", ylabel="certified accuracy")
    axis.set(xlim=(0, None), ylim=(0, 1), title=f"Fashion-MNIST from scratch, {m} models, α = {ALPHA:g} per point")
    axis.grid(alpha=0.3)
    axis.legend()
    axis.spines[["top", "right"]].set_visible(b=False)
    figure.savefig(path, format="png")


def show(rows: dict[str, dict[str, Any]]) -> None:
    """Print a line per ensemble and sigma."""
    print("\n| σ | | one model | vote | abstain | " + " | ".join(f"R = {r:g}" for r in RADII) + " | s/model |")
    print("|---|---|---|---|---|" + "---|" * len(RADII) + "---|")
    for row in rows.values():
        cells = " | ".join(down_text(row["certified"][f"{r:g}"]) for r in RADII)
        seconds = row["sanitize_seconds_a_model"] + row["train_seconds_a_model"]
        print(
            f"| {row['sigma']:g} | {row['ensemble']} | {row['one_model']:.3f} | {row['vote']:.3f} | "
            f"{row['abstentions']} | {cells} | {seconds:.1f} |"
        )
