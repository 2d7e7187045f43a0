"""Ordinary training: all of its randomness from its seed, and nothing from data it was not given."""

import numpy as np
import pytest
import torch
from models_recipes import QUICK
from torch.nn import functional

from cleanlabel.models.augmentation import mirrored, shifted
from cleanlabel.models.classifiers import Architecture, build
from cleanlabel.models.params import TrainParams
from cleanlabel.models.training import architecture_of, as_tensor, initialised, predict, train
from cleanlabel.models.weights import load_weights, save_weights
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.ingest import digits

RECIPE = QUICK.model_copy(
    update={"architecture": "small-cnn", "width": 4, "batch": 10, "label_smoothing": 0.1, "shift": 1}
)


def weights(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.state_dict().values()])


def test_a_model_follows_from_its_seed_and_from_no_global_state(small_set):
    torch.manual_seed(1)
    one = train(small_set.images, small_set.labels, 3, RECIPE, seed=7)
    torch.manual_seed(2)
    np.random.seed(3)  # noqa: NPY002
    other = train(small_set.images, small_set.labels, 3, RECIPE, seed=7)
    torch.testing.assert_close(weights(one), weights(other), atol=0, rtol=0)
    assert not torch.equal(weights(one), weights(train(small_set.images, small_set.labels, 3, RECIPE, seed=8)))


def test_training_leaves_the_global_generator_alone(small_set):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    train(small_set.images, small_set.labels, 3, RECIPE, seed=7)
    torch.testing.assert_close(torch.rand(3), expected, atol=0, rtol=0)


def test_pixels_are_scaled_by_public_constants(small_set):
    # A mean or deviation of the set would make one image's input depend on the others.
    np.testing.assert_array_equal(as_tensor(small_set.images)[3], as_tensor(small_set.images[3:4])[0])
    assert as_tensor(np.array([[[[0]], [[255]]]], np.uint8)).flatten().tolist() == [-1.0, 1.0]
    assert as_tensor(np.array([[[[-1.0]], [[2.0]]]], np.float32)).flatten().tolist() == [-3.0, 3.0]


def test_statistics_of_the_copy_are_taken_from_the_copy_alone(small_set):
    recipe = QUICK.model_copy(update={"normalise": "copy"})
    copy = 255 - small_set.images // 2
    model = train(copy, small_set.labels, 3, recipe, seed=7, raw=small_set.images)
    assert float(model[0].mean) == pytest.approx(float(as_tensor(copy).mean()))
    same = train(copy, small_set.labels, 3, recipe, seed=7, raw=None)
    torch.testing.assert_close(weights(model), weights(same), atol=0, rtol=0)


@pytest.mark.parametrize("change", [{"warm_epochs": 1, "warm_on": "raw"}, {"normalise": "raw"}])
def test_only_a_recipe_that_asks_for_them_sees_raw_images(change, small_set):
    copy, changed = 255 - small_set.images, QUICK.model_copy(update=change)
    for recipe, reads in ((QUICK, False), (changed, True)):
        seen = [train(copy, small_set.labels, 3, recipe, 7, raw=raw) for raw in (small_set.images, copy)]
        assert torch.equal(*map(weights, seen)) is not reads
    with pytest.raises(ValueError, match="needs the raw images"):
        train(copy, small_set.labels, 3, changed, seed=7)


def test_training_starts_from_the_weights_it_is_given(small_set):
    still = QUICK.model_copy(update={"learning_rate": 1e-12})
    given = train(small_set.images, small_set.labels, 3, QUICK, seed=1)
    model = train(small_set.images, small_set.labels, 3, still, seed=2, initial=given.state_dict())
    torch.testing.assert_close(weights(model), weights(given), atol=1e-6, rtol=0)
    with pytest.raises(InputError, match="do not fit a mlp of width 9 .* see train.initial_weights"):
        train(
            small_set.images, small_set.labels, 3, QUICK.model_copy(update={"width": 9}), 2, initial=given.state_dict()
        )


def test_the_digits_are_learned():
    sets = digits(600, 800, 0)
    recipe = RECIPE.model_copy(update={"epochs": 10, "batch": 32, "width": 16, "shift": 0})
    model = train(sets["raw"].images, sets["raw"].labels, 10, recipe, seed=0)
    assert np.mean(predict(model, sets["test"].images) == sets["test"].labels) > 0.95


