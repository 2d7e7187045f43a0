"""The distilled twin of an extractor: it maps sanitized images to the extractor's features of the clean ones."""

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from cleanlabel.models.extractors import Extractor, load_extractor
from cleanlabel.models.training import as_tensor
from cleanlabel.models.weights import TrainedOn
from cleanlabel.sanitize.device import compute_repeatably, has_fast_bfloat16, is_accelerator, sent
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.files import file_digest, replacing

BATCH = 64
RATE = 2e-3
FORMAT = "cleanlabel-twin/1"


def distilled(
    extractor: Extractor, copied: NDArray[Any], wanted: Tensor, epochs: int, device: str | torch.device, name: str
) -> nn.Module:
    """A twin of the extractor's network, trained to map sanitized trusted images to the features of the clean ones.

    copied: the sanitized images (n, h, w, c); wanted: the clean features (n, d). Least squares makes it approximate the
    mean of the clean features given the sanitized image, which keeps class means. All layers learn, BatchNorm's
    statistics come from the copies, and no label is used.
    """
    if is_accelerator(device):
        compute_repeatably()
    network = copy.deepcopy(extractor.network).to(device, memory_format=torch.channels_last)
    network.requires_grad_(requires_grad=True).train()
    inputs, generator = as_tensor(copied), torch.Generator().manual_seed(0)
    steps = epochs * -(-len(inputs) // BATCH)
    optimiser = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 - step / steps)
    with tqdm(total=steps, desc=f"distil {name}", unit="batch", mininterval=5) as bar:
        for _ in range(epochs):
            for rows in torch.randperm(len(inputs), generator=generator).split(BATCH):
                batch = inputs[rows].flip(3) if torch.rand((), generator=generator) < 0.5 else inputs[rows]
                batch = sent(batch.contiguous(memory_format=torch.channels_last), device)
                with fast_arithmetic(device):
                    answers = network(batch)
                loss = functional.mse_loss(answers.float(), sent(wanted[rows], device))
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                schedule.step()
                bar.update()
    return network.requires_grad_(requires_grad=False).eval()


def fast_arithmetic(device: torch.device | str) -> torch.autocast:
    """bfloat16 if the device multiplies it in hardware, otherwise float32: emulation would take minutes."""
    device = torch.device(device)
    return torch.autocast(device.type, torch.bfloat16, enabled=has_fast_bfloat16(device))


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
            f"{path} is no twin of an extractor ({error!r}); make one with `python -m flows.distil`"
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
        raise InputError(f"{path} does not hold the weights of a twin; make it anew") from error
    return replace(extractor, network=network.eval(), digest=file_digest(path))


def twin_of(extractor_path: Path, path: Path) -> Extractor:
    """The twin in a file, for the extractor in another file."""
    return load_twin(load_extractor(extractor_path), path)
