"""Find images of one set that are also in another, as exact or near copies.

A record of a set is small and is kept beside the network trained on the set. So two sets can be compared when one of
them is elsewhere or deleted. Mirrored or cropped copies are not found.
"""

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cleanlabel.sanitize.errors import InputError

if TYPE_CHECKING:
    from cleanlabel.sanitize.sources import Source

SIDE = 8
"""A thumbnail is SIDE x SIDE, grey."""
NEAR, BRIGHTER = 2, 16
"""Two thumbnails are near copies if their means differ by at most BRIGHTER (of 255) and the root mean square of the
rest of their difference is at most NEAR."""
HASH = 8
"""Bytes of sha256 kept per image: a chance match between 50,000 images and 50,000 others has probability 10^-9."""
BLOCK = 256
NAMED = 3
"""How many images a sentence names."""


@dataclass(frozen=True, eq=False)
class Record:
    """The record of n images, in uint8: `hashes` (n, 8); `thumbnails` (n, 64), or (0, 64) if none are kept."""

    ids: tuple[str, ...]
    hashes: NDArray[np.uint8]
    thumbnails: NDArray[np.uint8]

    def __post_init__(self) -> None:
        n, pixels = len(self.ids), SIDE * SIDE
        for found, shapes in ((self.hashes, [(n, HASH)]), (self.thumbnails, [(n, pixels), (0, pixels)])):
            if found.dtype != np.uint8 or found.shape not in shapes:
                raise ValueError(f"an array of {n} images is {found.dtype} {found.shape}")

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, eq=False)
class Shared:
    """Images of one set that are in another: row `ours[i]` is row `theirs[i]` there, bitwise equal if `exact[i]`."""

    ours: NDArray[np.int64]
    theirs: NDArray[np.int64]
    exact: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.ours)

    def in_words(self, ours: Record, theirs: Record) -> str:
        """The numbers of exact and near copies, and the names of the first few on both sides."""
        exact = int(self.exact.sum())
        first = zip(self.ours[:NAMED], self.theirs[:NAMED], strict=True)
        named = ", ".join(f"{ours.ids[a]} is {theirs.ids[b]} there" for a, b in first)
        more = ", …" if len(self) > NAMED else ""
        return f"{exact} exact, {len(self) - exact} near copies; {named}{more}"


def record_of(images: NDArray[np.uint8], ids: Sequence[str]) -> Record:
    """The record of images uint8 (n, h, w, c) with these ids; the same images give the same record."""
    return Record(tuple(ids), hashes(images), thumbnails(images))


def record_of_source(source: "Source") -> Record:
    """The record of a source's images, read a few at a time."""
    parts = [record_of(image[None], source.ids[i : i + 1]) for i, image in enumerate(source.read(range(len(source))))]
    empty = np.empty((0, HASH), np.uint8), np.empty((0, SIDE * SIDE), np.uint8)
    return Record(
        source.ids,
        np.concatenate([empty[0], *(part.hashes for part in parts)]),
        np.concatenate([empty[1], *(part.thumbnails for part in parts)]),
    )


def compared_in_words(found: int, raw: int, recorded: int, *, thumbnails: bool) -> str:
    """What a comparison of `raw` images with `recorded` ones found, in words."""
    how = "exact copies and light changes" if thumbnails else "exact copies only"
    return f"of {raw} raw images {found} match one of the {recorded} recorded images ({how})"


def hashes_alone(found: NDArray[np.uint8]) -> Record:
    """A record of hashes (n, 8) alone, which reveals nothing of the images."""
    ids = tuple(f"number {i}" for i in range(len(found)))
    return Record(ids, found, np.empty((0, SIDE * SIDE), dtype=np.uint8))


