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
    for name in frozen.measured(record):
        rows = [
            rates(
                frozen.taken(record, "victims", sigma, head, name),
                frozen.accuracy(record, "victims", sigma, head, name),
                sigma=sigma,
            )
            for sigma in settings["sigmas"]
        ]
        found.append(_frozen(record, name) | {"rows": rows})
    return found


def frozen_comparison(record: Content) -> Content:
    """Deep k-NN on Bullseye's poisons in `benchmarks.frozen`, and sanitizing beside it."""
    name, sigma, head = "bullseye", 0.1, record["settings"]["heads"][0]
    own = [row for row in record["filtered"] if row["cell"] == name and not row["sigma"]]
    own = own[: frozen.whole(record)]
    counts = {key: float(np.mean([row[key] for row in own])) for key in ("removed", "poisons_removed")}
    right = float(np.mean([row["accuracy"][head] for row in own]))
    filtered = rates([row["margins"][head] > 0 for row in own], right, name="deep-knn", defence="deep-knn", **counts)
    success, accuracy = (of(record, "victims", sigma, head, name) for of in (frozen.taken, frozen.accuracy))
    sanitized = rates(success, accuracy, name="sanitize", defence=f"sanitize, σ = {sigma:g}")
    return _frozen(record, name) | {"rows": [filtered, sanitized]}


def _frozen(record: Content, name: str) -> Content:
    cell = record["cells"]["reported"][name]
    return {
        "attack": name.partition(",")[0], "scenario": "transfer", "data": "cifar10",
        "knowledge": "white-box" if cell["known"] == "victim" else "black-box",
        "bound": f"{cell['epsilon_255']}/255 l_inf", "poisons": cell["poisons"],
        "images": record["settings"]["raw_images"] + min(25, cell["poisons"]),
    }  # fmt: skip


def conv_drill(record: Content) -> Content:
    """The evidence of `benchmarks.conv`: Witches' Brew from scratch, taken by most of a target's victims."""
    rows = [rates(of["all_taken"], of["accuracy"], sigma=of["sigma"]) for of in record["summary"]]
    return _conv(record) | {"rows": rows}


def conv_comparison(record: Content) -> Content:
    """Deep k-NN in `benchmarks.conv`, and sanitizing beside it, on the same targets."""
    own = [row for row in record["rivals"] if row["defence"] == "deep-knn"]
    rows = [
        rates(of["all_taken"][: len(own)], of["accuracy"], name="sanitize", defence=f"sanitize, σ = {of['sigma']:g}")
        for of in record["summary"]
        if of["sigma"]
    ]
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
