"""The pixels of images that a user gives to an ensemble: checked, never guessed."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image
from torch import Tensor

from cleanlabel.sanitize.errors import InputError

UNITS = "multiply images in [0,1] by 255 and round them"


class _NotTakenError(Exception):
    """What is wrong with the images, and what to do about it."""


def as_pixels(images: Any, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """The pixels of n images, uint8 (n, *shape), if `images` is unambiguous; shape is (h, w, c).

    images: an array or a tensor (n, h, w, c), or (n, h, w) if c is 1; a list of arrays, tensors or PIL images of mode L
    or RGB; or nested lists of numbers, as in JSON. Pixels are uint8, or whole numbers 0..255 of the types int32, int64,
    float32 and float64 (12.0 is 12). InputError says what was given and what the model takes.

    Values that are not uint8 and all at most 1 are refused: they may be pixels in [0,1] or nearly black images.
    """
    try:
        pixels = _array(images, shape[2])
        if pixels.dtype not in (np.uint8, np.int32, np.int64, np.float32, np.float64):
            raise _NotTakenError(f"the images are {pixels.dtype}")
        _check_shape(pixels.shape, shape)
        if pixels.dtype != np.uint8:
            _check_values(pixels)
    except _NotTakenError as error:
        what, *way_out = error.args
        raise InputError("; ".join([what, f"this model takes {_takes(shape)}", *way_out])) from None
    return pixels.astype(np.uint8, copy=False).reshape(len(pixels), *shape)


def _takes(shape: tuple[int, ...]) -> str:
    h, w, c = shape
    shapes = f"(n, {h}, {w}) or (n, {h}, {w}, 1)" if c == 1 else f"(n, {h}, {w}, {c})"
    return f"images of shape {shapes}, whole numbers 0..255 (uint8)"


def _array(images: Any, channels: int) -> NDArray[Any]:
    if isinstance(images, np.ma.MaskedArray):
        raise _NotTakenError("the images are a masked array", "give one without a mask")
    if isinstance(images, np.ndarray):
        return images
    if isinstance(images, Tensor):
        try:
            return images.detach().cpu().numpy()
        except (TypeError, RuntimeError):  # bfloat16, sparse, quantized
            raise _NotTakenError(
                f"the images are a tensor of {images.dtype} that cannot become an array", "give a uint8 one"
            ) from None
    if isinstance(images, Image.Image):
        return _of_picture(images, channels)
    if isinstance(images, list | tuple):
        if any(isinstance(image, np.ndarray | Tensor | Image.Image) for image in images):
            return _stack(images, channels)
        return _of_numbers(images)
    if isinstance(images, str | bytes):
        raise _NotTakenError("the images are text", "decode a PNG or base64 to pixels first")
    raise _NotTakenError(f"the images are a {type(images).__name__}", "give an array or nested lists of numbers")


def _of_picture(picture: Image.Image, channels: int) -> NDArray[Any]:
    mode = "L" if channels == 1 else "RGB"
    if picture.mode != mode:
        raise _NotTakenError(f"a picture has the mode {picture.mode}", f'give image.convert("{mode}")')
    if picture.getexif().get(ExifTags.Base.Orientation, 1) != 1:  # training images were turned upright
        raise _NotTakenError(
            "a picture lies on its side by its EXIF orientation", "give ImageOps.exif_transpose(image)"
        )
    try:
        picture.load()
    except (OSError, SyntaxError, ValueError) as error:
        raise _NotTakenError(f"a picture cannot be read ({error})") from None
    return np.asarray(picture)


def _stack(images: Sequence[Any], channels: int) -> NDArray[Any]:
    if any(isinstance(image, list | tuple) for image in images):
        raise _NotTakenError("the images are a list of arrays and of lists", "give one kind")
    arrays = [_array(image, channels) for image in images]
    for i, array in enumerate(arrays):
        if (array.shape, array.dtype) != (arrays[0].shape, arrays[0].dtype):
            first, other = (f"{one.dtype} of shape {one.shape}" for one in (arrays[0], array))
            raise _NotTakenError(f"image 0 is {first} and image {i} is {other}")
    return np.stack(arrays)


def _of_numbers(images: Sequence[Any]) -> NDArray[Any]:
    ragged = _NotTakenError("the images are lists of different lengths")
    try:
        values = np.array(images, dtype=object)  # distinguishes true from 1, and null from NaN
    except ValueError:
        raise ragged from None
    types = set(map(type, values.ravel().tolist()))
    if list in types or tuple in types:
        raise ragged
    if others := sorted(kind.__name__ for kind in types - {int, float}):
        names = {"NoneType": "null", "str": "text", "bool": "true or false"}
        raise _NotTakenError(f"the images hold {names.get(others[0], f'a {others[0]}')} instead of a number")
    try:
        return values.astype(np.float64 if float in types else np.int64)
    except OverflowError:
        raise _NotTakenError("the images hold a number outside 0..255") from None


def _check_shape(given: tuple[int, ...], shape: tuple[int, ...]) -> None:
    h, w, c = shape
    grey = c == 1
    if given[1:] == shape or (grey and given[1:] == (h, w)):
        return
    if given == (0,):
        raise _NotTakenError("there are no images")
    if given in (shape, (c, h, w)) or (grey and given == (h, w)):
        raise _NotTakenError(f"one image of shape {given} has no batch axis", "put it in a list of one image")
    if given[1:] == (c, h, w):
        raise _NotTakenError(f"the images have the shape {given}, channels first", "give images.transpose(0, 2, 3, 1)")
    if given[1:] == (h, w, 4):
        raise _NotTakenError(f"the images have the shape {given}, with an alpha channel", "drop that channel")
    raise _NotTakenError(f"the images have the shape {given}")


def _check_values(pixels: NDArray[Any]) -> None:
    if not pixels.size:
        return
    if not np.isfinite(pixels).all():
        raise _NotTakenError("the images hold NaN or infinity")
    if len(broken := pixels[pixels != np.rint(pixels)]):
        raise _NotTakenError(f"the images hold {broken[0]}, which is not a whole number", UNITS)
    if len(outside := pixels[(pixels < 0) | (pixels > 255)]):
        raise _NotTakenError(f"the images hold {outside[0]:g}, which is outside 0..255")
    black = pixels.dtype.kind == "i" and not pixels.any()
    if pixels.max() <= 1 and not black:
        raise _NotTakenError(
            f"the largest pixel is {pixels.max():g}, so the images may be in [0,1]", f"{UNITS}, or give uint8"
        )
