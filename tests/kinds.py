"""The kinds of ensembles that the product can make, one row each, and what is expected of each in its life.

`flows/test_kinds.py` leads every row through one life. A kind that has no row fails there.
"""

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
from models_recipes import QUICK
from registered import ROOT, set_params
from tiny import save_int8_denoiser, save_tiny_denoiser

from cleanlabel.flows import distil
from cleanlabel.models.anytime import ConfidenceSequence
from cleanlabel.models.certificate import Floats, Ints, certify
from cleanlabel.models.influenced import Influenced, influenced
from cleanlabel.models.partition import block_certificates, partition_radius
from cleanlabel.models.plan import Plan
from cleanlabel.models.sums import STEPS
from cleanlabel.models.training import architecture_of, train
from cleanlabel.models.votes import count_block_votes, count_votes
from cleanlabel.models.weights import save_weights, trained_on
from cleanlabel.sanitize.denoiser import load_denoiser
from cleanlabel.sanitize.denoiser_files import PROVENANCE
from cleanlabel.sanitize.files import write_json
from cleanlabel.sanitize.imageset import ImageSet, save_npz
from cleanlabel.sanitize.ingest import digits
from cleanlabel.sanitize.paths import DENOISER, SETS

Sections = Mapping[str, Mapping[str, Any]]
Votes = Mapping[int, Ints]

ALPHA, SIGMA, CLASSES, N_TEST = 0.1, 0.5, 3, 12
M = 10
"""Models of most rows: unanimous ones certify even where alpha is shared by all test points. A batch has 5."""
EXTRACTOR, TWIN = Path("data/pretrained/digits.safetensors"), Path("data/pretrained/twin.safetensors")

SMALL = {
    "sanitize": {"sigma": SIGMA, "denoise": False},
    "train": {"architecture": "linear", "width": 8, "epochs": 10, "batch": 16, "learning_rate": 0.03},
    "smooth": {"m": M, "batch_of_draws": 5},
    "certify": {"alpha": ALPHA},
    "gate": {"accuracy": 0.0, "certified_accuracy": [], "replay": 0},
}
"""What all rows set in params.yaml: models that train in a blink, and a gate that the first look passes."""
NETWORK = {"architecture": "mlp", "width": 24}
STATED = {"initial_weights": str(EXTRACTOR), "initial_provenance": "disjoint", "initial_origin": "the trusted digits"}
FROZEN = {"mode": "transfer", **STATED}
BOUNDED = {**FROZEN, "head": "bounded-influence", "influence_threshold": None, "influence_clip": 0.8}


@dataclass(frozen=True)
class Kind:
    """A row: what it sets in params.yaml, the parts it needs, and what is expected of it.

    m: the models in its certificate; planned: those in its plan, more where it stops before. share: its share of the
    level, below 1 where planned looks share it. parts: what of the door's kinds of parts can reach its models; "of the
    stage" are those that a stage makes (`make_part`). plan: the fields of its plan that are away from their defaults.
    same: whether its version answers the test images as its certificate does; not so under new noise on test inputs.
    rule: how its certificate says that its number of models was decided.
    chooses: how many further draws only choose the class, of which none may be lost.
    """

    name: str
    sections: Sections
    m: int = M
    planned: int = M
    share: float = 1.0
    sigma: float = SIGMA
    parts: frozenset[str] = frozenset({"settings"})
    plan: frozenset[str] = frozenset()
    simultaneous: bool = False
    same: bool = True
    rule: str = f"{M} models, as planned"
    chooses: int = 0

    @property
    def sums(self) -> bool:
        """Whether its draws answer by sums of bounded influences: it certifies counts, and votes do not."""
        return self.sections.get("train", {}).get("head") == "bounded-influence"

    @property
    def blocks(self) -> int:
        return self.sections.get("smooth", {}).get("partitions", 1)

    def level(self, attempt: int, *, simultaneous: bool) -> float:
        """Rules 6 and 12: alpha, halved at each further attempt, and shared by all test points if asked for."""
        return ALPHA * self.share / 2**attempt / (N_TEST if simultaneous else 1)

    def expected(self, plan: Plan, votes: Votes, level: float, distance: float) -> tuple[Ints, Floats]:
        """Labels and radii at this level and this distance from ideal noise, by the certificate of this kind."""
        n = next(iter(votes.values())).shape[0 if self.sums else -1]
        bounding = {draw: row for draw, row in votes.items() if draw < self.m}
        if self.sums:
            found = self.influences(plan, bounding, n, level, distance)
            return found.label, found.radius()
        if self.blocks > 1:
            counts = count_block_votes(bounding, self.m, self.blocks, n, CLASSES)
            return partition_radius(*block_certificates(counts, self.m, SIGMA, level, distance=distance), CLASSES)
        counts = count_votes(bounding, self.m, n, CLASSES)
        if self.sections.get("smooth", {}).get("stopping") == "sequence":
            return ConfidenceSequence(self.planned, SIGMA, level, distance=distance).certify(counts, self.m)
        choosing = {draw - self.planned: row for draw, row in votes.items() if draw >= self.planned}
        chosen = count_votes(choosing, self.chooses, n, CLASSES) if self.chooses else None
        method = self.sections.get("certify", {}).get("method", "binary")
        return certify(counts, self.m, SIGMA, level, method, chosen, distance=distance)

    def influences(self, plan: Plan, sums: Votes, n: int, level: float, distance: float) -> Influenced:
        sides = self.sections["train"].get("influence_sides", "one")
        return influenced(sums, self.m, n, plan.class_sizes, sides, self.sigma, level, distance=distance)

    def unanimous(self, plan: Plan) -> dict[int, Ints]:
        """The votes of draws that all agree, on as many points as classes, each for its own class."""
        if self.sums:
            most = STEPS * np.array(plan.class_sizes)
            rows = np.tile(-most if plan.sides == "two" else 0 * most, (CLASSES, 1))
            np.fill_diagonal(rows, most)
        else:
            rows = np.tile(np.arange(CLASSES), (self.blocks, 1)) if self.blocks > 1 else np.arange(CLASSES)
        return dict.fromkeys([*range(self.m), *range(self.planned, self.planned + self.chooses)], rows)


