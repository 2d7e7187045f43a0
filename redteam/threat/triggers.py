"""Triggers: patches that activate a backdoor."""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cleanlabel.sanitize.errors import InputError

Pattern = Literal["checkerboard", "noise", "white"]
Place = Literal["bottom-right", "bottom-left", "top-right", "top-left", "corners", "random"]
PATTERN_SEED = 10


@dataclass(frozen=True)
class Trigger:
    """A square patch of `size` pixels, `offset` pixels from the border, in one corner, in all four, or anywhere.

    `checkerboard` is black and white and, at size 3, the one that Turner et al. (2019) list pixel by pixel; `noise` is
    a fixed pattern of random colours (Saha et al., Souri et al.), `white` plain. amplitude: how far a pixel moves
    towards the pattern: 1 replaces it; below 1 the pattern's bright pixels add, its dark ones subtract that much
    (Turner et al., section 4.3). `random`: a place of its own for each image.
    """

    size: int = 3
    place: Place = "bottom-right"
    offset: int = 0
    pattern: Pattern = "checkerboard"
    amplitude: float = 1.0

    def __post_init__(self) -> None:
        if self.pattern not in get_args(Pattern):
            raise InputError(
                f"trigger pattern {self.pattern!r} is unknown; choose one of {', '.join(get_args(Pattern))}"
            )
        if self.place not in get_args(Place):
            raise InputError(f"trigger place {self.place!r} is unknown; choose one of {', '.join(get_args(Place))}")
        if self.size < 1 or self.offset < 0 or not 0 < self.amplitude <= 1:
            raise InputError(
                f"trigger size {self.size}, offset {self.offset}, amplitude {self.amplitude:g}: out of range; "
                "give a size from 1, an offset from 0 and an amplitude above 0, up to 1"
            )

    def put(self, images: NDArray[np.uint8], seed: int = 0) -> NDArray[np.uint8]:
        """Images uint8 (n, h, w, c) with the trigger on every one; `seed` chooses random places."""
        masks, patterns = self._laid_out(images.shape[1:], len(images), seed)
        base = images.astype(np.float64)
        if self.amplitude == 1:
            marked = np.where(masks[..., None], 255 * patterns, base)
        else:
            marked = base + masks[..., None] * (2 * patterns - 1) * self.amplitude * 255
        return marked.round().clip(0, 255).astype(np.uint8)

    def mask(self, image_shape: tuple[int, int, int]) -> NDArray[np.bool_]:
        """Pixels (h, w) that the trigger may touch; all of them where its place is random."""
        h, w, _ = image_shape
        if self.place == "random":
            self._corner_positions(h, w)
            return np.ones((h, w), dtype=bool)
        masks, _ = self._laid_out(image_shape, 1, 0)
        return masks[0]

    def tensor(self, images: NDArray[np.uint8], seed: int = 0) -> Tensor:
        """`put`, as float32 (n, c, h, w) in [0,1] units."""
        marked = self.put(images, seed)
        return torch.from_numpy(np.ascontiguousarray(marked)).permute(0, 3, 1, 2).float() / 255

    def _laid_out(
        self, image_shape: tuple[int, ...], n: int, seed: int
    ) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
        """Where the trigger lies, bool (n, h, w), and its values there in [0, 1], (n, h, w, c)."""
        h, w, c = image_shape
        corners = self._corner_positions(h, w)
        generator = np.random.default_rng(seed)
        masks, values = np.zeros((n, h, w), dtype=bool), np.zeros((n, h, w, c))
        for i in range(n):
            places = corners
            if self.place == "random":
                places = [
                    (int(generator.integers(h - self.size + 1)), int(generator.integers(w - self.size + 1)), False)
                ]
            for top, left, mirrored in places:
                masks[i, top : top + self.size, left : left + self.size] = True
                values[i, top : top + self.size, left : left + self.size] = self._values(c, mirrored)
        return masks, values

    def _corner_positions(self, h: int, w: int) -> list[tuple[int, int, bool]]:
        """(top, left, whether it is mirrored) of each copy. InputError unless the trigger fits the image."""
        last = (h - self.size - self.offset, w - self.size - self.offset)
        if min(last) < (self.offset if self.place == "corners" else 0):
            raise InputError(
                f"a trigger of {self.size}x{self.size} pixels, {self.offset} from the border, is larger than the image "
                f"({w}x{h}); make it smaller"
            )
        near, (bottom, right) = self.offset, last
        corners = {
            "bottom-right": (bottom, right, False),
            "bottom-left": (bottom, near, True),
            "top-left": (near, near, True),
            "top-right": (near, right, False),
        }
        return list(corners.values()) if self.place == "corners" else [corners.get(self.place, (0, 0, False))]

    def _values(self, channels: int, mirrored: bool) -> NDArray[np.float64]:  # noqa: FBT001 (a property of the place)
        """The pattern in [0, 1], (size, size, channels); `mirrored` left to right, as in the authors' left corners."""
        if self.pattern == "white":
            return np.ones((self.size, self.size, channels))
        if self.pattern == "noise":
            draws = np.random.default_rng(PATTERN_SEED).integers(0, 2, (self.size, self.size, channels))
            return draws.astype(np.float64)
        rows, columns = np.indices((self.size, self.size))
        board = 1.0 - (rows + columns) % 2
        if self.size == 3:
            board[0, 0] = 0.0  # Turner et al.'s list has this one black in every copy, against the board
        if mirrored:
            board = board[:, ::-1]
        return np.repeat(board[..., None], channels, axis=2)
