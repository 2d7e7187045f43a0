"""The sanitizer: noise every image, remove the noise with one step of a diffusion denoiser."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from cleanlabel.sanitize.denoiser import Denoiser
from cleanlabel.sanitize.device import is_accelerator, received, sent, waiting_for
from cleanlabel.sanitize.device_noise import pixel_noise_on
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.fitting import Fitting, fitting_for
from cleanlabel.sanitize.imageset import ImageSet
from cleanlabel.sanitize.noise import Role, check_sigma
from cleanlabel.sanitize.rounded_gaussian import LEVELS
from cleanlabel.sanitize.timestep import require_reachable

BATCH = 256
CPU = torch.device("cpu")

Denoise = Callable[[Tensor], Tensor]
"""Noised float32 (k, c, s, s) in [0,1] units, k up to some batch size -> clean, the same shape."""


def sanitize_batch(
    images: NDArray[np.uint8],
    ids: Sequence[str],
    sigma: float,
    denoiser: Denoiser | None,
    entropy: bytes,
    draw: int,
    role: Role = "noise",
    *,
    fitting: Fitting | None = None,
    denoise: Denoise | None = None,
    batch: int = BATCH,
) -> NDArray[Any]:
    """The five steps, for images uint8 (n, h, w, c). Row i depends on images[i], ids[i] and the arguments alone.

    Returns uint8 (n, h, w, c). Without a denoiser (as in RAB) step 4 is left out and the noised images are returned:
    float32 in [0,1] units, whole 255ths, not clipped. fitting: how images of another size or number of channels are
    fitted to the denoiser (default: they have its size). denoise: a faster equivalent of the denoiser's own method, for
    up to `batch` rows at once. At sigma 0 no noise is added or removed.
    """
    return begin_batch(
        images, ids, sigma, denoiser, entropy, draw, role, fitting=fitting, denoise=denoise, batch=batch
    )()


def begin_batch(
    images: NDArray[np.uint8],
    ids: Sequence[str],
    sigma: float,
    denoiser: Denoiser | None,
    entropy: bytes,
    draw: int,
    role: Role = "noise",
    *,
    fitting: Fitting | None = None,
    denoise: Denoise | None = None,
    batch: int = BATCH,
) -> Callable[[], NDArray[Any]]:
    """`sanitize_batch` in two parts: this queues the work, and calling what it returns gives the images.

    On an accelerator only the second part waits, and for this batch alone: begin the next one before.
    """
    if not sigma:
        return lambda: images if denoiser else images.astype(np.float32) / LEVELS
    if denoiser is not None and fitting is None:
        fitting = fitting_for(np.array([images.shape[1:3]]), images.shape[3], denoiser.facts, "exact")
    queued = five_steps(images, ids, sigma, denoiser, entropy, draw, role, fitting, denoise, batch)
    if denoiser is None:
        return queued[0].numpy
    made, finite = (received(part.shape, part.dtype, part.device).copy_(part, non_blocking=True) for part in queued)
    wait, timestep = waiting_for(denoiser.device), denoiser.timestep(sigma)

    def finished() -> NDArray[Any]:
        wait()
        _require_finite(finite.numpy(), ids, timestep)
        return made.numpy()

    return finished


def five_steps(
    images: NDArray[np.uint8],
    ids: Sequence[str],
    sigma: float,
    denoiser: Denoiser | None,
    entropy: bytes,
    draw: int,
    role: Role,
    fitting: Fitting | None,
    denoise: Denoise | None,
    batch: int,
) -> tuple[Tensor, Tensor]:
    """The five steps, on the denoiser's device. The host waits for nothing.

    Returns uint8 (n, h, w, c), and whether each image's answer is finite (n,). Without a denoiser the noised images,
    float32 in [0,1] units.
    """
    device = denoiser.device if denoiser else CPU
    # 1. whole pixel values at the noise's resolution, not clipped
    if fitting is None or fitting.keeps_pixels(images):
        pixels = sent(torch.from_numpy(np.ascontiguousarray(images)), device).to(torch.int32)
    else:
        pixels = sent(torch.from_numpy(fitting.before_noise(images)), device)
    # 2. the noise of each image in this draw, also in whole pixel values
    noise = pixel_noise_on(device, entropy, role, draw, ids, tuple(pixels.shape[1:]), sigma)
    # 3. their sum is exact: the image under ideal noise of exactly sigma, rounded. All that follows is post-processing
    noised = (pixels + noise).to(torch.float32) / LEVELS
    if denoiser is None or fitting is None:
        return noised, torch.ones(len(noised), dtype=torch.bool)  # whole numbers have no other values
    # 4. one step of the denoiser, on float32 in [0,1] units
    inputs = fitting.into_network(noised.permute(0, 3, 1, 2))
    step = denoise or (lambda part: denoiser.denoise(part, sigma))
    parts = inputs.split(batch)  # type: ignore[no-untyped-call]
    answers = torch.cat([step(part) for part in parts])
    # 5. back to whole pixel values, at the image's own size
    clean = fitting.out_of_network(answers, *images.shape[:3])
    return (clean.permute(0, 2, 3, 1) * 255).round().to(torch.uint8), clean.isfinite().flatten(1).all(dim=1)


def _require_finite(finite: NDArray[np.bool_], ids: Sequence[str], timestep: int) -> None:
    """InputError if the network's output for some image is not finite: as whole pixel values it would be black."""
    broken = ~finite
    if broken.any():
        raise InputError(
            f"the denoiser's output is not finite for {broken.sum()} of {len(broken)} images at timestep {timestep}, "
            f"the first is {ids[int(broken.argmax())]}; its weights are damaged or overflow: choose another "
            "denoiser, or its weights in full precision"
        )


