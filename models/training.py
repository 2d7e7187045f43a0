"""Ordinary training on images in memory, and prediction."""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from cleanlabel.models.classifiers import Architecture, Standardise, build
from cleanlabel.models.fast_cifar import train_fast_cifar
from cleanlabel.sanitize.errors import InputError

if TYPE_CHECKING:  # only this import needs pydantic
    from cleanlabel.models.params import TrainParams

PREDICT_BATCH = 1024
BATCH_NORMALISED = ("resnet18", "vgg11", "mobilenet-v2")


def as_tensor(images: NDArray[Any]) -> Tensor:
    """float32 (n, c, h, w) in [-1, 1] from uint8 images, or from float32 ones in [0,1] units that may exceed them.

    The constants are public: no mean or deviation of any data set is used.
    """
    pixels = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float()
    return pixels / 127.5 - 1 if images.dtype == np.uint8 else 2 * pixels - 1


def train(
    images: NDArray[Any],
    labels: NDArray[np.int64],
    classes: int,
    recipe: "TrainParams",
    seed: int,
    device: torch.device | str = "cpu",
    *,
    raw: NDArray[np.uint8] | None = None,
    initial: dict[str, Tensor] | None = None,
) -> nn.Module:
    """A classifier trained by the recipe. All randomness follows from `seed`.

    images (n, h, w, c), a sanitized copy; labels (n,) in 0..classes-1. Returned in evaluation mode, on `device`.
    `initial` weights replace the random ones. Training uses raw images only if the recipe requires it, with
    `warm_on: raw` or `normalise: raw`, which voids the certificate (`models.plan`).
    """
    model = initialised(architecture_of(recipe, images.shape, classes), seed, initial).to(device).train()
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, benchmark=False, allow_tf32=True):
        _train(model, images, labels, recipe, seed, device, raw)
    return model.eval()


def _train(
    model: nn.Sequential,
    images: NDArray[Any],
    labels: NDArray[np.int64],
    recipe: "TrainParams",
    seed: int,
    device: torch.device | str,
    raw: NDArray[np.uint8] | None,
) -> None:
    if recipe.architecture == "fast-cifar":
        train_fast_cifar(model, images, labels, recipe, seed, device)
        return
    inputs, targets = as_tensor(images).to(device), torch.from_numpy(labels).to(device)
    un_noised = as_tensor(_required(raw, recipe)).to(device) if reads_raw_images(recipe) else None
    if isinstance(model[0], Standardise):
        model[0].measure(inputs if recipe.normalise == "copy" else un_noised)
    generator = torch.Generator().manual_seed(seed)
    if recipe.warm_epochs:
        fit(model, un_noised if recipe.warm_on == "raw" else inputs, targets, recipe, recipe.warm_epochs, generator)
    fit(model, inputs, targets, recipe, recipe.epochs, generator)


def reads_raw_images(recipe: "TrainParams") -> bool:
    """Whether the recipe shows un-noised images to training."""
    return (recipe.warm_epochs > 0 and recipe.warm_on == "raw") or recipe.normalise == "raw"


def architecture_of(recipe: "TrainParams", shape: tuple[int, ...], classes: int) -> Architecture:
    """The network that the recipe trains on images of `shape`, (..., h, w, c)."""
    h, w, c = shape[-3:]
    return Architecture(recipe.architecture, (h, w, c), classes, recipe.width, recipe.normalise != "constants")


def initialised(architecture: Architecture, seed: int, initial: dict[str, Tensor] | None) -> nn.Sequential:
    """The network with the random weights that follow from `seed`, or the `initial` ones. InputError if they misfit."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build(architecture)
    if initial is not None:
        try:
            model.load_state_dict(initial, strict=True)
        except RuntimeError as error:
            raise InputError(
                f"the initial weights do not fit a {architecture.name} of width {architecture.width} for "
                f"{architecture.image_shape} images and {architecture.classes} classes; see train.initial_weights"
            ) from error
    return model


def _required(raw: NDArray[np.uint8] | None, recipe: "TrainParams") -> NDArray[np.uint8]:
    if raw is None:
        raise ValueError(f"the recipe (warm_epochs={recipe.warm_epochs}, {recipe.normalise=}) needs the raw images")
    return raw


def fit(
    model: nn.Module, inputs: Tensor, targets: Tensor, recipe: "TrainParams", epochs: int, generator: torch.Generator
) -> None:
    """`epochs` epochs of AdamW with a learning rate that falls linearly to 0, for the weights that require gradients.

    inputs float32 (n, c, h, w) in [-1, 1], targets (n,), on the model's device; order and augmentation follow from
    `generator`.
    """
    n = len(inputs)
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay, foreach=True
    )
    steps = epochs * -(-n // recipe.batch)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 - step / steps)
    for _ in range(epochs):
        for rows in torch.randperm(n, generator=generator).split(recipe.batch):
            if len(rows) == 1 and recipe.architecture in BATCH_NORMALISED:
                continue  # one image has no statistics
            batch = mirrored(shifted(inputs[rows], recipe.shift, generator), recipe.flip, generator)
            loss = functional.cross_entropy(model(batch), targets[rows], label_smoothing=recipe.label_smoothing)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()


def shifted(batch: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """Each image moved by its own random offset of up to `most` pixels in each direction; new pixels are black."""
    if most == 0:
        return batch
    n, _, h, w = batch.shape
    padded = functional.pad(batch, (most, most, most, most), value=-1.0)
    top, left = torch.randint(2 * most + 1, (2, n), generator=generator)
    rows = (top[:, None] + torch.arange(h)).to(batch.device)
    columns = (left[:, None] + torch.arange(w)).to(batch.device)
    image = torch.arange(n, device=batch.device)[:, None, None]
    return padded[image, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def mirrored(batch: Tensor, flip: bool, generator: torch.Generator) -> Tensor:  # noqa: FBT001 (a param's own value)
    """Each image mirrored left to right with probability 1/2, if `flip`."""
    if not flip:
        return batch
    coin = (torch.rand(len(batch), generator=generator) < 0.5).to(batch.device)
    return torch.where(coin[:, None, None, None], batch.flip(3), batch)


@torch.inference_mode()
def predict(model: nn.Module, images: NDArray[Any], device: torch.device | str = "cpu") -> NDArray[np.int64]:
    """The predicted class of each image, (n,). A model whose logits are not finite votes for no class: -1."""
    return predict_inputs(model, as_tensor(images), device)


@torch.inference_mode()
def predict_inputs(model: nn.Module, inputs: Tensor, device: torch.device | str = "cpu") -> NDArray[np.int64]:
    """The same for the network's own inputs: pixels in [-1, 1], or features."""
    votes = []
    for batch in inputs.split(PREDICT_BATCH):
        logits = model(batch.to(device))
        best = logits.argmax(dim=1)
        best[~logits.isfinite().all(dim=1)] = -1
        votes.append(best.cpu().numpy())
    return np.concatenate(votes) if votes else np.empty(0, dtype=np.int64)
