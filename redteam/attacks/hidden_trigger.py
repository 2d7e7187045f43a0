"""Hidden-trigger backdoor (Saha et al. 2020): poisons look like their class and have the features of marked images."""

from dataclasses import dataclass

import torch
from torch import Tensor

from cleanlabel.redteam.attacks.crafting import (
    adam_on_pixels,
    features,
    handed_over,
    marked_sources,
    pixels_of,
    seen_features,
)
from cleanlabel.redteam.threat.attacker import Backdoor, Budget, Knowledge, Poisons
from cleanlabel.sanitize.device import is_accelerator, sent

BATCH = 512


@dataclass(frozen=True)
class HiddenTrigger:
    """A head fitted on frozen features cannot tell the poisons from source images with the trigger.

    Its paper claims transfer alone: a known extractor, whose last layer is trained again. A victim trained from scratch
    has other features and is hardly affected. Published: projected gradient steps, at first .01 of a feature
    distance in the network's own scale, 5,000 of them, epsilon 16/255, 30x30 on 224x224 pixels at a random place; here
    Adam's steps take their place, since that rate fits one network, and the distance is relative to the sources' norm.
    """

    steps: int = 300
    rate: float = 0.01

    def craft(self, goal: Backdoor, known: Knowledge, budget: Budget, seed: int) -> Poisons:
        """mean over networks and pairs of |f(z_k) - f(s_a(k))|^2 / mean |f(s)|^2 (eq. 1), minimised over z.

        At every step as many sources as there are poisons are drawn and paired one to one (algorithm 1; the public code
        leaves a source to several poisons).
        """
        generator = torch.Generator().manual_seed(seed)
        rows = known.chosen_bases(goal.intended, budget.count, generator)
        base = pixels_of(known.clean.images[rows], known.device)
        marked = marked_sources(goal, seed, known.device)
        with torch.no_grad():
            sources = [torch.cat([features(net, batch) for batch in marked.split(BATCH)]) for net in known.networks]
        scales = [(f**2).sum(dim=1).mean() for f in sources]

        def objective(pixels: Tensor) -> Tensor:
            drawn = sent(_drawn(len(marked), len(base), generator), pixels.device)
            poisons = [seen_features(net, known, pixels, generator) for net in known.networks]
            distances = sum(
                torch.cdist(f.detach().mean(dim=0), s[drawn]) ** 2 / scale
                for f, s, scale in zip(poisons, sources, scales, strict=True)
            )
            pair = drawn[(closest_pairs_queued if is_accelerator(pixels.device) else closest_pairs)(distances)]
            losses = [
                ((f - s[pair]) ** 2).sum(dim=2).mean() / scale
                for f, s, scale in zip(poisons, sources, scales, strict=True)
            ]
            return torch.stack(losses).mean()

        delta, history = adam_on_pixels(objective, base, budget, self.steps, self.rate, known.tick)
        return handed_over(delta, rows, known, budget, history, objective)


def _drawn(pool: int, count: int, generator: torch.Generator) -> Tensor:
    """`count` of the numbers below `pool`, at random; none repeats before all were drawn."""
    rounds = [torch.randperm(pool, generator=generator) for _ in range(-(-count // pool))]
    return torch.cat(rounds)[:count]


@torch.no_grad()
def closest_pairs(distances: Tensor) -> Tensor:
    """The column (n,) of each row of an (n, n) matrix when the closest remaining pair is taken repeatedly.

    All entries are put in order once; of the sorted list only what is still free is looked at.
    """
    n = len(distances)
    order = distances.flatten().argsort(stable=True).cpu()
    row, column = order // n, order % n
    partner = torch.full((n,), -1)
    taken = torch.zeros(n, dtype=torch.bool)
    while len(row):
        # the first of what is left is closest; so are later ones whose row and column have not come before them
        first_of_row, first_of_column = _first(row, n), _first(column, n)
        place = torch.arange(len(row))
        now = (first_of_row[row] == place) & (first_of_column[column] == place)
        partner[row[now]] = column[now]
        taken[column[now]] = True
        left = (partner[row] < 0) & ~taken[column]
        row, column = row[left], column[left]
    return partner


@torch.no_grad()
def closest_pairs_queued(distances: Tensor) -> Tensor:
    """`closest_pairs` without a wait for the device: n times, it takes the closest pair and crosses out row and column.

    Of equal distances the device's `argmin` decides which comes first.
    """
    n = len(distances)
    left, partner = distances.clone(), torch.empty(n, dtype=torch.long, device=distances.device)
    for _ in range(n):
        place = left.flatten().argmin()[None]
        row, column = place // n, place % n
        partner.index_copy_(0, row, column)
        left.index_fill_(0, row, torch.inf).index_fill_(1, column, torch.inf)
    return partner


def _first(values: Tensor, n: int) -> Tensor:
    """Where each of 0..n-1 occurs first in values (m,); m where it does not."""
    return torch.full((n,), len(values)).scatter_reduce(0, values, torch.arange(len(values)), "amin")
