"""Which block of a partitioned ensemble an image belongs to. Its id alone decides."""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

RULE = "the id's sha256, after the prefix cleanlabel/block/1, mod the number of blocks"
"""`block_of` in words, as a plan records it."""


def block_of(ids: Sequence[str], k: int) -> NDArray[np.int64]:
    """The block, 0..k-1, of each image: a function of its id and k, never of pixels, labels or other images.

    A rewritten image stays in its block, and an added or removed image moves no other image: each changes one block.
    An image with a new id (renamed, or in another class's folder) leaves one block and enters another: it changes two.
    The hash is public. An attacker can choose which blocks to attack, and can choose the blocks of added images by
    their names. The certificate holds for every such choice, so a secret key would add nothing. Such names can make
    the blocks uneven, which lowers accuracy but never makes a certificate false.
    """
    if k < 1:
        raise ValueError(f"k={k} is not a number of blocks; give k >= 1")
    digests = (hashlib.sha256(b"cleanlabel/block/1" + image_id.encode()).digest() for image_id in ids)
    return np.array([int.from_bytes(digest) % k for digest in digests], dtype=np.int64)


def ids_are_names(ids: Sequence[str]) -> bool:
    """Whether ids stay with their images when others are added or removed. Paths and names do, positions do not.

    An array without an `ids` column has positions as ids. A column of bare numbers looks the same and is treated as
    positions.
    """
    return not all(image_id.isdecimal() for image_id in ids)
