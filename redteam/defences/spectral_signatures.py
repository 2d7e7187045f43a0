"""Spectral signatures (Tran et al. 2018): removes outliers along a class's first principal direction."""

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cleanlabel.redteam.defences.interface import Context, Defended, Ints, trained_without, training_features
from cleanlabel.redteam.threat.victims import Victim
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.imageset import ImageSet

OVERESTIMATE = 1.5


@dataclass(frozen=True)
class SpectralSignatures:
    """Of every class, the images with the highest scores are removed: 1.5 times as many as may be poisoned.

    share: of a class that may be poisoned (published: .05 and .1; 1 % of a set of ten classes, all in one class, is
    .1). The score is the squared projection of the centred features on their top right singular vector.
    """

    share: float = 0.1

    def require(self, raw: ImageSet, victim: Victim, context: Context) -> None:
        """InputError for a share that removes no image or all."""
        import sklearn.decomposition  # noqa: F401 (here, so that its seconds are not the defence's)

        if not 0 < self.share * OVERESTIMATE < 1:
            raise InputError(
                f"share={self.share:g} removes {OVERESTIMATE * self.share:.0%} of every class; choose one above 0 and "
                f"below {1 / OVERESTIMATE:.2f}"
            )

    def fit(self, raw: ImageSet, victim: Victim, context: Context, seed: int) -> Defended:
        """See `Defence.fit`."""
        self.require(raw, victim, context)
        started = time.perf_counter()
        removed = outstanding(training_features(raw, victim, seed).numpy(), raw.labels, self.share)
        answers = trained_without(removed, raw, victim, context, seed)
        return Defended(answers, time.perf_counter() - started, removed)


def outstanding(features: NDArray[np.float32], labels: Ints, share: float) -> Ints:
    """Rows of features (n, d) whose score is among the 1.5 * share highest of their class; of each class at least one
    stays."""
    from sklearn.decomposition import PCA  # imported late: it takes seconds

    removed = []
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        most = min(int(OVERESTIMATE * share * len(rows)), len(rows) - 1)
        if most < 1:
            continue
        along = PCA(1, svd_solver="full").fit_transform(features[rows].astype(np.float64))[:, 0]
        removed.append(rows[np.argsort(-(along**2), kind="stable")[:most]])
    return np.sort(np.concatenate(removed)) if removed else np.empty(0, dtype=np.int64)
