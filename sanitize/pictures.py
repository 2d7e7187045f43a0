"""Read image files in one defined way.

A file's content decides its format, not its suffix. Of several frames the first is used. EXIF rotation is applied, so
that pixels are oriented as people see them. Bilevel and grey images stay grey, and 16-bit images keep their upper 8
bits. Palettes are looked up. Transparency is dropped, as in torchvision's own loader. Other colour spaces are converted
to RGB. A set is grey if all of its images are, otherwise RGB. The certificate holds for these 8-bit pixels, to which
the noise is added.
"""

import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.names import shown

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "DIB", "PPM", "TIFF", "AVIF", "JPEG2000", "QOI")
"""Pillow's names of the accepted formats: still images that it decodes itself. EPS and PDF would run a program."""
FRAMES = {"GIF", "WEBP", "PNG", "AVIF", "TIFF"}
"""Formats whose further frames are separate images. MPO is not one of them: its further frames are previews."""
GREY = {"1", "L", "LA", "La"}
SIXTEEN_BITS = {"I", "I;16", "I;16L", "I;16B", "I;16N"}
COLOUR = {"P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"}
HEIC = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
ORIENTATION = 0x0112
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Unreadable(InputError):
    """A file that cannot be read as an image, with the reason by itself."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{shown(str(path))} cannot be read as an image ({reason}); repair or remove it")
        self.reason = reason


class Seen(NamedTuple):
    """The facts in an image's header: its size after rotation, whether it is grey, whether it has further frames."""

    height: int
    width: int
    grey: bool
    animated: bool


def look_at(path: Path) -> Seen:
    """The facts in an image's header. Unreadable if it is no image, or not of 8 or 16 bits."""
    try:
        with path.open("rb") as stream, Image.open(stream, formats=FORMATS) as image:
            width, height = image.size
            if _orientation(image) >= 5:  # lying on its side
                width, height = height, width
            mode = image.mode
            animated = image.format in FRAMES and _has_frames(image)
    except Exception as error:  # decoders raise anything on damaged bytes: struct.error, RuntimeError, KeyError, ..
        raise Unreadable(path, _cause(path, error)) from error
    if mode not in GREY | SIXTEEN_BITS | COLOUR:
        raise Unreadable(path, f"its mode is {mode}; convert it to 8-bit grey or RGB")
    return Seen(height, width, mode in GREY | SIXTEEN_BITS, animated)


def read_picture(path: Path, channels: int) -> NDArray[np.uint8]:
    """The pixels of an image, uint8 (h, w, channels). Unreadable if it is damaged."""
    try:
        with path.open("rb") as stream, Image.open(stream, formats=FORMATS) as image:
            turn = TURNS.get(_orientation(image))
            image.load()
            whole = _upper_bits(image) if image.mode in SIXTEEN_BITS else image
            pixels = np.asarray(whole.convert("L" if channels == 1 else "RGB"))
            if turn is not None:
                pixels = np.asarray(Image.fromarray(pixels).transpose(turn))
    except Exception as error:
        raise Unreadable(path, _cause(path, error)) from error
    return pixels.reshape(pixels.shape[0], pixels.shape[1], channels)


def write_picture(pixels: NDArray[np.uint8], path: Path) -> None:
    """Write uint8 (h, w, c) as PNG data to `path`, whatever its suffix: without loss, and with names unchanged.

    Readers (Pillow, torchvision, OpenCV) go by the content, not by the suffix.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(path, format="PNG")


def hush() -> None:
    """Silence Pillow's warnings: unreadable files are refused, and large images are not damaged."""
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
    warnings.filterwarnings("ignore", module=r"PIL\.")


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation; 1 (unrotated) if it is missing or invalid, as in every viewer."""
    if image.format == "TIFF":
        return 1  # Pillow rotates these by itself, correctly if it gets a stream instead of a path
    try:
        found = image.getexif().get(ORIENTATION, 1)
    except Exception:
        return 1
    return found if isinstance(found, int) and found in TURNS else 1


def _has_frames(image: Image.Image) -> bool:
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # the second frame is damaged; the first one may be whole
        return True


def _upper_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError(f"its values run from {values.min()} to {values.max()}, which fit neither 8 nor 16 bits")
    return Image.fromarray((values >> 8).astype(np.uint8))


def _cause(path: Path, error: Exception) -> str:
    """Why a file cannot be read, in a few words, with the position if the decoder knows it."""
    if isinstance(error, OSError) and error.errno is not None:
        return str(error.strerror)
    try:
        with path.open("rb") as stream:
            head, size = stream.read(12), stream.seek(0, 2)
    except OSError as later:
        return str(later.strerror)
    if not size:
        return "it is empty"
    if head[4:8] == b"ftyp" and head[8:12] in HEIC:
        return "HEIC, which is not read here; convert it to PNG or JPEG"
    if isinstance(error, UnidentifiedImageError):
        return "its content is not in an image format that is read here"
    words = str(error) if isinstance(error, OSError | SyntaxError | ValueError) else f"{type(error).__name__} {error}"
    return f"{' '.join(words.split()) or type(error).__name__}; the file ends at byte {size}"
