"""The plan of an ensemble: everything that determines its draws, fixed before the first one is made."""

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cleanlabel.models.anytime import ConfidenceSequence, Looks, Rule, default_looks, largest_radius, look_levels
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.noise import NOISE_STREAM
from cleanlabel.sanitize.rounded_gaussian import rounded_gaussian

if TYPE_CHECKING:  # it needs pydantic, and nothing else here does
    from cleanlabel.models.params import TrainParams

OLD_STREAM = "cleanlabel/noise/1"
"""Gaussian noise in float32, which the theorem does not cover: plans that name no stream were made with it."""

LATER: dict[str, Any] = {
    "partitions": 1,
    "partition_rule": None,
    "block_sizes": (),
    "stable_ids": True,
    "denoiser_origin": None,
    "denoiser_shared": None,
    "initial_origin": None,
    "initial_shared": None,
    "chosen_on": "trusted",
    "noise_stream": OLD_STREAM,
    "noise_distance": 0.0,
    "raw_content": None,
    "ensembles": 1,
    "instrument_digest": None,
    "twin_digest": None,
    "class_sizes": (),
}
"""Fields that came after the first ensembles: where they say the usual, a plan is silent, and keeps its old digest."""


@dataclass(frozen=True)
class Plan:
    """What an ensemble's models are made from. Two ensembles with one plan differ in their entropy alone."""

    m: int
    selection: int
    sigma: float
    test_sigma: float
    raw_digest: str
    test_digest: str
    denoiser_digest: str | None
    denoiser_state: str | None
    initial_digest: str | None
    initial_state: str | None
    recipe: dict[str, Any]
    classes: int
    n_test: int
    alpha: float
    method: str
    simultaneous: bool
    stopping: str
    """`none`: m models. `looks` or `sequence`: at most m, until the gate is decided (`models.anytime`)."""
    looks: tuple[int, ...]
    """Where the gate may be looked at: prefixes of draws 0..t-1, the last of them m. Empty without stopping."""
    shares: tuple[float, ...]
    """What part of the level each look spends (`looks`); they sum to at most 1."""
    batch_of_draws: int
    entropy_spec: str
    code_digest: str
    partitions: int = 1
    """k: into how many blocks the raw set is split, each with m models of its own (`models.partition`)."""
    partition_rule: str | None = None
    """What decides an image's block, in words. None where there is but one."""
    block_sizes: tuple[int, ...] = ()
    """Images of each block, empty where there is but one."""
    stable_ids: bool = True
    """Whether ids stay with their images when others are added or removed (`models.blocks.ids_are_names`)."""
    denoiser_origin: str | None = None
    """Where a denoiser from elsewhere comes from, in the words of whoever named it. None where it was trained here."""
    denoiser_shared: int | None = None
    """Raw images that are among those it was trained on (`sanitize.overlap`). None where no record tells."""
    initial_origin: str | None = None
    initial_shared: int | None = None
    """The same of the initial weights."""
    chosen_on: str = "trusted"
    """What sigma, k and the recipe were chosen by looking at: `trusted` images or none, or the `raw` ones."""

    noise_stream: str = OLD_STREAM
    """How entropy becomes noise (`sanitize.noise.NOISE_STREAM`)."""
    noise_distance: float = 0.0
    """Total variation between all the noise of one draw and the ideal one (`noise_distance_of`)."""
    raw_content: str | None = None
    """Names the raw set by its pixels and labels alone (`sanitize.content`); None in plans of before."""
    ensembles: int = 1
    """How many ensembles on this raw set were to share alpha, declared before the first of them."""
    instrument_digest: str | None = None
    """Of a bounded-influence head's public part (`models.instrument`). None of any other."""
    twin_digest: str | None = None
    """Of the extractor's twin for sanitized images. None where they go through the extractor itself."""
    class_sizes: tuple[int, ...] = ()
    """n_c: raw images of each class, where the certificate depends on them. Empty otherwise."""

    @property
    def bounded_influence(self) -> bool:
        """Whether a draw's answer is a sum of bounded influences, and no vote."""
        return self.instrument_digest is not None

    @property
    def sides(self) -> Literal["one", "two"]:
        """Of a bounded-influence head: whether influences lie in [0, 1] or in [-1, 1]."""
        return "two" if self.recipe.get("influence_sides") == "two" else "one"

    @property
    def draws(self) -> int:
        """All draws: 0..m-1, whose votes are bounded, then the `selection` ones that only choose the class."""
        return self.m + self.selection

    @property
    def votes_shape(self) -> tuple[int, ...]:
        """Of one draw's votes: one per test image, of every block; or its class sums on every test image."""
        if self.bounded_influence:
            return (self.n_test, self.classes)
        return (self.n_test,) if self.partitions == 1 else (self.partitions, self.n_test)

    @property
    def batches(self) -> list[range]:
        """The draws in the groups they are made in: always whole, so that a draw's bits never depend on a restart."""
        size = self.batch_of_draws
        return [range(start, min(start + size, self.draws)) for start in range(0, self.draws, size)]

    def batch_of(self, draw: int) -> range:
        """The batch that makes this draw."""
        return self.batches[draw // self.batch_of_draws]

    @property
    def voids(self) -> list[str]:
        """What in this plan lets un-noised raw images reach the models; any such thing voids the certificate."""
        found = (
            (
                self.recipe["warm_epochs"] > 0 and self.recipe["warm_on"] == "raw",
                "training starts on the raw images (train.warm_on)",
            ),
            (self.recipe["normalise"] == "raw", "pixels are scaled by statistics of the raw images (train.normalise)"),
            (self.denoiser_state == "on-raw", "the denoiser was trained on the raw set as supplied"),
            (self.initial_state == "on-raw", "the initial weights were trained on the raw set as supplied"),
            (self.chosen_on == "raw", "its params were chosen by looking at the raw set (smooth.chosen_on)"),
        )
        return [reason for holds, reason in found if holds]

    @property
    def certifiable(self) -> bool:
        """Whether a radius may be attached to this plan's ensemble at all."""
        return not self.voids

    @property
    def recipe_digest(self) -> str:
        """sha256 over the training recipe."""
        return _digest(self.recipe)

    @property
    def digest(self) -> str:
        """Names the plan: sha256 over all of it."""
        return _digest(self._content())

    def _content(self) -> dict[str, Any]:
        """All fields but the silent ones."""
        return {name: value for name, value in asdict(self).items() if name not in LATER or value != LATER[name]}

    @property
    def family(self) -> str:
        """Names what a further ensemble would be a further attempt at: the raw set, whatever else is changed.

        Plans of before counted by (raw set, denoiser, recipe, sigma), and keep that.
        """
        if self.raw_content is not None:
            return self.raw_content
        return _digest([self.raw_digest, self.denoiser_digest, self.initial_digest, self.recipe, self.sigma])

    def level(self, attempt: int) -> float:
        """The error probability of one test point's certificate: alpha, shared where more than one claim is made.

        Over all test points if `simultaneous`, and over the attempts at the family: with d declared ensembles, attempt
        a = 0..d-1 has alpha/d, and a further one alpha 2^-(a-d+1). All attempts together fail with at most 2 alpha:
        each has entropy of its own, so that whatever was seen before, it fails with at most its level; the first d
        levels sum to alpha, and the others, alpha/2 + alpha/4 + ..., stay below alpha, however many there are. That
        needs one d for all of them, which `flows.ensemble.attempts` sees to. With planned looks, all of them
        together spend it.
        """
        d = self.ensembles
        share = 1 / d if attempt < d else 2.0 ** -(attempt - d + 1)
        return self.alpha * share / (self.n_test if self.simultaneous else 1)

    def level_at(self, t: int, attempt: int) -> float:
        """The error probability of a certificate of draws 0..t-1: the whole level, or the planned look's share."""
        share = self.shares[self.looks.index(t)] if self.stopping == "looks" else 1.0
        return self.level(attempt) * share

    def rule(self, attempt: int) -> Rule:
        """How the votes of the prefixes that may be certified are certified."""
        level = self.level(attempt)
        if self.stopping == "sequence":
            return ConfidenceSequence(self.m, self.sigma, level, distance=self.noise_distance)
        times, shares = (self.looks, self.shares) if self.stopping == "looks" else ((self.m,), (1.0,))
        return Looks(times, look_levels(level, shares), self.sigma, self.method, self.noise_distance)

    def least_m(self, attempt: int) -> int:
        """The least m that can certify anything at that level, were the last look at m."""
        if self.bounded_influence:
            return 1
        if self.stopping == "sequence":
            return least_of_sequence(self.level(attempt))
        return least_models(self.level_at(self.m, attempt) / self.partitions, self.method, self.classes)

    def as_dict(self) -> dict[str, Any]:
        """The plan with its digests, for JSON."""
        return {
            **self._content(),
            **({"block_sizes": list(self.block_sizes)} if self.partitions > 1 else {}),
            **({"class_sizes": list(self.class_sizes)} if self.class_sizes else {}),
            "looks": list(self.looks),
            "shares": list(self.shares),
            "plan_digest": self.digest,
            "family": self.family,
            "recipe_digest": self.recipe_digest,
            "certifiable": self.certifiable,
            "voids": self.voids,
        }


TUPLES = ("looks", "shares", "block_sizes", "class_sizes")


def plan_from_dict(content: dict[str, Any]) -> Plan:
    """The plan that `as_dict` wrote. KeyError or TypeError if fields are missing."""
    fields = {name: content[name] for name in Plan.__dataclass_fields__ if name in content or name not in LATER}
    return Plan(**fields | {name: tuple(fields.get(name, ())) for name in TUPLES})


def noise_distance_of(images: int, image_shape: tuple[int, ...], sigma: float, test_sigma: float = 0.0) -> float:
    """How far the noise of one draw is from ideal Gaussian noise, in total variation, at most.

    The pixels of all raw images together, and of the one test image an answer is about where it is noised as well.
    """
    pixels = math.prod(image_shape)
    distance = images * pixels * rounded_gaussian(sigma).total_variation if sigma else 0.0
    return distance + (pixels * rounded_gaussian(test_sigma).total_variation if test_sigma else 0.0)


def require_exact_noise(plan: Plan) -> None:
    """InputError if the plan's noise was drawn in an earlier way, which the proof does not cover."""
    if plan.noise_stream != NOISE_STREAM:
        raise InputError(
            f"this ensemble's noise was drawn the way {plan.noise_stream}, and this program draws it the way "
            f"{NOISE_STREAM}: its radii are not covered by the proof and its draws cannot be made again; make the "
            "ensemble anew with `dvc repro`"
        )


def least_models(alpha: float, method: str = "binary", classes: int = 2) -> int:
    """The least m with which even unanimous votes certify anything: level^(1/m), their bound, must exceed 1/2."""
    level = {"binary": alpha / 2, "split": alpha, "margin": alpha / (2 * classes)}[method]
    return math.floor(math.log2(1 / level)) + 1


def chosen_looks(m: int, least: int, batch: int) -> tuple[int, ...]:
    """Where the gate is looked at if the params do not say: `default_looks`, at whole batches of draws."""
    return tuple(sorted({min(m, -(-t // batch) * batch) for t in default_looks(m, min(least, m))[0]}))


def least_of_sequence(alpha: float) -> int:
    """The same for a confidence sequence."""
    return next(m for m in count(1) if largest_radius(ConfidenceSequence(m, 1.0, alpha), m) > 0)


DRAW_SOURCES = (
    "models/blocks.py",
    "models/classifiers.py",
    "models/draw.py",
    "models/extractors.py",
    "models/fast_cifar.py",
    "models/heads.py",
    "models/instrument.py",
    "models/stacked.py",
    "models/sums.py",
    "models/training.py",
    "models/weights.py",
    "sanitize/arrays.py",
    "sanitize/denoiser.py",
    "sanitize/denoiser_files.py",
    "sanitize/denoiser_parts.py",
    "sanitize/device_noise.py",
    "sanitize/fast.py",
    "sanitize/fitting.py",
    "sanitize/folders.py",
    "sanitize/imageset.py",
    "sanitize/names.py",
    "sanitize/noise.py",
    "sanitize/overlap.py",
    "sanitize/pictures.py",
    "sanitize/published.py",
    "sanitize/rounded_gaussian.py",
    "sanitize/sanitizer.py",
    "sanitize/sources.py",
    "sanitize/timestep.py",
    "sanitize/trees.py",
)
"""The code a draw runs through: change it, and the models are others."""


def code_digest() -> str:
    """sha256 over the sources that determine a draw."""
    root = Path(__file__).resolve().parents[1]
    return _digest({name: hashlib.sha256((root / name).read_bytes()).hexdigest() for name in DRAW_SOURCES})


def recipe_of(params: "TrainParams") -> dict[str, Any]:
    """The recipe as plain values; the words about where the initial weights come from stand in the plan itself."""
    content = params.model_dump(mode="json", exclude={"initial_origin"})
    silent = [] if params.twin else ["twin"]
    silent += [] if params.bounded_influence else [key for key in content if "influence_" in key]
    return {key: value for key, value in content.items() if key not in silent}


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
