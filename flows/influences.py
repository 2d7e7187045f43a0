"""The certificate of a bounded-influence head: how many images change at will, and how far all the others move."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cleanlabel.flows.report import markdown, pivot
from cleanlabel.models.certificate import ABSTAIN, certified_accuracy
from cleanlabel.models.influenced import COSTS, Influenced
from cleanlabel.models.params import CertifyParams

COUNTS = (1, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000)
"""Numbers of images that are reported, as far as anything is certified, beside `certify.images`."""
RADII = (2.0, 4.0, 8.0, 12.4, 17.4, 28.0)
"""Joint radii that are reported beside `certify.radii`, as far as anything is certified: 12.4 and 17.4 are the norms of
25 and 50 published poisons at 16/255 on CIFAR-10."""
WAYS = {
    "rewritten": "rewritten at will under their own labels",
    "relabelled": "rewritten and relabelled at will",
    "inserted": "added or removed",
}


def influence_record(found: Influenced, truth: NDArray[np.int64], params: CertifyParams) -> dict[str, Any]:
    """The `influence` section of certificate.json: what one image weighs, and what holds against how many.

    counts    for each way to change images at will, certified accuracy against so many, all others untouched.
    frontier  a row for so many images rewritten at will under their own labels, the others moved within a joint l2
              radius: certified accuracy at each radius, and the median radius of the answers certified there.
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
                **{way: round(float(np.mean(correct & (held[way] >= a))), 4) for way in COSTS},
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
    """The certificate's `influence` section; None where models vote."""
    found = certificate.get("influence")
    return found if isinstance(found, dict) else None


def influence_in_words(section: dict[str, Any]) -> str:
    """What is summed, and what an image can do at most."""
    sizes = section["class_sizes"]
    least, most = min(sizes), max(sizes)
    span = "between -1 and 1" if section["sides"] == "two" else "between 0 and 1"
    images = f"{least:,}" if least == most else f"{least:,} to {most:,}"
    return (
        f"A training image's influence on an answer lies {span}, whatever its pixels; the answer is the class whose "
        f"{images} images have the largest sum. Nothing is voted on, and no number of draws caps the radius."
    )


def most_in_words(section: dict[str, Any]) -> str:
    """How far the certificates go, at best."""
    most = section["most"]
    return (
        f"The most that any answer here is certified against: {most['rewritten']} images rewritten under their own "
        f"labels, {most['relabelled']} relabelled too, {most['inserted']} added or removed."
    )


def sentences(section: dict[str, Any]) -> list[str]:
    """The section for the model card: what is certified and against what, then the tables in Markdown."""
    parts = [
        f"{influence_in_words(section)} {most_in_words(section)}",
        "Certified accuracy against so many training images changed at will, all others untouched:",
        counts_table(section),
    ]
    if section["frontier"]:
        parts += [
            "Certified accuracy where a images are rewritten at will under their own labels and all others move within "
            "a joint l2 radius R:",
            frontier_table(section),
        ]
    return parts


def counts_table(section: dict[str, Any]) -> str:
    """A row per number of images, a column per way to change them, in Markdown."""
    return markdown(
        ["images", *WAYS.values()],
        [[f"{row['images']}", *(f"{row[way]:.3f}" for way in WAYS)] for row in section["counts"]],
    )


def frontier_table(section: dict[str, Any]) -> str:
    """A row per number of rewritten images, a column per radius, and the median radius, in Markdown."""
    radii = [cell["radius"] for cell in section["frontier"][0]["at_radii"]]
    return markdown(
        ["images rewritten", *(f"R = {r:g}" for r in radii), "median R"],
        [
            [f"{row['rewritten']}", *(f"{cell['certified_accuracy']:.3f}" for cell in row["at_radii"]), median_of(row)]
            for row in section["frontier"]
        ],
    )


def frontier_grid(section: dict[str, Any]) -> tuple[list[float], dict[float, list[float]]]:
    """The frontier as columns (radii) and rows (images rewritten)."""
    cells = [{"rewritten": row["rewritten"], **cell} for row in section["frontier"] for cell in row["at_radii"]]
    return pivot(cells, "rewritten", "radius")


def median_of(row: dict[str, Any]) -> str:
    """A frontier row's median radius, or that there is none."""
    return "none" if row["median_radius"] is None else f"{row['median_radius']:.3f}"


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
        "median_radius": round(float(np.median(reach)), 6) if len(reach) else None,
        "at_radii": [
            {"radius": r, "certified_accuracy": round(float(share), 4)}
            for r, share in zip(radii, certified_accuracy(label, radius, truth, radii), strict=True)
        ],
    }


def _reported(asked: list[int], most: int) -> list[int]:
    return sorted(a for a in {*asked, *COUNTS} if a <= most) or [1]