INFLUENCES = "initial weights, trusted images"
SUMMED = "instrument_digest class_sizes initial_digest initial_state"


def _kind(name: str, sections: Sections, parts: str = "", plan: str = "", **more: Any) -> Kind:
    named = frozenset(filter(None, parts.split(", "))) | {"settings"}
    if plan.startswith(SUMMED):
        more = {"rule": f"{more.get('m', M)} draws, as planned"} | more
    return Kind(name, sections, parts=named, plan=frozenset(plan.split()), **more)


TABLE = (
    _kind("binary", {}),
    _kind("split", {"certify": {"method": "split"}, "smooth": {"selection": 2}}, chooses=2),
    _kind("margin", {"certify": {"method": "margin"}}),
    _kind("simultaneous", {"certify": {"simultaneous": True}}, simultaneous=True),
    _kind(
        "looks",
        {"smooth": {"stopping": "looks", "looks": [10, 15], "m": 15}},
        plan="looks shares",
        planned=15,
        share=sqrt(10) / (sqrt(10) + sqrt(15)),
        rule="stopped at 10 of at most 15 models; looks planned at 10, 15; this one spends 45.0% of alpha",
    ),
    _kind(
        "sequence",
        {"smooth": {"stopping": "sequence", "looks": [10, 15], "m": 15}},
        plan="looks",
        planned=15,
        rule="stopped at 10 of at most 15 models; a confidence sequence, valid at every number of models",
    ),
    _kind(
        "partitions",
        {"smooth": {"partitions": 3}},
        plan="partitions partition_rule block_sizes",
        rule=f"{M} models of each of 3 blocks, as planned",
    ),
    _kind("test noise", {"smooth": {"test_sigma": 0.25}}, plan="test_sigma", same=False),
    _kind(
        "denoised, with test noise",
        {"sanitize": {"denoise": True}, "smooth": {"test_sigma": 0.25}},
        "denoiser",
        "test_sigma denoiser_digest denoiser_state",
        same=False,
    ),
    _kind(
        "int8 denoiser",
        {"sanitize": {"denoise": True}},
        "denoiser, int8 scales",
        "int8 denoiser_digest denoiser_state",
    ),
    _kind(
        "fine-tuned",
        {"train": {"mode": "fine-tune", **NETWORK, **STATED}},
        "initial weights",
        "initial_digest initial_state",
    ),
    _kind(
        "frozen, with a twin",
        {"train": {**FROZEN, "head": "lda", "twin": str(TWIN)}},
        "initial weights, twin",
        "twin_digest initial_digest initial_state",
    ),
    _kind("influences of one side", {"train": BOUNDED}, INFLUENCES, SUMMED),
    _kind("influences of two sides", {"train": {**BOUNDED, "influence_sides": "two"}}, INFLUENCES, SUMMED),
    _kind(
        "influences with a threshold",
        {"train": {**BOUNDED, "influence_threshold": 0.6, "influence_clip": 0.9}},
        INFLUENCES,
        SUMMED,
    ),
    _kind(
        "influences of cosines, at all points at once",
        {"train": {**BOUNDED, "influence_form": "cosine"}, "certify": {"simultaneous": True}},
        "initial weights",
        SUMMED,
        simultaneous=True,
    ),
    _kind(
        "influences with a twin",
        {"train": {**BOUNDED, "twin": str(TWIN)}},
        f"{INFLUENCES}, twin",
        f"{SUMMED} twin_digest",
    ),
    _kind(
        "influences without noise",
        {"train": BOUNDED, "sanitize": {"sigma": 0.0}, "smooth": {"m": 1}},
        INFLUENCES,
        SUMMED,
        m=1,
        planned=1,
        sigma=0.0,
    ),
)
"""Every kind. What the product refuses of one is not left out: the life asserts the refusal."""

