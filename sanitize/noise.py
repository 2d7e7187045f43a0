"""Gaussian noise that is a function of (entropy, role, draw, image id) and of nothing else.

The certificate needs noise that nobody could foresee and that no two images, draws or roles share. So every image
has a Philox generator of its own, keyed with a hash of all four: the noise does not depend on batch size, shard,
worker, device, restart or the image's position in the set, and can be made again from the entropy alone.
"""

import hashlib
import math
import secrets
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.rounded_gaussian import require_drawable, rounded_gaussian

DrawRole = Literal["noise", "test-noise", "train"]
"""The streams that make a draw; its seal names them."""
Role = Literal[DrawRole, "public-noise"]
"""`public-noise` is put on trusted images alone, from entropy that anybody may know."""
ENTROPY_BYTES = 32
NOISE_STREAM = "cleanlabel/noise/2"
"""Names how entropy becomes noise. 1 was Gaussian noise in float32; 2 is whole pixel values."""
LARGEST_SIGMA = 4.0
"""In [0,1] pixel units: of an image under more noise than this nothing is left that a model could learn."""


def check_sigma(sigma: float, name: str = "sigma") -> float:
    """sigma. InputError unless it is 0, or can be drawn and is at most LARGEST_SIGMA."""
    if not 0 <= sigma < np.inf:
        raise InputError(
            f"{name}={sigma:g} is no noise level; give a number up to {LARGEST_SIGMA:g}, in [0,1] pixel units"
        )
    if sigma <= LARGEST_SIGMA:
        if sigma:
            require_drawable(sigma, name)
        return sigma
    meant = f"; is it meant in 0..255 units? Then give {sigma / 255:.3g} ({sigma:g}/255)"
    raise InputError(
        f"{name}={sigma:g} is above {LARGEST_SIGMA:g}, the largest noise accepted in [0,1] pixel units"
        + (meant if sigma <= LARGEST_SIGMA * 255 else "; choose a smaller one")
    )


@dataclass(frozen=True)
class Entropy:
    """256 bits from which every draw of an ensemble follows, and where they came from."""

    value: bytes
    source: Literal["os", "fixed"]

    @property
    def commitment(self) -> str:
        """sha256 of the value: can be published before the draws are made without giving them away."""
        return hashlib.sha256(self.value).hexdigest()

    @property
    def hex(self) -> str:
        return self.value.hex()


def draw_entropy(spec: str) -> Entropy:
    """Entropy as `spec` asks for: `os` (256 new bits from the operating system) or `fixed:HEX`.

    Call it after the raw set's digest is fixed: the proof needs noise independent of the data. A fixed value can be
    attacked by whoever knew it beforehand; it is for tests, and what is made with it says so.
    """
    if spec == "os":
        return Entropy(secrets.token_bytes(ENTROPY_BYTES), "os")
    kind, _, digits = spec.partition(":")
    try:
        value = int(digits, 16).to_bytes(ENTROPY_BYTES, "big") if kind == "fixed" else None
    except (ValueError, OverflowError):
        value = None
    if value is None:
        raise InputError(
            f"entropy={spec!r} is neither 'os' nor 'fixed:HEX' with up to {2 * ENTROPY_BYTES} hexadecimal digits"
        )
    return Entropy(value, "fixed")


def stream_key(entropy: bytes, role: Role, draw: int, image_id: str = "") -> NDArray[np.uint64]:
    """The 128-bit Philox key of one stream; different whenever any of the four differs."""
    role_bytes, id_bytes = role.encode(), image_id.encode()
    message = b"".join(
        (
            NOISE_STREAM.encode(),
            struct.pack("<I", len(entropy)) + entropy,
            struct.pack("<I", len(role_bytes)) + role_bytes,
            struct.pack("<Q", draw),
            struct.pack("<I", len(id_bytes)) + id_bytes,
        )
    )
    return np.frombuffer(hashlib.sha256(message).digest()[:16], dtype="<u8").astype(np.uint64)


def pixel_noise(
    entropy: bytes, role: Role, draw: int, ids: Sequence[str], shape: tuple[int, ...], sigma: float
) -> NDArray[np.int32]:
    """Gaussian noise of `sigma`, rounded to whole pixel values, for the images `ids`, each of `shape`.

    Returns int32 (len(ids), *shape) in steps of 1/255; sigma in [0,1] pixel units. Row i depends on ids[i] alone.
    One Philox word per pixel goes through the tables of `sanitize.rounded_gaussian`: raw words are the one part of
    NumPy's generators that is promised to stay the same between versions. InputError for a sigma that cannot be drawn.
    """
    gaussian = rounded_gaussian(sigma)
    return gaussian.draw(noise_words(entropy, role, draw, ids, math.prod(shape))).reshape(len(ids), *shape)


def noise_words(entropy: bytes, role: Role, draw: int, ids: Sequence[str], size: int) -> NDArray[np.uint64]:
    """The first `size` words of each image's own Philox stream: uint64 (len(ids), size)."""
    words = np.empty((len(ids), size), dtype=np.uint64)
    for row, image_id in zip(words, ids, strict=True):
        row[:] = np.random.Philox(key=stream_key(entropy, role, draw, image_id)).random_raw(size)
    return words


def training_seed(entropy: bytes, draw: int, block: int | None = None) -> int:
    """A 63-bit seed for everything random in draw's training: initialisation, order, augmentation.

    Each block of a partitioned ensemble has its own.
    """
    name = "" if block is None else f"block/{block}"
    return int(stream_key(entropy, "train", draw, name)[0] >> np.uint64(1))


def seal(entropy: bytes, draw: int) -> str:
    """Names a draw's streams without giving them away: equal for two draws only if they share their noise.

    sha256 over the keys of all roles: recorded when a draw is made, and checked once the entropy is revealed.
    """
    keys = b"".join(stream_key(entropy, role, draw).tobytes() for role in get_args(DrawRole))
    return hashlib.sha256(b"cleanlabel/seal/1" + keys).hexdigest()
