"""Records of the two larger benchmarks of attacks, in the form of drills and comparisons."""

from typing import Any

import numpy as np

from benchmarks.common.record import RESULTS
from benchmarks.tables import frozen
from cleanlabel.redteam.drill.rows import interval

Content = dict[str, Any]


def rates(taken: list[bool], accuracy: float, **others: Any) -> Content:
    """A row's figures over its targets."""
    low, high = interval(taken)
    figures = {"success": float(np.mean(taken)), "low": low, "high": high, "targets": len(taken), "accuracy": accuracy}
    return figures | others


def frozen_drills(record: Content) -> list[Content]:
    """The attacks of `benchmarks.frozen` with the published victim's head, a drill each."""
    settings, found = record["settings"], []
    head = settings["heads"][0]
    for name, cell in record["cells"]["reported"].items():
        accuracy = frozen.accuracies(record, head)
        rows = [
            rates(frozen.taken(record, "victims", sigma, head, name), accuracy[sigma], sigma=sigma)
            for sigma in settings["sigmas"]
        ]
        found.append(
            {
                "attack": name.partition(",")[0], "scenario": "transfer", "data": "cifar10", "rows": rows,
                "knowledge": "white-box" if cell["known"] == "victim" else "black-box",
                "bound": f"{cell['epsilon_255']}/255 l_inf", "poisons": cell["poisons"],
                "images": settings["raw_images"] + min(25, cell["poisons"]),
            }
        )  # fmt: skip
    return found


def conv_drill(record: Content) -> Content:
    """The evidence of `benchmarks.conv`: Witches' Brew from scratch, taken by most of a target's victims."""
    rows = [rates(of["all_taken"], of["accuracy"], sigma=of["sigma"]) for of in record["summary"]]
    return _conv(record) | {"rows": rows}


def conv_comparison(record: Content) -> Content:
    """Deep k-NN in `benchmarks.conv`, and sanitizing beside it."""
    rows = [
        rates(of["all_taken"], of["accuracy"], name="sanitize", defence=f"sanitize, σ = {of['sigma']:g}")
        for of in record["summary"]
        if of["sigma"]
    ]
    own = [row for row in record["rivals"] if row["defence"] == "deep-knn"]
    counts = {key: float(np.mean([row[key] for row in own])) for key in ("removed", "poisons_removed")}
    accuracy = float(np.mean([row["accuracy"] for row in own]))
    rows.append(rates([row["margin"] > 0 for row in own], accuracy, name="deep-knn", defence="deep-knn", **counts))
    return _conv(record) | {"rows": rows}


def _conv(record: Content) -> Content:
    settings, cells = record["settings"], record["cells"]
    images = settings["each"] * len(settings["classes"])
    return {
        "attack": "witches-brew", "scenario": "scratch", "data": "cifar10", "knowledge": "white-box",
        "bound": f"{round(255 * settings['epsilon'])}/255 l_inf", "images": images,
        "poisons": cells["tuning"][cells["chosen"]]["poisons"],
    }  # fmt: skip


FROZEN, CONV = RESULTS / "frozen.json", RESULTS / "conv.json"
