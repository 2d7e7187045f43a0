"""What bfloat16 and compiling gain on this machine: the denoiser in every mode, side by side in one run.

    python -m benchmarks.modes [--quick] [--name NAME]

`ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2` before the command holds a newer processor to AVX2. Weights are
random: speed does not depend on them. Times are the processor's, of one thread, so other work of the machine disturbs
them little. `sanitize.fast.choose_mode` states its rule by these figures.
"""

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, get_args

import torch
from tqdm import trange

from benchmarks.common.record import flags, record, results
from benchmarks.sanitizer import CIFAR10, DIGITS, SMALL, random_denoiser
from cleanlabel.sanitize import errors
from cleanlabel.sanitize.denoiser import load_denoiser
from cleanlabel.sanitize.device import has_fast_bfloat16
from cleanlabel.sanitize.fast import FastDenoiser, Mode, flop_per_image

SIGMA, BATCH = 0.5, 64
IMAGES = {"cifar10": 64, "small": 256, "digits": 8192}


def main() -> None:
    torch.set_num_threads(1)
    parser = flags("modes", __doc__, "2 rounds of one small batch of digits")
    parser.add_argument("--name", default="modes", help="of the record (default: %(default)s)")
    args = parser.parse_args()
    rounds, batch = (2, 8) if args.quick else (7, BATCH)
    dtypes = ("float32", "bfloat16") if has_fast_bfloat16("cpu") else ("float32",)
    shown: list[Mode] = [mode for mode in get_args(Mode) if mode.startswith(dtypes)]
    rows: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, config in {"digits": DIGITS, "small": SMALL, "cifar10": CIFAR10}.items():
            if args.quick and name != "digits":
                continue
            denoiser = load_denoiser(random_denoiser(config, Path(folder) / name), "cpu")
            images = batch if args.quick else IMAGES[name]
            noised = torch.rand((images, denoiser.facts.channels, *[denoiser.facts.sample_size] * 2))
            made, first = {}, {}
            for mode in shown:
                started = time.perf_counter()
                made[mode] = FastDenoiser(denoiser, SIGMA, batch, mode)
                made[mode](noised[:batch])
                first[mode] = round(time.perf_counter() - started, 1)
            seconds: dict[str, list[float]] = {mode: [] for mode in shown}
            for _ in trange(rounds, desc=name, unit="round"):
                for mode in shown:
                    started = time.process_time()
                    for part in noised.split(batch):
                        made[mode](part)
                    seconds[mode].append(time.process_time() - started)
            rows[name] = {
                "parameters": sum(p.numel() for p in denoiser.unet.parameters()),
                "mflop_per_image": round(flop_per_image(denoiser) / 1e6, 2),
                "images": images,
                "images_per_second": {mode: round(images / statistics.median(seconds[mode]), 2) for mode in shown},
                "seconds_until_first_batch": first,
                "compiled_over_plain": {
                    dtype: gain(seconds[dtype], seconds[f"{dtype}, compiled"])
                    for dtype in ("float32", "bfloat16")
                    if dtype in seconds
                },
            }
            print(f"{name}: {rows[name]['images_per_second']}, {rows[name]['compiled_over_plain']}")
    record(args.name, {"sigma": SIGMA, "rounds": rounds, "batch": batch, "networks": rows}, results(args))


def gain(plain: list[float], compiled: list[float]) -> list[float]:
    """The median, least and largest ratio of plain to compiled seconds, round by round."""
    ratios = [p / c for p, c in zip(plain, compiled, strict=True)]
    return [round(value, 2) for value in (statistics.median(ratios), min(ratios), max(ratios))]


if __name__ == "__main__":
    errors.run(main)
