"""The votes of one draw: sanitize, take features, fit the heads."""

import copy
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.transfer.plan import ALPHA, BATCH, FEW, HEADS, RADII, TIMED, VARIANTS, WAYS
from cleanlabel.models.certificate import certified_accuracy, certify
from cleanlabel.models.distil import distilled
from cleanlabel.models.extractors import Extractor, features
from cleanlabel.models.heads import fit_head
from cleanlabel.models.rounding import down
from cleanlabel.models.votes import count_votes
from cleanlabel.sanitize.denoiser import Denoiser
from cleanlabel.sanitize.fast import FastDenoiser
from cleanlabel.sanitize.files import replacing
from cleanlabel.sanitize.imageset import ImageSet
from cleanlabel.sanitize.noise import draw_entropy
from cleanlabel.sanitize.sanitizer import sanitize_batch


@dataclass(frozen=True)
class Sanitizer:
    """Sanitizes at one sigma, with the denoiser or by noise only."""

    sigma: float
    denoiser: Denoiser
    fast: FastDenoiser

    def __call__(self, images: ImageSet, way: str, entropy: bytes, draw: int) -> NDArray[Any]:
        noise_only = way == "noise only"
        return sanitize_batch(
            images.images,
            images.ids,
            self.sigma,
            None if noise_only else self.denoiser,
            entropy,
            draw,
            denoise=None if noise_only else self.fast,
            batch=BATCH,
        )


def twins(
    extractor: Extractor, trusted: ImageSet, sanitizer: Sanitizer, epochs: int, device: str, scratch: Path
) -> dict[str, Extractor]:
    """The distilled twin for each way, made once and kept in the scratch directory."""
    made = {}
    for way in WAYS:
        path = scratch / f"distilled-{sanitizer.sigma:g}-{way.replace(' ', '-')}.safetensors"
        if path.is_file():
            network = copy.deepcopy(extractor.network)
            network.load_state_dict(safetensors.torch.load_file(path))
        else:
            # public noise: no raw image has these streams, so they need not be secret
            copied = sanitizer(trusted, way, draw_entropy("fixed:0").value, 0)
            wanted = features(extractor, trusted.images, device)
            network = distilled(extractor, copied, wanted, epochs, device, f"{way}, σ={sanitizer.sigma:g}")
            with replacing(path) as part:
                safetensors.torch.save_file({k: v.contiguous() for k, v in network.state_dict().items()}, part)
        made[way] = replace(extractor, network=network.to(device))
    return made


def vote(
    extractor: Extractor,
    bodies: dict[str, dict[str, Extractor]],
    raw: ImageSet,
    clean: Tensor,
    sanitizer: Sanitizer,
    entropy: bytes,
    draw: int,
    device: str,
) -> tuple[NDArray[np.int8], dict[str, float]]:
    """One draw: votes (ways, variants, n_test), and the seconds of its steps.

    bodies[way] holds the networks of each extractor for sanitized images; clean: the test images' features.
    """
    seconds = dict.fromkeys(TIMED, 0.0)
    labels, few, rows = torch.from_numpy(raw.labels), int(FEW * len(raw)), []

    def timed(step: str, started: float) -> None:
        seconds[step] += time.perf_counter() - started

    for way in WAYS:
        started = time.perf_counter()
        copied = sanitizer(raw, way, entropy, draw)
        timed("sanitize" if way == "denoised" else "noise", started)
        started = time.perf_counter()
        found = {name: features(body, copied, device, BATCH) for name, body in bodies[way].items()}
        timed("features", started)
        started = time.perf_counter()
        for name, head, share in VARIANTS:
            kind, l2, drawn = HEADS[head]
            n = few if share == "few" else len(raw)
            fitted = fit_head(
                found[name][:n], labels[:n], len(raw.classes), kind, l2, extractor.head.cpu() if drawn else None
            )
            rows.append(fitted(clean).argmax(dim=1).numpy().astype(np.int8))
        timed("heads", started)
    return np.stack(rows).reshape(len(WAYS), len(VARIANTS), -1), seconds


def figures_of(votes: NDArray[np.int8], m: int, sigma: float, truth: NDArray[np.int64], classes: int) -> dict[str, Any]:
    """Accuracy, and certified accuracy at RADII, of the votes (m, n_test) of one variant."""
    counts = count_votes(dict(enumerate(votes.astype(np.int64))), m, len(truth), classes)
    label, radius = certify(counts, m, sigma, ALPHA)
    return {
        "one_model": round(float((votes == truth).mean()), 4),
        "vote": round(float((counts.argmax(axis=1) == truth).mean()), 4),
        "certified": [down(a, 4) for a in certified_accuracy(label, radius, truth, RADII)],
        "curve": (label, radius),
    }
