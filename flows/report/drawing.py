"""The review page's drawings, as inline SVG and data URIs. The page's CSS classes style them.

Every drawing is made for a given width in pixels: text in a picture scaled down to a phone is illegible.
"""

import base64
import io
import math
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cleanlabel.models.certificate import ABSTAIN
from cleanlabel.models.rounding import down_text, exact

THUMBNAIL = 64
"""The largest length of a thumbnail's longer side, in pixels."""
CELL = 36
"""The height of a heat map's row, in pixels."""


@dataclass(frozen=True)
class Line:
    """A curve of certified accuracy: shares at ascending radii."""

    radii: NDArray[np.float64]
    accuracy: NDArray[np.float64]


@dataclass(frozen=True)
class Frame:
    """A plot's inner rectangle, in pixels of its drawing."""

    left: float
    right: float
    top: float
    bottom: float

    def x(self, share: float) -> str:
        return f"{self.left + share * (self.right - self.left):.1f}"

    def y(self, share: float) -> str:
        return f"{self.bottom - share * (self.bottom - self.top):.1f}"


def curve(
    now: Line,
    before: Line | None,
    reach: float,
    vote_accuracy: float,
    limit: tuple[float, str],
    size: tuple[int, int],
    name: str = "accuracy of the vote",
) -> str:
    """Certified accuracy against the joint radius, from 0 to `reach`. The curve never lies above the true steps.

    limit: the largest radius that can be certified, and its name. before: an earlier version's curve.
    """
    width, height = size
    frame = Frame(44, width - 14, 14, height - 44)
    svg = _svg(size, "curve", "certified accuracy against the joint radius")
    svg.attrib |= {f"data-{side}": f"{getattr(frame, side):g}" for side in ("left", "right", "top", "bottom")}
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        _line(svg, "grid", (frame.left, frame.y(share)), (frame.right, frame.y(share)))
        _text(svg, exact(share), frame.left - 8, float(frame.y(share)) + 4, "end")
    step = _step(reach, 4 if width < 500 else 8)
    for i in range(math.floor(reach / step + 1e-9) + 1):
        x = frame.x(i * step / reach)
        _line(svg, "tick", (x, frame.bottom), (x, frame.bottom + 5))
        _text(svg, f"{i * step:g}", float(x), frame.bottom + 20, "middle")
    _text(svg, "joint radius R", (frame.left + frame.right) / 2, height - 6, "middle", "axis")
    if before is not None:
        _add(svg, "path", {"class": "before", "d": _steps(frame, before, reach)})
    path = _steps(frame, now, reach)
    end = frame.x(min(1.0, float(now.radii[-1]) / reach))
    _add(svg, "path", {"class": "area", "d": f"{path} L{end} {frame.y(0)} L{frame.x(0)} {frame.y(0)} Z"})
    _add(svg, "path", {"class": "now", "d": path})
    _line(svg, "vote", (frame.left, frame.y(vote_accuracy)), (frame.right, frame.y(vote_accuracy)))
    _text(svg, f"{name} {down_text(vote_accuracy)}", frame.left + 6, float(frame.y(vote_accuracy)) - 6, "start")
    if 0 < limit[0] <= reach:
        x = frame.x(limit[0] / reach)
        _line(svg, "limit", (x, frame.top), (x, frame.bottom))
        _text(svg, limit[1], float(x) - 6, frame.bottom - 8, "end", "limit-name")
    _add(svg, "line", {"class": "cursor", "y1": f"{frame.top:g}", "y2": f"{frame.bottom:g}", "visibility": "hidden"})
    _add(svg, "circle", {"class": "dot", "r": "5", "visibility": "hidden"})
    return _html(svg)


