"""What Witches' Brew and Sleeper Agent share: poisons whose training gradient points where the attacker wants to go."""

import copy
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional

from cleanlabel.models.extractors import Extractor
from cleanlabel.redteam.attacks.crafting import adam_on_pixels, pixels_of
from cleanlabel.redteam.threat.attacker import Budget, Knowledge
from cleanlabel.redteam.threat.views import MovedAtRandom
from cleanlabel.sanitize.device import sent

DECAYS = (2.667, 1.6, 1.142)
"""The rate falls to a tenth at steps / each of these (Geiping et al. 2021)."""
BATCH = 256
HELD = 2**26
"""How many numbers of per-image gradients are in memory at once: 256 MiB."""


class KnownStatistics(nn.Module):
    """A BatchNorm in evaluation mode, from its own parameters by products and sums.

    Torch differentiates these twice in less time than its own kernel; the answers are equal up to rounding.
    """

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self.weight, self.bias = norm.weight, norm.bias
        deviation = (norm.running_var + norm.eps).sqrt()
        self.register_buffer("mean", norm.running_mean)
        self.register_buffer("deviation", deviation)

    def forward(self, x: Tensor) -> Tensor:
        scale = self.weight / self.deviation
        return x * scale[:, None, None] + (self.bias - self.mean * scale)[:, None, None]


def trainable(network: Extractor) -> nn.Sequential:
    """A copy of the network with its head, in evaluation mode, whose every parameter takes a gradient."""
    model = nn.Sequential(copy.deepcopy(network.network), copy.deepcopy(network.head)).eval()
    for owner in list(model.modules()):
        for name, norm in owner.named_children():
            if isinstance(norm, nn.BatchNorm2d) and norm.affine and norm.track_running_stats:
                setattr(owner, name, KnownStatistics(norm))
    return model.requires_grad_()


def loss_gradient(model: nn.Module, pixels: Tensor, label: int, *, graph: bool = False) -> Tensor:
    """Gradient (p,) of the summed cross-entropy over all parameters; pixels (n, c, h, w) in [0, 1], all of one label.

    With `graph` it is itself differentiable with respect to the pixels.
    """
    labels = torch.full((len(pixels),), label, device=pixels.device)
    loss = functional.cross_entropy(model(2 * pixels - 1), labels, reduction="sum")
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()), create_graph=graph)])


def adversarial_gradient(model: nn.Module, pixels: Tensor, intended: int) -> Tensor:
    """The direction (p,), of norm 1, in which training on `pixels` with the intended label would move the network."""
    total = sum(loss_gradient(model, batch, intended) for batch in pixels.split(BATCH))
    return functional.normalize(total, dim=0)


def hardest(models: Sequence[nn.Module], known: Knowledge, label: int, count: int) -> NDArray[np.int64]:
    """Rows of the `count` images of a class whose own gradients are largest, summed over models (Souri et al. 2022).

    Training takes longest on them, so their gradients count longest.
    """
    own = np.flatnonzero(known.clean.labels == label)
    pixels = pixels_of(known.clean.images[own], known.device)
    norms = torch.stack([gradient_norms(model, pixels, label) for model in models]).sum(dim=0)
    return np.sort(own[norms.argsort(descending=True, stable=True)[:count].cpu().numpy()])


def gradient_norms(model: nn.Module, pixels: Tensor, label: int) -> Tensor:
    """Norm (n,) of each image's own loss gradient over all parameters, many images at once; pixels in [0, 1]."""
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    chunk = max(1, HELD // sum(p.numel() for p in parameters.values()))

    def loss(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        answer = functional_call(model, parameters, (2 * x[None] - 1,))
        return functional.cross_entropy(answer, torch.full((1,), label, device=x.device))

    def norm(x: Tensor) -> Tensor:
        gradients = grad(loss)(parameters, x)
        return torch.stack([(g**2).sum() for g in gradients.values()]).sum().sqrt()

    return vmap(norm, chunk_size=min(chunk, BATCH))(pixels)


class Mismatch:
    """1 - cosine between the poisons' summed gradient and the adversarial one, the mean over networks and noises.

    Each of the view's k noises is matched by itself: a victim trains on one sanitized copy, in which every poison has
    one noise. So the attack lowers the expected loss over copies, not the loss of the mean gradient, which no victim
    follows. `models` and `aims` may be replaced between steps (Sleeper Agent trains again).
    shift, flip: the victim's augmentation, drawn again at every step; it comes after the view, as in training.
    reduced: compute in bfloat16, which changes the sign of about 1 % of a step's derivatives.
    """

    def __init__(
        self,
        models: Sequence[nn.Module],
        aims: Sequence[Tensor],
        intended: int,
        known: Knowledge,
        shift: int,
        flip: bool,  # noqa: FBT001 (a setting's own value)
        generator: torch.Generator,
        *,
        reduced: bool = False,
    ) -> None:
        self.models, self.aims, self.intended, self.known = models, aims, intended, known
        self.augmentation, self.generator, self.reduced = MovedAtRandom(shift, flip), generator, reduced

    def __call__(self, pixels: Tensor) -> Tensor:
        losses = []
        for chance in self.known.view(pixels, self.generator):
            (moved,) = self.augmentation(chance, self.generator)
            for model, aim in zip(self.models, self.aims, strict=True):
                # also where only the value is needed: it is computed from a gradient
                with torch.enable_grad(), torch.autocast(pixels.device.type, torch.bfloat16, enabled=self.reduced):
                    gradient = loss_gradient(model, moved, self.intended, graph=pixels.requires_grad)
                losses.append(1 - functional.cosine_similarity(gradient, aim, dim=0, eps=1e-12))
        return torch.stack(losses).mean()


def signed_adam(
    objective: Callable[[Tensor], Tensor],
    base: Tensor,
    budget: Budget,
    steps: int,
    rate: float,
    known: Knowledge,
    generator: torch.Generator,
) -> tuple[Tensor, list[float]]:
    """Adam on the gradient's sign from a normal start, as published; the perturbation and the objective per step."""
    start = budget.epsilon * sent(torch.randn(base.shape, generator=generator), base.device)
    decay_at = tuple(int(steps / by) for by in DECAYS)
    return adam_on_pixels(objective, base, budget, steps, rate, known.tick, start=start, decay_at=decay_at, signed=True)
