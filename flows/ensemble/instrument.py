"""The public part of a bounded-influence head: made from trusted images at planning time, stored under its digest.

It is in .state/instruments/ on the machine that planned the ensemble, and among the ensemble's artifacts. Other
machines read it from there: if they made it again, its last bits could differ.
"""

import hashlib
import json
from pathlib import Path

import torch

from cleanlabel.flows.environment import state
from cleanlabel.flows.store.client import Store, read_file
from cleanlabel.models.instrument import Instrument, cosine, load_instrument, save_instrument
from cleanlabel.models.materials import Materials
from cleanlabel.models.params import TrainParams
from cleanlabel.models.public_part import fitted, instrument_inputs, trusted_features
from cleanlabel.models.start import start_of
from cleanlabel.sanitize.denoiser import load_denoiser
from cleanlabel.sanitize.device import default_device
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.files import file_digest, replacing
from cleanlabel.sanitize.imageset import ImageSet, load
from cleanlabel.sanitize.keys import code_digest, key_of
from cleanlabel.sanitize.paths import DENOISER, SETS

ARTIFACT = "ensemble/data/networks/instrument.safetensors"
"""Its place among the run's artifacts: beside the draws' features, which the registered version has too."""


def planned_instrument(recipe: TrainParams, raw: ImageSet, sigma: float, denoiser_digest: str | None) -> str:
    """The digest of the recipe's instrument at this sigma; an instrument made earlier from the same inputs is reused.

    InputError if the form needs trusted images and there are none. The door compares them with the raw set.
    """
    trusted = load(SETS["trusted"])
    if recipe.influence_form == "cosine":
        return _kept(cosine(recipe.influence_sides))
    if len(trusted) < 2:
        raise InputError(
            f"param train.influence_form='instrumental' is fitted to trusted images, and {SETS['trusted']} has "
            f"{len(trusted)}; add some, or set train.influence_form: cosine"
        )
    if trusted.image_shape != raw.image_shape:
        raise InputError(
            f"the trusted images have the shape {trusted.image_shape}, the raw ones {raw.image_shape}; a bounded-"
            "influence head is fitted to trusted images of the raw set's size"
        )
    extractor, twin = (file_digest(Path(name)) if name else None for name in (recipe.initial_weights, recipe.twin))
    if extractor is None:
        raise ValueError("a bounded-influence head has a frozen extractor")
    code = code_digest("cleanlabel.flows.ensemble.instrument")
    inputs = instrument_inputs(recipe, trusted, sigma, denoiser_digest, extractor, code, twin)
    pointer = _folder() / f"{key_of(inputs)}.json"
    if pointer.is_file():
        digest = str(json.loads(pointer.read_text())["digest"])
        if _path(digest).is_file() and file_digest(_path(digest)) == digest:
            return digest
    digest = _kept(_made(recipe, trusted, sigma, denoise=denoiser_digest is not None and sigma > 0))
    with replacing(pointer) as scratch:
        scratch.write_text(json.dumps({"digest": digest}) + "\n")
    return digest


def _made(recipe: TrainParams, trusted: ImageSet, sigma: float, *, denoise: bool) -> Instrument:
    device = default_device()
    start = start_of(recipe, device)
    if start.extractor is None:
        raise ValueError("a bounded-influence head has a frozen extractor")
    denoiser = load_denoiser(DENOISER, device) if denoise else None
    materials = Materials(trusted, trusted, sigma, denoiser, recipe, recipe.influence_copies, device=device)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in a draw: more threads give other last bits
    psi, phi = trusted_features(
        start.extractor,
        trusted,
        sigma,
        denoiser,
        recipe.influence_copies,
        denoise=materials.fast(sigma),
        batch=materials.batch,
        device=device,
        twin=start.twin,
    )
    torch.set_num_threads(threads)
    return fitted(recipe, psi, phi)


def keep_with_run(digest: str) -> dict[str, bytes]:
    """The instrument as an artifact of the ensemble's run."""
    return {ARTIFACT: _path(digest).read_bytes()}


def recall_instrument(digest: str, store: Store | None = None, run_id: str = "") -> Instrument:
    """The planned instrument, from this machine or from the ensemble's run. InputError if neither has it."""
    path = _path(digest)
    if not path.is_file() and store is not None:
        content = read_file(store, run_id, ARTIFACT)
        if hashlib.sha256(content).hexdigest() != digest:
            raise InputError(f"the artifact {ARTIFACT} of run {run_id} is not the planned one; it was edited")
        with replacing(path) as scratch:
            scratch.write_bytes(content)
    return load_instrument(path, digest)


def _kept(instrument: Instrument) -> str:
    digest = instrument.digest
    save_instrument(instrument, _path(digest))
    return digest


def _folder() -> Path:
    folder = state() / "instruments"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _path(digest: str) -> Path:
    return _folder() / f"{digest}.safetensors"
