"""Published loops of the attacks on training from scratch, one image or one pair at a time, to compare with."""

import torch
from torch import Tensor, nn

from cleanlabel.redteam.attacks.gradient_matching import loss_gradient


def gradient_norms_one_by_one(model: nn.Module, pixels: Tensor, label: int) -> Tensor:
    """`gradient_matching.gradient_norms` as its authors compute it: a backward pass an image."""
    return torch.stack([loss_gradient(model, pixels[i : i + 1], label).norm() for i in range(len(pixels))])


def closest_pairs_one_by_one(distances: Tensor) -> Tensor:
    """`hidden_trigger.closest_pairs` as algorithm 1 says it: find the least entry, strike out its row and column."""
    left = distances.detach().cpu().double().clone()
    partner = torch.full((len(left),), -1)
    for _ in range(len(left)):
        row, column = divmod(int(left.argmin()), len(left))
        partner[row] = column
        left[row], left[:, column] = torch.inf, torch.inf
    return partner
