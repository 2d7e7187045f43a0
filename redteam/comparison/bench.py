"""Defences trained on the same poisoned sets, target by target; each result is kept as soon as it is there."""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cleanlabel.models.extractors import features
from cleanlabel.redteam.defences.interface import Certified, Context, Defence, Defended, Images, required_extractor
from cleanlabel.redteam.defences.plain import Nothing
from cleanlabel.redteam.drill.drill import Drill
from cleanlabel.redteam.drill.networks import Noise
from cleanlabel.redteam.threat.attacker import Poisons
from cleanlabel.redteam.threat.setups import Setup
from cleanlabel.sanitize.denoiser import Denoiser
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.files import write_json
from cleanlabel.sanitize.keys import Inputs, code_digest, key_of
from cleanlabel.sanitize.noise import training_seed


@cache
def _code(defence: str) -> str:
    return code_digest(defence, "cleanlabel.redteam.comparison.bench")


@dataclass(frozen=True)
class OutcomeInputs(Inputs):
    """What an outcome depends on in the folder of its drill and target."""

    name: str
    settings: str
    noise: Noise | None
    alpha: float
    code: str


@dataclass(frozen=True, eq=False)
class Entry:
    """A defence in a comparison: its name and, where it adds noise, its sigma."""

    name: str
    defence: Defence
    sigma: float | None = None

    @property
    def label(self) -> str:
        """The name in tables, with the sigma where there is one."""
        return self.name if self.sigma is None else f"{self.name}, σ = {self.sigma:g}"

    def key(self, drill: Drill) -> str:
        """A file name that differs for every setting, sigma, denoiser and code."""
        denoiser = self.denoiser_of(drill)
        noise = None if self.sigma is None else Noise(self.sigma, denoiser.digest if denoiser else None)
        code = _code(type(self.defence).__module__)
        return f"{self.name}-{key_of(OutcomeInputs(self.name, repr(self.defence), noise, drill.params.alpha, code))}"

    def denoiser_of(self, drill: Drill) -> Denoiser | None:
        """The drill's denoiser, if this defence has it: no other one gets it, whose key does not name it."""
        return drill.denoiser if self.name == "sanitize" else None


@dataclass(frozen=True)
class Outcome:
    """One defence against one target's poisons.

    success: share of the attacked test images classified as the intended class. accuracy on the clean test set.
    removed: images that were filtered, poisons_removed: how many of them are poisons. undefended_seconds: of training
    without a defence, in the same run. peak_megabytes: of the process, or of the device's memory; None where the system
    does not say. Medians of what is certified, 0 where the answer is wrong or not certified: images inserted or
    removed, and joint l2 radius in [0,1] units, for the attacked images and for the clean test set; None: not that kind
    of certificate.
    """

    setup: str
    defence: str
    settings: str
    success: float
    accuracy: float
    poisons: int
    removed: int
    poisons_removed: int
    seconds: float
    undefended_seconds: float
    peak_megabytes: float | None
    joint_l2: float
    insertions: float | None
    insertions_test: float | None
    radius: float | None
    radius_test: float | None
    facts: dict[str, float] = field(default_factory=dict)


def require_all(drill: Drill, entries: list[Entry], setup: Setup) -> None:
    """InputError, before the slow work begins, that names a defence that cannot run here and says why."""
    for entry in entries:
        try:
            entry.defence.require(setup.clean, drill.victim, context_of(drill, entry, 0))
        except InputError as error:
            raise InputError(f"{entry.name}: {error}") from error


def compared(
    drill: Drill, entries: list[Entry], number: int, setup: Setup, tick: Callable[[str], None] = lambda _: None
) -> Iterator[Outcome]:
    """The outcomes of one target, in the order of the entries; those on disk are read, and the drill's poisons."""
    reference: float | None = None
    for entry in entries:
        path = drill.state / setup.name / f"defence-{entry.key(drill)}.json"
        if path.is_file():
            yield Outcome(**json.loads(path.read_text()))
            continue
        tick(f"{setup.name}: {entry.label}")
        poisons, _ = drill.poisons(number, setup, 0.0)
        if reference is None and not isinstance(entry.defence, Nothing):
            reference = _fitted(drill, Entry("none", Nothing()), number, setup, poisons)[0].seconds
        defended, peak = _fitted(drill, entry, number, setup, poisons)
        reference = defended.seconds if reference is None else reference
        outcome = _measured(drill, entry, setup, poisons, defended, reference, peak)
        write_json(path, asdict(outcome))
        yield outcome


def context_of(drill: Drill, entry: Entry, number: int) -> Context:
    """What the drill offers to a defence; the sanitizer's draw is the drill's own for this target."""

    def kept(images: Images) -> Tensor:
        if images is drill.test.images:
            return drill.test_features
        return features(required_extractor(drill.victim), images, drill.victim.device)

    sigma = entry.sigma if entry.sigma is not None else Context().sigma
    return Context(sigma, entry.denoiser_of(drill), drill.entropy.value, number, drill.params.alpha, kept)


def _fitted(drill: Drill, entry: Entry, number: int, setup: Setup, poisons: Poisons) -> tuple[Defended, float | None]:
    raw, seed = poisons.injected(setup.clean), training_seed(drill.entropy.value, number)
    anew = forget_peak(drill.victim.device)
    try:
        made = entry.defence.fit(raw, drill.victim, context_of(drill, entry, number), seed)
    except InputError as error:
        raise InputError(f"{entry.name} at {setup.name}: {error}") from error
    return made, peak_megabytes(drill.victim.device) if anew else None


def _measured(
    drill: Drill,
    entry: Entry,
    setup: Setup,
    poisons: Poisons,
    defended: Defended,
    undefended: float,
    peak: float | None,
) -> Outcome:
    asked, truth = drill.asked(setup.goal)
    test = drill.test

    def median(certified: Certified | None, images: Images, labels: NDArray[np.int64]) -> float | None:
        if certified is None:
            return None
        label, tolerance = certified(images)
        return float(np.median(np.where(label == labels, tolerance, 0.0)))

    return Outcome(
        setup=setup.name,
        defence=entry.label,
        settings=repr(entry.defence),
        success=float(np.mean(defended.answers(asked) == setup.goal.intended)),
        accuracy=float(np.mean(defended.answers(test.images) == test.labels)),
        poisons=len(poisons.rows),
        removed=len(defended.removed),
        poisons_removed=int(np.isin(defended.removed, poisons.rows).sum()),
        seconds=round(defended.seconds, 3),
        undefended_seconds=round(undefended, 3),
        peak_megabytes=peak,
        joint_l2=poisons.joint_l2,
        insertions=median(defended.insertions, asked, truth),
        insertions_test=median(defended.insertions, test.images, test.labels),
        radius=median(defended.radius, asked, truth),
        radius_test=median(defended.radius, test.images, test.labels),
        facts=defended.facts,
    )


def forget_peak(device: torch.device) -> bool:
    """Reset the peak memory; whether the system allows it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return True
    try:
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak resident size becomes the present one
    except OSError:
        return False
    return True


def peak_megabytes(device: torch.device) -> float | None:
    """Peak memory since `forget_peak`: the device's, or the process's resident size; None where it is not known."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**20, 1)
    found = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    return round(int(found[1]) / 1024, 1) if found else None
