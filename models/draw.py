"""Draws of the ensemble: sanitize the raw set anew, train, vote. Use `make_batch`; `make_draw` is its slow twin."""

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cleanlabel.models.extractors import features
from cleanlabel.models.heads import fit_head, fit_head_of_some
from cleanlabel.models.instrument import Features
from cleanlabel.models.materials import Block, Materials
from cleanlabel.models.scratch import (
    copies_at_once,
    copy_bytes,
    copy_on_disk,
    require_read_in_batches,
    require_room,
    shards_of,
)
from cleanlabel.models.stacked import train_stack
from cleanlabel.models.training import initialised, predict_inputs, reads_raw_images, train
from cleanlabel.sanitize.arrays import DiskArray
from cleanlabel.sanitize.device import is_accelerator, own_stream, settle
from cleanlabel.sanitize.imageset import ImageSet
from cleanlabel.sanitize.noise import seal
from cleanlabel.sanitize.sanitizer import Denoise, sanitize

T = TypeVar("T")


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


def make_draw(materials: Materials, entropy: bytes, draw: int) -> Smoothed:
    """Draw `draw`: one noise sample for the whole training, its own training seed, one vote per test image.

    The arguments determine model and votes (bit for bit on one machine and set of libraries). The test images are used
    unchanged; with `test_sigma` they are noised and denoised as well, with one noise sample per image and draw.
    """
    return _joined([_block_draw(block, entropy, draw) for block in materials.blocks])


def _block_draw(block: Block, entropy: bytes, draw: int) -> Smoothed:
    """One block's part of a draw."""
    if not len(block.raw):
        return _empty_block_draw(block, entropy, draw)
    started = time.perf_counter()
    copy = sanitize(block.raw, block.materials.sigma, block.materials.denoiser, entropy, draw)
    inputs = _test_inputs(block, entropy, draw, None)
    sanitized = time.perf_counter()
    model = learn(block, copy, block.seed(entropy, draw))
    votes = ask(block, model, inputs)
    trained = time.perf_counter()
    return Smoothed(draw, model, votes, seal(entropy, draw), _sha256(copy), sanitized - started, trained - sanitized)


def make_batch(materials: Materials, entropy: bytes, draws: Sequence[int]) -> Iterator[Smoothed]:
    """These draws, in order, equal to those of `make_draw` up to the roundings of the fast paths.

    It uses the fast denoiser. Networks too small to fill a device are trained all at once (`models.stacked`). On an
    accelerator the next draw is sanitized while the current one trains. The same batch gives the same bits. Blocks are
    made one after the other and independently: a change of one leaves the others' votes bitwise equal.
    """
    if materials.partitions == 1:
        yield from block_batch(materials.blocks[0], entropy, draws)
        return
    blocks = [list(block_batch(block, entropy, draws)) for block in materials.blocks]
    yield from map(_joined, zip(*blocks, strict=True))


def block_batch(block: Block, entropy: bytes, draws: Sequence[int]) -> Iterator[Smoothed]:
    """One block's part of these draws; votes are (n_test,). It depends on no other block."""
    if not len(block.raw):
        yield from (_empty_block_draw(block, entropy, draw) for draw in draws)
        return
    shared = block.materials
    fast, test_fast = block.fast(shared.sigma), block.fast(shared.test_sigma)
    settle(shared.device)  # what is shared must be there before another stream uses it

    stacked = block.stacked(len(draws))
    scratch = None if stacked else _scratch(block, len(draws))  # a stack is small (`models.stacked`)

    def sanitized(draw: int) -> tuple[NDArray[Any] | DiskArray, str, Tensor, float]:
        started = time.perf_counter()

        def copied(raw: ImageSet) -> NDArray[Any]:
            return sanitize(raw, shared.sigma, shared.denoiser, entropy, draw, denoise=fast, batch=block.batch)

        with own_stream(shared.device):
            copy = copy_on_disk(block.raw, scratch, block.batch, copied) if scratch else copied(block.raw)
            inputs = _test_inputs(block, entropy, draw, test_fast)
        seconds = time.perf_counter() - started
        return copy, _sha256(copy), inputs, seconds

    copies = ahead(sanitized, draws) if is_accelerator(shared.device) else map(sanitized, draws)
    if stacked:
        made = list(copies)
        started = time.perf_counter()
        models = train_stack(
            [copy for copy, *_ in made],
            block.raw.labels,
            len(block.raw.classes),
            shared.recipe,
            [block.seed(entropy, draw) for draw in draws],
            shared.device,
        )
        each = (time.perf_counter() - started) / len(draws)
        copies, trained = iter(made), iter([(model, each) for model in models])
    for draw in draws:
        copy, digest, inputs, seconds = next(copies)
        started = time.perf_counter()
        model, before = next(trained) if stacked else (learn(block, copy, block.seed(entropy, draw)), 0.0)
        votes = ask(block, model, inputs)
        spent = before + time.perf_counter() - started
        del copy  # before the next one is made
        yield Smoothed(draw, model, votes, seal(entropy, draw), digest, seconds, spent)


