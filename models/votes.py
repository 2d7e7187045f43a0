"""Votes: the answers of the smoothed models, their hashes, and one Merkle root over all of them."""

import hashlib
import io
import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray
from scipy.special import gammaln
from scipy.stats import binom

from cleanlabel.sanitize.errors import InputError

NOBODY = -1
"""The value of no vote: the draw is missing, or the model's output was not finite."""
CHANCE = 0.01
"""Equal rows of votes that are rarer than this by chance are taken for copies."""


def votes_to_bytes(votes: NDArray[np.int64]) -> bytes:
    """Votes of one draw, (n_test,) or (blocks, n_test), as the bytes of a `.npy` file."""
    stream = io.BytesIO()
    np.save(stream, votes.astype("<i8"), allow_pickle=False)
    return stream.getvalue()


def votes_from_bytes(content: bytes, name: str) -> NDArray[np.int64]:
    """The votes in a `.npy` file's bytes. InputError that names `name` if they are no votes; unpickles nothing."""
    try:
        votes = array_of(content)
    except ValueError as error:
        raise InputError(f"the votes of {name} are not a .npy file ({error})") from error
    if votes.ndim not in (1, 2) or not np.issubdtype(votes.dtype, np.integer):
        raise InputError(
            f"the votes of {name} are {votes.dtype} of shape {votes.shape}, not one integer per test image"
        )
    return votes.astype(np.int64)


def array_of(content: bytes) -> NDArray[Any]:
    """The array in a `.npy` file's bytes. ValueError if they are none, or hold less than their header says.

    No memory is taken for what is not there, and nothing is unpickled.
    """
    stream = io.BytesIO(content)
    read = npy.read_array_header_1_0 if npy.read_magic(stream) == (1, 0) else npy.read_array_header_2_0
    shape, _, dtype = read(stream)
    size, there = math.prod(shape) * dtype.itemsize, len(content) - stream.tell()
    if min(shape, default=0) < 0 or size > there:
        raise ValueError(f"its header says {size} bytes of numbers, and it has {there}")
    return np.asarray(npy.read_array(io.BytesIO(content), allow_pickle=False))


def votes_hash(votes: NDArray[np.int64]) -> str:
    """sha256 of the votes' `.npy` bytes."""
    return hashlib.sha256(votes_to_bytes(votes)).hexdigest()


def count_votes(votes: Mapping[int, NDArray[np.int64]], m: int, n_test: int, classes: int) -> NDArray[np.int64]:
    """counts (n_test, K) of draws 0..m-1. A missing draw counts for no class, as does a vote of NOBODY.

    InputError for a draw outside the plan, a wrong number of votes, or a class that does not exist.
    """
    counts = np.zeros((n_test, classes), dtype=np.int64)
    for draw, row in sorted(votes.items()):
        if not 0 <= draw < m:
            raise InputError(f"draw {draw} is not in the plan of draws 0..{m - 1}")
        if row.shape != (n_test,):
            raise InputError(f"draw {draw} voted on {row.shape} images; the test set has {n_test}")
        if n_test and not NOBODY <= row.min() <= row.max() < classes:
            stranger = row.max() if row.max() >= classes else row.min()
            raise InputError(f"draw {draw} votes for class {stranger}; there are classes 0..{classes - 1}")
        cast = np.flatnonzero(row != NOBODY)
        counts[cast, row[cast]] += 1
    return counts


def count_block_votes(
    votes: Mapping[int, NDArray[np.int64]], m: int, blocks: int, n_test: int, classes: int
) -> NDArray[np.int64]:
    """counts (blocks, n_test, K) of draws 0..m-1, whose votes are (blocks, n_test); otherwise as `count_votes`."""
    for draw, row in sorted(votes.items()):
        if row.ndim != 2 or len(row) != blocks:
            raise InputError(f"draw {draw} has votes of shape {row.shape}; there are {blocks} blocks")
    own = ({draw: row[block] for draw, row in votes.items()} for block in range(blocks))
    return np.stack([count_votes(rows, m, n_test, classes) for rows in own])


def repeated(choosing: Mapping[int, NDArray[np.int64]], bounding: Mapping[int, NDArray[np.int64]]) -> int:
    """How many rows of `choosing` equal a row of `bounding`, if chance does not explain it; otherwise 0.

    Models that differ only in their seeds agree on all points as often with further models as with one another, so
    that where all models agree equal rows say nothing. Chance explains equal rows unless so many of them, at the rate
    within `bounding` (with one more), or the same rows in the same order, are rarer than CHANCE.
    """
    own = Counter(row.tobytes() for row in bounding.values())
    rows = [row.tobytes() for row in choosing.values()]
    equal = sum(row in own for row in rows)
    rate = (1 + sum(count for count in own.values() if count > 1)) / (1 + len(bounding))
    chance = float(binom.sf(equal - 1, len(rows), rate))
    pairs = list(zip(rows, (row.tobytes() for row in bounding.values()), strict=False))
    if all(one == other for one, other in pairs):
        orders = gammaln(len(pairs) + 1) - sum(gammaln(count + 1) for count in Counter(pairs).values())
        chance = min(chance, math.exp(-orders))
    return equal if equal and chance < CHANCE else 0


def merkle_root(hashes: Mapping[int, str], m: int) -> str:
    """One sha256 over (draw, votes hash) of draws 0..m-1. A missing draw has a special leaf.

    Leaves and inner nodes are hashed with different prefixes. An odd node moves up unchanged (RFC 6962).
    """
    nodes = [hashlib.sha256(b"\x00" + f"{draw} {hashes.get(draw, 'missing')}".encode()).digest() for draw in range(m)]
    while len(nodes) > 1:
        paired = [hashlib.sha256(b"\x01" + a + b).digest() for a, b in zip(nodes[::2], nodes[1::2], strict=False)]
        nodes = paired + nodes[len(paired) * 2 :]
    return nodes[0].hex()
