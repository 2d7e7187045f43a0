"""Classifiers by name. All take float32 (n, c, h, w) in [-1, 1] and return logits (n, K)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Architecture:
    """What is needed to build a network: its name, the images (h, w, c) it takes, its classes and its width."""

    name: str
    image_shape: tuple[int, int, int]
    classes: int
    width: int
    standardised: bool = False
    """Whether a layer of its own centres and scales the pixels."""


class Standardise(nn.Module):
    """Centres and scales each channel by statistics that are part of the weights."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(1, channels, 1, 1))
        self.register_buffer("deviation", torch.ones(1, channels, 1, 1))

    def measure(self, pixels: Tensor) -> None:
        """Take mean and deviation of these pixels (n, c, h, w)."""
        self.mean.copy_(pixels.mean(dim=(0, 2, 3), keepdim=True))
        self.deviation.copy_(pixels.std(dim=(0, 2, 3), keepdim=True).clamp(min=1e-3))

    def forward(self, pixels: Tensor) -> Tensor:
        return (pixels - self.mean) / self.deviation


def build(architecture: Architecture) -> nn.Sequential:
    """The network, freshly initialised from torch's global generator."""
    h, w, c = architecture.image_shape
    layers = _layers(architecture.name, (h, w, c), architecture.classes, architecture.width)
    return nn.Sequential(*([Standardise(c)] if architecture.standardised else []), *layers)


def _layers(name: str, image_shape: tuple[int, int, int], classes: int, width: int) -> tuple[nn.Module, ...]:
    h, w, c = image_shape
    if name == "linear":
        return nn.Flatten(), nn.Linear(c * h * w, classes)
    if name == "mlp":
        return nn.Flatten(), nn.Linear(c * h * w, width), nn.ReLU(), nn.Linear(width, classes)
    if name == "small-cnn":
        return (
            *_convolution(c, width),
            *_convolution(width, 2 * width),
            nn.MaxPool2d(2),
            *_convolution(2 * width, 4 * width),
            nn.AdaptiveAvgPool2d(4),
            nn.Flatten(),
            nn.Linear(4 * width * 16, classes),
        )
    raise ValueError(f"architecture={name!r} is not one of linear, mlp, small-cnn")


def _convolution(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    # GroupNorm: BatchNorm's running statistics, of sanitized images, do not fit the clean ones met at prediction
    return nn.Conv2d(inputs, outputs, 3, padding=1), nn.GroupNorm(math.gcd(outputs, 4), outputs), nn.ReLU()
