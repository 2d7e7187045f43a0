"""Rule 2, however a draw is made: each image is noised once per model, at the plan's sigma, and seen like that only."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from models_recipes import QUICK
from noise_source import Asked, record
from tiny import FIXED

from cleanlabel.models.draw import Smoothed, make_batch, make_draw
from cleanlabel.models.materials import Materials
from cleanlabel.models.params import TrainParams
from cleanlabel.models.training import as_tensor
from cleanlabel.sanitize.imageset import ImageSet
from cleanlabel.sanitize.sanitizer import sanitize

EPOCHS = 3


def still(**changes: object) -> TrainParams:
    """Three epochs without augmentation: what the network sees is what it was given."""
    return QUICK.model_copy(update={"epochs": EPOCHS, "shift": 0, "flip": False} | changes)


MLP = still()
BY_ONE = [
    MLP,
    still(architecture="small-cnn", width=4),
    still(architecture="small-cnn", width=4, warm_epochs=2, normalise="copy"),
    still(architecture="fast-cifar", width=4, learning_rate=11.5),
]


@pytest.fixture
def raw() -> ImageSet:
    """24 random 12x12 grey images of 3 classes."""
    images = np.random.default_rng(0).integers(0, 256, (24, 12, 12, 1), dtype=np.uint8)
    return ImageSet(images, np.arange(24) % 3, tuple(f"image-{i}" for i in range(24)), ("a", "b", "c"))


def materials(raw: ImageSet, recipe: TrainParams, **more: object) -> Materials:
    return Materials(raw, raw, 0.5, None, recipe, 10, **more)


def first_of_a_batch(ours: Materials, entropy: bytes, draw: int) -> Smoothed:
    return next(make_batch(ours, entropy, [draw]))


@contextmanager
def seen_in_training(shape: tuple[int, ...]) -> Iterator[Counter[bytes]]:
    """How often a network in training saw each image of this (c, h, w)."""
    seen: Counter[bytes] = Counter()
    inside: list[torch.nn.Module] = []

    def enters(module: torch.nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        if not inside and module.training and given[0].shape[1:] == shape:
            inside.append(module)
            seen.update(row.numpy().tobytes() for row in given[0].detach())

    def leaves(module: torch.nn.Module, *_: object) -> None:
        if inside and inside[0] is module:
            inside.clear()

    hooks = torch.nn.modules.module
    handles = [hooks.register_module_forward_pre_hook(enters), hooks.register_module_forward_hook(leaves)]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("recipe", BY_ONE, ids=lambda r: f"{r.architecture}-{r.normalise}")
@pytest.mark.parametrize("make", [make_draw, first_of_a_batch])
def test_every_epoch_sees_the_pixels_of_the_one_sanitized_copy(make, recipe, raw):
    with seen_in_training((1, 12, 12)) as seen:
        make(materials(raw, recipe), FIXED, 2)
    copy = as_tensor(sanitize(raw, 0.5, None, FIXED, 2))
    assert seen.keys() == {row.numpy().tobytes() for row in copy}
    assert min(seen.values()) >= EPOCHS + recipe.warm_epochs


@pytest.mark.parametrize(("test_sigma", "partitions"), [(0.0, 1), (0.25, 1), (0.0, 3)])
@pytest.mark.parametrize("recipe", BY_ONE, ids=lambda r: f"{r.architecture}-{r.normalise}")
def test_the_noise_of_an_image_is_asked_for_once_per_draw(recipe, test_sigma, partitions, raw, monkeypatch):
    ours = materials(raw, recipe, test_sigma=test_sigma, partitions=partitions)
    roles = ("noise", "test-noise") if test_sigma else ("noise",)
    asked = record(monkeypatch)
    list(make_batch(ours, FIXED, range(3, 5)))
    wanted = {Asked(role, draw, image_id): 1 for role in roles for draw in (3, 4) for image_id in raw.ids}
    assert Counter(asked) == wanted
    asked.clear()
    make_draw(ours, FIXED, 4)
    assert Counter(asked) == {key: 1 for key in wanted if key.draw == 4}


@pytest.mark.parametrize("denoise", [False, True])
@pytest.mark.parametrize("test_sigma", [0.0, 0.1, 1.5])
def test_the_training_copy_has_the_plans_sigma_whatever_the_test_images_have(test_sigma, denoise, small_set, denoiser):
    ours = Materials(small_set, small_set, 0.5, denoiser if denoise else None, MLP, 10, test_sigma)
    fast = ours.fast(0.5)
    copy = sanitize(small_set, 0.5, ours.denoiser, FIXED, 1, denoise=fast, batch=ours.batch)
    slow = sanitize(small_set, 0.5, ours.denoiser, FIXED, 1)
    in_a_batch = next(made for made in make_batch(ours, FIXED, range(2)) if made.draw == 1)
    assert in_a_batch.copy_sha256 == hashlib.sha256(copy).hexdigest()
    assert make_draw(ours, FIXED, 1).copy_sha256 == hashlib.sha256(slow).hexdigest()
