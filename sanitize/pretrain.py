"""Stage `denoiser`: train a small DDPM on the trusted split, or use a pretrained one.

    python -m sanitize.pretrain

Either way, data/denoiser/ then contains a diffusers pipeline directory (`unet/`, `scheduler/`, safetensors) and its
provenance: provenance.json, and images.npz if there is a record of its training images.
"""

import math
import time
from dataclasses import asdict
from pathlib import Path

from tqdm import tqdm

from cleanlabel.sanitize import errors
from cleanlabel.sanitize.denoiser import load_denoiser
from cleanlabel.sanitize.denoiser_files import HERE, IMAGES, PROVENANCE, copy_denoiser, copy_record, find_denoiser
from cleanlabel.sanitize.denoiser_training import Training
from cleanlabel.sanitize.door import STATED_BY, Part, require_stated
from cleanlabel.sanitize.files import file_digest, replacing, write_json
from cleanlabel.sanitize.imageset import ImageSet, load
from cleanlabel.sanitize.overlap import record_of, to_bytes
from cleanlabel.sanitize.params import DenoiserParams, read_params
from cleanlabel.sanitize.paths import DENOISER, DENOISER_TRAINING, SETS
from cleanlabel.sanitize.quantise import quantise

STEPS_8X8, LEAST_SHARE = 800, 0.5
"""Steps for 8x8 images, and the least share of them. Larger images need fewer: each has more pixels to learn from."""
KEPT_EVERY = 300.0
"""Seconds between two savings of an unfinished training."""


def steps_for(image_shape: tuple[int, int, int]) -> int:
    """The number of training steps for images of this shape (h, w, channels), which alone determines it."""
    h, w, _ = image_shape
    return round(STEPS_8X8 * max(LEAST_SHARE, min(1.0, 8 / math.sqrt(h * w))))


def train_denoiser(
    trusted: ImageSet, params: DenoiserParams, directory: Path, unfinished: Path | None = None
) -> tuple[int, dict[str, float] | None]:
    """Train a UNet2DModel on the trusted images; save it in `directory`. See `Training`.

    unfinished: the file from which an interrupted training goes on; it is written now and then, and removed at the end.
    Returns the number of steps, and the PSNR of the held-out images by sigma; None if none are held out.
    """
    steps = params.steps or steps_for(trusted.image_shape)
    training = Training(trusted, params, steps)
    if unfinished and training.resume(unfinished):
        print(f"the training goes on from step {training.done:,} of {steps:,}")
    elif unfinished and unfinished.is_file():
        print(f"the training begins anew: {unfinished} is of other images, params or code, or damaged")
    kept, found = time.monotonic(), None
    with tqdm(total=steps, initial=training.done, desc="denoiser", unit="step", mininterval=1) as bar:
        while training.done < steps:
            bar.set_postfix(loss=f"{training.step():.3f}", refresh=False)
            bar.update()
            if params.held_out and (training.done % max(1, steps // 10) == 0 or training.done == steps):
                found = training.psnr()
                told = ", ".join(f"{value:.2f} at sigma {sigma}" for sigma, value in found.items())
                bar.write(f"step {training.done:,}: PSNR of {params.held_out} held-out images in dB: {told}")
            if unfinished and time.monotonic() > kept + KEPT_EVERY:
                training.keep(unfinished)
                kept = time.monotonic()
    training.save(directory)
    if unfinished:
        unfinished.unlink(missing_ok=True)
    return steps, found


def main() -> None:
    params = read_params("denoiser", DenoiserParams)
    here = params.source == "train"
    if not here:
        require_stated(
            f"the denoiser (denoiser.source={params.source!r})",
            Part("denoiser", None, state=params.provenance, origin=params.origin, asks=STATED_BY),
        )
    trusted = load(SETS["trusted"])
    with replacing(DENOISER) as scratch:
        scratch.mkdir()
        steps, trained_on, psnr = None, None, None
        if here:
            steps, psnr = train_denoiser(trusted, params, scratch, DENOISER_TRAINING)
            trained_on = trusted.digest
            (scratch / IMAGES).write_bytes(to_bytes(record_of(trusted.images, trusted.ids)))
        else:
            source_dir = find_denoiser(params.source, params.revision)
            copy_denoiser(source_dir, scratch)
            trained_on = copy_record(source_dir, scratch)
        denoiser = load_denoiser(scratch)  # refuses an unusable denoiser before anything is replaced
        if params.int8 is not None:
            quantise(denoiser, params.int8, trusted, scratch)
            denoiser = load_denoiser(scratch)
        write_json(
            scratch / PROVENANCE,
            {
                "digest": denoiser.digest,
                "source": HERE if here else params.source,
                "revision": params.revision,
                "state": params.provenance or "disjoint",
                "origin": params.origin,
                "trained_on": trained_on,
                "images": file_digest(scratch / IMAGES) if (scratch / IMAGES).is_file() else None,
                "steps": steps,
                "held_out_psnr": psnr,
                "made_for": asdict(denoiser.facts),
                **({"int8": denoiser.int8.as_dict()} if denoiser.int8 else {}),
            },
        )
    parameters = sum(p.numel() for p in denoiser.unet.parameters())
    print(f"{DENOISER}: {parameters / 1e6:.2f} M parameters, digest {denoiser.digest[:12]}")


if __name__ == "__main__":
    errors.run(main)
