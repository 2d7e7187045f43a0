"""What a comparison found for each defence, over all targets: success, accuracy, cost, and what is certified."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from cleanlabel.redteam.comparison.bench import Entry, Outcome
from cleanlabel.redteam.drill.drill import Drill
from cleanlabel.redteam.drill.rows import interval


@dataclass(frozen=True)
class Row:
    """One defence over all targets. Rates in [0, 1] with a 95 % interval; removed, poisons_removed: means per target.

    loss: success plus the accuracy that is lost against no defence. ratio: seconds over those of undefended training in
    the same run. Certificates as in `Outcome`, the median over targets.
    """

    defence: str
    name: str
    settings: str
    targets: int
    success: float
    low: float
    high: float
    accuracy: float
    loss: float
    seconds: float
    ratio: float
    peak_megabytes: float | None
    poisons: float
    removed: float
    poisons_removed: float
    insertions: float | None
    insertions_test: float | None
    radius: float | None
    radius_test: float | None
    facts: dict[str, float]


def rows_of(entries: list[Entry], outcomes: list[Outcome]) -> list[Row]:
    """One row per defence, in the order of the entries; the first must be the undefended one."""
    found: list[Row] = []
    for entry in entries:
        own = [outcome for outcome in outcomes if outcome.defence == entry.label]
        rates = [outcome.success for outcome in own]
        low, high = interval(rates)
        success, accuracy = float(np.mean(rates)), _mean(own, "accuracy")
        undefended = found[0].accuracy if found else accuracy
        found.append(
            Row(
                defence=entry.label,
                name=entry.name,
                settings=repr(entry.defence),
                targets=len(own),
                success=success,
                low=low,
                high=high,
                accuracy=accuracy,
                loss=success + (undefended - accuracy),
                seconds=_mean(own, "seconds"),
                ratio=_mean(own, "seconds") / max(_mean(own, "undefended_seconds"), 1e-9),
                peak_megabytes=max((o.peak_megabytes for o in own if o.peak_megabytes is not None), default=None),
                poisons=_mean(own, "poisons"),
                removed=_mean(own, "removed"),
                poisons_removed=_mean(own, "poisons_removed"),
                insertions=_median(own, "insertions"),
                insertions_test=_median(own, "insertions_test"),
                radius=_median(own, "radius"),
                radius_test=_median(own, "radius_test"),
                facts={key: float(np.mean([o.facts[key] for o in own])) for key in own[0].facts},
            )
        )
    return found


def summary(drill: Drill, entries: list[Entry], outcomes: list[Outcome], images: int) -> dict[str, Any]:
    """The comparison as JSON."""
    p = drill.params
    return {
        "attack": p.attack,
        "scenario": drill.victim.scenario,
        "knowledge": "white-box" if drill.white_box else "black-box",
        "data": p.data,
        "images": images,
        "poisons": drill.budget.count,
        "bound": f"{p.epsilon_255:g}/255 l_inf" if p.norm == "linf" else f"{p.epsilon:g} l2",
        "attack_settings": repr(drill.attack),
        "recipe": drill.victim.recipe.model_dump(mode="json"),
        "device": str(drill.victim.device),
        "joint_l2": float(np.median([outcome.joint_l2 for outcome in outcomes])),
        "rows": [asdict(row) for row in rows_of(entries, outcomes)],
        "outcomes": [asdict(outcome) for outcome in outcomes],
    }


def _mean(outcomes: list[Outcome], name: str) -> float:
    return float(np.mean([getattr(outcome, name) for outcome in outcomes]))


def _median(outcomes: list[Outcome], name: str) -> float | None:
    values = [getattr(outcome, name) for outcome in outcomes]
    return None if None in values else float(np.median(values))
