"""A sanitized copy of a set: the same form, order, names and labels as the input, and a manifest."""

import json
import math
import platform
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cleanlabel.sanitize.denoiser import Denoiser
from cleanlabel.sanitize.door import Admitted
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.fast import accelerate
from cleanlabel.sanitize.fitting import Fit, fitting_for
from cleanlabel.sanitize.keys import Inputs, code_digest, key_of
from cleanlabel.sanitize.noise import Entropy, check_sigma
from cleanlabel.sanitize.quality import LOOKED_AT, worse_than_noise
from cleanlabel.sanitize.rows import NETWORK_BATCH, network_rows
from cleanlabel.sanitize.sanitizer import as_pixels, begin_batch
from cleanlabel.sanitize.sources import Source
from cleanlabel.sanitize.stream import Copy, Made, Shard, block_images, is_work_folder, work_folder
from cleanlabel.sanitize.timestep import require_reachable


@dataclass(frozen=True)
class Program(Inputs):
    """The code and the versions of libraries that make a copy. Its manifest names those versions."""

    code: str
    versions: dict[str, str]


def manifest_path(output: Path) -> Path:
    """The manifest's path: beside a `.npz`, or inside a folder."""
    return output.with_suffix(".manifest.json") if output.suffix == ".npz" else output / "manifest.json"


def check_output(output: Path, form: str, source: Path | None) -> None:
    """InputError if writing to `output` would destroy the input or anything other than an earlier copy."""
    to, origin = output.resolve(), source.resolve() if source else None
    if origin and (to == origin or to in origin.parents):
        raise InputError(f"--output {output} would overwrite the input {source}; choose another place")
    if origin and origin in to.parents:
        raise InputError(f"--output {output} lies inside the input {source} and would become a part of it; move it")
    if (output.suffix == ".npz") != (form == "npz"):
        words = "a .npz file" if form == "npz" else "a folder"
        raise InputError(f"--output {output} must be {words}, as the input {source or ''} is")
    empty = output.is_dir() and not any(output.iterdir())
    if output.exists() and not empty and not _is_manifest(manifest_path(output)):
        raise InputError(f"--output {output} exists and is not an earlier copy; choose another place or remove it")
    if not output.exists() and manifest_path(output).exists() and not _is_manifest(manifest_path(output)):
        raise InputError(
            f"{manifest_path(output)} exists, where --output {output} puts its manifest; choose another place"
        )
    work = work_folder(output)
    if origin and (origin == work.resolve() or work.resolve() in origin.parents):
        raise InputError(
            f"--output {output} needs the working folder {work}, and the input is in it; choose another place"
        )
    if work.exists() and not (work.is_dir() and is_work_folder(work)):
        raise InputError(
            f"{work} exists, but --output {output} needs it as its working folder; choose another place or move it"
        )


def _is_manifest(path: Path) -> bool:
    """Whether a file is the manifest of a copy made here."""
    try:
        return "raw_digest" in json.loads(path.read_text())
    except (OSError, ValueError, TypeError, RecursionError):
        return False


def _check_classes(source: Source) -> None:
    """InputError if a class folder has the name of the copy's manifest."""
    tops = {name.partition("/")[0] for name in source.given_names} if source.form == "folder" else set()
    for name in sorted(tops):
        if name.lower() == "manifest.json":
            raise InputError(f"the class folder {name} has the name of the copy's manifest; rename the folder")


def rows_of(source: Source, denoiser: Denoiser | None) -> int:
    """Rows per call of the network for a copy: 64, or on an accelerator what fits it, but not more than a block."""
    fit = network_rows(denoiser) or NETWORK_BATCH
    return min(fit, max(NETWORK_BATCH, 1 << (block_images(source).bit_length() - 1)))


