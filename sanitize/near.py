"""Find near copies among the images of two sets, with light, mirror, small shifts and small crops taken out.

One set is at hand as small grey images (*grids*), of the other only thumbnails of 8 x 8 *cells* are known. A *view*
says where a thumbnail's cells lie in a grid if one image is a mirrored, shifted or cropped copy of the other. Two
images are near copies if, in some view, the cells that both have are equal but for brightness and contrast.
"""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dctn

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float64]
Rows = NDArray[np.int64]

SIDE = 8
"""A thumbnail is SIDE x SIDE, grey."""
NEAR = 0.0005
"""Two images are near copies if the correlation of their cells is at least 1 - NEAR,"""
CLEAR, TIMES, OTHERS = 0.012, 10, 1
"""or at least 1 - CLEAR, and 1 - correlation is TIMES as large for all other images but OTHERS."""
FLAT = 4
"""Cells whose standard deviation is under FLAT (of 255) show too little to be compared."""
GAIN = 2
"""The standard deviations of near copies' cells differ at most by this factor."""
REACH = 2
"""Shifts of at most this many pixels of the grid are tried, and of at most a quarter of it."""
CROPS = (7 / 8, 8 / 7)
"""One image may be the inner 7/8 of the other."""
KEPT = 8
"""How many images the coarse comparison leaves for each one."""
WAVES, STEPS = 20, 1 << 10
"""The coarse comparison takes the longest WAVES cosine waves of unit vectors, in whole numbers of 1/STEPS. Sums of
their products stay below 2^24, which float32 represents exactly: the order of additions does not matter."""
COARSE = 0.15
"""What is farther in the coarse comparison is not compared further."""
ROWS, COLUMNS = 512, 1024


@dataclass(frozen=True)
class View:
    """A thumbnail's frame in a grid: the grid's own, mirrored or not, times `zoom`, moved `down` and `right` pixels."""

    mirrored: bool = False
    zoom: float = 1
    down: float = 0
    right: float = 0

    @property
    def words(self) -> str:
        """How a copy in this view was made; empty if it lies as its original."""
        moved = "cropped" if self.zoom != 1 else "shifted" if self.down or self.right else ""
        return " and ".join(filter(None, ["mirrored" if self.mirrored else "", moved]))

    def of(self, grids: Pixels) -> Pixels:
        """The cells that lie inside each grid, means over their areas: uint8 (n, rows, columns)."""
        turned = grids[:, :, ::-1] if self.mirrored else grids
        down, right = self._edges(grids.shape[1], self.down), self._edges(grids.shape[2], self.right)
        return reduced(turned, down[self._inside(down, grids.shape[1])], right[self._inside(right, grids.shape[2])])

    def among(self, thumbnails: Pixels, shape: tuple[int, ...]) -> Pixels:
        """The same cells of thumbnails (m, 8, 8), for grids of this shape."""
        down, right = self._edges(shape[0], self.down), self._edges(shape[1], self.right)
        return thumbnails[:, self._inside(down, shape[0])[:-1]][:, :, self._inside(right, shape[1])[:-1]]

    def _edges(self, length: int, shift: float) -> Floats:
        edges: Floats = (np.linspace(-0.5, 0.5, SIDE + 1) * self.zoom + 0.5) * length + shift
        return edges

    @staticmethod
    def _inside(edges: Floats, length: int) -> Rows:
        return np.flatnonzero((edges > -1e-6) & (edges < length + 1e-6))


def reduced(images: NDArray[np.generic], rows: Floats, columns: Floats) -> Pixels:
    """Means of images (n, h, w) over the areas between these edges, uint8 (n, len(rows) - 1, len(columns) - 1)."""
    down, right = _weights(rows, images.shape[1]), _weights(columns, images.shape[2])
    return np.rint(down @ images.astype(np.float64) @ right.T).astype(np.uint8)


