"""A drill from its params: sets, victim, attacker and targets, all checked before the slow work begins."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cleanlabel.models.extractors import Extractor, accelerated, load_extractor, require_fits
from cleanlabel.models.params import TrainParams
from cleanlabel.models.plan import recipe_of
from cleanlabel.models.public_part import require_apart
from cleanlabel.redteam.attacks import attack_named
from cleanlabel.redteam.drill.drill import Drill
from cleanlabel.redteam.drill.instruments import require_trusted
from cleanlabel.redteam.drill.params import DrillParams, recipe_for
from cleanlabel.redteam.drill.sources import code_digest
from cleanlabel.redteam.threat.attacker import Budget, Knowledge
from cleanlabel.redteam.threat.setups import (
    Setup,
    drawn_backdoors,
    drawn_targets,
    published_sets,
    published_setups,
    read_setups,
    trusted_beside,
)
from cleanlabel.redteam.threat.triggers import Trigger
from cleanlabel.redteam.threat.victims import Scenario, Victim
from cleanlabel.sanitize.denoiser import Denoiser, load_denoiser
from cleanlabel.sanitize.denoiser_files import find_denoiser
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.files import file_digest, write_json
from cleanlabel.sanitize.imageset import ImageSet, load, require_trainable
from cleanlabel.sanitize.ingest import published
from cleanlabel.sanitize.noise import Entropy, draw_entropy
from cleanlabel.sanitize.overlap import record_of
from cleanlabel.sanitize.paths import DENOISER, SETS
from cleanlabel.sanitize.timestep import require_reachable

STATE = Path("data/redteam")
COLLIDE = ("frogs", "convex", "bullseye", "hidden-trigger")
"""Attacks by feature collision, which are made for a frozen extractor."""
TRIGGERS = {
    "label-consistent": Trigger(3, "bottom-right", 0, "checkerboard"),
    "hidden-trigger": Trigger(5, "bottom-right", 0, "noise"),
    "sleeper-agent": Trigger(8, "random", 0, "noise"),
}
"""Backdoors, each with its authors' trigger at 32x32 pixels (hidden-trigger: the public benchmark's, in the corner)."""
RESUMABLE = ("targets", "sigma", "ensemble", "draws", "alpha", "known", "extractor", "denoiser", "root", "setups")
"""Params that do not change the result for one target at one sigma, or whose content is digested instead (the
denoiser's digest is part of the names of files that depend on it)."""


def prepared(params: DrillParams, device: torch.device | str = "cpu", state: Path = STATE) -> Drill:
    """The drill, ready to run. InputError names what is missing or does not fit."""
    device = torch.device(device)
    attack = attack_named(params.attack, params.settings)
    scenario: Scenario = params.scenario or ("transfer" if params.attack in COLLIDE else "scratch")
    recipe = recipe_for(params, scenario)
    clean, test, trusted, train = _sets(params)
    if clean.image_shape != test.image_shape:
        raise InputError(f"raw images are {clean.image_shape}, test images {test.image_shape}; bring them to one size")
    require_trainable(clean, "raw")
    n = params.images or len(clean)
    budget = Budget(params.poisons or max(1, round(0.01 * n)), params.epsilon, params.norm)
    denoiser = _denoiser(params, clean, device)

    extractor = None
    if scenario != "scratch":
        extractor = _extractor(params, recipe, trusted, clean, device)
        if scenario == "transfer":
            extractor = accelerated(extractor)
    victim = Victim(scenario, recipe, len(clean.classes), clean.image_shape, extractor, device)
    if victim.summed:
        require_trusted(victim, trusted)
        if trusted is not None and params.data == "pipeline":  # published splits are apart by their indices
            require_apart(clean, record_of(trusted.images, trusted.ids), "the trusted ones")
        if params.ensemble:
            raise InputError(
                f"ensemble={params.ensemble} counts votes, and a bounded-influence head gives sums; set draws instead"
            )
    known: tuple[Extractor, ...] = ()
    attackers: tuple[Victim, ...] = (victim,)
    if scenario != "scratch":
        known = tuple(_loaded(Path(name), clean, device) for name in params.known) or (accelerated(extractor),)
    elif params.known:
        shape, classes = clean.image_shape, len(clean.classes)
        recipes = [
            recipe_for(params.model_copy(update={"recipe": params.recipe | {"architecture": name}}), scenario)
            for name in params.known
        ]
        attackers = tuple(Victim(scenario, own, classes, shape, None, device) for own in recipes)

    candidates = _candidates(params, clean, test, train, budget)
    # A fixed entropy is asked for by its value, so a drill begun with another one is another drill.
    resumable = {*RESUMABLE, "entropy"} if params.entropy == "os" else {*RESUMABLE}
    own = params.model_dump(exclude=resumable) | {
        "scenario": scenario,
        "recipe": recipe.model_dump(mode="json") if victim.summed else recipe_of(recipe),
        "attack": repr(attack),
        "trigger": repr(trigger_for(params)) if params.attack in TRIGGERS else None,
        "digests": {
            "raw": clean.digest,
            "test": test.digest,
            "extractor": extractor.digest if extractor else None,
            "trusted": trusted.digest if victim.summed and trusted is not None else None,
            "known": [net.digest for net in known] if known else params.known,
            "setups": file_digest(Path(params.setups)) if params.setups else None,
            "code": code_digest(type(attack).__module__, "cleanlabel.redteam.drill.drill"),
        },
    }
    digest = hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()[:12]
    folder = state / f"{params.attack}-{scenario}-{digest}"
    entropy = _entropy(folder, own, params.entropy)
    own_trusted = trusted if victim.summed else None
    return Drill(
        params, attack, victim, attackers, known, candidates, test, denoiser, budget, entropy, folder, own_trusted
    )


def _sets(params: DrillParams) -> tuple[ImageSet, ImageSet, ImageSet | None, ImageSet | None]:
    """(raw, test, trusted, whole training split in its published order); the last two where there are such."""
    if params.data == "pipeline":
        if params.setups:
            raise InputError(f"--setups {params.setups} is for a published set; name it with --data")
        for path in (SETS["raw"], SETS["test"]):
            if not path.is_file():
                raise InputError(
                    f"{path} does not exist; run `dvc repro ingest denoiser` first, or name a published set with --data"
                )
        return load(SETS["raw"]), load(SETS["test"]), load(SETS["trusted"]) if SETS["trusted"].is_file() else None, None
    if params.setups and params.attack in TRIGGERS:
        raise InputError(
            f"--setups {params.setups} names targets, but the backdoor {params.attack} has none; leave --setups out"
        )
    if params.setups:
        train, test = published_sets(params.data, Path(params.root))
        if params.recipe.get("head") != "bounded-influence":
            return train, test, None, train
        beside = trusted_beside(read_setups(Path(params.setups)), train, params.images, params.trusted)
        return train, test, beside, train
    if params.images < 1:
        raise InputError(
            "--images 0 takes the whole published set, which needs --setups; give the number of raw images"
        )
    sets = published(params.data, Path(params.root), params.held_out, params.images, params.split_seed)
    return sets["raw"], sets["test"], sets["trusted"], None


def _denoiser(params: DrillParams, clean: ImageSet, device: torch.device) -> Denoiser | None:
    """The denoiser where some sigma needs it; made for these images, its schedule reaching every sigma."""
    if not any(params.sigma) or not params.denoise:
        if params.adaptive and not params.denoise:
            raise InputError("the adaptive attacker crafts through the denoiser; leave --noise-only out")
        return None
    if Path(params.denoiser) == DENOISER and not DENOISER.is_dir():
        raise InputError(f"{DENOISER} does not exist; run `dvc repro denoiser` first, or name one with --denoiser")
    denoiser = load_denoiser(find_denoiser(params.denoiser), device)
    h, w, c = clean.image_shape
    facts = denoiser.facts
    if (h, w) != (facts.sample_size, facts.sample_size) or c > facts.channels:
        raise InputError(
            f"the denoiser takes {facts.sample_size}x{facts.sample_size} images with {facts.channels} channel(s), the "
            f"raw images are {w}x{h} with {c}; choose a denoiser for images of this size"
        )
    if params.adaptive and c != facts.channels:
        raise InputError("the adaptive attacker needs a denoiser with as many channels as the images have")
    for sigma in filter(None, params.sigma):
        require_reachable(sigma, facts.largest_sigma)
    return denoiser


def _extractor(
    params: DrillParams, recipe: TrainParams, trusted: ImageSet | None, clean: ImageSet, device: torch.device
) -> Extractor:
    """The victim's extractor: from a file, or trained by the recipe on the trusted images, which no attack reaches."""
    if params.extractor is not None:
        return _loaded(Path(params.extractor), clean, device)
    if trusted is None or not len(trusted):
        raise InputError("this scenario needs an extractor trained elsewhere; give its weights with --extractor")
    elsewhere = Victim("scratch", recipe, len(trusted.classes), trusted.image_shape, None, device)
    made = elsewhere.trained(trusted.images, trusted.labels, seed=params.seed)
    return Extractor(made.network, made.head, made.image_shape, f"{trusted.digest}-{params.seed}")


def _loaded(path: Path, clean: ImageSet, device: torch.device) -> Extractor:
    found = load_extractor(path)
    require_fits(found, clean.image_shape)
    return Extractor(found.network.to(device), found.head.to(device), found.image_shape, found.digest)


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


def trigger_for(params: DrillParams) -> Trigger:
    """The attack's published trigger, with the changes that the params name."""
    own = {
        "size": params.trigger_size,
        "place": params.trigger_place,
        "pattern": params.trigger_pattern,
        "offset": params.trigger_offset,
        "amplitude": params.trigger_amplitude,
    }
    return replace(TRIGGERS[params.attack], **{key: value for key, value in own.items() if value is not None})


def _entropy(folder: Path, content: dict[str, Any], spec: str) -> Entropy:
    """The victim's entropy: that of the earlier run of this drill, or a new one."""
    path = folder / "drill.json"
    if path.is_file():
        kept = json.loads(path.read_text())["entropy"]
        return Entropy(bytes.fromhex(kept["value"]), kept["source"])
    entropy = draw_entropy(spec)
    write_json(path, content | {"entropy": {"value": entropy.hex, "source": entropy.source}})
    return entropy
