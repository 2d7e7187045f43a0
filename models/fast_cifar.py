"""A small network and the recipe that trains it on 32x32 photographs in seconds.

After K. Jordan, "94% on CIFAR-10 in 3.29 seconds on a single GPU", arXiv 2404.00498 (2024). Its published values are
constants here, except those that are settings of the recipe: width 64, 9.9 epochs of batches of 1,024, learning_rate
11.5, weight_decay 0.0153, label_smoothing 0.2, shift 2, flip.

Differences: the whitening centres its patches, as pixels are in [-1, 1] and no set's mean is subtracted; prediction
averages the plain and the mirrored image but no shifted ones; the logits' scale is applied before the last layer.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from cleanlabel.sanitize.arrays import DiskArray
from cleanlabel.sanitize.device import sent, trains_in_bfloat16

if TYPE_CHECKING:  # only this import needs pydantic
    from cleanlabel.models.params import TrainParams


LEAST_SIDE = 9
"""The smallest side in pixels: the whitening and three halvings of its output reduce it to one pixel."""
LOGIT_SCALE = 1 / 9
BATCH_NORM_MOMENTUM = 0.4
WHITENING_FLOOR = 5e-4
"""The value added to the eigenvalues, as a share of a patch pixel's variance."""
WHITENING_IMAGES = 2000
MOMENTUM = 0.85
UNIT = 1024 * (1 + 1 / (1 - MOMENTUM))
"""The number of examples whose summed gradients make one step of the learning rate, as in Nesterov momentum."""
NORM_BIAS_RATE = 64
"""The learning rate of the norm layers' biases, as a multiple of that of the other weights."""
RATE_START, RATE_PEAK_AT, RATE_END = 0.2, 0.23, 0.07
WHITENING_BIAS_SHARE = 0.3
"""The share of the epochs in which the whitening's biases are trained."""
LOOKAHEAD_EVERY, LOOKAHEAD_DECAY, LOOKAHEAD_POWER = 5, 0.95**5, 3


