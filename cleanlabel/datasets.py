"""Images and labels of a data set like torchvision's, which must not change them at random."""

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import torch.utils.data
from numpy.typing import NDArray
from PIL import Image

from cleanlabel.sanitize.errors import InputError

TWICE = 16
"""How many items are read a second time: a random change that no attribute shows would differ."""


class Dataset(Protocol):
    """A data set like torchvision's: items (image, label) by index."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> tuple[Any, Any]: ...


def items_of(data: Dataset) -> tuple[NDArray[Any], NDArray[Any]]:
    """All images and labels of a data set.

    InputError if it, or a data set within it, transforms images, if an item read twice differs, or if an item is not
    an image and a label. A target_transform stays: labels enter the digest as it gives them.
    """
    _refuse_transforms(data)
    images: list[NDArray[Any]] = []
    labels = []
    for i in range(len(data)):
        image, label = _item(data, i)
        if image.shape != np.shape(images[0] if images else image):
            raise InputError(
                f"image {i} of the data set has the shape {image.shape} where image 0 has {images[0].shape}; bring all "
                "images to one size"
            )
        images.append(image)
        labels.append(label)
    for i in np.unique(np.linspace(0, len(images) - 1, TWICE).astype(int)).tolist() if images else ():
        image, label = _item(data, i)
        if not (np.array_equal(image, images[i]) and np.array_equal(label, labels[i])):
            raise InputError(
                f"item {i} of the data set differs when it is read again; take out what changes it at random: nobody "
                "could make this raw set again"
            )
    return np.array(images), np.array(labels)


def _item(data: Dataset, i: int) -> tuple[NDArray[Any], Any]:
    item = data[i]
    if not isinstance(item, tuple | list) or len(item) != 2:
        raise InputError(f"item {i} of the data set is a {type(item).__name__}; give items (image, label)")
    image, label = item
    if isinstance(image, Image.Image) and image.mode in ("L", "RGB"):
        image = np.array(image)
    if not isinstance(image, np.ndarray):
        words = f"picture of mode {image.mode}" if isinstance(image, Image.Image) else type(image).__name__
        raise InputError(
            f"image {i} of the data set is a {words}; give the data set without a transform, its images as PIL "
            "images of mode L or RGB or as uint8 arrays: the noise belongs on the raw pixels"
        )
    return image.copy(), label


def _refuse_transforms(data: Any) -> None:
    """InputError if a data set, or one that it wraps, changes its images."""
    for place, part in _parts_of(data, "data", set()):
        transforms = getattr(part, "transforms", None)
        found = {
            "transform": getattr(part, "transform", None),
            # torchvision makes one of a transform and a target_transform
            "transforms": getattr(transforms, "transform", transforms),
        }
        changing = {f"{place}.{name}": value for name, value in found.items() if value is not None}
        if changing:
            words = " ".join(str(next(iter(changing.values()))).split())
            raise InputError(
                f"the data set has a transform ({words}), and its images are not the raw ones; set "
                f"{' = '.join(changing)} = None, and transform the sanitized copies"
            )


def _parts_of(data: Any, place: str, seen: set[int]) -> Iterator[tuple[str, Any]]:
    """A data set and those within it, such as those of a Subset or a ConcatDataset, each with its name in Python."""
    seen.add(id(data))
    yield place, data
    for name, value in getattr(data, "__dict__", {}).items():
        many = isinstance(value, list | tuple)
        for i, inner in enumerate(value if many else (value,)):
            is_data = isinstance(inner, torch.utils.data.Dataset) or name in ("dataset", "datasets")
            if is_data and id(inner) not in seen:
                yield from _parts_of(inner, f"{place}.{name}{f'[{i}]' if many else ''}", seen)
