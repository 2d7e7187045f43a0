"""How long large ensembles would take on 1, 8 and 64 GPUs: arithmetic and a simulation. No GPU was measured.

    python -m benchmarks.scale

Every assumption stands in `GPU` and `WORK`. Change them to your own measurements and run it again.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from benchmarks.common.record import flags, record, results
from cleanlabel.models.tasks import task_sizes, timing
from cleanlabel.sanitize import errors

FLEETS = (1, 8, 64)
BATCH_OF_DRAWS = 25
"""The params' own number (`smooth.batch_of_draws`): the most draws of a task."""
SPREAD = 0.05
"""Standard deviation of a draw's time, as a share of it."""


@dataclass(frozen=True)
class Gpu:
    """What is assumed of one GPU and its share of the host.

    peak: dense bfloat16 flop a second, of the data sheet. share: of it that the denoiser reaches.
    start: seconds until a worker begins its first draw (imports, weights, compiling).
    noise_ns: nanoseconds a value of noise takes one CPU core (`benchmarks.noise` measured 21 to 24).
    """

    name: str = "H200"
    peak: float = 989e12
    share: float = 0.4
    start: float = 90
    noise_ns: float = 23


@dataclass(frozen=True)
class Work:
    """One ensemble. `flop`: of the denoiser, an image. `trained`: images a second that training is taken to reach.

    values: numbers an image has. test: test images that each model votes on, at four times training's rate.
    """

    name: str
    images: int
    values: int
    flop: float
    network: str
    epochs: float
    trained: float
    test: int
    m: int

    def seconds(self, gpu: Gpu) -> dict[str, float]:
        """The seconds of a draw on one GPU, by part."""
        return {
            "denoising": self.images * self.flop / (gpu.peak * gpu.share),
            "training": self.images * self.epochs / self.trained,
            "voting": self.test / (4 * self.trained),
        }


WORK = (
    Work("CIFAR-10, fast-cifar", 50_000, 3_072, 12.44e9, "35.7 M", 9.9, 150_000, 10_000, 1_000),
    Work("CIFAR-10, ResNet-18", 50_000, 3_072, 12.44e9, "35.7 M", 30, 12_000, 10_000, 1_000),
    Work("ImageNet-1k 256², ResNet-50", 1_281_167, 196_608, 2.24e12, "553 M", 16, 2_500, 50_000, 100),
)


def fleets(work: Work, gpu: Gpu) -> list[dict[str, Any]]:
    """For each number of GPUs: hours and idle share with the plan's batches, and with draws dealt out by the workers.

    It is the deal that `flows.smooth` makes (`models.tasks`). A draw's time varies by `SPREAD`, seeded.
    """
    seconds = sum(work.seconds(gpu).values())
    each = (seconds * (1 + SPREAD * np.random.default_rng(0).standard_normal(work.m))).tolist()
    found = []
    for workers in FLEETS:
        row: dict[str, Any] = {"gpus": workers}
        for way, regroup in (("batches", False), ("dealt", True)):
            sizes = task_sizes(work.m, workers, BATCH_OF_DRAWS, regroup=regroup)
            made = timing(sizes, workers, each)
            row[way] = {"tasks": len(sizes), "hours": (made.makespan + gpu.start) / 3600, "idle": made.idle}
        found.append(row)
    return found


def figures() -> dict[str, Any]:
    """All that the page's tables show."""
    gpu = Gpu()
    return {
        "gpu": asdict(gpu),
        "batch_of_draws": BATCH_OF_DRAWS,
        "ensembles": [
            asdict(work)
            | {
                "copy_bytes": work.images * work.values,
                "seconds": work.seconds(gpu),
                "noise_cores": work.images * work.values * gpu.noise_ns / 1e9 / work.seconds(gpu)["denoising"],
                "write_mb": work.images * work.values / work.seconds(gpu)["denoising"] / 1e6,
                "read_mb": work.trained * work.values / 1e6,
                "fleets": fleets(work, gpu),
            }
            for work in WORK
        ],
    }


def main() -> None:
    args = flags("scale", __doc__, "the same: it takes seconds").parse_args()
    record("scale", figures(), results(args))


if __name__ == "__main__":
    errors.run(main)
