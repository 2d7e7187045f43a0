"""The curve of certified accuracy as CSV and as a picture, and the test points behind it."""

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cleanlabel.flows.certificate.wording import accuracy_name, title
from cleanlabel.models.rounding import down, down_text
from cleanlabel.sanitize.files import replacing

CURVE_POINTS = 61


def curve_radii(largest: float) -> NDArray[np.float64]:
    """Radii from 0 to just past the largest certified one, evenly spaced."""
    return down(np.linspace(0, largest * 1.05 if largest else 1.0, CURVE_POINTS), 6)


def write_curve(path: Path, radii: NDArray[np.float64], accuracy: NDArray[np.float64]) -> None:
    """Write `radius,certified_accuracy`, one line per radius."""
    _write_csv(path, ["radius", "certified_accuracy"], zip(radii.tolist(), down(accuracy, 6).tolist(), strict=True))


def write_points(
    path: Path,
    ids: tuple[str, ...],
    truth: NDArray[np.int64],
    label: NDArray[np.int64],
    radius: NDArray[np.float64],
    counts: NDArray[np.int64],
) -> None:
    """Write one line per test image: id, true class, certified class (-1: abstained), radius, votes for each class."""
    rows = zip(ids, truth.tolist(), label.tolist(), down(radius, 6).tolist(), counts.tolist(), strict=True)
    _write_csv(
        path, ["id", "truth", "label", "radius", "votes"], ([*row, " ".join(map(str, votes))] for *row, votes in rows)
    )


def draw_curve(
    path: Path, certificate: dict[str, Any], radii: NDArray[np.float64], accuracy: NDArray[np.float64]
) -> None:
    """Draw certified accuracy against the joint radius, as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # imported late: it takes a second
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.2), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    axis.plot(radii, accuracy, color="#1f5fa8", linewidth=2.2, drawstyle="steps-pre")
    axis.fill_between(radii, accuracy, step="pre", color="#1f5fa8", alpha=0.12)
    clean = certificate["vote_accuracy"]
    axis.axhline(clean, color="#888888", linewidth=1, linestyle="--")
    axis.text(
        radii[-1],
        clean,
        f"{accuracy_name(certificate)} {down_text(clean)} ",
        ha="right",
        va="top",
        color="#666666",
        fontsize=9,
    )
    limit = certificate["largest_certifiable_radius"]
    if limit <= radii[-1] and "influence" not in certificate:
        axis.axvline(limit, color="#b5532a", linewidth=1, linestyle=":")
        axis.text(limit, 0.02, f"all {certificate['m']} agree ", ha="right", color="#b5532a", fontsize=9)
    axis.set(
        xlim=(0, radii[-1]),
        ylim=(0, 1),
        xlabel="joint ℓ2 radius R over the whole training set ([0,1] pixel units)",
        ylabel="certified accuracy",
        title=title(certificate),
    )
    axis.grid(alpha=0.25)
    with replacing(path) as scratch:
        figure.savefig(scratch, format="png")


def _write_csv(path: Path, header: list[str], rows: Any) -> None:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    with replacing(path) as scratch:
        scratch.write_text(stream.getvalue())
