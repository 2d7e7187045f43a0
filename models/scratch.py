"""A draw's sanitized copy on a scratch disk, where copies do not fit memory: written in shards, read in batches.

A copy is a file without a name: no other draw can open it, and the system frees its room as soon as the draw is done,
fails, or its process ends, killed or not. Its bytes are read, never mapped: memory holds a shard or a batch.
"""

import math
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from cleanlabel.sanitize.arrays import DiskArray
from cleanlabel.sanitize.device import is_accelerator
from cleanlabel.sanitize.errors import InputError, is_full
from cleanlabel.sanitize.imageset import ImageSet

if TYPE_CHECKING:  # only this import needs pydantic
    from cleanlabel.models.params import TrainParams

VARIABLE = "CLEANLABEL_SCRATCH"
SHARD_BYTES = 1 << 24
"""The most bytes of a copy that memory holds while it is written, but for one batch more."""


def copy_bytes(images: int, image_shape: tuple[int, ...], *, denoised: bool) -> int:
    """Bytes of a sanitized copy: uint8, or float32 if nothing is denoised."""
    return images * math.prod(image_shape) * (1 if denoised else 4)


def copies_at_once(draws: int, device: torch.device | str) -> int:
    """How many copies a worker has on disk at once: beside an accelerator the next draw's is made while one trains."""
    return min(draws, 2 if is_accelerator(device) else 1)


def require_room(folder: Path, needed: int, copies: int = 1) -> None:
    """InputError unless `folder` is a writable directory with room for so many copies of `needed` bytes each."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
        found = os.statvfs(folder)
    except OSError as error:
        raise InputError(
            f"{VARIABLE}={folder} cannot be written to ({error.strerror}), and a draw's copy needs "
            f"{_words(needed)} there; name a folder that exists and is writable, or unset it to hold copies in memory"
        ) from error
    free = found.f_bavail * found.f_frsize
    if free < copies * needed:
        raise InputError(_full(folder, needed, copies, free))


def _full(folder: Path, needed: int, copies: int, free: int) -> str:
    several = f" {copies} times" if copies > 1 else ""
    return (
        f"{VARIABLE}={folder} has {_words(free)} free, and a draw's copy needs {_words(needed)}{several}; make room "
        "there, name another folder, lower CLEANLABEL_WORKERS, or unset it to hold copies in memory"
    )


def require_read_in_batches(recipe: "TrainParams") -> None:
    """InputError if the recipe reads a whole copy at once: for statistics of all its pixels, or of raw images."""
    if recipe.normalise != "constants" or (recipe.warm_epochs and recipe.warm_on == "raw"):
        raise InputError(
            f"{VARIABLE} is for recipes that read a copy batch by batch, and train.normalise={recipe.normalise!r} with "
            f"train.warm_on={recipe.warm_on!r} reads all images at once; set train.normalise: constants and "
            "train.warm_on: copy, or unset it to hold copies in memory"
        )


def copy_on_disk(raw: ImageSet, folder: Path, batch: int, make: Callable[[ImageSet], NDArray[Any]]) -> DiskArray:
    """`make(raw)` in a file without a name, made shard by shard.

    make: a copy of some images, each of which depends on that image alone and the place in its batch. Shards are whole
    batches, so the bytes are those of `make(raw)`. InputError if the disk has no room for all of it: that is reserved
    before the second shard is made.
    """
    size = max(1, SHARD_BYTES // (batch * math.prod(raw.image_shape) * 4)) * batch
    stream = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (it lives as long as the array)
    copy: DiskArray | None = None
    for start in range(0, len(raw), size):
        part = make(raw.take(np.arange(start, min(start + size, len(raw)))))
        if copy is None:
            copy = DiskArray(stream, 0, raw.images.shape, part.dtype)
            _reserve(stream.fileno(), folder, math.prod(copy.shape) * part.itemsize)
        stream.write(np.ascontiguousarray(part).data)
    stream.flush()
    if copy is None:
        raise ValueError("a set without images has no copy")
    return copy


def shards_of(copy: DiskArray) -> Iterator[NDArray[Any]]:
    """The whole copy, shard by shard."""
    rows = max(1, SHARD_BYTES // (math.prod(copy.shape[1:]) * copy.dtype.itemsize))
    for start in range(0, len(copy), rows):
        yield copy[start : start + rows]


def _reserve(file: int, folder: Path, needed: int) -> None:
    try:
        os.posix_fallocate(file, 0, needed)
    except OSError as error:
        if not is_full(error):
            raise
        found = os.statvfs(folder)
        raise InputError(_full(folder, needed, 1, found.f_bavail * found.f_frsize)) from error


def _words(size: int) -> str:
    return f"{size / 1e9:,.2f} GB" if size >= 1e8 else f"{size / 1e6:,.2f} MB"
