"""Image sets: reading, writing, and the digest that identifies a set."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.files import replacing
from cleanlabel.sanitize.pictures import write_picture
from cleanlabel.sanitize.sources import Source, check_members, open_source, set_digest


@dataclass(frozen=True, eq=False)
class ImageSet:
    """n labelled images of one size, each with an id that stays with it.

    images: uint8 (n, h, w, c) with c = 1 or 3; labels: int64 (n,) in 0..K-1; ids: n different strings (an image's
    relative path, the `ids` column of an array, or its index). `classes` names the K classes. `channel_axis` is False
    if the original array was (n, h, w). `resized`: the side to which every image was resized when the set was read, if
    it was; a radius is then about the resized pixels. InputError if any of this does not hold.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    ids: tuple[str, ...]
    classes: tuple[str, ...]
    channel_axis: bool = True
    resized: int | None = None

    def __post_init__(self) -> None:
        if self.images.dtype != np.uint8:
            raise InputError(f"images are {self.images.dtype}, not uint8; save pixels as whole numbers 0..255")
        if self.images.ndim != 4 or self.images.shape[3] not in (1, 3) or 0 in self.images.shape[1:]:
            raise InputError(f"images have the shape {self.images.shape}, not (n, h, w) or (n, h, w, 1 or 3)")
        if not len(self.images) == len(self.labels) == len(self.ids):
            raise InputError(f"{len(self.images)} images, {len(self.labels)} labels and {len(self.ids)} ids")
        check_members(self.labels, self.ids, self.classes)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(h, w, c)."""
        h, w, c = self.images.shape[1:]
        return h, w, c

    @cached_property
    def digest(self) -> str:
        """See `sanitize.sources.set_digest`."""
        order = sorted(range(len(self)), key=self.ids.__getitem__)
        return set_digest(self.images.shape, order, self.ids, self.labels, (self.images[i] for i in order))

    def take(self, rows: NDArray[np.int64]) -> "ImageSet":
        """The images at `rows`, in that order, with their labels and ids."""
        return replace(self, images=self.images[rows], labels=self.labels[rows], ids=tuple(self.ids[i] for i in rows))

    def with_images(self, images: NDArray[np.uint8]) -> "ImageSet":
        """The same set with other pixels: same order, labels and ids."""
        return replace(self, images=images)


def load(path: Path) -> ImageSet:
    """Read a whole image set: a `.npz` file or a folder `root/<class>/<image>`. InputError names what is wrong."""
    return read_all(open_source(path), str(path))


def read_all(source: Source, name: str) -> ImageSet:
    """Every image of a source, in memory. InputError unless they have one size."""
    if len(source) and source.size is None:
        other = int(np.flatnonzero((source.sizes != source.sizes[0]).any(axis=1))[0])
        raise InputError(
            f"{name}: {source.ids[other]} is {_words(source.sizes[other])} where {source.ids[0]} is "
            f"{_words(source.sizes[0])}; bring all images to one size"
        )
    h, w = source.size or (1, 1)
    images = np.empty((len(source), h, w, source.channels), dtype=np.uint8)
    for i, image in enumerate(source.read(range(len(source)))):
        images[i] = image
    return ImageSet(images, source.labels, source.ids, source.classes, source.channel_axis, source.resized)


def save_npz(images: ImageSet, path: Path) -> None:
    """Write a set as `.npz` (images, labels, ids, classes; and resized, if it was), atomically.

    The same set gives the same bytes.
    """
    pixels = images.images if images.channel_axis else images.images[..., 0]
    further: dict[str, Any] = {} if images.resized is None else {"resized": np.array([images.resized])}
    with replacing(path) as scratch, scratch.open("wb") as stream:
        np.savez(
            stream,
            images=pixels,
            labels=images.labels,
            ids=np.array(images.ids, dtype=np.str_),
            classes=np.array(images.classes, dtype=np.str_),
            **further,
        )


def save_folder(images: ImageSet, root: Path) -> None:
    """Write each image as PNG data into the directory `root`, at its id (its relative path)."""
    for pixels, image_id in zip(images.images, images.ids, strict=True):
        write_picture(pixels, root / image_id)


def require_trainable(images: ImageSet, name: str) -> None:
    """InputError unless the set has images of at least two classes."""
    present = np.unique(images.labels)
    if present.size < 2:
        found = f"one class ({images.classes[present[0]]!r})" if present.size else "no images"
        raise InputError(f"the {name} set has {found}; a classifier needs at least two classes")


def _words(size: NDArray[np.int64]) -> str:
    return f"{size[1]}x{size[0]}"
