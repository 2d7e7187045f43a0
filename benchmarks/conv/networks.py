"""The victims: a small residual network for CIFAR-10 under SGD with one cycle of the rate, and an MLP under AdamW."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.common.recipes import recipe as mlp_recipe
from cleanlabel.models.classifiers import Architecture, build
from cleanlabel.models.extractors import Block as CifarBlock
from cleanlabel.models.extractors import CifarResNet, Extractor
from cleanlabel.models.training import train
from cleanlabel.redteam.defences.friends import BATCH as FRIENDS_BATCH
from cleanlabel.redteam.defences.friends import Friends
from cleanlabel.redteam.defences.loop import evaluating
from cleanlabel.sanitize.device import has_fast_bfloat16

CPU = torch.device("cpu")
WIDTHS = (16, 32, 64)
MLP_WIDTH = 128
SHAPE = (32, 32, 3)


class Block(CifarBlock):
    """The block of the CIFAR ResNets with a 1x1 convolution as shortcut where the shape changes (option B)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__(inputs, outputs, stride)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            convolution = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.shortcut = nn.Sequential(convolution, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        inner = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        return functional.relu(inner + self.shortcut(x))


@dataclass(frozen=True)
class Recipe:
    """How a network trains. conv: 78,000 weights, a stem of stride 2. mlp: that of `benchmarks.compare`, 128 units.

    resnet20: the one of He et al. 2015 for CIFAR, 270,000 weights.
    """

    network: Literal["conv", "mlp", "resnet20"] = "conv"
    epochs: int = 12
    rate: float = 0.1
    batch: int = 128
    shift: int = 4
    flip: bool = True


@contextmanager
def without_denormals() -> Iterator[None]:
    """Denormal numbers count as 0, with which training is faster. It holds for the whole process."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def built(recipe: Recipe, classes: int) -> nn.Sequential:
    """The network with weights from torch's global generator; its last module is the linear head."""
    if recipe.network == "mlp":
        return build(Architecture("mlp", SHAPE, classes, MLP_WIDTH))
    if recipe.network == "resnet20":
        return nn.Sequential(CifarResNet(3), nn.Linear(64, classes))
    first, second, third = WIDTHS
    stem = (nn.Conv2d(3, first, 3, 2, padding=1, bias=False), nn.BatchNorm2d(first), nn.ReLU())
    blocks = (Block(first, first, 1), Block(first, second, 2), Block(second, third, 2))
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(third, classes))


