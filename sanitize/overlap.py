"""Find images of one set that are also in another, as exact or near copies.

A record of a set is small and is kept beside the network trained on the set. So two sets can be compared when one of
them is elsewhere or deleted. docs/explanation/what-the-comparison-finds.md says which copies are found, and how often.
"""

import hashlib
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.near import SIDE, nearest, reduced
from cleanlabel.sanitize.sources import Source

GRID = 32
"""A grid is at most GRID x GRID, grey: what an image at hand is compared by."""
HASH = 8
"""Bytes of sha256 kept per image: a chance match between 50,000 images and 50,000 others has probability 10^-9."""
BLOCK = 1 << 22
"""Pixels that are reduced at a time."""
NAMED = 3
"""How many images a sentence names."""
MEASURED = "docs/explanation/what-the-comparison-finds.md"


@dataclass(frozen=True, eq=False)
class Record:
    """The record of n images, in uint8: `hashes` (n, 8); `thumbnails` (n, 64), or (0, 64) if none are kept.

    grids (n, h, w): the images in grey, at most 32 x 32, as long as they are at hand. They show more of an image than
    its thumbnail, and are never written.
    """

    ids: tuple[str, ...]
    hashes: NDArray[np.uint8]
    thumbnails: NDArray[np.uint8]
    grids: NDArray[np.uint8] | None = None

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
    how: tuple[str, ...]
    """How each was found: "exact", "near", "mirrored", "shifted", "cropped", "mirrored and shifted", …"""

    def __len__(self) -> int:
        return len(self.ours)

    def in_words(self, ours: Record, theirs: Record) -> str:
        """The numbers of exact and near copies, how these lay, and the names of the first few on both sides."""
        exact = int(self.exact.sum())
        moved = Counter(how for how in self.how if how not in ("exact", "near"))
        ways = ", ".join(f"{moved[how]} {how}" for how in sorted(moved))
        first = zip(self.ours[:NAMED], self.theirs[:NAMED], strict=True)
        named = ", ".join(f"{ours.ids[a]} is {theirs.ids[b]} there" for a, b in first)
        more = ", …" if len(self) > NAMED else ""
        return f"{exact} exact, {len(self) - exact} near copies{f' ({ways})' if ways else ''}; {named}{more}"


def record_of(images: NDArray[np.uint8], ids: Sequence[str]) -> Record:
    """The record of images uint8 (n, h, w, c) with these ids; the same images give the same record."""
    h, w = images.shape[1:3]
    return Record(tuple(ids), hashes(images), thumbnails(images), _grey(images, min(h, GRID), min(w, GRID)))


def record_of_source(source: Source) -> Record:
    """The record of a source's images, which are read a few at a time and may have several sizes."""
    n, (h, w) = len(source), source.size or (GRID, GRID)
    grids = np.empty((n, min(h, GRID), min(w, GRID)), dtype=np.uint8)
    digests, small = np.empty((n, HASH), dtype=np.uint8), np.empty((n, SIDE * SIDE), dtype=np.uint8)
    for row, image in enumerate(source.read(range(n))):
        one = image[None]
        digests[row], small[row], grids[row] = hashes(one)[0], thumbnails(one)[0], _grey(one, *grids.shape[1:])[0]
    return Record(source.ids, digests, small, grids)


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
    return _grey(images, SIDE, SIDE).reshape(len(images), SIDE * SIDE)


def _grey(images: NDArray[np.uint8], rows: int, columns: int) -> NDArray[np.uint8]:
    """Means of the channels over equal areas, uint8 (n, rows, columns)."""
    n, h, w, _ = images.shape
    small = np.empty((n, rows, columns), dtype=np.uint8)
    block = max(1, BLOCK // max(1, h * w))
    for start in range(0, n, block):
        grey = images[start : start + block].mean(axis=3, dtype=np.float64)
        if (rows, columns) == (h, w):
            small[start : start + block] = np.rint(grey)
        else:
            small[start : start + block] = reduced(grey, np.linspace(0, h, rows + 1), np.linspace(0, w, columns + 1))
    return small


def shared(ours: Record, theirs: Record) -> Shared:
    """Our images that are exact or near copies of theirs, each with one partner, an exact one if there is one.

    Near copies are found only if both records have thumbnails, and best if ours has grids (`sanitize.near`). Images
    with hardly any contrast are found as exact copies only.
    """
    row_of = {digest.tobytes(): row for row, digest in reversed(list(enumerate(theirs.hashes)))}
    partner = np.array([row_of.get(digest.tobytes(), -1) for digest in ours.hashes], dtype=np.int64)
    exact, how = partner >= 0, ["exact"] * len(partner)
    grids = ours.thumbnails.reshape(-1, SIDE, SIDE) if ours.grids is None else ours.grids
    left = np.flatnonzero(~exact[: len(grids)])
    near, words = nearest(grids[left], theirs.thumbnails.reshape(-1, SIDE, SIDE))
    partner[left] = near
    for row, word in zip(left, words, strict=True):
        how[row] = word or "near"
    found = np.flatnonzero(partner >= 0)
    return Shared(found, partner[found], exact[found], tuple(how[row] for row in found))


def compared_in_words(found: int, raw: int, recorded: int, *, thumbnails: bool) -> str:
    """What a comparison of raw images with a record found; with hashes alone, only exact copies are looked for."""
    said = f"of {raw} raw images {found} match one of the {recorded} recorded images"
    if not thumbnails:
        return f"{said} (exact copies only)"
    return (
        f"{said} (exact copies, and copies with other light, mirrored, slightly shifted or cropped, as far as the "
        f"comparison finds them: {MEASURED})"
    )


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
