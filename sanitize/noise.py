"""Gaussian noise that is a function of (entropy, role, draw, image id) alone.

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
"""The random streams of a draw; its seal identifies them."""
Role = Literal[DrawRole, "public-noise"]
"""`public-noise` is added only to trusted images, from public entropy."""
ENTROPY_BYTES = 32
NOISE_STREAM = "cleanlabel/noise/2"
"""Identifies how entropy becomes noise. 1 was Gaussian noise in float32; 2 is noise in whole pixel values."""
LARGEST_SIGMA = 4.0
"""The largest sigma, in [0,1] pixel units. With more noise, nothing is left of an image that a model could learn."""


def check_sigma(sigma: float, name: str = "sigma") -> float:
    """Return sigma. InputError unless it is 0, or can be drawn and is at most LARGEST_SIGMA."""
    if not 0 <= sigma < np.inf:
        raise InputError(
            f"{name}={sigma:g} is not a valid noise level; give a number up to {LARGEST_SIGMA:g}, in [0,1] pixel units"
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
    """256 bits that determine every draw of an ensemble, and their source."""

    value: bytes
    source: Literal["os", "fixed"]

    @property
    def commitment(self) -> str:
        """sha256 of the value. It can be published before the draws are made, and does not reveal the value."""
        return hashlib.sha256(self.value).hexdigest()

    @property
    def hex(self) -> str:
        return self.value.hex()


def draw_entropy(spec: str) -> Entropy:
    """Entropy according to `spec`: `os` (256 new bits from the operating system) or `fixed:HEX`.

    Call it after the raw set's digest is fixed: the proof needs noise independent of the data. An attacker who knew a
    fixed value beforehand could exploit it. It is for tests, and all results record its use.
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
    """The 128-bit Philox key of one stream; it differs whenever any of the four arguments differs."""
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
    One Philox word per pixel goes through the tables of `sanitize.rounded_gaussian`. NumPy guarantees only for raw
    words that they stay the same between versions. InputError for a sigma that cannot be drawn.
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
    """A 63-bit seed for all randomness of the draw's training: initialisation, order, augmentation.

    Each block of a partitioned ensemble has its own seed.
    """
    name = "" if block is None else f"block/{block}"
    return int(stream_key(entropy, "train", draw, name)[0] >> np.uint64(1))


def seal(entropy: bytes, draw: int) -> str:
    """Identifies a draw's streams without revealing them. Two draws have equal seals only if they share their noise.

    It is the sha256 of the keys of all roles, recorded when a draw is made and checked once the entropy is revealed.
    """
    keys = b"".join(stream_key(entropy, role, draw).tobytes() for role in get_args(DrawRole))
    return hashlib.sha256(b"cleanlabel/seal/1" + keys).hexdigest()
