"""`flows.choose` for a bounded-influence head: choose sigma, lambda, clip and sides from trusted images alone."""

import argparse
from dataclasses import asdict
from typing import Any

from tqdm import tqdm

from cleanlabel.models.influence_pilot import Choice, forecasts
from cleanlabel.models.materials import Materials
from cleanlabel.models.plan import recipe_of
from cleanlabel.models.rounding import down, down_text, exact, up
from cleanlabel.sanitize.imageset import ImageSet

ROWS = 12
"""How many candidates are shown, best first."""


def choose_influence(
    asked: argparse.Namespace, prepared: dict[str, Any], level: float, trusted: ImageSet, *, denoised: bool
) -> dict[str, Any]:
    """The forecasts of all candidates, best first, as a record."""
    found: list[Choice] = []
    sigmas = sorted(set(asked.sigmas))
    with tqdm(total=len(sigmas) * (1 + asked.draws), desc="pilot", unit="copy", mininterval=1) as bar:
        for sigma in sigmas:
            materials = Materials(sigma=sigma, **prepared)
            found += forecasts(
                materials, asked.images, asked.models, level, asked.radius, asked.rewritten, asked.draws, bar.update
            )
    found.sort(key=lambda one: -one.accuracy)
    best = found[0]
    return {
        "looked_at": "trusted",
        "trusted_digest": trusted.digest,
        "trusted_images": len(trusted),
        "images": asked.images,
        "draws": asked.models,
        "pilot_draws": asked.draws,
        "target": {"radius": asked.radius, "rewritten": asked.rewritten},
        "level": level,
        "recipe": recipe_of(prepared["recipe"]),
        "denoised": denoised,
        "candidates": [_rounded(one) for one in found],
        "best": _rounded(best) if best.accuracy > 0 else None,
        "not_told_apart": sum(best.accuracy - one.accuracy < 2 * best.deviation for one in found[1:]),
    }


def table(record: dict[str, Any]) -> str:
    """The best candidates, in Markdown."""
    target = record["target"]
    lines = [
        f"Certified accuracy to expect at R = {exact(target['radius'])} with {target['rewritten']} images rewritten; "
        f"{record['images']} images, {record['draws']} draws",
        "",
        "| sigma | influence_ridge | influence_threshold | influence_clip | influence_sides | expected | all answers |",
        "|--:|--:|--:|--:|---|--:|--:|",
    ]
    for row in record["candidates"][:ROWS]:
        chosen = f"{row['sigma']:g} | {row['ridge']:g} | {_set(row)} | {row['clip']:g} | {row['sides']}"
        lines.append(
            f"| {chosen} | {down_text(row['accuracy'])} ± {up(row['deviation'], 3):.3f} | {down_text(row['sums'])} |"
        )
    return "\n".join(lines)


def verdict(record: dict[str, Any]) -> str:
    """What to set, and what it is based on."""
    best = record["best"]
    looked = (
        f"The pilot used {record['trusted_images']} trusted and no untrusted images: the suggestion voids no "
        "certificate."
    )
    if best is None:
        return f"Nothing is expected to be certified at this target; ask for less, or add images.\n{looked}"
    return (
        f"Suggested: sanitize.sigma: {best['sigma']:g}, train.influence_ridge: {best['ridge']:g}, "
        f"train.influence_threshold: {_set(best)}, train.influence_clip: {best['clip']:g}, "
        f"train.influence_sides: {best['sides']}, expected {down_text(best['accuracy'])}. "
        f"This pilot cannot distinguish it from {record['not_told_apart']} others.\n{looked}"
    )


def _set(row: dict[str, Any]) -> str:
    """A candidate's threshold in the form of params.yaml."""
    return "null" if row["threshold"] is None else f"{row['threshold']:g}"


def _rounded(one: Choice) -> dict[str, Any]:
    """The forecast as it is recorded. What was asked for and suggested (sigma, ridge, clip) keeps its digits."""
    figures = {"accuracy": down(one.accuracy, 4), "deviation": up(one.deviation, 4), "sums": down(one.sums, 4)}
    return asdict(one) | figures
