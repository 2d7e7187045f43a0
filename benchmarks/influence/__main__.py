"""Certificates of bounded-influence heads, votes, partitions and certified nearest neighbours.

    python -m benchmarks.influence --set cifar10 --root DIR --extractor FILE [--denoiser DIR] [--quick]
    python -m benchmarks.influence --set fashion-mnist --root DIR [--quick]
    python -m benchmarks.influence --set cifar10|fashion-mnist --root DIR --unseen [known|raw] [--quick]

The same raw and test images and the same features for all of them (`benchmarks.influence.sets`). Bounded influences and
votes take the features of each sanitized copy by a twin of the extractor, distilled on noised trusted images. With
--denoiser they also take those of denoised copies, by the extractor itself. Clean test images use the extractor.

Bounds are for --m and --denoised-m draws, at alpha = .001 per test image, and subtract the distance of the drawn noise
from the ideal one. `page`: radii by Hoeffding's inequality and the largest slope; `certified`: by
a Chernoff bound for each class and the isoperimetric bound (`models.influence`). Lambda and clip are chosen, for each
sigma and each form of clip apart, by the mean certified accuracy over the table's columns on images that are in neither
raw nor test. The best sigma at a radius is chosen afterwards, on the test images: a guide, not a certificate.

The features of every draw are kept in --scratch (2 GB): an interrupted run goes on there.
"""

import argparse
from pathlib import Path
from typing import Any, get_args

import torch
from tqdm import tqdm

from benchmarks.common.record import flags, record, results
from benchmarks.common.runs import resumed
from benchmarks.influence.heads import FORMS, RIDGES, influence_rows
from benchmarks.influence.rivals import ALPHA, neighbour_rows, partition_rows, share, vote_row
from benchmarks.influence.sets import FULL, QUICK, Copies, Sets, Size, Unseen, cifar_sets, fashion_sets
from benchmarks.influence.shown import COUNTS, RADII, draw_picture, table
from cleanlabel.sanitize import errors
from cleanlabel.sanitize.denoiser import Denoiser, load_denoiser
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.keys import in_order

PUBLIC_COPIES = 3
UNSEEN = {None: "", "known": "-unseen", "raw": "-unseen-moments"}
"""What a record's name ends in."""


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
                named = f"denoised-{removing.digest}" if removing else "noise-only"
                folder = scratch / f"{named}-{sigma:g}"
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


def parsed() -> argparse.Namespace:
    """The flags, made smaller for a quick run. InputError where they do not fit each other."""
    parser = flags("influence", __doc__, "a few hundred images, 12 draws at sigma 0 and the last one")
    parser.add_argument("--set", choices=["cifar10", "fashion-mnist"], required=True)
    parser.add_argument("--root", type=Path, required=True, help="where torchvision put the set")
    parser.add_argument("--extractor", type=Path, help="cifar10: a .safetensors file")
    parser.add_argument("--denoiser", type=Path, help="a diffusers directory; measures denoised copies as well")
    unseen = "the extractor is trained here and knows five classes, raw and test images are of the other five"
    unseen += "; moments are of the known classes (default) or of unlabelled images of the raw ones"
    parser.add_argument("--unseen", nargs="?", const="known", choices=get_args(Unseen), help=unseen)
    parser.add_argument("--sigma", type=float, nargs="+", default=[0.0, 0.1, 0.25, 0.5, 1.0, 2.0])
    parser.add_argument("--m", type=int, nargs="+", default=[20], help="draws, for all sigmas or each (default 20)")
    parser.add_argument("--denoised-sigma", type=float, nargs="+", default=[0.25, 1.0])
    parser.add_argument("--denoised-m", type=int, default=5, help="denoised draws at each sigma (default 5)")
    parser.add_argument("--votes-sigma", type=float, nargs="+", default=[0.5, 2.0])
    parser.add_argument("--votes-m", type=int, default=100, help="votes at each of them (default 100)")
    parser.add_argument("--scratch", type=Path, default=Path(".cache/influence"), help="keeps every draw's features")
    args = parser.parse_args()
    if args.unseen and args.extractor:
        raise InputError("--unseen trains its own extractor; leave --extractor out")
    if args.quick:
        args.sigma, args.votes_sigma, args.m, args.votes_m = [0.0, args.sigma[-1]], args.sigma[-1:], [2], 12
        args.denoised_sigma, args.denoised_m = args.denoised_sigma[:1], 1
    args.m = args.m * len(args.sigma) if len(args.m) == 1 else args.m
    if len(args.m) != len(args.sigma):
        raise InputError(f"--m has {len(args.m)} numbers for {len(args.sigma)} sigmas; give one, or one for each")
    return args


def settings_of(args: argparse.Namespace, sets: Sets, size: Size) -> dict[str, Any]:
    """What an interrupted run must have in common with the one that goes on."""
    return {
        "set": args.set, "lambdas": list(RIDGES), "clips": {form: [list(c) for c in of] for form, of in FORMS.items()},
        "unseen": args.unseen, "alpha": ALPHA, "raw_digest": sets.raw.digest,
        "test_digest": sets.test.digest, "extractor_digest": sets.extractor.digest, "sizes": vars(size),
        "raw_images": len(sets.raw), "test_images": len(sets.test), "class_sizes": sets.sizes.tolist(),
    }  # fmt: skip


def main() -> None:
    args = parsed()
    torch.set_num_threads(1)
    size = (QUICK if args.quick else FULL)[args.set]
    sets = (
        cifar_sets(args.root, args.extractor, size, args.unseen)
        if args.set == "cifar10"
        else fashion_sets(args.root, size, args.unseen)
    )
    denoiser = load_denoiser(args.denoiser) if args.denoiser else None
    name = f"influence-{args.set}{UNSEEN[args.unseen]}"
    scratch = args.scratch / f"{name}{'-quick' if args.quick else ''}"
    settings = settings_of(args, sets, size)
    public = [in_order(of) for of in (sets.learned, sets.moments, sets.tuned_raw, sets.tuned_test)]
    entropy = resumed(scratch, settings | {"public": public})
    own = share(sets.extractor.head(sets.asked).argmax(dim=1).numpy() == sets.test.labels) if not args.unseen else None
    rows = measured(args, sets, denoiser, entropy, scratch)
    rivals = partition_rows(sets, COUNTS) + neighbour_rows(sets, COUNTS)
    print(table(rivals))
    draw_picture(args.set, rows, rivals, sets.test.labels, results(args) / f"{name}.png")
    figures = {
        "own_head_accuracy": own,
        "denoiser_digest": denoiser.digest if denoiser else None,
        "radii": RADII,
        "images": COUNTS,
        "rows": [{k: v for k, v in row.items() if k not in ("curve", "counts")} for row in rows],
        "rivals": rivals,
        "threads": 1,
    }
    record(name, settings | figures, results(args))


if __name__ == "__main__":
    errors.run(main)
