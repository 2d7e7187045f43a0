"""Certificates of bounded-influence heads beside votes, partitions and certified nearest neighbours.

    python -m benchmarks.influence --set cifar10 --root DIR --extractor FILE [--denoiser DIR] [--quick]
    python -m benchmarks.influence --set fashion-mnist --root DIR [--unseen] [--quick]

The same raw and test images and the same features for all of them (`benchmarks.influence_sets`). Bounded influences and
votes see each sanitized copy through a twin of the extractor that was distilled on noised trusted images, and with
--denoiser also through the extractor itself, on copies that were denoised. Clean test images go through the extractor.

A bound takes the draws that there are (--m, --denoised-m), at alpha = .001 per test image, less the distance of the
noise that was drawn from the ideal one. `page`: radii by Hoeffding's inequality and the largest slope; `certified`: by
a Chernoff bound for each class and the isoperimetric bound (`models.influence`). Lambda and clip are chosen, for each
sigma and each form of clip apart, by the mean certified accuracy over the table's columns on images that are in neither
raw nor test. Which sigma is best at a radius is seen after the fact, on the test images: a guide, no certificate.

The features of every draw are kept in --scratch (2 GB): a run that was interrupted goes on there.
"""

import argparse
import json
from collections.abc import Mapping
from functools import partial
from itertools import product
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks.frontier_votes import kept
from benchmarks.influence_rivals import ALPHA, neighbour_rows, partition_rows, rounded, share, vote_row
from benchmarks.influence_sets import FULL, QUICK, Copies, Sets, cifar_sets, fashion_sets
from benchmarks.influence_shown import COUNTS, RADII, draw_picture, table
from benchmarks.record import flags, record, results
from benchmarks.transfer import resumed
from cleanlabel.models.certificate import Ints, certified_accuracy
from cleanlabel.models.extractors import features
from cleanlabel.models.influence import radius_left, score_margins
from cleanlabel.models.influenced import Influenced, influenced
from cleanlabel.models.instrument import Features, Instrument, Sides, Sums, make_instrument
from cleanlabel.models.plan import noise_distance_of
from cleanlabel.sanitize import errors
from cleanlabel.sanitize.denoiser import Denoiser, load_denoiser
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.files import write_json

RIDGES = (0.05, 0.25, 1.0, 4.0)
FORMS: dict[str, tuple[tuple[float | None, float], ...]] = {
    "one-sided": ((None, 0.6), (None, 0.8), (None, 0.95)),
    "two-sided": ((None, 0.6), (None, 0.8), (None, 0.95)),
    "threshold": ((0.7, 0.95), (0.85, 0.97), (0.9, 0.97), (0.93, 0.99)),
}
"""The clips: from 0 or minus the quantile up to the quantile that is named; from one quantile to another."""
PUBLIC_COPIES = 3


def sides_of(form: str) -> Sides:
    return "two" if form == "two-sided" else "one"


def answers(sums: Mapping[int, Sums], sets: Sets, form: str, sigma: float) -> Influenced:
    """What the sums of all their draws come to."""
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

    The tuning images' sums are scaled to the raw set's class sizes, and taken for those of m draws.
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
    """Every form of clip, at one sigma."""
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


def measured(
    args: argparse.Namespace, sets: Sets, denoiser: Denoiser | None, entropy: bytes, scratch: Path
) -> list[dict[str, Any]]:
    """The rows of votes and influences: the noise left in, then denoised."""
    drawn = dict(zip(args.sigma, args.m, strict=True))
    votes = dict.fromkeys(args.votes_sigma, args.votes_m)
    ways: list[tuple[str, Denoiser | None, dict[float, int], dict[float, int], int]] = [
        ("noise only", None, drawn, votes, PUBLIC_COPIES)
    ]
    if denoiser:
        ways.append(("denoised", denoiser, dict.fromkeys(args.denoised_sigma, args.denoised_m), {}, 1))
    rows = []
    for way, removing, ms, cast, copied in ways:
        total = sum(len(FORMS) * (m if s else 1) + cast.get(s, 0) for s, m in ms.items())
        with tqdm(total=total, desc=f"draws, {way}", unit="draw", mininterval=5) as bar:
            for sigma, m in ms.items():
                folder = scratch / f"{way.replace(' ', '-')}-{sigma:g}"
                folder.mkdir(parents=True, exist_ok=True)
                copies = Copies(sets, sigma, removing, args.set == "cifar10", folder)
                found = influence_rows(sets, copies, entropy, m, copied, bar)
                if sigma in cast:
                    every = []
                    for draw in range(cast[sigma]):
                        every.append(copies.draw(entropy, draw)[0])
                        bar.update()
                    found.append(vote_row(sets, every, sigma, RADII))
                rows += [{"way": way if sigma else "clean"} | row for row in found]
                print(table(rows[-len(found) :]), flush=True)
    return rows


