"""Certified accuracy on Fashion-MNIST from scratch: 2,000 raw images, and the noise removed or left in.

    python -m benchmarks.fashion --root DIR [--denoiser DIR] [--scratch DIR] [--quick | --pilot]

The denoiser saw 20,000 other training images, the test images are of the test split. Every model's votes are kept in
the scratch directory: a run that was killed goes on there. `--pilot` compares recipes on images the run never sees.
"""

import hashlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtri
from tqdm import tqdm

from benchmarks.record import flags, record, results
from cleanlabel.models.certificate import ABSTAIN, certified_accuracy, certify, images_tolerated
from cleanlabel.models.params import TrainParams
from cleanlabel.models.training import predict, train
from cleanlabel.models.votes import count_votes
from cleanlabel.sanitize import errors
from cleanlabel.sanitize.copies import NETWORK_BATCH
from cleanlabel.sanitize.denoiser import Denoiser, load_denoiser
from cleanlabel.sanitize.denoiser_files import PROVENANCE, read_config
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.fast import FastDenoiser, accelerate
from cleanlabel.sanitize.files import replacing, write_json
from cleanlabel.sanitize.imageset import ImageSet
from cleanlabel.sanitize.ingest import published
from cleanlabel.sanitize.noise import draw_entropy, training_seed
from cleanlabel.sanitize.params import DenoiserParams
from cleanlabel.sanitize.pretrain import train_denoiser
from cleanlabel.sanitize.sanitizer import sanitize

ALPHA = 0.001
RADII = (0.0, 0.25, 0.5, 1.0)
SPLIT_SEED = 20240611


@dataclass(frozen=True)
class Size:
    """How much of the published set is used, and how many models are made of it."""

    trusted: int
    raw: int
    test: int
    m: int


FULL = Size(trusted=20_000, raw=2000, test=2000, m=100)
QUICK = Size(trusted=20_000, raw=200, test=100, m=3)
PILOT_RAW, PILOT_TEST, PILOT_DRAWS = 2000, 1000, 3
DENOISER = DenoiserParams(
    source="train",
    revision=None,
    provenance=None,
    origin=None,
    channels=(16, 32, 64),
    steps=1500,
    batch=64,
    learning_rate=0.003,
    seed=0,
)
QUICK_DENOISER = DENOISER.model_copy(update={"channels": (8, 16), "steps": 30, "batch": 16})


def recipe(architecture: str, width: int, epochs: int, **others: Any) -> TrainParams:
    """A recipe from scratch: public constants only, nothing warm, nothing from elsewhere."""
    common = {
        "mode": "scratch",
        "batch": 64,
        "learning_rate": 2e-3,
        "weight_decay": 5e-4,
        "label_smoothing": 0.1,
        "shift": 0,
        "flip": False,
        "normalise": "constants",
        "warm_epochs": 0,
        "warm_on": "copy",
        "initial_weights": None,
        "initial_provenance": None,
        "head": "direction",
        "head_l2": 0.01,
        "head_prior": False,
    }
    return TrainParams.model_validate(
        common | {"architecture": architecture, "width": width, "epochs": epochs} | others
    )


CANDIDATES = {
    "linear, 20 epochs": recipe("linear", 1, 20),
    "mlp 256, 20 epochs": recipe("mlp", 256, 20),
    "mlp 512, 20 epochs": recipe("mlp", 512, 20),
    "small-cnn 8, 5 epochs": recipe("small-cnn", 8, 5, learning_rate=4e-3),
}
"""What the pilot compares."""
ENSEMBLES = {
    "denoised": ("denoised", "mlp 256, 20 epochs"),
    "noise only": ("noise only", "mlp 256, 20 epochs"),
    "noise only, linear": ("noise only", "linear, 20 epochs"),
}
"""What is run: the recipe that won the pilot with the noise removed; the baseline with that and with its own winner."""


Step = tuple[Denoiser, FastDenoiser]
"""A denoiser and its fast path for one sigma."""


@dataclass(frozen=True)
class Draw:
    """One smoothed model: its votes (n_test,), seconds, and the mean squared error of its copy (pixels in [0,1])."""

    votes: NDArray[np.int64]
    sanitize_seconds: float
    train_seconds: float
    squared_error: float


