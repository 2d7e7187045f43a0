"""The `influence` section of a certificate: how many images may change at will, and how far all the others may move."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cleanlabel.models.certificate import ABSTAIN, certified_accuracy
from cleanlabel.models.influenced import COSTS, Influenced
from cleanlabel.models.params import CertifyParams
from cleanlabel.models.rounding import down

COUNTS = (1, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000)
"""Numbers of images reported in addition to `certify.images`, up to the largest with a certified answer."""
RADII = (2.0, 4.0, 8.0, 12.4, 17.4, 28.0)
"""Joint radii reported in addition to `certify.radii`, up to the largest certified one: 12.4 and 17.4 are the norms of
25 and 50 published poisons at 16/255 on CIFAR-10."""
WAYS = {
    "rewritten": "rewritten at will under their own labels",
    "relabelled": "rewritten and relabelled at will",
    "inserted": "added or removed",
}


def influence_record(found: Influenced, truth: NDArray[np.int64], params: CertifyParams) -> dict[str, Any]:
    """The `influence` section of certificate.json: the weight of one image, and what is certified against how many.

    counts    for each way to change images at will and each number of images: certified accuracy, others unchanged.
    frontier  one row per number of images rewritten at will under their own labels, while the others move within a
              joint l2 radius: certified accuracy at each radius, and the median radius of the certified answers.
    The same input gives the same record.
    """
    held = {way: found.counts(way) for way in COSTS}
    correct = found.label == truth
    most = {way: int(counts.max(initial=0)) for way, counts in held.items()}
    radii = reported_radii(params.radii, float(found.radius().max(initial=0)))
    return {
        "class_sizes": list(found.class_sizes),
        "sides": found.sides,
        "most": most,
        "counts": [
            {
                "images": a,
                **{way: down(np.mean(correct & (held[way] >= a)), 4) for way in COSTS},
            }
            for a in _reported(params.images, max(most.values()))
        ],
        "frontier": [
            _row(a, found.label, found.radius(rewritten=a), held["rewritten"] >= a, truth, radii)
            for a in [0, *_reported([], most["rewritten"])]
        ]
        if found.sigma
        else [],
    }


def reported_radii(asked: list[float], largest: float) -> list[float]:
    """The radii of a bounded-influence certificate's tables."""
    return sorted({*asked, *(r for r in RADII if r < largest)})


def influence_of(certificate: dict[str, Any]) -> dict[str, Any] | None:
    """The certificate's `influence` section; None if the models vote."""
    found = certificate.get("influence")
    return found if isinstance(found, dict) else None


def _row(
    a: int,
    label: NDArray[np.int64],
    radius: NDArray[np.float64],
    within: NDArray[np.bool_],
    truth: NDArray[np.int64],
    radii: list[float],
) -> dict[str, Any]:
    label = np.where(within, label, ABSTAIN)
    reach = radius[label != ABSTAIN]
    return {
        "rewritten": a,
        "certified": len(reach),
        "median_radius": down(np.median(reach), 6) if len(reach) else None,
        "at_radii": [
            {"radius": r, "certified_accuracy": down(share, 4)}
            for r, share in zip(radii, certified_accuracy(label, radius, truth, radii), strict=True)
        ],
    }


def _reported(asked: list[int], most: int) -> list[int]:
    return sorted(a for a in {*asked, *COUNTS} if a <= most) or [1]
