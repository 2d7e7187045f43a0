"""The images, the networks, and features of sanitized copies of which each is made once."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.common.recipes import RECIPE
from benchmarks.common.runs import kept
from benchmarks.conv.networks import Recipe
from benchmarks.conv.sets import BATCH, kept_network, sanitized
from benchmarks.conv.setting import ENTROPY
from benchmarks.frozen.setting import ALIKE, SMALL, SURROGATE_ENTROPY, Cell, Size
from cleanlabel.models.extractors import Extractor, features
from cleanlabel.models.instrument import Instrument
from cleanlabel.models.public_part import fitted, trusted_features
from cleanlabel.redteam.threat.attacker import Target
from cleanlabel.redteam.threat.setups import Published, read_setups
from cleanlabel.sanitize.denoiser import Denoiser
from cleanlabel.sanitize.fast import accelerate
from cleanlabel.sanitize.imageset import ImageSet, read_all
from cleanlabel.sanitize.keys import Inputs, in_order, key_of
from cleanlabel.sanitize.noise import draw_entropy
from cleanlabel.sanitize.sanitizer import as_pixels, sanitize
from cleanlabel.sanitize.sources import open_published


@dataclass(frozen=True)
class FeaturesInputs(Inputs):
    """What the victim's features of a sanitized copy depend on, but for the code. seed: of the copy; None: public."""

    images: str
    victim: str
    denoiser: str
    entropy: str
    sigma: float
    seed: int | None


