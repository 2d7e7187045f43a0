"""Where images come from: a folder, a `.npz`, a published set; read a few at a time, named by one digest."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sanitize.arrays import DiskArray, open_arrays
from sanitize.errors import InputError
from sanitize.pictures import SUFFIXES, look_at, read_picture
from sanitize.published import read_published

READERS = 4
"""Threads that decode image files at once; decoding lets the others run."""
READ_AHEAD = 1 << 26
"""Bytes of decoded images that may wait to be taken: memory does not grow with the number of images, or their size."""


@dataclass(frozen=True, eq=False)
class Source:
    """n labelled images that stay where they are until they are read.

    ids n different strings; labels int64 (n,) in 0..K-1; sizes (n, 2), heights and widths; channels 1 or 3. `form` is
    the form a copy is written in; `channel_axis` is False where the array it came from was (n, h, w).
    """

    ids: tuple[str, ...]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    sizes: NDArray[np.int64]
    channels: int
    read_one: Callable[[int], NDArray[np.uint8]]
    form: Literal["npz", "folder"]
    channel_axis: bool = True

    def __post_init__(self) -> None:
        check_members(self.labels, self.ids, self.classes)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def size(self) -> tuple[int, int] | None:
        """(h, w) if all images have one size."""
        if not len(self) or (self.sizes != self.sizes[0]).any():
            return None
        return int(self.sizes[0, 0]), int(self.sizes[0, 1])

    def read(self, rows: Sequence[int]) -> Iterator[NDArray[np.uint8]]:
        """The images at `rows`, in that order, each uint8 (h, w, c); decoded by a few threads, a few ahead."""
        if self.form == "npz":
            yield from map(self.read_one, rows)
            return
        ahead = max(READERS, READ_AHEAD // int((self.sizes.prod(axis=1) * self.channels).max(initial=1)))
        with ThreadPoolExecutor(READERS) as pool:
            for start in range(0, len(rows), ahead):
                yield from pool.map(self.read_one, rows[start : start + ahead])

    @cached_property
    def digest(self) -> str:
        """See `set_digest`."""
        order = sorted(range(len(self)), key=self.ids.__getitem__)
        shape = (len(self), *self.size, self.channels) if self.size else None
        return set_digest(shape, order, self.ids, self.labels, self.read(order))


def set_digest(
    shape: tuple[int, ...] | None,
    order: Sequence[int],
    ids: Sequence[str],
    labels: NDArray[np.int64],
    images: Iterator[NDArray[np.uint8]],
) -> str:
    """sha256 over shape, dtype, ids, image bytes and labels, in the order of the ids, which `order` and `images` have.

    The same for a folder and for an array with the same ids, pixels and labels, in whatever order they come. Where the
    images have several sizes (`shape` None), each image's own shape is part of it.
    """
    digest = hashlib.sha256(f"{shape or len(order)} uint8\n".encode())
    for i, image in zip(order, images, strict=True):
        name = ids[i].encode()
        digest.update(f"{len(name)} ".encode() + name + f" {labels[i]}{'' if shape else f' {image.shape}'}\n".encode())
        digest.update(np.ascontiguousarray(image).tobytes())
    return digest.hexdigest()


def check_members(labels: NDArray[np.int64], ids: Sequence[str], classes: Sequence[str]) -> None:
    """InputError unless labels and ids fit each other and every id is there once."""
    if len(labels) != len(ids):
        raise InputError(f"{len(labels)} labels and {len(ids)} ids; there must be one of each an image")
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(classes):
        raise InputError(
            f"labels run from {labels.min()} to {labels.max()}, outside 0..{len(classes) - 1}; "
            "number the classes from 0"
        )
    if len(set(ids)) != len(ids):
        double = next(a for a, b in pairwise(sorted(ids)) if a == b)
        raise InputError(f"the id {double!r} occurs twice; ids must differ, or two images would share their noise")


def open_source(path: Path) -> Source:
    """A `.npz` file or a folder `root/<class>/<image>`. InputError names what is wrong with it."""
    if path.is_dir():
        return _open_folder(path)
    if path.suffix == ".npz" and path.is_file():
        return _open_npz(path)
    if path.exists():
        raise InputError(f"{path} is neither a .npz file nor a folder of class folders; give one of these")
    raise InputError(f"{path} does not exist; give a .npz file or a folder root/<class>/<image>")


def open_published(name: str, root: Path, split: str) -> Source:
    """A published set by name, see `read_published`; an image's id is its split and index."""
    images, labels, classes = read_published(name, root, split)
    ids = tuple(f"{split}/{i:06d}" for i in range(len(images)))
    return _from_array(images, labels, ids, classes)


