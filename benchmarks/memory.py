"""Peak memory of `python -m sanitize` on a small and on a large set: it should not grow with the number of images.

    python -m benchmarks.memory --denoiser DIR [--quick]

Random images of the denoiser's size in a `.npz`, each run in a process of its own.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.common.record import flags, record, results
from cleanlabel.sanitize import errors
from cleanlabel.sanitize.arrays import ArrayWriter
from cleanlabel.sanitize.denoiser import load_denoiser


def peak_megabytes(command: list[str]) -> float:
    """The largest resident memory a process ever had."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"{' '.join(command)} ended with status {status}")
    return usage.ru_maxrss / 1024


def main() -> None:
    parser = flags("memory", __doc__, "100 and 200 images in place of 2,000 and 50,000")
    parser.add_argument("--denoiser", type=Path, required=True, help="a diffusers directory")
    args = parser.parse_args()
    facts = load_denoiser(args.denoiser).facts
    shape = (facts.sample_size, facts.sample_size, facts.channels)
    generator, peaks = np.random.default_rng(0), {}
    for count in (100, 200) if args.quick else (2000, 50_000):
        with tempfile.TemporaryDirectory() as folder:
            source, output = Path(folder) / "in.npz", Path(folder) / "out.npz"
            with ArrayWriter(source) as writer:
                blocks = (generator.integers(0, 256, (100, *shape), np.uint8) for _ in range(count // 100))
                writer.write("images", (count, *shape), np.uint8, blocks)
                writer.write("labels", (count,), np.int64, [np.arange(count) % 10])
            command = [
                sys.executable,
                "-m",
                "sanitize",
                "--input",
                str(source),
                "--output",
                str(output),
                "--sigma",
                "0.5",
            ]
            peaks[count] = round(peak_megabytes([*command, "--denoiser", str(args.denoiser)]))
        print(f"{count} images: {peaks[count]} MB at most", flush=True)
    small, large = peaks.values()
    figures = {"peak_mb": {str(k): v for k, v in peaks.items()}, "ratio": round(large / small, 3)}
    record("memory", figures, results(args))


if __name__ == "__main__":
    errors.run(main)
