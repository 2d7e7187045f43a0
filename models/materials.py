"""What every draw of an ensemble is made from, and its blocks of images."""

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cleanlabel.models.blocks import block_of
from cleanlabel.models.classifiers import Architecture
from cleanlabel.models.extractors import features
from cleanlabel.models.heads import head_architecture
from cleanlabel.models.params import TrainParams
from cleanlabel.models.stacked import stackable
from cleanlabel.models.start import FROM_SCRATCH, Start
from cleanlabel.models.training import architecture_of, as_tensor
from cleanlabel.sanitize.denoiser import Denoiser
from cleanlabel.sanitize.fast import FastDenoiser, accelerate
from cleanlabel.sanitize.imageset import ImageSet
from cleanlabel.sanitize.noise import training_seed
from cleanlabel.sanitize.rows import network_rows
from cleanlabel.sanitize.sanitizer import BATCH

CPU = torch.device("cpu")


@dataclass(frozen=True, eq=False)
class Materials:
    """What every draw of an ensemble is made from.

    draws: the number of draws in the ensemble; with the number of images it decides how the denoiser is accelerated,
    and so the last bits. device: where the networks train. With `partitions`, a draw has one model per block.
    scratch: a folder that holds a draw's copy in the place of memory (`models.scratch`), which changes no bit.
    """

    raw: ImageSet
    test: ImageSet
    sigma: float
    denoiser: Denoiser | None
    recipe: TrainParams
    draws: int
    test_sigma: float = 0.0
    start: Start = FROM_SCRATCH
    device: torch.device = CPU
    partitions: int = 1
    scratch: Path | None = None

    @cached_property
    def blocks(self) -> list["Block"]:
        """The blocks of the raw set, each with its own images in the order of their ids; without partitions, one.

        Ids alone decide which images those are, so a change of one block never reaches another block's models.
        """
        if self.partitions == 1:
            return [Block(self, self.raw)]
        order = np.array(sorted(range(len(self.raw)), key=self.raw.ids.__getitem__), dtype=np.int64)
        block = block_of(self.raw.ids, self.partitions)[order]
        return [Block(self, self.raw.take(order[block == j]), j) for j in range(self.partitions)]

    @property
    def architecture(self) -> Architecture:
        """The architecture of a draw's weights: the recipe's network, or the head on the extractor's features."""
        classes = len(self.raw.classes)
        if self.start.extractor:
            return head_architecture(self.start.extractor.head.in_features, classes)
        return architecture_of(self.recipe, self.raw.image_shape, classes)

    @cached_property
    def test_inputs(self) -> Tensor:
        """The test inputs of every network if test images are not noised: their pixels, or their features."""
        return self.inputs_of(self.test.images)

    def inputs_of(self, images: NDArray[Any]) -> Tensor:
        """The networks' inputs for these images."""
        extractor = self.start.extractor
        return features(extractor, images, self.device) if extractor else as_tensor(images)

    def fast(self, sigma: float) -> FastDenoiser | None:
        """The fast denoiser of the largest block's draws at this sigma; None if nothing is denoised."""
        return self._largest.fast(sigma)

    @property
    def batch(self) -> int:
        """Images of the largest block that are denoised at once."""
        return self._largest.batch

    def stacked(self, copies: int) -> bool:
        """Whether the networks of `copies` copies train at once, in some block at least."""
        return any(block.stacked(copies) for block in self.blocks)

    @property
    def _largest(self) -> "Block":
        return max(self.blocks, key=lambda block: len(block.raw))


@dataclass(frozen=True, eq=False)
class Block:
    """The images that one model of a draw is trained on: the whole raw set, or a block of it.

    number: which of the blocks it is; None for the whole raw set.
    """

    materials: Materials
    raw: ImageSet
    number: int | None = None

    def seed(self, entropy: bytes, draw: int) -> int:
        """The seed of the training in this draw."""
        return training_seed(entropy, draw, self.number)

    def fast(self, sigma: float) -> FastDenoiser | None:
        """The fast denoiser of all draws at this sigma; None if nothing is denoised.

        It is never compiled for a part of the raw set: whether that pays depends on the part's size, and each would
        need its own half minute of compilation.
        """
        denoiser = self.materials.denoiser
        images = len(self.raw) * self.materials.draws if self.number is None else 0
        return accelerate(denoiser, sigma, self.batch, images) if denoiser and sigma else None

    @property
    def batch(self) -> int:
        """Images that are denoised at once: what fits an accelerator, about as many pixels as 256 of CIFAR elsewhere.

        They are equal parts of the block.
        """
        fit = network_rows(self.materials.denoiser)
        most = fit or max(1, BATCH * 32 * 32 * 3 // math.prod(self.raw.image_shape))
        parts = -(-len(self.raw) // most)
        return -(-len(self.raw) // parts)

    def stacked(self, copies: int) -> bool:
        """Whether the networks of `copies` copies train at once."""
        if self.materials.start.instrument:
            return False
        return stackable(self.materials.recipe, self.materials.device, copies, 4 * self.raw.images.size)
