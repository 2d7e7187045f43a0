"""The victim's training with hooks for a defence: before an epoch, on a batch, on a gradient."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from cleanlabel.models.augmentation import mirrored, shifted
from cleanlabel.models.classifiers import Standardise, features_of
from cleanlabel.models.extractors import Extractor
from cleanlabel.models.heads import fit_head
from cleanlabel.models.params import TrainParams
from cleanlabel.models.training import BATCH_NORMALISED, architecture_of, as_tensor, initialised
from cleanlabel.redteam.defences.interface import Context, features_of_images, required_extractor
from cleanlabel.redteam.threat.victims import Victim
from cleanlabel.sanitize.device import sent
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.imageset import ImageSet

HEAD_RATE = 0.1
"""Adam's learning rate of a new head on a frozen extractor (published victims': Zhu et al. 2019, also Aghakhani et al.
2021). The recipe's own rate is for whole networks; with it a new head would not finish its training."""


@dataclass(frozen=True, eq=False)
class Trainee:
    """What a defence trains: `model` = body and head, pixels (n, c, h, w) in [-1, 1] -> logits (n, K).

    On a frozen extractor only the head learns, and images are not augmented, as in the victim's own training.
    """

    model: nn.Sequential
    inputs: Tensor
    targets: Tensor
    recipe: TrainParams
    frozen: bool

    def train(self) -> None:
        """Training mode, for what is trained."""
        self.model.train()
        if self.frozen:
            self.model[0].eval()

    def finished(self, image_shape: tuple[int, int, int]) -> Extractor:
        """The trained network: in evaluation mode, frozen."""
        self.model.eval().requires_grad_(requires_grad=False)
        body, head = self.model
        return Extractor(body, head, image_shape, "")


def require_loop(victim: Victim) -> None:
    """InputError for recipes whose training has no hooks."""
    if victim.scenario == "scratch" and victim.recipe.architecture == "fast-cifar":
        raise InputError(
            "architecture=fast-cifar has its own training, without hooks for a defence; set the recipe's "
            "architecture to small-cnn or resnet18"
        )
    if victim.recipe.warm_epochs:
        raise InputError(
            f"warm_epochs={victim.recipe.warm_epochs} is part of our method only; set it to 0 to compare defences"
        )


def trainee(raw: ImageSet, victim: Victim, seed: int) -> Trainee:
    """The victim before training: random weights, or the extractor with a fitted head (fine-tune) or a random one."""
    require_loop(victim)
    inputs, targets = as_tensor(raw.images, victim.device), sent(torch.from_numpy(raw.labels), victim.device)
    if victim.scenario == "scratch":
        net = initialised(architecture_of(victim.recipe, raw.images.shape, victim.classes), seed, None)
        if isinstance(net[0], Standardise):
            net[0].measure(inputs.cpu())
        model = nn.Sequential(features_of(net), net[-1]).to(victim.device)
        return Trainee(model, inputs, targets, victim.recipe, frozen=False)
    extractor = required_extractor(victim)
    if victim.scenario == "transfer":
        body = copy.deepcopy(extractor.network).requires_grad_(requires_grad=False)  # one trained here is not frozen
        model = nn.Sequential(body, new_head(extractor, victim, seed))
        recipe = victim.recipe.model_copy(update={"learning_rate": HEAD_RATE})
        return Trainee(model, inputs, targets, recipe, frozen=True)
    found = features_of_images(raw.images, victim, Context())
    head = fit_head(found, targets.cpu(), victim.classes, victim.recipe.head, victim.recipe.head_l2)
    model = nn.Sequential(copy.deepcopy(extractor.network), head).to(victim.device).requires_grad_()
    return Trainee(model, inputs, targets, victim.recipe, frozen=False)


def on_features(student: Trainee, raw: ImageSet, victim: Victim) -> Trainee:
    """The same head, learning from the frozen extractor's features, computed once: for defences that move no pixel.

    A trainee that is not frozen is returned unchanged.
    """
    if not student.frozen:
        return student
    found = features_of_images(raw.images, victim, Context()).to(victim.device)
    return replace(student, model=nn.Sequential(nn.Identity(), student.model[1]), inputs=found)


def new_head(extractor: Extractor, victim: Victim, seed: int) -> nn.Linear:
    """A linear head with the random weights that follow from the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Linear(extractor.head.in_features, victim.classes).to(victim.device)


Seen = Callable[[Tensor, Tensor], Tensor]
Attacked = Callable[[Tensor, Tensor], Tensor]


def fitted(
    student: Trainee,
    generator: torch.Generator,
    *,
    at_epoch: Callable[[int], None] = lambda _: None,
    seen: Seen = lambda batch, _: batch,
    attacked: Attacked = lambda batch, _: batch,
    at_gradient: Callable[[list[nn.Parameter]], None] = lambda _: None,
) -> None:
    """Train as `models.training.fit` does, by the same recipe, optimiser, schedule and order of the generator's draws.

    at_epoch(epoch) before each epoch; seen(batch, rows) before augmentation; attacked(batch, targets) after it;
    at_gradient(parameters) between gradient and step.
    """
    recipe, n = student.recipe, len(student.inputs)
    learning = [p for p in student.model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(learning, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, foreach=True)
    steps = recipe.epochs * -(-n // recipe.batch)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 - step / steps)
    student.train()
    for epoch in range(recipe.epochs):
        at_epoch(epoch)
        for rows in sent(torch.randperm(n, generator=generator), student.inputs.device).split(recipe.batch):
            if len(rows) == 1 and recipe.architecture in BATCH_NORMALISED:
                continue
            batch, targets = seen(student.inputs[rows], rows), student.targets[rows]
            batch = attacked(batch if student.frozen else augmented(batch, recipe, generator), targets)
            loss = functional.cross_entropy(student.model(batch), targets, label_smoothing=recipe.label_smoothing)
            optimiser.zero_grad()
            loss.backward()
            at_gradient(learning)
            optimiser.step()
            schedule.step()


def augmented(batch: Tensor, recipe: TrainParams, generator: torch.Generator) -> Tensor:
    """The recipe's shifts and flips."""
    return mirrored(shifted(batch, recipe.shift, generator), recipe.flip, generator)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, so that crafting changes no statistics; each module's own mode is restored afterwards."""
    before = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in before:
            module.training = training


def require_255(name: str, value: float) -> float:
    """The value, in 255ths of the pixel range, in [-1, 1] units. InputError unless it is above 0 and at most 255."""
    if not (np.isfinite(value) and 0 < value <= 255):
        raise InputError(f"{name}={value:g} is not a bound in 255ths; give one above 0 and up to 255")
    return 2 * value / 255
