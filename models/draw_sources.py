"""Which source files determine a draw, and their digest, which stands in every plan."""

import hashlib
import json
from pathlib import Path

DRAW_SOURCES = (
    "models/augmentation.py",
    "models/blocks.py",
    "models/classifiers.py",
    "models/draw.py",
    "models/extractors.py",
    "models/fast_cifar.py",
    "models/heads.py",
    "models/instrument.py",
    "models/materials.py",
    "models/scratch.py",
    "models/stacked.py",
    "models/start.py",
    "models/sums.py",
    "models/training.py",
    "models/twins.py",
    "models/weights.py",
    "sanitize/arrays.py",
    "sanitize/denoiser.py",
    "sanitize/denoiser_files.py",
    "sanitize/denoiser_parts.py",
    "sanitize/device.py",
    "sanitize/device_noise.py",
    "sanitize/fast.py",
    "sanitize/fitting.py",
    "sanitize/folders.py",
    "sanitize/imageset.py",
    "sanitize/int8.py",
    "sanitize/names.py",
    "sanitize/near.py",
    "sanitize/noise.py",
    "sanitize/overlap.py",
    "sanitize/pictures.py",
    "sanitize/published.py",
    "sanitize/rounded_gaussian.py",
    "sanitize/rows.py",
    "sanitize/sanitizer.py",
    "sanitize/sources.py",
    "sanitize/timestep.py",
    "sanitize/trees.py",
)
"""The source files that determine a draw: a change of any of them may change the models."""


def code_digest() -> str:
    """sha256 of the sources that determine a draw."""
    root = Path(__file__).resolve().parents[1]
    found = {name: hashlib.sha256((root / name).read_bytes()).hexdigest() for name in DRAW_SOURCES}
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()