def _scratch(block: Block, draws: int) -> Path | None:
    """The folder that holds the block's copies; None for memory. InputError if it has no room, or they are not read in
    batches."""
    shared = block.materials
    if shared.scratch:
        require_read_in_batches(shared.recipe)
        size = copy_bytes(len(block.raw), block.raw.image_shape, denoised=shared.denoiser is not None)
        require_room(shared.scratch, size, copies_at_once(draws, shared.device))
    return shared.scratch


def make_again(materials: Materials, entropy: bytes, batch: Sequence[int], draw: int) -> Smoothed:
    """One draw of a batch, bitwise equal to the one in the whole batch."""
    draws = batch if materials.stacked(len(batch)) else [draw]
    return next(made for made in make_batch(materials, entropy, draws) if made.draw == draw)


def _joined(blocks: Sequence[Smoothed]) -> Smoothed:
    """The draw of all blocks, joined from the draws of each block."""
    if len(blocks) == 1:
        return blocks[0]
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


def _empty_block_draw(block: Block, entropy: bytes, draw: int) -> Smoothed:
    """The draw of a block without images: a network whose outputs are NaN, so that it votes for no class."""
    network = initialised(block.materials.architecture, 0, None).requires_grad_(requires_grad=False).eval()
    for weight in network.parameters():
        weight.fill_(math.nan)
    votes = predict_inputs(network, block.materials.test_inputs)
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


def learn(block: Block, copy: NDArray[Any] | DiskArray, seed: int) -> nn.Module:
    """Apply the recipe to one sanitized copy. Returns a trained network, a head on its features, or its features."""
    raw, recipe, start, device = block.raw, block.materials.recipe, block.materials.start, block.materials.device
    if start.extractor:
        found = features(start.twin or start.extractor, copy, device)
        if start.instrument:
            return Features(found)
        prior = start.extractor.head if recipe.head_prior else None
        labels = torch.from_numpy(raw.labels)
        fit = fit_head if block.number is None else fit_head_of_some  # a block may lack classes
        head = fit(found, labels, len(raw.classes), recipe.head, recipe.head_l2, prior)
        return nn.Sequential(nn.Flatten(), head).to(device)
    return train(
        copy,
        raw.labels,
        len(raw.classes),
        recipe,
        seed,
        device,
        raw=raw.images if reads_raw_images(recipe) else None,
        initial=start.weights,
    )


def ask(block: Block, model: nn.Module, inputs: Tensor) -> NDArray[np.int64]:
    """A model's votes on the test inputs; for a bounded-influence head, its class sums."""
    instrument, raw = block.materials.start.instrument, block.raw
    if instrument and isinstance(model, Features):
        return instrument.class_sums(model, raw.labels, len(raw.classes), inputs)
    return predict_inputs(model, inputs, block.materials.device)


def _test_inputs(block: Block, entropy: bytes, draw: int, denoise: Denoise | None) -> Tensor:
    shared = block.materials
    if not shared.test_sigma:
        return shared.test_inputs
    noised = sanitize(
        shared.test,
        shared.test_sigma,
        shared.denoiser,
        entropy,
        draw,
        role="test-noise",
        denoise=denoise,
        batch=block.batch,
    )
    return shared.inputs_of(noised)


def _sha256(copy: NDArray[Any] | DiskArray) -> str:
    digest = hashlib.sha256()
    for part in [copy] if isinstance(copy, np.ndarray) else shards_of(copy):
        digest.update(np.ascontiguousarray(part))
    return digest.hexdigest()
