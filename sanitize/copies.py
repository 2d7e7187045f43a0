"""Writing a sanitized copy of a set: the same form, order, names and labels as the input, and a manifest."""

import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from sanitize.denoiser import Denoiser
from sanitize.errors import InputError
from sanitize.files import replacing, write_json
from sanitize.imageset import ImageSet, save_folder, save_npz
from sanitize.noise import Entropy
from sanitize.sanitizer import as_pixels, sanitize


def manifest_path(output: Path) -> Path:
    """Beside a `.npz`, inside a folder."""
    return output.with_suffix(".manifest.json") if output.suffix == ".npz" else output / "manifest.json"


def check_output(output: Path, source: Path) -> None:
    """InputError if writing to `output` would destroy the input or anything that is no earlier copy."""
    to, origin = output.resolve(), source.resolve()
    if to == origin or to in origin.parents:
        raise InputError(f"--output {output} would overwrite the input {source}; choose another place")
    if origin in to.parents:
        raise InputError(f"--output {output} lies inside the input {source} and would become a part of it; move it")
    if (output.suffix == ".npz") != (source.suffix == ".npz"):
        form = "a .npz file" if source.suffix == ".npz" else "a folder"
        raise InputError(f"--output {output} must be {form}, as the input {source} is")
    empty = output.is_dir() and not any(output.iterdir())
    if output.exists() and not empty and not manifest_path(output).is_file():
        raise InputError(f"--output {output} exists and is no earlier copy; choose another place or remove it")


def write_copy(
    raw: ImageSet, output: Path, sigma: float, denoiser: Denoiser | None, entropy: Entropy, draw: int, *, progress: bool
) -> dict[str, Any]:
    """Sanitize `raw`, write it to `output` (a `.npz` or a folder of PNGs) with its manifest; return the manifest.

    Either the whole copy stands there at the end or what stood there before.
    """
    sanitized = raw.with_images(as_pixels(sanitize(raw, sigma, denoiser, entropy.value, draw, progress=progress)))
    content = manifest(raw, sanitized, sigma, denoiser, entropy, draw)
    if output.suffix == ".npz":
        save_npz(sanitized, output)
        write_json(manifest_path(output), content)
    else:
        with replacing(output) as scratch:
            save_folder(sanitized, scratch)
            write_json(manifest_path(scratch), content)
    return content


def manifest(
    raw: ImageSet, sanitized: ImageSet, sigma: float, denoiser: Denoiser | None, entropy: Entropy, draw: int
) -> dict[str, Any]:
    """What the copy was made from and with: enough to make it again, and nothing about when or where."""
    mse = float(np.mean((raw.images.astype(np.float64) - sanitized.images) ** 2)) / 255**2
    return {
        "raw_digest": raw.digest,
        "sanitized_digest": sanitized.digest,
        "denoiser_digest": denoiser.digest if denoiser else None,
        "images": len(raw),
        "image_shape": list(raw.image_shape),
        "sigma": sigma,
        "timestep": denoiser.timestep(sigma) if denoiser else None,
        "draw": draw,
        "entropy": entropy.hex,
        "entropy_source": entropy.source,
        "psnr_db": round(-10 * float(np.log10(mse)), 3) if mse else None,
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("diffusers", "numpy", "pillow", "scipy", "torch")},
        },
    }
