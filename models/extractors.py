"""Feature extractors trained elsewhere: frozen networks that a linear head is fitted on."""

import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import safetensors
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from cleanlabel.models.classifiers import features_of
from cleanlabel.models.training import as_tensor
from cleanlabel.models.weights import FORMAT, load_weights, read_weights
from cleanlabel.sanitize.arrays import DiskArray
from cleanlabel.sanitize.device import has_fast_bfloat16
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.files import file_digest

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_DEVIATION = (0.229, 0.224, 0.225)
FEATURE_BATCH = 256


@dataclass(frozen=True, eq=False)
class Extractor:
    """A frozen network and the linear head of the classifier that it comes from.

    network: float32 (n, c, h, w) in [-1, 1] -> features (n, d), in evaluation mode. head: weight (K, d), bias (K).
    image_shape: the (h, w, c) it was made for. digest: sha256 of its file.
    """

    network: nn.Module
    head: nn.Linear
    image_shape: tuple[int, int, int]
    digest: str


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut without weights: subsampled pixels, zero new channels (He 2015, option A)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride, self.widen = stride, (outputs - inputs) // 2

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x
        if self.stride != 1 or self.widen:
            shortcut = functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.widen, self.widen))
        out = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(out)) + shortcut)


class CifarResNet(nn.Module):
    """ResNet of depth 6 * blocks + 2 for 32x32 colour images, up to its features (n, 64) (He et al. 2015, section 4.2).

    Modules are named as in the published weights. Pixels in [-1, 1] are standardised by ImageNet's public constants.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(IMAGENET_DEVIATION).view(1, 3, 1, 1), persistent=False)
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, blocks, 1)
        self.layer2 = _stage(16, 32, blocks, 2)
        self.layer3 = _stage(32, 64, blocks, 2)

    def forward(self, pixels: Tensor) -> Tensor:
        x = ((pixels + 1) / 2 - self.mean) / self.deviation
        x = functional.relu(self.bn1(self.conv1(x)))
        return self.layer3(self.layer2(self.layer1(x))).mean(dim=(2, 3))


def _stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
    first = Block(inputs, outputs, stride)
    return nn.Sequential(first, *(Block(outputs, outputs, 1) for _ in range(blocks - 1)))


def load_extractor(path: Path) -> Extractor:
    """The extractor in a safetensors file: a published ResNet-20, -32, .. for CIFAR, or weights of this project.

    The file's keys show which of the two it is. The features of this project's networks are the inputs of the last
    linear layer. InputError if the file is missing, damaged, or neither.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist; give the extractor's .safetensors file")
    try:
        with safetensors.safe_open(path, framework="pt") as archive:
            ours = FORMAT in (archive.metadata() or {})
            tensors = {} if ours else {name: archive.get_tensor(name) for name in archive.keys()}  # noqa: SIM118
    except (OSError, safetensors.SafetensorError) as error:
        raise InputError(
            f"{path} is not a readable safetensors file ({error}); restore or download it again"
        ) from error
    network, head, shape = _own(path) if ours else _published(tensors, path)
    for module in (network, head):
        module.eval().requires_grad_(requires_grad=False)
    return Extractor(network, head, shape, file_digest(path))


def _own(path: Path) -> tuple[nn.Module, nn.Linear, tuple[int, int, int]]:
    model = load_weights(path)
    return features_of(model), model[-1], read_weights(path)[0].image_shape


def _published(tensors: dict[str, Tensor], path: Path) -> tuple[nn.Module, nn.Linear, tuple[int, int, int]]:
    blocks = sum(name.startswith("layer1.") and name.endswith(".conv1.weight") for name in tensors)
    weight, bias = tensors.pop("linear.weight", None), tensors.pop("linear.bias", None)
    try:
        if weight is None or bias is None or not blocks:
            raise RuntimeError("its keys")
        network, head = CifarResNet(blocks), nn.Linear(64, len(weight))
        network.load_state_dict(tensors, strict=True)
        head.load_state_dict({"weight": weight, "bias": bias}, strict=True)
    except RuntimeError as error:
        raise InputError(
            f"{path} holds neither a ResNet-20 to ResNet-110 for CIFAR (keys conv1.weight .. layer3.*.bn2.bias, "
            "linear.weight) nor weights that this project wrote; choose one of these"
        ) from error
    return network, head, (32, 32, 3)


def require_fits(extractor: Extractor, image_shape: tuple[int, int, int]) -> None:
    """InputError unless the extractor was made for images of this (h, w, c)."""
    if tuple(image_shape) != extractor.image_shape:
        raise InputError(
            f"the images are {_words(image_shape)}, the extractor takes {_words(extractor.image_shape)}; "
            "choose an extractor for images of this size"
        )


def _words(shape: tuple[int, int, int]) -> str:
    h, w, c = shape
    return f"{w}x{h} with {c} channel{'s' if c > 1 else ''}"


@torch.inference_mode()
def features(
    extractor: Extractor,
    images: NDArray[Any] | DiskArray,
    device: torch.device | str = "cpu",
    batch: int = FEATURE_BATCH,
) -> Tensor:
    """Features float32 (n, d), on the CPU, of images (n, h, w, c), in memory or on disk: uint8, or float32 in [0,1]
    units, unclipped.

    The extractor's network must be on `device`. InputError for images whose size is not the extractor's.
    """
    require_fits(extractor, images.shape[1:])
    starts = range(0, len(images), batch)
    parts = [extractor.network(as_tensor(images[start : start + batch], device)).float() for start in starts]
    return torch.cat(parts).cpu() if parts else torch.empty(0, extractor.head.in_features)


class Bfloat16(nn.Module):
    """A network in bfloat16 and channels-last, with each BatchNorm folded into its convolution; float32 outside."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        fused = copy.deepcopy(network).eval()
        for owner in fused.modules():
            for number in ("1", "2"):
                conv, norm = getattr(owner, f"conv{number}", None), getattr(owner, f"bn{number}", None)
                if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                    setattr(owner, f"conv{number}", fuse_conv_bn_eval(conv, norm))
                    setattr(owner, f"bn{number}", nn.Identity())
        self.network = fused.to(torch.bfloat16).to(memory_format=torch.channels_last)

    def forward(self, pixels: Tensor) -> Tensor:
        x = pixels.to(torch.bfloat16).contiguous(memory_format=torch.channels_last)
        return self.network(x).float()


def accelerated(extractor: Extractor) -> Extractor:
    """A published ResNet in bfloat16 if its device multiplies that in hardware; any other extractor unchanged.

    It is three to four times as fast on a CPU. Features differ from the float32 twin's by about 1 % of their size,
    which changes only votes that are nearly tied.
    """
    device = next(extractor.network.parameters(), torch.empty(0)).device
    gains = isinstance(extractor.network, CifarResNet) and has_fast_bfloat16(device)
    return replace(extractor, network=Bfloat16(extractor.network)) if gains else extractor
