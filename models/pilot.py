"""A pilot: a few models of blocks of trusted images vote on the trusted images that their block has not seen.

It reads no untrusted image. So its conclusions (`models.chooser`) may enter the plan of an ensemble on the raw set
without making the plan depend on the raw set. The trusted images must not be among the raw ones: otherwise, changes of
the raw set could change the pilot's result.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, from_numpy, nn

from cleanlabel.models.blocks import block_of
from cleanlabel.models.heads import fit_head_of_some
from cleanlabel.models.materials import Materials
from cleanlabel.models.stacked import train_stack
from cleanlabel.models.training import predict_inputs, reads_raw_images, train
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.imageset import ImageSet
from cleanlabel.sanitize.noise import training_seed
from cleanlabel.sanitize.sanitizer import sanitize

ENTROPY = hashlib.sha256(b"cleanlabel/pilot/1").digest()
"""The entropy of the pilot's noise and trainings. It is public: it certifies nothing, and the pilot can be repeated."""
MOST_BLOCKS = 10
LEAST_ASKED = 40
"""The least number of trusted images that must remain as test images."""
OWN_IMAGE = -2
"""The value in place of a vote on an image that the block was trained on: neither a class nor `votes.NOBODY` (-1)."""


@dataclass(frozen=True)
class Pilot:
    """Votes of blocks of `size` trusted images: (blocks, draws, n_points), with OWN_IMAGE for a block's own images.

    The points are the trusted images that some block has not seen; truth (n_points,): their labels.
    """

    size: int
    votes: NDArray[np.int64]
    truth: NDArray[np.int64]
    classes: int


def blocks_of_size(trusted: ImageSet, size: int) -> list[NDArray[np.int64]]:
    """Disjoint blocks of `size` trusted images, at most `MOST_BLOCKS`, as rows in the order of the images' ids.

    The images are taken in the order of the hash that splits raw sets (`models.blocks.block_of`). Empty if fewer than
    `LEAST_ASKED` images would remain as test images of a block.
    """
    if len(trusted) - size < LEAST_ASKED:
        return []
    order = np.argsort(block_of(trusted.ids, 2**62), kind="stable")
    by_id = np.argsort(np.argsort(np.array(trusted.ids)))
    blocks = [order[start : start + size] for start in range(0, len(trusted) - size + 1, size)][:MOST_BLOCKS]
    return [rows[np.argsort(by_id[rows])] for rows in blocks]


def steps(trusted: ImageSet, sizes: Sequence[int], draws: int) -> int:
    """How often `make_pilots` calls `done`: once per sanitized copy and once per trained model."""
    return draws * (1 + sum(len(blocks_of_size(trusted, size)) for size in sizes))


def make_pilots(
    materials: Materials, sizes: Sequence[int], draws: int, done: Callable[[], object] = lambda: None
) -> Iterator[Pilot]:
    """A pilot for each block size that leaves enough test images, all from the same `draws` sanitized copies.

    materials.raw and materials.test are both the trusted set. Sizes without a block are skipped. `done` is called
    after each of `steps`. InputError if the recipe shows un-noised images to training.
    """
    trusted, recipe = materials.raw, materials.recipe
    if reads_raw_images(recipe):
        raise InputError("the recipe shows un-noised images to training, which voids any certificate; change train.*")
    fast = materials.fast(materials.sigma)
    copies = []
    for draw in range(draws):
        copies.append(
            sanitize(trusted, materials.sigma, materials.denoiser, ENTROPY, draw, denoise=fast, batch=materials.batch)
        )
        done()
    seen: Sequence[Any] = [materials.inputs_of(copy) for copy in copies] if materials.start.extractor else copies
    for size in sizes:
        blocks = blocks_of_size(trusted, size)
        if not blocks:
            continue
        votes = np.empty((len(blocks), draws, len(trusted)), dtype=np.int64)
        for b, rows in enumerate(blocks):
            seeds = [training_seed(ENTROPY, b * draws + draw) for draw in range(draws)]
            for draw, model in enumerate(block_models(materials, seen, rows, seeds)):
                votes[b, draw] = predict_inputs(model, materials.test_inputs, materials.device)
                done()
            votes[b][:, rows] = OWN_IMAGE
        asked = (votes[:, 0] != OWN_IMAGE).any(axis=0)
        yield Pilot(size, votes[:, :, asked], trusted.labels[asked], len(trusted.classes))


def block_models(
    materials: Materials, seen: Sequence[Any], rows: NDArray[np.int64], seeds: Sequence[int]
) -> Iterator[nn.Module]:
    """The models of the block at `rows` of materials.raw, one per pair of `seen` and `seeds`.

    seen: the sanitized copies of the whole set, or their features if the recipe is transfer.
    """
    labels, classes = materials.raw.labels[rows], len(materials.raw.classes)
    recipe, start = materials.recipe, materials.start
    if start.extractor:
        prior = start.extractor.head if recipe.head_prior else None
        features: Tensor
        for features in seen:
            found = features[from_numpy(rows)]
            head = fit_head_of_some(found, from_numpy(labels), classes, recipe.head, recipe.head_l2, prior)
            yield nn.Sequential(nn.Flatten(), head).to(materials.device)
    elif materials.stacked(len(seeds)):
        yield from train_stack([copy[rows] for copy in seen], labels, classes, recipe, seeds, materials.device)
    else:
        for copy, seed in zip(seen, seeds, strict=True):
            yield train(copy[rows], labels, classes, recipe, seed, materials.device, initial=start.weights)
