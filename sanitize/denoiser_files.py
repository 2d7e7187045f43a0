"""A denoiser's files: their places, their digest, and the images and noise that their network is made for.

Weights are safetensors, in one file or in the parts listed in an index, in full precision or as diffusers' fp16
variant. If both exist, full precision is used.
"""

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.files import file_digest

WEIGHTS = "diffusion_pytorch_model.safetensors"
VARIANTS = (None, "fp16")
INDEX = "diffusion_pytorch_model.safetensors.index.json"
SCHEDULER = "scheduler_config.json"
PROVENANCE = "provenance.json"
HERE = "trained on the trusted split"
"""The recorded source of a denoiser that the stage trained."""
IMAGES = "images.npz"
"""The record (`sanitize.overlap`) of the network's training images, if it was trained here."""
INT8, INT8_FACTS, INT8_NETWORK, INT8_IMAGES = "int8", "facts.json", "network.xml", "images.npz"
"""The folder of a denoiser's int8 network (`sanitize.int8`), and its files; the weights are in network.bin."""
CIFAR10 = "google/ddpm-cifar10-32"
"""The hub id to use for CIFAR-10: 35.7 M parameters, linear schedule, trained on CIFAR-10's training split."""


@dataclass(frozen=True)
class Files:
    """The paths of a denoiser's network and noise schedule.

    `weights` are all files of the weights, in the order of their digest: one file, or an index and its parts. `variant`
    is diffusers' name of the precision, None for full precision.
    """

    unet_dir: Path
    weights: tuple[Path, ...]
    scheduler: Path
    variant: str | None = None

    @property
    def config(self) -> Path:
        return self.unet_dir / "config.json"


@dataclass(frozen=True)
class Facts:
    """What a denoiser is made for: square images of this size, these channels, and noise up to this sigma."""

    channels: int
    sample_size: int
    largest_sigma: float


def find_denoiser(source: str, revision: str | None = None) -> Path:
    """The local directory of `source`: a directory, or a hub id that is fetched (safetensors and configs only)."""
    path = Path(source)
    if path.is_dir():
        return path
    if path.exists():
        raise InputError(f"the denoiser {source} is a file; {_directory_wanted(path)}")
    if path.parts[:1] in ((".",), ("..",), ("/",)) or source.count("/") != 1 or path.parent.is_dir():
        raise InputError(
            f"the denoiser directory {source} does not exist; give a directory with unet/ and scheduler/, "
            f"or a hub id such as {CIFAR10}"
        )
    pinned = f" --revision {revision}" if revision else ""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(source, revision=revision, allow_patterns=["*.json", "*.safetensors", "*/*.safetensors"])
        )
    except Exception as error:  # many kinds: offline, no such repository, no such revision
        raise InputError(
            f"the denoiser {source} cannot be fetched from the hub ({first_line(error)}); "
            f"where there is a network run `hf download {source} --local-dir data/pretrained/denoiser{pinned}`, "
            "copy that directory here and give its path"
        ) from error


def layout(directory: Path) -> Files:
    """The files of a diffusers pipeline directory, nested or flat, or of its `unet/`.

    InputError names the file that is missing.
    """
    if directory.is_file():
        raise InputError(f"the denoiser {directory} is a file; {_directory_wanted(directory)}")
    if not directory.is_dir():
        raise InputError(f"the denoiser directory {directory} does not exist; run `dvc repro denoiser` or give another")
    unet_dir = directory / "unet" if (directory / "unet").is_dir() else directory
    if not (unet_dir / "config.json").is_file():
        raise InputError(f"{unet_dir / 'config.json'} does not exist; {_way_out(unet_dir)}")
    for variant in VARIANTS:
        weights = _weights(unet_dir, variant)
        if weights:
            return Files(unet_dir, weights, _scheduler_file(directory, unet_dir), variant)
    raise InputError(f"{unet_dir / WEIGHTS} does not exist; {_way_out(unet_dir)}")


def _weights(unet_dir: Path, variant: str | None) -> tuple[Path, ...]:
    """The files of the weights in this precision; empty if they do not exist."""
    whole = unet_dir / (WEIGHTS.replace(".", f".{variant}.", 1) if variant else WEIGHTS)
    if whole.is_file():
        return (whole,)
    index = unet_dir / (INDEX.removesuffix("json") + f"{variant}.json" if variant else INDEX)
    if not index.is_file():
        return ()
    parts = read_config(index).get("weight_map")
    if not isinstance(parts, dict) or not parts:
        raise InputError(f"{index} names no parts in its weight_map; restore it")
    for part in sorted(set(map(str, parts.values()))):
        if Path(part).name != part or not part.endswith(".safetensors"):
            raise InputError(f"{index} names the part {part!r}, which is not a safetensors file beside it; restore it")
        if not (unet_dir / part).is_file():
            raise InputError(f"{unet_dir / part} does not exist, and {index.name} names it; copy all parts there")
    return (index, *(unet_dir / part for part in sorted(set(map(str, parts.values())))))