def make_copy(raw: ImageSet, sigma: float, denoise: Step | None, entropy: bytes, draw: int) -> NDArray[Any]:
    """The raw images sanitized, or with the noise left in where there is no `denoise`."""
    denoiser, fast = denoise or (None, None)
    return sanitize(raw, sigma, denoiser, entropy, draw, denoise=fast, batch=NETWORK_BATCH)


def make_draw(
    raw: ImageSet, test: ImageSet, sigma: float, denoise: Step | None, chosen: TrainParams, entropy: bytes, draw: int
) -> Draw:
    """`models.draw.make_draw` by the fast path: sanitize anew, train from scratch, vote."""
    started = time.perf_counter()
    copy = make_copy(raw, sigma, denoise, entropy, draw)
    sanitized = time.perf_counter()
    votes = predict(train(copy, raw.labels, len(raw.classes), chosen, training_seed(entropy, draw)), test.images)
    trained = time.perf_counter()
    scale = 255 if copy.dtype == np.uint8 else 1
    error = float(np.mean((copy / np.float64(scale) - raw.images / 255) ** 2))
    return Draw(votes, sanitized - started, trained - sanitized, error)


def kept(path: Path, make: Callable[[], Draw]) -> Draw:
    """The draw in `path`, made and written there if it is not."""
    if not path.exists():
        draw = make()
        with replacing(path) as scratch, scratch.open("wb") as stream:
            np.savez(stream, **vars(draw))
        return draw
    with np.load(path, allow_pickle=False) as stored:
        return Draw(stored["votes"], *(float(stored[k]) for k in list(Draw.__annotations__)[1:]))


def begin(scratch: Path, facts: dict[str, Any]) -> bytes:
    """The entropy of the ensembles in `scratch`, drawn once what they are made from is fixed.

    InputError if others were begun there.
    """
    plan = scratch / "plan.json"
    facts = json.loads(json.dumps(facts))
    if not plan.exists():
        scratch.mkdir(parents=True, exist_ok=True)
        write_json(plan, facts | {"entropy": draw_entropy("os").hex})
    known = read_config(plan)
    entropy = bytes.fromhex(known.pop("entropy"))
    if known != facts:
        differing = ", ".join(k for k in facts if facts[k] != known.get(k))
        raise InputError(f"{scratch} holds draws of another plan (not the same: {differing}); choose another --scratch")
    return entropy


def the_denoiser(
    trusted: ImageSet, directory: Path | None, scratch: Path, params: DenoiserParams
) -> tuple[Denoiser, dict[str, Any]]:
    """The denoiser in `directory`, or one trained here, and where it comes from.

    InputError unless it saw exactly the trusted images.
    """
    directory = directory or scratch / "denoiser"
    if not directory.exists():
        with replacing(directory) as made:
            made.mkdir()
            train_denoiser(trusted, params, made)
            write_json(made / PROVENANCE, {"trained_on": trusted.digest, "params": params.model_dump()})
    known = read_config(directory / PROVENANCE) if (directory / PROVENANCE).is_file() else {}
    if known.get("trained_on") != trusted.digest:
        raise InputError(
            f"{directory} does not say that it was trained on this split's trusted images "
            f"({PROVENANCE}: trained_on {trusted.digest[:12]}…); leave --denoiser out to have one trained"
        )
    return load_denoiser(directory), known


def figures_of(draws: list[Draw], test: ImageSet, sigma: float, curve: NDArray[np.float64]) -> dict[str, Any]:
    """What one ensemble certifies, and what it cost."""
    m = len(draws)
    counts = count_votes(dict(enumerate(d.votes for d in draws)), m, len(test), len(test.classes))
    label, radius = certify(counts, m, sigma, ALPHA)
    return {
        "one_model": round(float(np.mean([np.mean(d.votes == test.labels) for d in draws])), 4),
        "vote": round(float(np.mean(counts.argmax(axis=1) == test.labels)), 4),
        "abstentions": int(np.sum(label == ABSTAIN)),
        "certified": {
            f"{r:g}": round(float(c), 4)
            for r, c in zip(RADII, certified_accuracy(label, radius, test.labels, RADII), strict=True)
        },
        "curve": [round(float(c), 4) for c in certified_accuracy(label, radius, test.labels, curve)],
        "largest_radius": round(float(radius.max()), 4),
        "psnr_db": round(-10 * math.log10(np.mean([d.squared_error for d in draws])), 2),
        "sanitize_seconds_a_model": round(float(np.mean([d.sanitize_seconds for d in draws])), 2),
        "train_seconds_a_model": round(float(np.mean([d.train_seconds for d in draws])), 2),
        "counts_sha256": hashlib.sha256(np.ascontiguousarray(counts, dtype="<i8").tobytes()).hexdigest(),
    }


