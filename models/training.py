"""Ordinary training on images in memory or on disk, and prediction."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from cleanlabel.models.augmentation import flipped, moved, visits
from cleanlabel.models.classifiers import Architecture, Standardise, build
from cleanlabel.models.fast_cifar import scaled, train_fast_cifar
from cleanlabel.models.scratch import require_read_in_batches
from cleanlabel.sanitize.arrays import DiskArray
from cleanlabel.sanitize.device import compute_repeatably, is_accelerator, sent, trains_in_bfloat16
from cleanlabel.sanitize.errors import InputError

if TYPE_CHECKING:  # only this import needs pydantic
    from cleanlabel.models.params import TrainParams

PREDICT_BATCH = 1024
BATCH_NORMALISED = ("resnet18", "vgg11", "mobilenet-v2")


def as_tensor(images: NDArray[Any], device: torch.device | str = "cpu") -> Tensor:
    """float32 (n, c, h, w) in [-1, 1] from uint8 images, or from float32 ones in [0,1] units that may exceed them.

    They are scaled on `device`, so that uint8 images take a quarter of the way there. The constants are public: no mean
    or deviation of any data set is used.
    """
    return scaled(sent(torch.from_numpy(np.ascontiguousarray(images)), device))


@dataclass(frozen=True, eq=False)
class Stored:
    """Stored images in the place of `as_tensor` of them all: rows are scaled when they are asked for, to the same bits.

    images (n, h, w, c): on disk, or on an accelerator, where uint8 takes a quarter of the room.
    """

    images: DiskArray | Tensor
    target: torch.device | str

    def __len__(self) -> int:
        return len(self.images)

    @property
    def device(self) -> torch.device:
        """Where the numbers of rows must be."""
        return self.images.device if isinstance(self.images, Tensor) else torch.device("cpu")

    def __getitem__(self, rows: Tensor) -> Tensor:
        """float32 (k, c, h, w) in [-1, 1] on the target device."""
        if isinstance(self.images, Tensor):
            return scaled(self.images[rows])
        return as_tensor(self.images[rows.numpy()], self.target)


def inputs_of(images: NDArray[Any] | DiskArray, device: torch.device | str) -> Tensor | Stored:
    """The images as `fit` reads them: in memory of the CPU all are scaled at once."""
    if isinstance(images, DiskArray):
        return Stored(images, device)
    if is_accelerator(device):
        return Stored(sent(torch.from_numpy(np.ascontiguousarray(images)), device), device)
    return as_tensor(images, device)


def train(
    images: NDArray[Any] | DiskArray,
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

    images (n, h, w, c), a sanitized copy, to the same bits from memory and from disk (`models.scratch`); labels (n,) in
    0..classes-1. Returned in evaluation mode, on `device`.
    `initial` weights replace the random ones. Training uses raw images only if the recipe requires it, with
    `warm_on: raw` or `normalise: raw`, which voids the certificate (`models.plan`).
    """
    if is_accelerator(device):
        compute_repeatably()
    model = initialised(architecture_of(recipe, images.shape, classes), seed, initial).to(device).train()
    _train(model, images, labels, recipe, seed, device, raw)
    return model.eval()


def _train(
    model: nn.Sequential,
    images: NDArray[Any] | DiskArray,
    labels: NDArray[np.int64],
    recipe: "TrainParams",
    seed: int,
    device: torch.device | str,
    raw: NDArray[np.uint8] | None,
) -> None:
    if recipe.architecture == "fast-cifar":
        train_fast_cifar(model, images, labels, recipe, seed, device)
        return
    if isinstance(images, DiskArray):
        require_read_in_batches(recipe)
    inputs, targets = inputs_of(images, device), sent(torch.from_numpy(labels), device)
    un_noised = as_tensor(_required(raw, recipe), device) if reads_raw_images(recipe) else None
    if isinstance(model[0], Standardise):
        whole = inputs if isinstance(inputs, Tensor) else as_tensor(images, device)
        model[0].measure(whole if recipe.normalise == "copy" else un_noised)
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
    model: nn.Module,
    inputs: Tensor | Stored,
    targets: Tensor,
    recipe: "TrainParams",
    epochs: int,
    generator: torch.Generator,
) -> None:
    """`epochs` epochs of AdamW with a learning rate that falls linearly to 0, for the weights that require gradients.

    inputs float32 (n, c, h, w) in [-1, 1] or the same `Stored`, targets (n,), on the model's device; order and
    augmentation follow from `generator`. The torchvision networks compute in bfloat16 on an accelerator that has it.
    """
    n = len(inputs)
    reduced = recipe.architecture in BATCH_NORMALISED and trains_in_bfloat16(targets.device)
    if reduced:
        model.to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay, foreach=True
    )

    def skips(rows: Tensor) -> bool:
        return len(rows) == 1 and recipe.architecture in BATCH_NORMALISED  # one image has no statistics

    steps = epochs * -(-n // recipe.batch)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 - step / steps)
    for _ in range(epochs):
        drawn = visits(n, recipe, generator, skips)
        there = sent(drawn, targets.device)
        here = there if inputs.device == targets.device else drawn  # images on disk are asked for on the host
        for rows, (chosen, *moves) in zip(here[0].split(recipe.batch), there.split(recipe.batch, dim=1), strict=True):
            if skips(rows):
                continue
            batch = inputs[rows]
            if moves:
                down, right, coin = moves
                batch = flipped(moved(batch, recipe.shift, down, right), coin.bool() if recipe.flip else None)
            with torch.autocast(batch.device.type, torch.bfloat16, enabled=reduced):
                logits = model(batch)
            loss = functional.cross_entropy(logits.float(), targets[chosen], label_smoothing=recipe.label_smoothing)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()


@torch.inference_mode()
def predict(model: nn.Module, images: NDArray[Any], device: torch.device | str = "cpu") -> NDArray[np.int64]:
    """The predicted class of each image, (n,). A model whose logits are not finite votes for no class: -1."""
    votes = [_votes(model, as_tensor(part, device)) for part in _parts(images)]
    return torch.cat(votes).cpu().numpy() if votes else np.empty(0, dtype=np.int64)


@torch.inference_mode()
def predict_inputs(model: nn.Module, inputs: Tensor, device: torch.device | str = "cpu") -> NDArray[np.int64]:
    """The same for the network's own inputs: pixels in [-1, 1], or features."""
    votes = [_votes(model, sent(batch, device)) for batch in inputs.split(PREDICT_BATCH)]
    return torch.cat(votes).cpu().numpy() if votes else np.empty(0, dtype=np.int64)


def _votes(model: nn.Module, batch: Tensor) -> Tensor:
    logits = model(batch)
    return logits.argmax(dim=1).masked_fill_(~logits.isfinite().all(dim=1), -1)


def _parts(images: NDArray[Any]) -> Iterator[NDArray[Any]]:
    for start in range(0, len(images), PREDICT_BATCH):
        yield images[start : start + PREDICT_BATCH]
