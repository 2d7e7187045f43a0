"""What a drill found at each sigma: success with its interval, accuracy, and what can be certified."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta

from cleanlabel.models.certificate import certify
from cleanlabel.redteam.drill import covered_report
from cleanlabel.redteam.drill.covered import Coverage, draws_at
from cleanlabel.redteam.drill.drill import Cell, Drill

LEVEL = 0.95
CERTIFYING_MODELS = 100
"""Size of the ensemble whose largest possible radius is shown where no ensemble was trained."""


@dataclass(frozen=True)
class Row:
    """One sigma of a drill, over its targets. Rates in [0, 1]; norms and radii in [0,1] pixel units.

    success with `low` and `high`, its 95 % interval; control: the same without poisons. joint_l2: the median over
    targets, `joint_l2_least` the least. radius_limit: the largest joint radius that an ensemble of `models` can certify
    at this sigma, all of them agreeing; radius: the median that it did certify for the targets, if it was made.

    Of a bounded-influence head alone: covered: the share of targets whose attack is within the clean ensemble's
    certificate; smoothed_success: of the attack against that ensemble on the poisoned set; undefended: against a
    logistic head without noise; rewritten: the median number of images that may be rewritten. `models` are then draws.
    """

    sigma: float
    targets: int
    success: float
    low: float
    high: float
    control: float
    accuracy: float
    linf: float
    l2: float
    joint_l2: float
    joint_l2_least: float
    models: int
    radius_limit: float
    radius: float | None
    craft_seconds: float
    sanitize_seconds: float
    train_seconds: float
    covered: float | None = None
    smoothed_success: float | None = None
    undefended: float | None = None
    rewritten: float | None = None


def interval(rates: Sequence[float], level: float = LEVEL) -> tuple[float, float]:
    """Clopper-Pearson's two-sided interval for the mean of n rates in [0, 1].

    Exact where every rate is 0 or 1 (one image per target). A backdoor's rate is a mean over many images of one
    poisoned training; trainings are what is independent, so each counts as one trial, and k = sum of rates need not be
    whole.
    """
    n, k = len(rates), float(np.sum(rates))
    tail = (1 - level) / 2
    low = float(beta.ppf(tail, k, n - k + 1)) if k > 0 else 0.0
    high = float(beta.ppf(1 - tail, k + 1, n - k)) if k < n else 1.0
    return low, high


def radius_limit(models: int, sigma: float, alpha: float) -> float:
    """The joint radius that `models` models certify when all agree; 0 at sigma 0, where nothing is certified."""
    if not sigma:
        return 0.0
    _, radius = certify(np.array([[models, 0]]), models, sigma, alpha)
    return float(radius[0])


def rows_of(
    drill: Drill, cells: list[Cell], radii: dict[float, NDArray[np.float64]], coverage: Sequence[Coverage] = ()
) -> list[Row]:
    """One row per sigma. radii: by sigma, what an ensemble on the clean set certifies for each attacked test image.

    coverage: with a bounded-influence head, that of every target at every sigma.
    """
    found = []
    for sigma in drill.params.sigma:
        own = [cell for cell in cells if cell.sigma == sigma]
        rates = [cell.success for cell in own]
        low, high = interval(rates)
        models = drill.params.ensemble or CERTIFYING_MODELS
        limit = radius_limit(models, sigma, drill.params.alpha)
        radius = float(np.median(radii[sigma])) if sigma in radii else None
        beside = [one for one in coverage if one.sigma == sigma]
        if beside:
            models, limit = draws_at(drill, sigma), beside[0].radius_limit
            radius = float(np.median([one.radius for one in beside]))
        found.append(
            Row(
                sigma=sigma,
                targets=len(own),
                success=float(np.mean(rates)),
                low=low,
                high=high,
                control=float(np.mean([cell.control for cell in own])),
                accuracy=float(np.mean([cell.accuracy for cell in own])),
                linf=max(cell.linf for cell in own),
                l2=max(cell.l2 for cell in own),
                joint_l2=float(np.median([cell.joint_l2 for cell in own])),
                joint_l2_least=min(cell.joint_l2 for cell in own),
                models=models,
                radius_limit=limit,
                radius=radius,
                craft_seconds=float(np.mean([cell.craft_seconds for cell in own])),
                sanitize_seconds=float(np.mean([cell.sanitize_seconds for cell in own])),
                train_seconds=float(np.mean([cell.train_seconds for cell in own])),
                **(covered_report.figures(beside) if beside else {}),
            )
        )
    return found
