"""The figures of a certificate: certified accuracy by radius, changed images and trigger; a radius in words."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cleanlabel.models.certificate import (
    certified_accuracy,
    certified_accuracy_grid,
    images_tolerated,
    radius_beside_a_trigger,
)
from cleanlabel.models.rounding import below, down, exact


def at_radii(
    label: NDArray[np.int64],
    radius: NDArray[np.float64],
    truth: NDArray[np.int64],
    radii: list[float],
    epsilon_255: float,
    dimension: int,
) -> list[dict[str, Any]]:
    """For each radius: the certified accuracy, and how many images may change by epsilon (l_infinity) within it."""
    accuracy = certified_accuracy(label, radius, truth, radii)
    return [
        {
            "radius": r,
            "certified_accuracy": down(share, 4),
            "images_tolerated": int(images_tolerated(r, l2_of(epsilon_255, dimension))),
            "buys": what_it_buys(r, epsilon_255, dimension),
        }
        for r, share in zip(radii, accuracy, strict=True)
    ]


def at_images(
    label: NDArray[np.int64],
    radius: NDArray[np.float64],
    truth: NDArray[np.int64],
    images: list[int],
    epsilons_255: list[float],
    dimension: int,
) -> list[dict[str, Any]]:
    """For each number of images and each change of every one of them (l_infinity): joint norm, certified accuracy."""
    grid = certified_accuracy_grid(label, radius, truth, images, [l2_of(e, dimension) for e in epsilons_255])
    return [
        {
            "images": r,
            "epsilon_255": e,
            "joint_l2": down(math.sqrt(r) * l2_of(e, dimension), 4),
            "certified_accuracy": down(grid[i, j], 4),
        }
        for i, r in enumerate(images)
        for j, e in enumerate(epsilons_255)
    ]


def at_triggers(
    label: NDArray[np.int64],
    radius: NDArray[np.float64],
    truth: NDArray[np.int64],
    radii: list[float],
    sigma: float,
    test_sigma: float,
) -> list[dict[str, Any]]:
    """Certified accuracy for each l2 change of the test input, together with each joint radius.

    The triggers are the radii scaled by test_sigma / sigma. Empty if test inputs are not noised: then no trigger is
    covered.
    """
    if not test_sigma:
        return []
    triggers = [down(r * test_sigma / sigma, 6) for r in radii]
    rows = []
    for trigger in triggers:
        beside = radius_beside_a_trigger(radius, sigma, test_sigma, trigger)
        accuracy = certified_accuracy(label, beside, truth, radii)
        rows += [
            {"trigger_l2": trigger, "radius": r, "certified_accuracy": down(share, 4)}
            for r, share in zip(radii, accuracy, strict=True)
        ]
    return rows


def l2_of(epsilon_255: float, dimension: int) -> float:
    """The l2 norm, in [0,1] units, of a change of each of `dimension` values by `epsilon_255` / 255."""
    return epsilon_255 / 255 * math.sqrt(dimension)


def what_it_buys(radius: float, epsilon_255: float, dimension: int) -> str:
    """A radius in words: how many training images may change by how much."""
    if radius == 0:
        return "the answer is the smoothed classifier's own"
    images = int(images_tolerated(radius, l2_of(epsilon_255, dimension)))
    step = f"{exact(epsilon_255)}/255"
    if images == 0:
        return f"one image may change by {exact(below(radius / math.sqrt(dimension) * 255))}/255, none by {step}"
    return f"{images} image{'s' if images > 1 else ''} may change by {step} each"
