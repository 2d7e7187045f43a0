"""Certified accuracy at (a, R) of every (model, n, sigma, k), the best of them, and their tables."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cleanlabel.models.certificate import certified_accuracy
from cleanlabel.models.partition import block_certificates, frontier
from cleanlabel.models.rounding import down, down_text
from cleanlabel.sanitize.imageset import ImageSet

FREES = [0, 1, 2, 5, 10]
"""a: images that may be rewritten at will, each in a block of its own at worst."""
RADII = [0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Curve:
    """One plan: its certificate for each a of FREES, (len(FREES), n_test) each, and plain accuracies.

    one_model: of a block's single models, on average; plurality: of the plurality of the blocks' votes.
    """

    model: str
    n: int
    sigma: float
    k: int
    label: Ints
    radius: Floats
    truth: Ints
    one_model: float
    plurality: float

    def at(self, a: int, radii: Sequence[float] | Floats) -> Floats:
        """Certified accuracy at each radius with a images rewritten."""
        row = FREES.index(a)
        return certified_accuracy(self.label[row], self.radius[row], self.truth, radii)

    def holds(self, a: int, radius: float) -> NDArray[np.bool_]:
        """(n_test,): which test images are certified at (a, radius), for their own class."""
        row = FREES.index(a)
        held: NDArray[np.bool_] = (self.label[row] == self.truth) & (self.radius[row] > radius)
        return held


def curve_of(key: tuple[str, int, int], votes: NDArray[np.int8], sigma: float, alpha: float, test: ImageSet) -> Curve:
    """The curve of votes (m, k, n_test): every block at level alpha/k, all a at once."""
    model, n, k = key
    classes = len(test.classes)
    counts = np.stack([(votes == c).sum(axis=0) for c in range(classes)], axis=2)
    labels, radii = block_certificates(counts, len(votes), sigma, alpha)
    label, radius = frontier(labels, radii, classes, FREES)
    leading = counts.argmax(axis=2)
    plurality = np.stack([(leading == c).sum(axis=0) for c in range(classes)], axis=1).argmax(axis=1)
    one, all_of_them = float((votes == test.labels).mean()), float((plurality == test.labels).mean())
    return Curve(model, n, sigma, k, label, radius, test.labels, round(one, 4), round(all_of_them, 4))


def leader(curves: Iterable[Curve], a: int, radius: float) -> Curve | None:
    """The curve with the largest certified accuracy at (a, radius); None where none certifies an image."""
    ahead = max(curves, key=lambda curve: float(curve.holds(a, radius).mean()), default=None)
    return ahead if ahead is not None and ahead.holds(a, radius).any() else None


def pair(curves: list[Curve], a: int, radius: float) -> dict[str, Any]:
    """The best one ensemble and the best partition at (a, radius), and their difference with its standard error.

    The error is that of paired differences over the test images and ignores that the best were chosen. There is no
    difference for a = 0 and a radius that one ensemble could reach only with more noise than was measured.
    """
    one = leader((c for c in curves if c.k == 1), a, radius)
    many = leader((c for c in curves if c.k > 1), a, radius)
    held = [np.zeros(len(curves[0].truth)) if c is None else c.holds(a, radius).astype(float) for c in (one, many)]
    difference = held[1] - held[0]
    compared = a > 0 or radius < reach_of_one(curves)
    return {
        "one": one and {"sigma": one.sigma, "certified": down(held[0].mean(), 4)},
        "many": many and {"sigma": many.sigma, "k": many.k, "certified": down(held[1].mean(), 4)},
        "difference": round(float(difference.mean()), 4) if compared else None,
        "error": round(float(difference.std(ddof=1) / np.sqrt(len(difference))), 4) if compared else None,
    }


def reach_of_one(curves: list[Curve]) -> float:
    """The largest radius that any of the single ensembles certified."""
    return max((float(curve.radius[0].max()) for curve in curves if curve.k == 1), default=0.0)


def models_of(curves: list[Curve]) -> list[str]:
    """The curves' models, in order of appearance."""
    return list(dict.fromkeys(curve.model for curve in curves))


def sizes_of(curves: list[Curve], model: str) -> list[int]:
    """The numbers of raw images that a model was measured with, rising."""
    return sorted({curve.n for curve in curves if curve.model == model})


