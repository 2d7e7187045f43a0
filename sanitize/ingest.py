"""Stage `ingest`: write the raw, the test and the trusted set in one form under data/.

python -m sanitize.ingest
"""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits

from cleanlabel.sanitize import errors
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.imageset import ImageSet, read_all, require_trainable, save_npz
from cleanlabel.sanitize.overlap import record_of, shared
from cleanlabel.sanitize.params import IngestParams, Provenance, read_params
from cleanlabel.sanitize.paths import INCOMING, SETS
from cleanlabel.sanitize.sources import Source, open_published, open_source


def digits(trusted: int, raw: int, seed: int, test: int = 0) -> dict[str, ImageSet]:
    """scikit-learn's 1,797 handwritten digits (8x8, grey), split at random into trusted, raw and test (0: the rest).

    The three are disjoint. An image's id is its index in scikit-learn's order.
    """
    bunch = load_digits()
    pixels = np.round(bunch.images * (255 / 16)).astype(np.uint8)[..., None]
    labels = bunch.target.astype(np.int64)
    if trusted + raw + max(1, test) > len(pixels):
        left = len(pixels) - trusted - raw
        raise InputError(
            f"ingest.trusted={trusted} and ingest.raw={raw} leave {left} of {len(pixels)} images "
            f"for ingest.test={test or 'the rest'}; lower them"
        )
    ids = tuple(f"digits/{i:04d}" for i in range(len(pixels)))
    everything = ImageSet(pixels, labels, ids, tuple("0123456789"), channel_axis=False)
    order = np.random.default_rng(seed).permutation(len(pixels))
    rest = order[trusted + raw :]
    parts = {"trusted": order[:trusted], "raw": order[trusted : trusted + raw], "test": rest[: test or len(rest)]}
    return {name: everything.take(np.sort(rows)) for name, rows in parts.items()}


def published(name: str, root: Path, trusted: int, raw: int, seed: int, test: int = 0) -> dict[str, ImageSet]:
    """A published set: trusted and raw at random from its train split (disjoint), test from its test split (0: all)."""
    train, rest = (read_all(open_published(name, root, split), name) for split in ("train", "test"))
    if trusted + raw > len(train) or test > len(rest):
        raise InputError(
            f"ingest.trusted={trusted}, ingest.raw={raw} and ingest.test={test} ask for more than the {len(train)} "
            f"training and {len(rest)} test images of {name}; lower them"
        )
    generator = np.random.default_rng(seed)
    order, others = generator.permutation(len(train)), generator.permutation(len(rest))
    return {
        "trusted": train.take(np.sort(order[:trusted])),
        "raw": train.take(np.sort(order[trusted : trusted + raw])),
        "test": rest.take(np.sort(others[: test or len(rest)])),
    }


def incoming(root: Path, side: int | None = None, trusted_provenance: Provenance | None = None) -> dict[str, ImageSet]:
    """The user's sets under `root`: `raw`, `test` and, if there is one, `trusted` (a folder or `.npz` each).

    With `side`, images of any size are resized to side x side (bicubic, antialiased) here, before everything else.
    InputError if raw images are among the trusted ones, unless trusted_provenance says how that came.
    """
    found = {}
    for name in SETS:
        candidates = [p for p in (root / name, root / f"{name}.npz") if p.exists()]
        if len(candidates) > 1:
            raise InputError(f"both {candidates[0]} and {candidates[1]} exist; keep one")
        if candidates:
            source = open_source(candidates[0])
            for note in source.notes:
                print(f"{candidates[0]}: {note}", file=sys.stderr)
            found[name] = read_all(source if side is None else brought_to(source, side), str(candidates[0]))
        elif name != "trusted":
            raise InputError(f"{root / name} does not exist (nor {name}.npz); put the {name} set there")
    raw, test = found["raw"], found["test"]
    if raw.image_shape != test.image_shape:
        raise InputError(f"raw images are {raw.image_shape}, test images {test.image_shape}; bring them to one size")
    if raw.classes != test.classes:
        raise InputError(f"the raw set's classes {raw.classes} are not the test set's {test.classes}")
    if "trusted" in found:
        ours, theirs = (record_of(images.images, images.ids) for images in (raw, found["trusted"]))
        both = shared(ours, theirs)
        if len(both) and trusted_provenance in (None, "disjoint"):
            raise InputError(
                f"the trusted set shares {len(both)} image(s) with the raw set ({both.in_words(ours, theirs)}); a "
                "denoiser trained on raw images voids the certificate, so remove them from one side, or state "
                "ingest.trusted_provenance: fixed-before if they are a trusted earlier copy that no attack could reach"
            )
    found.setdefault("trusted", raw.take(np.arange(0)))  # an empty set of the same form
    return found


def brought_to(source: Source, side: int) -> Source:
    """The same images, each resized to side x side when it is read."""

    def resized(i: int) -> NDArray[np.uint8]:
        image = source.read_one(i)
        picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
        pixels = np.asarray(picture.resize((side, side), Image.Resampling.BICUBIC))
        return pixels.reshape(side, side, image.shape[2])

    return replace(source, sizes=np.full_like(source.sizes, side), read_one=resized, resized=side)


def make_sets(params: IngestParams) -> dict[str, ImageSet]:
    """The sets according to the params."""
    if params.source == "incoming":
        return incoming(INCOMING, params.side, params.trusted_provenance)
    if params.side is not None:
        raise InputError(f"param ingest.side={params.side} is for ingest.source: incoming; set it to null")
    if params.source == "digits":
        return digits(params.trusted, params.raw, params.seed, params.test)
    return published(params.source, INCOMING, params.trusted, params.raw, params.seed, params.test)


def main() -> None:
    sets = make_sets(read_params("ingest", IngestParams))
    require_trainable(sets["raw"], "raw")
    for name, images in sets.items():
        save_npz(images, SETS[name])
        print(f"{SETS[name]}: {len(images)} images {images.image_shape}, {len(images.classes)} classes")


if __name__ == "__main__":
    errors.run(main)
