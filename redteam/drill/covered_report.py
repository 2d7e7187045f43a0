"""Tables that compare the certificate with the attack: one line per target, and one per sigma."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from cleanlabel.models.rounding import down_text, exact, percent_down, up_text

HEAD = (
    "σ",
    "targets",
    "undefended success",
    "success, this head",
    "covered",
    "certified R (median)",
    "may be rewritten (median)",
    "clean accuracy",
)
TARGET = ("target", "σ", "poisons", "joint ℓ2", "R", "may be rewritten", "covered", "undefended", "this head")
COVERED = (
    "Covered: the clean set's ensemble certifies the target's true class, and these poisons are within its "
    "certificate, by their joint ℓ2 (R), by their number (images that may be rewritten at will under their own "
    "labels), or by some of each. No poisons within it, however they are made, can change a covered answer. "
    "Success is *measured*: undefended by a logistic head on the poisoned images as they are; of this head by the mean "
    "over the same draws. Each certificate is false with probability at most α = {alpha} by itself; at σ = 0 it is "
    "certain."
)
FIXED = (
    "This drill was given its noise (`entropy: fixed:…`): its certificates at σ > 0 hold against attackers who do not "
    "know it, as these attacks do not."
)


def lines(drill: dict[str, Any]) -> list[str]:
    """One drill's tables, from its JSON."""
    how = "" if drill["denoise"] else " The noise is left in (no denoiser)."
    fixed = [] if drill["entropy"] == "os" or not any(row["sigma"] for row in drill["rows"]) else ["", FIXED]
    draws = sorted({entry["draws"] for entry in drill["coverage"] if entry["sigma"]})
    made = f" Clean ensembles of {draws[0]} draws at σ > 0." if draws else ""
    return [
        f"{drill['poisons']} poisons in {drill['images']} training images; `{drill['settings']}`.{made}{how}",
        "",
        _line(HEAD),
        _line(["---"] * len(HEAD)),
        *(_line(_sigma(row)) for row in drill["rows"]),
        "",
        COVERED.format(alpha=up_text(drill["alpha"])),
        *fixed,
        "",
        _line(TARGET),
        _line(["---"] * len(TARGET)),
        *(_line(_target(entry)) for entry in drill["coverage"]),
    ]


def figures(coverage: Sequence[Any]) -> dict[str, float]:
    """The figures of one sigma, over its targets, for the drill's row."""
    return {
        "covered": float(np.mean([one.covered for one in coverage])),
        "smoothed_success": float(np.mean([one.success for one in coverage])),
        "undefended": float(np.mean([one.undefended for one in coverage])),
        "rewritten": float(np.median([one.rewritten for one in coverage])),
    }


def _sigma(row: dict[str, Any]) -> list[str]:
    radius = f"{down_text(row['radius'], 2)} (up to {down_text(row['radius_limit'], 2)})" if row["sigma"] else "–"
    return [
        f"{row['sigma']:g}",
        str(row["targets"]),
        _share(row["undefended"]),
        _share(row["smoothed_success"]),
        f"{percent_down(row['covered'], 0)} %",
        radius,
        exact(row["rewritten"]),
        f"{100 * row['accuracy']:.1f} %",
    ]


def _target(entry: dict[str, Any]) -> list[str]:
    return [
        entry["setup"],
        f"{entry['sigma']:g}",
        str(entry["poisons"]),
        f"{entry['joint_l2']:.2f}",
        down_text(entry["radius"], 2) if entry["sigma"] else "–",
        exact(entry["rewritten"]),
        _covered(entry),
        _answer(entry["undefended"]),
        _answer(entry["success"]),
    ]


def _covered(entry: dict[str, Any]) -> str:
    """Yes or no for one test image, with the part of the certificate that covers it; for several images the share."""
    if entry["covered"] not in (0, 1):
        return f"{percent_down(entry['covered'], 0)} %"
    if not entry["covered"]:
        return "no" if entry["right"] else "no (not certified)"
    ways = [words for key, words in (("by_radius", "R"), ("by_count", "number")) if entry[key] == 1]
    return f"yes ({' and '.join(ways) or 'some of each'})"


def _answer(share: float) -> str:
    return {0.0: "fails", 1.0: "succeeds"}.get(share, _share(share))


def _share(share: float) -> str:
    return f"{100 * share:.0f} %"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
