"""The plan of an ensemble: everything that determines its draws, fixed before the first one is made."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import count
from typing import TYPE_CHECKING, Any, Literal

from cleanlabel.models.anytime import ConfidenceSequence, Looks, Rule, default_looks, look_levels, unanimous_radius
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.noise import NOISE_STREAM
from cleanlabel.sanitize.rounded_gaussian import rounded_gaussian

if TYPE_CHECKING:  # only this import needs pydantic
    from cleanlabel.models.params import TrainParams

OLD_STREAM = "cleanlabel/noise/1"
"""Gaussian noise in float32, which the theorem does not cover. Plans that name no stream used it."""

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
    "int8": None,
    "admitted": (),
    "resized_to": None,
}
"""Fields that are younger than the first ensembles, with their defaults. A plan leaves out a field at its default, so
that older plans keep their digests."""


@dataclass(frozen=True)
class Plan:
    """What an ensemble's models are made from. Ensembles with the same plan differ only in their entropy."""

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
    """`none`: m models. `looks` or `sequence`: at most m models, until the gate is decided (`models.anytime`)."""
    looks: tuple[int, ...]
    """The t at which the gate may be checked on draws 0..t-1; the last is m. Empty without stopping."""
    shares: tuple[float, ...]
    """Each look's share of the level (`looks`); the shares sum to at most 1."""
    batch_of_draws: int
    entropy_spec: str
    code_digest: str
    partitions: int = 1
    """k: the number of blocks of the raw set, each with m models of its own (`models.partition`)."""
    partition_rule: str | None = None
    """The rule that decides an image's block, in words. None with one block."""
    block_sizes: tuple[int, ...] = ()
    """Images in each block. Empty with one block."""
    stable_ids: bool = True
    """Whether ids stay with their images when others are added or removed (`models.blocks.ids_are_names`)."""
    denoiser_origin: str | None = None
    denoiser_shared: int | None = None
    initial_origin: str | None = None
    initial_shared: int | None = None
    chosen_on: str = "trusted"
    """These five are of plans that are older than `admitted`, which has what they said (`parts_of`)."""

    noise_stream: str = OLD_STREAM
    """How entropy becomes noise (`sanitize.noise.NOISE_STREAM`)."""
    noise_distance: float = 0.0
    """Total variation between all the noise of one draw and ideal noise (`noise_distance_of`)."""
    raw_content: str | None = None
    """Identifies the raw set by its pixels and labels alone (`sanitize.content`). None in older plans."""
    ensembles: int = 1
    """How many ensembles on this raw set share alpha, as declared before the first of them."""
    instrument_digest: str | None = None
    """Digest of a bounded-influence head's public part (`models.instrument`). None for any other recipe."""
    twin_digest: str | None = None
    """Digest of the extractor's twin for sanitized images. None if they go through the extractor itself."""
    class_sizes: tuple[int, ...] = ()
    """n_c: the number of raw images of each class, if the certificate depends on it. Empty otherwise."""
    int8: dict[str, Any] | None = None
    """The denoiser's int8 network: its digest, threads, versions and the images that its scales were set on
    (`sanitize.int8`). None if it runs in floating point."""
    admitted: tuple[dict[str, Any], ...] = ()
    """Everything else that was fixed beforehand and can reach the models, as the one door admitted it
    (`sanitize.door.admit`). Empty in plans that are older than the door."""
    resized_to: int | None = None
    """The side to which every image was resized when it was read; None if images kept their size."""

    @property
    def bounded_influence(self) -> bool:
        """Whether a draw's answer is a sum of bounded influences instead of a vote."""
        return self.instrument_digest is not None

    @property
    def sides(self) -> Literal["one", "two"]:
        """For a bounded-influence head: `one` if influences lie in [0, 1], `two` if in [-1, 1]."""
        return "two" if self.recipe.get("influence_sides") == "two" else "one"

    @property
    def draws(self) -> int:
        """The number of draws: m, whose votes are bounded, and `selection` further ones that only choose the class."""
        return self.m + self.selection

    @property
    def votes_shape(self) -> tuple[int, ...]:
        """Shape of one draw's votes, (n_test,) or with k blocks (k, n_test); of its class sums, (n_test, K)."""
        if self.bounded_influence:
            return (self.n_test, self.classes)
        return (self.n_test,) if self.partitions == 1 else (self.partitions, self.n_test)

    @property
    def batches(self) -> list[range]:
        """The batches of draws. A batch is always made whole, so that a draw's bits never depend on a restart."""
        size = self.batch_of_draws
        return [range(start, min(start + size, self.draws)) for start in range(0, self.draws, size)]

    def batch_of(self, draw: int) -> range:
        """The batch that contains this draw."""
        return self.batches[draw // self.batch_of_draws]

    @property
    def voids(self) -> list[str]:
        """The ways in which un-noised raw images influence this plan's models. Each one voids the certificate."""
        found = (
            (
                self.recipe["warm_epochs"] > 0 and self.recipe["warm_on"] == "raw",
                "training starts on the raw images (train.warm_on)",
            ),
            (self.recipe["normalise"] == "raw", "pixels are scaled by statistics of the raw images (train.normalise)"),
            *((bool(part["voids"]), str(part["voids"])) for part in parts_of(asdict(self))),
        )
        return [reason for holds, reason in found if holds]

    @property
    def certifiable(self) -> bool:
        """Whether this plan's ensemble may have a certified radius at all."""
        return not self.voids

    @property
    def recipe_digest(self) -> str:
        """sha256 of the training recipe."""
        return _digest(self.recipe)

    @property
    def digest(self) -> str:
        """Identifies the plan: sha256 of its content."""
        return _digest(self._content())

    def _content(self) -> dict[str, Any]:
        """All fields, without those of `LATER` that have their default."""
        return {name: value for name, value in asdict(self).items() if name not in LATER or value != LATER[name]}

    @property
    def family(self) -> str:
        """Identifies what attempts are counted for: the raw set, whatever else changes.

        Older plans counted by (raw set, denoiser, recipe, sigma), and still do.
        """
        if self.raw_content is not None:
            return self.raw_content
        return _digest([self.raw_digest, self.denoiser_digest, self.initial_digest, self.recipe, self.sigma])

    def level(self, attempt: int) -> float:
        """The error probability of one test point's certificate: alpha, or a share of it if there are several claims.

        alpha is shared over all test points if `simultaneous`, and over the attempts at the family: with d declared
        ensembles, one with a = 0..d-1 attempts before it has alpha/d, a later one alpha 2^-(a-d+1). Here and in all
        arithmetic `attempt` is that a; what people read counts from 1. All attempts together fail with
        probability at most 2 alpha. Each attempt has its own entropy, so it fails with at most its level, whatever was
        seen before. The first d levels sum to alpha. The others, alpha/2 + alpha/4 + ..., sum to less than alpha,
        however many there are. All attempts need the same d, which `flows.ensemble.attempts` enforces. Planned looks
        share this level.
        """
        d = self.ensembles
        share = 1 / d if attempt < d else 2.0 ** -(attempt - d + 1)
        return self.alpha * share / (self.n_test if self.simultaneous else 1)

    def level_at(self, t: int, attempt: int) -> float:
        """The error probability of a certificate from draws 0..t-1: the whole level, or the planned look's share."""
        share = self.shares[self.looks.index(t)] if self.stopping == "looks" else 1.0
        return self.level(attempt) * share

    def rule(self, attempt: int) -> Rule:
        """The rule that certifies the votes of a prefix of the draws."""
        level = self.level(attempt)
        if self.stopping == "sequence":
            return ConfidenceSequence(self.m, self.sigma, level, distance=self.noise_distance)
        times, shares = (self.looks, self.shares) if self.stopping == "looks" else ((self.m,), (1.0,))
        return Looks(times, look_levels(level, shares), self.sigma, self.method, self.noise_distance)

    def least_m(self, attempt: int) -> int:
        """The least m that can certify anything at that level, if the last look is at m."""
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
            **({"admitted": list(self.admitted)} if self.admitted else {}),
            "looks": list(self.looks),
            "shares": list(self.shares),
            "plan_digest": self.digest,
            "family": self.family,
            "recipe_digest": self.recipe_digest,
            "certifiable": self.certifiable,
            "voids": self.voids,
        }


