"""The declared statistics, from a record's rows."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

from cleanlabel.redteam.drill.rows import interval

Row = dict[str, Any]


def mcnemar(before: Sequence[bool], after: Sequence[bool]) -> float:
    """McNemar's exact two-sided p-value for paired outcomes; 1 where no pair differs."""
    lost = sum(b and not a for b, a in zip(before, after, strict=True))
    won = sum(a and not b for b, a in zip(before, after, strict=True))
    return float(stats.binomtest(lost, lost + won).pvalue) if lost + won else 1.0


def student(values: Sequence[float], level: float = 0.95) -> tuple[float, float, float]:
    """The mean and Student's two-sided interval; without width for fewer than two values."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, mean, mean
    half = stats.t.ppf((1 + level) / 2, len(values) - 1) * stats.sem(values)
    return mean, mean - float(half), mean + float(half)


def whole_targets(rows: Sequence[Row], sigmas: Sequence[float], seeds: int) -> int:
    """How many of the first targets have all their victims: the k of a partial result."""
    done = {(row["target"], row["sigma"], row["seed"]) for row in rows}
    k = 0
    while all((k, sigma, seed) in done for sigma in sigmas for seed in range(seeds)):
        k += 1
    return k


def summary(rows: Sequence[Row], controls: Sequence[Row], sigmas: Sequence[float], seeds: int) -> list[Row]:
    """A line per sigma over the first whole targets; rows beyond them are not looked at.

    rows: target, sigma, seed, margin, accuracy. controls: sigma, seed, margins of all targets, accuracy.
    """
    k = whole_targets(rows, sigmas, seeds)
    if not k:
        return []
    margin = {(row["target"], row["sigma"], row["seed"]): row["margin"] for row in rows}
    clean = {(row["sigma"], row["seed"]): row["margins"] for row in controls}
    found, first = [], None
    for sigma in sigmas:
        own = np.array([[margin[t, sigma, seed] for seed in range(seeds)] for t in range(k)])
        plain = np.array([[clean[sigma, seed][t] for seed in range(seeds)] for t in range(k)])
        taken = ((own > 0).mean(axis=1) > 0.5).tolist()
        without = ((plain > 0).mean(axis=1) > 0.5).tolist()
        first = taken if first is None else first
        shifts = own.mean(axis=1) - plain.mean(axis=1)
        mean, low, high = student(shifts.tolist())
        found.append(
            {
                "sigma": sigma, "targets": k, "taken": sum(taken), "interval": interval(taken),
                "victims": int((own > 0).sum()), "of_victims": own.size,
                "control": sum(without), "control_victims": int((plain > 0).sum()),
                "mcnemar": mcnemar(first, taken), "shift": mean, "shift_low": low, "shift_high": high,
                "clean_margin": float(plain.mean()), "shifts": shifts.tolist(), "all_taken": taken,
                "accuracy": float(np.mean([r["accuracy"] for r in rows if r["sigma"] == sigma and r["target"] < k])),
                "clean_accuracy": float(np.mean([r["accuracy"] for r in controls if r["sigma"] == sigma])),
            }
        )  # fmt: skip
    return found


def power(before: float, after: float, targets: int, level: float = 0.05) -> float:
    """The chance that McNemar's exact test over `targets` pairs is below `level`; a pair's outcomes independent."""
    down, up = before * (1 - after), after * (1 - before)
    total = 0.0
    for differ in range(1, targets + 1):
        chance = stats.binom.pmf(differ, targets, down + up)
        lost = np.arange(differ + 1)
        found = np.array([stats.binomtest(int(k), differ).pvalue < level for k in lost])
        total += chance * float(stats.binom.pmf(lost, differ, down / (down + up))[found].sum())
    return total
