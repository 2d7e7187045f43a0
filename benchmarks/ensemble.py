"""A thousand models: how fast they are made, what tracking costs, and what they certify.

    python -m benchmarks.ensemble [--quick] [--architecture small-cnn]

Runs the pipeline's own command, `python -m flows.smooth`, on the pipeline's data (run `dvc repro denoiser` first), in a
project directory of its own, once denoised and once with the noise left in. It is compared with a
plain loop: one draw after the other in one process, float32, with torch's default threads, nothing recorded.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from numpy.typing import NDArray
from ruamel.yaml import YAML
from tqdm import tqdm

from benchmarks.common.record import flags, record, results
from cleanlabel.models.certificate import certified_accuracy, certify
from cleanlabel.models.draw import make_draw
from cleanlabel.models.materials import Materials
from cleanlabel.models.params import CertifyParams, TrainParams
from cleanlabel.models.rounding import down, down_text
from cleanlabel.models.votes import count_votes
from cleanlabel.sanitize import errors
from cleanlabel.sanitize.denoiser import load_denoiser
from cleanlabel.sanitize.imageset import ImageSet, load
from cleanlabel.sanitize.noise import draw_entropy
from cleanlabel.sanitize.params import SanitizeParams, read_params
from cleanlabel.sanitize.paths import DENOISER, ENSEMBLE, SETS

ROOT = Path(__file__).resolve().parents[1]
ROUNDS = 3
"""Parts in which the loop is measured; the flow runs between them, so that a slower machine slows both down."""
CNN = {"architecture": "small-cnn", "width": 16, "epochs": 10}
CURVE = np.linspace(0, 2.5, 251)
RADII = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0)
WAYS = (("denoised", True), ("noise only", False))
"""What is run, and whether it denoises."""


def changed(section: str, changes: dict[str, Any]) -> None:
    """Set params in the working directory's params.yaml."""
    reader, path = YAML(), Path("params.yaml")
    params = reader.load(path)
    params[section].update(changes)
    reader.dump(params, path)


@contextmanager
def project() -> Iterator[None]:
    """A directory like the pipeline's after its `denoiser` stage, for the length of a run."""
    here = Path.cwd()
    with tempfile.TemporaryDirectory(prefix="cleanlabel-benchmark-") as scratch:
        shutil.copy("params.yaml", scratch)
        (Path(scratch) / "data").mkdir()
        for path in SETS.values():
            shutil.copy(path, Path(scratch) / path)
        shutil.copytree(DENOISER, Path(scratch) / DENOISER)
        os.chdir(scratch)
        try:
            yield
        finally:
            os.chdir(here)


def loop(materials: Materials, draws: int, first: int) -> float:
    """Seconds per model of the one-at-a-time loop."""
    entropy = draw_entropy("os").value
    started = time.perf_counter()
    for draw in range(first, first + draws):
        make_draw(materials, entropy, draw)
    return (time.perf_counter() - started) / draws


def flow(m: int) -> tuple[float, NDArray[np.int64], dict[str, float]]:
    """Wall seconds of `flows.smooth` from the command to the registered version, the votes (m, n), and its books."""
    changed("smooth", {"m": m})
    changed("gate", {"certified_accuracy": []})  # few models could not pass the demo's gate, and would be refused
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "flows.smooth"], check=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    seconds = time.perf_counter() - started
    votes = np.load(ENSEMBLE / "votes.npy", allow_pickle=False)
    return seconds, votes, spent()