ALIKE = {
    "train.architecture": "any network votes alike",
    "train.normalise": "copy votes alike; raw voids the certificate, as every void part does",
    "train.warm_on": "copy votes alike; raw voids the certificate, as every void part does",
    "train.head": "a linear head votes, whichever it is",
    "smooth.chosen_on": "each statement is recorded alike; raw voids the certificate: the life has a step for it",
    "smooth.keep_weights": "a version without all networks cannot be served, whatever its kind",
}
"""Params of several values that make one kind, with the reason."""
SAME_FOR_ALL = {
    "ensembles": "shares alpha by attempts alone (tests/flows/test_attempts.py)",
    "stable_ids": "only told (tests/models/test_partition.py)",
    "resized_to": "only told (tests/flows/test_earlier_sets.py)",
    **dict.fromkeys(
        ("denoiser_origin", "denoiser_shared", "initial_origin", "initial_shared", "chosen_on"),
        "of plans that are older than the door, which no plan has now",
    ),
    **dict.fromkeys(("noise_stream", "noise_distance", "raw_content", "admitted"), "of every plan that is made now"),
}
"""Fields of a plan with a default that make no kind of their own, with the reason."""


def make_sets() -> dict[str, ImageSet]:
    """Three classes of digits and params.yaml in the working directory: 24 raw images a class or so, 12 test images."""
    sets = {name: _three_classes(images) for name, images in digits(500, 240, 0).items()}
    sets["test"] = sets["test"].take(np.arange(N_TEST))
    for name, images in sets.items():
        save_npz(images, SETS[name])
    shutil.copy(ROOT / "params.yaml", "params.yaml")
    set_params(**SMALL)
    return sets


def _three_classes(images: ImageSet) -> ImageSet:
    return replace(images.take(np.flatnonzero(images.labels < CLASSES)), classes=images.classes[:CLASSES])


def make_parts() -> None:
    """All parts that rows need besides, in the working directory: an extractor and its twin, a denoiser."""
    sets = make_sets()
    trusted = sets["trusted"]
    EXTRACTOR.parent.mkdir(parents=True)
    own = QUICK.model_copy(update={**NETWORK, "epochs": 30})
    network = train(trusted.images, trusted.labels, CLASSES, own, 0)
    save_weights(network, EXTRACTOR, architecture_of(own, trusted.image_shape, CLASSES), trained_on(trusted))
    set_params(train=FROZEN)
    distil.distil(TWIN, epochs=2, copies=1)
    shutil.copy(ROOT / "params.yaml", "params.yaml")
    set_params(**SMALL)


def set_up(kind: Kind) -> None:
    """The row's params, and the denoiser that only it needs. Skips without what its denoiser needs."""
    set_params(**kind.sections)
    if "denoiser" not in kind.parts:
        return
    if "int8 scales" in kind.parts:
        save_int8_denoiser(DENOISER, SIGMA)
    else:
        save_tiny_denoiser(DENOISER)
    made = load_denoiser(DENOISER)
    known = {"digest": made.digest, "made_for": asdict(made.facts), "source": "ours/own", "state": "disjoint"}
    int8 = {"int8": made.int8.as_dict()} if made.int8 else {}
    write_json(DENOISER / PROVENANCE, {**known, "origin": "our own", **int8})
