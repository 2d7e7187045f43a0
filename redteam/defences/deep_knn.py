"""Deep k-NN (Peri et al. 2020): images whose neighbours are of another class are removed."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from cleanlabel.redteam.defences.interface import Context, Defended, Ints, trained_without, training_features
from cleanlabel.redteam.threat.victims import Victim
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.imageset import ImageSet

BLOCK = 1024


@dataclass(frozen=True)
class DeepKnn:
    """Removes every image whose class is not the most frequent among its k nearest in the space of features.

    k: 0 for the authors' rule, twice the mean class size (250 images per class: the 500 of the paper's Table 4). An
    image is not its own neighbour (in the authors' code it is), and a tie keeps it. normalise: a neighbour of a class
    counts by one over the class's size, for sets whose classes differ in size.
    """

    k: int = 0
    normalise: bool = False

    def require(self, raw: ImageSet, victim: Victim, context: Context) -> None:
        """InputError unless every image has k others."""
        k = self.neighbours(raw)
        if not 1 <= k < len(raw):
            raise InputError(
                f"k={k} neighbours are out of range for a set of {len(raw)} images; choose 1 to {len(raw) - 1}"
            )

    def neighbours(self, raw: ImageSet) -> int:
        """How many neighbours are asked."""
        return self.k or round(2 * len(raw) / len(np.unique(raw.labels)))

    def fit(self, raw: ImageSet, victim: Victim, context: Context, seed: int) -> Defended:
        """See `Defence.fit`."""
        self.require(raw, victim, context)
        started = time.perf_counter()
        found = training_features(raw, victim, seed).to(victim.device)
        removed = strangers(found, raw.labels, self.neighbours(raw), self.normalise)
        answers = trained_without(removed, raw, victim, context, seed)
        facts = {"k": float(self.neighbours(raw))}
        return Defended(answers, time.perf_counter() - started, removed, facts=facts)


def strangers(features: Tensor, labels: NDArray[np.int64], k: int, normalise: bool = False) -> Ints:  # noqa: FBT001, FBT002
    """Rows of features (n, d) whose label is not the most frequent among their k nearest; ties keep a row."""
    own = torch.from_numpy(labels).to(features.device)
    one_hot = functional.one_hot(own).float()
    worth = 1 / one_hot.sum(dim=0).clamp(min=1) if normalise else torch.ones(one_hot.shape[1], device=own.device)
    removed = []
    for rows, nearest in nearest_in_blocks(features, k):
        votes = one_hot[nearest].sum(dim=1) * worth
        mine = votes.gather(1, own[rows, None])[:, 0]
        removed.append(rows[mine < votes.amax(dim=1)])
    return torch.cat(removed).cpu().numpy()


def nearest_in_blocks(features: Tensor, k: int, block: int = BLOCK) -> Iterator[tuple[Tensor, Tensor]]:
    """(rows (b,), indices (b, k)) of the k nearest by Euclidean distance, each without itself, block by block.

    At most block x n distances are in memory.
    """
    centred = features.float() - features.float().mean(dim=0)  # shorter vectors: fewer digits cancel
    squares = (centred**2).sum(dim=1)
    for rows in torch.arange(len(features), device=features.device).split(block):
        distances = squares - 2 * centred[rows] @ centred.T  # plus the row's own square, which orders nothing
        distances[torch.arange(len(rows), device=rows.device), rows] = torch.inf
        yield rows, distances.topk(k, dim=1, largest=False).indices
