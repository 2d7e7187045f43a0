"""The smallest real parts: entropy that everybody knows, a denoiser on disk. Not in a conftest.py: each directory has
its own module of that name, so none of them can be imported from.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

if TYPE_CHECKING:
    from cleanlabel.sanitize.imageset import ImageSet

FIXED = bytes(range(32))
"""Entropy for tests, known to everybody."""


def save_tiny_denoiser(
    directory: Path, size: int = 8, channels: int = 1, out_channels: int | None = None, **scheduler: object
) -> Path:
    """A UNet of 8 and 16 channels with random weights, saved as diffusers saves one."""
    from diffusers import DDPMScheduler, UNet2DModel

    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=size,
        in_channels=channels,
        out_channels=out_channels or channels,
        layers_per_block=1,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        add_attention=False,
    )
    unet.save_pretrained(directory / "unet", safe_serialization=True)
    DDPMScheduler(**scheduler).save_pretrained(directory / "scheduler")
    return directory


def save_int8_denoiser(directory: Path, sigma: float) -> Path:
    """The same with its int8 network for this sigma, with scales set on trusted digits. Skips without the extra."""
    for name in ("openvino", "nncf"):
        pytest.importorskip(name, reason="needs the extra cpu: pip install 'cleanlabel[cpu]' (OpenVINO, NNCF)")
    from cleanlabel.sanitize.denoiser import load_denoiser
    from cleanlabel.sanitize.ingest import digits
    from cleanlabel.sanitize.quantise import quantise

    save_tiny_denoiser(directory)
    quantise(load_denoiser(directory), sigma, digits(120, 150, 0)["trusted"], directory)
    return directory


def save_int8_facts(directory: Path, sigma: float, seen: "ImageSet") -> None:
    """What is known of an int8 network with scales set on these images, and files in its place that nothing runs."""
    from cleanlabel.sanitize.quantise import write_facts

    folder = directory / "int8"
    folder.mkdir(exist_ok=True)
    write_facts(folder, sigma, seen.digest, seen)
    for name in ("network.xml", "network.bin"):
        (folder / name).write_bytes(b"not run")
