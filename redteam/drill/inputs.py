"""What a drill reads: its image sets, its denoiser and its extractors, checked against each other."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cleanlabel.models.extractors import Extractor, load_extractor, require_fits
from cleanlabel.models.params import TrainParams
from cleanlabel.models.parts import part_of_trusted, part_of_weights, parts_of_recipe
from cleanlabel.redteam.drill.backdoors import TRIGGERS
from cleanlabel.redteam.drill.params import DrillParams
from cleanlabel.redteam.threat.setups import (
    published_sets,
    read_setups,
    trusted_beside,
)
from cleanlabel.redteam.threat.victims import Victim
from cleanlabel.sanitize.denoiser import Denoiser, load_denoiser
from cleanlabel.sanitize.denoiser_files import find_denoiser
from cleanlabel.sanitize.door import STATED_BY, Admitted, admit
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.imageset import ImageSet, load
from cleanlabel.sanitize.ingest import published
from cleanlabel.sanitize.keys import Inputs, code_digest, in_order, key_of
from cleanlabel.sanitize.parts import parts_of_loaded
from cleanlabel.sanitize.paths import DENOISER, SETS
from cleanlabel.sanitize.timestep import require_reachable


@dataclass(frozen=True)
class ExtractorInputs(Inputs):
    """What an extractor that a drill trains depends on: its trusted images in their order, recipe, seed and code."""

    trusted: str
    recipe: dict[str, Any]
    seed: int
    code: str


def admitted_to(
    clean: ImageSet, params: DrillParams, recipe: TrainParams, denoiser: Denoiser | None, trusted: ImageSet | None
) -> Admitted:
    """What the door says of the victim's denoiser, extractor and trusted images. A drill states nothing of its own.

    trusted: those that its head is fitted to, if there are any.
    """
    parts = []
    if denoiser:
        own = Path(params.denoiser) == DENOISER
        parts += parts_of_loaded(denoiser, None, None, None if not own else STATED_BY, int8=False, stated=own)
    if params.extractor is not None:
        parts.append(part_of_weights(Path(params.extractor)))
    parts += parts_of_recipe(recipe) if recipe.twin else []
    if trusted is not None and params.data == "pipeline":  # published splits are apart by their indices
        parts.append(part_of_trusted(trusted))
    return admit(clean, parts, demand=False)


def sets_of(params: DrillParams) -> tuple[ImageSet, ImageSet, ImageSet | None, ImageSet | None]:
    """(raw, test, trusted, whole training split in its published order); the last two may be None."""
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


def denoiser_for(params: DrillParams, clean: ImageSet, device: torch.device) -> Denoiser | None:
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


def extractor_for(
    params: DrillParams, recipe: TrainParams, trusted: ImageSet | None, clean: ImageSet, device: torch.device
) -> Extractor:
    """The victim's extractor: from a file, or trained by the recipe on the trusted images, which no attack reaches."""
    if params.extractor is not None:
        return loaded(Path(params.extractor), clean.image_shape, device)
    if trusted is None or not len(trusted):
        raise InputError("this scenario needs an extractor trained elsewhere; give its weights with --extractor")
    elsewhere = Victim("scratch", recipe, len(trusted.classes), trusted.image_shape, None, device)
    made = elsewhere.trained(trusted.images, trusted.labels, seed=params.seed)
    code = code_digest("cleanlabel.redteam.threat.victims")
    own = {name for name in type(recipe).model_fields if not name.startswith("influence_")}  # those train no network
    inputs = ExtractorInputs(in_order(trusted), recipe.model_dump(include=own), params.seed, code)
    return Extractor(made.network, made.head, made.image_shape, key_of(inputs))


def loaded(path: Path, image_shape: tuple[int, int, int], device: torch.device) -> Extractor:
    """The extractor in a file, on the device. InputError unless it takes images of this shape (h, w, c)."""
    found = load_extractor(path)
    require_fits(found, image_shape)
    return Extractor(found.network.to(device), found.head.to(device), found.image_shape, found.digest)
