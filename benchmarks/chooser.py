"""What the chooser forecasts from trusted images, and what blocks of the raw set then certify.

    python -m benchmarks.chooser [--quick]

On the pipeline's data (run `dvc repro denoiser` first) with the recipe of params.yaml. For each sigma and number of
blocks a pilot on the trusted images gives its forecast for several targets; then every block of the raw set is trained
with all its models, evaluated on the test images, and certified. The chooser sees neither raw nor test images.
"""

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks.common.record import flags, record, results
from cleanlabel.models.blocks import block_of
from cleanlabel.models.certificate import certified_accuracy
from cleanlabel.models.chooser import Outlook, Target, best_of, outlook
from cleanlabel.models.materials import Materials
from cleanlabel.models.params import TrainParams
from cleanlabel.models.partition import block_certificates, partition_radius
from cleanlabel.models.pilot import block_models, make_pilots
from cleanlabel.models.rounding import down, exact
from cleanlabel.models.training import predict_inputs
from cleanlabel.models.votes import NOBODY
from cleanlabel.sanitize import errors
from cleanlabel.sanitize.denoiser import Denoiser, load_denoiser
from cleanlabel.sanitize.imageset import ImageSet, load
from cleanlabel.sanitize.noise import draw_entropy, training_seed
from cleanlabel.sanitize.params import read_params
from cleanlabel.sanitize.paths import DENOISER, SETS
from cleanlabel.sanitize.sanitizer import sanitize

ALPHA, DRAWS = 0.001, 12
Sigmas = tuple[float, ...]
TARGETS = ((0.25, 0), (0.5, 0), (0.25, 1), (0.25, 2))


def counted(materials: Materials, ks: tuple[int, ...], m: int) -> dict[int, NDArray[np.int64]]:
    """For each k the votes (k, n_test, K) of m models per block, from m sanitized copies of the raw set."""
    entropy, fast = draw_entropy("os").value, materials.fast(materials.sigma)
    raw, n_test = materials.raw, len(materials.test)
    copies = [
        sanitize(raw, materials.sigma, materials.denoiser, entropy, draw, denoise=fast, batch=materials.batch)
        for draw in tqdm(range(m), desc=f"sigma {materials.sigma:g}", unit="copy", mininterval=2)
    ]
    seen = [materials.inputs_of(copy) for copy in copies] if materials.start.extractor else copies
    found = {}
    for k in ks:
        counts = np.zeros((k, n_test, len(raw.classes)), dtype=np.int64)
        of = block_of(raw.ids, k)
        for j in tqdm(range(k), desc=f"k {k}", unit="block", mininterval=2):
            seeds = [training_seed(entropy, draw * k + j) for draw in range(m)]
            for start in range(0, m, 25):
                part = slice(start, start + 25)
                for model in block_models(materials, seen[part], np.flatnonzero(of == j), seeds[part]):
                    votes = predict_inputs(model, materials.test_inputs)
                    cast = np.flatnonzero(votes != NOBODY)
                    counts[j, cast, votes[cast]] += 1
        found[k] = counts
    return found


Forecasts = dict[Target, list[Outlook]]
Measured = dict[tuple[float, int, Target], float]


def forecast(
    trusted: ImageSet,
    denoiser: Denoiser,
    recipe: TrainParams,
    sigmas: Sigmas,
    sizes: dict[int, int],
    draws: int,
    targets: list[Target],
) -> Forecasts:
    """The forecasts from pilots on trusted images, for every sigma and k; sizes: images of a block, by k."""
    found: Forecasts = {target: [] for target in targets}
    for sigma in sigmas:
        piloted = Materials(trusted, trusted, sigma, denoiser, recipe, draws)
        for pilot in make_pilots(piloted, sorted(sizes.values()), draws):
            for target in targets:
                found[target] += [outlook(pilot, sigma, k, target) for k in sizes if sizes[k] == pilot.size]
    return found


