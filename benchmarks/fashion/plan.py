"""The sets, the denoiser and the recipes of the benchmark on Fashion-MNIST."""

from dataclasses import dataclass

from benchmarks.common.recipes import recipe
from cleanlabel.sanitize.params import DenoiserParams

ALPHA = 0.001
RADII = (0.0, 0.25, 0.5, 1.0)
SPLIT_SEED = 20240611


@dataclass(frozen=True)
class Size:
    """How much of the published set is used, and how many models are made of it."""

    trusted: int
    raw: int
    test: int
    m: int


FULL = Size(trusted=20_000, raw=2000, test=2000, m=100)
QUICK = Size(trusted=20_000, raw=200, test=100, m=3)
PILOT_RAW, PILOT_TEST, PILOT_DRAWS = 2000, 1000, 3
DENOISER = DenoiserParams(
    source="train",
    revision=None,
    provenance=None,
    origin=None,
    channels=(16, 32, 64),
    steps=1500,
    batch=64,
    learning_rate=0.003,
    seed=0,
)
QUICK_DENOISER = DENOISER.model_copy(update={"channels": (8, 16), "steps": 30, "batch": 16})
CANDIDATES = {
    "linear, 20 epochs": recipe("linear", 1, 20),
    "mlp 256, 20 epochs": recipe("mlp", 256, 20),
    "mlp 512, 20 epochs": recipe("mlp", 512, 20),
    "small-cnn 8, 5 epochs": recipe("small-cnn", 8, 5, learning_rate=4e-3),
}
"""What the pilot compares."""
ENSEMBLES = {
    "denoised": ("denoised", "mlp 256, 20 epochs"),
    "noise only": ("noise only", "mlp 256, 20 epochs"),
    "noise only, linear": ("noise only", "linear, 20 epochs"),
}
"""What is run: the recipe that won the pilot with the noise removed; the baseline with that and with its own winner."""
