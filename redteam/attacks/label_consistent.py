"""Label-consistent backdoor (Turner et al. 2019): hard images of their class, with the trigger put on."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from cleanlabel.redteam.attacks.crafting import History, handed_over, logits, pixels_of
from cleanlabel.redteam.threat.attacker import Backdoor, Budget, Knowledge, Poisons
from cleanlabel.sanitize.errors import InputError


@dataclass(frozen=True)
class LabelConsistent:
    """The image no longer shows its class clearly, so training relies on the trigger.

    Projected gradient steps away from the own class, each reach * epsilon / steps long (Madry et al.'s 2.5), then the
    trigger over it, which epsilon does not bound: that is the authors' attack; a public benchmark clips the trigger
    to epsilon as well, and there it hardly ever works. Published on CIFAR-10: epsilon 8, 16, 32 /255 or l2 300, 600,
    1200 /255, a network trained against such steps to perturb with, and a checkerboard of 3x3 in the corner.
    """

    steps: int = 100
    reach: float = 2.5

    def craft(self, goal: Backdoor, known: Knowledge, budget: Budget, seed: int) -> Poisons:
        """mean over networks of the log-likelihood of the true class, minimised; the history is without the trigger."""
        if goal.trigger.place == "random":
            raise InputError(
                "label-consistent poisons carry the trigger where it is at test time; place='random' is no such place, "
                "choose a corner"
            )
        generator = torch.Generator().manual_seed(seed)
        rows = known.chosen_bases(goal.intended, budget.count, generator)
        mask = goal.trigger.mask(known.clean.image_shape)  # refuses a trigger that does not fit before any work is done
        base = pixels_of(known.clean.images[rows], known.device)

        def likelihood(pixels: Tensor) -> Tensor:
            views = known.view(pixels, generator).flatten(0, 1)
            return torch.stack(
                [functional.log_softmax(logits(net, views), dim=1)[:, goal.intended].mean() for net in known.networks]
            ).mean()

        delta = torch.zeros_like(base)
        history = History(known.tick)
        for _ in range(self.steps):
            delta.requires_grad_()
            value = likelihood(base + delta)
            (gradient,) = torch.autograd.grad(value, delta)
            step = self.reach * budget.epsilon / self.steps * _unit(gradient, budget)
            delta = budget.project(delta.detach() - step, base)
            history.add(value)
        hard = handed_over(delta, rows, known, budget, history.read(), likelihood)
        return replace(hard, images=goal.trigger.put(hard.images), trigger=mask)


def _unit(gradient: Tensor, budget: Budget) -> Tensor:
    """The steepest direction of length 1 in the budget's norm, for each image."""
    if budget.norm == "linf":
        return gradient.sign()
    return gradient / gradient.flatten(1).norm(dim=1).clamp(min=1e-12)[:, None, None, None]