def main() -> None:
    parser = flags("influence", __doc__, "a few hundred images, 12 draws at sigma 0 and the last one")
    parser.add_argument("--set", choices=["cifar10", "fashion-mnist"], required=True)
    parser.add_argument("--root", type=Path, required=True, help="where torchvision put the set")
    parser.add_argument("--extractor", type=Path, help="cifar10: a .safetensors file")
    parser.add_argument("--denoiser", type=Path, help="a diffusers directory; measures denoised copies as well")
    parser.add_argument("--unseen", action="store_true", help="fashion-mnist: an extractor of the five other classes")
    parser.add_argument("--sigma", type=float, nargs="+", default=[0.0, 0.1, 0.25, 0.5, 1.0, 2.0])
    parser.add_argument("--m", type=int, nargs="+", default=[20], help="draws, for all sigmas or each (default 20)")
    parser.add_argument("--denoised-sigma", type=float, nargs="+", default=[0.25, 1.0])
    parser.add_argument("--denoised-m", type=int, default=5, help="denoised draws at each sigma (default 5)")
    parser.add_argument("--votes-sigma", type=float, nargs="+", default=[0.5, 2.0])
    parser.add_argument("--votes-m", type=int, default=100, help="votes at each of them (default 100)")
    parser.add_argument("--scratch", type=Path, default=Path(".cache/influence"), help="keeps every draw's features")
    args = parser.parse_args()
    if args.unseen and args.set != "fashion-mnist":
        raise InputError("--unseen is for --set fashion-mnist, whose extractor is trained here; leave it out")
    torch.set_num_threads(1)
    size = (QUICK if args.quick else FULL)[args.set]
    if args.quick:
        args.sigma, args.votes_sigma, args.m, args.votes_m = [0.0, args.sigma[-1]], args.sigma[-1:], [2], 12
        args.denoised_sigma, args.denoised_m = args.denoised_sigma[:1], 1
    args.m = args.m * len(args.sigma) if len(args.m) == 1 else args.m
    if len(args.m) != len(args.sigma):
        raise InputError(f"--m has {len(args.m)} numbers for {len(args.sigma)} sigmas; give one, or one for each")
    sets = (
        cifar_sets(args.root, args.extractor, size)
        if args.set == "cifar10"
        else fashion_sets(args.root, size, unseen=args.unseen)
    )
    denoiser = load_denoiser(args.denoiser) if args.denoiser else None
    name = f"influence-{args.set}{'-unseen' if args.unseen else ''}"
    scratch = args.scratch / f"{name}{'-quick' if args.quick else ''}"
    settings = {
        "set": args.set, "lambdas": list(RIDGES), "clips": {form: [list(c) for c in of] for form, of in FORMS.items()},
        "unseen": args.unseen, "alpha": ALPHA, "raw_digest": sets.raw.digest,
        "test_digest": sets.test.digest, "extractor_digest": sets.extractor.digest, "sizes": vars(size),
        "raw_images": len(sets.raw), "test_images": len(sets.test), "class_sizes": sets.sizes.tolist(),
    }  # fmt: skip
    entropy = resumed(scratch, settings)
    clean = sets.asked
    own = share(sets.extractor.head(clean).argmax(dim=1).numpy() == sets.test.labels) if not args.unseen else None
    rows = measured(args, sets, denoiser, entropy, scratch)
    rivals = partition_rows(sets, COUNTS) + neighbour_rows(sets, COUNTS)
    print(table(rivals))
    draw_picture(args.set, rows, rivals, sets.test.labels, results(args) / f"{name}.png")
    hidden = ("curve", "counts")
    record(
        name,
        settings
        | {
            "own_head_accuracy": own,
            "denoiser_digest": denoiser.digest if denoiser else None,
            "radii": RADII,
            "images": COUNTS,
            "rows": [{k: v for k, v in row.items() if k not in hidden} for row in rows],
            "rivals": rivals,
            "threads": 1,
        },
        results(args),
    )


if __name__ == "__main__":
    errors.run(main)
