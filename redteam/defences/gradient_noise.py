"""Gradient noise: the poisoning literature calls it differential privacy, but it gives no privacy guarantee."""

import time
from dataclasses import dataclass

import torch
from torch import nn

from cleanlabel.redteam.defences.interface import Context, Defended, answers_of
from cleanlabel.redteam.defences.loop import fitted, on_features, require_loop, trainee
from cleanlabel.redteam.threat.victims import Victim
from cleanlabel.sanitize.device import sent
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.imageset import ImageSet


@dataclass(frozen=True)
class GradientNoise:
    """Every batch's gradient is clipped to norm `clip`, and Gaussian noise of `clip` times `noise` is added.

    Hong et al. 2020's gradient shaping as Geiping et al. 2021 run it (clip 1, noise .01): by batches, not by images, so
    there is no epsilon to report.
    """

    clip: float = 1.0
    noise: float = 0.01

    def require(self, raw: ImageSet, victim: Victim, context: Context) -> None:
        """InputError for a clip or noise out of range, or for a recipe whose training has no hooks."""
        if not (self.clip > 0 and self.noise >= 0):
            raise InputError(
                f"clip={self.clip:g} and noise={self.noise:g} are out of range; give a clip above 0, a noise from 0"
            )
        require_loop(victim)

    def fit(self, raw: ImageSet, victim: Victim, context: Context, seed: int) -> Defended:
        """See `Defence.fit`."""
        self.require(raw, victim, context)
        started = time.perf_counter()
        generator = torch.Generator().manual_seed(seed)
        student = trainee(raw, victim, seed)

        def shaped(parameters: list[nn.Parameter]) -> None:
            nn.utils.clip_grad_norm_(parameters, self.clip)
            for p in parameters:
                if p.grad is not None:
                    p.grad += self.clip * self.noise * sent(torch.randn(p.shape, generator=generator), p.device)

        fitted(on_features(student, raw, victim), generator, at_gradient=shaped)
        answers = answers_of(student.finished(raw.image_shape), victim, context)
        return Defended(answers, time.perf_counter() - started)
