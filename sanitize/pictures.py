"""Image files, read in one stated way.

EXIF rotation is applied, so that pixels lie as people see them. Bilevel and grey images stay grey, 16-bit ones keep
their upper 8 bits; palettes are looked up; transparency is dropped, as torchvision's own loader does; other colour
spaces are converted to RGB. A set is grey if all of its images are, else RGB. The certificate holds for these 8-bit
pixels: they are what the noise is added to.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from sanitize.errors import InputError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
GREY = {"1", "L", "LA", "La"}
SIXTEEN_BITS = {"I", "I;16", "I;16L", "I;16B", "I;16N"}
COLOUR = {"P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"}
ORIENTATION = 0x0112
UNREADABLE = (OSError, UnidentifiedImageError, SyntaxError, ValueError, Image.DecompressionBombError)


def look_at(path: Path) -> tuple[int, int, bool]:
    """(height, width, is grey) of an image, from its header alone. InputError if it is none or not of 8 or 16 bits."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            if image.getexif().get(ORIENTATION, 1) >= 5:  # lying on its side
                width, height = height, width
            mode = image.mode
    except UNREADABLE as error:
        raise InputError(f"{path} cannot be read as an image ({error}); repair or remove it") from error
    if mode not in GREY | SIXTEEN_BITS | COLOUR:
        raise InputError(f"{path} has the mode {mode}; convert it to 8-bit grey or RGB")
    return height, width, mode in GREY | SIXTEEN_BITS


def read_picture(path: Path, channels: int) -> NDArray[np.uint8]:
    """The pixels of an image, uint8 (h, w, channels). InputError if it is damaged."""
    try:
        with Image.open(path) as stored:
            image = ImageOps.exif_transpose(stored)
            if image.mode in SIXTEEN_BITS:
                image = Image.fromarray((np.asarray(image).astype(np.int64).clip(0, 65535) >> 8).astype(np.uint8))
            pixels = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    except UNREADABLE as error:
        raise InputError(f"{path} cannot be read as an image ({error}); repair or remove it") from error
    return pixels.reshape(pixels.shape[0], pixels.shape[1], channels)


def write_picture(pixels: NDArray[np.uint8], path: Path) -> None:
    """Write uint8 (h, w, c) as PNG data under `path`, whatever its suffix: no loss, and every name stays.

    Readers (Pillow, torchvision, OpenCV) go by the content, not by the suffix.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(path, format="PNG")
