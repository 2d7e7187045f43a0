"""Choose the noise and the number of blocks: a short pilot on trusted images suggests (sigma, k) for a target (a, R).

    python -m flows.choose --images 800 --models 100 --radius 0.5
    python -m flows.choose --images 5000 --models 100 --radius 0.3 --rewritten 2 --sigmas 0.25 0.5 --partitions 5 10 20

If train.head is bounded-influence, it suggests sigma, lambda, the clip and the sides instead (`--models`: draws).
There sigma may be 0, for a target of counts alone: `--radius 0 --rewritten 25 --sigmas 0 0.1 0.25`.
It reads only params.yaml (train, sanitize.denoise, certify), the denoiser and data/trusted.npz, never the raw set. So
the ensemble stays certifiable if sanitize.sigma and smooth.partitions are set to its suggestion. The record,
reports/chooser.json, says `"looked_at": "trusted"` and contains the trusted set's digest. Two conditions apply: the
trusted images are not among the raw ones (stage `ingest` ensures this), and you run it *before* anybody looks at
results on the raw set. Its figures are forecasts: they certify nothing and spend no alpha.
"""

import argparse
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from tqdm import tqdm

from cleanlabel.flows import choose_influence
from cleanlabel.flows.artifacts import CHOOSER
from cleanlabel.flows.ensemble.planning import check_initial
from cleanlabel.models.chooser import Outlook, Target, best_of, not_told_apart, outlook, unanimous_blocks_radius
from cleanlabel.models.materials import Materials
from cleanlabel.models.params import CertifyParams, SmoothParams, TrainParams, check_recipe
from cleanlabel.models.parts import parts_of_recipe
from cleanlabel.models.pilot import LEAST_ASKED, blocks_of_size, make_pilots, steps
from cleanlabel.models.plan import recipe_of
from cleanlabel.models.rounding import down, down_text, exact, up
from cleanlabel.models.start import start_of
from cleanlabel.sanitize import errors
from cleanlabel.sanitize.denoiser import load_denoiser
from cleanlabel.sanitize.denoiser_files import PROVENANCE, read_config
from cleanlabel.sanitize.device import default_device
from cleanlabel.sanitize.door import STATED_BY, admit
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.files import write_json
from cleanlabel.sanitize.imageset import ImageSet, load, require_trainable
from cleanlabel.sanitize.noise import check_sigma
from cleanlabel.sanitize.params import SanitizeParams, read_params
from cleanlabel.sanitize.parts import parts_of_denoiser
from cleanlabel.sanitize.paths import DENOISER, SETS
from cleanlabel.sanitize.timestep import require_reachable

SIGMAS = (0.1, 0.25, 0.5, 1.0)
PARTITIONS = (1, 2, 5, 10, 20, 50, 100)
DRAWS = 12
SKIPPED = "skipped"


def main() -> None:
    arguments = parse()
    torch.set_num_threads(int(os.environ.get("CLEANLABEL_THREADS", "1")))
    record = choose(arguments)
    write_json(CHOOSER, record)
    of = choose_influence if "pilot_draws" in record else sys.modules[__name__]
    print(of.table(record))
    print(f"\n{of.verdict(record)}\n\nwritten to {CHOOSER}")


