"""Ordinary training on images in memory, and prediction."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from models.classifiers import build
from models.params import TrainParams

PREDICT_BATCH = 1024


def as_tensor(images: NDArray[Any]) -> Tensor:
    """float32 (n, c, h, w) in [-1, 1] from uint8 images, or from float32 ones in [0,1] units that may exceed them.

    The constants are public: no mean or deviation of any data set enters.
    """
    pixels = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float()
    return pixels / 127.5 - 1 if images.dtype == np.uint8 else 2 * pixels - 1


def train(
    images: NDArray[Any],
    labels: NDArray[np.int64],
    classes: int,
    recipe: TrainParams,
    seed: int,
    device: torch.device | str = "cpu",
) -> nn.Module:
    """A classifier trained from scratch by the recipe; all of its randomness follows from `seed`.

    images (n, h, w, c), a sanitized copy (nothing else of the raw set reaches training); labels (n,) in
    0..classes-1. Returned in evaluation mode, on `device`.
    """
    n, h, w, c = images.shape
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build(recipe.architecture, (h, w, c), classes, recipe.width)
    model = model.to(device).train()
    inputs, targets = as_tensor(images).to(device), torch.from_numpy(labels).to(device)
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay, foreach=True
    )
    steps = recipe.epochs * -(-n // recipe.batch)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 - step / steps)
    for _ in range(recipe.epochs):
        for rows in torch.randperm(n, generator=generator).split(recipe.batch):
            batch = shifted(inputs[rows], recipe.shift, generator)
            loss = functional.cross_entropy(model(batch), targets[rows], label_smoothing=recipe.label_smoothing)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return model.eval()


def shifted(batch: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """Each image moved by its own random offset of up to `most` pixels a side; black moves in."""
    if most == 0:
        return batch
    n, _, h, w = batch.shape
    padded = functional.pad(batch, (most, most, most, most), value=-1.0)
    top, left = torch.randint(2 * most + 1, (2, n), generator=generator)
    rows = (top[:, None] + torch.arange(h)).to(batch.device)
    columns = (left[:, None] + torch.arange(w)).to(batch.device)
    image = torch.arange(n, device=batch.device)[:, None, None]
    return padded[image, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


@torch.inference_mode()
def predict(model: nn.Module, images: NDArray[Any], device: torch.device | str = "cpu") -> NDArray[np.int64]:
    """The predicted class of each image, (n,). A model whose logits are not finite votes for nobody: -1."""
    votes = []
    for batch in as_tensor(images).split(PREDICT_BATCH):
        logits = model(batch.to(device))
        best = logits.argmax(dim=1)
        best[~logits.isfinite().all(dim=1)] = -1
        votes.append(best.cpu().numpy())
    return np.concatenate(votes) if votes else np.empty(0, dtype=np.int64)
