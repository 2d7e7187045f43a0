"""An influence with a public threshold: an image says something of a test input only if it lies far out towards it.

    k_t = clip( (u_t . (psi - psi_0) - low_t) / (high_t - low_t), 0, 1 )

low_t and high_t: two quantiles of u_t . (psi - psi_0) over trusted images. Public like the instrument's own clip, so
the certificate is the same, with lo = 0, hi = 1. Where the clip at 0 counts about half of all images, of any class, a
threshold at .9 leaves most classes near the mean influence 0: there moves change little (`models.influence.spread`),
and a class whose mean lies far out has less of a start.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from models.instrument import STEPS, Instrument


@dataclass(frozen=True, eq=False)
class Thresholded(Instrument):
    """An instrument of the instrumental form; `threshold` is the lower quantile and `quantile` the upper one."""

    threshold: float = 0.9

    def directions(self, asked: Tensor) -> NDArray[np.float32]:
        """u_t / (high_t - low_t), and below it -low_t / (high_t - low_t): float32 (d + 1, n)."""
        u = self.weight @ (asked.double().numpy() - self.phi_0).T
        along = self.sample.astype(np.float64) @ u
        low, high = np.quantile(along, (self.threshold, self.quantile), axis=0)
        return (np.vstack([u, -low]) / np.maximum(high - low, np.finfo(np.float32).tiny)).astype(np.float32)

    def influences(self, rows: Tensor, directions: NDArray[np.float32]) -> NDArray[np.float32]:
        """k_t of images with the features `rows` (n, d), in steps: whole numbers, (n, n_test)."""
        psi = (rows.float().numpy() - self.psi_0).astype(np.float32)
        raw = (psi @ directions[:-1] + directions[-1]) * STEPS
        return np.rint(np.clip(raw, 0, STEPS))

    @property
    def digest(self) -> str:
        """sha256 of the instrument's digest and the threshold."""
        return hashlib.sha256(f"{super().digest}/{self.threshold!r}".encode()).hexdigest()
