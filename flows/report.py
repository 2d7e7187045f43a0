"""What a person reads: the certificate in words and figures, the curve, the table."""

import csv
import io
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cleanlabel.models.certificate import (
    certified_accuracy,
    certified_accuracy_grid,
    images_tolerated,
    radius_beside_a_trigger,
)
from cleanlabel.sanitize.files import replacing

CURVE_POINTS = 61


def curve_radii(largest: float) -> NDArray[np.float64]:
    """Radii from 0 to just past the largest certified one, evenly spaced."""
    return np.linspace(0, largest * 1.05 if largest else 1.0, CURVE_POINTS).round(6)


def write_curve(path: Path, radii: NDArray[np.float64], accuracy: NDArray[np.float64]) -> None:
    """`radius,certified_accuracy`, a line a radius."""
    _write_csv(path, ["radius", "certified_accuracy"], zip(radii.tolist(), accuracy.round(6).tolist(), strict=True))


def write_points(
    path: Path,
    ids: tuple[str, ...],
    truth: NDArray[np.int64],
    label: NDArray[np.int64],
    radius: NDArray[np.float64],
    counts: NDArray[np.int64],
) -> None:
    """A line a test image: id, true class, certified class (-1: abstained), radius, votes for each class."""
    rows = zip(ids, truth.tolist(), label.tolist(), radius.round(6).tolist(), counts.tolist(), strict=True)
    _write_csv(
        path, ["id", "truth", "label", "radius", "votes"], ([*row, " ".join(map(str, votes))] for *row, votes in rows)
    )


def draw_curve(
    path: Path, certificate: dict[str, Any], radii: NDArray[np.float64], accuracy: NDArray[np.float64]
) -> None:
    """Certified accuracy against the joint radius, as a PNG."""
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
        f"{accuracy_name(certificate)} {clean:.3f} ",
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


def title(certificate: dict[str, Any]) -> str:
    """What was certified, in a line."""
    how = "denoised" if certificate["denoiser_digest"] else "noise only"
    scope = "all points at once" if certificate["simultaneous"] else "per point"
    k = certificate.get("partitions", 1)
    models = f"m = {certificate['m']}" + (f" in each of {k} blocks" if k > 1 else "")
    if "influence" in certificate:
        models += " draws, sums of bounded influences"
    if not certificate["sigma"]:
        how = "no noise"
    return f"σ = {certificate['sigma']:g}, {models}, α = {certificate['level']:.3g} {scope}, {how}"


def accuracy_name(certificate: dict[str, Any]) -> str:
    """What the accuracy of all answers, certified or not, is called."""
    return "accuracy of the sums" if "influence" in certificate else "accuracy of the vote"


def at_radii(
    label: NDArray[np.int64],
    radius: NDArray[np.float64],
    truth: NDArray[np.int64],
    radii: list[float],
    epsilon_255: float,
    dimension: int,
) -> list[dict[str, Any]]:
    """For each radius: the certified accuracy, and how many images may change by epsilon (l_infinity) within it."""
    accuracy = certified_accuracy(label, radius, truth, radii)
    return [
        {
            "radius": r,
            "certified_accuracy": round(float(share), 4),
            "images_tolerated": int(images_tolerated(r, l2_of(epsilon_255, dimension))),
            "buys": what_it_buys(r, epsilon_255, dimension),
        }
        for r, share in zip(radii, accuracy, strict=True)
    ]


def at_images(
    label: NDArray[np.int64],
    radius: NDArray[np.float64],
    truth: NDArray[np.int64],
    images: list[int],
    epsilons_255: list[float],
    dimension: int,
) -> list[dict[str, Any]]:
    """For each number of images and each change of every one of them (l_infinity): joint norm, certified accuracy."""
    grid = certified_accuracy_grid(label, radius, truth, images, [l2_of(e, dimension) for e in epsilons_255])
    return [
        {
            "images": r,
            "epsilon_255": e,
            "joint_l2": round(math.sqrt(r) * l2_of(e, dimension), 4),
            "certified_accuracy": round(float(grid[i, j]), 4),
        }
        for i, r in enumerate(images)
        for j, e in enumerate(epsilons_255)
    ]


