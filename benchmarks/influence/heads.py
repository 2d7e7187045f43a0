"""Bounded-influence heads: choose lambda and clip, sum every draw, certify the answers."""

import json
from collections.abc import Mapping
from functools import partial
from itertools import product
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks.common.runs import kept
from benchmarks.influence.rivals import ALPHA, rounded, share
from benchmarks.influence.sets import Copies, Sets
from benchmarks.influence.shown import COUNTS, RADII
from cleanlabel.models.certificate import Ints, certified_accuracy
from cleanlabel.models.extractors import features
from cleanlabel.models.influence import radius_left, score_margins
from cleanlabel.models.influenced import Influenced, influenced
from cleanlabel.models.instrument import Features, Instrument, Sides, Sums, make_instrument
from cleanlabel.models.plan import noise_distance_of
from cleanlabel.sanitize.files import write_json

RIDGES = (0.05, 0.25, 1.0, 4.0)
FORMS: dict[str, tuple[tuple[float | None, float], ...]] = {
    "one-sided": ((None, 0.6), (None, 0.8), (None, 0.95)),
    "two-sided": ((None, 0.6), (None, 0.8), (None, 0.95)),
    "threshold": ((0.7, 0.95), (0.85, 0.97), (0.9, 0.97), (0.93, 0.99)),
}
"""The clips: from 0 or minus the quantile up to the quantile that is named; from one quantile to another."""


def sides_of(form: str) -> Sides:
    """Whether a form of clip bounds influences on one side or on both."""
    return "two" if form == "two-sided" else "one"


def answers(sums: Mapping[int, Sums], sets: Sets, form: str, sigma: float) -> Influenced:
    """The certificates of the sums of all draws."""
    distance = noise_distance_of(len(sets.raw), sets.raw.image_shape, sigma) if sigma else 0.0
    n = len(next(iter(sums.values())))
    return influenced(sums, len(sums), n, sets.sizes.tolist(), sides_of(form), sigma, ALPHA, distance=distance)


def figures(found: Influenced, truth: Ints) -> dict[str, Any]:
    """Accuracy of the largest sum, and certified accuracies at RADII and COUNTS."""
    right = found.label == truth
    of = {"accuracy": share(found.vote == truth)}
    if found.sigma:
        of["certified"] = rounded(certified_accuracy(found.label, found.radius(), truth, RADII))
    for way in ("rewritten", "relabelled"):
        of[way] = [share(right & (found.counts(way) >= a)) for a in COUNTS]
    return of


def by_the_page(found: Influenced, m: int, truth: Ints) -> list[float]:
    """Certified accuracy at RADII by `score_margins` and `radius_left`."""
    label, margin = score_margins(found.scores, found.class_sizes, found.width, m, ALPHA, low=found.low)
    radius = radius_left(label, margin, found.class_sizes, found.width, 1.0, found.sigma)
    return rounded(certified_accuracy(label, radius, truth, RADII))


def instrument_of(
    psi: NDArray[np.float32], phi: NDArray[np.float32], form: str, ridge: float, clip: tuple[float | None, float]
) -> Instrument:
    """From the moments' features of several copies (psi) and clean (phi)."""
    threshold, quantile = clip
    every = np.tile(phi, (len(psi) // len(phi), 1))
    return make_instrument(psi, every, ridge=ridge, quantile=quantile, sides=sides_of(form), threshold=threshold)


def chosen(sets: Sets, copies: Copies, m: int, form: str, copied: int) -> tuple[Instrument, dict[str, Any]]:
    """The instrument whose lambda and clip serve the tuning images best, and what was tried.

    The tuning images' sums are scaled to the raw set's class sizes, and used as those of m draws.
    """
    public = copies.public(copied)
    phi, asked = (features(sets.extractor, i.images) for i in (sets.moments, sets.tuned_test))
    make = partial(instrument_of, public["moments"].astype(np.float32), phi.numpy(), form)
    tuned, truth = Features(torch.from_numpy(public["tuned"])), sets.tuned_test.labels
    labels = np.tile(sets.tuned_raw.labels, len(tuned.rows) // len(sets.tuned_raw))
    own = np.maximum(np.bincount(labels, minlength=len(sets.sizes)), 1)

    def mean(ridge: float, clip: tuple[float | None, float]) -> float:
        sums = make(ridge, clip).class_sums(tuned, labels, len(own), asked)
        scaled = np.rint(sums * (sets.sizes / own)).astype(np.int64)
        of = figures(answers(dict.fromkeys(range(m), scaled), sets, form, copies.sigma), truth)
        return float(np.mean(of["certified"][1:] if copies.sigma else [*of["rewritten"], *of["relabelled"]]))

    grid, path = list(product(RIDGES, FORMS[form])), copies.folder / f"tried-{form}-{m}.json"
    if not path.is_file():
        write_json(path, [{"lambda": r, "clip": c, "mean": round(mean(r, c), 4)} for r, c in grid])
    tried = json.loads(path.read_text())
    best = max(range(len(grid)), key=lambda i: tried[i]["mean"])
    ridge, clip = grid[best]
    return make(ridge, clip), {"lambda": ridge, "clip": clip, "tried": tried}


def influence_rows(sets: Sets, copies: Copies, entropy: bytes, m: int, copied: int, bar: tqdm) -> list[dict[str, Any]]:
    """One row per form of clip, at one sigma."""
    m = m if copies.sigma else 1
    rows = []
    for form in FORMS:
        instrument, facts = chosen(sets, copies, m, form, copied)
        sums, seconds = {}, []
        for draw in range(m):
            psi, took = copies.draw(entropy, draw)
            name = f"{draw:05d}-{instrument.digest[:16]}.npz"
            make = partial(instrument.class_sums, Features(psi), sets.raw.labels, len(sets.sizes), sets.asked)
            sums[draw] = kept(copies.folder / name, lambda make=make: {"sums": make()})["sums"]
            seconds.append(took)
            bar.update()
        started = perf_counter()
        found = answers(sums, sets, form, copies.sigma)
        row = {"head": "influence", "sigma": copies.sigma, "form": form, "m": m, **facts}
        row |= figures(found, sets.test.labels)
        if copies.sigma:
            row["page"] = by_the_page(found, m, sets.test.labels)
            row["curve"] = (found.label, found.radius())
        row["counts"] = {way: (found.label, found.counts(way)) for way in ("rewritten", "relabelled")}
        row |= {"draw_seconds": round(float(np.mean(seconds)), 2)}
        rows.append(row | {"certify_seconds": round(perf_counter() - started, 1)})
    return rows
