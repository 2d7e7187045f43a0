"""The `blocks` section of a certificate: how many images may be rewritten, and how far all the others may move."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cleanlabel.flows.certificate.figures import l2_of
from cleanlabel.models.blocks import RULE
from cleanlabel.models.certificate import ABSTAIN, certified_accuracy
from cleanlabel.models.params import CertifyParams
from cleanlabel.models.partition import frontier
from cleanlabel.models.rounding import down

MOST_ROWS = 10
"""The most numbers of rewritten images that are reported; 0 and the largest always are."""
MOST_STEPS = 7
"""The most steps of epsilon that are reported, besides 0."""


def partition_record(
    labels: NDArray[np.int64],
    radii: NDArray[np.float64],
    truth: NDArray[np.int64],
    params: CertifyParams,
    dimension: int,
    classes: int,
    block_sizes: NDArray[np.int64],
    *,
    stable_ids: bool,
) -> dict[str, Any]:
    """The `blocks` section of certificate.json: the blocks, the cost of one image, two tables of certified accuracy.

    labels, radii: (n_points, k) as `models.partition.block_certificates` gives them; truth (n_points,); dimension:
    values of an image; classes: K; block_sizes: images in each of the k blocks. The same input gives the same record.

    frontier  one row per a = 0..the largest a with any certified answer (at most `MOST_ROWS` rows): a images are
              rewritten at will, and the others move within a joint l2 radius. Certified accuracy at each of
              `params.radii`, and the median radius of the certified answers (None if there are none).
    grid      certified accuracy for the same a and for steps of epsilon up to one at which nothing is certified: a
              images are rewritten and *every* other image moves by up to epsilon (l_infinity, in 255ths). A block
              with a rewritten image counts as lost, so at most n - s moved images count; s is the number of images
              in the a smallest blocks.
    """
    k, sizes = labels.shape[1], np.sort(np.asarray(block_sizes, dtype=np.int64))
    if len(sizes) != k:
        raise ValueError(f"{len(sizes)} block sizes for {k} blocks; give one per block")
    label, radius = frontier(labels, radii, classes, range(k // 2 + 1))  # no gap exceeds k + 1, and a is worth 2a
    certified = (label != ABSTAIN).any(axis=1)
    rows = _spread(int(np.flatnonzero(certified).max(initial=0)))
    others = int(sizes.sum()) - np.concatenate([[0], np.cumsum(sizes)])
    joint = np.sqrt(others[rows])
    epsilons = _steps(max(_reach(radius[a], scale, dimension) for a, scale in zip(rows, joint, strict=True)))
    return {
        "k": k,
        "rule": RULE,
        "block_sizes": {"smallest": int(sizes[0]), "median": float(np.median(sizes)), "largest": int(sizes[-1])},
        "stable_ids": stable_ids,
        "one_image_costs": {"rewritten": 1} | ({"added": 1, "removed": 1, "renamed": 2} if stable_ids else {}),
        "most_rewritten": rows[-1],
        "frontier": [
            {
                "rewritten": a,
                "certified": int(np.sum(label[a] != ABSTAIN)),
                "median_radius": _median(radius[a][label[a] != ABSTAIN]),
                "at_radii": [
                    {"radius": r, "certified_accuracy": down(share, 4)}
                    for r, share in zip(
                        params.radii, certified_accuracy(label[a], radius[a], truth, params.radii), strict=True
                    )
                ],
            }
            for a in rows
        ],
        "grid": [
            {"rewritten": a, "epsilon_255": e, "certified_accuracy": down(share, 4)}
            for a, scale in zip(rows, joint, strict=True)
            for e, share in zip(
                epsilons,
                certified_accuracy(label[a], radius[a], truth, [scale * l2_of(e, dimension) for e in epsilons]),
                strict=True,
            )
        ],
    }


def partitions_of(certificate: dict[str, Any]) -> dict[str, Any] | None:
    """The certificate's `blocks` section; None if the raw set is not split."""
    found = certificate.get("blocks")
    return found if isinstance(found, dict) else None


def blocks_of(certificate: dict[str, Any]) -> int:
    """How many blocks the ensemble has; 1 if the raw set is not split."""
    section = partitions_of(certificate)
    return section["k"] if section else 1


def _spread(most: int) -> list[int]:
    """The numbers 0..most, or `MOST_ROWS` of them, evenly spaced and with both ends."""
    return sorted({round(a) for a in np.linspace(0, most, min(most + 1, MOST_ROWS))})


def _reach(radius: NDArray[np.float64], joint: float, dimension: int) -> float:
    """The least epsilon (l_infinity, in 255ths) at which none of these answers is certified; 0 if none ever is."""
    return float(radius.max(initial=0) / (joint * math.sqrt(dimension)) * 255) if joint else 0.0


def _steps(reach: float) -> list[float]:
    """0 and round steps, up to the first at or past `reach`; only 0 if `reach` is 0."""
    if not reach > 0:
        return [0.0]
    scale = 10.0 ** math.floor(math.log10(reach / MOST_STEPS))
    step = next(scale * f for f in (1, 2, 2.5, 5, 10, 20) if reach / (scale * f) <= MOST_STEPS)
    return [float(f"{i * step:.6g}") for i in range(math.ceil(reach / step) + 1)]


def _median(radii: NDArray[np.float64]) -> float | None:
    return down(np.median(radii), 6) if len(radii) else None
