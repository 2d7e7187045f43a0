"""The params of a drill: the `drill` section of redteam/params.yaml, or the command's flags."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from cleanlabel.models.params import TrainParams
from cleanlabel.redteam.threat.attacker import Norm
from cleanlabel.redteam.threat.triggers import Pattern, Place
from cleanlabel.redteam.threat.victims import Scenario
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.params import MOST, Section, Sigma, read_params, reason

PARAMS = Path("redteam/params.yaml")


class DrillParams(Section):
    """One attack against one victim, undefended and sanitized."""

    attack: str
    """frogs, convex, bullseye, witches-brew, label-consistent, hidden-trigger or sleeper-agent."""
    settings: dict[str, str] = Field(default_factory=dict)
    """Settings of the attack that differ from the published ones: steps, rate, …"""
    scenario: Scenario | None = None
    """null: the attack's own (transfer for those that collide features, scratch for the others)."""
    targets: Annotated[int, Field(ge=1, le=MOST)] = 10
    """Targets, or pairs of classes for backdoors, that are tried."""
    sigma: Annotated[list[Sigma], Field(min_length=1)] = Field(default_factory=lambda: [0.0, 0.1, 0.25, 0.5, 1.0])
    """Noise levels of the sanitizer in [0,1] pixel units; 0: undefended."""
    poisons: Annotated[int, Field(ge=1, le=MOST)] | None = None
    """Images the attacker may change; null: 1 % of the raw set."""
    epsilon_255: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = 16.0
    """l_infinity bound of each change, in 255ths."""
    epsilon_l2: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """l2 bound of each change in [0,1] units, in place of the l_infinity bound."""
    adaptive: bool = False
    """Whether the attacker crafts through the sanitizer, for each sigma by itself."""
    chances: Annotated[int, Field(ge=1, le=MOST)] = 2
    """Independent noises per image and step that the adaptive attacker averages over."""
    data: str = "pipeline"
    """`pipeline`: data/raw.npz and data/test.npz; or a published set under `root`."""
    root: str = "data/incoming"
    """The folder where torchvision put a published set."""
    setups: str | None = None
    """The public benchmark's targets and bases, as JSON, for a published set in its published order."""
    images: Annotated[int, Field(ge=0, le=MOST)] = 0
    """Of a published set: raw images, as many of each class with `setups`, at random without; 0: all."""
    held_out: Annotated[int, Field(ge=0, le=MOST)] = 0
    """Of a published set without `setups`: training images kept out, which the denoiser has seen: the trusted ones."""
    split_seed: Annotated[int, Field(ge=0, le=MOST)] = 20240611
    """Draws which images of a published set are held out and which are raw."""
    trusted: Annotated[int, Field(ge=2, le=MOST)] = 3000
    """With `setups`: training images outside every setup's raw set that a bounded-influence head's public part is made
    from."""
    denoiser: str = "data/denoiser"
    """A diffusers directory or hub id."""
    denoise: bool = True
    """false: victims train on images with the noise left in, as in RAB."""
    extractor: str | None = None
    """Weights trained elsewhere for transfer and fine-tune; null: the recipe, trained on the trusted images
    (data/trusted.npz, or those held out)."""
    known: list[str] = Field(default_factory=list)
    """What the attacker crafts on, if not the victim's own network: weight files for transfer and fine-tune, names of
    architectures from scratch (black-box)."""
    networks: Annotated[int, Field(ge=1, le=MOST)] = 1
    """From scratch: how many networks of each known architecture the attacker trains."""
    recipe: dict[str, Any] = Field(default_factory=dict)
    """Settings of the victim's recipe that differ from the `train` section of params.yaml."""
    trigger_size: Annotated[int, Field(ge=1, le=MOST)] | None = None
    """Size of a backdoor's trigger, in pixels; null, here and below: as its authors have it."""
    trigger_place: Place | None = None
    """Where the trigger lies in the image."""
    trigger_pattern: Pattern | None = None
    """The trigger's pixels."""
    trigger_offset: Annotated[int, Field(ge=0, le=MOST)] | None = None
    """Pixels between the trigger and the border."""
    trigger_amplitude: Annotated[float, Field(gt=0, le=1)] | None = None
    """How strongly the trigger covers the image, up to 1."""
    ensemble: Annotated[int, Field(ge=0, le=MOST)] = 0
    """Models of an ensemble on the clean set, at every sigma, to compare its radii with the poisons; 0: no ensemble."""
    draws: Annotated[int, Field(ge=1, le=MOST)] = 20
    """With a bounded-influence head: draws per sigma of the clean sets' ensembles, whose certificates are compared with
    the attack."""
    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.001
    """The probability with which a radius or a certificate in the tables may be false."""
    entropy: str = "os"
    """Entropy of the victim's noise: os, or fixed:HEX."""
    seed: Annotated[int, Field(ge=0, le=MOST)] = 0
    """Seed of targets, crafting and training."""

    @property
    def norm(self) -> Norm:
        """The norm of the bound."""
        return "linf" if self.epsilon_l2 is None else "l2"

    @property
    def epsilon(self) -> float:
        """The bound in [0,1] units."""
        return (self.epsilon_255 or 0.0) / 255 if self.epsilon_l2 is None else self.epsilon_l2


def checked(content: dict[str, Any]) -> DrillParams:
    """These params, validated. InputError names the unknown one or the bad value."""
    try:
        return DrillParams.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise InputError(f"{key}={first['input']!r}: {reason(first)}") from error


HEAD = {"head": "logistic", "head_l2": 0.001}
"""The victim's linear head where a frozen extractor is used: cross-entropy with next to no weight decay, as the
published victims' is. Heads by class means (the pipeline's default) are hardly moved by one poison in a hundred."""


def recipe_for(params: DrillParams, scenario: Scenario) -> TrainParams:
    """The victim's recipe: params.yaml's `train`, then what a scenario asks for, then the drill's own `recipe`."""
    common = read_params("train", TrainParams).model_dump()
    own = {"mode": "scratch", "initial_weights": None, **({} if scenario == "scratch" else HEAD)}
    try:
        return TrainParams.model_validate(common | own | params.recipe)
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"recipe.{'.'.join(map(str, first['loc']))}={first['input']!r}: {reason(first)}") from error
