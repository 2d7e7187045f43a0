"""Image sets: what comes in, what goes out, and the digest that names one."""

import hashlib
import zipfile
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from sanitize.errors import InputError
from sanitize.files import replacing

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
MODES = {"L": 1, "RGB": 3}


@dataclass(frozen=True, eq=False)
class ImageSet:
    """n labelled images of one size, each with an id that stays with it.

    images uint8 (n, h, w, c) with c = 1 or 3; labels int64 (n,) in 0..K-1; ids n different strings (an image's
    relative path, the `ids` column of an array, or its index). `classes` names the K classes. `channel_axis` is
    False where the array it came from was (n, h, w). InputError where any of that does not hold.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    ids: tuple[str, ...]
    classes: tuple[str, ...]
    channel_axis: bool = True

    def __post_init__(self) -> None:
        if self.images.dtype != np.uint8:
            raise InputError(f"images are {self.images.dtype}, not uint8; save pixels as whole numbers 0..255")
        if self.images.ndim != 4 or self.images.shape[3] not in (1, 3) or 0 in self.images.shape[1:]:
            raise InputError(f"images have the shape {self.images.shape}, not (n, h, w) or (n, h, w, 1 or 3)")
        if not len(self.images) == len(self.labels) == len(self.ids):
            raise InputError(f"{len(self.images)} images, {len(self.labels)} labels and {len(self.ids)} ids")
        if len(self.labels) and not 0 <= self.labels.min() <= self.labels.max() < len(self.classes):
            raise InputError(
                f"labels run from {self.labels.min()} to {self.labels.max()}, "
                f"outside 0..{len(self.classes) - 1}; number the classes from 0"
            )
        if len(set(self.ids)) != len(self.ids):
            double = next(a for a, b in pairwise(sorted(self.ids)) if a == b)
            raise InputError(f"the id {double!r} occurs twice; ids must differ, or two images would share their noise")

    def __len__(self) -> int:
        return len(self.images)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(h, w, c)."""
        h, w, c = self.images.shape[1:]
        return h, w, c

    @cached_property
    def digest(self) -> str:
        """sha256 over shape, dtype, ids, image bytes and labels, in the order of the ids.

        The same for a folder and for an array with the same ids, pixels and labels, in whatever order they come.
        """
        order = sorted(range(len(self)), key=self.ids.__getitem__)
        digest = hashlib.sha256(f"{self.images.shape} {self.images.dtype}\n".encode())
        for i in order:
            name = self.ids[i].encode()
            digest.update(f"{len(name)} ".encode() + name + f" {self.labels[i]}\n".encode())
            digest.update(np.ascontiguousarray(self.images[i]).tobytes())
        return digest.hexdigest()

    def take(self, rows: NDArray[np.int64]) -> "ImageSet":
        """The images at `rows`, in that order, with their labels and ids."""
        return replace(self, images=self.images[rows], labels=self.labels[rows], ids=tuple(self.ids[i] for i in rows))

    def with_images(self, images: NDArray[np.uint8]) -> "ImageSet":
        """The same set with other pixels: same order, labels and ids."""
        return replace(self, images=images)


def load(path: Path) -> ImageSet:
    """Read an image set: a `.npz` file or a folder `root/<class>/<image>`. InputError names what is wrong with it."""
    if path.is_dir():
        return _load_folder(path)
    if path.suffix == ".npz" and path.is_file():
        return _load_npz(path)
    if path.exists():
        raise InputError(f"{path} is neither a .npz file nor a folder of class folders; give one of these")
    raise InputError(f"{path} does not exist; give a .npz file or a folder root/<class>/<image>")


def save_npz(images: ImageSet, path: Path) -> None:
    """Write a set as `.npz` (images, labels, ids, classes), atomically; the same set gives the same bytes."""
    pixels = images.images if images.channel_axis else images.images[..., 0]
    with replacing(path) as scratch, scratch.open("wb") as stream:
        np.savez(
            stream,
            images=pixels,
            labels=images.labels,
            ids=np.array(images.ids, dtype=np.str_),
            classes=np.array(images.classes, dtype=np.str_),
        )


