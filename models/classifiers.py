"""Classifiers by name. All take float32 (n, c, h, w) in [-1, 1] and return logits (n, K)."""

import math

from torch import nn


def build(architecture: str, image_shape: tuple[int, int, int], classes: int, width: int) -> nn.Module:
    """The named architecture for images of (h, w, c), freshly initialised from torch's global generator."""
    h, w, c = image_shape
    if architecture == "linear":
        return nn.Sequential(nn.Flatten(), nn.Linear(c * h * w, classes))
    if architecture == "mlp":
        return nn.Sequential(nn.Flatten(), nn.Linear(c * h * w, width), nn.ReLU(), nn.Linear(width, classes))
    if architecture == "small-cnn":
        return nn.Sequential(
            *_convolution(c, width),
            *_convolution(width, 2 * width),
            nn.MaxPool2d(2),
            *_convolution(2 * width, 4 * width),
            nn.AdaptiveAvgPool2d(4),
            nn.Flatten(),
            nn.Linear(4 * width * 16, classes),
        )
    raise ValueError(f"architecture={architecture!r} is not one of linear, mlp, small-cnn")


def _convolution(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    # GroupNorm: BatchNorm's running statistics, of sanitized images, do not fit the clean ones met at prediction
    return nn.Conv2d(inputs, outputs, 3, padding=1), nn.GroupNorm(math.gcd(outputs, 4), outputs), nn.ReLU()
