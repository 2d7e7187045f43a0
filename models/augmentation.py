"""Augmentation: random shifts and mirror images, new at every visit of an image. It comes after the noise."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from cleanlabel.sanitize.device import sent

if TYPE_CHECKING:  # only this import needs pydantic
    from cleanlabel.models.params import TrainParams


def visits(n: int, recipe: "TrainParams", generator: torch.Generator, skips: Callable[[Tensor], bool]) -> Tensor:
    """What an epoch draws, int64, one column a visit: the image; with augmentation also its corner and its coin.

    An accelerator gets it at once. The numbers are those that `shifted` and `mirrored` draw, batch by batch, but for
    batches that the training `skips`.
    """
    order = torch.randperm(n, generator=generator)
    if not (recipe.shift or recipe.flip):
        return order[None]
    drawn = []
    for rows in order.split(recipe.batch):
        corner, coin = torch.zeros(2, len(rows), dtype=torch.int64), torch.zeros(len(rows), dtype=torch.bool)
        if recipe.shift and not skips(rows):
            corner = _corners(recipe.shift, len(rows), generator)
        if recipe.flip and not skips(rows):
            coin = _coins(len(rows), generator)
        drawn.append(torch.stack([rows, *corner, coin]))
    return torch.cat(drawn, dim=1)


def _corners(most: int, n: int, generator: torch.Generator) -> Tensor:
    return torch.randint(2 * most + 1, (2, n, 1), generator=generator)[..., 0]


def _coins(n: int, generator: torch.Generator) -> Tensor:
    return torch.rand(n, generator=generator) < 0.5


def shifted(batch: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """Each image moved by its own random offset of up to `most` pixels in each direction; new pixels are black."""
    return moved(batch, most, *sent(_corners(most, len(batch), generator), batch.device)) if most else batch


def moved(batch: Tensor, most: int, down: Tensor, right: Tensor) -> Tensor:
    """Each image cut out at its corner (n,), (n,) in 0..2 most, of the image with a black frame of `most` pixels."""
    if most == 0:
        return batch
    n, _, h, w = batch.shape
    padded = functional.pad(batch, (most, most, most, most), value=-1.0)
    image, rows, columns = (torch.arange(k, device=batch.device) for k in (n, h, w))
    rows, columns = rows + down[:, None], columns + right[:, None]
    return padded[image[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def mirrored(batch: Tensor, flip: bool, generator: torch.Generator) -> Tensor:  # noqa: FBT001 (a param's own value)
    """Each image mirrored left to right with probability 1/2, if `flip`."""
    return flipped(batch, sent(_coins(len(batch), generator), batch.device) if flip else None)


def flipped(batch: Tensor, coin: Tensor | None) -> Tensor:
    """Each image mirrored left to right if its coin (n,) says so."""
    if coin is None:
        return batch
    return torch.where(coin[:, None, None, None], batch.flip(3), batch)
