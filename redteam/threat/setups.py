"""Targets, bases and raw sets: from the public poisoning benchmark, or drawn by a seed."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cleanlabel.redteam.threat.attacker import Backdoor, Goal, Target
from cleanlabel.redteam.threat.triggers import Trigger
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.imageset import ImageSet, read_all
from cleanlabel.sanitize.sources import open_published

KEYS = ("target_class", "target_index", "base_class", "base_indices")


@dataclass(frozen=True, eq=False)
class Setup:
    """One attack to try: its goal, the clean raw set, and the rows that have to be the bases (None: free to choose)."""

    name: str
    goal: Goal
    clean: ImageSet
    bases: NDArray[np.int64] | None = None


@dataclass(frozen=True)
class Published:
    """One setup of the public benchmark, by published indices: the target in the test split, bases in the other."""

    target_class: int
    target_index: int
    base_class: int
    base_indices: tuple[int, ...]


def read_setups(path: Path) -> list[Published]:
    """The public benchmark's setups as JSON: a list of objects with `target_class, target_index, base_class,
    base_indices` (Schwarzschild et al. 2021). InputError names what is missing or wrong."""
    if not path.is_file():
        raise InputError(f"{path} does not exist; give the benchmark's setups as JSON")
    try:
        content: Any = json.loads(path.read_text())
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error}); convert the benchmark's pickles to JSON first") from error
    found = []
    for i, entry in enumerate(content if isinstance(content, list) else [None]):
        try:
            target_class, target, base_class, bases = (entry[key] for key in KEYS)
            setup = Published(int(target_class), int(target), int(base_class), tuple(map(int, bases)))
        except (TypeError, KeyError, ValueError) as error:
            raise InputError(f"{path}: entry {i} needs {', '.join(KEYS)} as whole numbers; correct it") from error
        if setup.target_class == setup.base_class or len(set(setup.base_indices)) != len(setup.base_indices):
            raise InputError(f"{path}: entry {i} has its target among the base class, or a base twice; correct it")
        found.append(setup)
    return found


def published_setups(
    setups: list[Published], train: ImageSet, test: ImageSet, images: int, count: int
) -> Iterator[Setup]:
    """The benchmark's attacks on a published set whose splits are in the published order.

    The raw set has `images` images: of every class the first images / K, but of the base class the first `count` bases
    in the places of as many others (0: the whole training split).
    """
    for i, setup in enumerate(setups):
        yield _published_setup(i, setup, train, test, images, count)


def _published_setup(i: int, setup: Published, train: ImageSet, test: ImageSet, images: int, count: int) -> Setup:
    bases = np.array(setup.base_indices[:count], dtype=np.int64)
    if count > len(setup.base_indices):
        raise InputError(
            f"setup {i} names {len(setup.base_indices)} bases, fewer than {count} poisons; lower --poisons"
        )
    if bases.max(initial=-1) >= len(train) or setup.target_index >= len(test):
        raise InputError(
            f"setup {i} names an index beyond the set's {len(train)} training and {len(test)} test images; check --data"
        )
    if (train.labels[bases] != setup.base_class).any() or test.labels[setup.target_index] != setup.target_class:
        raise InputError(f"setup {i} does not fit the labels of the set; give the set it was made for, in its order")
    target = Target(test.images[setup.target_index], setup.target_class, setup.base_class)
    if not images:
        return Setup(f"setup-{i:03d}", target, train, bases)
    kept, each = [], images // len(train.classes)
    for label in range(len(train.classes)):
        others = np.setdiff1d(np.flatnonzero(train.labels == label), bases)
        wanted = each - (len(bases) if label == setup.base_class else 0)
        if not 0 <= wanted <= len(others):
            raise InputError(
                f"{images} raw images are {each} per class, which does not fit {len(bases)} bases; change --images"
            )
        kept.append(others[:wanted])
    rows = np.sort(np.concatenate([*kept, bases]))
    return Setup(f"setup-{i:03d}", target, train.take(rows), np.searchsorted(rows, bases))


def trusted_beside(setups: list[Published], train: ImageSet, images: int, count: int) -> ImageSet | None:
    """The last `count` training images that are in no setup's raw set of `images` images; None where none is left.

    A raw set holds of every class images among the first images / K, and bases.
    """
    free = np.ones(len(train), dtype=bool)
    for label in range(len(train.classes)):
        own = np.flatnonzero(train.labels == label)
        free[own[: images // len(train.classes) if images else None]] = False
    for setup in setups:
        free[[row for row in setup.base_indices if row < len(train)]] = False
    rows = np.flatnonzero(free)[-count:]
    return train.take(rows) if len(rows) else None


def drawn_targets(clean: ImageSet, test: ImageSet, seed: int) -> list[Setup]:
    """Every test image as a target, in a random order, each with a random other class as the intended one."""
    generator = np.random.default_rng(seed)
    shifts = generator.integers(1, len(clean.classes), len(test))
    return [
        Setup(
            f"target-{test.ids[row].replace('/', '-')}",
            Target(test.images[row], int(test.labels[row]), int((test.labels[row] + shifts[row]) % len(clean.classes))),
            clean,
        )
        for row in generator.permutation(len(test))
    ]


def drawn_backdoors(clean: ImageSet, trigger: Trigger, from_all: bool, seed: int) -> list[Setup]:  # noqa: FBT001
    """Every ordered pair of classes as (source, intended), in an order that the seed draws.

    from_all: the trigger is for images of every other class (Turner et al.), so one setup per class. The images
    that the attacker marks are the raw set's.
    """
    classes = range(len(clean.classes))
    pairs = [(None, b) for b in classes] if from_all else [(a, b) for a in classes for b in classes if a != b]
    setups = []
    for i in np.random.default_rng(seed).permutation(len(pairs)):
        source, intended = pairs[i]
        own = clean.images[(clean.labels != intended) if source is None else (clean.labels == source)]
        setups.append(
            Setup(
                f"from-{'all' if source is None else source}-to-{intended}",
                Backdoor(trigger, source, intended, own),
                clean,
            )
        )
    return setups


def published_sets(name: str, root: Path) -> tuple[ImageSet, ImageSet]:
    """(train, test) of a published set, whole and in its published order."""
    train, test = (read_all(open_published(name, root, split), name) for split in ("train", "test"))
    return train, test
