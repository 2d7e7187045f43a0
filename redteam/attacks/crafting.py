"""What the attacks share: pixels as tensors, what networks make of them, and the step of each optimiser."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cleanlabel.models.extractors import Extractor
from cleanlabel.redteam.threat.attacker import Backdoor, Budget, Knowledge, Poisons
from cleanlabel.sanitize.device import is_accelerator, sent
from cleanlabel.sanitize.errors import InputError

READ_EVERY = 50
"""Steps after which objectives are read from an accelerator."""


def pixels_of(images: NDArray[np.uint8], device: torch.device | str = "cpu") -> Tensor:
    """float32 (n, c, h, w) in [0, 1] from uint8 (n, h, w, c)."""
    return sent(torch.from_numpy(np.ascontiguousarray(images)), device).permute(0, 3, 1, 2).float() / 255


def marked_sources(goal: Backdoor, seed: int, device: torch.device | str = "cpu") -> Tensor:
    """The backdoor's own images with the trigger on, float32 (n, c, h, w) in [0, 1]. InputError if it has none."""
    if not len(goal.images):
        raise InputError("the backdoor comes without an image to put its trigger on; give one or more")
    return goal.trigger.tensor(goal.images, seed).to(device)


def features(network: Extractor, pixels: Tensor) -> Tensor:
    """Penultimate features (n, d) of pixels (n, c, h, w) in [0, 1], with gradients."""
    return network.network(2 * pixels - 1)


def logits(network: Extractor, pixels: Tensor) -> Tensor:
    """Logits (n, K) of pixels (n, c, h, w) in [0, 1], with gradients."""
    return network.head(features(network, pixels))


def seen_features(network: Extractor, known: Knowledge, pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Features (k, n, d) of pixels as training will see them: one for each of the view's k noises."""
    views = known.view(pixels, generator)
    return features(network, views.flatten(0, 1)).unflatten(0, views.shape[:2])


class History:
    """The objective before every step. It is read from an accelerator many at a time: each reading waits for it."""

    def __init__(self, tick: Callable[[float], None]) -> None:
        self._tick = tick
        self._read: list[float] = []
        self._unread: list[Tensor] = []

    def add(self, value: Tensor) -> None:
        """Add a step's objective, a scalar."""
        self._unread.append(value.detach())
        if len(self._unread) == READ_EVERY or not is_accelerator(value.device):
            self.read()

    def read(self) -> list[float]:
        """All values so far. `tick` is called with each that is new."""
        for value in torch.stack(self._unread).cpu().tolist() if self._unread else []:
            self._read.append(value)
            self._tick(value)
        self._unread.clear()
        return self._read


def adam_on_pixels(
    objective: Callable[[Tensor], Tensor],
    base: Tensor,
    budget: Budget,
    steps: int,
    rate: float,
    tick: Callable[[float], None],
    *,
    start: Tensor | None = None,
    decay_at: tuple[int, ...] = (),
    signed: bool = False,
) -> tuple[Tensor, list[float]]:
    """Adam on the perturbation, projected after every step; `signed`: on the gradient's sign (Geiping et al. 2021).

    objective: perturbed pixels (n, c, h, w) -> a scalar. rate in [0,1] pixel units a step, a tenth of it from each of
    `decay_at` on. Returns the perturbation and the objective before every step.
    """
    delta = (torch.zeros_like(base) if start is None else budget.project(start, base)).requires_grad_()
    optimiser = torch.optim.Adam([delta], lr=rate)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimiser, sorted(decay_at))
    history = History(tick)
    for _ in range(steps):
        value = objective(base + delta)
        (gradient,) = torch.autograd.grad(value, delta)
        delta.grad = gradient.sign() if signed else gradient
        optimiser.step()
        schedule.step()
        with torch.no_grad():
            delta.copy_(budget.project(delta, base))
        history.add(value)
    return delta.detach(), history.read()


def handed_over(
    delta: Tensor,
    rows: NDArray[np.int64],
    known: Knowledge,
    budget: Budget,
    history: list[float],
    objective: Callable[[Tensor], Tensor],
) -> Poisons:
    """The poisons as whole pixel values; their history ends with the objective after rounding."""
    base = known.clean.images[rows]
    images = budget.rounded(base, delta)
    with torch.no_grad():
        left = float(objective(pixels_of(images, known.device)))
    return Poisons(images, rows, base, (*history, left))
