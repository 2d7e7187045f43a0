"""A drill from its params: sets, victim, attacker and targets, all checked before the slow work begins."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cleanlabel.models.extractors import Extractor, accelerated
from cleanlabel.models.params import TrainParams
from cleanlabel.models.plan import recipe_of
from cleanlabel.redteam.attacks import attack_named
from cleanlabel.redteam.drill.backdoors import TRIGGERS, trigger_for
from cleanlabel.redteam.drill.drill import Drill
from cleanlabel.redteam.drill.inputs import admitted_to, denoiser_for, extractor_for, loaded, sets_of
from cleanlabel.redteam.drill.instruments import require_trusted
from cleanlabel.redteam.drill.params import DrillParams, recipe_for
from cleanlabel.redteam.threat.attacker import Attack, Budget, Knowledge
from cleanlabel.redteam.threat.setups import (
    Setup,
    drawn_backdoors,
    drawn_targets,
    published_setups,
    read_setups,
)
from cleanlabel.redteam.threat.victims import Scenario, Victim, required_extractor
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.files import file_digest, write_json
from cleanlabel.sanitize.imageset import ImageSet, require_trainable
from cleanlabel.sanitize.keys import Inputs, code_digest, in_order, key_of
from cleanlabel.sanitize.noise import Entropy, draw_entropy

STATE = Path("data/redteam")
COLLIDE = ("frogs", "convex", "bullseye", "hidden-trigger")
"""Attacks by feature collision, which are made for a frozen extractor."""
RESUMABLE = ("targets", "sigma", "ensemble", "draws", "alpha", "known", "extractor", "denoiser", "root", "setups")
"""Params that do not change the result for one target at one sigma, or whose content is digested instead (the
denoiser's digest is part of the names of files that depend on it)."""


@dataclass(frozen=True)
class DrillInputs(Inputs):
    """Everything that the results for one target at one sigma depend on; its key names the drill's folder.

    params: without those of `RESUMABLE`. digests: of sets, networks and code; orders: those of sets with their order.
    """

    params: dict[str, Any]
    scenario: str
    recipe: dict[str, Any]
    attack: str
    trigger: str | None
    digests: dict[str, Any]
    orders: dict[str, str | None]


def prepared(params: DrillParams, device: torch.device | str = "cpu", state: Path = STATE) -> Drill:
    """The drill, ready to run. InputError names what is missing or does not fit."""
    device = torch.device(device)
    attack = attack_named(params.attack, params.settings)
    scenario: Scenario = params.scenario or ("transfer" if params.attack in COLLIDE else "scratch")
    recipe = recipe_for(params, scenario)
    clean, test, trusted, train = sets_of(params)
    if clean.image_shape != test.image_shape:
        raise InputError(f"raw images are {clean.image_shape}, test images {test.image_shape}; bring them to one size")
    require_trainable(clean, "raw")
    n = params.images or len(clean)
    budget = Budget(params.poisons or max(1, round(0.01 * n)), params.epsilon, params.norm)
    denoiser = denoiser_for(params, clean, device)
    victim = _victim(params, scenario, recipe, clean, trusted, device)
    known, attackers = _attackers(params, victim)
    candidates = _candidates(params, clean, test, train, budget)
    own_trusted = trusted if victim.summed else None
    admitted_to(clean, params, recipe, denoiser, own_trusted)
    inputs = _inputs(params, attack, victim, {"raw": clean, "test": test, "trusted": own_trusted}, known)
    folder = state / f"{params.attack}-{scenario}-{key_of(inputs)[:12]}"
    entropy = _entropy(folder, inputs, params.entropy)
    return Drill(
        params, attack, victim, attackers, known, candidates, test, denoiser, budget, entropy, folder, own_trusted
    )


def _victim(
    params: DrillParams,
    scenario: Scenario,
    recipe: TrainParams,
    clean: ImageSet,
    trusted: ImageSet | None,
    device: torch.device,
) -> Victim:
    extractor = None
    if scenario != "scratch":
        extractor = extractor_for(params, recipe, trusted, clean, device)
        if scenario == "transfer":
            extractor = accelerated(extractor)
    victim = Victim(scenario, recipe, len(clean.classes), clean.image_shape, extractor, device)
    if victim.summed:
        require_trusted(victim, trusted)
        if params.ensemble:
            raise InputError(
                f"ensemble={params.ensemble} counts votes, and a bounded-influence head gives sums; set draws instead"
            )
    return victim


def _attackers(params: DrillParams, victim: Victim) -> tuple[tuple[Extractor, ...], tuple[Victim, ...]]:
    """(networks that the attacker is given, victims that the attacker assumes and trains): white-box or black-box."""
    if victim.scenario != "scratch":
        given = tuple(loaded(Path(name), victim.image_shape, victim.device) for name in params.known)
        return given or (accelerated(required_extractor(victim)),), (victim,)
    recipes = [
        recipe_for(params.model_copy(update={"recipe": params.recipe | {"architecture": name}}), victim.scenario)
        for name in params.known
    ]
    return (), tuple(replace(victim, recipe=own) for own in recipes) or (victim,)


def _inputs(
    params: DrillParams,
    attack: Attack,
    victim: Victim,
    sets: dict[str, ImageSet | None],
    known: tuple[Extractor, ...],
) -> DrillInputs:
    # A fixed entropy is part of what was asked for: with another value it is another drill.
    resumable = {*RESUMABLE, "entropy"} if params.entropy == "os" else {*RESUMABLE}
    return DrillInputs(
        params=params.model_dump(exclude=resumable),
        scenario=victim.scenario,
        recipe=victim.recipe.model_dump(mode="json") if victim.summed else recipe_of(victim.recipe),
        attack=repr(attack),
        trigger=repr(trigger_for(params)) if params.attack in TRIGGERS else None,
        digests={
            **{name: images.digest if images is not None else None for name, images in sets.items()},
            "extractor": victim.extractor.digest if victim.extractor else None,
            "known": [net.digest for net in known] if known else params.known,
            "setups": file_digest(Path(params.setups)) if params.setups else None,
            "code": code_digest(type(attack).__module__, "cleanlabel.redteam.drill.drill"),
        },
        orders={name: in_order(images) if images is not None else None for name, images in sets.items()},
    )


def _candidates(
    params: DrillParams, clean: ImageSet, test: ImageSet, train: ImageSet | None, budget: Budget
) -> Iterator[Setup]:
    if train is None or params.attack in TRIGGERS:  # any class may be the intended one
        fewest = int(np.bincount(clean.labels, minlength=len(clean.classes)).argmin())
        Knowledge((), clean).chosen_bases(fewest, budget.count, torch.Generator())  # refuses too many poisons
    if params.attack in TRIGGERS:
        trigger = trigger_for(params)
        trigger.mask(clean.image_shape)  # refuse one that does not fit before anything takes long
        return iter(drawn_backdoors(clean, trigger, params.attack == "label-consistent", params.seed))
    if params.setups and train is not None:
        return published_setups(read_setups(Path(params.setups)), train, test, params.images, budget.count)
    return iter(drawn_targets(clean, test, params.seed))


def _entropy(folder: Path, inputs: DrillInputs, spec: str) -> Entropy:
    """The victim's entropy: that of the earlier run of this drill, or a new one."""
    path = folder / "drill.json"
    if path.is_file():
        kept = json.loads(path.read_text())["entropy"]
        return Entropy(bytes.fromhex(kept["value"]), kept["source"])
    entropy = draw_entropy(spec)
    write_json(path, asdict(inputs) | {"entropy": {"value": entropy.hex, "source": entropy.source}})
    return entropy
