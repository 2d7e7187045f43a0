"""Stopping early: how many models ten gates need when training stops as soon as each is decided; m = 1,000 at most.

    python -m benchmarks.adaptive [--quick] [--votes FILE.npy] [--histories N]

The votes (1000, n_test) of an ensemble on the digits are given. A look uses only the votes of draws 0..t-1, so
replaying prefixes does what a run that stops early does. Draws are exchangeable: the same votes in another order
are another history of the same ensemble, on which the decisions are tried again.
"""

import os
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from tqdm import tqdm

from benchmarks.common.record import RESULTS, flags, record, results
from cleanlabel.models.anytime import ConfidenceSequence, Looks, Rule, default_looks, look_levels
from cleanlabel.models.certificate import certified_accuracy, certify
from cleanlabel.models.decision import decide
from cleanlabel.models.plan import least_models
from cleanlabel.models.rounding import down_text
from cleanlabel.models.votes import NOBODY
from cleanlabel.sanitize import errors
from cleanlabel.sanitize.imageset import load
from cleanlabel.sanitize.paths import SETS

SIGMA, ALPHA = 1.0, 0.001
QUICK_M = 100
STEP = 25
"""Models between two looks of the sequence."""
Stop = tuple[int, str]
"""After how many models a rule stops, and its verdict."""

# Fixed beforehand, on an ensemble of another entropy (MLP, width 256, 20 epochs), which reached at m = 1,000 accuracy
# .940 and certified .922, .897, .872, .799 and .597 at R = 0, .25, .5, 1 and 2. Three gates that are clear either way;
# seven whose tightest threshold lies 1.5 to 2 points from that: four to be met, three not.
GATES = (
    ("the pipeline's own", 0.90, ((0.25, 0.75), (0.5, 0.65))),
    ("accuracy near, below", 0.92, ((0.0, 0.85), (1.0, 0.70))),
    ("R = .5 near, below", 0.90, ((0.5, 0.855),)),
    ("R = .25 near, below", 0.90, ((0.25, 0.88),)),
    ("R = 1 near, below", 0.90, ((1.0, 0.78),)),
    ("R = .5 near, above", 0.90, ((0.5, 0.89),)),
    ("R = 1 near, above", 0.90, ((1.0, 0.815),)),
    ("R = 0 near, above", 0.90, ((0.0, 0.94),)),
    ("accuracy far above", 0.97, ((0.5, 0.75),)),
    ("R = 2 far above", 0.90, ((1.0, 0.70), (2.0, 0.75))),
)


def prefixes(votes: np.ndarray, classes: int) -> np.ndarray:
    """counts (m, n_test, K) after each draw; a missing vote (-1) counts for no class."""
    return np.cumsum(votes[:, :, None] == np.arange(classes), axis=0, dtype=np.int64)


@lru_cache(maxsize=4)
def rules(m: int) -> dict[str, tuple[Rule, tuple[int, ...]]]:
    """The two rules and when they look."""
    times, shares = default_looks(m, least_models(ALPHA))
    return {
        "looks": (Looks(times, look_levels(ALPHA, shares), SIGMA), times),
        "sequence": (ConfidenceSequence(m, SIGMA, ALPHA), (*range(STEP, m, STEP), m)),
    }


def margin(counts: np.ndarray, truth: np.ndarray, gate: tuple) -> tuple[float, str]:
    """At a fixed m = len(counts): the least of value minus threshold over the gate's thresholds, and what it is of."""
    label, radius = certify(counts[-1], len(counts), SIGMA, ALPHA)
    accuracy = float(np.mean(counts[-1].argmax(axis=1) == truth))
    found = [(accuracy - gate[1], f"accuracy {accuracy:.4f}, {gate[1]:g} asked")]
    for r, at_least in gate[2]:
        share = float(certified_accuracy(label, radius, truth, [r])[0])
        found.append((share - at_least, f"R = {r:g}: {down_text(share, 4)}, {at_least:g} asked"))
    return min(found)