def pilot(others: ImageSet, sigmas: list[float], denoiser: Denoiser, scratch: Path) -> None:
    """Every candidate, a few draws each, on images that are no part of the run; its table stays in the scratch.

    `share` is what the choice is made by: the mean over test images of max(0, Phi^-1(p)) with p = (votes for the truth
    + 1/2) / (draws + 1), that is the radius in units of sigma that the votes would promise.
    """
    raw, test = others.take(np.arange(PILOT_RAW)), others.take(np.arange(PILOT_RAW, PILOT_RAW + PILOT_TEST))
    entropy = draw_entropy("os").value
    rows = []
    for sigma in sigmas:
        fast = accelerate(denoiser, sigma, NETWORK_BATCH)
        for way, denoise in (("denoised", (denoiser, fast)), ("noise only", None)):
            copies = [make_copy(raw, sigma, denoise, entropy, i) for i in range(PILOT_DRAWS)]
            for name, candidate in CANDIDATES.items():
                started = time.perf_counter()
                models = [
                    train(copy, raw.labels, len(raw.classes), candidate, training_seed(entropy, i))
                    for i, copy in enumerate(copies)
                ]
                votes = np.stack([predict(model, test.images) for model in models])
                p = ((votes == test.labels).sum(axis=0) + 0.5) / (PILOT_DRAWS + 1)
                row = {
                    "sigma": sigma,
                    "way": way,
                    "recipe": name,
                    "one_model": round(float(np.mean(votes == test.labels)), 4),
                    "share": round(float(np.maximum(0, ndtri(p)).mean()), 4),
                    "train_seconds": round((time.perf_counter() - started) / PILOT_DRAWS, 2),
                }
                rows.append(row)
                print(json.dumps(row), flush=True)
    write_json(scratch / "pilot.json", {"draws": PILOT_DRAWS, "raw": len(raw), "test": len(test), "rows": rows})