def trained(
    images: NDArray[Any],
    labels: NDArray[np.int64],
    classes: int,
    recipe: Recipe,
    seed: int,
    friends: Friends | None = None,
) -> Extractor:
    """A network trained on images (n, 32, 32, 3) alone; weights, order and augmentation follow from `seed`.

    conv and resnet20: SGD with Nesterov momentum .9 and weight decay 5e-4; the rate rises linearly for a fifth of the
    steps and then falls to 0; bfloat16 where the machine has instructions for it. The network is in evaluation mode and
    float32. friends: the defence's noise joins the images from its epoch on, and Bernoulli noise from the first on (not
    for mlp).
    """
    if recipe.network == "mlp":
        plain = {"weight_decay": 0, "label_smoothing": 0, "shift": recipe.shift, "flip": recipe.flip}
        how = mlp_recipe("mlp", MLP_WIDTH, recipe.epochs, learning_rate=recipe.rate, batch=recipe.batch, **plain)
        mlp = train(images, labels, classes, how, seed).requires_grad_(requires_grad=False)
        return parted(mlp)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = built(recipe, classes).to(memory_format=torch.channels_last).train()
    generator = torch.Generator().manual_seed(seed)
    source, targets = padded(images, recipe.shift), torch.from_numpy(labels)
    optimiser = torch.optim.SGD(
        model.parameters(), lr=recipe.rate, momentum=0.9, nesterov=True, weight_decay=5e-4, foreach=True
    )
    steps = recipe.epochs * (len(images) // recipe.batch)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: one_cycle(step, steps))
    reduced = has_fast_bfloat16(CPU)
    for epoch in range(recipe.epochs):
        if friends and epoch == friends.begin:
            source = padded(befriended(model, images, friends, generator), recipe.shift)
        order = torch.randperm(len(images), generator=generator)
        for rows in order[: len(order) // recipe.batch * recipe.batch].split(recipe.batch):
            pixels = augmented(source, rows, recipe, generator)
            if friends:
                pixels += friends.bernoulli_255 / 127.5 * coins(pixels.shape, generator)
            with torch.autocast("cpu", torch.bfloat16, enabled=reduced):
                logits = model(pixels)
            optimiser.zero_grad()
            functional.cross_entropy(logits.float(), targets[rows]).backward()
            optimiser.step()
            schedule.step()
    model.eval().requires_grad_(requires_grad=False).to(memory_format=torch.contiguous_format)
    return parted(model)


def befriended(
    model: nn.Module, images: NDArray[Any], friends: Friends, generator: torch.Generator
) -> NDArray[np.float32]:
    """The images in [0, 255] with the friendly noise of this model."""

    def answers(pixels: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=has_fast_bfloat16(CPU)):
            return model(pixels).float()

    noise = []
    with evaluating(model):
        for part in (torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1).split(FRIENDS_BATCH):
            noise.append(friends.friendly(answers, part, generator))
    moved: NDArray[np.float32] = torch.cat(noise).permute(0, 2, 3, 1).numpy() * 127.5 + images
    return moved


def coins(shape: torch.Size, generator: torch.Generator) -> Tensor:
    """-1 or 1 at random."""
    return 2 * torch.randint(2, shape, generator=generator).float() - 1


def parted(model: nn.Sequential) -> Extractor:
    """The network of a model, and its head."""
    return Extractor(model[:-1], model[-1], SHAPE, "")


def joined(network: Extractor) -> nn.Sequential:
    """The model of a network and its head."""
    return nn.Sequential(*network.network, network.head)


def restored(weights: dict[str, Tensor], recipe: Recipe, classes: int) -> Extractor:
    """The network with the weights of `joined`."""
    model = built(recipe, classes)
    model.load_state_dict(weights)
    return parted(model.eval().requires_grad_(requires_grad=False))


def one_cycle(step: int, steps: int) -> float:
    """The share of the rate at a step: linearly up over the first fifth, linearly down to 0."""
    peak = max(1, steps // 5)
    return (step + 1) / peak if step < peak else max(0.0, (steps - step) / max(1, steps - peak))


def padded(images: NDArray[Any], shift: int) -> Tensor:
    """(n, h + 2 shift, w + 2 shift, c) with black borders, in the images' type."""
    return torch.from_numpy(np.pad(images, ((0, 0), (shift, shift), (shift, shift), (0, 0))))


def augmented(source: Tensor, rows: Tensor, recipe: Recipe, generator: torch.Generator) -> Tensor:
    """float32 (k, c, h, w) in [-1, 1], channels-last: each image moved by up to `shift` and mirrored at random.

    source: of `padded`. One gather does both; the distribution is that of `models.augmentation.shifted` and `mirrored`.
    """
    side = source.shape[1] - 2 * recipe.shift
    corner = torch.randint(2 * recipe.shift + 1, (2, len(rows), 1), generator=generator)
    down, right = corner + torch.arange(side)
    if recipe.flip:
        right = torch.where(torch.rand(len(rows), 1, generator=generator) < 0.5, right.flip(1), right)
    pixels = source[rows[:, None, None], down[:, :, None], right[:, None, :]]
    return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1


@torch.inference_mode()
def logits(network: Extractor, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """float32 (n, K) of images (n, 32, 32, 3)."""
    model = joined(network)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    return torch.cat([model(part) for part in pixels.split(500)]).numpy()
