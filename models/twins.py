"""The files of extractors' twins (`models.distil`)."""

import base64
import copy
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
from torch import nn

from cleanlabel.models.extractors import Extractor
from cleanlabel.models.weights import TrainedOn
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.files import file_digest, replacing
from cleanlabel.sanitize.overlap import HASH, hashes_alone, record_from, to_bytes

FORMAT = "cleanlabel-twin/2"
"""Version 1 had only hashes of the images, and did not name the denoiser."""
OLDER = "cleanlabel-twin/1"


def save_twin(
    network: nn.Module, path: Path, extractor_digest: str, sigma: float, denoiser_digest: str | None, trained: TrainedOn
) -> None:
    """Write a twin's weights with its extractor, its noise, its denoiser, and the record of its training images."""
    facts = {
        "extractor": extractor_digest,
        "sigma": sigma,
        "denoiser": denoiser_digest,
        "trained_on": trained.digest,
        "record": base64.b64encode(to_bytes(trained.record)).decode() if trained.record else None,
    }
    tensors = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    with replacing(path) as scratch:
        safetensors.torch.save_file(tensors, scratch, metadata={FORMAT: json.dumps(facts, sort_keys=True)})


def read_twin(path: Path) -> dict[str, Any]:
    """The metadata of a twin's file. InputError if it is missing or is not a twin's."""
    try:
        with safetensors.safe_open(path, framework="pt") as archive:
            metadata = archive.metadata() or {}
            facts: dict[str, Any] = json.loads(metadata[FORMAT if FORMAT in metadata else OLDER])
    except (OSError, KeyError, ValueError, safetensors.SafetensorError) as error:
        raise InputError(
            f"{path} is not a twin of an extractor ({error!r}); make one with `python -m flows.distil`"
        ) from error
    return facts


def seen_by_twin(path: Path) -> TrainedOn:
    """The record of the images that a twin was distilled on; empty where there is none. InputError if it is damaged."""
    facts = read_twin(path)
    try:
        if facts.get("record"):
            record = record_from(io.BytesIO(base64.b64decode(facts["record"], validate=True)), f"the record in {path}")
            return TrainedOn(facts.get("trained_on"), record)
        kept = bytes.fromhex(facts["images"]) if facts.get("images") else None
        found = None if kept is None else np.frombuffer(kept, dtype=np.uint8).reshape(-1, HASH)
    except (TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} has no readable record of its training images ({error}); restore it") from error
    return TrainedOn(facts.get("trained_on"), None if found is None else hashes_alone(found))


def load_twin(extractor: Extractor, path: Path) -> Extractor:
    """The twin in a file. InputError if it belongs to another extractor."""
    if read_twin(path)["extractor"] != extractor.digest:
        raise InputError(f"{path} is the twin of another extractor; make one with `python -m flows.distil`")
    network = copy.deepcopy(extractor.network)
    try:
        network.load_state_dict(safetensors.torch.load_file(path), strict=True)
    except (RuntimeError, safetensors.SafetensorError) as error:
        raise InputError(f"{path} does not hold the weights of a twin; make it again") from error
    return replace(extractor, network=network.eval(), digest=file_digest(path))