def make_copy(
    source: Source,
    output: Path,
    sigma: float,
    denoiser: Denoiser | None,
    entropy: str,
    draw: int,
    *,
    fit: Fit = "exact",
    shard: Shard = Shard(),  # noqa: B008 (frozen)
    admitted: Admitted = (),
    progress: bool = False,
    say: Callable[[str], None] = lambda _: None,
    warn: Callable[[str], None] = lambda _: None,
) -> dict[str, Any] | None:
    """Sanitize `source` into `output` (a `.npz` or a folder, like the source). Returns the manifest once all is done.

    Returns None if other shards are still missing. After a kill, a new call continues where the last one stopped. The
    bytes depend on the source, sigma, the denoiser, entropy and draw, but not on shards, restarts or blocks. admitted:
    what the door said of the denoiser (`sanitize.door.admit`), for the manifest. InputError if the denoiser does not
    fit, or another copy was begun at this output. Calls `warn` if the denoiser does harm.
    """
    check_sigma(sigma)
    _check_classes(source)
    if sigma:
        require_reachable(sigma, denoiser.facts.largest_sigma if denoiser else math.inf)
    fitting = fitting_for(source.sizes, source.channels, denoiser.facts, fit) if denoiser else None
    rows = rows_of(source, denoiser)
    fast = accelerate(denoiser, sigma, rows, images=len(source)) if denoiser else None
    facts = {
        "denoiser_digest": denoiser.digest if denoiser else None,
        "sigma": sigma,
        "timestep": denoiser.timestep(sigma) if denoiser else None,
        "draw": draw,
        "fit": fitting.as_dict() if fitting else None,
        "network": fast.mode if fast else None,
        **({"int8": denoiser.int8.as_dict()} if denoiser and denoiser.int8 and fast and fast.mode == "int8" else {}),
        **({"network_rows": rows} if rows != NETWORK_BATCH else {}),
        **({"admitted": list(admitted)} if admitted else {}),
    }
    program = Program(code_digest("cleanlabel.sanitize.copies"), versions(facts))
    copy = Copy(source, output, facts, rows, key_of(program))
    drawn = copy.begin(entropy)
    say(f"{len(source)} images, digest {source.digest[:12]}{f'; network in {fast.mode}' if fast else ''}")
    if denoiser:
        few = [i for i in range(len(source)) if (source.sizes[i] == source.sizes[0]).all()][:LOOKED_AT]
        images, ids = np.stack(list(source.read(few))), [source.ids[i] for i in few]
        harm = worse_than_noise(images, ids, sigma, denoiser, fitting=fitting, denoise=fast, batch=rows)
        if harm:
            warn(harm)

    def work(images: NDArray[np.uint8], ids: tuple[str, ...], entropy: bytes) -> Made:
        begun = begin_batch(images, ids, sigma, denoiser, entropy, draw, fitting=fitting, denoise=fast, batch=rows)
        return lambda: as_pixels(begun())

    copy.make(work, drawn, shard, progress=progress)
    if not copy.complete:
        return None
    return copy.finish(manifest_path(output), manifest(source, facts, drawn, *copy.squared_error()))


def manifest(
    source: Source, facts: dict[str, Any], entropy: Entropy, squared_error: int, values: int
) -> dict[str, Any]:
    """The facts needed to make the copy again. They do not depend on when or where it is made."""
    mse = squared_error / max(1, values) / 255**2
    size = list(source.size) if source.size else None
    return facts | {
        "raw_digest": source.digest,
        "images": len(source),
        "animated": source.animated,
        "skipped": [{"path": one.path, "reason": one.reason} for one in source.skipped],
        "image_shape": [*size, source.channels] if size else None,
        **({"resized": source.resized} if source.resized else {}),
        "channels": source.channels,
        "entropy": entropy.hex,
        "entropy_source": entropy.source,
        "psnr_db": round(-10 * math.log10(mse), 3) if mse else None,
        "versions": versions(facts),
    }


def versions(facts: dict[str, Any]) -> dict[str, str]:
    """Of Python and the libraries that a copy with these facts is made with."""
    names = ("diffusers", "numpy", "pillow", "scipy", "torch", *(("openvino",) if "int8" in facts else ()))
    return {"python": platform.python_version(), **{name: version(name) for name in names}}
