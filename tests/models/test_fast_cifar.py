"""The fast recipe: its seed decides all, its whitening sees the copy alone, its augmentation is what it says."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
import torch
from filled import filled
from models_recipes import QUICK
from torch.nn import functional

from cleanlabel.models.classifiers import Architecture, build
from cleanlabel.models.fast_cifar import (
    RATE_END,
    RATE_START,
    Trunk,
    Whitening,
    places,
    scaled,
    train_fast_cifar,
    triangle,
)
from cleanlabel.models.fast_cifar import visits as drawn_visits
from cleanlabel.models.params import TrainParams
from cleanlabel.models.training import as_tensor, predict, train

RECIPE = QUICK.model_copy(
    update={
        "architecture": "fast-cifar",
        "width": 4,
        "epochs": 3,
        "batch": 16,
        "learning_rate": 11.5,
        "weight_decay": 0.0153,
        "label_smoothing": 0.2,
        "shift": 1,
        "flip": True,
    }
)
LONGER = RECIPE.model_copy(update={"epochs": 20, "learning_rate": 300.0})
"""The rate is that of 1,024 images, and an epoch here has 32."""
LABELS = np.arange(40) % 3


@pytest.fixture
def copy() -> np.ndarray:
    """40 images of 12x12 pixels, each of the colour of its class, and noise."""
    noise = np.random.default_rng(0).integers(0, 128, (40, 12, 12, 3))
    return (noise + 127 * np.eye(3, dtype=np.int64)[LABELS][:, None, None]).astype(np.uint8)


def trained(images: np.ndarray, seed: int = 7, recipe: TrainParams = RECIPE) -> torch.nn.Sequential:
    torch.manual_seed(seed)
    model = build(Architecture("fast-cifar", images.shape[1:], 3, recipe.width))
    train_fast_cifar(model, images, LABELS, recipe, seed)
    return model.eval()


def visits(shape: tuple[int, ...], recipe: TrainParams, seed: int) -> Iterator[tuple[torch.Tensor, ...]]:
    """For each epoch: the order of the images (n,), and the source rows (n, h) and columns (n, w) of their pixels."""
    n, h, w, _ = shape
    for order, *moves in drawn_visits(n, recipe, seed):
        yield order, *places(moves, h, w)


def weights(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([tensor.detach().flatten() for tensor in model.state_dict().values()])


def test_a_separable_set_is_learned(copy):
    assert np.mean(predict(trained(copy, recipe=LONGER), copy) == LABELS) == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_separable_set_is_learned_on_a_gpu(copy):
    model = build(Architecture("fast-cifar", (12, 12, 3), 3, 4))
    train_fast_cifar(model, copy, LABELS, LONGER, 7, "cuda")
    assert np.mean(predict(model.eval(), copy, "cuda") == LABELS) == 1


def test_the_seed_decides_all_and_the_global_generator_is_left_alone(copy):
    one = trained(copy)
    state = torch.get_rng_state()
    np.random.seed(3)  # noqa: NPY002
    other = trained(copy)
    torch.testing.assert_close(weights(one), weights(other), atol=0, rtol=0)
    model = build(Architecture("fast-cifar", (12, 12, 3), 3, 4))
    torch.set_rng_state(state)
    train_fast_cifar(model, copy, LABELS, RECIPE, 7)
    assert torch.equal(torch.get_rng_state(), state)


def test_another_seed_of_the_training_alone_gives_other_weights(copy):
    states = []
    for seed in (7, 8):
        torch.manual_seed(0)
        model = build(Architecture("fast-cifar", (12, 12, 3), 3, 4))
        train_fast_cifar(model, copy, LABELS, RECIPE, seed)
        states.append(weights(model))
    assert not torch.equal(*states)


def test_noise_beyond_white_and_black_and_a_single_channel_are_taken(copy):
    noised = (copy[..., :1] / 255 + np.random.default_rng(1).normal(0, 1, (40, 12, 12, 1))).astype(np.float32)
    assert weights(trained(noised)).isfinite().all()


@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_pixels_are_scaled_as_at_prediction(kind, copy):
    images = copy if kind is np.uint8 else (copy / 100 - 0.5).astype(np.float32)
    torch.testing.assert_close(scaled(torch.from_numpy(images)), as_tensor(images), atol=0, rtol=0)


def test_whitening_leaves_patches_centred_uncorrelated_and_of_equal_variance(copy):
    whitening = Whitening(3)
    whitening.measure(scaled(torch.from_numpy(copy)))
    out = whitening(scaled(torch.from_numpy(copy))).detach().transpose(0, 1).flatten(1)
    torch.testing.assert_close(out[12:], -out[:12], atol=1e-4, rtol=0)
    torch.testing.assert_close(out.mean(dim=1), torch.zeros(24), atol=1e-3, rtol=0)
    torch.testing.assert_close(torch.cov(out[:12]), torch.eye(12), atol=0.02, rtol=0)


def test_the_whitening_is_that_of_the_copy_and_raw_images_never_reach_it(copy):
    reference = Whitening(3)
    reference.measure(scaled(torch.from_numpy(copy)))
    raws = np.random.default_rng(1).integers(0, 256, (2, *copy.shape), dtype=np.uint8)
    models = [train(copy, LABELS, 3, RECIPE, 7, raw=raw) for raw in (None, *raws)]
    for model in models:
        torch.testing.assert_close(model[-2][0].filters, reference.filters, atol=0, rtol=0)
        torch.testing.assert_close(weights(model), weights(models[0]), atol=0, rtol=0)
    assert not torch.equal(trained(raws[0])[-2][0].filters, reference.filters)


def test_the_whitening_stays_what_the_weights_behind_it_were_trained_on(copy):
    model = trained(copy)
    filters = model[-2][0].filters.clone()
    train_fast_cifar(model, 255 - copy // 2, LABELS, RECIPE, 8)
    torch.testing.assert_close(model[-2][0].filters, filters, atol=0, rtol=0)


def test_parameters_that_need_no_gradient_stay(copy):
    model = build(Architecture("fast-cifar", (12, 12, 3), 3, 4))
    frozen = model[-2][2][0].weight.requires_grad_(False)
    before = frozen.clone()
    train_fast_cifar(model, copy, LABELS, RECIPE, 7)
    torch.testing.assert_close(frozen, before, atol=0, rtol=0)


def test_flips_alternate_from_a_coin_for_each_image():
    recipe = RECIPE.model_copy(update={"shift": 0, "epochs": 4})
    mirrored = [columns[:, 0] == 4 for _, _, columns in visits((100, 6, 5, 1), recipe, seed=0)]
    assert 30 < int(mirrored[0].sum()) < 70
    for one, after in pairwise(mirrored):
        assert torch.equal(one, ~after)
    still = recipe.model_copy(update={"flip": False})
    assert all(
        torch.equal(columns, torch.arange(5).repeat(100, 1))
        for _, _, columns in filled(visits((100, 6, 5, 1), still, 0))
    )


def test_every_epoch_visits_each_image_once_in_an_order_of_its_own():
    orders = [order for order, _, _ in visits((50, 9, 9, 1), RECIPE, seed=0)]
    assert all(torch.equal(order.sort().values, torch.arange(50)) for order in orders)
    assert not torch.equal(orders[0], orders[1])


def test_shifting_agrees_with_cutting_out_of_a_reflected_image():
    images = torch.rand(30, 1, 7, 6)
    recipe = RECIPE.model_copy(update={"shift": 2, "flip": False, "epochs": 1})
    _, rows, columns = next(visits((30, 7, 6, 1), recipe, seed=0))
    padded, found = functional.pad(images, (2, 2, 2, 2), mode="reflect"), set()
    for image, frame, row, column in zip(filled(images), padded, rows, columns, strict=True):
        moved = image[:, row[:, None], column]
        places = [(t, s) for t in range(5) for s in range(5) if torch.equal(frame[:, t : t + 7, s : s + 6], moved)]
        assert len(places) == 1
        found.update(places)
    assert len(found) > 10


def test_prediction_averages_mirror_images_where_training_showed_them(copy):
    pixels = as_tensor(copy)
    model = trained(copy)
    torch.testing.assert_close(model(pixels.flip(3)), model(pixels))
    plain = trained(copy, recipe=RECIPE.model_copy(update={"flip": False}))
    assert not torch.allclose(plain(pixels.flip(3)), plain(pixels))
    assert isinstance(model[-2], Trunk)


def test_the_learning_rate_rises_and_falls_by_lines():
    rates = [triangle(step, 100) for step in range(101)]
    assert rates[0] == RATE_START
    assert rates[23] == max(rates) == 1
    assert rates[100] == pytest.approx(RATE_END)
    np.testing.assert_allclose(np.diff(rates[:24]), 0.8 / 23)
    np.testing.assert_allclose(np.diff(rates[23:]), -0.93 / 77)
    assert all(0 < triangle(step, steps) <= 1 for steps in (1, 2, 3) for step in range(steps))


def visits_of_whole(shape: tuple[int, ...], recipe: TrainParams, seed: int) -> Iterator[tuple[torch.Tensor, ...]]:
    """The slow twin of `visits` and `places`: the source rows and columns of all images, on the host."""
    n, h, w, _ = shape
    generator = torch.Generator().manual_seed(seed)
    coins = torch.randint(2, (n, 1), generator=generator).bool()
    for epoch in range(recipe.epochs):
        order = torch.randperm(n, generator=generator)
        down, right = torch.randint(-recipe.shift, recipe.shift + 1, (2, n, 1), generator=generator)
        rows, columns = (
            (side - 1) - ((side - 1) - (torch.arange(side) + by).abs()).abs() for side, by in ((h, down), (w, right))
        )
        yield order, rows, torch.where(recipe.flip & (coins ^ bool(epoch % 2)), columns.flip(1), columns)


@pytest.mark.parametrize("changes", [{}, {"shift": 3}, {"flip": False}], ids=str)
def test_moves_sent_as_numbers_give_the_rows_and_columns_of_whole_images(changes):
    recipe = RECIPE.model_copy(update=changes)
    pairs = zip(visits((40, 12, 9, 3), recipe, 5), visits_of_whole((40, 12, 9, 3), recipe, 5), strict=True)
    for fast, slow in filled(pairs):
        assert all(torch.equal(one, other) for one, other in zip(filled(fast), slow, strict=True))
