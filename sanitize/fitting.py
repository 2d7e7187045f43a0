"""Fit images to a denoiser that was made for another size or number of channels.

The noise is added at one stated resolution, and the radius holds there. The steps after the noise (cutting into tiles,
repeating a channel, resizing an image back) are post-processing. The first resizing comes before the noise.
"""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from cleanlabel.sanitize.denoiser_files import Facts
from cleanlabel.sanitize.errors import InputError

if TYPE_CHECKING:  # importing torch takes seconds, and the check of sizes does not need it
    from torch import Tensor

Fit = Literal["exact", "resize", "tiles"]
FITS: tuple[Fit, ...] = ("exact", "resize", "tiles")
FILTER = "bicubic, antialiased"


@dataclass(frozen=True)
class Fitting:
    """How images with `channels` channels are fitted to a network for `side` x `side` and `network_channels`.

    exact    they have its size
    resize   every image to side x side before the noise (to whole pixel values, not clipped), and back afterwards
    tiles    noised at their own size, then cut into overlapping tiles that cover them; overlaps are averaged

    For an RGB network, a grey image is repeated in three channels, and the three outputs are averaged. A grey network
    gets an RGB image channel by channel. In both cases the noise has the image's own channels.
    """

    mode: Fit
    side: int
    channels: int
    network_channels: int

    def keeps_pixels(self, images: NDArray[np.uint8]) -> bool:
        """Whether images are noised at their own size, with the whole pixel values that they have."""
        return self.mode != "resize" or images.shape[1:3] == (self.side, self.side)

    def before_noise(self, images: NDArray[np.uint8]) -> NDArray[np.int32]:
        """Images (n, h, w, c) as whole pixel values at the noise's resolution: int32, not clipped after bicubic."""
        import torch

        if self.keeps_pixels(images):
            return images.astype(np.int32)
        pixels = torch.from_numpy(images.astype(np.float32)).permute(0, 3, 1, 2)
        resized = _resized(pixels, self.side, self.side).permute(0, 2, 3, 1)
        return resized.round().to(torch.int32).numpy()

    def into_network(self, noised: "Tensor") -> "Tensor":
        """Noised images (n, c, H, W) as inputs of the network: (k, network_channels, side, side)."""
        import torch

        _, c, height, width = noised.shape
        if self.mode == "tiles":
            noised = torch.cat(
                [noised[:, :, y : y + self.side, x : x + self.side] for y, x in self._corners(height, width)]
            )
        if c < self.network_channels:
            return noised.expand(-1, self.network_channels, -1, -1)
        return noised.reshape(-1, self.network_channels, self.side, self.side)

    def out_of_network(self, clean: "Tensor", n: int, height: int, width: int) -> "Tensor":
        """The network's outputs as images (n, c, height, width), resized back if the resolution was changed."""
        if self.channels < self.network_channels:
            clean = clean.mean(dim=1, keepdim=True)
        clean = clean.reshape(-1, self.channels, self.side, self.side)
        if self.mode == "tiles":
            total = clean.new_zeros(n, self.channels, height, width)
            cover = clean.new_zeros(1, 1, height, width)
            tiles = clean.split(n)  # type: ignore[no-untyped-call]
            for tile, (y, x) in zip(tiles, self._corners(height, width), strict=True):
                total[:, :, y : y + self.side, x : x + self.side] += tile
                cover[:, :, y : y + self.side, x : x + self.side] += 1
            return total / cover
        return clean if (height, width) == (self.side, self.side) else _resized(clean, height, width).clamp(0, 1)

    def answers_per_image(self, height: int, width: int) -> int:
        """The number of network inputs per image."""
        tiles = len(self._corners(height, width)) if self.mode == "tiles" else 1
        return tiles * max(1, self.channels // self.network_channels)

    def as_dict(self) -> dict[str, Any]:
        """For the manifest."""
        return asdict(self) | {"filter": FILTER if self.mode == "resize" else None}

    def _corners(self, height: int, width: int) -> list[tuple[int, int]]:
        return [(y, x) for y in _starts(height, self.side) for x in _starts(width, self.side)]


def fitting_for(sizes: NDArray[np.int64], channels: int, facts: Facts, fit: Fit) -> Fitting:
    """The fitting of images of these sizes (n, 2) to this denoiser. InputError, with advice, if there is none."""
    side = facts.sample_size
    if {channels, facts.channels} - {1, 3}:
        raise InputError(f"a denoiser of {facts.channels} channels cannot take images of {channels}; choose another")
    others = np.flatnonzero((sizes != side).any(axis=1))
    if fit == "exact" and len(others):
        h, w = sizes[others[0]]
        subject = "some of the images are" if len(others) < len(sizes) else "the images are"
        raise InputError(
            f"{subject} {w}x{h}, the denoiser takes {side}x{side}; choose another denoiser, resize the images "
            "(--fit resize), or cut them into tiles (--fit tiles)"
        )
    if fit == "tiles" and len(sizes) and sizes.min() < side:
        h, w = sizes[sizes.min(axis=1).argmin()]
        raise InputError(
            f"an image of {w}x{h} is smaller than a tile of {side}x{side}; choose --fit resize, or another denoiser"
        )
    return Fitting(fit, side, channels, facts.channels)


def _starts(length: int, side: int) -> list[int]:
    """The starts of tiles that cover a length: evenly spaced, the last tile ends at the end."""
    count = -(-length // side)
    return [round(i * (length - side) / max(1, count - 1)) for i in range(count)]


def _resized(images: "Tensor", height: int, width: int) -> "Tensor":
    from torch.nn import functional

    return functional.interpolate(images, (height, width), mode="bicubic", antialias=True, align_corners=False)
