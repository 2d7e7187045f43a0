"""How the benchmark of bounded influences shows its rows: tables and a picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cleanlabel.models.certificate import Ints, certified_accuracy
from cleanlabel.models.rounding import down_text

RADII = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 12.4, 17.4)
COUNTS = (1, 5, 12, 25, 50, 100)
"""The tables' columns: joint radii, and images that are changed at will."""
REACH = 40.0
MOST = 400
"""How far the picture's axes go."""


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown: by radius where there is one, and by images changed at will where these are known."""
    lines = []
    for title, names, known in (
        ("certified at R, sharper bound (page's)", [f"{r:g}" for r in RADII], "certified"),
        ("certified at images rewritten / relabelled", [f"{a}" for a in COUNTS], "rewritten"),
    ):
        shown = [row for row in rows if known in row]
        if not shown:
            continue
        lines += [f"\n| {title} | accuracy | {' | '.join(names)} | seconds |", "|---" * (len(names) + 3) + "|"]
        for row in shown:
            other = row.get("page" if known == "certified" else "relabelled", [None] * len(names))
            cells = [
                down_text(a) + ("" if b is None else f" ({down_text(b)})")
                for a, b in zip(row[known], other, strict=True)
            ]
            seconds = f"{row.get('draw_seconds', 0) * row.get('m', 0) + row['certify_seconds']:.0f}"
            lines.append(f"| {words(row)} | {row['accuracy']:.3f} | {' | '.join(cells)} | {seconds} |")
    return "\n".join(lines)


def words(row: dict[str, Any]) -> str:
    """What a row is of."""
    named = ("k = {k}", "σ = {sigma:g}", "{way}", "{form}", "m = {m}", "{share:.1%} near")
    keys = ("k", "sigma", "way", "form", "m", "share")
    return ", ".join([row["head"], *(form.format(**row) for form, key in zip(named, keys, strict=True) if key in row)])


def draw_picture(name: str, rows: list[dict[str, Any]], rivals: list[dict[str, Any]], truth: Ints, path: Path) -> None:
    """Left: by radius, one colour per sigma, votes dashed. Right: by images rewritten and relabelled at will, R = 0."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # imported late: it takes a second
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4.8), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    by_radius, by_count = figure.subplots(1, 2, sharey=True)
    colour = {sigma: f"C{i}" for i, sigma in enumerate(sorted({row["sigma"] for row in rows}))}
    radii = np.geomspace(0.05, REACH, 400)
    for row in rows:
        if "curve" not in row or row.get("form", "threshold") != "threshold":
            continue
        heights = certified_accuracy(*row["curve"], truth, radii)
        votes = row["head"] == "votes"
        style = "--" if votes else ("-" if row["way"] == "noise only" else "-.")
        label = f"σ = {row['sigma']:g}, " + (
            f"{row['m']} votes" if votes else f"influence, {row['way']}, m = {row['m']}"
        )
        by_radius.plot(radii, np.where(heights > 0, heights, np.nan), style, color=colour[row["sigma"]], label=label)
    by_radius.set(xscale="log", xlabel="R, joint ℓ2 norm over all raw images", xlim=(radii[0], REACH), ylim=(0, 1))
    by_radius.set_xticks([0.1, 0.5, 1, 2, 4, 8, 12.4, 28], ["0.1", "0.5", "1", "2", "4", "8", "12.4", "28"])
    by_radius.set_ylabel("certified accuracy")
    images = np.arange(MOST + 1)
    for row in rows:
        if row.get("form") != "threshold" or row["way"] == "denoised":
            continue
        heights = certified_accuracy(*row["counts"]["relabelled"], truth, images - 0.5)
        label = f"influence, σ = {row['sigma']:g}"
        by_count.plot(images, heights, color=colour[row["sigma"]], label=label)
    marks = {"DPA": "s", "ROE": "o", "kNN": "^", "rNN": "v"}
    for head, mark in marks.items():
        of = [row["relabelled"] for row in rivals if row["head"] == head]
        if of:
            label = f"{head}, its best setting at each count"
            by_count.plot(COUNTS, np.max(of, axis=0), mark, color="black", mfc="none", label=label)
    by_count.set(xscale="symlog", xlabel="images rewritten and relabelled at will", xlim=(0, MOST))
    by_count.set_xticks([0, 1, 5, 12, 25, 50, 100, 200, 400], ["0", "1", "5", "12", "25", "50", "100", "200", "400"])
    for axis in (by_radius, by_count):
        axis.minorticks_off()
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(b=False)
        axis.legend(fontsize=7, loc="lower left")
    figure.suptitle(f"{name}: what a bounded-influence head certifies on frozen features, α = .001 per test image")
    figure.savefig(path, format="png")
