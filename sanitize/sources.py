"""Sources of images: a folder, a `.npz` or a published set. Read a few at a time, identified by one digest."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cleanlabel.sanitize.arrays import DiskArray, open_arrays
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.folders import NAMED, READERS, Reading, open_folder
from cleanlabel.sanitize.names import is_text, normal
from cleanlabel.sanitize.pictures import Unreadable
from cleanlabel.sanitize.published import read_published
from cleanlabel.sanitize.trees import Refused

MOST_CLASSES = 1 << 20
"""The largest label: a larger number is not taken for a class."""
READ_AHEAD = 1 << 26
"""Bytes of decoded images that may wait for the reader. This bounds memory, whatever the number and size of images."""


@dataclass(frozen=True, eq=False)
class Source:
    """n labelled images that stay on disk until they are read.

    ids: n different strings; labels: int64 (n,) in 0..K-1; sizes: (n, 2), heights and widths; channels: 1 or 3. form:
    the form in which a copy is written; channel_axis: False if the array was (n, h, w). names: the ids as given, if
    those were in another Unicode form. For a folder: how many images are `animated` (only their first frame is used),
    what was `skipped`, and a `survey` that lists everything that cannot be decoded. resized: as in an ImageSet.
    """

    ids: tuple[str, ...]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    sizes: NDArray[np.int64]
    channels: int
    read_one: Callable[[int], NDArray[np.uint8]]
    form: Literal["npz", "folder"]
    channel_axis: bool = True
    names: tuple[str, ...] = ()
    animated: int = 0
    skipped: tuple[Refused, ...] = ()
    survey: Callable[[], InputError] | None = None
    resized: int | None = None

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
        """The images at `rows`, in that order, each uint8 (h, w, c). A few threads decode a few images ahead.

        InputError names every image of the set that cannot be decoded, not only the first.
        """
        if self.form == "npz":
            yield from map(self.read_one, rows)
            return
        ahead = max(READERS, READ_AHEAD // int((self.sizes.prod(axis=1) * self.channels).max(initial=1)))
        with ThreadPoolExecutor(READERS) as pool:
            try:
                for start in range(0, len(rows), ahead):
                    yield from pool.map(self.read_one, rows[start : start + ahead])
            except Unreadable as error:
                raise (self.survey() if self.survey else error) from error

    @property
    def given_names(self) -> tuple[str, ...]:
        """The ids as given: the names of a copy's images."""
        return self.names or self.ids

    @property
    def notes(self) -> list[str]:
        """What the user should know about how the set was read, one sentence each."""
        notes = []
        if self.animated:
            notes.append(f"of {self.animated} image(s) with several frames or pages the first one is taken")
        if self.skipped:
            named = ", ".join(f"{one.path} ({one.reason})" for one in self.skipped[:NAMED])
            more = f" and {len(self.skipped) - NAMED} more" if len(self.skipped) > NAMED else ""
            notes.append(f"{len(self.skipped)} file(s) are left out: {named}{more}")
        return notes

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
    """sha256 of shape, dtype, ids, image bytes and labels, sorted by id. `order` and `images` are already sorted so.

    It is the same for a folder and an array with the same ids, pixels and labels, in any order. If the images have
    several sizes (`shape` None), each image's own shape is included.
    """
    digest = hashlib.sha256(f"{shape or len(order)} uint8\n".encode())
    for i, image in zip(order, images, strict=True):
        name = ids[i].encode()
        digest.update(f"{len(name)} ".encode() + name + f" {labels[i]}{'' if shape else f' {image.shape}'}\n".encode())
        digest.update(np.ascontiguousarray(image).tobytes())
    return digest.hexdigest()


def check_members(labels: NDArray[np.int64], ids: Sequence[str], classes: Sequence[str]) -> None:
    """InputError unless labels and ids fit each other and every id occurs once."""
    if len(labels) != len(ids):
        raise InputError(f"{len(labels)} labels and {len(ids)} ids; give one label and one id per image")
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(classes):
        raise InputError(
            f"labels run from {labels.min()} to {labels.max()}, outside 0..{len(classes) - 1}; "
            "number the classes from 0"
        )
    for name in (*ids, *classes):
        if not is_text(name):
            raise InputError(f"the id or class {name!a} cannot be written as UTF-8; rename it")
    if len(set(ids)) != len(ids):
        double = next(a for a, b in pairwise(sorted(ids)) if a == b)
        raise InputError(f"the id {double!r} occurs twice; ids must differ, or two images would share their noise")


def open_source(path: Path, reading: Reading = Reading()) -> Source:  # noqa: B008 (frozen)
    """A `.npz` file or a folder `root/<class>/<image>`. InputError names what is wrong with it."""
    if path.is_dir():
        return _open_folder(path, reading)
    if path.suffix == ".npz" and path.is_file():
        return _open_npz(path)
    if path.exists():
        raise InputError(f"{path} is neither a .npz file nor a folder of class folders; give one of these")
    raise InputError(f"{path} does not exist; give a .npz file or a folder root/<class>/<image>")