def measured(
    raw: ImageSet,
    test: ImageSet,
    denoiser: Denoiser,
    recipe: TrainParams,
    sigmas: Sigmas,
    ks: tuple[int, ...],
    m: int,
    targets: list[Target],
) -> Measured:
    """The certified accuracy of m models per block of the raw set, by sigma, k and target."""
    found: Measured = {}
    for sigma in sigmas:
        for k, counts in counted(Materials(raw, test, sigma, denoiser, recipe, m), ks, m).items():
            certified = block_certificates(counts, m, sigma, ALPHA)
            for target in targets:
                label, radius = partition_radius(*certified, counts.shape[2], target.rewritten)
                share = certified_accuracy(label, radius, test.labels, target.radius)[0]
                found[sigma, k, target] = down(share, 4)
    return found


def rows_of(forecasts: Forecasts, found: Measured) -> list[dict[str, Any]]:
    """A row per target, sigma and k, with whether the chooser takes it."""
    rows: list[dict[str, Any]] = []
    for target, outlooks in forecasts.items():
        best = best_of(outlooks)
        for one in sorted(outlooks, key=lambda one: (one.sigma, one.k)):
            row: dict[str, Any] = {"radius": target.radius, "rewritten": target.rewritten}
            row |= {"sigma": one.sigma, "k": one.k}
            figures = {name: round(float(getattr(one, name) or 0), 4) for name in ("accuracy", "low", "high")}
            rows.append(row | figures | {"measured": found[one.sigma, one.k, target], "chosen": one is best})
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    """Print a line per row."""
    print(f"{'R':>5} {'a':>2} {'sigma':>6} {'k':>3} {'forecast':>9} {'90%':>14} {'measured':>9}")
    for row in rows:
        span = f"{row['low']:.3f}-{row['high']:.3f}"
        print(
            f"{exact(row['radius']):>5} {row['rewritten']:>2} {row['sigma']:>6g} {row['k']:>3} {row['accuracy']:>9.3f} "
            f"{span:>14} {row['measured']:>9.3f}{'  chosen' if row['chosen'] else ''}"
        )


def lost_by_the_choice(rows: list[dict[str, Any]]) -> list[float]:
    """For each target: the best certified accuracy less that of the chosen sigma and k."""
    lost = []
    for asked in TARGETS:
        same = [row for row in rows if (row["radius"], row["rewritten"]) == asked]
        lost.append(max(row["measured"] for row in same) - sum(row["measured"] for row in same if row["chosen"]))
    return lost


def main() -> None:
    parser = flags("chooser", __doc__, "one sigma, 2 blocks of 12 models each, pilots of 3 draws")
    args = parser.parse_args()
    m, sigmas, ks, draws = (12, (0.25,), (2,), 3) if args.quick else (50, (0.25, 0.5), (2, 5, 10), DRAWS)
    raw, test, trusted = (load(SETS[name]) for name in ("raw", "test", "trusted"))
    recipe, denoiser = read_params("train", TrainParams), load_denoiser(DENOISER)
    targets = [Target(radius, a, m, ALPHA) for radius, a in TARGETS]
    started = time.perf_counter()
    forecasts = forecast(trusted, denoiser, recipe, sigmas, {k: len(raw) // k for k in ks}, draws, targets)
    seconds = time.perf_counter() - started
    rows = rows_of(forecasts, measured(raw, test, denoiser, recipe, sigmas, ks, m, targets))
    print(f"\nm = {m} models per block, alpha = {ALPHA}, {len(raw)} raw images; pilots took {seconds:.0f} s")
    show(rows)
    open_rows = [row for row in rows if row["measured"] or row["accuracy"]]
    inside = sum(row["low"] <= row["measured"] <= row["high"] for row in open_rows)
    lost = lost_by_the_choice(rows)
    print(
        f"measured within the forecast's 90%: {inside} of the {len(open_rows)} that certify anything; "
        f"lost by the choice: {max(lost):.3f} at most"
    )
    found: dict[str, Any] = {"m": m, "alpha": ALPHA, "pilot_draws": draws, "pilot_seconds": round(seconds, 1)}
    found |= {"rows": rows, "inside": inside, "of": len(open_rows)}
    record("chooser", found | {"lost_by_the_choice": [round(x, 4) for x in lost]}, results(args))


if __name__ == "__main__":
    errors.run(main)