def replay(votes: np.ndarray, truth: np.ndarray, classes: int) -> dict[str, list[Stop]]:
    """For each rule, where it stops at each gate, and how."""
    counts = prefixes(votes, classes)
    stops = {}
    for name, (rule, times) in rules(len(votes)).items():
        stops[name] = []
        for _, accuracy, thresholds in GATES:
            verdicts = ((t, decide(rule, counts[t - 1], t, truth, accuracy, thresholds).verdict) for t in times)
            stops[name].append(next((t, verdict) for t, verdict in verdicts if verdict != "open"))
    return stops


def shuffled(seed: int, votes: np.ndarray, truth: np.ndarray, classes: int) -> dict[str, list[Stop]]:
    """replay() of the same draws in another order."""
    return replay(np.random.default_rng(seed).permutation(votes), truth, classes)


def saving(stops: list[Stop], m: int) -> dict[str, float]:
    """How many times fewer models: the mean over gates of m / stop, and all gates' models against all stops."""
    at = np.array([t for t, _ in stops])
    return {
        "mean_of_ratios": round(float(np.mean(m / at)), 2),
        "of_all_models": round(float(m * len(at) / at.sum()), 2),
    }


def draw_figure(counts: np.ndarray, truth: np.ndarray, stops: dict[str, list[Stop]], path: Path) -> None:
    """Certified accuracy of the prefix by both rules, with the thresholds at the t where their gates stop."""
    m = len(counts)
    figure, axes = plt.subplots(1, 3, figsize=(13, 4), sharey=True)
    for axis, r in zip(axes, (0.25, 0.5, 1.0), strict=True):
        for style, (name, (rule, times)) in zip(("o-", "-"), rules(m).items(), strict=True):
            shares = [certified_accuracy(*rule.certify(counts[t - 1], t), truth, [r])[0] for t in times]
            axis.plot(times, shares, style, label=name, markersize=4)
        final = certified_accuracy(*certify(counts[-1], m, SIGMA, ALPHA), truth, [r])[0]
        axis.axhline(final, color="grey", linestyle=":", label=f"fixed m = {m}")
        for marker, name in (("s", "looks"), ("D", "sequence")):
            for gate, (t, verdict) in zip(GATES, stops[name], strict=True):
                for radius, at_least in gate[2]:
                    if radius == r:
                        colour = "tab:green" if verdict == "passed" else "tab:red"
                        axis.plot(t, at_least, marker, color=colour, fillstyle="none" if name == "looks" else "full")
        axis.set(title=f"R = {r:g}", xlabel="models t", xscale="log", ylim=(0.55, 0.97))
    axes[0].set_ylabel("certified accuracy; green: gate passed, red: failed")
    axes[0].legend(loc="lower right")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def read_votes(path: Path, n_test: int, classes: int) -> np.ndarray:
    """The votes (m, n_test). InputError if the file is missing or does not fit the test set."""
    if not path.is_file():
        raise errors.InputError(f"no votes at {path}; give the (models, {n_test}) votes of an ensemble with --votes")
    try:
        votes = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise errors.InputError(f"{path} is not a .npy file ({error}); give another --votes") from error
    if votes.ndim != 2 or votes.shape[1] != n_test or not np.issubdtype(votes.dtype, np.integer):
        raise errors.InputError(f"{path} holds {votes.dtype} of shape {votes.shape}, not integers (models, {n_test})")
    if votes.size and not NOBODY <= votes.min() <= votes.max() < classes:
        raise errors.InputError(f"{path} holds votes {votes.min()}..{votes.max()}; the classes are 0..{classes - 1}")
    if len(votes) < least_models(ALPHA):
        raise errors.InputError(f"{path} has {len(votes)} models; fewer than {least_models(ALPHA)} certify nothing")
    return votes.astype(np.int64)


def tried(
    name: str, stops: dict[str, list[Stop]], others: list[dict[str, list[Stop]]], fixed: list[str], m: int
) -> dict[str, Any]:
    """One rule's figures: where it stops, what it saves, and its wrong decisions, in this order and in the others."""
    saved = [saving(other[name], m) for other in others]
    wrong = [[v != at for (_, v), at in zip(of[name], fixed, strict=True)] for of in (stops, *others)]
    return {
        "stops": [{"t": t, "verdict": verdict} for t, verdict in stops[name]],
        "saving": saving(stops[name], m),
        "wrong": sum(wrong[0]),
        "histories": len(others),
        "histories_wrong_by_gate": np.sum(wrong[1:], axis=0).tolist() if others else [],
        "histories_saving": {
            key: {"mean": round(float(np.mean([s[key] for s in saved])), 2), "least": min(s[key] for s in saved)}
            for key in (saved[0] if saved else ())
        },
    }