def open_published(name: str, root: Path, split: str) -> Source:
    """A published set by name, see `read_published`; an image's id is its split and index."""
    images, labels, classes = read_published(name, root, split)
    ids = tuple(f"{split}/{i:06d}" for i in range(len(images)))
    return from_array(images, labels, ids, classes)


def from_array(
    images: NDArray[np.uint8] | DiskArray, labels: NDArray[np.int64], ids: tuple[str, ...], classes: tuple[str, ...]
) -> Source:
    """A source of images from an array, uint8 (n, h, w[, 1 or 3]). InputError if the array has another form."""
    if images.dtype != np.uint8:
        raise InputError(f"images are {images.dtype}, not uint8; save pixels as whole numbers 0..255")
    shape = (*images.shape, 1) if images.ndim == 3 else images.shape
    if len(shape) != 4 or shape[3] not in (1, 3) or 0 in shape[1:]:
        raise InputError(
            f"images have the shape {images.shape}, not (n, h, w) or (n, h, w, 1 or 3){_turned(shape, len(labels))}"
        )
    n, h, w, channels = shape
    if not n == len(labels) == len(ids):
        raise InputError(f"{n} images, {len(labels)} labels and {len(ids)} ids; give one label and one id per image")

    def read_one(i: int) -> NDArray[np.uint8]:
        row = images.row(i) if isinstance(images, DiskArray) else images[i]
        return np.asarray(row, dtype=np.uint8).reshape(h, w, channels)

    sizes = np.tile(np.array([[h, w]], dtype=np.int64), (n, 1))
    normalised = tuple(map(normal, ids))
    if len(set(normalised)) < len(set(ids)):
        first: dict[str, str] = {}
        one, other = next((first[normal(i)], i) for i in ids if first.setdefault(normal(i), i) != i)
        raise InputError(f"the ids {one!a} and {other!a} differ only in their Unicode form; rename one")
    classes = tuple(map(normal, classes))
    return Source(
        normalised, labels, classes, sizes, channels, read_one, "npz", channel_axis=images.ndim == 4, names=ids
    )


def _turned(shape: tuple[int, ...], n: int) -> str:
    """How to transpose an array whose axes are in the wrong order, as far as its shape shows."""
    if len(shape) == 2:
        return "; restore each image's height and width: images.reshape(n, h, w) or (n, h, w, 3)"
    if len(shape) != 4:
        return ""
    if shape[1] in (1, 3):
        return "; the channels come first: save np.transpose(images, (0, 2, 3, 1))"
    if shape[2] in (1, 3) and shape[3] == n:
        return "; the images come last: save np.transpose(images, (3, 0, 1, 2))"
    if shape[3] == 4:
        return "; drop the transparency: save images[..., :3]"
    return ""


def _open_npz(path: Path) -> Source:
    columns = open_arrays(path, ("images", "labels"), ("ids", "classes", "resized"))
    images, labels = columns["images"], _column(columns["labels"])
    if labels is None or not np.issubdtype(labels.dtype, np.integer):
        stored = columns["labels"]
        raise InputError(f"labels in {path} are {stored.dtype} of shape {stored.shape}, not one integer per image")
    if labels.size and int(labels.max()) >= MOST_CLASSES:
        raise InputError(f"labels in {path} run to {labels.max()}; number the classes from 0, at most {MOST_CLASSES}")
    named: dict[str, tuple[str, ...]] = {}
    for key in ("ids", "classes"):
        if key in columns:
            column = _column(columns[key])
            if column is None:
                raise InputError(f"{key} in {path} have the shape {columns[key].shape}, not (n,)")
            try:
                named[key] = tuple(map(str, column))
            except Exception as error:  # numpy raises a SystemError for invalid characters
                raise InputError(f"{key} in {path} are not valid text ({error}); save them again") from error
    n_classes = int(labels.max()) + 1 if labels.size else 0
    n = images.shape[0] if images.ndim else 0
    ids = named.get("ids") or tuple(map(str, range(n)))
    classes = named.get("classes") or tuple(map(str, range(n_classes)))
    found = from_array(images, labels.astype(np.int64), ids, classes)
    return replace(found, resized=int(columns["resized"].whole().ravel()[0])) if "resized" in columns else found


def _column(array: DiskArray) -> NDArray[Any] | None:
    """The array's values, one per image, from shape (n,) or (n, 1); None for another shape."""
    if array.ndim == 1 or (array.ndim == 2 and array.shape[1] == 1):
        return array.whole().reshape(-1)
    return None


def _open_folder(root: Path, reading: Reading) -> Source:
    found = open_folder(root, reading)
    return Source(
        tuple(map(normal, found.names)),
        found.labels,
        found.classes,
        found.sizes,
        found.channels,
        found.read_one,
        "folder",
        names=found.names,
        animated=found.animated,
        skipped=found.skipped,
        survey=found.survey,
    )
