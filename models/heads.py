"""Linear heads on the features of one sanitized copy: in closed form, or by L-BFGS. No randomness."""

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from cleanlabel.models.classifiers import Architecture
from cleanlabel.sanitize.device import sent
from cleanlabel.sanitize.errors import InputError

HeadKind = Literal["mean", "direction", "lda", "ridge", "logistic"]
TAKES_PRIOR = ("ridge", "logistic")
LBFGS_STEPS = 200
NEVER_CHOSEN = -1e30
"""Logit of a class without images. It is finite, since a network with non-finite logits votes for no class."""


def fit_head(
    features: Tensor, labels: Tensor, classes: int, kind: HeadKind, l2: float, prior: nn.Linear | None = None
) -> nn.Linear:
    """Fit a linear head of this kind to the features. The same arguments give the same head.

    features (n, d), labels (n,) in 0..classes-1. It uses only these, so nothing of un-noised images enters. It is
    computed in float64 on the features' device, and returned in float32, frozen.

    mean       the nearest class mean. l2 has no effect.
    direction  the class mean in the direction of the features, seen from the mean of the class means. Unlike `mean`,
               it ignores the distance of a class mean, which denoising changes. l2 has no effect.
    lda        the nearest class mean by the covariance within classes, which l2 shrinks towards a multiple of I.
    ridge      least squares on one-hot targets.
    logistic   cross-entropy.

    For the last three, l2 is in units of the features' mean variance, so that it suits features of any scale. Ridge and
    logistic are shrunk towards `prior`, a head trained elsewhere (its scale is fitted), or else towards zero.
    InputError for an unknown kind, a class without images, l2 <= 0, or a prior that does not fit or is not used.
    """
    if kind not in get_args(HeadKind):
        raise InputError(f"head={kind!r} is unknown; choose one of {', '.join(get_args(HeadKind))}")
    if not l2 > 0:
        raise InputError(f"l2={l2} is not a strength of regularisation; choose a number above 0")
    f, y = features.double(), sent(labels, features.device)
    counts = torch.bincount(y, minlength=classes)
    if len(counts) != classes or not counts.all():
        empty = int((counts == 0).nonzero()[0]) if len(counts) == classes else len(counts) - 1
        raise InputError(
            f"class {empty} has no image or is not among the {classes} classes; a head needs images of every class"
        )
    if prior is not None and (kind not in TAKES_PRIOR or prior.weight.shape != (classes, f.shape[1])):
        raise InputError(
            f"a prior of shape {tuple(prior.weight.shape)} does not fit a {kind} head of shape "
            f"{(classes, f.shape[1])}; give one of that shape to {' or '.join(TAKES_PRIOR)}, or none"
        )
    one_hot = functional.one_hot(y, classes).double()
    if kind in TAKES_PRIOR:
        weight, bias = (_ridge if kind == "ridge" else _logistic)(f, one_hot, l2, prior)
    else:
        weight, bias = _by_means(f, one_hot, l2, kind)
    head = nn.Linear(f.shape[1], classes, device=f.device).requires_grad_(requires_grad=False)
    head.weight.copy_(weight)
    head.bias.copy_(bias)
    return head


def fit_head_of_some(
    features: Tensor, labels: Tensor, classes: int, kind: HeadKind, l2: float, prior: nn.Linear | None = None
) -> nn.Linear:
    """`fit_head` on the classes that have images; other classes are never chosen. ValueError without any image."""
    present = torch.unique(labels.cpu())
    if len(present) == classes:
        return fit_head(features, labels, classes, kind, l2, prior)
    if not len(present):
        raise ValueError("there is no image to fit a head to")
    head = nn.Linear(features.shape[1], classes, device=features.device).requires_grad_(requires_grad=False)
    head.weight.zero_()
    head.bias.fill_(NEVER_CHOSEN)
    head.bias[present] = 0
    if len(present) > 1:
        own = None
        if prior is not None:
            own = nn.Linear(features.shape[1], len(present), device=features.device)
            with torch.no_grad():
                own.weight.copy_(prior.weight[present.to(prior.weight.device)])
        fitted = fit_head(features, torch.searchsorted(present, labels.cpu()), len(present), kind, l2, own)
        head.weight[present], head.bias[present] = fitted.weight, fitted.bias
    return head


