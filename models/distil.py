"""Distil an extractor's twin, which maps sanitized images to the extractor's features of the clean ones."""

import copy
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from cleanlabel.models.extractors import Extractor
from cleanlabel.models.training import as_tensor
from cleanlabel.sanitize.device import compute_repeatably, has_fast_bfloat16, is_accelerator, sent

BATCH = 64
RATE = 2e-3


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