def _steps(frame: Frame, line: Line, reach: float) -> str:
    """Each share is drawn from the previous radius to its own, so the sampled curve lies below the true one."""
    points = [f"M{frame.x(0)} {frame.y(float(line.accuracy[0]))}"]
    for r, share in zip(line.radii[1:].tolist(), line.accuracy[1:].tolist(), strict=True):
        points.append(f"V{frame.y(share)} H{frame.x(min(r / reach, 1.0))}")
        if r >= reach:
            break
    return " ".join(points)


@dataclass(frozen=True)
class Bin:
    """The test images whose top class has `low`..`high` votes: how many are correct, wrong and abstained."""

    low: int
    high: int
    correct: int
    wrong: int
    abstained: int

    @property
    def total(self) -> int:
        return self.correct + self.wrong + self.abstained


def bins_of(
    counts: NDArray[np.int64], label: NDArray[np.int64], truth: NDArray[np.int64], m: int, most: int
) -> list[Bin]:
    """At most `most` bins of equal width, the last ending at m, without empty ones at the low end.

    One more bin below them may hold 0 votes.
    """
    width = math.ceil(m / most)
    top = counts.max(axis=1)
    kinds = (label == truth, (label != truth) & (label != ABSTAIN), label == ABSTAIN)
    bins = []
    for high in range(m, -1, -width):
        inside = (top <= high) & (top > high - width)
        bins.append(Bin(max(0, high - width + 1), high, *(int(np.sum(inside & kind)) for kind in kinds)))
    filled = [i for i, one in enumerate(bins) if one.total]
    return bins[: filled[-1] + 1][::-1] if filled else bins[:1]


def histogram(bins: list[Bin], size: tuple[int, int], voters: str = "votes") -> str:
    """The bins as stacked bars, each with its number of images on top. voters: the name of what is counted."""
    width, height = size
    frame = Frame(8, width - 8, 24, height - 44)
    svg = _svg(size, "histogram", f"test images by the {voters} for their top class")
    most = max(1, *(one.total for one in bins))
    pitch = (frame.right - frame.left) / len(bins)
    bar = min(pitch * 0.8, 72.0)
    every = math.ceil(50 / pitch)
    for i, one in enumerate(bins):
        middle, base = frame.left + (i + 0.5) * pitch, frame.bottom
        group = _add(svg, "g")
        _add(group, "title").text = (
            f"{_votes(one)} {voters}: {one.correct} certified and correct, {one.wrong} certified and wrong, "
            f"{one.abstained} abstained"
        )
        for kind in ("correct", "wrong", "abstained"):
            count = getattr(one, kind)
            tall = max(2.0, count / most * (frame.bottom - frame.top)) if count else 0.0  # one image stays visible
            base -= tall
            box = {"x": middle - bar / 2, "y": base, "width": bar, "height": tall}
            if count:
                _add(group, "rect", {"class": kind} | {k: f"{v:.1f}" for k, v in box.items()})
        if one.total:
            _text(svg, str(one.total), middle, base - 5, "middle", "count")
        if (len(bins) - 1 - i) % every == 0:
            half = 3.7 * len(_votes(one))  # a label may be wider than its bar, and must not leave the drawing
            _text(svg, _votes(one), min(middle, width - half), frame.bottom + 18, "middle")
    _line(svg, "tick", (frame.left, frame.bottom), (frame.right, frame.bottom))
    _text(svg, f"{voters} for the top class", width / 2, height - 6, "middle", "axis")
    return _html(svg)


