"""Attacks on a frozen extractor, with as many raw images as CIFAR-10's test split leaves, against three heads.

    python -m benchmarks.frozen --root DIR --setups FILE --denoiser DIR --extractor FILE --deeper FILE [--targets N]
                             [--only NAME ..]

The paper's Tables 1, 4 and 6 in kind. Every row is in frozen.json as soon as it is made; the same command goes on from
there. What is declared before the run stands in `setting.DECLARED` and in the record. The pool is sanitized once per
sigma and seed and serves all targets and attacks: only the poisons are sanitized anew.
"""

import argparse
from pathlib import Path
from typing import Any

from benchmarks.common.record import flags, record, results
from benchmarks.conv.run import Content, opened, run
from benchmarks.conv.setting import ENTROPY
from benchmarks.frozen.sets import Sets, read_sets
from benchmarks.frozen.setting import (
    CELLS,
    DECLARED,
    FIRST_TUNED,
    FULL,
    HEADS,
    NEIGHBOURS,
    QUICK,
    RANDOM,
    SEEDS,
    SUMS,
    TRIED,
    Size,
    small,
)
from benchmarks.frozen.units import Work
from cleanlabel.models.extractors import load_extractor
from cleanlabel.sanitize import errors
from cleanlabel.sanitize.denoiser import load_denoiser


def parsed() -> argparse.Namespace:
    """The flags."""
    parser = flags("frozen", __doc__, "few images, one target, one seed, sigma 0 and .1")
    parser.add_argument("--root", type=Path, required=True, help="where torchvision put CIFAR-10")
    parser.add_argument("--setups", type=Path, required=True, help="the public benchmark's transfer setups, as JSON")
    parser.add_argument("--denoiser", type=Path, required=True, help="for CIFAR-10")
    parser.add_argument("--extractor", type=Path, required=True, help="the victim's: a ResNet-20 for CIFAR-10")
    parser.add_argument("--deeper", type=Path, required=True, help="another one, for black-box poisons")
    parser.add_argument("--only", nargs="+", choices=CELLS, default=[*CELLS], help="measure only these attacks")
    parser.add_argument("--targets", type=int, default=FULL.targets, help=f"{FIRST_TUNED} at most")
    parser.add_argument(
        "--scratch", type=Path, default=Path("data/redteam/frozen"), help="keeps networks, poisons and features"
    )
    return parser.parse_args()


def settings_of(size: Size, seeds: int, sets: Sets) -> Content:
    """What an interrupted run must have in common with the one that goes on."""
    return {
        "sigmas": size.sigmas, "seeds": seeds, "entropy": ENTROPY, "heads": [*HEADS, SUMS],
        "raw_images": len(sets.pool), "pool_digest": sets.pool.digest, "test_digest": sets.test.digest,
        "denoiser_digest": sets.denoiser.digest, "extractor_digest": sets.victim.digest,
        "deeper_digest": sets.deeper.digest, "trusted": size.trusted, "surrogate_epochs": size.epochs,
        "neighbours": NEIGHBOURS,
    }  # fmt: skip


def main() -> None:
    args = parsed()
    size, folder = QUICK if args.quick else FULL, results(args)
    seeds = 1 if args.quick else SEEDS
    fit = small if args.quick else (lambda cell: cell)
    victim, deeper = (load_extractor(path) for path in (args.extractor, args.deeper))
    scratch = args.scratch / ("quick" if args.quick else "full")
    sets = read_sets(args.root, args.setups, victim, deeper, load_denoiser(args.denoiser), size, scratch)
    path = folder / "frozen.json"
    found: dict[str, Any] = opened(path, settings_of(size, seeds, sets))
    found["declared"], found["random"] = DECLARED, RANDOM
    cells, tried = ({name: fit(cell) for name, cell in of.items()} for of in (CELLS, TRIED))
    found["cells"] = {k: {n: c.facts() for n, c in of.items()} for k, of in (("reported", cells), ("tried", tried))}
    work, most = Work(sets), min(args.targets, size.targets, FIRST_TUNED, len(sets.setups))
    last = len(sets.setups)
    tuned = list(range(min(FIRST_TUNED, last - 1), last))[: size.tuned]
    run(work.tried(tried, tuned), found, path, "tried")
    wanted = {name: cell for name, cell in cells.items() if name in args.only}
    run(work.evidence(wanted, list(range(most)), size.sigmas, seeds), found, path, "evidence")
    record("frozen", {k: v for k, v in found.items() if k not in ("benchmark", "date", "machine")}, folder)


if __name__ == "__main__":
    errors.run(main)
