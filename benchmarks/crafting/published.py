"""The published loops, as they are published: the slow twins that tests and the crafting benchmark hold the attacks to.

One network, float32, no view. Each returns the perturbation (n, c, h, w) and the objective before every step.
"""

import copy
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from cleanlabel.models.extractors import Extractor
from cleanlabel.redteam.attacks.bullseye_polytope import BullseyePolytope
from cleanlabel.redteam.attacks.convex_polytope import ConvexPolytope, on_simplex
from cleanlabel.redteam.attacks.crafting import features, logits
from cleanlabel.redteam.attacks.gradient_matching import loss_gradient
from cleanlabel.redteam.attacks.hidden_trigger import HiddenTrigger
from cleanlabel.redteam.attacks.label_consistent import LabelConsistent
from cleanlabel.redteam.attacks.poison_frogs import PoisonFrogs
from cleanlabel.redteam.attacks.witches_brew import WitchesBrew
from cleanlabel.redteam.threat.attacker import Budget

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


def label_consistent(attack: LabelConsistent, network: Extractor, base: Tensor, label: int, budget: Budget) -> Crafted:
    """Turner et al. 2019: projected gradient steps (Madry et al. 2018), one image after the other; no trigger yet."""
    found, histories = [], []
    for image in base:
        b = image[None]
        delta, history = torch.zeros_like(b), []
        for _ in range(attack.steps):
            delta = delta.clone().requires_grad_()
            value = functional.log_softmax(logits(network, b + delta), dim=1)[0, label]
            value.backward()
            direction = delta.grad.sign() if budget.norm == "linf" else delta.grad / delta.grad.norm().clamp(min=1e-12)
            step = attack.reach * budget.epsilon / attack.steps * direction
            delta = budget.project(delta.detach() - step, b)
            history.append(float(value.detach()))
        found.append(delta)
        histories.append(history)
    return torch.cat(found), [sum(values) / len(values) for values in zip(*histories, strict=True)]


def hidden_trigger(attack: HiddenTrigger, network: Extractor, base: Tensor, marked: Tensor, budget: Budget) -> Crafted:
    """Saha et al. 2020, algorithm 1, on the first sources alone: pairs are struck off one after the other."""
    f_s = features(network, marked[: len(base)]).detach()
    scale = (features(network, marked).detach() ** 2).sum(dim=1).mean()

    def objective(x: Tensor) -> Tensor:
        f = features(network, x)
        pair = closest_pairs_one_by_one(torch.cdist(f.detach(), f_s) ** 2)
        return ((f - f_s[pair]) ** 2).sum(dim=1).mean() / scale

    return _adam(objective, attack.steps, attack.rate, base, budget)


def witches_brew(
    attack: WitchesBrew,
    network: Extractor,
    base: Tensor,
    target: Tensor,
    intended: int,
    budget: Budget,
    start: Tensor,
) -> Crafted:
    """Geiping et al. 2021, algorithm 1, one restart from `start`, without augmentation: parameter by parameter."""
    model = nn.Sequential(copy.deepcopy(network.network), copy.deepcopy(network.head)).eval().requires_grad_()
    weights = list(model.parameters())

    def gradients(x: Tensor, *, graph: bool) -> tuple[Tensor, ...]:
        labels = torch.full((len(x),), intended)
        loss = functional.cross_entropy(model(2 * x - 1), labels, reduction="sum")
        return torch.autograd.grad(loss, weights, create_graph=graph)

    wanted = gradients(target, graph=False)
    size = sum((g**2).sum() for g in wanted).sqrt()

    def objective(x: Tensor) -> Tensor:
        own = gradients(x, graph=True)
        product = sum((a * b).sum() for a, b in zip(own, wanted, strict=True))
        return 1 - product / (sum((a**2).sum() for a in own).sqrt() * size)

    decay_at = [int(attack.steps / by) for by in (2.667, 1.6, 1.142)]
    return _adam(objective, attack.steps, attack.rate, base, budget, start=start, signed=True, decay_at=decay_at)


def gradient_norms_one_by_one(model: nn.Module, pixels: Tensor, label: int) -> Tensor:
    """`gradient_matching.gradient_norms` as its authors compute it: a backward pass an image."""
    return torch.stack([loss_gradient(model, pixels[i : i + 1], label).norm() for i in range(len(pixels))])


def closest_pairs_one_by_one(distances: Tensor) -> Tensor:
    """`hidden_trigger.closest_pairs` as algorithm 1 says it: find the least entry, strike out its row and column."""
    left = distances.detach().cpu().double().clone()
    partner = torch.full((len(left),), -1)
    for _ in range(len(left)):
        row, column = divmod(int(left.argmin()), len(left))
        partner[row] = column
        left[row], left[:, column] = torch.inf, torch.inf
    return partner


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


def _adam(
    objective: Callable[[Tensor], Tensor],
    steps: int,
    rate: float,
    base: Tensor,
    budget: Budget,
    *,
    start: Tensor | None = None,
    signed: bool = False,
    decay_at: Sequence[int] = (),
) -> Crafted:
    delta = (torch.zeros_like(base) if start is None else budget.project(start, base)).requires_grad_()
    optimiser = torch.optim.Adam([delta], lr=rate)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimiser, list(decay_at))
    history = []
    for _ in range(steps):
        value = objective(base + delta)
        optimiser.zero_grad()
        value.backward()
        if signed:
            delta.grad.sign_()
        optimiser.step()
        schedule.step()
        with torch.no_grad():
            delta.copy_(budget.project(delta, base))
        history.append(float(value.detach()))
    return delta.detach(), history
