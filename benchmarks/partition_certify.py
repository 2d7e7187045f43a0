"""Seconds of a certificate of many blocks: each block's bound, the exact search, and a whole frontier.

    python -m benchmarks.partition_certify [--quick]

The votes are random: most blocks follow a point's favourite class, some another one, some are too divided to certify.
No models are trained; how far such certificates reach on real sets is another benchmark's claim.
"""

import time

import numpy as np

from benchmarks.common.record import flags, record, results
from cleanlabel.models.blocks import block_of
from cleanlabel.models.certificate import ABSTAIN
from cleanlabel.models.partition import block_certificates, frontier, partition_radius
from cleanlabel.models.rounding import down
from cleanlabel.sanitize import errors

POINTS, CLASSES, M, ALPHA, IMAGES = 10_000, 10, 100, 0.001, 50_000
FREES = range(0, 50, 5)


def random_counts(k: int, n_points: int, generator: np.random.Generator) -> np.ndarray:
    """counts (k, n_points, CLASSES): a top class with most of M votes, the rest to the class after it."""
    follows = generator.random((k, n_points)) < generator.beta(8, 2, n_points)
    top = np.where(follows, generator.integers(0, CLASSES, n_points), generator.integers(0, CLASSES, (k, n_points)))
    n_top = generator.binomial(M, generator.beta(8, 1, (k, n_points)))
    counts = np.zeros((k, n_points, CLASSES), dtype=np.int64)
    np.put_along_axis(counts, top[..., None], n_top[..., None], axis=2)
    np.put_along_axis(counts, (top[..., None] + 1) % CLASSES, M - n_top[..., None], axis=2)
    return counts


def main() -> None:
    parser = flags("partition_certify", __doc__, "100 test points in place of 10,000")
    args = parser.parse_args()
    n_points = POINTS // 100 if args.quick else POINTS
    rows = []
    for k in (1, 10, 100):
        counts = random_counts(k, n_points, np.random.default_rng(0))
        ticks = [time.perf_counter()]
        labels, radii = block_certificates(counts, M, 1.0, ALPHA)
        ticks.append(time.perf_counter())
        label, radius = partition_radius(labels, radii, CLASSES)
        ticks.append(time.perf_counter())
        frontier(labels, radii, CLASSES, FREES)
        ticks.append(time.perf_counter())
        block_of([f"class/{i:05d}.png" for i in range(IMAGES)], k)
        ticks.append(time.perf_counter())
        bounds, search, whole, hashes = np.diff(ticks).round(3).tolist()
        answered = label != ABSTAIN
        row = {"k": k, "block_certificates_seconds": bounds, "search_seconds": search, "frontier_seconds": whole}
        row |= {"hash_seconds": hashes, "answered": down(answered.mean(), 4)}
        rows.append(row | {"median_radius": down(np.median(radius[answered]), 3)})

    print(f"\n{n_points:,} points, {CLASSES} classes, m = {M} models per block, sigma = 1, random votes; seconds")
    print(f"{'k':>5} {'bounds':>9} {'search':>9} {f'{len(FREES)} searches':>12} {f'{IMAGES:,} ids':>12}")
    for row in rows:
        seconds = [row[f"{part}_seconds"] for part in ("block_certificates", "search", "frontier", "hash")]
        print(f"{row['k']:>5} {seconds[0]:>9.2f} {seconds[1]:>9.2f} {seconds[2]:>12.2f} {seconds[3]:>12.2f}")
    figures = {"points": n_points, "classes": CLASSES, "m": M, "alpha": ALPHA, "ids": IMAGES, "by_k": rows}
    record("partition_certify", figures | {"frees": len(FREES)}, results(args))


if __name__ == "__main__":
    errors.run(main)