def spent() -> dict[str, float]:
    """Of the newest version: core-seconds per model of sanitizing and training, and of tracking.

    Read in a process of its own: MLflow remembers the store that it was first imported for.
    """
    asked = [sys.executable, "-m", "benchmarks.ensemble", "--books"]
    answer = subprocess.run(
        asked, check=True, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    found: dict[str, float] = json.loads(answer.stdout.splitlines()[-1])
    return found


def books() -> None:
    """Print the seconds that the runs of the working directory's store recorded."""
    from cleanlabel.flows.store.client import connect, find_runs

    store = connect()
    newest = find_runs(store, "tags.`cleanlabel.kind` = 'ensemble'")[-1].info.run_id
    runs = find_runs(store, f"tags.mlflow.parentRunId = '{newest}' and attributes.status = 'FINISHED'")
    work = sum(run.data.metrics["sanitize_seconds"] + run.data.metrics["train_seconds"] for run in runs)
    first, last = min(run.info.start_time for run in runs), max(run.info.end_time for run in runs)
    ends = sorted(run.info.end_time for run in runs)
    middle = ends[len(ends) // 4], ends[3 * len(ends) // 4]
    steady = (middle[1] - middle[0]) / 1000 / (len(ends) / 2)
    making = (last - first) / 1000
    found = {"work_seconds_a_model": work / len(runs), "making_seconds": making, "steady_seconds_a_model": steady}
    print(json.dumps(found))


def curves(votes: NDArray[np.int64], sizes: list[int], test: ImageSet, sigma: float, alpha: float) -> dict[int, Any]:
    """Certified accuracy at CURVE of the first m models, by m, for each m of `sizes`."""
    found = {}
    for m in sizes:
        counts = count_votes(dict(enumerate(votes[:m])), m, len(test), len(test.classes))
        label, radius = certify(counts, m, sigma, alpha)
        found[m] = certified_accuracy(label, radius, test.labels, CURVE)
    return found


def draw_picture(path: Path, found: dict[str, dict[int, Any]], sigma: float) -> None:
    """Certified accuracy against R: denoised solid, noise left in dashed."""
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for name, style in (("denoised", "-"), ("noise only", "--")):
        for colour, (m, curve) in zip(("tab:blue", "tab:orange"), found.get(name, {}).items(), strict=False):
            axes.plot(CURVE, curve, style, color=colour, label=f"{name}, m = {m:,}")
    axes.set(xlabel="joint ℓ2 radius R over the training set, [0,1] units", ylabel="certified accuracy", ylim=(0, 1))
    axes.set_title(f"digits, σ = {sigma:g}, α = .001 for each test image")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def measured(
    args: argparse.Namespace, recipe: TrainParams, materials: Materials, m: int
) -> tuple[list[float], dict[str, dict[str, float]], dict[str, NDArray[np.int64]]]:
    """Seconds per model of the loop, part by part; of the flow, by way, with its books; and the votes by way.

    A quick run leaves the noise-only ensemble out.
    """
    part = 1 if args.quick else 20
    alone, ours, votes = [], {}, {}
    with project():
        changed("train", recipe.model_dump())
        if args.quick:
            changed("smooth", {"batch_of_draws": 2})
            changed("gate", {"certified_accuracy": []})  # a few models reach no radius
        for name, denoise in WAYS[: 1 if args.quick else None]:
            changed("sanitize", {"denoise": denoise})
            seconds, votes[name], inside = flow(m)
            ours[name] = {"seconds_a_model": seconds / m, **inside}
            alone.append(loop(materials, part, 100 * len(alone)))
    for _ in tqdm(range(ROUNDS - len(alone)), desc="one at a time", unit="part"):
        alone.append(loop(materials, part, 100 * len(alone)))
    return alone, ours, votes


def speed(alone: list[float], ours: dict[str, dict[str, float]]) -> dict[str, Any]:
    """The figures of the flow against the loop."""
    reference, mine = float(np.median(alone)), ours["denoised"]
    cores = len(os.sched_getaffinity(0))
    books_ms = 1000 * (cores * mine["steady_seconds_a_model"] - mine["work_seconds_a_model"])
    return {
        "loop_seconds_a_model": [round(s, 4) for s in alone],
        "flow": {name: {key: round(value, 4) for key, value in row.items()} for name, row in ours.items()},
        "models_a_minute": {"loop": round(60 / reference, 1), "flow": round(60 / mine["seconds_a_model"], 1)},
        "ratio": round(reference / mine["seconds_a_model"], 2),
        "ratio_once_begun": round(reference / mine["steady_seconds_a_model"], 2),
        "books_core_ms_a_model": round(books_ms, 1),
    }


def certified(found: dict[str, dict[int, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    """Certified accuracy at RADII, by way and number of models."""
    at = {f"{r:g}": int(np.argmin(abs(CURVE - r))) for r in RADII}
    return {
        name: {str(size): {r: down(curve[i], 4) for r, i in at.items()} for size, curve in by_size.items()}
        for name, by_size in found.items()
    }


def show(architecture: str, m: int, figures: dict[str, Any]) -> None:
    """Print the speed, and what the ensembles certify."""
    rates, threads = figures["models_a_minute"], figures["threads_of_the_loop"]
    once_begun = 60 / figures["flow"]["denoised"]["steady_seconds_a_model"]
    print(f"\n| {architecture} | models a minute | ratio |\n|---|--:|--:|")
    print(f"| one at a time, {threads} threads | {rates['loop']:.0f} | 1 |")
    print(f"| `flows.smooth`, m = {m:,}, all included | {rates['flow']:.0f} | {figures['ratio']} |")
    print(f"| … once begun | {once_begun:.0f} | {figures['ratio_once_begun']} |")
    print(f"\ntracking and orchestration: {figures['books_core_ms_a_model']:.0f} core-ms per model\n")
    print("| | m | " + " | ".join(f"R = {r:g}" for r in RADII) + " |\n|---|--:|" + "--:|" * len(RADII))
    for name, by_size in figures["certified"].items():
        for size, at in by_size.items():
            print(f"| {name} | {int(size):,} | " + " | ".join(down_text(share) for share in at.values()) + " |")


def main() -> None:
    parser = flags("ensemble", __doc__, "12 models in place of 1,000, and no noise-only ones")
    parser.add_argument("--architecture", choices=["mlp", "small-cnn"], default="mlp")
    parser.add_argument("--books", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.books:
        books()
        return
    m, sizes = (12, [6, 12]) if args.quick else (1_000, [100, 1_000])
    folder, threads = results(args), torch.get_num_threads()
    recipe = read_params("train", TrainParams)
    recipe = TrainParams.model_validate(recipe.model_dump() | (CNN if args.architecture == "small-cnn" else {}))
    sigma, alpha = read_params("sanitize", SanitizeParams).sigma, read_params("certify", CertifyParams).alpha
    raw, test = load(SETS["raw"]), load(SETS["test"])
    materials = Materials(raw, test, sigma, load_denoiser(DENOISER), recipe, draws=1)
    loop(materials, 2, 0)  # warm up
    alone, ours, votes = measured(args, recipe, materials, m)
    np.save(folder / f"{name_of(args)}_votes.npy", votes["denoised"].astype(np.int8), allow_pickle=False)
    found = {name: curves(v, sizes, test, sigma, alpha) for name, v in votes.items()}
    figures = {"m": m, "sigma": sigma, "alpha": alpha, "recipe": recipe.model_dump(), "threads_of_the_loop": threads}
    figures |= speed(alone, ours) | {"certified": certified(found)}
    show(args.architecture, m, figures)
    draw_picture(folder / f"{name_of(args)}.png", found, sigma)
    record(name_of(args), figures, folder)


def name_of(args: argparse.Namespace) -> str:
    """What the results are called."""
    return "ensemble" if args.architecture == "mlp" else f"ensemble_{args.architecture}"


if __name__ == "__main__":
    errors.run(main)