def _from_array(
    images: NDArray[np.uint8] | DiskArray, labels: NDArray[np.int64], ids: tuple[str, ...], classes: tuple[str, ...]
) -> Source:
    if images.dtype != np.uint8:
        raise InputError(f"images are {images.dtype}, not uint8; save pixels as whole numbers 0..255")
    shape = (*images.shape, 1) if images.ndim == 3 else images.shape
    if len(shape) != 4 or shape[3] not in (1, 3) or 0 in shape[1:]:
        raise InputError(f"images have the shape {images.shape}, not (n, h, w) or (n, h, w, 1 or 3)")
    n, h, w, channels = shape
    if not n == len(labels) == len(ids):
        raise InputError(f"{n} images, {len(labels)} labels and {len(ids)} ids")

    def read_one(i: int) -> NDArray[np.uint8]:
        row = images.row(i) if isinstance(images, DiskArray) else images[i]
        return np.asarray(row, dtype=np.uint8).reshape(h, w, channels)

    sizes = np.tile(np.array([[h, w]], dtype=np.int64), (n, 1))
    return Source(ids, labels, classes, sizes, channels, read_one, "npz", channel_axis=images.ndim == 4)


def _open_npz(path: Path) -> Source:
    columns = open_arrays(path)
    for key in ("images", "labels"):
        if key not in columns:
            raise InputError(f"{path} has no array {key!r}; it holds {', '.join(sorted(columns)) or 'nothing'}")
    images, labels = columns["images"], columns["labels"].whole()
    if not np.issubdtype(labels.dtype, np.integer) or labels.ndim != 1:
        raise InputError(f"labels in {path} are {labels.dtype} of shape {labels.shape}, not one integer an image")
    named = {key: tuple(map(str, columns[key].whole())) for key in ("ids", "classes") if key in columns}
    n_classes = int(labels.max()) + 1 if labels.size else 0
    ids = named.get("ids") or tuple(map(str, range(images.shape[0])))
    classes = named.get("classes") or tuple(map(str, range(n_classes)))
    return _from_array(images, labels.astype(np.int64), ids, classes)


def _open_folder(root: Path) -> Source:
    classes = tuple(sorted(p.name for p in root.iterdir() if p.is_dir()))
    if not classes:
        raise InputError(f"{root} has no class folders; arrange the images as root/<class>/<image>")
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = sorted(p for p in (root / name).rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
        if not found:
            raise InputError(f"the class folder {root / name} holds no image ({', '.join(SUFFIXES)})")
        paths += found
        labels += [label] * len(found)
    home = root.resolve()
    for path in paths:
        if home not in path.resolve().parents:
            raise InputError(f"{path} leads out of {root}, to {path.resolve()}; put the image itself there")
    with ThreadPoolExecutor(READERS) as pool:
        seen = list(pool.map(look_at, paths))
    channels = 1 if all(grey for _, _, grey in seen) else 3
    return Source(
        tuple(p.relative_to(root).as_posix() for p in paths),
        np.array(labels, dtype=np.int64),
        classes,
        np.array([(h, w) for h, w, _ in seen], dtype=np.int64),
        channels,
        lambda i: read_picture(paths[i], channels),
        "folder",
    )