def _directory_wanted(file: Path) -> str:
    around = file.parent.parent if file.parent.name == "unet" else file.parent
    return f"give the directory that holds unet/ and scheduler/, perhaps {around}"


def _scheduler_file(directory: Path, unet_dir: Path) -> Path:
    """The scheduler's file: in the pipeline directory; for a `unet/` directory, in its sibling or else inside."""
    places = [directory / "scheduler" / SCHEDULER, directory / SCHEDULER]
    if unet_dir == directory and directory.absolute().name == "unet":
        places.insert(0, directory.absolute().parent / "scheduler" / SCHEDULER)
    for place in places:
        if place.is_file():
            return place
    raise InputError(
        f"{directory} holds a network but no noise schedule; put its {SCHEDULER} into {directory}, or give a pipeline "
        "directory with unet/ and scheduler/"
    )


def _way_out(unet_dir: Path) -> str:
    """What to do about a missing network file."""
    if any(unet_dir.glob("diffusion_pytorch_model*.bin")):
        return (
            "only safetensors are read here, never a pickle: convert the .bin file once, on a machine that trusts it, "
            "with diffusers' UNet2DModel.from_pretrained(DIR).save_pretrained(NEW)"
        )
    return f"a denoiser needs unet/config.json, unet/{WEIGHTS} and {SCHEDULER}"


def copy_denoiser(source: Path, directory: Path) -> None:
    """Copy a diffusers denoiser's network and schedule, and nothing else, into `directory`."""
    files = layout(source)
    for origin, target in (
        (files.config, directory / "unet" / "config.json"),
        *((path, directory / "unet" / path.name) for path in files.weights),
        (files.scheduler, directory / "scheduler" / SCHEDULER),
    ):
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(origin, target)


def provenance_place(directory: Path) -> Path | None:
    """Where a denoiser's provenance lies if this project made it: its directory, or the one around its `unet/`."""
    around = [directory.absolute().parent] if directory.absolute().name == "unet" else []
    return next((place for place in (directory, *around) if (place / PROVENANCE).is_file()), None)


def copy_record(source: Path, directory: Path) -> str | None:
    """Copy the record of a denoiser's training images, if there is one. Returns the digest of that set, if it is known.

    InputError if the record should exist but is missing or changed.
    """
    place = provenance_place(source) or source
    known = read_config(place / PROVENANCE) if (place / PROVENANCE).is_file() else {}
    record = place / IMAGES
    if known.get("images") and (not record.is_file() or file_digest(record) != known["images"]):
        raise InputError(
            f"{record}, the record of what the denoiser was trained on, is missing or was changed; copy it again "
            "from where the denoiser was made"
        )
    if record.is_file():
        shutil.copyfile(record, directory / IMAGES)
    return known.get("trained_on")


def digest_of(directory: Path) -> str:
    """sha256 of the network's configuration and weights, of the scheduler's configuration, and of an int8 network."""
    files = layout(directory)
    digest = hashlib.sha256()
    for path in (files.config, *files.weights, files.scheduler, *int8_files(directory)):
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def int8_files(directory: Path) -> tuple[Path, ...]:
    """The files of the denoiser's int8 network; empty without one. InputError if some are missing."""
    folder = directory / INT8
    if not folder.is_dir():
        return ()
    names = (INT8_FACTS, INT8_IMAGES, INT8_NETWORK, INT8_NETWORK.replace("xml", "bin"))
    for name in names:
        if not (folder / name).is_file():
            raise InputError(f"{folder / name} does not exist; run `dvc repro --force denoiser`")
    return tuple(folder / name for name in names)


def read_config(path: Path) -> dict[str, Any]:
    """A JSON object in a file. InputError if it is anything else."""
    try:
        config = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not valid JSON ({first_line(error)}); restore it") from error
    if not isinstance(config, dict):
        raise InputError(f"{path} does not hold a JSON object; restore it")
    return config


def first_line(error: Exception) -> str:
    """The first line of an error's message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
