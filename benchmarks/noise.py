"""What the noise costs, in nanoseconds per pixel: the whole-pixel noise, of float32 noise and of the slow twin.

    python -m benchmarks.noise [--denoiser DIR ...] [--quick]

One thread. The ways take turns, and ratios are taken round by round. With `--denoiser` also the noise's share of the
time that sanitizing takes with that network, over images of its size.
"""

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtri

from benchmarks.common.record import flags, record, results
from cleanlabel.sanitize import errors
from cleanlabel.sanitize.denoiser import load_denoiser
from cleanlabel.sanitize.fast import accelerate
from cleanlabel.sanitize.noise import noise_words, pixel_noise
from cleanlabel.sanitize.rounded_gaussian import reference_draw
from cleanlabel.sanitize.sanitizer import BATCH, sanitize_batch

SIGMAS = (0.1, 0.25, 1.0, 4.0)
ENTROPY = bytes(range(32))
SHAPE = (32, 32, 3)
TWIN_WORDS = 200


def float32_noise(ids: list[str], sigma: float) -> NDArray[np.float32]:
    """Noise by the inverse normal distribution function, as it was drawn before: 52 bits of the same words."""
    words = noise_words(ENTROPY, "noise", 0, ids, int(np.prod(SHAPE)))
    uniform = ((words >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52
    return np.float32(sigma) * ndtri(uniform).astype(np.float32)


def seconds(work: Callable[[], Any]) -> float:
    """Processor seconds: other work on the machine disturbs them less than it does the clock on the wall."""
    started = time.process_time()
    work()
    return time.process_time() - started


def noise_row(sigma: float, images: int, rounds: int) -> dict[str, float]:
    """Nanoseconds per pixel of each way, words included, and the ratio of the old way to the new."""
    ids = [str(i) for i in range(images)]
    pixels = images * int(np.prod(SHAPE))
    new = lambda: pixel_noise(ENTROPY, "noise", 0, ids, SHAPE, sigma)  # noqa: E731
    table = seconds(new)
    pairs = [(seconds(lambda: float32_noise(ids, sigma)), seconds(new)) for _ in range(rounds)]
    words = noise_words(ENTROPY, "noise", 0, ["0"], TWIN_WORDS)[0]
    twin = seconds(lambda: [reference_draw(int(word), sigma) for word in words])
    per_pixel = 1e9 / pixels
    return {
        "sigma": sigma,
        "float32_ns": round(statistics.median(old for old, _ in pairs) * per_pixel, 1),
        "whole_pixels_ns": round(statistics.median(new for _, new in pairs) * per_pixel, 1),
        "ratio": round(statistics.median(old / new for old, new in pairs), 2),
        "ratio_least": round(min(old / new for old, new in pairs), 2),
        "twin_ns": round(twin / TWIN_WORDS * 1e9),
        "tables_seconds": round(table, 2),
    }


def share_row(directory: Path, batches: int) -> dict[str, Any]:
    """The share of sanitizing's time that the noise takes, with this denoiser at sigma = .25."""
    denoiser, sigma = load_denoiser(directory), 0.25
    side, channels = denoiser.facts.sample_size, denoiser.facts.channels
    images = np.random.default_rng(0).integers(0, 256, (BATCH, side, side, channels), np.uint8)
    ids = [str(i) for i in range(BATCH)]
    fast = accelerate(denoiser, sigma, BATCH, images=BATCH * batches)
    whole = lambda: sanitize_batch(images, ids, sigma, denoiser, ENTROPY, 0, denoise=fast)  # noqa: E731
    noise = lambda: pixel_noise(ENTROPY, "noise", 0, ids, images.shape[1:], sigma)  # noqa: E731
    whole()
    pairs = [(seconds(noise), seconds(whole)) for _ in range(batches)]
    return {
        "denoiser": f"{sum(p.numel() for p in denoiser.unet.parameters()) / 1e6:.2f} M, {side}x{side}x{channels}",
        "mode": fast.mode,
        "noise_share": round(statistics.median(part / total for part, total in pairs), 4),
        "images_per_second": round(BATCH / statistics.median(total for _, total in pairs)),
    }


def main() -> None:
    parser = flags("noise", __doc__, "20 images and 3 rounds")
    parser.add_argument("--denoiser", type=Path, nargs="*", default=[], help="diffusers directories to sanitize with")
    args = parser.parse_args()
    torch.set_num_threads(1)
    images, rounds = (20, 3) if args.quick else (256, 15)
    rows = [noise_row(sigma, images, rounds) for sigma in SIGMAS]
    print("sigma  float32  whole pixels  ratio (least)  slow twin   (ns per pixel)")
    for row in rows:
        print(
            f"{row['sigma']:<5g}  {row['float32_ns']:7.1f}  {row['whole_pixels_ns']:12.1f}  {row['ratio']:5.2f} "
            f"({row['ratio_least']:.2f})  {row['twin_ns']:,}"
        )
    shares = [share_row(directory, 2 if args.quick else 5) for directory in args.denoiser]
    for share in shares:
        print(f"{share['denoiser']}: the noise takes {share['noise_share']:.1%} of sanitizing ({share['mode']})")
    record("noise", {"threads": 1, "noise": rows, "sanitizing": shares}, results(args))


if __name__ == "__main__":
    errors.run(main)
