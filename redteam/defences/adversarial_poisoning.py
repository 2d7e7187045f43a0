"""Adversarial training against poisoning (Geiping et al. 2021): half of every batch poisons it against the rest."""

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

RATE = 0.05
"""Of signed Adam, in [-1, 1] units; published: .1 in units of a pixel's standard deviation, about .25 of [0, 1]."""


@dataclass(frozen=True)
class AdversarialPoisoning:
    """Trains on poisons that match gradients, crafted anew in every batch, and on their targets, rightly labelled.

    Published ("adversarial-wb-recombine, sep-half"): the second half of a batch is moved within strength 16/255 by 5
    steps of signed Adam from a normal start, so that its gradient is that which takes the first half for the second
    half's most frequent class. It matches the gradients of a whole network in training, so it is not available on a
    frozen extractor, where poisons collide features and only a head is trained.
    """

    strength_255: float = 16.0
    steps: int = 5

    def require(self, raw: ImageSet, victim: Victim, context: Context) -> None:
        """InputError on a frozen extractor, for steps below 1, or for a recipe whose training has no hooks."""
        if victim.scenario == "transfer":
            raise InputError(
                "adversarial-poisoning matches the gradients of a network in training, and the scenario transfer has "
                "none; choose adversarial-training, or the scenario fine-tune or scratch"
            )
        require_255("strength_255", self.strength_255)
        if self.steps < 1:
            raise InputError(f"steps={self.steps} crafts nothing; give 1 or more (published: 5)")
        require_loop(victim)

    def fit(self, raw: ImageSet, victim: Victim, context: Context, seed: int) -> Defended:
        """See `Defence.fit`."""
        self.require(raw, victim, context)
        started = time.perf_counter()
        generator = torch.Generator().manual_seed(seed)
        student = trainee(raw, victim, seed)
        strength = require_255("strength_255", self.strength_255)

        def attacked(batch: Tensor, targets: Tensor) -> Tensor:
            half = len(batch) // 2
            if not half:
                return batch
            with evaluating(student.model):
                poisons = matching(
                    student.model, batch[half:], targets[half:], batch[:half], strength, self.steps, generator
                )
            return torch.cat([batch[:half], poisons])

        fitted(student, generator, attacked=attacked)
        answers = answers_of(student.finished(raw.image_shape), victim, context)
        return Defended(answers, time.perf_counter() - started)


def matching(
    model: nn.Module,
    base: Tensor,
    labels: Tensor,
    victims: Tensor,
    strength: float,
    steps: int,
    generator: torch.Generator,
) -> Tensor:
    """`base` in [-1, 1], moved by at most `strength`, so that training on it turns `victims` to its commonest class."""
    parameters = [p for p in model.parameters() if p.requires_grad]

    def gradient(pixels: Tensor, wanted: Tensor, *, graph: bool) -> Tensor:
        loss = functional.cross_entropy(model(pixels), wanted)
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters, create_graph=graph)])

    fake = labels.mode().values.expand(len(victims))
    aim = gradient(victims, fake, graph=False)
    delta = strength * sent(torch.randn(base.shape, generator=generator), base.device)
    delta = _bounded(delta, base, strength).requires_grad_()
    optimiser = torch.optim.Adam([delta], lr=RATE)
    for _ in range(steps):
        mismatch = 1 - functional.cosine_similarity(gradient(base + delta, labels, graph=True), aim, dim=0, eps=1e-12)
        (slope,) = torch.autograd.grad(mismatch, delta)
        delta.grad = slope.sign()
        optimiser.step()
        with torch.no_grad():
            delta.copy_(_bounded(delta, base, strength))
    return (base + delta).detach()


def _bounded(delta: Tensor, base: Tensor, strength: float) -> Tensor:
    return (base + delta.clamp(-strength, strength)).clamp(-1, 1) - base
