"""The paths of the stages' outputs, relative to the project's root."""

from pathlib import Path

INCOMING = Path("data/incoming")
SETS = {name: Path(f"data/{name}.npz") for name in ("trusted", "raw", "test")}
DENOISER = Path("data/denoiser")
DENOISER_TRAINING = Path("data/denoiser-training.safetensors")
"""A training of the denoiser that has not ended. It is removed when it ends."""
SANITIZED = Path("data/sanitized.npz")
CLASSIFIER = Path("data/classifier.safetensors")
ENSEMBLE = Path("data/ensemble")
POINTS = Path("data/points.csv")
REPORTS = Path("reports")
