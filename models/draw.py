"""Draws of the ensemble: sanitize the raw set anew, train, vote. `make_batch` is the way; `make_draw` its slow twin."""

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cleanlabel.models.blocks import block_of
from cleanlabel.models.classifiers import Architecture
from cleanlabel.models.extractors import Extractor, features
from cleanlabel.models.heads import fit_head, fit_head_of_some, head_architecture
from cleanlabel.models.instrument import Features, Instrument
from cleanlabel.models.params import TrainParams
from cleanlabel.models.stacked import stackable, train_stack
from cleanlabel.models.training import architecture_of, as_tensor, initialised, predict_inputs, reads_raw_images, train
from cleanlabel.sanitize.denoiser import Denoiser
from cleanlabel.sanitize.fast import FastDenoiser, accelerate
from cleanlabel.sanitize.imageset import ImageSet
from cleanlabel.sanitize.noise import seal, training_seed
from cleanlabel.sanitize.sanitizer import BATCH, Denoise, sanitize

T = TypeVar("T")
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Smoothed:
    """A smoothed model and its votes on the test set (n_test,).

    Of k blocks: `model` is an `nn.ModuleList` of k networks, votes are (k, n_test). Of a bounded-influence head:
    `model` is the copy's features, votes are its class sums (n_test, K).
    `seal` names the random streams it was made from, `copy_sha256` the pixels it was trained on; seconds of its steps.
    """

    draw: int
    model: nn.Module
    votes: NDArray[np.int64]
    seal: str
    copy_sha256: str
    sanitize_seconds: float
    train_seconds: float


