"""Draws of the ensemble: sanitize the raw set anew, train, vote. Use `make_batch`; `make_draw` is its slow twin."""

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
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
from cleanlabel.sanitize.device import is_accelerator, own_stream, settle
from cleanlabel.sanitize.fast import FastDenoiser, accelerate
from cleanlabel.sanitize.imageset import ImageSet
from cleanlabel.sanitize.noise import seal, training_seed
from cleanlabel.sanitize.sanitizer import BATCH, Denoise, sanitize

T = TypeVar("T")
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Smoothed:
    """A smoothed model and its votes on the test set (n_test,).

    With k blocks, `model` is an `nn.ModuleList` of k networks and votes are (k, n_test). With a bounded-influence head,
    `model` is the copy's features and votes are its class sums (n_test, K). `seal` identifies the random streams it was
    made from, `copy_sha256` the pixels it was trained on. The times of its steps are in seconds.
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

    draws: the number of draws in the ensemble; with the number of images it decides how the denoiser is accelerated,
    and so the last bits. initial: the weights that fine-tuning starts from. extractor: the network whose features
    transfer's heads use. device: where the networks train. With `partitions`, a draw has one model per block; `block`
    is the number of the block that these materials are for, and `asked` the test inputs if already computed.
    instrument: the public part of a bounded-influence head. twin: the extractor's twin for sanitized images.
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
        """The materials of each block, independent of all others: its own images, in the order of their ids.

        Ids alone decide which images those are, so a change of one block never reaches another block's models.
        """
        order = np.array(sorted(range(len(self.raw)), key=self.raw.ids.__getitem__), dtype=np.int64)
        block = block_of(self.raw.ids, self.partitions)[order]
        asked = self.test_inputs if not self.test_sigma else None
        return [
            replace(self, raw=self.raw.take(order[block == j]), partitions=1, block=j, asked=asked)
            for j in range(self.partitions)
        ]

    def seed(self, entropy: bytes, draw: int) -> int:
        """The seed of the draw's training."""
        return training_seed(entropy, draw, self.block)

    @property
    def architecture(self) -> Architecture:
        """The architecture of a draw's weights: the recipe's network, or the head on the extractor's features."""
        classes = len(self.raw.classes)
        if self.extractor:
            return head_architecture(self.extractor.head.in_features, classes)
        return architecture_of(self.recipe, self.raw.image_shape, classes)

    @cached_property
    def test_inputs(self) -> Tensor:
        """The test inputs of every network if test images are not noised: their pixels, or their features."""
        return self.inputs_of(self.test.images) if self.asked is None else self.asked

    def inputs_of(self, images: NDArray[Any]) -> Tensor:
        """The networks' inputs for these images."""
        return features(self.extractor, images, self.device) if self.extractor else as_tensor(images)

    def features_of(self, copy: NDArray[Any]) -> Tensor:
        """A sanitized copy's features, from the twin if there is one."""
        if self.extractor is None:
            raise ValueError("there is no extractor; only transfer has features")
        return features(self.twin or self.extractor, copy, self.device)

    def fast(self, sigma: float) -> FastDenoiser | None:
        """The fast denoiser of all draws at this sigma; None if nothing is denoised.

        It is never compiled for blocks: whether that pays depends on their sizes, and each block would need its own
        half minute of compilation.
        """
        images = len(self.raw) * self.draws if self.whole else 0
        return accelerate(self.denoiser, sigma, self.batch, images) if self.denoiser and sigma else None

    @property
    def whole(self) -> bool:
        """Whether a draw is one model of all images."""
        return self.partitions == 1 and self.block is None

    @property
    def batch(self) -> int:
        """Images that are denoised at once: about as many pixels as 256 images of CIFAR, in equal parts of the set."""
        most = max(1, BATCH * 32 * 32 * 3 // math.prod(self.raw.image_shape))
        parts = -(-len(self.raw) // most)
        return -(-len(self.raw) // parts)

    def stacked(self, copies: int) -> bool:
        """Whether the networks of `copies` copies train at once; with k blocks, whether those of some block do."""
        if self.partitions > 1:
            return any(block.stacked(copies) for block in self.blocks)
        if self.instrument:
            return False
        return stackable(self.recipe, self.device, copies, 4 * self.raw.images.size)


def make_draw(materials: Materials, entropy: bytes, draw: int) -> Smoothed:
    """Draw `draw`: one noise sample for the whole training, its own training seed, one vote per test image.

    The arguments determine model and votes (bit for bit on one machine and set of libraries). The test images are used
    unchanged; with `test_sigma` they are noised and denoised as well, with one noise sample per image and draw.
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
    """These draws, in order, equal to those of `make_draw` up to the roundings of the fast paths.

    It uses the fast denoiser. Networks too small to fill a device are trained all at once (`models.stacked`). On an
    accelerator the next draw is sanitized while the current one trains. The same batch gives the same bits. Blocks are
    made one after the other and independently: a change of one leaves the others' votes bitwise equal.
    """
    if materials.partitions > 1:
        blocks = [list(make_batch(block, entropy, draws)) for block in materials.blocks]
        yield from map(_joined, zip(*blocks, strict=True))
        return
    if not len(materials.raw):
        yield from (_empty_block_draw(materials, entropy, draw) for draw in draws)
        return
    fast, test_fast = materials.fast(materials.sigma), materials.fast(materials.test_sigma)
    settle(materials.device)  # what is shared must be there before another stream uses it

    def sanitized(draw: int) -> tuple[NDArray[Any], str, Tensor, float]:
        started = time.perf_counter()
        with own_stream(materials.device):
            copy = sanitize(
                materials.raw, materials.sigma, materials.denoiser, entropy, draw, denoise=fast, batch=materials.batch
            )
            inputs = _test_inputs(materials, entropy, draw, test_fast)
        seconds = time.perf_counter() - started
        return copy, _sha256(copy), inputs, seconds

    copies = ahead(sanitized, draws) if is_accelerator(materials.device) else map(sanitized, draws)
    stacked = materials.stacked(len(draws))
    if stacked:
        made = list(copies)
        started = time.perf_counter()
        models = train_stack(
            [copy for copy, *_ in made],
            materials.raw.labels,
            len(materials.raw.classes),
            materials.recipe,
            [materials.seed(entropy, draw) for draw in draws],
            materials.device,
        )
        each = (time.perf_counter() - started) / len(draws)
        copies, trained = iter(made), iter([(model, each) for model in models])
    for draw, (copy, digest, inputs, seconds) in zip(draws, copies, strict=True):
        started = time.perf_counter()
        model, before = next(trained) if stacked else (learn(materials, copy, materials.seed(entropy, draw)), 0.0)
        votes = ask(materials, model, inputs)
        spent = before + time.perf_counter() - started
        yield Smoothed(draw, model, votes, seal(entropy, draw), digest, seconds, spent)


def make_again(materials: Materials, entropy: bytes, batch: Sequence[int], draw: int) -> Smoothed:
    """One draw of a batch, bitwise equal to the one in the whole batch."""
    draws = batch if materials.stacked(len(batch)) else [draw]
    return next(made for made in make_batch(materials, entropy, draws) if made.draw == draw)


def _joined(blocks: Sequence[Smoothed]) -> Smoothed:
    """The draw of all blocks, joined from the draws of each block."""
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
    """The draw of a block without images: a network whose outputs are NaN, so that it votes for no class."""
    network = initialised(materials.architecture, 0, None).requires_grad_(requires_grad=False).eval()
    for weight in network.parameters():
        weight.fill_(math.nan)
    votes = predict_inputs(network, materials.test_inputs)
    return Smoothed(draw, network, votes, seal(entropy, draw), hashlib.sha256(b"").hexdigest(), 0.0, 0.0)


def ahead(make: Callable[[int], T], draws: Sequence[int]) -> Iterator[T]:
    """The results of `make` for each draw, in order. A thread makes the next one while the caller uses the current.

    The process has one such thread: what a thread records on an accelerator, such as CUDA graphs, is its own, and each
    new one would record it again.
    """
    upcoming = _sanitizing_thread().submit(make, draws[0])
    try:
        for following in (*draws[1:], None):
            current = upcoming.result()
            if following is not None:
                upcoming = _sanitizing_thread().submit(make, following)
            yield current
    finally:
        wait([upcoming])


@lru_cache(maxsize=1)
def _sanitizing_thread() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, "sanitizing")


def learn(materials: Materials, copy: NDArray[Any], seed: int) -> nn.Module:
    """Apply the recipe to one sanitized copy. Returns a trained network, a head on its features, or its features."""
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
    """A model's votes on the test inputs; for a bounded-influence head, its class sums."""
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
