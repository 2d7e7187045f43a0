"""Features of sanitized images, kept by draw, for bounded-influence victims; each image is computed once.

An image's sanitized copy depends only on its pixels, its id, the draw and the noise. So the clean and the poisoned
sets of all targets share the images that they have in common, and so do drills with the same noise.
"""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cleanlabel.models.extractors import Extractor, features
from cleanlabel.sanitize.denoiser import Denoiser
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.fast import accelerate
from cleanlabel.sanitize.files import replacing
from cleanlabel.sanitize.imageset import ImageSet
from cleanlabel.sanitize.keys import Inputs, code_digest, key_of
from cleanlabel.sanitize.sanitizer import sanitize

BATCH = 64
Kept = dict[bytes, NDArray[np.float16]]


@dataclass(frozen=True)
class CopiesInputs(Inputs):
    """What an image's features depend on besides its pixels, its id and the draw. denoiser: None without noise."""

    sigma: float
    denoiser: str | None
    entropy: bytes
    extractor: str
    code: str


@dataclass(frozen=True, eq=False)
class Copies:
    """Sanitized copies as a frozen extractor sees them, kept below `root`."""

    extractor: Extractor
    denoiser: Denoiser | None
    entropy: bytes
    root: Path
    device: torch.device
    kept: dict[tuple[float, int], Kept] = field(default_factory=dict)

    def of(self, images: ImageSet, sigma: float, draw: int) -> Tensor:
        """float16 (n, d), in the set's order; missing ones are made and kept. At sigma 0 the images are not changed."""
        names = [_name(image, id_) for image, id_ in zip(images.images, images.ids, strict=True)]
        kept = self._kept(sigma, draw)
        missing = np.array([i for i, name in enumerate(names) if name not in kept], dtype=np.int64)
        if len(missing):
            found = self._made(images.take(missing), sigma, draw)
            kept.update(zip((names[i] for i in missing), found, strict=True))
            self._keep(kept, sigma, draw)
        return torch.from_numpy(np.stack([kept[name] for name in names]))

    def _made(self, images: ImageSet, sigma: float, draw: int) -> NDArray[np.float16]:
        pixels: NDArray[Any] = images.images
        if sigma:
            batch = min(BATCH, len(images))
            fast = accelerate(self.denoiser, sigma, batch, len(images)) if self.denoiser else None
            pixels = sanitize(images, sigma, self.denoiser, self.entropy, draw, denoise=fast, batch=batch)
        made: NDArray[np.float16] = features(self.extractor, pixels, self.device).half().numpy()
        return made

    def _kept(self, sigma: float, draw: int) -> Kept:
        if (sigma, draw) not in self.kept:
            path = self._path(sigma, draw)
            self.kept[sigma, draw] = _read(path) if path.is_file() else {}
        return self.kept[sigma, draw]

    def _keep(self, kept: Kept, sigma: float, draw: int) -> None:
        with replacing(self._path(sigma, draw)) as scratch, scratch.open("wb") as stream:
            names = np.frombuffer(b"".join(kept), dtype=np.uint8).reshape(len(kept), -1)
            np.savez(stream, names=names, rows=np.stack([*kept.values()]))

    def _path(self, sigma: float, draw: int) -> Path:
        denoiser = self.denoiser.digest if self.denoiser and sigma else None
        code = code_digest("cleanlabel.redteam.drill.copies")
        key = key_of(CopiesInputs(sigma, denoiser, self.entropy, self.extractor.digest, code))
        return self.root / f"copies-{key}" / f"sigma-{sigma:g}" / f"draw-{draw:07d}.npz"


def _name(image: NDArray[np.uint8], image_id: str) -> bytes:
    return hashlib.sha256(image_id.encode() + b"\0" + image.tobytes()).digest()


def _read(path: Path) -> Kept:
    try:
        with np.load(path, allow_pickle=False) as found:
            return {name.tobytes(): row for name, row in zip(found["names"], found["rows"], strict=True)}
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path} holds no features of sanitized images ({error}); delete it") from error
