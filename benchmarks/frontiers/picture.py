"""The frontiers, drawn: certified accuracy against R for each a, one line per k, and against n."""

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.frontiers.curves import Curve, models_of, pair, reach_of_one, sizes_of

SHOWN = (0, 1, 2, 5)
AT_SIZES = (0.5, 1.0, 2.0)


def draw_picture(
    data: str, m: int, alpha: float, curves: list[Curve], rivals: list[dict[str, Any]], path: Path
) -> None:
    """One row per model: a panel for each a of SHOWN, and one by n where several were measured.

    A line is the best over sigma of one k at each R, chosen after the fact, the grey band the best over k > 1 too. DPA
    and ROE are marks at R = 0, the only radius at which they hold. Dotted: how far one ensemble gets by the largest
    sigma measured.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # imported late: it takes a second
    from matplotlib.figure import Figure

    models = models_of(curves)
    sized = any(len(sizes_of(curves, model)) > 1 for model in models)
    columns = len(SHOWN) + sized
    figure = Figure(figsize=(3.5 * columns, 3.1 * len(models) + 0.9), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(models), columns, squeeze=False)
    reach = 1.05 * max(float(curve.radius[0][np.isfinite(curve.radius[0])].max()) for curve in curves)
    for row, model in zip(axes, models, strict=True):
        mine = [c for c in curves if c.model == model and c.n == sizes_of(curves, model)[-1]]
        theirs = [r for r in rivals if r["model"] == model]
        for axis, a in zip(row, SHOWN, strict=False):
            _against_radius(axis, mine, theirs, a, reach)
        row[0].set_ylabel(f"{model}\ncertified accuracy")
        if sized:
            _against_size(row[-1], [c for c in curves if c.model == model])
    for axis in axes[-1][: len(SHOWN)]:
        axis.set_xlabel("R, joint ℓ2 of all other images")
    for axis, a in zip(axes[0], SHOWN, strict=False):
        axis.set_title("no image rewritten (a = 0)" if a == 0 else f"a = {a} rewritten at will")
    handles = {
        label: handle for axis in axes[0][:2] for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles), frameon=False)
    figure.suptitle(
        f"{data}, m = {m}, α = {alpha:g} per test image. "
        "Each line: the best σ of one k at each R, chosen after the fact: a guide, no certificate"
    )
    figure.savefig(path, format="png")


def _against_radius(axis: Any, curves: list[Curve], rivals: list[dict[str, Any]], a: int, reach: float) -> None:
    from matplotlib import colormaps

    radii = np.linspace(0, reach, 400)
    ks = sorted({curve.k for curve in curves})
    if a == 0:
        axis.axvline(reach_of_one(curves), color="black", ls=":", lw=1, label="reach of k = 1, largest σ here")
    band = np.max([curve.at(a, radii) for curve in curves if curve.k > 1], axis=0)
    axis.plot(radii, np.where(band > 0, band, np.nan), color="0.85", lw=6, label="best k > 1", zorder=1)
    for i, k in enumerate(ks):
        heights = np.max([curve.at(a, radii) for curve in curves if curve.k == k], axis=0)
        style = {"color": "black", "lw": 2.2} if k == 1 else {"color": colormaps["viridis"](0.95 - 0.9 * i / len(ks))}
        if heights.any():
            axis.plot(radii, np.where(heights > 0, heights, np.nan), label=f"k = {k}", **style)
    if a:
        for defence, mark in (("DPA", "s"), ("ROE", "o")):
            level = max(r["certified"][str(a)] for r in rivals if r["defence"] == defence)
            axis.plot([0], [level], mark, color="tab:red", mfc="none", label=defence, clip_on=False, zorder=5)
    axis.set(xlim=(0, reach), ylim=(0, 1))
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(b=False)


def _against_size(axis: Any, curves: list[Curve]) -> None:
    sizes = sizes_of(curves, curves[0].model)
    for i, r in enumerate(AT_SIZES):
        pairs = [pair([c for c in curves if c.n == n], 0, r) for n in sizes]
        for side, style in (("one", "--"), ("many", "-")):
            heights = [0.0 if p[side] is None else p[side]["certified"] for p in pairs]
            label = f"R > {r:g}, {'one ensemble' if side == 'one' else 'best k > 1'}"
            axis.plot(sizes, heights, style, marker=".", color=f"C{i}", label=label)
    axis.set(xscale="log", ylim=(0, 1), xlabel="n, raw images", title="by n, a = 0")
    axis.set_xticks(sizes, [f"{n:,}" for n in sizes], fontsize=8)
    axis.minorticks_off()
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(b=False)
    axis.legend(fontsize=7)