def nearest(grids: Pixels, thumbnails: Pixels) -> tuple[Rows, list[str]]:
    """For each of n grids (n, h, w), the row of its near copy among thumbnails (m, 8, 8) or -1, and its view's words.

    Memory grows with n and m, not with their product.
    """
    partner, words = np.full(len(grids), -1, dtype=np.int64), [""] * len(grids)
    if not len(grids) or not len(thumbnails):
        return partner, words
    who = _candidates(grids, thumbnails)
    tried = list(views(grids.shape[1:]))

    def judge(start: int) -> None:
        rows = slice(start, start + ROWS)
        far, view = _distances(grids[rows], thumbnails, who[rows], tried)
        order = np.argsort(far, axis=1, kind="stable")
        ranked = np.take_along_axis(far, order, axis=1)
        first, others = ranked[:, 0], ranked[:, 1 + OTHERS]
        near = (first <= NEAR) | ((first <= CLEAR) & (TIMES * first <= others))
        for i in np.flatnonzero(near):
            partner[start + i] = who[start + i, order[i, 0]]
            words[start + i] = tried[view[i, order[i, 0]]].words

    _each(judge, len(grids))
    return partner, words


def views(shape: tuple[int, ...]) -> Iterator[View]:
    """All views that are tried in grids of this shape, the plain one first."""
    for mirrored, (down, right) in product((False, True), _shifts(shape, REACH)):
        yield View(mirrored, 1, down, right)
    for mirrored, zoom, (down, right) in product((False, True), CROPS, _shifts(shape, 1)):
        yield View(mirrored, zoom, down, right)


