"""Classifier weights on disk: safetensors with the architecture in the same file, read back strictly."""

import base64
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
from torch import Tensor, nn

from cleanlabel.models.classifiers import Architecture, build
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.files import replacing
from cleanlabel.sanitize.imageset import ImageSet
from cleanlabel.sanitize.overlap import HASH, Record, hashes, hashes_alone

FORMAT = "cleanlabel-classifier/1"


@dataclass(frozen=True)
class TrainedOn:
    """The raw set that a network was trained on, sanitized or not: its digest, and the record of its images."""

    digest: str | None = None
    record: Record | None = None


def save_weights(model: nn.Module, path: Path, architecture: Architecture, saw: TrainedOn | None = None) -> None:
    """Write the weights and the architecture needed to rebuild the network. The same weights give the same bytes.

    An `nn.ModuleList` of such networks, one per block, goes into one file. The record of the training images is part of
    the file, so that it cannot be lost: a hash of every image, which reveals nothing of the image.
    """
    content = asdict(architecture) | ({"blocks": len(model)} if isinstance(model, nn.ModuleList) else {})
    if saw and saw.digest:
        content["trained_on"] = saw.digest
    if saw and saw.record:
        content["images"] = base64.b64encode(saw.record.hashes.tobytes()).decode()
    metadata = {FORMAT: json.dumps(content, sort_keys=True)}  # one key: the order of several keys is not fixed
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with replacing(path) as scratch:
        safetensors.torch.save_file(tensors, scratch, metadata=metadata)


def load_weights(path: Path) -> nn.Module:
    """The classifier in `path`, or the `nn.ModuleList` of the classifiers of k blocks, in evaluation mode.

    InputError if the file is damaged or is something else.
    """
    architecture, blocks, tensors = _read(path)
    model = nn.ModuleList(build(architecture) for _ in range(blocks)) if blocks else build(architecture)
    try:
        model.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        raise InputError(f"the weights in {path} do not fit the network that they name; restore the file") from error
    return model.eval()


def read_weights(path: Path) -> tuple[Architecture, dict[str, Tensor]]:
    """(architecture, tensors by name) of one network's file. InputError if it is damaged or is something else."""
    architecture, blocks, tensors = _read(path)
    if blocks:
        raise InputError(f"{path} holds the networks of {blocks} blocks where one is needed; give one network's file")
    return architecture, tensors


def _read(path: Path) -> tuple[Architecture, int, dict[str, Tensor]]:
    try:
        with safetensors.safe_open(path, framework="pt") as archive:
            metadata = archive.metadata() or {}
            tensors = {name: archive.get_tensor(name) for name in archive.keys()}  # noqa: SIM118 (no iterator)
    except (OSError, safetensors.SafetensorError) as error:
        raise InputError(
            f"{path} is not a readable safetensors file ({error}); restore it, with `dvc checkout` if DVC has it"
        ) from error
    try:
        description = json.loads(metadata[FORMAT])
        description = {key: value for key, value in description.items() if key not in ("trained_on", "images")}
        h, w, c = description.pop("image_shape")
        blocks = int(description.pop("blocks", 0))
        return Architecture(image_shape=(h, w, c), **description), blocks, tensors
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} holds no {FORMAT} weights; give a file that this project wrote") from error


def read_trained_on(path: Path) -> TrainedOn:
    """The record of the training images in a weights file; empty for a file from another project.

    InputError if the file or the record is damaged.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as archive:
            description: dict[str, Any] = json.loads((archive.metadata() or {}).get(FORMAT, "{}"))
        kept = base64.b64decode(description["images"], validate=True) if "images" in description else None
        found = None if kept is None else np.frombuffer(kept, dtype=np.uint8).reshape(-1, HASH)
    except (OSError, safetensors.SafetensorError, TypeError, ValueError) as error:
        raise InputError(f"{path} has no readable record of its training data ({error}); restore it") from error
    return TrainedOn(description.get("trained_on"), None if found is None else hashes_alone(found))


def trained_on(images: ImageSet, earlier: TrainedOn | None = None) -> TrainedOn:
    """The record for training on this set, starting from weights that were trained on an `earlier` one."""
    seen = [hashes(images.images), *([earlier.record.hashes] if earlier and earlier.record else [])]
    return TrainedOn(images.digest, hashes_alone(np.concatenate(seen)))