def plot(rows: dict[str, dict[str, Any]], curve: NDArray[np.float64], m: int, path: Path) -> None:
    """Certified accuracy against the joint radius, a line an ensemble."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # imported late: it takes a second
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.4), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    colours = {sigma: f"C{i}" for i, sigma in enumerate(sorted({row["sigma"] for row in rows.values()}))}
    for row in rows.values():
        style = dict(zip(ENSEMBLES, ("-", "--", ":"), strict=True))[row["ensemble"]]
        heights = np.array(row["curve"])
        shown = curve[: np.flatnonzero(heights)[-1] + 2] if heights.any() else curve[:1]
        label = f"σ = {row['sigma']:g}, {row['ensemble']}"
        axis.plot(shown, heights[: len(shown)], style, color=colours[row["sigma"]], label=label, drawstyle="steps-post")
    axis.set(xlabel="joint ℓ2 radius R over all training images, pixels in [0,1]", ylabel="certified accuracy")
    axis.set(xlim=(0, None), ylim=(0, 1), title=f"Fashion-MNIST from scratch, {m} models, α = {ALPHA:g} per point")
    axis.grid(alpha=0.3)
    axis.legend()
    axis.spines[["top", "right"]].set_visible(b=False)
    figure.savefig(path, format="png")


def show(rows: dict[str, dict[str, Any]]) -> None:
    print("\n| σ | | one model | vote | abstain | " + " | ".join(f"R = {r:g}" for r in RADII) + " | s/model |")
    print("|---|---|---|---|---|" + "---|" * len(RADII) + "---|")
    for row in rows.values():
        cells = " | ".join(f"{row['certified'][f'{r:g}']:.3f}" for r in RADII)
        seconds = row["sanitize_seconds_a_model"] + row["train_seconds_a_model"]
        print(
            f"| {row['sigma']:g} | {row['ensemble']} | {row['one_model']:.3f} | {row['vote']:.3f} | "
            f"{row['abstentions']} | {cells} | {seconds:.1f} |"
        )


def main() -> None:
    less = f"{QUICK.m} models of {QUICK.raw} images, a denoiser of {QUICK_DENOISER.steps} steps"
    parser = flags("fashion", __doc__, less)
    parser.add_argument("--root", type=Path, required=True, help="where torchvision put Fashion-MNIST")
    parser.add_argument("--denoiser", type=Path, help="one that was trained on the trusted images; default: train it")
    parser.add_argument("--sigma", type=float, nargs="+", default=[0.5, 1.0])
    parser.add_argument("--scratch", type=Path, default=Path(".cache/fashion"), help="keeps every draw's votes")
    parser.add_argument("--pilot", action="store_true", help="compare the candidate recipes, on other images")
    args = parser.parse_args()
    torch.set_num_threads(1)
    size, params = (QUICK, QUICK_DENOISER) if args.quick else (FULL, DENOISER)
    kept_in = args.scratch / "quick" if args.quick else args.scratch
    sets = published("fashion-mnist", args.root, size.trusted, size.raw, SPLIT_SEED, size.test)
    raw, test, m = sets["raw"], sets["test"], size.m
    denoiser, origin = the_denoiser(sets["trusted"], args.denoiser, kept_in, params)
    if args.pilot:
        wanted = size.raw + PILOT_RAW + PILOT_TEST
        more = published("fashion-mnist", args.root, size.trusted, wanted, SPLIT_SEED, size.test)["raw"]
        used = set(sets["raw"].ids)
        others = more.take(np.array([i for i, name in enumerate(more.ids) if name not in used]))
        pilot(others, args.sigma, denoiser, kept_in)
        return
    facts = {
        "m": m,
        "alpha": ALPHA,
        "split": {"trusted": size.trusted, "raw": len(raw), "test": len(test), "seed": SPLIT_SEED},
        "raw_digest": raw.digest,
        "test_digest": test.digest,
        "denoiser_digest": denoiser.digest,
        "recipes": {name: CANDIDATES[chosen].model_dump() for name, (_, chosen) in ENSEMBLES.items()},
    }
    scratch = kept_in / "draws"
    entropy = begin(scratch, facts)
    fast = {sigma: accelerate(denoiser, sigma, NETWORK_BATCH, m * len(raw)) for sigma in args.sigma}
    ensembles = [(name, sigma) for name in ENSEMBLES for sigma in args.sigma]
    curve = np.linspace(0, 2, 401)
    rows: dict[str, dict[str, Any]] = {}
    with tqdm(total=m * len(ensembles), unit="model", mininterval=5) as bar:
        for name, sigma in ensembles:
            bar.set_description(f"σ = {sigma:g}, {name}")
            way, chosen = ENSEMBLES[name]
            folder = scratch / f"{name.replace(', ', '_').replace(' ', '_')}_{sigma:g}"
            denoise = (denoiser, fast[sigma]) if way == "denoised" else None
            draws = []
            for i in range(m):
                work = partial(make_draw, raw, test, sigma, denoise, CANDIDATES[chosen], entropy, i)
                draws.append(kept(folder / f"{i:03d}.npz", work))
                bar.update()
            row = figures_of(draws, test, sigma, curve)
            rows[f"{name}, {sigma:g}"] = {"ensemble": name, "recipe": chosen, "sigma": sigma, **row}
    show(rows)
    step = math.sqrt(raw.images[0].size) / 255
    changed = ", ".join(f"R = {r:g}: {images_tolerated(r, step)}" for r in RADII)
    print(f"\nm = {m}, α = {ALPHA:g} per point; images that may each change by 1/255 everywhere: {changed}\n")
    plot(rows, curve, m, results(args) / "fashion.png")
    tried = kept_in / "pilot.json"
    record(
        "fashion",
        facts
        | {
            "method": "binary",
            "threads": 1,
            "network": {f"{sigma:g}": fast[sigma].mode for sigma in args.sigma},
            "denoiser": origin,
            "entropy": entropy.hex(),
            "pilot": read_config(tried) if tried.is_file() else None,
            "curve_radii": [0.0, 2.0, len(curve)],
            "rows": rows,
        },
        results(args),
    )


if __name__ == "__main__":
    errors.run(main)
