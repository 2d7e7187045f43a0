"""The files of extractors' twins (`models.distil`)."""

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import nn

from cleanlabel.models.extractors import Extractor
from cleanlabel.models.weights import TrainedOn
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.files import file_digest, replacing

FORMAT = "cleanlabel-twin/1"


def save_twin(network: nn.Module, path: Path, extractor_digest: str, sigma: float, trained: TrainedOn) -> None:
    """Write a twin's weights with its extractor, its noise and a record of its training images."""
    hashes = trained.record.hashes if trained.record else None
    facts = {
        "extractor": extractor_digest,
        "sigma": sigma,
        "trained_on": trained.digest,
        "images": hashes.tobytes().hex() if hashes is not None else None,
    }
    tensors = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    with replacing(path) as scratch:
        safetensors.torch.save_file(tensors, scratch, metadata={FORMAT: json.dumps(facts, sort_keys=True)})


def read_twin(path: Path) -> dict[str, Any]:
    """The metadata of a twin's file. InputError if it is missing or is not a twin's."""
    try:
        with safetensors.safe_open(path, framework="pt") as archive:
            facts: dict[str, Any] = json.loads((archive.metadata() or {})[FORMAT])
    except (OSError, KeyError, ValueError, safetensors.SafetensorError) as error:
        raise InputError(
            f"{path} is not a twin of an extractor ({error!r}); make one with `python -m flows.distil`"
        ) from error
    return facts


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
