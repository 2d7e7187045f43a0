"""Activation clustering (Chen et al. 2018): a class whose features fall into two unequal clusters loses the smaller."""

import time
import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cleanlabel.redteam.defences.interface import Context, Defended, Ints, trained_without, training_features
from cleanlabel.redteam.threat.victims import Victim
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.imageset import ImageSet

SMALLEST = 20
"""Classes with fewer images are not clustered."""


@dataclass(frozen=True)
class ActivationClustering:
    """Of every class: ICA to 10 components, k-means with k = 2; the smaller cluster is removed where it is suspicious.

    Suspicious, as published: it is small (less than `size` of the class) and the two lie apart (silhouette above
    `silhouette`; published between .10 and .15).
    """

    components: int = 10
    size: float = 0.35
    silhouette: float = 0.1

    def require(self, raw: ImageSet, victim: Victim, context: Context) -> None:
        """InputError for components or a size out of range."""
        import sklearn.cluster  # noqa: F401 (here, so that its seconds are not the defence's)

        if self.components < 1:
            raise InputError(f"components={self.components} is too few; give 1 or more (published: 10)")
        if not 0 < self.size <= 0.5:
            raise InputError(
                f"size={self.size:g} cannot be the share of the smaller cluster; give one above 0 and up to .5"
            )

    def fit(self, raw: ImageSet, victim: Victim, context: Context, seed: int) -> Defended:
        """See `Defence.fit`."""
        self.require(raw, victim, context)
        started = time.perf_counter()
        removed = self.suspicious(training_features(raw, victim, seed).numpy(), raw.labels)
        answers = trained_without(removed, raw, victim, context, seed)
        return Defended(answers, time.perf_counter() - started, removed)

    def suspicious(self, features: NDArray[np.float32], labels: Ints) -> Ints:
        """Rows of features (n, d) in a suspicious cluster of their class."""
        from sklearn.cluster import KMeans  # imported late: it takes seconds
        from sklearn.metrics import silhouette_score

        removed = [np.empty(0, dtype=np.int64)]
        for label in np.unique(labels):
            rows = np.flatnonzero(labels == label)
            if len(rows) < SMALLEST:
                continue
            reduced = _independent(features[rows].astype(np.float64), self.components)
            if not np.ptp(reduced):
                continue  # one point
            cluster = KMeans(2, n_init=10, random_state=0).fit_predict(reduced)
            smaller = np.bincount(cluster, minlength=2).argmin()
            mine = cluster == smaller
            if 0 < mine.mean() < self.size and silhouette_score(reduced, cluster) > self.silhouette:
                removed.append(rows[mine])
        return np.sort(np.concatenate(removed))


def _independent(features: NDArray[np.float64], components: int) -> NDArray[np.float64]:
    """Independent components (n, `components`, or as many as the features vary in)."""
    from sklearn.decomposition import PCA, FastICA
    from sklearn.exceptions import ConvergenceWarning

    rank = int(np.linalg.matrix_rank(features - features.mean(axis=0), rtol=1e-6))
    if not rank:
        return np.zeros((len(features), 1))
    # the same subspace that FastICA whitens to, but without dead features: a first one that is 0 makes it divide by 0
    principal = PCA(min(components, rank), svd_solver="full").fit_transform(features)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a class without structure has no better components
        found: NDArray[np.float64] = FastICA(whiten="unit-variance", random_state=0, max_iter=500).fit_transform(
            principal
        )
    return found
