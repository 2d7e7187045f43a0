"""The published loops, as they are published: the slow twins that tests and the crafting benchmark hold the attacks to.

One network, float32, no view. Each returns the perturbation (n, c, h, w) and the objective before every step.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from models.extractors import Extractor
from redteam.attacks.bullseye_polytope import BullseyePolytope
from redteam.attacks.convex_polytope import ConvexPolytope, on_simplex
from redteam.attacks.crafting import features
from redteam.attacks.poison_frogs import PoisonFrogs
from redteam.threat import Budget

Crafted = tuple[Tensor, list[float]]


def feature_collision(attack: PoisonFrogs, network: Extractor, base: Tensor, target: Tensor, budget: Budget) -> Crafted:
    """Shafahi et al. 2018, algorithm 1, with the public benchmark's step rule: one base image after the other."""
    f_t = features(network, target).detach()

    def objective(x: Tensor, b: Tensor) -> Tensor:
        return ((features(network, x) - f_t) ** 2).sum() / (f_t**2).sum() + attack.beta * ((x - b) ** 2).sum()

    def slope(delta: Tensor, b: Tensor) -> tuple[float, Tensor]:
        delta = delta.clone().requires_grad_()
        value = objective(b + delta, b)
        value.backward()
        return float(value.detach()), delta.grad

    found, histories = [], []
    for image in base:
        b = image[None]
        delta = budget.project(attack.watermark * (target - b), b)
        value, gradient = slope(delta, b)
        step = attack.first_move / float(gradient.abs().max())
        history = []
        for _ in range(attack.steps):
            candidate = budget.project(delta - step * gradient, b)
            reached, following = slope(candidate, b)
            if reached <= value:
                settled = value - reached <= attack.settled * value
                delta, value, gradient = candidate, reached, following
            else:
                settled = False
                step *= attack.shrink
            history.append(value)
            if settled:
                break
        found.append(delta)
        histories.append(history + [value] * (attack.steps - len(history)))
    longest = [sum(values) / len(histories) for values in zip(*histories, strict=True)]
    return torch.cat(found), longest


def bullseye_polytope(
    attack: BullseyePolytope, network: Extractor, base: Tensor, target: Tensor, budget: Budget
) -> Crafted:
    """Aghakhani et al. 2021, the mode `mean`: all poisons at once."""
    f_t = features(network, target).detach()

    def objective(x: Tensor) -> Tensor:
        return (features(network, x).mean(dim=0) - f_t[0]).norm() / f_t.norm()

    return _adam(objective, attack.steps, attack.rate, base, budget)


def convex_polytope(
    attack: ConvexPolytope, network: Extractor, base: Tensor, target: Tensor, budget: Budget
) -> Crafted:
    """Zhu et al. 2019, algorithm 1: coefficients by forward-backward splitting without momentum, over the features."""
    f_t = features(network, target).detach()[0]
    c = base.new_full((len(base),), 1 / len(base))

    def objective(x: Tensor) -> Tensor:
        nonlocal c
        f = features(network, x)
        c = forward_backward(f.detach(), f_t, c, attack.tolerance, attack.most_inner)
        return 0.5 * ((c @ f - f_t) ** 2).sum() / (f_t**2).sum()

    return _adam(objective, attack.steps, attack.rate, base, budget)


def forward_backward(points: Tensor, wanted: Tensor, start: Tensor, tolerance: float, most: int) -> Tensor:
    """The simplex's coefficients nearest to `wanted` (n,): gradient steps, each projected (Goldstein et al. 2014)."""
    a, b, c = (x.double().numpy() for x in (points, wanted, start))
    step = 1 / np.linalg.norm(a, 2) ** 2
    for _ in range(most):
        following = on_simplex(c - step * (a @ (c @ a - b)))
        moved = np.linalg.norm(following - c)
        c = following
        if moved < tolerance * np.linalg.norm(c):
            break
    return torch.from_numpy(c).to(start)


def _adam(objective: Callable[[Tensor], Tensor], steps: int, rate: float, base: Tensor, budget: Budget) -> Crafted:
    delta = torch.zeros_like(base, requires_grad=True)
    optimiser = torch.optim.Adam([delta], lr=rate)
    history = []
    for _ in range(steps):
        value = objective(base + delta)
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        with torch.no_grad():
            delta.copy_(budget.project(delta, base))
        history.append(float(value.detach()))
    return delta.detach(), history
