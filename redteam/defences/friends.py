"""FrieNDs (Liu et al. 2022): per image the largest noise that keeps the network's answer, and random noise."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from cleanlabel.redteam.defences.interface import Context, Defended, answers_of
from cleanlabel.redteam.defences.loop import evaluating, fitted, require_255, require_loop, trainee
from cleanlabel.redteam.threat.victims import Victim
from cleanlabel.sanitize.device import sent
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.imageset import ImageSet

START_255 = 8.0
BATCH = 128


@dataclass(frozen=True)
class Friends:
    """From epoch `begin` on every image carries friendly noise of its own, and from the first on Bernoulli noise.

    Published: friendly noise by 30 steps of SGD at rate 100 (Nesterov momentum .9) on the mean KL divergence from the
    clean answers minus mu = 1 times the mean square of the noise, start uniform in 8/255, clamped to 16/255; begin at
    epoch 5; Bernoulli noise of 8/255. Two defects of the authors' code are kept, since its figures come from it: the
    rate stays at 100 though a schedule is made for it, and training images leave [0, 1], since the clamp stands after
    the return. Not kept: SGD at .1 with drops, for which the victim's own recipe stands, as with every defence here.
    """

    steps: int = 30
    rate: float = 100.0
    mu: float = 1.0
    clamp_255: float = 16.0
    begin: int = 5
    bernoulli_255: float = 8.0

    def require(self, raw: ImageSet, victim: Victim, context: Context) -> None:
        """InputError for a recipe that ends before the noise begins, or whose training has no hooks."""
        for name in ("clamp_255", "bernoulli_255"):
            require_255(name, getattr(self, name))
        if not 0 <= self.begin < victim.recipe.epochs:
            raise InputError(
                f"begin={self.begin} lies outside the recipe's {victim.recipe.epochs} epochs: there would be no "
                "friendly noise; begin earlier or train longer"
            )
        require_loop(victim)

    def fit(self, raw: ImageSet, victim: Victim, context: Context, seed: int) -> Defended:
        """See `Defence.fit`."""
        self.require(raw, victim, context)
        started = time.perf_counter()
        generator = torch.Generator().manual_seed(seed)
        student = trainee(raw, victim, seed)
        random_noise = require_255("bernoulli_255", self.bernoulli_255)
        noise = torch.zeros_like(student.inputs)

        def at_epoch(epoch: int) -> None:
            if epoch == self.begin:
                with evaluating(student.model):
                    for rows in torch.arange(len(noise), device=noise.device).split(BATCH):
                        noise[rows] = self.friendly(student.model, student.inputs[rows], generator)

        def seen(batch: Tensor, rows: Tensor) -> Tensor:
            coins = sent(torch.randint(2, batch.shape, generator=generator).to(batch.dtype), batch.device)
            return batch + noise[rows] + random_noise * (2 * coins - 1)

        fitted(student, generator, at_epoch=at_epoch, seen=seen)
        answers = answers_of(student.finished(raw.image_shape), victim, context)
        facts = {"friendly noise, mean of |.| in 255ths": float(noise.abs().mean() * 255 / 2)}
        return Defended(answers, time.perf_counter() - started, facts=facts)

    def friendly(self, model: Callable[[Tensor], Tensor], batch: Tensor, generator: torch.Generator) -> Tensor:
        """Noise (n, c, h, w) for images in [-1, 1], within the clamp, in the same units; the model stays as it is."""
        clean = batch / 2 + 0.5  # the published rate and mu are for [0, 1]
        clamp = self.clamp_255 / 255
        start = START_255 / 255 * (2 * sent(torch.rand(batch.shape, generator=generator), batch.device) - 1)
        with torch.no_grad():
            wanted = functional.log_softmax(model(batch), dim=1)
        noise = start.requires_grad_()
        optimiser = torch.optim.SGD([noise], lr=self.rate, momentum=0.9, nesterov=True)
        for _ in range(self.steps):
            held = noise.clamp(-clamp, clamp)
            found = functional.log_softmax(model(2 * (clean + held).clamp(0, 1) - 1), dim=1)
            loss = functional.kl_div(found, wanted, reduction="batchmean", log_target=True)
            (noise.grad,) = torch.autograd.grad(loss - self.mu * (held**2).mean(), noise)
            optimiser.step()
        return 2 * noise.detach().clamp(-clamp, clamp)
