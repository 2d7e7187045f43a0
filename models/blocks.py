"""Which block of a partitioned ensemble an image belongs to: a matter of its id alone."""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

RULE = "the id's sha256, after the prefix cleanlabel/block/1, mod the number of blocks"
"""`block_of` in words, as a plan records it."""


def block_of(ids: Sequence[str], k: int) -> NDArray[np.int64]:
    """The block, 0..k-1, of each image: a function of its id and k alone, never of pixels, labels or other images.

    So a rewritten image stays where it is, and one that is added or removed moves no other: either changes one block.
    An image under a new id (renamed, or in another class's folder) leaves one block and enters another: two. The hash
    is public. Whoever knows it may choose which blocks to attack, and by the names of added images which blocks they
    fall in; the certificate is for every choice, so a secret key would add nothing to it. What such names can do is
    make blocks uneven, which costs accuracy and no truth.
    """
    if k < 1:
        raise ValueError(f"k={k} blocks cannot hold the images; give k >= 1")
    digests = (hashlib.sha256(b"cleanlabel/block/1" + image_id.encode()).digest() for image_id in ids)
    return np.array([int.from_bytes(digest) % k for digest in digests], dtype=np.int64)


def ids_are_names(ids: Sequence[str]) -> bool:
    """Whether ids stay with their images when others come or go: paths and names do, bare positions do not.

    An array without an `ids` column has positions; a column of bare numbers cannot be told from that, and is taken
    for it.
    """
    return not all(image_id.isdecimal() for image_id in ids)
