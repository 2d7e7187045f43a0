"""The figures as tables and as a picture."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.transfer.plan import RADII, STEPS, WAYS
from cleanlabel.models.certificate import certified_accuracy
from cleanlabel.models.rounding import down_text


def table(sigma: float, rows: dict[str, Any]) -> str:
    """Markdown: each step's votes and certified accuracy, denoised / noise only."""
    radii = [
        r
        for r in RADII
        if max(rows[f"{w} | {' | '.join(s)}"]["certified"][RADII.index(r)] for w in WAYS for s in STEPS)
    ]
    lines = [
        f"\nσ = {sigma:g}: denoised / noise only\n",
        "| extractor | head | images | one model | vote | gain | " + " | ".join(f"R > {r:g}" for r in radii) + " |",
        "|" + "---|" * (6 + len(radii)),
    ]
    before = None
    for step in STEPS:
        pair = [rows[f"{way} | {' | '.join(step)}"] for way in WAYS]
        gain = [f"{p['vote'] - b['vote']:+.3f}" for p, b in zip(pair, before, strict=True)] if before else ["-"]
        cells = [" / ".join(f"{p[key]:.3f}" for p in pair) for key in ("one_model", "vote")]
        cells += [" / ".join(gain)]
        cells += [" / ".join(down_text(p["certified"][RADII.index(r)]) for p in pair) for r in radii]
        lines.append(f"| {' | '.join(step)} | " + " | ".join(cells) + " |")
        before = pair
    return "\n".join(lines)


def draw_curves(rows: dict[float, dict[str, Any]], truth: NDArray[np.int64], path: Path) -> None:
    """Certified accuracy against R: denoised solid, noise only dashed; one panel per extractor."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(10, 4), sharey=True, layout="constrained")
    radii = np.linspace(0, 1.6, 321)
    for panel, name in zip(panels, ("frozen", "distilled"), strict=True):
        for n, (sigma, of) in enumerate(sorted(rows.items())):
            for way, style in zip(WAYS, ("-", "--"), strict=True):
                label, radius = of[f"{way} | {name} | lda | all"]["curve"]
                panel.plot(
                    radii,
                    certified_accuracy(label, radius, truth, radii),
                    style,
                    color=f"C{n}",
                    label=f"σ={sigma:g}, {way}",
                )
        panel.set(xlabel="R, joint ℓ2 over the raw set", title=f"{name} extractor", ylim=(0, 1), xlim=(0, radii[-1]))
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("certified accuracy")
    panels[1].legend(fontsize=8)
    figure.savefig(path, dpi=120)
