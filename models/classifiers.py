"""Classifiers by name. All take float32 (n, c, h, w) in [-1, 1] and return logits (n, K)."""

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn

from cleanlabel.models import fast_cifar
from cleanlabel.sanitize.device import is_accelerator
from cleanlabel.sanitize.errors import InputError


@dataclass(frozen=True)
class Architecture:
    """The specification of a network: its name, its images (h, w, c), its classes and its width."""

    name: str
    image_shape: tuple[int, int, int]
    classes: int
    width: int
    """Channels of the first trained layer, the others in proportion; hidden units of an mlp; unused by linear.

    resnet18 allows only 64, mobilenet-v2 only multiples of 8.
    """
    standardised: bool = False
    """Whether a separate layer centres and scales the pixels."""


class Standardise(nn.Module):
    """Centres and scales each channel by statistics that are part of the weights."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(1, channels, 1, 1))
        self.register_buffer("deviation", torch.ones(1, channels, 1, 1))

    def measure(self, pixels: Tensor) -> None:
        """Set the statistics to the mean and standard deviation of these pixels (n, c, h, w)."""
        self.mean.copy_(pixels.mean(dim=(0, 2, 3), keepdim=True))
        self.deviation.copy_(pixels.std(dim=(0, 2, 3), keepdim=True).clamp(min=1e-3))

    def forward(self, pixels: Tensor) -> Tensor:
        return (pixels - self.mean) / self.deviation


def build(architecture: Architecture) -> nn.Sequential:
    """The network, freshly initialised from torch's global generator. Its last module is the linear head.

    InputError if the images are too small for it, or the width is not possible. The published networks have their usual
    form for 32x32 images: no early downsampling, and no dropout, which would draw from torch's global generator.
    """
    h, w, c = architecture.image_shape
    least = LEAST_SIDE.get(architecture.name, 1)
    if min(h, w) < least:
        raise InputError(
            f"images of {h}x{w} pixels are too small for {architecture.name}, which takes sides of {least} and more; "
            "set another train.architecture"
        )
    layers = _layers(architecture.name, (h, w, c), architecture.classes, architecture.width)
    return nn.Sequential(*([Standardise(c)] if architecture.standardised else []), *layers)


def features_of(model: nn.Sequential) -> nn.Sequential:
    """All but the linear head of a network from `build`, sharing its weights: pixels in, features (n, d) out."""
    return model[:-1]


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
            AveragePool(4),
            nn.Flatten(),
            nn.Linear(4 * width * 16, classes),
        )
    if name == "fast-cifar":
        return fast_cifar.network(c, classes, width)
    if name in PUBLISHED:
        return PUBLISHED[name](c, classes, width)
    raise ValueError(f"architecture={name!r} is not one of {', '.join((*OWN, *PUBLISHED))}")


class AveragePool(nn.AdaptiveAvgPool2d):
    """Adaptive average pooling to a square whose gradient is the same every time.

    Torch adds the gradients of overlapping cells in any order on an accelerator. There, cells that overlap are averaged
    by products with constant matrices.
    """

    def forward(self, maps: Tensor) -> Tensor:
        """maps (n, c, h, w) -> (n, c, size, size)."""
        h, w = maps.shape[-2:]
        if not is_accelerator(maps.device) or not (h % self.output_size or w % self.output_size):
            return super().forward(maps)
        return cells(h, self.output_size, maps.device) @ maps @ cells(w, self.output_size, maps.device).T


@lru_cache(maxsize=8)
def cells(side: int, parts: int, device: torch.device) -> Tensor:
    """(parts, side): each row is the share of each pixel in one cell's mean, as torch cuts a side into cells."""
    shares = torch.zeros(parts, side)
    for i in range(parts):
        start, end = i * side // parts, -(-(i + 1) * side // parts)
        shares[i, start:end] = 1 / (end - start)
    return shares.to(device)


def _convolution(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    # GroupNorm: BatchNorm's running statistics of sanitized images do not fit the clean images at prediction
    return nn.Conv2d(inputs, outputs, 3, padding=1), nn.GroupNorm(math.gcd(outputs, 4), outputs), nn.ReLU()


# torchvision is imported where it is used: that takes seconds, and most recipes do not need it


def _resnet18(channels: int, classes: int, width: int) -> tuple[nn.Module, ...]:
    """He et al. 2016 with a 3x3 stem of stride 1 and no max-pooling. torchvision fixes the first width at 64."""
    from torchvision.models import resnet18

    if width != 64:
        raise InputError(f"width={width} is not possible with resnet18, which is 64 wide; set train.width: 64")
    net = resnet18(num_classes=classes)
    stem = _he(nn.Conv2d(channels, 64, 3, padding=1, bias=False))
    blocks = (net.layer1, net.layer2, net.layer3, net.layer4)
    return stem, net.bn1, net.relu, *blocks, net.avgpool, nn.Flatten(), net.fc


def _vgg11(channels: int, classes: int, width: int) -> tuple[nn.Module, ...]:
    """Simonyan & Zisserman 2015, configuration A with BatchNorm, and one linear layer; published at width 64."""
    from torchvision.models.vgg import cfgs, make_layers

    features = make_layers([v if v == "M" else v * width // 64 for v in cfgs["A"]], batch_norm=True)
    features[0] = nn.Conv2d(channels, width, 3, padding=1)
    for layer in features:
        if isinstance(layer, nn.Conv2d):
            nn.init.zeros_(_he(layer).bias)
    return *features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8 * width, classes)


def _mobilenet_v2(channels: int, classes: int, width: int) -> tuple[nn.Module, ...]:
    """Sandler et al. 2018 with strides of 1 in the stem and in the first stage that halves; published at width 32."""
    from torchvision.models import MobileNetV2

    if width % 8:
        raise InputError(f"width={width} is not possible with mobilenet-v2: set train.width to a multiple of 8")
    # per stage: expansion, channels, repeats, stride
    stages = [[1, 16, 1, 1], [6, 24, 2, 1], [6, 32, 3, 2], [6, 64, 4, 2], [6, 96, 3, 1], [6, 160, 3, 2], [6, 320, 1, 1]]
    net = MobileNetV2(classes, width / 32, stages, dropout=0.0)
    net.features[0][0] = _he(nn.Conv2d(channels, width, 3, padding=1, bias=False))
    return *net.features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), net.classifier[1]


def _he(convolution: nn.Conv2d) -> nn.Conv2d:
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return convolution


OWN = ("linear", "mlp", "small-cnn", "fast-cifar")
PUBLISHED = {"resnet18": _resnet18, "vgg11": _vgg11, "mobilenet-v2": _mobilenet_v2}
LEAST_SIDE = {"fast-cifar": fast_cifar.LEAST_SIDE, "resnet18": 8, "vgg11": 32, "mobilenet-v2": 8}
"""The smallest side in pixels: a network's halvings reduce it to one pixel."""