def hashes(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The first 8 bytes of each image's sha256, of its shape and pixels: uint8 (n, 8)."""
    shape = str(images.shape[1:]).encode()
    digests = b"".join(hashlib.sha256(shape + image.tobytes()).digest()[:HASH] for image in images)
    return np.frombuffer(digests, dtype=np.uint8).reshape(len(images), HASH)


def thumbnails(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Each image (h, w, c) as 8 x 8 grey values, uint8 (n, 64): means of its channels over equal areas."""
    n, h, w, _ = images.shape
    rows, columns = _areas(h), _areas(w)
    small = np.empty((n, SIDE, SIDE), dtype=np.uint8)
    for start in range(0, n, BLOCK):
        grey = images[start : start + BLOCK].mean(axis=3, dtype=np.float64)
        small[start : start + BLOCK] = np.rint(rows @ grey @ columns.T)
    return small.reshape(n, SIDE * SIDE)


def _areas(length: int) -> NDArray[np.float64]:
    """(8, length): the weight of each pixel of a line in each of its eight equal parts; rows sum to 1."""
    edges = np.linspace(0, length, SIDE + 1)
    pixel = np.arange(length)
    overlap: NDArray[np.float64] = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
    return overlap.clip(0) * (SIDE / length)


def shared(ours: Record, theirs: Record) -> Shared:
    """Our images that are exact or near copies of theirs, each with one partner, an exact one if there is one.

    Near copies are found only if both records have thumbnails; ours must have them. Only pairs of similar brightness
    are compared. Sums of squares are whole numbers below 2^24, which float32 represents exactly: the order of additions
    does not matter.
    """
    partner = _nearest(ours.thumbnails, theirs.thumbnails)
    row_of = {digest.tobytes(): row for row, digest in reversed(list(enumerate(theirs.hashes)))}
    exact = np.array([row_of.get(digest.tobytes(), -1) for digest in ours.hashes], dtype=np.int64)
    partner = np.where(exact >= 0, exact, partner)
    found = np.flatnonzero(partner >= 0)
    return Shared(found, partner[found], exact[found] >= 0)


def _nearest(ours: NDArray[np.uint8], theirs: NDArray[np.uint8]) -> NDArray[np.int64]:
    """For each thumbnail, the row of the nearest of theirs; -1 if none is near."""
    partner = np.full(len(ours), -1, dtype=np.int64)
    if not len(theirs):  # only hashes are kept
        return partner
    mine, their_order = _by_brightness(ours), _by_brightness(theirs)
    a, b = ours[mine].astype(np.float32), theirs[their_order].astype(np.float32)
    bright_a, bright_b = a.sum(axis=1), b.sum(axis=1)
    squares_a, squares_b = (a * a).sum(axis=1), (b * b).sum(axis=1)
    pixels = SIDE * SIDE
    for start in range(0, len(a), BLOCK):
        rows = slice(start, start + BLOCK)
        first = np.searchsorted(bright_b, bright_a[rows][0] - BRIGHTER * pixels, side="left")
        last = np.searchsorted(bright_b, bright_a[rows][-1] + BRIGHTER * pixels, side="right")
        if first == last:
            continue
        squared = squares_a[rows, None] + squares_b[None, first:last] - 2 * (a[rows] @ b[first:last].T)
        brighter = np.abs(bright_a[rows, None] - bright_b[None, first:last])
        squared -= brighter * brighter / pixels
        squared[brighter > BRIGHTER * pixels] = np.inf
        nearest = squared.argmin(axis=1)
        near = squared[np.arange(len(nearest)), nearest] <= NEAR * NEAR * pixels
        partner[mine[rows][near]] = their_order[first + nearest[near]]
    return partner


def _by_brightness(small: NDArray[np.uint8]) -> NDArray[np.int64]:
    return np.argsort(small.sum(axis=1, dtype=np.int64), kind="stable")


def to_bytes(record: Record) -> bytes:
    """The record as a `.npz`; the same record gives the same bytes."""
    stream = io.BytesIO()
    ids = np.array(record.ids, dtype=np.str_)
    np.savez_compressed(stream, ids=ids, hashes=record.hashes, thumbnails=record.thumbnails)
    return stream.getvalue()


def read_record(path: Path) -> Record:
    """The record that `to_bytes` wrote into a file. InputError if it is damaged or is something else."""
    return record_from(path, str(path))


def record_from(content: Path | IO[bytes], name: str) -> Record:
    """The record in a file or a stream. InputError that names `name` if it is damaged or is something else."""
    try:
        with np.load(content, allow_pickle=False) as arrays:
            return Record(tuple(map(str, arrays["ids"])), arrays["hashes"], arrays["thumbnails"])
    except Exception as error:  # zipfile and numpy raise anything on damaged bytes
        raise InputError(f"{name} is not a readable record of images ({error}); restore it") from error
