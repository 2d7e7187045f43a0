"""Adversarial training (Madry et al. 2018): trains on every batch after an attack on it that raises the loss."""

import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from cleanlabel.redteam.defences.interface import Context, Defended, answers_of
from cleanlabel.redteam.defences.loop import evaluating, fitted, require_255, require_loop, trainee
from cleanlabel.redteam.threat.victims import Victim
from cleanlabel.sanitize.device import sent
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.imageset import ImageSet


@dataclass(frozen=True)
class AdversarialTraining:
    """PGD from a random start within epsilon; 7 steps, of a quarter of epsilon each, as published (2 for 8/255).

    epsilon_255: the 4/255 of the paper's section 4.3. The images are moved after augmentation, by the network in
    evaluation mode. On a frozen extractor the head learns from images that are moved through both.
    """

    epsilon_255: float = 4.0
    steps: int = 7

    def require(self, raw: ImageSet, victim: Victim, context: Context) -> None:
        """InputError for steps below 1, or for a recipe whose training has no hooks."""
        require_255("epsilon_255", self.epsilon_255)
        if self.steps < 1:
            raise InputError(f"steps={self.steps} changes nothing; give 1 or more (published: 7)")
        require_loop(victim)

    def fit(self, raw: ImageSet, victim: Victim, context: Context, seed: int) -> Defended:
        """See `Defence.fit`."""
        self.require(raw, victim, context)
        started = time.perf_counter()
        generator = torch.Generator().manual_seed(seed)
        student = trainee(raw, victim, seed)
        epsilon = require_255("epsilon_255", self.epsilon_255)

        def attacked(batch: Tensor, targets: Tensor) -> Tensor:
            with evaluating(student.model):
                return worst(student.model, batch, targets, epsilon, self.steps, generator)

        fitted(student, generator, attacked=attacked)
        answers = answers_of(student.finished(raw.image_shape), victim, context)
        return Defended(answers, time.perf_counter() - started)


def worst(
    model: nn.Module, batch: Tensor, targets: Tensor, epsilon: float, steps: int, generator: torch.Generator
) -> Tensor:
    """The batch (n, c, h, w) in [-1, 1], each pixel moved by at most epsilon in these units, by signed ascent."""
    delta = epsilon * (2 * sent(torch.rand(batch.shape, generator=generator), batch.device) - 1)
    for _ in range(steps):
        moved = (batch + delta).clamp(-1, 1).requires_grad_()
        (gradient,) = torch.autograd.grad(functional.cross_entropy(model(moved), targets), moved)
        delta = (moved.detach() + epsilon / 4 * gradient.sign() - batch).clamp(-epsilon, epsilon)
    return (batch + delta).clamp(-1, 1)