@pytest.mark.parametrize("most", [1, 2])
def test_shifting_agrees_with_a_loop_over_the_images(most):
    batch = torch.rand(6, 3, 5, 4)
    fast = shifted(batch, most, torch.Generator().manual_seed(0))
    offsets = torch.randint(2 * most + 1, (2, 6), generator=torch.Generator().manual_seed(0))
    padded = functional.pad(batch, (most,) * 4, value=-1.0)
    slow = torch.stack(
        [padded[i, :, top : top + 5, left : left + 4] for i, (top, left) in enumerate(offsets.T.tolist())]
    )
    torch.testing.assert_close(fast, slow, atol=0, rtol=0)


def test_a_model_whose_output_is_no_number_votes_for_nobody(small_set):
    model = build(Architecture("linear", (8, 8, 1), 3, 1))
    with torch.no_grad():
        model[1].bias[0] = float("nan")
    assert predict(model, small_set.images).tolist() == [-1] * 24


@pytest.mark.parametrize("standardised", [False, True])
@pytest.mark.parametrize("name", ["small-cnn", "mlp", "linear"])
def test_weights_come_back_as_they_went_and_as_the_same_bytes(name, standardised, small_set, tmp_path):
    architecture = Architecture(name, (8, 8, 1), 3, 4, standardised)
    model = build(architecture).eval()
    if standardised:
        model[0].measure(as_tensor(small_set.images))
    for name in ("one", "two"):
        save_weights(model, tmp_path / name, architecture)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    np.testing.assert_array_equal(
        predict(load_weights(tmp_path / "one"), small_set.images), predict(model, small_set.images)
    )


@pytest.mark.parametrize("content", [b"", b"\x80\x04}\x94.", b"\x08\x00\x00\x00\x00\x00\x00\x00{}      "])
def test_a_file_that_is_no_weights_is_refused(content, tmp_path):
    (tmp_path / "w").write_bytes(content)
    with pytest.raises(InputError, match="w (is not a readable safetensors|holds no cleanlabel)"):
        load_weights(tmp_path / "w")


def trained_step_by_step(images: np.ndarray, labels: np.ndarray, recipe: TrainParams, seed: int) -> torch.nn.Module:
    """The slow twin of `train`: all images scaled first, and each step draws its own shifts and mirror images."""
    model = initialised(architecture_of(recipe, images.shape, 3), seed, None).train()
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    inputs = pixels / 127.5 - 1 if images.dtype == np.uint8 else 2 * pixels - 1
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(model.parameters(), recipe.learning_rate, weight_decay=0.0, foreach=True)
    steps = recipe.epochs * -(-len(inputs) // recipe.batch)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 - step / steps)
    for _ in range(recipe.epochs):
        for rows in torch.randperm(len(inputs), generator=generator).split(recipe.batch):
            if len(rows) == 1 and recipe.architecture == "mobilenet-v2":
                continue
            batch = mirrored(shifted(inputs[rows], recipe.shift, generator), recipe.flip, generator)
            optimiser.zero_grad()
            functional.cross_entropy(model(batch), torch.from_numpy(labels)[rows], label_smoothing=0.1).backward()
            optimiser.step()
            schedule.step()
    return model.eval()


@pytest.mark.parametrize("batch", [8, 23])  # 23 of 24 images leave one
@pytest.mark.parametrize("changes", [{}, {"shift": 1}, {"flip": True}, {"shift": 2, "flip": True}], ids=str)
@pytest.mark.parametrize("architecture", ["mlp", "small-cnn", "mobilenet-v2"])
def test_drawing_an_epochs_augmentation_at_once_changes_no_bit(architecture, changes, batch, small_set):
    settings = {"architecture": architecture, "width": 8, "batch": batch, "label_smoothing": 0.1, "shift": 0}
    recipe = QUICK.model_copy(update=settings | changes)
    for images in (small_set.images, small_set.images.astype(np.float32) / 255):
        fast = train(images, small_set.labels, 3, recipe, 7)
        slow = trained_step_by_step(images, small_set.labels, recipe, 7)
        for one, other in zip(fast.state_dict().values(), slow.state_dict().values(), strict=True):
            assert torch.equal(one, other)
