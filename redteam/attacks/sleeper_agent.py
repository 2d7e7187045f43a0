"""Sleeper Agent (Souri et al. 2022): gradient matching for a backdoor, on poisons that do not carry the trigger."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cleanlabel.redteam.attacks.crafting import handed_over, marked_sources, pixels_of
from cleanlabel.redteam.attacks.gradient_matching import Mismatch, adversarial_gradient, hardest, signed_adam, trainable
from cleanlabel.redteam.threat.attacker import Backdoor, Budget, Knowledge, Poisons


@dataclass(frozen=True)
class SleeperAgent:
    """Training on the poisons also teaches that images with the trigger, which no poison carries, are as intended.

    Published: as Witches' Brew with one restart; bases are the intended class's images of the largest gradient norm;
    the networks are trained again on what is poisoned so far 4 times, every steps / 5 steps, where training is known.
    """

    steps: int = 250
    retrains: int = 4
    restarts: int = 1
    rate: float = 0.025
    shift: int = 4
    flip: bool = True

    def craft(self, goal: Backdoor, known: Knowledge, budget: Budget, seed: int) -> Poisons:
        """1 - cos(sum_i grad L(x_i, intended), grad sum_j L(s_j with trigger, intended)), minimised."""
        generator = torch.Generator().manual_seed(seed)
        rows = known.chosen_bases(goal.intended, budget.count, generator)
        models = [trainable(net) for net in known.networks]
        if known.bases is None:
            rows = hardest(models, known, goal.intended, budget.count)
        base = pixels_of(known.clean.images[rows], known.device)
        marked = marked_sources(goal, seed, known.device)
        tried = []
        for restart in range(max(1, self.restarts)):
            objective = _Retrained(self, goal.intended, known, budget, rows, models, marked, generator, seed + restart)
            delta, history = signed_adam(objective, base, budget, self.steps, self.rate, known, generator)
            tried.append(handed_over(delta, rows, known, budget, history, objective))
        return min(tried, key=lambda poisons: poisons.history[-1])


class _Retrained(Mismatch):
    """The mismatch on networks that are retrained on the current poisons at regular steps."""

    def __init__(
        self,
        settings: SleeperAgent,
        intended: int,
        known: Knowledge,
        budget: Budget,
        rows: NDArray[np.int64],
        models: list[nn.Sequential],
        marked: Tensor,
        generator: torch.Generator,
        seed: int,
    ) -> None:
        aims = [adversarial_gradient(model, marked, intended) for model in models]
        super().__init__(models, aims, intended, known, settings.shift, settings.flip, generator)
        self.budget, self.rows, self.marked, self.seed = budget, rows, marked, seed
        every, times = settings.steps // (settings.retrains + 1), settings.retrains if known.train is not None else 0
        self.train_at = {every * (i + 1) for i in range(times)} - {0}
        self.step = 0

    def __call__(self, pixels: Tensor) -> Tensor:
        if self.step in self.train_at:
            self._train_again(pixels)
        self.step += 1
        return super().__call__(pixels)

    def _train_again(self, pixels: Tensor) -> None:
        clean, train = self.known.clean, self.known.train
        assert train is not None  # train_at is empty otherwise
        base = clean.images[self.rows]
        images = self.budget.rounded(base, pixels.detach() - pixels_of(base, pixels.device))
        poisoned = Poisons(images, self.rows, base, ()).injected(clean)
        seeds = [self.seed + self.step * len(self.models) + i for i in range(len(self.models))]
        self.models = [trainable(train(poisoned.images, poisoned.labels, s)).to(pixels.device) for s in seeds]
        self.aims = [adversarial_gradient(model, self.marked, self.intended) for model in self.models]