def best(curves: list[Curve]) -> dict[str, Any]:
    """`pair` for every model, n, a and R."""
    return {
        f"{model}, n = {n}": {
            str(a): {f"{r:g}": pair([c for c in curves if c.model == model and c.n == n], a, r) for r in RADII}
            for a in FREES
        }
        for model in models_of(curves)
        for n in sizes_of(curves, model)
    }


def since(curves: list[Curve]) -> dict[str, dict[str, int | None]]:
    """For a = 0 and every R: the n from which on, up to all images, the best partition leads by two standard errors."""
    found: dict[str, dict[str, int | None]] = {}
    for model in models_of(curves):
        found[model] = {}
        for r in RADII:
            first = None
            for n in reversed(sizes_of(curves, model)):
                row = pair([c for c in curves if c.model == model and c.n == n], 0, r)
                if row["difference"] is None or row["difference"] <= 2 * row["error"]:
                    break
                first = n
            found[model][f"{r:g}"] = first
    return found


def tables(curves: list[Curve], rivals: list[dict[str, Any]]) -> str:
    """Markdown: the best of both for each R; partitions, DPA and ROE for each a; and by n."""
    return "\n".join([*_by_radius(curves), *_by_images(curves, rivals), *_by_size(curves)])


def _by_radius(curves: list[Curve]) -> list[str]:
    lines = ["\nBest (σ, k) for each R, chosen after the fact; a = 0, all raw images\n"]
    lines += ["| model | R | one ensemble (σ) | partitions (σ, k) | difference |", "|---|--:|--:|--:|--:|"]
    for model in models_of(curves):
        mine = [c for c in curves if c.model == model and c.n == sizes_of(curves, model)[-1]]
        for r in RADII:
            row = pair(mine, 0, r)
            if row["one"] or row["many"]:
                compared = row["difference"] is not None
                difference = f"{row['difference']:+.3f} ± {row['error']:.3f}" if compared else "no σ measured"
                one = _cell(row["one"]) if compared else "-"
                lines.append(f"| {model} | {r:g} | {one} | {_cell(row['many'])} | {difference} |")
    return lines


def _cell(found: dict[str, Any] | None) -> str:
    if found is None:
        return "0"
    return f"{down_text(found['certified'])} ({', '.join(f'{found[key]:g}' for key in ('sigma', 'k') if key in found)})"


def _by_images(curves: list[Curve], rivals: list[dict[str, Any]]) -> list[str]:
    shown = [r for r in RADII if r in (0, 0.25, 0.5, 1)]
    lines = ["\na images rewritten at will, all others moved by R jointly; DPA and ROE: all others as they are\n"]
    lines += ["| model | a | " + " | ".join(f"R > {r:g}" for r in shown) + " | DPA (k) | ROE (k) |"]
    lines += ["|---|--:|" + "--:|" * (len(shown) + 2)]
    for model in models_of(curves):
        mine = [c for c in curves if c.model == model and c.n == sizes_of(curves, model)[-1]]
        for a in FREES:
            cells = [_cell(pair(mine, a, r)["many"]) for r in shown]
            for defence in ("DPA", "ROE"):
                row = max(
                    (r for r in rivals if r["model"] == model and r["defence"] == defence),
                    key=lambda r: r["certified"][str(a)],
                )
                cells.append(f"{down_text(row['certified'][str(a)])} ({row['k']})")
            lines.append(f"| {model} | {a} | " + " | ".join(cells) + " |")
    return lines


def _by_size(curves: list[Curve]) -> list[str]:
    lines: list[str] = []
    for model in models_of(curves):
        sizes = sizes_of(curves, model)
        if len(sizes) == 1:
            continue
        lines += [f"\n{model}, by the number of raw images: one ensemble / partitions, a = 0\n"]
        lines += ["| n | " + " | ".join(f"R > {r:g}" for r in RADII) + " |", "|--:|" + "--:|" * len(RADII)]
        for n in sizes:
            rows = [pair([c for c in curves if c.model == model and c.n == n], 0, r) for r in RADII]
            ones = ["-" if row["difference"] is None else _cell(row["one"]) for row in rows]
            cells = [f"{one} / {_cell(row['many'])}" for one, row in zip(ones, rows, strict=True)]
            lines.append(f"| {n:,} | " + " | ".join(cells) + " |")
    return lines
