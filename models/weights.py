"""Classifier weights on disk: safetensors with the architecture beside them, read back strictly."""

import json
from pathlib import Path

import safetensors
import safetensors.torch
from torch import nn

from models.classifiers import build
from sanitize.errors import InputError
from sanitize.files import replacing

FORMAT = "cleanlabel-classifier/1"


def save_weights(
    model: nn.Module, path: Path, architecture: str, image_shape: tuple[int, int, int], classes: int, width: int
) -> None:
    """Write the weights and what is needed to build the network again; the same weights give the same bytes."""
    description = {"architecture": architecture, "classes": classes, "image_shape": image_shape, "width": width}
    metadata = {FORMAT: json.dumps(description, sort_keys=True)}  # one key: several come in any order
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with replacing(path) as scratch:
        safetensors.torch.save_file(tensors, scratch, metadata=metadata)


def load_weights(path: Path) -> nn.Module:
    """The classifier in `path`, in evaluation mode. InputError if the file is damaged or is something else."""
    try:
        with safetensors.safe_open(path, framework="pt") as archive:
            metadata = archive.metadata() or {}
            tensors = {name: archive.get_tensor(name) for name in archive.keys()}  # noqa: SIM118 (no iterator)
    except (OSError, safetensors.SafetensorError) as error:
        raise InputError(f"{path} is no readable safetensors file ({error}); restore it with `dvc checkout`") from error
    if FORMAT not in metadata:
        raise InputError(f"{path} holds no {FORMAT} weights; give a file that this project wrote")
    description = json.loads(metadata[FORMAT])
    h, w, c = description["image_shape"]
    model = build(description["architecture"], (h, w, c), description["classes"], description["width"])
    model.load_state_dict(tensors, strict=True)
    return model.eval()
