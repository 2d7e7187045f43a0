"""Does sanitizing stop Witches' Brew against conv networks trained from scratch, and why not on an MLP?

    python -m benchmarks.conv --root DIR --denoiser DIR [--only tuning evidence why rivals] [--targets N]

Every row is in conv.json as soon as it is made; the same command goes on from there. What is declared before the run
stands in `setting.DECLARED` and in the record. Poisons are kept in --scratch, and crafted again if they are gone.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.common.record import flags, record, results
from benchmarks.conv.networks import Recipe, without_denormals
from benchmarks.conv.pictures import picture
from benchmarks.conv.run import Content, opened, run
from benchmarks.conv.sets import Aim, Sets, aims, read_sets
from benchmarks.conv.setting import (
    CHOSEN,
    CLASSES,
    DECLARED,
    ENTROPY,
    EPSILON,
    EVIDENCE_SEED,
    FULL,
    QUICK,
    TUNED,
    TUNING_SEED,
    WHY,
    Cell,
    Size,
    small,
)  # fmt: skip
from benchmarks.conv.statistics import summary
from benchmarks.conv.units import Unit, Work
from cleanlabel.sanitize import errors
from cleanlabel.sanitize.denoiser import load_denoiser

PHASES = ("tuning", "evidence", "why", "rivals")
SCREEN = 4
"""The attacker's clean networks that must be right on a target."""


def parsed() -> argparse.Namespace:
    """The flags."""
    parser = flags("conv", __doc__, "few images, one target, one seed, sigma 0 and .1")
    parser.add_argument("--root", type=Path, required=True, help="where torchvision put CIFAR-10")
    parser.add_argument("--denoiser", type=Path, required=True, help="for CIFAR-10")
    parser.add_argument("--only", nargs="+", choices=PHASES, default=PHASES, help="run only these phases")
    parser.add_argument("--targets", type=int, default=FULL.targets, help="targets of the evidence, 50 at most")
    parser.add_argument(
        "--scratch", type=Path, default=Path("data/redteam/conv"), help="keeps networks, poisons and sanitized copies"
    )
    return parser.parse_args()


def settings_of(size: Size, sets: Sets) -> Content:
    """What an interrupted run must have in common with the one that goes on."""
    return {
        "classes": CLASSES, "each": size.each, "epsilon": EPSILON, "entropy": ENTROPY, "seeds": size.seeds,
        "sigmas": size.sigmas, "raw_digest": sets.clean.digest, "test_digest": sets.test.digest,
        "denoiser_digest": sets.denoiser.digest, "tuning_seed": TUNING_SEED, "evidence_seed": EVIDENCE_SEED,
    }  # fmt: skip


def targets(found: Content, sets: Sets, size: Size, recipe: Recipe) -> tuple[list[Aim], list[Aim]]:
    """Tuning and evidence targets: the record's, or drawn and put there."""
    if "targets" not in found:
        networks = sets.attackers(recipe, SCREEN if size is FULL else 1)
        first = aims(networks, sets.test, size.tuning, TUNING_SEED)
        second = aims(networks, sets.test, size.drawn, EVIDENCE_SEED, first)
        found["targets"] = {"tuning": first, "evidence": second}
    return tuple([tuple(aim) for aim in found["targets"][phase]] for phase in ("tuning", "evidence"))  # type: ignore[return-value]


def phase(
    name: str, work: Work, cells: dict[str, dict[str, Cell]], known: tuple[list[Aim], list[Aim]], n: int
) -> Iterator[Unit]:
    """The units of a phase, in order."""
    size, (tuning, drawn) = work.size, known
    if name == "tuning":
        yield from work.tuning(cells["tuning"], tuning)
    elif name == "evidence":
        chosen = cells["why"]["conv"]
        yield from work.controls("conv", chosen, size.sigmas, size.seeds, drawn)
        yield from work.victims("conv", chosen, size.sigmas, size.seeds, drawn[:n])
    elif name == "rivals":
        yield from work.rivals(cells["why"]["conv"], drawn[:n], drawn)
    else:
        for title, cell in cells["why"].items():
            wanted = drawn[: min(n, size.why_targets)]
            yield from work.controls(title, cell, size.sigmas, size.why_seeds, drawn)
            yield from work.victims(title, cell, size.sigmas, size.why_seeds, wanted)
            yield from work.scaled(title, cell, wanted)


def main() -> None:
    args = parsed()
    with without_denormals():
        measure(args)


def measure(args: argparse.Namespace) -> None:
    """Run the phases that were asked for, and write record and picture."""
    size, folder = QUICK if args.quick else FULL, results(args)
    scratch = args.scratch / ("quick" if args.quick else "full")
    sets, path = read_sets(args.root, load_denoiser(args.denoiser), size, scratch), folder / "conv.json"
    found: dict[str, Any] = opened(path, settings_of(size, sets))
    fit = small if args.quick else (lambda cell: cell)
    cells = {"tuning": {k: fit(c) for k, c in TUNED.items()}, "why": {k: fit(c) for k, c in WHY.items()}}
    found["declared"] = DECLARED
    found["cells"] = {kind: {k: c.facts() for k, c in of.items()} for kind, of in cells.items()} | {"chosen": CHOSEN}
    known = targets(found, sets, size, fit(Cell()).victim)
    work, n = Work(sets, size), min(args.targets, size.targets if args.quick else size.drawn)
    for name in args.only:
        run(phase(name, work, cells, known, n), found, path, name)
    rows, controls = ([row for row in found.get(t, []) if row["cell"] == "conv"] for t in ("victims", "controls"))
    found["summary"] = summary(rows, controls, size.sigmas, size.seeds)
    if "why" in args.only:
        picture(work, cells["why"], known[1], folder / "conv.png")
    record("conv", {k: v for k, v in found.items() if k not in ("benchmark", "date", "machine")}, folder)


if __name__ == "__main__":
    errors.run(main)