def save_folder(images: ImageSet, root: Path) -> None:
    """Write each image as PNG under its id (its relative path, with the suffix .png) into the directory `root`."""
    for pixels, image_id in zip(images.images, images.ids, strict=True):
        target = root / Path(image_id).with_suffix(".png")
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(target)


def require_trainable(images: ImageSet, name: str) -> None:
    """InputError unless the set has images of at least two classes."""
    present = np.unique(images.labels)
    if present.size < 2:
        found = f"one class ({images.classes[present[0]]!r})" if present.size else "no images"
        raise InputError(f"the {name} set has {found}; a classifier needs at least two classes")


def _load_npz(path: Path) -> ImageSet:
    try:
        with np.load(path, allow_pickle=False) as archive:
            columns = {key: archive[key] for key in archive.files}
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} cannot be read as .npz without unpickling ({error}); save plain arrays") from error
    for key in ("images", "labels"):
        if key not in columns:
            raise InputError(f"{path} has no array {key!r}; it holds {', '.join(sorted(columns)) or 'nothing'}")
    images, labels = columns["images"], columns["labels"]
    if not np.issubdtype(labels.dtype, np.integer) or labels.ndim != 1:
        raise InputError(f"labels in {path} are {labels.dtype} of shape {labels.shape}, not one integer an image")
    ids = tuple(str(i) for i in columns["ids"]) if "ids" in columns else tuple(map(str, range(len(images))))
    n_classes = int(labels.max()) + 1 if labels.size else 0
    classes = tuple(str(c) for c in columns["classes"]) if "classes" in columns else tuple(map(str, range(n_classes)))
    channel_axis = images.ndim == 4
    pixels = images if channel_axis else images[..., None]
    return ImageSet(pixels, labels.astype(np.int64), ids, classes, channel_axis)


def _load_folder(root: Path) -> ImageSet:
    classes = tuple(sorted(p.name for p in root.iterdir() if p.is_dir()))
    if not classes:
        raise InputError(f"{root} has no class folders; arrange the images as root/<class>/<image>")
    paths, labels = [], []
    for label, name in enumerate(classes):
        found = sorted(p for p in (root / name).rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
        if not found:
            raise InputError(f"the class folder {root / name} holds no image ({', '.join(SUFFIXES)})")
        paths += found
        labels += [label] * len(found)
    pixels = [_read_image(path) for path in paths]
    for path, image in zip(paths, pixels, strict=True):
        if image.shape != pixels[0].shape:
            raise InputError(
                f"{path} is {_describe(image)} where {paths[0]} is {_describe(pixels[0])}; "
                "bring all images to one size and mode"
            )
    ids = [p.relative_to(root).as_posix() for p in paths]
    stems = [str(Path(i).with_suffix("")) for i in ids]
    for a, b in pairwise(sorted(zip(stems, ids, strict=True))):
        if a[0] == b[0]:
            raise InputError(f"{a[1]} and {b[1]} differ only in their suffix and would overwrite each other as PNG")
    return ImageSet(np.stack(pixels), np.array(labels, dtype=np.int64), tuple(ids), classes)


def _read_image(path: Path) -> NDArray[np.uint8]:
    try:
        with Image.open(path) as image:
            if image.mode not in MODES:
                raise InputError(f"{path} has the mode {image.mode}; convert it to 8-bit greyscale or RGB")
            array = np.asarray(image)
    except (OSError, UnidentifiedImageError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{path} cannot be read as an image ({error}); repair or remove it") from error
    return array.reshape(array.shape[0], array.shape[1], MODES[image.mode])


def _describe(image: NDArray[np.uint8]) -> str:
    h, w, c = image.shape
    return f"{w}x{h} {'RGB' if c == 3 else 'grey'}"