@dataclass(frozen=True, eq=False)
class Sets:
    """pool: the raw images that no setup chooses; test: clean; train: the training split, of which setups take bases.

    Networks and features of copies are kept in `scratch` once made.
    """

    pool: ImageSet
    test: ImageSet
    train: ImageSet
    split: ImageSet
    setups: list[Published]
    victim: Extractor
    deeper: Extractor
    denoiser: Denoiser
    size: Size
    scratch: Path
    _instruments: dict[float, Instrument] = field(default_factory=dict)

    @property
    def classes(self) -> int:
        """How many there are."""
        return len(self.pool.classes)

    def target(self, setup: Published) -> Target:
        """The setup's goal."""
        return Target(self.split.images[setup.target_index], setup.target_class, setup.base_class)

    def raw(self, setup: Published, cell: Cell) -> tuple[ImageSet, NDArray[np.int64]]:
        """The whole raw set, the pool first and then the public bases, and the rows of the cell's bases."""
        public = self.train.take(np.array(setup.base_indices[: cell.poisons], dtype=np.int64))
        images = np.concatenate([self.pool.images, public.images])
        labels = np.concatenate([self.pool.labels, public.labels])
        raw = ImageSet(images, labels, (*self.pool.ids, *public.ids), self.pool.classes)
        more = np.flatnonzero(self.pool.labels == setup.base_class)[: cell.poisons - len(public)]
        return raw, np.concatenate([np.arange(len(self.pool), len(raw)), more])

    def features(self, images: ImageSet, sigma: float, seed: int) -> Tensor:
        """The victim's features (n, d) of these images, sanitized."""
        return features(self.victim, sanitized(images, sigma, seed, self.denoiser, len(self.pool)))

    @cached_property
    def test_features(self) -> Tensor:
        """Of the clean test images."""
        return features(self.victim, self.test.images)

    def pool_features(self, sigma: float, seed: int) -> Tensor:
        """Those of the pool, made once."""
        made = kept(
            self.scratch / f"pool-{self._known(self.pool, sigma, seed)}.npz",
            lambda: {"features": self.features(self.pool, sigma, seed).numpy()},
        )
        return torch.from_numpy(made["features"])

    def raw_features(
        self, raw: ImageSet, changed: ImageSet, rows: NDArray[np.int64], sigma: float, seed: int
    ) -> Tensor:
        """Those of a raw set with `changed` in its `rows`: equal to sanitizing all of it. The pool's are made once."""
        rest = np.setdiff1d(np.arange(len(self.pool), len(raw)), rows)
        whole = torch.empty(len(raw), self.victim.head.in_features)
        whole[: len(self.pool)] = self.pool_features(sigma, seed)
        if len(rest):
            whole[rest] = self.features(raw.take(rest), sigma, seed)
        whole[rows] = self.features(changed, sigma, seed)
        return whole

    def instrument(self, sigma: float) -> Instrument:
        """The public part of bounded influences, from trusted images of the training split that are no base."""
        if sigma not in self._instruments:
            self._instruments[sigma] = self._instrument(sigma)
        return self._instruments[sigma]

    def _instrument(self, sigma: float) -> Instrument:
        bases = np.unique([row for setup in self.setups for row in setup.base_indices])
        trusted = self.train.take(np.setdiff1d(np.arange(len(self.train)), bases)[: self.size.trusted])

        def made() -> dict[str, NDArray[Any]]:
            denoiser = self.denoiser if sigma else None
            fast = accelerate(self.denoiser, sigma, BATCH, len(self.pool)) if sigma else None
            psi, phi = trusted_features(self.victim, trusted, sigma, denoiser, denoise=fast, batch=BATCH)
            return {"psi": psi, "phi": phi}

        found = kept(self.scratch / f"trusted-{self._known(trusted, sigma, None)}.npz", made)
        return fitted(RECIPE, found["psi"], found["phi"])

    @cached_property
    def small(self) -> tuple[Extractor, ...]:
        """A black-box attacker's networks: the deeper ResNet, and small ones that are trained here."""
        return (self.deeper, *(self._surrogate("conv", self.size.epochs, seed) for seed in SMALL))

    @cached_property
    def alike(self) -> tuple[Extractor, ...]:
        """A black-box attacker's networks: the deeper ResNet, and three of the victim's depth that are trained here."""
        epochs = self.size.alike_epochs
        return (self.deeper, *(self._surrogate("resnet20", epochs, seed, sigma) for seed, sigma in ALIKE))

    def _surrogate(self, network: Literal["conv", "resnet20"], epochs: int, seed: int, sigma: float = 0) -> Extractor:
        """A network trained on the training split, with the noise of one draw in it."""
        images = self.train.take(np.arange(min(self.size.surrogates, len(self.train))))
        if sigma:
            noised = sanitize(images, sigma, None, draw_entropy(SURROGATE_ENTROPY).value, 0)
            images = images.with_images(as_pixels(noised))
        recipe = Recipe(network=network, epochs=epochs, batch=min(128, len(images) // 2))
        return kept_network(self.scratch, images, recipe, seed)

    def _known(self, images: ImageSet, sigma: float, seed: int | None) -> str:
        victim, denoiser = self.victim.digest, self.denoiser.digest
        return key_of(FeaturesInputs(in_order(images), victim, denoiser, ENTROPY, sigma, seed))


def read_sets(
    root: Path, setups: Path, victim: Extractor, deeper: Extractor, denoiser: Denoiser, size: Size, scratch: Path
) -> Sets:
    """Both splits in their published order, and the pool and test images of the declaration."""
    train, split = (read_all(open_published("cifar10", root, name), "cifar10") for name in ("train", "test"))
    known = read_setups(setups)
    free = np.setdiff1d(np.arange(len(split)), [setup.target_index for setup in known])
    test = first_of_each(split.labels, free, size.test_each)
    pool = np.setdiff1d(free, test)[: size.raw]
    return Sets(split.take(pool), split.take(test), train, split, known, victim, deeper, denoiser, size, scratch)


def first_of_each(labels: NDArray[np.int64], rows: NDArray[np.int64], each: int) -> NDArray[np.int64]:
    """The first rows of every class, in order."""
    found: Sequence[NDArray[np.int64]] = [rows[labels[rows] == label][:each] for label in np.unique(labels[rows])]
    return np.sort(np.concatenate(found))
