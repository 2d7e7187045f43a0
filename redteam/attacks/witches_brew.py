"""Witches' Brew (Geiping et al. 2021): the poisons' training gradient is that which learns the target."""

from dataclasses import dataclass

import torch

from cleanlabel.redteam.attacks.crafting import handed_over, pixels_of
from cleanlabel.redteam.attacks.gradient_matching import Mismatch, adversarial_gradient, hardest, signed_adam, trainable
from cleanlabel.redteam.threat.attacker import Budget, Knowledge, Poisons, Target
from cleanlabel.sanitize.device import has_fast_bfloat16


@dataclass(frozen=True)
class WitchesBrew:
    """Training on the poisons, whatever the order and the start, also lowers the loss of the target as intended.

    Published: 250 steps of signed Adam, rate .1 in units of a pixel's standard deviation (about .25, hence .025 here),
    8 restarts of which the lowest loss is kept, the victim's augmentation (shifts by 4 and flips on CIFAR-10), 1 % of
    the set at epsilon 16/255, on one network or several, random bases. For victims trained from scratch.
    hardest: bases are chosen as Sleeper Agent chooses them, not at random. reduced: bfloat16 where the device has
    instructions for it, which changes the sign of about 1 % of a step's derivatives.
    """

    steps: int = 250
    restarts: int = 8
    rate: float = 0.025
    shift: int = 4
    flip: bool = True
    hardest: bool = False
    reduced: bool = False

    def craft(self, goal: Target, known: Knowledge, budget: Budget, seed: int) -> Poisons:
        """1 - cos(sum_i grad L(x_i, intended), grad L(t, intended)) (eq. 3), minimised; all parameters count."""
        generator = torch.Generator().manual_seed(seed)
        rows = known.chosen_bases(goal.intended, budget.count, generator)
        models = [trainable(net) for net in known.networks]
        if self.hardest and known.bases is None:
            rows = hardest(models, known, goal.intended, budget.count)
        base = pixels_of(known.clean.images[rows], known.device)
        target = pixels_of(goal.image[None], known.device)
        aims = [adversarial_gradient(model, target, goal.intended) for model in models]
        reduced = self.reduced and has_fast_bfloat16(known.device)
        objective = Mismatch(models, aims, goal.intended, known, self.shift, self.flip, generator, reduced=reduced)
        tried = []
        for _ in range(max(1, self.restarts)):
            delta, history = signed_adam(objective, base, budget, self.steps, self.rate, known, generator)
            tried.append(handed_over(delta, rows, known, budget, history, objective))
        return min(tried, key=lambda poisons: poisons.history[-1])
