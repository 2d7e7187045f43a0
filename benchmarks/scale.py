"""How long large ensembles would take on 1, 8 and 64 GPUs: arithmetic and a simulation. No GPU was measured.

    python -m benchmarks.scale [--quick]

Every assumption stands in `GPU` and `WORK`. Change them to your own measurements and run it again.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from benchmarks.common.record import flags, record, results
from cleanlabel.sanitize import errors

FLEETS = (1, 8, 64)
PLANNED = 25
"""Draws of a task by default (`smooth.batch_of_draws`)."""
JITTER = 0.05
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

    @property
    def copy_bytes(self) -> int:
        """Size of a draw's copy, in 8-bit pixels."""
        return self.images * self.values

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


def makespan(m: int, workers: int, batch: int, seconds: float, start: float, seed: int = 0) -> tuple[float, float]:
    """(seconds until the last of m draws is made, share of the workers' time in which they have nothing to do).

    Tasks of `batch` draws go to whichever worker is free first, as Prefect and Ray hand them out. A draw takes
    `seconds`, give or take `JITTER`. Starting counts as work.
    """
    draws = seconds * (1 + JITTER * np.random.default_rng(seed).standard_normal(m))
    free = np.full(workers, start)
    for first in range(0, m, batch):
        worker = free.argmin()
        free[worker] += draws[first : first + batch].sum()
    end = float(free.max())
    return end, 1 - float(free.sum()) / (workers * end)


def rows(work: Work, gpu: Gpu) -> list[dict[str, Any]]:
    """For each fleet: hours and idle share with tasks of the default size, and with tasks sized to the fleet."""
    seconds = sum(work.seconds(gpu).values())
    found = []
    for workers in FLEETS:
        sized = batch_for(work.m, workers)
        row: dict[str, Any] = {"gpus": workers, "sized": sized}
        for name, batch in (("default", PLANNED), ("fitted", sized)):
            end, idle = makespan(work.m, workers, batch, seconds, gpu.start)
            row[name] = {"hours": round(end / 3600, 2), "idle": round(idle, 3)}
        found.append(row)
    return found
