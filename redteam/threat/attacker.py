"""What an attacker wants, knows and may change, and the poisons that result. Pixels are in [0,1] units throughout."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cleanlabel.models.extractors import Extractor
from cleanlabel.redteam.threat.triggers import Trigger
from cleanlabel.sanitize.device import compute_repeatably, is_accelerator
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.imageset import ImageSet

Norm = Literal["linf", "l2"]
CPU = torch.device("cpu")
SHRINK = 0.999
"""Factor by which a perturbation is shrunk until its whole-number form lies within an l2 ball."""


@dataclass(frozen=True)
class Budget:
    """`count` images may change, each by at most `epsilon` in [0,1] pixel units, in l_infinity or in l2 norm."""

    count: int
    epsilon: float
    norm: Norm = "linf"

    def __post_init__(self) -> None:
        if self.count < 1:
            raise InputError(f"poisons={self.count}: an attack needs at least one; give 1 or more")
        if self.norm not in get_args(Norm):
            raise InputError(f"norm={self.norm!r} is neither linf nor l2")
        if not self.epsilon * 255 >= 1 or not np.isfinite(self.epsilon):
            raise InputError(
                f"epsilon={self.epsilon:g} ({self.epsilon * 255:g}/255) cannot change a pixel by a whole 255th; "
                "give 1/255 or more"
            )

    def project(self, delta: Tensor, base: Tensor) -> Tensor:
        """delta (n, c, h, w) brought into the ball, and base + delta into [0, 1]; both hold for the result."""
        if self.norm == "linf":
            inside = delta.clamp(-self.epsilon, self.epsilon)
        else:
            inside = delta * (self.epsilon / _norms(delta).clamp(min=1e-12)).clamp(max=1)
        return (base + inside).clamp(0, 1) - base  # towards base, which lies in [0, 1]: no norm grows

    def rounded(self, base: NDArray[np.uint8], delta: Tensor) -> NDArray[np.uint8]:
        """base + delta as whole pixel values, uint8 (n, h, w, c); within the ball exactly, as integers count.

        base (n, h, w, c), delta (n, c, h, w). What rounding would carry out of the ball is moved back towards base.
        """
        wanted = 255 * delta.detach().cpu().double().permute(0, 2, 3, 1).numpy()
        most = int(np.floor(255 * self.epsilon + 1e-9))
        whole = np.rint(wanted)
        if self.norm == "linf":
            whole = whole.clip(-most, most)
        else:
            limit = (255 * self.epsilon) ** 2
            while (outside := (whole**2).sum(axis=(1, 2, 3)) > limit).any():
                wanted[outside] *= SHRINK
                whole[outside] = np.rint(wanted[outside])
        return (base.astype(np.int64) + whole.astype(np.int64)).clip(0, 255).astype(np.uint8)


def _norms(delta: Tensor) -> Tensor:
    return delta.flatten(1).norm(dim=1)[:, None, None, None]


@dataclass(frozen=True, eq=False)
class Target:
    """One test image, uint8 (h, w, c) of class `label`, that the attacker wants classified as `intended`."""

    image: NDArray[np.uint8]
    label: int
    intended: int


@dataclass(frozen=True, eq=False)
class Backdoor:
    """The attacker wants test images with the trigger classified as `intended`: those of class `source`, or all (None).

    `images`, uint8 (k, h, w, c), are the attacker's own images of these classes, without trigger; none is a test image.
    """

    trigger: Trigger
    source: int | None
    intended: int
    images: NDArray[np.uint8]


Goal = Target | Backdoor


class View(Protocol):
    """How an image reaches training, as the attacker expects it: pixels (n, c, h, w) -> (k, n, c, h, w), k noises.

    Differentiable with respect to the pixels; its randomness comes from the generator alone.
    """

    def __call__(self, pixels: Tensor, generator: torch.Generator) -> Tensor: ...


def as_it_is(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """The view of an attacker who expects training on the images as they are."""
    return pixels[None]


@dataclass(frozen=True, eq=False)
class Knowledge:
    """What the attacker has to work with.

    networks: one victim-side network or several, in evaluation mode, on `device`: the victim's own (white-box), or
    others (black-box). clean: the raw set before the attack. bases: rows that must be poisoned; None: free to choose.
    train: the victim's training as the attacker knows it, (images, labels, seed) -> network, for attacks that train
    again. tick: called with the objective of every step; on an accelerator, up to 50 steps later.
    """

    networks: tuple[Extractor, ...]
    clean: ImageSet
    bases: NDArray[np.int64] | None = None
    view: View = as_it_is
    train: Callable[[NDArray[np.uint8], NDArray[np.int64], int], Extractor] | None = None
    device: torch.device = CPU
    tick: Callable[[float], None] = field(default=lambda _: None)

    def __post_init__(self) -> None:
        if is_accelerator(self.device):
            compute_repeatably()

    def chosen_bases(self, label: int, count: int, generator: torch.Generator) -> NDArray[np.int64]:
        """Rows of `count` images of class `label`: the given bases, or random ones. InputError if there are fewer."""
        own = np.flatnonzero(self.clean.labels == label)
        if self.bases is not None:
            if len(self.bases) < count:
                raise InputError(
                    f"{count} poisons need {count} base images, but {len(self.bases)} are given; lower the count"
                )
            if not np.isin(self.bases[:count], own).all():
                raise InputError(f"a base image is not of the intended class {label}; give base images of that class")
            return self.bases[:count]
        if count > len(own):
            raise InputError(
                f"{count} poisons are more than class {self.clean.classes[label]!r} has images ({len(own)}); "
                "lower the count or give more images"
            )
        return np.sort(own[torch.randperm(len(own), generator=generator)[:count].numpy()])


@dataclass(frozen=True, eq=False)
class Poisons:
    """The result of an attack: `images` uint8 (n, h, w, c) that replace `rows` of the clean set.

    base: the clean images there. history: the objective after every step, and last that of the rounded images.
    trigger: bool (h, w), pixels in which the poisons carry the trigger itself, which no epsilon bounds; or None.
    """

    images: NDArray[np.uint8]
    rows: NDArray[np.int64]
    base: NDArray[np.uint8]
    history: tuple[float, ...]
    trigger: NDArray[np.bool_] | None = None

    @property
    def linf(self) -> float:
        """The largest change of any value, in [0,1] units."""
        return float(np.abs(self._change()).max(initial=0) / 255)

    @property
    def l2(self) -> float:
        """The largest l2 norm of one image's change, in [0,1] units."""
        return float(np.sqrt((self._change() ** 2).sum(axis=(1, 2, 3)).max(initial=0)) / 255)

    @property
    def joint_l2(self) -> float:
        """sqrt(sum of all squared changes), in [0,1] units: the number to compare with a certified radius."""
        return float(np.sqrt((self._change() ** 2).sum()) / 255)

    def within(self, budget: Budget) -> bool:
        """Whether the images, as whole numbers, keep the budget; pixels of a trigger that they carry do not count."""
        change = self._change()
        if self.trigger is not None:
            change[:, self.trigger] = 0
        if len(self.rows) > budget.count or len(set(self.rows.tolist())) != len(self.rows):
            return False
        limit = 255 * budget.epsilon
        if budget.norm == "linf":
            return bool(np.abs(change).max(initial=0) <= limit + 1e-9)
        return bool((change**2).sum(axis=(1, 2, 3)).max(initial=0) <= limit**2 + 1e-9)

    def injected(self, clean: ImageSet) -> ImageSet:
        """The raw set that the victim gets: same order, labels and ids, with the poisons in place of their bases."""
        images = clean.images.copy()
        images[self.rows] = self.images
        return clean.with_images(images)

    def _change(self) -> NDArray[np.int64]:
        return self.images.astype(np.int64) - self.base


class Attack(Protocol):
    """A clean-label attack: its fields are its published settings."""

    def craft(self, goal: Goal, known: Knowledge, budget: Budget, seed: int) -> Poisons:
        """Poisons for this goal within this budget; the same arguments give the same poisons."""
        ...