@dataclass(frozen=True, eq=False)
class Materials:
    """What every draw of an ensemble is made from.

    `draws` is how many the ensemble has: with the number of images it decides how the denoiser is made fast, and so
    the last bits. `initial` are the weights that fine-tuning starts from, `extractor` what transfer's heads stand on;
    `device` is where the networks train. With `partitions` a draw is a model of every one of `blocks`; `block` is the
    number of the one that these are the materials of, `asked` the test inputs where somebody has them. `instrument` is
    the public part of a bounded-influence head, `twin` the extractor's twin for sanitized images.
    """

    raw: ImageSet
    test: ImageSet
    sigma: float
    denoiser: Denoiser | None
    recipe: TrainParams
    draws: int
    test_sigma: float = 0.0
    initial: dict[str, Tensor] | None = None
    extractor: Extractor | None = None
    device: torch.device = CPU
    partitions: int = 1
    block: int | None = None
    asked: Tensor | None = None
    instrument: Instrument | None = None
    twin: Extractor | None = None

    @cached_property
    def blocks(self) -> list["Materials"]:
        """What each block's models are made from, as if there were no other: its own images, in the order of their ids.

        Which images those are follows from ids alone, so no change of one block reaches another's models.
        """
        order = np.array(sorted(range(len(self.raw)), key=self.raw.ids.__getitem__), dtype=np.int64)
        block = block_of(self.raw.ids, self.partitions)[order]
        asked = self.test_inputs if not self.test_sigma else None
        return [
            replace(self, raw=self.raw.take(order[block == j]), partitions=1, block=j, asked=asked)
            for j in range(self.partitions)
        ]

    def seed(self, entropy: bytes, draw: int) -> int:
        """Of the draw's training."""
        return training_seed(entropy, draw, self.block)

    @property
    def architecture(self) -> Architecture:
        """What a draw's weights are those of: the recipe's network, or the head on the extractor's features."""
        classes = len(self.raw.classes)
        if self.extractor:
            return head_architecture(self.extractor.head.in_features, classes)
        return architecture_of(self.recipe, self.raw.image_shape, classes)

    @cached_property
    def test_inputs(self) -> Tensor:
        """What every network is asked about where the test images are read as they are: pixels, or their features."""
        return self.inputs_of(self.test.images) if self.asked is None else self.asked

    def inputs_of(self, images: NDArray[Any]) -> Tensor:
        """What the networks take of these images."""
        return features(self.extractor, images, self.device) if self.extractor else as_tensor(images)

    def features_of(self, copy: NDArray[Any]) -> Tensor:
        """A sanitized copy's features, by the twin where there is one."""
        if self.extractor is None:
            raise ValueError("there is no extractor; only transfer has features")
        return features(self.twin or self.extractor, copy, self.device)

    def fast(self, sigma: float) -> FastDenoiser | None:
        """The fast denoiser of all draws at this sigma, None where nothing is denoised.

        For blocks it is never compiled: whether that pays would depend on how large they are, and each would take its
        own half minute.
        """
        images = len(self.raw) * self.draws if self.whole else 0
        return accelerate(self.denoiser, sigma, self.batch, images) if self.denoiser and sigma else None

    @property
    def whole(self) -> bool:
        """Whether these make one model a draw, of all images."""
        return self.partitions == 1 and self.block is None

    @property
    def batch(self) -> int:
        """Images that are denoised at once: as many small ones as 256 of CIFAR's hold, the set in equal parts."""
        most = max(1, BATCH * 32 * 32 * 3 // math.prod(self.raw.image_shape))
        parts = -(-len(self.raw) // most)
        return -(-len(self.raw) // parts)

    def stacked(self, copies: int) -> bool:
        """Whether the networks of so many copies train at once; of k blocks, whether those of some block do."""
        if self.partitions > 1:
            return any(block.stacked(copies) for block in self.blocks)
        if self.instrument:
            return False
        return stackable(self.recipe, self.device.type, copies, 4 * self.raw.images.size)


def make_draw(materials: Materials, entropy: bytes, draw: int) -> Smoothed:
    """Draw `draw`: one noise sample for the whole training, one training seed of its own, one vote a test image.

    Model and votes follow from the arguments (on one machine and library set, bit for bit). The test images are
    read as they are; with `test_sigma` they are noised and denoised as well, one sample an image and draw.
    """
    if materials.partitions > 1:
        return _joined([make_draw(block, entropy, draw) for block in materials.blocks])
    if not len(materials.raw):
        return _empty_block_draw(materials, entropy, draw)
    started = time.perf_counter()
    copy = sanitize(materials.raw, materials.sigma, materials.denoiser, entropy, draw)
    inputs = _test_inputs(materials, entropy, draw, None)
    sanitized = time.perf_counter()
    model = learn(materials, copy, materials.seed(entropy, draw))
    votes = ask(materials, model, inputs)
    trained = time.perf_counter()
    return Smoothed(draw, model, votes, seal(entropy, draw), _sha256(copy), sanitized - started, trained - sanitized)


def make_batch(materials: Materials, entropy: bytes, draws: Sequence[int]) -> Iterator[Smoothed]:
    """These draws, in order, as `make_draw` makes them, up to the roundings of the fast paths.

    The denoiser is the fast one; networks too small to fill a device are trained all at once (`models.stacked`);
    on an accelerator the next draw is sanitized while the last one trains. The same batch gives the same bits.
    Blocks are made one after the other, each as if alone: a change of one leaves every other's votes equal to the bit.
    """
    if materials.partitions > 1:
        blocks = [list(make_batch(block, entropy, draws)) for block in materials.blocks]
        yield from map(_joined, zip(*blocks, strict=True))
        return
    if not len(materials.raw):
        yield from (_empty_block_draw(materials, entropy, draw) for draw in draws)
        return
    fast, test_fast = materials.fast(materials.sigma), materials.fast(materials.test_sigma)

    def sanitized(draw: int) -> tuple[NDArray[Any], Tensor, float]:
        started = time.perf_counter()
        copy = sanitize(
            materials.raw, materials.sigma, materials.denoiser, entropy, draw, denoise=fast, batch=materials.batch
        )
        inputs = _test_inputs(materials, entropy, draw, test_fast)
        return copy, inputs, time.perf_counter() - started

    copies = map(sanitized, draws) if materials.device.type == "cpu" else ahead(sanitized, draws)
    stacked = materials.stacked(len(draws))
    if stacked:
        made = list(copies)
        started = time.perf_counter()
        models = train_stack(
            [copy for copy, _, _ in made],
            materials.raw.labels,
            len(materials.raw.classes),
            materials.recipe,
            [materials.seed(entropy, draw) for draw in draws],
            materials.device,
        )
        each = (time.perf_counter() - started) / len(draws)
        copies, trained = iter(made), iter([(model, each) for model in models])
    for draw, (copy, inputs, seconds) in zip(draws, copies, strict=True):
        started = time.perf_counter()
        model, before = next(trained) if stacked else (learn(materials, copy, materials.seed(entropy, draw)), 0.0)
        votes = ask(materials, model, inputs)
        spent = before + time.perf_counter() - started
        yield Smoothed(draw, model, votes, seal(entropy, draw), _sha256(copy), seconds, spent)


def make_again(materials: Materials, entropy: bytes, batch: Sequence[int], draw: int) -> Smoothed:
    """One draw of a batch, to the bit as the whole batch made it."""
    draws = batch if materials.stacked(len(batch)) else [draw]
    return next(made for made in make_batch(materials, entropy, draws) if made.draw == draw)


def _joined(blocks: Sequence[Smoothed]) -> Smoothed:
    """A draw of all blocks, from each one's own."""
    copies = hashlib.sha256("".join(one.copy_sha256 for one in blocks).encode()).hexdigest()
    return Smoothed(
        blocks[0].draw,
        nn.ModuleList(one.model for one in blocks),
        np.stack([one.votes for one in blocks]),
        blocks[0].seal,
        copies,
        sum(one.sanitize_seconds for one in blocks),
        sum(one.train_seconds for one in blocks),
    )


def _empty_block_draw(materials: Materials, entropy: bytes, draw: int) -> Smoothed:
    """The draw of a block without images: a network whose answers are no numbers, so that it votes for nobody."""
    network = initialised(materials.architecture, 0, None).requires_grad_(requires_grad=False).eval()
    for weight in network.parameters():
        weight.fill_(math.nan)
    votes = predict_inputs(network, materials.test_inputs)
    return Smoothed(draw, network, votes, seal(entropy, draw), hashlib.sha256(b"").hexdigest(), 0.0, 0.0)


def ahead(make: Callable[[int], T], draws: Sequence[int]) -> Iterator[T]:
    """What `make` gives for each draw, in order; the next one is made in a thread while the caller has the last."""
    with ThreadPoolExecutor(1) as thread:
        upcoming = thread.submit(make, draws[0])
        for following in (*draws[1:], None):
            current = upcoming.result()
            if following is not None:
                upcoming = thread.submit(make, following)
            yield current


def learn(materials: Materials, copy: NDArray[Any], seed: int) -> nn.Module:
    """What the recipe makes of one sanitized copy: a trained network, a head on its features, or these features."""
    raw, recipe, extractor = materials.raw, materials.recipe, materials.extractor
    if materials.instrument:
        return Features(materials.features_of(copy))
    if extractor:
        prior = extractor.head if recipe.head_prior else None
        labels = torch.from_numpy(raw.labels)
        found = materials.features_of(copy)
        fit = fit_head if materials.whole else fit_head_of_some  # a block may lack classes
        head = fit(found, labels, len(raw.classes), recipe.head, recipe.head_l2, prior)
        return nn.Sequential(nn.Flatten(), head).to(materials.device)
    return train(
        copy,
        raw.labels,
        len(raw.classes),
        recipe,
        seed,
        materials.device,
        raw=raw.images if reads_raw_images(recipe) else None,
        initial=materials.initial,
    )


def ask(materials: Materials, model: nn.Module, inputs: Tensor) -> NDArray[np.int64]:
    """A model's votes on the test inputs; of a bounded-influence head, its class sums."""
    if materials.instrument and isinstance(model, Features):
        raw = materials.raw
        return materials.instrument.class_sums(model, raw.labels, len(raw.classes), inputs)
    return predict_inputs(model, inputs, materials.device)


def _test_inputs(materials: Materials, entropy: bytes, draw: int, denoise: Denoise | None) -> Tensor:
    sigma, denoiser = materials.test_sigma, materials.denoiser
    if not sigma:
        return materials.test_inputs
    noised = sanitize(
        materials.test, sigma, denoiser, entropy, draw, role="test-noise", denoise=denoise, batch=materials.batch
    )
    return materials.inputs_of(noised)


def _sha256(copy: NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(copy)).hexdigest()
