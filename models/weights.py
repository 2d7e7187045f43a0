"""Classifier weights on disk: safetensors with the architecture beside them, read back strictly."""

import json
from dataclasses import asdict
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor, nn

from models.classifiers import Architecture, build
from sanitize.errors import InputError
from sanitize.files import replacing

FORMAT = "cleanlabel-classifier/1"


def save_weights(model: nn.Module, path: Path, architecture: Architecture) -> None:
    """Write the weights and what is needed to build the network again; the same weights give the same bytes.

    An `nn.ModuleList` of such networks, one a block, goes into one file.
    """
    content = asdict(architecture) | ({"blocks": len(model)} if isinstance(model, nn.ModuleList) else {})
    metadata = {FORMAT: json.dumps(content, sort_keys=True)}  # one key: several come in any order
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with replacing(path) as scratch:
        safetensors.torch.save_file(tensors, scratch, metadata=metadata)


def load_weights(path: Path) -> nn.Module:
    """The classifier in `path`, or the `nn.ModuleList` of those of k blocks, in evaluation mode.

    InputError if the file is damaged or is something else.
    """
    architecture, blocks, tensors = _read(path)
    model = nn.ModuleList(build(architecture) for _ in range(blocks)) if blocks else build(architecture)
    try:
        model.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        raise InputError(f"the weights in {path} are not those of the network they name; restore the file") from error
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
            f"{path} is no readable safetensors file ({error}); restore it, with `dvc checkout` if DVC has it"
        ) from error
    try:
        description = json.loads(metadata[FORMAT])
        h, w, c = description.pop("image_shape")
        blocks = int(description.pop("blocks", 0))
        return Architecture(image_shape=(h, w, c), **description), blocks, tensors
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} holds no {FORMAT} weights; give a file that this project wrote") from error