def _shifts(shape: tuple[int, ...], most: int) -> list[tuple[float, ...]]:
    """Whole pixels down and right, the least first."""
    ways = [range(-min(most, length // 4), min(most, length // 4) + 1) for length in shape]
    return sorted(product(*ways), key=lambda shift: sum(map(abs, shift)))


def _coarse_shifts(shape: tuple[int, ...]) -> list[tuple[float, ...]]:
    """Shifts so near each other that any other is at most a quarter of a cell away, where cells have several pixels."""
    ways = [(-1.5, 0.0, 1.5) if n >= 2 * SIDE else sorted({s for s, _ in _shifts((n, n), REACH)}) for n in shape]
    return list(product(*ways))


def _weights(edges: Floats, length: int) -> Floats:
    """The weight of each of `length` pixels of a line in each part between two edges; rows sum to 1."""
    pixel = np.arange(length)
    overlap: Floats = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
    return overlap.clip(0) / np.diff(edges)[:, None]


def _each(work: Callable[[int], None], n: int) -> None:
    """Do the work for each block of ROWS rows, in a few threads; blocks do not depend on each other."""
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        list(pool.map(work, range(0, n, ROWS)))


def _candidates(grids: Pixels, thumbnails: Pixels) -> Rows:
    """(n, KEPT): rows of the thumbnails that look most like each grid in a coarse comparison; -1 for none."""
    n, m, shape = len(grids), len(thumbnails), grids.shape[1:]
    columns = max(1, min(COLUMNS, m // KEPT))
    who = np.full((n, KEPT), -1, dtype=np.int64)
    far = np.full((n, KEPT), COARSE * STEPS * STEPS, dtype=np.float32)
    for down, right in _coarse_shifts(shape):
        plain = View(down=down, right=right)
        waves, half = _waves(plain.among(thumbnails, shape))
        theirs = np.concatenate([waves, half[:, None]], axis=1)

        def keep(start: int, plain: View = plain, theirs: NDArray[np.float32] = theirs) -> None:
            for view in (plain, replace(plain, mirrored=True)):
                waves, half = _waves(view.of(grids[start : start + ROWS]))
                ours = np.concatenate([-waves, np.full((len(waves), 1), STEPS, dtype=np.float32)], axis=1)
                for first in range(0, m, columns):
                    distance = ours @ theirs[first : first + columns].T
                    _put(who[start : start + ROWS], far[start : start + ROWS], distance, half * STEPS, first)

        _each(keep, n)
    return who


def _put(
    who: Rows, far: NDArray[np.float32], distance: NDArray[np.float32], half: NDArray[np.float32], first: int
) -> None:
    """Put each row's nearest column in the place of its farthest candidate, or of itself, if it is nearer."""
    rows = np.arange(len(distance))
    found = distance.argmin(axis=1)
    value = distance[rows, found] + half
    rows = rows[value < far.max(axis=1)]
    found, value = found[rows] + first, value[rows]
    known = who[rows] == found[:, None]
    place = np.where(known.any(axis=1), known.argmax(axis=1), far[rows].argmax(axis=1))
    better = value < far[rows, place]
    rows, place = rows[better], place[better]
    who[rows, place], far[rows, place] = found[better], value[better]


def _waves(cells: Pixels) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The coarse description of cells (n, h, w): the longest waves (n, WAVES), and half of their square / STEPS.

    Half of the squares is very large for flat cells: they are near nothing.
    """
    x = cells - cells.mean(axis=(1, 2), keepdims=True)
    length = np.sqrt((x * x).sum(axis=(1, 2)))
    _, h, w = cells.shape
    frequency = np.add.outer((np.arange(h) / h) ** 2, (np.arange(w) / w) ** 2).ravel()
    longest = np.argsort(frequency, kind="stable")[1 : WAVES + 1]
    all_waves = dctn(x / np.maximum(length, 1)[:, None, None], axes=(1, 2), norm="ortho").reshape(len(x), -1)
    waves = np.rint(STEPS * all_waves[:, longest])
    half = np.rint((waves * waves).sum(axis=1) / (2 * STEPS))
    flat = length < FLAT * np.sqrt(h * w)
    waves[flat], half[flat] = 0, 4 * STEPS
    return waves.astype(np.float32), half.astype(np.float32)


def _distances(grids: Pixels, thumbnails: Pixels, who: Rows, tried: list[View]) -> tuple[Floats, Rows]:
    """1 - correlation of each grid's cells with those of each candidate, the least over the views, and its view."""
    row, place = np.nonzero(who >= 0)
    theirs, column = np.unique(who[row, place], return_inverse=True)
    least, best = np.full(len(row), np.inf), np.zeros(len(row), dtype=np.int64)
    for number, view in enumerate(tried):
        a, b = view.of(grids), view.among(thumbnails[theirs], grids.shape[1:])
        cells = a.shape[1] * a.shape[2]
        a, b = a.reshape(len(a), cells).astype(np.float32), b.reshape(len(b), cells).astype(np.float32)
        # Sums of whole numbers below 2^24, exact in any order. All below is n^2 times a (co)variance.
        sum_a, sum_b = a.sum(axis=1, dtype=np.float64), b.sum(axis=1, dtype=np.float64)
        var_a = cells * np.einsum("ij,ij->i", a, a).astype(np.float64) - sum_a**2
        var_b = cells * np.einsum("ij,ij->i", b, b).astype(np.float64) - sum_b**2
        product = np.einsum("ij,ij->i", a[row], b[column]).astype(np.float64)
        covariance = cells * product - sum_a[row] * sum_b[column]
        va, vb = var_a[row], var_b[column]
        comparable = (np.minimum(va, vb) >= (FLAT * cells) ** 2) & (np.maximum(va, vb) <= GAIN**2 * np.minimum(va, vb))
        distance = np.where(comparable, 1 - covariance / np.sqrt(np.maximum(va * vb, 1)), np.inf)
        nearer = distance < least
        least[nearer], best[nearer] = distance[nearer], number
    far, views_of = np.full(who.shape, np.inf), np.zeros(who.shape, dtype=np.int64)
    far[row, place], views_of[row, place] = least, best
    return far, views_of