def figures_of(
    margins: list[tuple[float, str]], fixed: list[str], stops: dict[str, list[Stop]], others: list[Any], m: int
) -> dict[str, Any]:
    """For the record."""
    gates = [
        {"gate": gate[0], "accuracy": gate[1], "certified_accuracy": gate[2], "margin": round(least, 4), "at_m": at}
        for gate, (least, _), at in zip(GATES, margins, fixed, strict=True)
    ]
    near = sum(abs(least) <= 0.02 for least, _ in margins)
    rows = {name: tried(name, stops, others, fixed, m) for name in stops}
    return {"sigma": SIGMA, "alpha": ALPHA, "m": m, "near": near, "gates": gates, **rows}


def show(margins: list[tuple[float, str]], stops: dict[str, list[Stop]], figures: dict[str, Any], n_test: int) -> None:
    """Print where each rule stops at each gate, and what each rule saves."""
    m = figures["m"]
    print(f"\nsigma = {SIGMA:g}, alpha = {ALPHA:g} per point, {n_test} test images, looks at {rules(m)['looks'][1]}\n")
    print(f"| gate | nearest threshold, at {m} | margin | at {m} | looks | sequence |\n|---|---|---|---|---|---|")
    for i, gate in enumerate(figures["gates"]):
        cells = " | ".join(f"{stops[name][i][1]} at {stops[name][i][0]}" for name in stops)
        print(f"| {gate['gate']} | {margins[i][1]} | {100 * margins[i][0]:+.1f} | {gate['at_m']} | {cells} |")
    print(f"\n{figures['near']} of {len(GATES)} gates lie within 2 points of the value at m = {m}.\n")
    print("| rule | mean of m / stop | all models / all stops | wrong | other orders: wrong | their savings, least |")
    print("|---|---|---|---|---|---|")
    for name in stops:
        row = figures[name]
        least = " and ".join(f"{v['mean']:g}, {v['least']:g}" for v in row["histories_saving"].values())
        ratio = " | ".join(f"{value:g}" for value in row["saving"].values())
        wrong = f"{sum(row['histories_wrong_by_gate'])} of {row['histories'] * len(GATES)}"
        print(f"| {name} | {ratio} | {row['wrong']} | {wrong} | {least} |")


def main() -> None:
    parser = flags("adaptive", __doc__, f"the first {QUICK_M} draws in 2 other orders, in place of all in 200")
    parser.add_argument(
        "--votes", type=Path, default=RESULTS / "ensemble_votes.npy", help="a .npy file, (models, n_test)"
    )
    parser.add_argument("--histories", type=int, help="other orders of the draws")
    args = parser.parse_args()
    histories = args.histories if args.histories is not None else 2 if args.quick else 200
    test = load(SETS["test"])
    truth, classes = test.labels, len(test.classes)
    votes = read_votes(args.votes, len(test), classes)[: QUICK_M if args.quick else None]
    m, counts = len(votes), prefixes(votes, classes)
    margins = [margin(counts, truth, gate) for gate in GATES]
    fixed = ["passed" if least >= 0 else "failed" for least, _ in margins]
    stops = replay(votes, truth, classes)
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), mp_context=get_context("spawn")) as pool:
        work = partial(shuffled, votes=votes, truth=truth, classes=classes)
        others = list(tqdm(pool.map(work, range(histories)), total=histories, desc="other orders", unit="history"))
    figures = figures_of(margins, fixed, stops, others, m)
    show(margins, stops, figures, len(test))
    folder = results(args)
    draw_figure(counts, truth, stops, folder / "adaptive.png")
    record("adaptive", figures, folder)


if __name__ == "__main__":
    errors.run(main)