TUPLES = ("looks", "shares", "block_sizes", "class_sizes", "admitted")


def parts_of(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The admitted parts of a plan or certificate; for one that is older than the door, what its fields said."""
    if content.get("admitted"):
        return list(content["admitted"])
    older = [
        (
            "denoiser",
            content.get("denoiser_digest"),
            *(content.get(f"denoiser_{key}") for key in ("state", "origin", "shared")),
            "the denoiser was trained on the raw set as supplied",
        ),
        (
            "initial weights",
            content.get("initial_digest"),
            *(content.get(f"initial_{key}") for key in ("state", "origin", "shared")),
            "the initial weights were trained on the raw set as supplied",
        ),
        (
            "settings",
            None,
            "on-raw" if content.get("chosen_on") == "raw" else None,
            None,
            None,
            "its params were chosen by looking at the raw set (smooth.chosen_on)",
        ),
    ]
    return [
        {
            "name": name,
            "digest": digest,
            "state": state,
            "origin": origin,
            "shared": count,
            "voids": void if state == "on-raw" else None,
        }
        for name, digest, state, origin, count, void in older
        if state is not None
    ]


def plan_from_dict(content: dict[str, Any]) -> Plan:
    """The plan that `as_dict` wrote. KeyError or TypeError if fields are missing."""
    fields = {name: content[name] for name in Plan.__dataclass_fields__ if name in content or name not in LATER}
    return Plan(**fields | {name: tuple(fields.get(name, ())) for name in TUPLES})


def attempts_before(record: dict[str, Any]) -> int:
    """How many attempts on its raw set came before a recorded ensemble. Older records call this number `attempt`.

    KeyError or TypeError if it is missing, or no whole number from 0 on.
    """
    before = record["attempts_before"] if "attempts_before" in record else record["attempt"]
    if type(before) is not int or before < 0:
        raise TypeError(f"attempts_before={before!r} is no number of attempts")
    return before


def noise_distance_of(images: int, image_shape: tuple[int, ...], sigma: float, test_sigma: float = 0.0) -> float:
    """An upper bound on the total variation between the noise of one draw and ideal Gaussian noise.

    It covers the pixels of all raw images and, if test inputs are noised, those of the one test image of an answer.
    """
    pixels = math.prod(image_shape)
    distance = images * pixels * rounded_gaussian(sigma).total_variation if sigma else 0.0
    return distance + (pixels * rounded_gaussian(test_sigma).total_variation if test_sigma else 0.0)


def require_exact_noise(plan: Plan) -> None:
    """InputError if the plan's noise is of an older kind that the proof does not cover."""
    if plan.noise_stream != NOISE_STREAM:
        raise InputError(
            f"this ensemble used the noise stream {plan.noise_stream}, and this program uses "
            f"{NOISE_STREAM}: its radii are not covered by the proof and its draws cannot be made again; make a new "
            "ensemble with `dvc repro`"
        )


def least_models(alpha: float, method: str = "binary", classes: int = 2) -> int:
    """The least m whose unanimous votes certify anything: their bound, level^(1/m), must exceed 1/2."""
    level = {"binary": alpha / 2, "split": alpha, "margin": alpha / (2 * classes)}[method]
    return math.floor(math.log2(1 / level)) + 1


def chosen_looks(m: int, least: int, batch: int) -> tuple[int, ...]:
    """The looks if the params give none: `default_looks`, at whole batches of draws."""
    return tuple(sorted({min(m, -(-t // batch) * batch) for t in default_looks(m, min(least, m))[0]}))


def least_of_sequence(alpha: float) -> int:
    """The same as `least_models`, for a confidence sequence."""
    return next(m for m in count(1) if unanimous_radius(ConfidenceSequence(m, 1.0, alpha), m) > 0)


def recipe_of(params: "TrainParams") -> dict[str, Any]:
    """The recipe as plain values, without the origin of the initial weights: that is a field of the plan itself."""
    content = params.model_dump(mode="json", exclude={"initial_origin", "twin_provenance", "twin_origin"})
    silent = [] if params.twin else ["twin"]
    silent += [] if params.bounded_influence else [key for key in content if "influence_" in key]
    return {key: value for key, value in content.items() if key not in silent}


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