def sanitize(
    raw: ImageSet,
    sigma: float,
    denoiser: Denoiser | None,
    entropy: bytes,
    draw: int = 0,
    *,
    role: Role = "noise",
    denoise: Denoise | None = None,
    batch: int = BATCH,
    progress: bool = False,
) -> NDArray[Any]:
    """One sanitized copy of a set in memory: `sanitize_batch` over all of it, in the set's order.

    Shapes, types and `denoise` as there. From an accelerator the copy comes down batch by batch beside the work; the
    host waits once, at the end. InputError if sigma is beyond the schedule or the denoiser is for images of
    another size.
    """
    check_sigma(sigma)
    if sigma:
        require_reachable(sigma, denoiser.facts.largest_sigma if denoiser else math.inf)
    h, w, channels = raw.image_shape
    fitting = fitting_for(np.array([[h, w]]), channels, denoiser.facts, "exact") if denoiser else None
    beside = denoiser is not None and bool(sigma) and is_accelerator(denoiser.device)
    if denoiser is not None and fitting is not None and beside:
        return _sanitized_beside(raw, sigma, denoiser, entropy, draw, role, fitting, denoise, batch, progress=progress)
    done = np.empty(raw.images.shape, dtype=np.uint8 if denoiser else np.float32)
    with tqdm(total=len(raw), unit="img", desc="sanitize", disable=not progress) as bar:
        for start in range(0, len(raw), batch):
            rows = slice(start, start + batch)
            done[rows] = sanitize_batch(
                raw.images[rows],
                raw.ids[rows],
                sigma,
                denoiser,
                entropy,
                draw,
                role,
                fitting=fitting,
                denoise=denoise,
                batch=batch,
            )
            bar.update(len(raw.ids[rows]))
    return done


def _sanitized_beside(
    raw: ImageSet,
    sigma: float,
    denoiser: Denoiser,
    entropy: bytes,
    draw: int,
    role: Role,
    fitting: Fitting,
    denoise: Denoise | None,
    batch: int,
    *,
    progress: bool,
) -> NDArray[np.uint8]:
    """`sanitize` on an accelerator. The progress counts the batches that are queued."""
    done = received(raw.images.shape, torch.uint8, denoiser.device)
    finite = []
    with tqdm(total=len(raw), unit="img", desc="sanitize", disable=not progress) as bar:
        for start in range(0, len(raw), batch):
            rows = slice(start, start + batch)
            clean, whole = five_steps(
                raw.images[rows], raw.ids[rows], sigma, denoiser, entropy, draw, role, fitting, denoise, batch
            )
            done[rows].copy_(clean, non_blocking=True)
            finite.append(whole)
            bar.update(len(whole))
    if finite:
        _require_finite(torch.cat(finite).cpu().numpy(), raw.ids, denoiser.timestep(sigma))  # waits for all copies too
    return done.numpy()


def as_pixels(images: NDArray[Any]) -> NDArray[np.uint8]:
    """Images in the stored form: a noise-only copy is clipped and rounded; a denoised one is uint8 already."""
    return images if images.dtype == np.uint8 else (images.clip(0, 1) * 255).round().astype(np.uint8)