def head_architecture(width: int, classes: int) -> Architecture:
    """A head on features (n, width) as `models.weights` saves it: a linear classifier of 1 x 1 images with `width`
    channels, whose network is `Sequential(Flatten, Linear)`."""
    return Architecture("linear", (1, 1, width), classes, 1)


def _by_means(f: Tensor, one_hot: Tensor, l2: float, kind: str) -> tuple[Tensor, Tensor]:
    means = one_hot.T @ f / one_hot.sum(dim=0)[:, None]
    middle = means.mean(dim=0)
    if kind == "direction":
        weight = functional.normalize(means - middle, dim=1)
        return weight, -weight @ middle
    weight = means
    if kind == "lda":
        within = f - one_hot @ means
        covariance = within.T @ within / len(f)
        weight = torch.linalg.solve(covariance + l2 * _variance(f) * _identity(f), means.T).T
    return weight, -(weight * means).sum(dim=1) / 2


def _ridge(f: Tensor, one_hot: Tensor, l2: float, prior: nn.Linear | None) -> tuple[Tensor, Tensor]:
    """argmin over W, b of mean |W f + b - y|^2 + l2 v |W - W0|^2, v the features' mean variance."""
    centred, targets = f - f.mean(dim=0), one_hot - one_hot.mean(dim=0)
    start = _prior_weight(f, one_hot, prior)
    answers = centred @ start.T
    start = start * ((answers * targets).sum() / (answers**2).sum().clamp(min=1e-12)).clamp(min=0)
    gram = centred.T @ centred / len(f) + l2 * _variance(f) * _identity(f)
    residual = targets - centred @ start.T
    weight = start + torch.linalg.solve(gram, centred.T @ residual / len(f)).T
    return weight, one_hot.mean(dim=0) - weight @ f.mean(dim=0)


def _logistic(f: Tensor, one_hot: Tensor, l2: float, prior: nn.Linear | None) -> tuple[Tensor, Tensor]:
    """argmin over W, b of mean cross-entropy + l2 v / 2 |W - W0|^2, v the features' mean variance."""
    middle, variance, start = f.mean(dim=0), _variance(f), _prior_weight(f, one_hot, prior)
    # centred and scaled features make the problem well conditioned for L-BFGS
    scaled, start = (f - middle) / variance.sqrt(), start * variance.sqrt()
    weight = start.clone().requires_grad_()
    bias = torch.zeros(one_hot.shape[1], dtype=f.dtype, device=f.device, requires_grad=True)
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=LBFGS_STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = functional.cross_entropy(scaled @ weight.T + bias, one_hot) + l2 / 2 * ((weight - start) ** 2).sum()
        value.backward()
        return value

    with torch.enable_grad():
        optimiser.step(loss)
    weight = weight.detach() / variance.sqrt()
    return weight, bias.detach() - weight @ middle


def _prior_weight(f: Tensor, one_hot: Tensor, prior: nn.Linear | None) -> Tensor:
    """The prior's weight minus its mean over classes, which does not affect decisions; zero without a prior."""
    if prior is None:
        return f.new_zeros(one_hot.shape[1], f.shape[1])
    weight = prior.weight.detach().to(f)
    return weight - weight.mean(dim=0)


def _variance(f: Tensor) -> Tensor:
    return f.var(dim=0, correction=0).mean().clamp(min=1e-12)


def _identity(f: Tensor) -> Tensor:
    return torch.eye(f.shape[1], dtype=f.dtype, device=f.device)
