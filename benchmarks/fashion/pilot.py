"""The comparison of recipes that came before the run, on images the run never sees."""

import json
import time
from pathlib import Path

import numpy as np
from scipy.special import ndtri

from benchmarks.fashion.draws import make_copy
from benchmarks.fashion.plan import CANDIDATES, PILOT_DRAWS, PILOT_RAW, PILOT_TEST
from cleanlabel.models.training import predict, train
from cleanlabel.sanitize.denoiser import Denoiser
from cleanlabel.sanitize.fast import accelerate
from cleanlabel.sanitize.files import write_json
from cleanlabel.sanitize.imageset import ImageSet
from cleanlabel.sanitize.noise import draw_entropy, training_seed
from cleanlabel.sanitize.rows import NETWORK_BATCH


def pilot(others: ImageSet, sigmas: list[float], denoiser: Denoiser, scratch: Path) -> None:
    """Every candidate, a few draws each, on images that are no part of the run; its table stays in the scratch.

    `share` is what the choice is made by: the mean over test images of max(0, Phi^-1(p)) with p = (votes for the truth
    + 1/2) / (draws + 1), that is the radius in units of sigma that the votes would promise.
    """
    raw, test = others.take(np.arange(PILOT_RAW)), others.take(np.arange(PILOT_RAW, PILOT_RAW + PILOT_TEST))
    entropy = draw_entropy("os").value
    rows = []
    for sigma in sigmas:
        fast = accelerate(denoiser, sigma, NETWORK_BATCH)
        for way, denoise in (("denoised", (denoiser, fast)), ("noise only", None)):
            copies = [make_copy(raw, sigma, denoise, entropy, i) for i in range(PILOT_DRAWS)]
            for name, candidate in CANDIDATES.items():
                started = time.perf_counter()
                models = [
                    train(copy, raw.labels, len(raw.classes), candidate, training_seed(entropy, i))
                    for i, copy in enumerate(copies)
                ]
                votes = np.stack([predict(model, test.images) for model in models])
                p = ((votes == test.labels).sum(axis=0) + 0.5) / (PILOT_DRAWS + 1)
                row = {
                    "sigma": sigma,
                    "way": way,
                    "recipe": name,
                    "one_model": round(float(np.mean(votes == test.labels)), 4),
                    "share": round(float(np.maximum(0, ndtri(p)).mean()), 4),
                    "train_seconds": round((time.perf_counter() - started) / PILOT_DRAWS, 2),
                }
                rows.append(row)
                print(json.dumps(row), flush=True)
    write_json(scratch / "pilot.json", {"draws": PILOT_DRAWS, "raw": len(raw), "test": len(test), "rows": rows})
