"""The images, the attacker's networks, targets, and sanitized copies of which each is made once."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.common.runs import kept
from benchmarks.conv.networks import Recipe, joined, logits, restored, trained
from benchmarks.conv.setting import ATTACKER_SEED, CLASSES, ENTROPY, Size
from cleanlabel.models.extractors import Extractor
from cleanlabel.sanitize.denoiser import Denoiser
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.fast import accelerate
from cleanlabel.sanitize.imageset import ImageSet, read_all
from cleanlabel.sanitize.keys import Inputs, in_order, key_of
from cleanlabel.sanitize.noise import draw_entropy
from cleanlabel.sanitize.sanitizer import sanitize
from cleanlabel.sanitize.sources import open_published

BATCH = 64
Aim = tuple[int, int]
"""A target: its row among the test images, and the intended class."""


@dataclass(frozen=True)
class CopyInputs(Inputs):
    """What a sanitized copy depends on, but for the code."""

    clean: str
    denoiser: str
    entropy: str
    sigma: float
    draw: int


@dataclass(frozen=True)
class NetworkInputs(Inputs):
    """What a trained network depends on, but for the code."""

    images: str
    recipe: str
    seed: int


@dataclass(eq=False)
class Sets:
    """Raw and test images of the five classes; networks and sanitized copies are kept in `scratch` once made."""

    clean: ImageSet
    test: ImageSet
    denoiser: Denoiser
    scratch: Path

    def attackers(self, recipe: Recipe, count: int) -> tuple[Extractor, ...]:
        """The attacker's own networks, trained as the victim trains on the clean set."""
        return tuple(kept_network(self.scratch, self.clean, recipe, ATTACKER_SEED + i) for i in range(count))

    def sanitized(self, rows: ImageSet, sigma: float, draw: int) -> NDArray[np.uint8]:
        """These images as a victim gets them. An image's noise follows from its id, sigma and draw alone."""
        return sanitized(rows, sigma, draw, self.denoiser, len(self.clean))

    def noised(self, rows: ImageSet, sigma: float, draw: int) -> NDArray[np.float32]:
        """These images under the same noise, which is left in: float32 in 255ths like the images, not clipped."""
        return 255 * sanitize(rows, sigma, None, draw_entropy(ENTROPY).value, draw)

    def copy(self, sigma: float, draw: int) -> NDArray[np.uint8]:
        """The clean set as a victim gets it, made once."""
        if not sigma:
            return self.clean.images
        known = key_of(CopyInputs(in_order(self.clean), self.denoiser.digest, ENTROPY, sigma, draw))
        made = kept(self.scratch / f"copy-{known}.npz", lambda: {"images": self.sanitized(self.clean, sigma, draw)})
        return made["images"]

    def poisoned(
        self, images: NDArray[np.uint8], rows: NDArray[np.int64], sigma: float, draw: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """The poisoned set as a victim gets it, and its poisons there: equal to sanitizing the whole poisoned set."""
        part = self.clean.take(rows).with_images(images)
        after = self.sanitized(part, sigma, draw)
        whole = self.copy(sigma, draw).copy()
        whole[rows] = after
        return whole, after


def kept_network(scratch: Path, images: ImageSet, recipe: Recipe, seed: int) -> Extractor:
    """The network trained on these images: from the scratch folder, or made and put there."""

    def weights() -> dict[str, NDArray[Any]]:
        made = trained(images.images, images.labels, len(images.classes), recipe, seed)
        return {name: value.numpy() for name, value in joined(made).state_dict().items()}

    known = key_of(NetworkInputs(in_order(images), repr(recipe), seed))
    stored = kept(scratch / f"network-{known}.npz", weights)
    return restored({name: torch.from_numpy(value) for name, value in stored.items()}, recipe, len(images.classes))


def sanitized(images: ImageSet, sigma: float, draw: int, denoiser: Denoiser, whole: int) -> NDArray[np.uint8]:
    """These images as a victim gets them, of a set of `whole` images. Sigma 0 leaves them as they are.

    An image's noise follows from its id, sigma and draw alone, so that parts of a set can be sanitized apart.
    """
    if not sigma:
        return images.images
    fast = accelerate(denoiser, sigma, BATCH, whole)
    return sanitize(images, sigma, denoiser, draw_entropy(ENTROPY).value, draw, denoise=fast, batch=BATCH)


def read_sets(root: Path, denoiser: Denoiser, size: Size, scratch: Path) -> Sets:
    """Of each class the first `each` training images and `test_each` test images."""
    return Sets(of_classes(root, "train", size.each), of_classes(root, "test", size.test_each), denoiser, scratch)


def of_classes(root: Path, split: str, each: int) -> ImageSet:
    """The first images of each of the five classes in the published order, labels 0 to 4. InputError for too few."""
    whole = read_all(open_published("cifar10", root, split), "cifar10")
    rows = [np.flatnonzero(whole.labels == label)[:each] for label in CLASSES]
    if min(map(len, rows)) < each:
        raise InputError(f"the {split} split has fewer than {each} images of a class; give the whole of CIFAR-10")
    found = whole.take(np.sort(np.concatenate(rows)))
    names = tuple(whole.classes[label] for label in CLASSES)
    return ImageSet(found.images, np.searchsorted(CLASSES, found.labels), found.ids, names)


def aims(networks: Sequence[Extractor], test: ImageSet, count: int, seed: int, used: Sequence[Aim] = ()) -> list[Aim]:
    """`count` targets drawn by a seed, none twice and none `used`, that all networks classify correctly."""
    right = np.all([logits(net, test.images).argmax(axis=1) == test.labels for net in networks], axis=0)
    generator, found = np.random.default_rng(seed), []
    taken = {row for row, _ in used}
    if right.sum() < count + len(taken):
        raise InputError(f"the attacker's networks are right on {right.sum()} test images, too few for {count} targets")
    while len(found) < count:
        row, label = int(generator.integers(len(test))), int(generator.integers(len(test.classes)))
        if right[row] and label != test.labels[row] and row not in taken:
            taken.add(row)
            found.append((row, label))
    return found


def margins(network: Extractor, test: ImageSet, wanted: Sequence[Aim]) -> list[float]:
    """Logit of the intended class less the largest other, of each target; above 0 the attack has succeeded."""
    return leads(logits(network, test.images[[row for row, _ in wanted]]), wanted)


def leads(scores: NDArray[np.floating], wanted: Sequence[Aim]) -> list[float]:
    """Score (n, K) of the intended class less the largest other, of each target."""
    answers = scores.copy()
    intended = np.array([label for _, label in wanted])
    own = answers[np.arange(len(wanted)), intended].copy()
    answers[np.arange(len(wanted)), intended] = -np.inf
    return [round(float(value), 4) for value in own - answers.max(axis=1)]


def accuracy(network: Extractor, test: ImageSet) -> float:
    """Share of the test images that are classified correctly."""
    return round(float((logits(network, test.images).argmax(axis=1) == test.labels).mean()), 4)
