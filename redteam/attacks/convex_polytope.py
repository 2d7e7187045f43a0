"""Convex Polytope (Zhu et al. 2019): the target's feature is brought into the convex hull of the poisons'."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cleanlabel.redteam.attacks.crafting import adam_on_pixels, features, handed_over, pixels_of, seen_features
from cleanlabel.redteam.threat.attacker import Budget, Knowledge, Poisons, Target
from cleanlabel.sanitize.device import sent


@dataclass(frozen=True)
class ConvexPolytope:
    """A linear head that takes every poison for the intended class takes all that lies between them for it.

    Published: Adam, rate .04 in units of a pixel's standard deviation (hence .01 here), 4,000 steps, epsilon .1, 5
    poisons; the public benchmark takes 1,200 steps. Coefficients are solved for again at every step, starting from the
    last ones, for each network by itself.
    """

    steps: int = 300
    rate: float = 0.01
    tolerance: float = 1e-6
    most_inner: int = 10000

    def craft(self, goal: Target, known: Knowledge, budget: Budget, seed: int) -> Poisons:
        """1/2 mean over networks of |f(t) - sum_i c_i f(x_i)|^2 / |f(t)|^2 (eq. 2), minimised over c, then over x."""
        generator = torch.Generator().manual_seed(seed)
        rows = known.chosen_bases(goal.intended, budget.count, generator)
        base = pixels_of(known.clean.images[rows], known.device)
        with torch.no_grad():
            wanted = [features(net, pixels_of(goal.image[None], known.device))[0] for net in known.networks]
        aims = _on_host(wanted)
        coefficients = [torch.full((budget.count,), 1 / budget.count) for _ in known.networks]

        def objective(pixels: Tensor) -> Tensor:
            found = [seen_features(net, known, pixels, generator) for net in known.networks]
            points = _on_host([f.detach().mean(dim=0) for f in found])  # of all networks at once: it waits
            for i, (p, aim) in enumerate(zip(points, aims, strict=True)):
                coefficients[i] = nearest_mixture(p, aim, coefficients[i], self.tolerance, self.most_inner)
            mixtures = sent(torch.stack(coefficients), pixels.device)
            losses = [
                0.5 * ((c @ f - f_t) ** 2).sum(dim=1).mean() / (f_t**2).sum()
                for c, f, f_t in zip(mixtures, found, wanted, strict=True)
            ]
            return torch.stack(losses).mean()

        delta, history = adam_on_pixels(objective, base, budget, self.steps, self.rate, known.tick)
        return handed_over(delta, rows, known, budget, history, objective)


def _on_host(tensors: list[Tensor]) -> list[Tensor]:
    """The tensors on the CPU, brought there in one copy."""
    parts = torch.cat([t.flatten() for t in tensors]).cpu().split([t.numel() for t in tensors])
    return [part.view(t.shape) for part, t in zip(parts, tensors, strict=True)]


@torch.no_grad()
def nearest_mixture(points: Tensor, wanted: Tensor, start: Tensor, tolerance: float, most: int) -> Tensor:
    """c (n,) of the simplex that minimises |wanted - c @ points|^2; points (n, d), wanted (d,).

    Forward-backward splitting (Goldstein et al. 2014) with momentum on the n x n Gram matrix, so that a step costs n^2
    whatever d is; ends where a step moves c by less than `tolerance` of its norm. In NumPy on the CPU: a step takes
    microseconds, less than the overhead of a tensor operation.
    """
    p = points.cpu().double().numpy()
    gram, aim = p @ p.T, p @ wanted.cpu().double().numpy()
    step = 1 / max(float(np.linalg.norm(gram, 2)), 1e-12)
    c = ahead = start.cpu().double().numpy()
    momentum = 1.0
    for _ in range(most):
        following = on_simplex(ahead - step * (gram @ ahead - aim))
        moved = following - c
        faster = (1 + math.sqrt(1 + 4 * momentum**2)) / 2
        if moved @ (ahead - following) > 0:  # it overshoots: restart the momentum (O'Donoghue & Candes 2015)
            faster = 1.0
        ahead = following + (momentum - 1) / faster * moved
        c, momentum = following, faster
        if moved @ moved < tolerance**2 * (c @ c):
            break
    return torch.from_numpy(c).to(start)


def on_simplex(v: NDArray[np.float64]) -> NDArray[np.float64]:
    """The point of {c >= 0, sum c = 1} nearest to v (n,) (Duchi et al. 2008, algorithm 1)."""
    u = -np.sort(-v)
    over = (u.cumsum() - 1) / np.arange(1, len(u) + 1)
    return np.maximum(v - over[np.count_nonzero(u > over) - 1], 0)