def at_triggers(
    label: NDArray[np.int64],
    radius: NDArray[np.float64],
    truth: NDArray[np.int64],
    radii: list[float],
    sigma: float,
    test_sigma: float,
) -> list[dict[str, Any]]:
    """For each l2 change of the test input and each joint radius beside it: certified accuracy.

    The triggers asked about are as large as the radii are, in the noise of their own side. Empty where test inputs are
    not noised: no trigger is covered then.
    """
    if not test_sigma:
        return []
    triggers = [round(r * test_sigma / sigma, 6) for r in radii]
    rows = []
    for trigger in triggers:
        beside = radius_beside_a_trigger(radius, sigma, test_sigma, trigger)
        accuracy = certified_accuracy(label, beside, truth, radii)
        rows += [
            {"trigger_l2": trigger, "radius": r, "certified_accuracy": round(float(share), 4)}
            for r, share in zip(radii, accuracy, strict=True)
        ]
    return rows


def l2_of(epsilon_255: float, dimension: int) -> float:
    """The l2 norm, in [0,1] units, of a change of every one of `dimension` values by so many 255ths."""
    return epsilon_255 / 255 * math.sqrt(dimension)


def what_it_buys(radius: float, epsilon_255: float, dimension: int) -> str:
    """A radius in words: how many training images may change by how much."""
    if radius == 0:
        return "the answer is the smoothed classifier's own"
    images = int(images_tolerated(radius, l2_of(epsilon_255, dimension)))
    step = f"{epsilon_255:g}/255"
    if images == 0:
        alone = radius / math.sqrt(dimension) * 255
        return f"no image may change by {step} everywhere; one may by {alone:.2g}/255"
    return f"{images} image{'s' if images > 1 else ''} may change by {step} each"


def table(certificate: dict[str, Any], seconds_a_model: float | None) -> str:
    """The result in Markdown, for the terminal, Prefect's page and the README."""
    spent = f"{seconds_a_model:.2f}" if seconds_a_model is not None else "not recorded"
    k = certificate.get("partitions", 1)
    models = f"{certificate['m']}" + (f" in each of {k} blocks" if k > 1 else "")
    lines = [
        f"| σ | m | α | {accuracy_name(certificate)} | abstentions | seconds a model |",
        "|---|---|---|---|---|---|",
        f"| {certificate['sigma']:g} | {models} | {certificate['level']:.3g} "
        f"| {certificate['vote_accuracy']:.3f} | {certificate['abstentions']} of {certificate['n_test']} | {spent} |",
    ]
    if certificate["at_radii"]:
        header = ["joint radius R", "certified accuracy", "what R buys"]
        rows = [
            [f"{row['radius']:g}", f"{row['certified_accuracy']:.3f}", row["buys"]] for row in certificate["at_radii"]
        ]
        lines += ["", markdown(header, rows)]
    if "influence" in certificate:
        counts = certificate["influence"]["counts"]
        rows = [[f"{row['images']}", f"{row['rewritten']:.3f}", f"{row['relabelled']:.3f}"] for row in counts]
        header = ["images changed at will", "certified, labels kept", "certified, relabelled too"]
        lines += ["", markdown(header, rows)]
    return "\n".join(lines)


def grid_table(certificate: dict[str, Any]) -> str:
    """Certified accuracy by number of changed images and change of each, in Markdown."""
    return _pivot(certificate["at_images"], "images", "images changed", "epsilon_255", "by {:g}/255")


def trigger_table(certificate: dict[str, Any]) -> str:
    """Certified accuracy by change of the test input and joint radius beside it, in Markdown."""
    rows = certificate["at_triggers"]
    return _pivot(rows, "trigger_l2", "l2 change of the test input", "radius", "beside R = {:g}")


def pivot(rows: list[dict[str, Any]], down: str, across: str) -> tuple[list[float], dict[float, list[float]]]:
    """Certified accuracy as a table: its columns, and for each value of `down` a share a column."""
    columns = list(dict.fromkeys(row[across] for row in rows))
    share = {(row[down], row[across]): row["certified_accuracy"] for row in rows}
    names = dict.fromkeys(row[down] for row in rows)
    return columns, {name: [share[name, column] for column in columns] for name in names}


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    lines = ["| " + " | ".join(row) + " |" for row in [header, *rows]]
    return "\n".join([lines[0], "|---" * len(header) + "|", *lines[1:]])


def _pivot(rows: list[dict[str, Any]], down: str, corner: str, across: str, heading: str) -> str:
    columns, lines_of = pivot(rows, down, across)
    lines = ["| " + " | ".join([corner, *map(heading.format, columns)]) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, shares in lines_of.items():
        lines.append(f"| {name:g} | " + " | ".join(f"{share:.3f}" for share in shares) + " |")
    return "\n".join(lines)


def _write_csv(path: Path, header: list[str], rows: Any) -> None:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    with replacing(path) as scratch:
        scratch.write_text(stream.getvalue())