def parser() -> argparse.ArgumentParser:
    """The command's flags."""
    flags = argparse.ArgumentParser(
        prog="python -m flows.choose", description="Suggest sigma and the number of blocks, from trusted images only."
    )
    flags.add_argument("--images", type=int, required=True, help="number of images that the raw set has or will have")
    flags.add_argument("--models", type=int, required=True, help="models per block (smooth.m)")
    flags.add_argument("--radius", type=float, default=0.5, help="joint l2 radius R of the target")
    flags.add_argument(
        "--rewritten", type=int, default=0, help="number of images that change at will in the target (a)"
    )
    flags.add_argument("--sigmas", type=float, nargs="+", default=list(SIGMAS), help="noise levels to try")
    flags.add_argument("--partitions", type=int, nargs="+", default=None, help="numbers of blocks to try")
    flags.add_argument(
        "--points", type=int, default=None, help="number of test images, if certify.simultaneous is true"
    )
    flags.add_argument("--draws", type=int, default=DRAWS, help="pilot models per block")
    return flags


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line. InputError for an impossible target or candidate."""
    asked = parser().parse_args(words)
    if asked.partitions is None:
        asked.partitions = [k for k in PARTITIONS if k == 1 or 2 * k <= asked.images]
    for name, least in (("images", 2), ("models", 1), ("rewritten", 0), ("draws", 2), ("points", 1)):
        value = getattr(asked, name)
        if value is not None and value < least:
            raise InputError(f"--{name}={value} is too small; give {least} or more")
    if not (math.isfinite(asked.radius) and asked.radius >= 0):
        raise InputError(f"--radius={exact(asked.radius)} is not a joint l2 norm; give 0 or more")
    if not asked.radius and not asked.rewritten:
        raise InputError("--radius=0 with --rewritten=0 asks for no certificate; give a radius above 0")
    for sigma in asked.sigmas:
        check_sigma(sigma, "--sigmas")
    for k in asked.partitions:
        if k < 1 or (2 * k > asked.images and k > 1):
            raise InputError(
                f"--partitions has {k}: {asked.images} images are fewer than two per block; "
                f"give 1..{max(1, asked.images // 2)}"
            )
    return asked


def choose(asked: argparse.Namespace) -> dict[str, Any]:
    """Run the pilot. Returns the forecast for each (sigma, k), as a record."""
    recipe, smooth = read_params("train", TrainParams), read_params("smooth", SmoothParams)
    recipe = recipe.model_copy(update={"twin": None})  # a twin is for one sigma, and is made once that is chosen
    certify, denoised = read_params("certify", CertifyParams), read_params("sanitize", SanitizeParams).denoise
    if certify.method != "binary" or smooth.test_sigma:
        raise InputError(
            f"params certify.method={certify.method!r} and smooth.test_sigma={smooth.test_sigma:g}: the forecast "
            "supports only the method binary, without noise on test inputs; set them to binary and 0"
        )
    trusted = _trusted()
    check_recipe(recipe)
    if not recipe.bounded_influence and 0 in asked.sigmas:
        raise InputError(
            "--sigmas has 0, and votes certify nothing without noise; give positive numbers, in [0,1] pixel units, "
            "or set train.head: bounded-influence, which certifies counts of images without noise"
        )
    check_initial(recipe, trusted)
    denoiser = parts_of_denoiser(DENOISER, asks=STATED_BY, stated=True) if denoised else []
    admitted = admit(None, [*denoiser, *parts_of_recipe(recipe)])  # the raw set is not read: planning compares
    level = certify.alpha / smooth.ensembles / (_points(asked) if certify.simultaneous else 1)
    if recipe.bounded_influence:
        prepared = _materials(trusted, recipe, asked.draws, max(asked.sigmas), denoised=denoised)
        record = choose_influence.choose_influence(asked, prepared, level, trusted, denoised=denoised)
        return record | {"admitted": list(admitted)}
    target = Target(asked.radius, asked.rewritten, asked.models, level)
    sizes = {k: asked.images // k for k in sorted(set(asked.partitions))}
    found: list[Outlook] = []
    worth: dict[float, list[int]] = {}
    for sigma in sorted(set(asked.sigmas)):
        for k, size in sizes.items():
            why = _why_not(trusted, sigma, k, size, target)
            if why is None:
                worth.setdefault(sigma, []).append(k)
            else:
                largest = unanimous_blocks_radius(sigma, k, target, len(trusted.classes))
                found.append(Outlook(sigma, k, size, largest, None, None, None, 0, 0, why))
    prepared = _materials(trusted, recipe, asked.draws, max(worth, default=0.0), denoised=denoised)
    total = sum(steps(trusted, sorted({sizes[k] for k in ks}), asked.draws) for ks in worth.values())
    with tqdm(total=total, desc="pilot", unit="step", mininterval=1, disable=not total) as bar:
        for sigma, ks in worth.items():
            materials = Materials(sigma=sigma, **prepared)
            for pilot in make_pilots(materials, sorted({sizes[k] for k in ks}), asked.draws, bar.update):
                found += [outlook(pilot, sigma, k, target) for k in ks if sizes[k] == pilot.size]
    found.sort(key=lambda one: (one.sigma, one.k))
    best = best_of(found)
    return {
        "looked_at": "trusted",
        "trusted_digest": trusted.digest,
        "trusted_images": len(trusted),
        "images": asked.images,
        "models_a_block": asked.models,
        "pilot_models_a_block": asked.draws,
        "target": {"radius": asked.radius, "rewritten": asked.rewritten},
        "level": level,
        "recipe": recipe_of(recipe),
        "denoised": denoised,
        "admitted": list(admitted),
        "notes": _notes(trusted, denoised=denoised),
        "candidates": [_rounded(one) for one in found],
        "best": _rounded(best) if best else None,
        "not_told_apart": [{"sigma": one.sigma, "k": one.k} for one in not_told_apart(found, best)] if best else [],
    }


def table(record: dict[str, Any]) -> str:
    """One row per (sigma, k), in Markdown."""
    target = record["target"]
    lines = [
        f"Certified accuracy to expect at R = {exact(target['radius'])} with {target['rewritten']} images rewritten; "
        f"{record['images']} images, {record['models_a_block']} models per block",
        "",
        "| sigma | k | images per block | largest R | expected | 90% of repeats | from |",
        "|--:|--:|--:|--:|--:|---|---|",
    ]
    for row in record["candidates"]:
        figures = ("", row["why"], "")
        if row["accuracy"] is not None:
            span = f"{down_text(row['low'])} to {up(row['high'], 3):.3f}"
            figures = down_text(row["accuracy"]), span, f"{row['blocks']} blocks, {row['points']} images"
        cells = [f"{row['sigma']:g}", f"{row['k']}", f"{row['images_a_block']}", down_text(row["largest"]), *figures]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def verdict(record: dict[str, Any]) -> str:
    """What to set, how certain that is, and what it is based on."""
    best = record["best"]
    if best is None:
        return "Nothing is expected to be certified at this target; ask for less, or for more models or noise."
    lines = [
        f"Suggested: sanitize.sigma: {best['sigma']:g} and smooth.partitions: {best['k']}, "
        f"expected {down_text(best['accuracy'])} (90% of the repeats {down_text(best['low'])} to "
        f"{up(best['high'], 3):.3f}; "
        "it can be off by more).",
    ]
    if record["not_told_apart"]:
        others = ", ".join(f"({row['sigma']:g}, {row['k']})" for row in record["not_told_apart"])
        lines.append(f"This pilot cannot distinguish it from (sigma, k) = {others}; use --draws {DRAWS * 3}.")
    untried = sorted({row["k"] for row in record["candidates"] if row["why"].startswith(SKIPPED)})
    if untried:
        lines.append(f"Not tried, with too few trusted images, but perhaps better: k = {', '.join(map(str, untried))}.")
    return "\n".join([*lines, *record["notes"]])


def _notes(trusted: ImageSet, *, denoised: bool) -> list[str]:
    notes = [f"The pilot used {len(trusted)} trusted and no untrusted images: the suggestion voids no certificate."]
    if denoised and read_config(DENOISER / PROVENANCE).get("trained_on") == trusted.digest:
        notes.append("The denoiser was trained on these images and may denoise them better than raw ones: expect less.")
    return notes


def _why_not(trusted: ImageSet, sigma: float, k: int, size: int, target: Target) -> str | None:
    if unanimous_blocks_radius(sigma, k, target, len(trusted.classes)) <= target.radius:
        return "0: even unanimous votes would not reach R"
    if not blocks_of_size(trusted, size):
        return f"{SKIPPED}: needs {size + LEAST_ASKED} trusted images, there are {len(trusted)}"
    return None


def _trusted() -> ImageSet:
    path = SETS["trusted"]
    if not path.is_file():
        raise InputError(f"{path} does not exist; run `dvc repro ingest`, with trusted images that are not raw ones")
    trusted = load(path)
    if not len(trusted):
        raise InputError(f"{path} has no images; set ingest.trusted, or put a trusted set under data/incoming/trusted")
    require_trainable(trusted, "trusted")
    return trusted


def _points(asked: argparse.Namespace) -> int:
    if asked.points is None:
        raise InputError("param certify.simultaneous=true shares alpha among the test images; say how many: --points N")
    return int(asked.points)


def _materials(trusted: ImageSet, recipe: TrainParams, draws: int, sigma: float, *, denoised: bool) -> dict[str, Any]:
    """The materials of the models at every sigma. InputError if the largest sigma is beyond the denoiser's schedule."""
    device = default_device()
    denoiser = load_denoiser(DENOISER, device) if denoised else None
    if denoiser and sigma:
        require_reachable(sigma, denoiser.facts.largest_sigma)
    return {
        "raw": trusted,
        "test": trusted,
        "denoiser": denoiser,
        "recipe": recipe,
        "draws": draws,
        "start": start_of(recipe, device),
        "device": device,
    }


def _rounded(one: Outlook) -> dict[str, Any]:
    """The forecast as it is recorded. What was asked for and suggested (sigma) keeps its digits."""
    figures: dict[str, Any] = {"largest": down(one.largest, 4)}
    if one.accuracy is not None and one.low is not None and one.high is not None:
        figures |= {"accuracy": down(one.accuracy, 4), "low": down(one.low, 4), "high": up(one.high, 4)}
    return asdict(one) | figures


if __name__ == "__main__":
    errors.run(main)
