"""Stage `ingest`: bring the raw, the test and the trusted set into one form under data/.

python -m sanitize.ingest
"""

from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

from sanitize import errors
from sanitize.errors import InputError
from sanitize.imageset import ImageSet, load, require_trainable, save_npz
from sanitize.params import IngestParams, read_params
from sanitize.paths import INCOMING, SETS


def digits(trusted: int, raw: int, seed: int) -> dict[str, ImageSet]:
    """scikit-learn's 1,797 handwritten digits (8x8, grey), split at random into trusted, raw and test.

    The three are disjoint; an image keeps its index in scikit-learn's order as its id.
    """
    bunch = load_digits()
    pixels = np.round(bunch.images * (255 / 16)).astype(np.uint8)[..., None]
    labels = bunch.target.astype(np.int64)
    if trusted + raw >= len(pixels):
        raise InputError(
            f"ingest.trusted={trusted} and ingest.raw={raw} leave no test image of {len(pixels)}; lower them"
        )
    ids = tuple(f"digits/{i:04d}" for i in range(len(pixels)))
    everything = ImageSet(pixels, labels, ids, tuple("0123456789"), channel_axis=False)
    order = np.random.default_rng(seed).permutation(len(pixels))
    parts = {"trusted": order[:trusted], "raw": order[trusted : trusted + raw], "test": order[trusted + raw :]}
    return {name: everything.take(np.sort(rows)) for name, rows in parts.items()}


def incoming(root: Path) -> dict[str, ImageSet]:
    """The sets a user put under `root`: `raw` and `test`, and `trusted` if there is one (a folder or `.npz` each)."""
    found = {}
    for name in SETS:
        candidates = [p for p in (root / name, root / f"{name}.npz") if p.exists()]
        if len(candidates) > 1:
            raise InputError(f"both {candidates[0]} and {candidates[1]} exist; keep one")
        if candidates:
            found[name] = load(candidates[0])
        elif name != "trusted":
            raise InputError(f"{root / name} does not exist (nor {name}.npz); put the {name} set there")
    raw, test = found["raw"], found["test"]
    if raw.image_shape != test.image_shape:
        raise InputError(f"raw images are {raw.image_shape}, test images {test.image_shape}; bring them to one size")
    if raw.classes != test.classes:
        raise InputError(f"the raw set's classes {raw.classes} are not the test set's {test.classes}")
    if "trusted" in found:
        shared = {p.tobytes() for p in found["trusted"].images} & {p.tobytes() for p in raw.images}
        if shared:
            raise InputError(
                f"the trusted set shares {len(shared)} image(s) with the raw set; a denoiser trained on raw images "
                "voids the certificate, so keep the two apart"
            )
    found.setdefault("trusted", raw.take(np.arange(0)))  # an empty set of the same form
    return found


def main() -> None:
    params = read_params("ingest", IngestParams)
    sets = digits(params.trusted, params.raw, params.seed) if params.source == "digits" else incoming(INCOMING)
    require_trainable(sets["raw"], "raw")
    for name, images in sets.items():
        save_npz(images, SETS[name])
        print(f"{SETS[name]}: {len(images)} images {images.image_shape}, {len(images.classes)} classes")


if __name__ == "__main__":
    errors.run(main)