class Whitening(nn.Module):
    """A 2x2 convolution to 8c channels that are uncorrelated and have equal variance on the images it has measured.

    Its filters, c*4 directions and their negatives, are part of the weights and are not trained. Its biases are.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        directions = nn.init.orthogonal_(torch.empty(4 * channels, 4 * channels)).view(-1, channels, 2, 2)
        self.register_buffer("filters", torch.cat([directions, -directions]))
        self.register_buffer("measured", torch.tensor(False))  # noqa: FBT003 (torch has no keyword for it)
        self.bias = nn.Parameter(torch.zeros(8 * channels))

    @torch.no_grad()
    def measure(self, pixels: Tensor) -> None:
        """Set the filters and the centring biases from the 2x2 patches of these pixels (n, c, h, w)."""
        patches = functional.unfold(pixels, 2).transpose(0, 1).flatten(1)
        variances, directions = torch.linalg.eigh(torch.cov(patches).double().cpu())
        variances = variances.clamp(min=0) + WHITENING_FLOOR * variances.mean().clamp(min=1e-6)
        rows = (directions / variances.sqrt()).T.to(patches)
        centre = rows @ patches.mean(dim=1)
        self.filters.copy_(torch.cat([rows, -rows]).view_as(self.filters))
        self.bias.copy_(torch.cat([-centre, centre]))
        self.measured.fill_(True)  # noqa: FBT003

    def forward(self, pixels: Tensor) -> Tensor:
        return functional.conv2d(pixels, self.filters, self.bias)


class Trunk(nn.Sequential):
    """Layers whose output, in evaluation mode and if `mirrors` is set, is the mean over an image and its mirror image.

    A linear head turns this into the mean of the two logits.
    """

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__(*layers)
        self.register_buffer("mirrors", torch.tensor(False))  # noqa: FBT003

    def forward(self, pixels: Tensor) -> Tensor:
        features = super().forward(pixels)
        if self.training or not self.mirrors:
            return features
        return (features + super().forward(pixels.flip(3))) / 2


class Peak(nn.Module):
    """The largest value of each channel, scaled: (n, c, h, w) to (n, c)."""

    def forward(self, maps: Tensor) -> Tensor:
        # amax: the gradient of torch's adaptive max-pooling is not reproducible on a GPU
        return maps.amax(dim=(2, 3)) * LOGIT_SCALE


def network(channels: int, classes: int, width: int) -> tuple[nn.Module, nn.Module]:
    """The trunk, with blocks of width, 4 width and 4 width channels, and its linear head."""
    blocks = (_block(8 * channels, width), _block(width, 4 * width), _block(4 * width, 4 * width))
    return Trunk(Whitening(channels), nn.GELU(), *blocks, Peak()), nn.Linear(4 * width, classes, bias=False)


def _block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        _convolution(inputs, outputs),
        nn.MaxPool2d(2),
        _norm(outputs),
        nn.GELU(),
        _convolution(outputs, outputs),
        _norm(outputs),
        nn.GELU(),
    )


def _convolution(inputs: int, outputs: int) -> nn.Conv2d:
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    with torch.no_grad():
        nn.init.dirac_(convolution.weight[:inputs])  # starts as the identity on its first channels
    return convolution


def _norm(channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels, momentum=BATCH_NORM_MOMENTUM)
    norm.weight.requires_grad_(False)  # noqa: FBT003
    return norm


def train_fast_cifar(
    model: nn.Sequential,
    images: NDArray[Any] | DiskArray,
    labels: Tensor | NDArray[np.int64],
    recipe: "TrainParams",
    seed: int,
    device: torch.device | str = "cpu",
) -> None:
    """Train a `fast-cifar` in place. All randomness follows from `seed`, and `images` are the only data.

    images (n, h, w, c), a sanitized copy in memory or on disk: uint8, or float32 in [0,1] units that may exceed them;
    labels (n,).
    `learning_rate` and `weight_decay` are per 1,024 examples and independent of each other and of the momentum: with
    half the batch size a step does half as much. Images that do not fill the epoch's last batch are left out of that
    epoch. The whitening is measured in the first training and kept afterwards, since later weights depend on it.
    Parameters that require no gradient stay unchanged. The model is left on `device` in training mode.
    """
    device = torch.device(device)
    (n, h, w, _), batch = images.shape, min(recipe.batch, len(images))
    kept = images if isinstance(images, DiskArray) else sent(torch.from_numpy(np.ascontiguousarray(images)), device)
    targets = sent(torch.as_tensor(labels), device)
    reduced = trains_in_bfloat16(device)
    layout = torch.channels_last if reduced else torch.contiguous_format
    model.to(device, memory_format=layout).train()
    trunk = model[-2]
    trunk.mirrors.fill_(recipe.flip)
    if not trunk[0].measured:
        few = torch.arange(0, n, -(-n // WHITENING_IMAGES))
        source, at = _holding(kept, few, sent(few, device))
        trunk[0].measure(model[:-2](scaled(source[at])))

    steps = recipe.epochs * (n // batch)
    optimiser, fast, step = _optimiser(model, recipe, batch), _state(model), 0
    slow = [tensor.clone() for tensor in fast]
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda done: triangle(done, steps))
    trains_bias = trunk[0].bias.requires_grad
    for epoch, drawn in enumerate(visits(n, recipe, seed)):
        trunk[0].bias.requires_grad_(trains_bias and epoch < WHITENING_BIAS_SHARE * recipe.epochs)
        order, *moves = sent(drawn, device)
        for first in range(0, n - batch + 1, batch):
            part = slice(first, first + batch)
            chosen = order[part]
            rows, columns = places([move[chosen] for move in moves], h, w)
            source, at = _holding(kept, drawn[0, part], chosen)
            # one gather shifts and mirrors; its result is already channels-last
            pixels = scaled(source[at[:, None, None], rows[:, :, None], columns[:, None, :]])
            with torch.autocast(device.type, torch.bfloat16, enabled=reduced):
                logits = model(pixels)
            loss = functional.cross_entropy(
                logits.float(), targets[chosen], label_smoothing=recipe.label_smoothing, reduction="sum"
            )
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            step += 1
            if step % LOOKAHEAD_EVERY == 0 or step == steps:
                _look_ahead(slow, fast, LOOKAHEAD_DECAY * (step / steps) ** LOOKAHEAD_POWER)
    trunk[0].bias.requires_grad_(trains_bias)


def scaled(images: Tensor) -> Tensor:
    """float32 (n, c, h, w) in [-1, 1] from uint8 (n, h, w, c), or from float32 ones in [0,1] units."""
    pixels = images.permute(0, 3, 1, 2).float()
    return pixels / 127.5 - 1 if images.dtype == torch.uint8 else 2 * pixels - 1


def _holding(kept: Tensor | DiskArray, rows: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """A tensor that holds the images `chosen`, and their places in it. Those on disk, `rows` on the host, are read."""
    if isinstance(kept, Tensor):
        return kept, chosen
    return sent(torch.from_numpy(kept[rows.numpy()]), chosen.device), torch.arange(len(rows), device=chosen.device)


def visits(n: int, recipe: "TrainParams", seed: int) -> Iterator[Tensor]:
    """For each epoch, int64 (4, n): the order of the images, and each image's move down and right and whether mirrored.

    Each image moves by up to `shift` pixels in each direction. With `flip`, the first epoch mirrors each image with
    probability 1/2. Each later epoch mirrors those that the one before did not, so that two epochs show both.
    """
    generator = torch.Generator().manual_seed(seed)
    coins = torch.randint(2, (n, 1), generator=generator).bool()
    for epoch in range(recipe.epochs):
        order = torch.randperm(n, generator=generator)
        moves = torch.randint(-recipe.shift, recipe.shift + 1, (2, n, 1), generator=generator)[..., 0]
        mirrored = recipe.flip & (coins[:, 0] ^ bool(epoch % 2))
        yield torch.stack([order, *moves, mirrored])


def places(moves: Sequence[Tensor], h: int, w: int) -> tuple[Tensor, Tensor]:
    """The source rows (k, h) and columns (k, w) of the pixels of images that move (down, right, mirrored), each (k,).

    An image is reflected at its edge.
    """
    down, right, mirrored = (move[:, None] for move in moves)
    rows = _reflected(torch.arange(h, device=down.device) + down, h)
    columns = _reflected(torch.arange(w, device=down.device) + right, w)
    return rows, torch.where(mirrored.bool(), columns.flip(1), columns)


def _reflected(index: Tensor, side: int) -> Tensor:
    return (side - 1) - ((side - 1) - index.abs()).abs()


def triangle(step: int, steps: int) -> float:
    """The share of the learning rate at a step: it rises linearly to 1, then falls linearly."""
    peak = max(1, int(RATE_PEAK_AT * steps))
    if step < peak:
        return RATE_START + (1 - RATE_START) * step / peak
    return 1 - (1 - RATE_END) * (step - peak) / max(1, steps - peak)


def _optimiser(model: nn.Module, recipe: "TrainParams", batch: int) -> torch.optim.Optimizer:
    rate, decay = recipe.learning_rate / UNIT, recipe.weight_decay * batch / UNIT
    norms = {id(m.bias) for m in model.modules() if isinstance(m, nn.BatchNorm2d)}
    groups = []
    for is_norm, lr in ((True, NORM_BIAS_RATE * rate), (False, rate)):
        members = [p for p in model.parameters() if p.requires_grad and (id(p) in norms) is is_norm]
        groups.append({"params": members, "lr": lr, "weight_decay": decay / lr})
    return torch.optim.SGD([g for g in groups if g["params"]], momentum=MOMENTUM, nesterov=True, foreach=True)


def _state(model: nn.Module) -> list[Tensor]:
    """The tensors that averaging acts on: weights, biases and the norm layers' statistics."""
    return [tensor for tensor in model.state_dict().values() if tensor.is_floating_point()]


def _look_ahead(slow: list[Tensor], fast: list[Tensor], decay: float) -> None:
    """Move the average towards the weights, and the weights onto it (Zhang et al. 2019, "Lookahead")."""
    torch._foreach_lerp_(slow, fast, 1 - decay)
    torch._foreach_copy_(fast, slow)
