"""The plan of an ensemble: everything that determines its draws, fixed before the first one is made."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from models.certificate import least_models
from models.params import TrainParams


@dataclass(frozen=True)
class Plan:
    """What an ensemble's models are made from. Two ensembles with one plan differ in their entropy alone."""

    m: int
    sigma: float
    raw_digest: str
    test_digest: str
    denoiser_digest: str | None
    denoiser_state: str | None
    recipe: dict[str, Any]
    classes: int
    n_test: int
    alpha: float
    method: str
    simultaneous: bool
    entropy_spec: str
    code_digest: str

    @property
    def recipe_digest(self) -> str:
        """sha256 over the training recipe."""
        return _digest(self.recipe)

    @property
    def digest(self) -> str:
        """Names the plan: sha256 over all of it."""
        return _digest(asdict(self))

    @property
    def family(self) -> str:
        """Names what a further ensemble would be a further attempt at: (raw set, denoiser, recipe, sigma)."""
        return _digest([self.raw_digest, self.denoiser_digest, self.recipe, self.sigma])

    def level(self, attempt: int) -> float:
        """The error probability of one test point's certificate: alpha, shared where more than one claim is made.

        Over all test points if `simultaneous`; halved for each earlier attempt at the family, so that all attempts
        together fail with at most 2 alpha.
        """
        return self.alpha * 2.0**-attempt / (self.n_test if self.simultaneous else 1)

    def least_m(self, attempt: int) -> int:
        """The least number of models that can certify anything at that level."""
        return least_models(self.level(attempt), self.method, self.classes)

    def as_dict(self) -> dict[str, Any]:
        """The plan with its digests, for JSON."""
        return {**asdict(self), "plan_digest": self.digest, "family": self.family, "recipe_digest": self.recipe_digest}


def plan_from_dict(content: dict[str, Any]) -> Plan:
    """The plan that `as_dict` wrote. KeyError or TypeError if fields are missing."""
    return Plan(**{name: content[name] for name in Plan.__dataclass_fields__})


DRAW_SOURCES = (
    "models/classifiers.py",
    "models/draw.py",
    "models/training.py",
    "sanitize/denoiser.py",
    "sanitize/denoiser_files.py",
    "sanitize/imageset.py",
    "sanitize/noise.py",
    "sanitize/sanitizer.py",
    "sanitize/timestep.py",
)
"""The code a draw runs through: change it, and the models are others."""


def code_digest() -> str:
    """sha256 over the sources that determine a draw."""
    root = Path(__file__).resolve().parents[1]
    return _digest({name: hashlib.sha256((root / name).read_bytes()).hexdigest() for name in DRAW_SOURCES})


def recipe_of(params: TrainParams) -> dict[str, Any]:
    """The recipe as plain values."""
    return params.model_dump(mode="json")


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