def heat_map(columns: list[float], rows: dict[float, list[float]], across: str, down: str, width: int) -> str:
    """Certified accuracy as a table of tinted cells with their values: one row per key of `rows`, one cell per column.

    across, down: the names of the columns' and the rows' quantities.
    """
    size = width, 24 + CELL * len(rows) + 44
    frame = Frame(12 + 7 * max(len(exact(name)) for name in rows), width, 24, 24 + CELL * len(rows))
    svg = _svg(size, "heat-map", f"certified accuracy by {down} and {across}")
    _text(svg, down, 0, 14, "start", "axis")
    pitch = (frame.right - frame.left) / len(columns)
    middles = [frame.left + (j + 0.5) * pitch for j in range(len(columns))]
    for i, (name, shares) in enumerate(rows.items()):
        top = frame.top + i * CELL
        _text(svg, exact(name), frame.left - 8, top + CELL / 2 + 4, "end")
        for column, share, middle in zip(columns, shares, middles, strict=True):
            cell = _add(svg, "g", {"class": f"h{round(share * 10)}"})
            _add(cell, "title").text = f"{down} {exact(name)}, {across} {exact(column)}: {down_text(share, 4)}"
            box = {"x": middle - pitch / 2 + 1.5, "y": top + 1.5, "width": pitch - 3, "height": CELL - 3}
            _add(cell, "rect", {"rx": "5"} | {k: f"{v:.1f}" for k, v in box.items()})
            _text(cell, down_text(share), middle, top + CELL / 2 + 4, "middle", "cell")
    every = math.ceil(max(7.5 * len(exact(column)) for column in columns) / pitch)
    for column, middle in list(zip(columns, middles, strict=True))[::every]:
        _text(svg, exact(column), middle, frame.bottom + 18, "middle")
    _text(svg, across, (frame.left + frame.right) / 2, size[1] - 6, "middle", "axis")
    return _html(svg)


def votes_bar(votes: list[int], m: int) -> str:
    """A thin bar of m votes: those for the top class, then those for the second."""
    svg = _svg((100, 6), "votes", "")
    svg.attrib |= {"preserveAspectRatio": "none", "aria-hidden": "true"}
    _add(svg, "rect", {"class": "rest", "width": "100", "height": "6"})
    start = 0.0
    for kind, count in zip(("first", "second"), votes, strict=False):
        share = count / m * 100
        _add(svg, "rect", {"class": kind, "x": f"{start:.2f}", "width": f"{share:.2f}", "height": "6"})
        start += share
    return _html(svg)


def thumbnail(pixels: NDArray[np.uint8]) -> str:
    """An image (h, w, c) as a PNG data URI, scaled down if its longer side exceeds `THUMBNAIL`."""
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    stream = io.BytesIO()
    image.save(stream, format="PNG")
    return data_uri(stream.getvalue())


def data_uri(png: bytes) -> str:
    """A PNG as a data URI."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _votes(one: Bin) -> str:
    return str(one.high) if one.low == one.high else f"{one.low}–{one.high}"


def _step(reach: float, most: int) -> float:
    """The least round step that divides 0..reach into at most `most` steps."""
    scale = 10.0 ** math.floor(math.log10(reach / most))
    return next(scale * f for f in (1, 2, 2.5, 5, 10, 20) if reach / (scale * f) <= most)


def _svg(size: tuple[int, int], kind: str, name: str) -> ElementTree.Element:
    known = {"role": "img", "aria-label": name} if name else {}
    return ElementTree.Element("svg", {"class": kind, "viewBox": f"0 0 {size[0]} {size[1]}"} | known)


def _add(parent: ElementTree.Element, tag: str, attributes: dict[str, str] | None = None) -> ElementTree.Element:
    return ElementTree.SubElement(parent, tag, attributes or {})


def _line(parent: ElementTree.Element, kind: str, start: tuple[Any, Any], end: tuple[Any, Any]) -> None:
    _add(
        parent,
        "line",
        {"class": kind, "x1": str(start[0]), "y1": str(start[1]), "x2": str(end[0]), "y2": str(end[1])},
    )


def _text(parent: ElementTree.Element, words: str, x: float, y: float, anchor: str, kind: str = "label") -> None:
    _add(parent, "text", {"class": kind, "x": f"{x:.1f}", "y": f"{y:.1f}", "text-anchor": anchor}).text = words


def _html(svg: ElementTree.Element) -> str:
    return ElementTree.tostring(svg, encoding="unicode", short_empty_elements=False)
