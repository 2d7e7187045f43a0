"""Which copies of images the comparison of two sets finds, and how often it takes different images for copies.

    python -m benchmarks.overlap --root DIR [--quick]

Images of the digits, Fashion-MNIST and CIFAR-10 are changed in every way of CHANGES and looked for among the originals
and others of their split. A copy counts as found if its own original is named as its partner. Then published splits,
which are meant to be disjoint, are compared with each other.
"""

import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.common.record import flags, record, results
from cleanlabel.sanitize import errors
from cleanlabel.sanitize.imageset import ImageSet, read_all
from cleanlabel.sanitize.ingest import digits, published
from cleanlabel.sanitize.overlap import Record, Shared, record_of, shared
from cleanlabel.sanitize.sources import open_published

Pixels = NDArray[np.uint8]
Change = Callable[[Pixels], Pixels]
SEED = 20240611
"""Of the splits, the embedded default's."""
CROP = 7 / 8


def light(change: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> Change:
    """A change of pixel values 0..255, rounded and clipped."""
    return lambda images: np.clip(np.rint(change(images.astype(np.float64))), 0, 255).astype(np.uint8)


def gamma(power: float) -> Change:
    return light(lambda x: 255 * (x / 255) ** power)


def one_bit(images: Pixels) -> Pixels:
    changed = images.copy()
    changed[:, images.shape[1] // 2, images.shape[2] // 2, 0] ^= 1
    return changed


def noised(images: Pixels) -> Pixels:
    """Each value moved by 8 of 255, up or down at random."""
    moved = np.random.default_rng(1).choice([-8.0, 8.0], images.shape)
    return light(lambda x: x + moved)(images)


def mirrored(images: Pixels) -> Pixels:
    return images[:, :, ::-1]


def shifted(down: int, right: int, pad: Literal["edge", "constant", "reflect"]) -> Change:
    """Moved by whole pixels; what comes in is the edge's pixels, zeros, or the image's reflection."""

    def change(images: Pixels) -> Pixels:
        _, h, w, _ = images.shape
        most = max(abs(down), abs(right))
        wide = np.pad(images, ((0, 0), (most, most), (most, most), (0, 0)), mode=pad)
        return wide[:, most - down : most - down + h, most - right : most - right + w]

    return change


def grey(images: Pixels) -> Pixels:
    """The luma of colours, in every channel."""
    weights = np.array([0.299, 0.587, 0.114]) if images.shape[3] == 3 else np.ones(1)
    return np.repeat(np.rint(images @ weights).astype(np.uint8)[..., None], images.shape[3], axis=3)


def each(change: Callable[[Image.Image], Image.Image]) -> Change:
    """A change of pictures, one at a time."""

    def all_of(images: Pixels) -> Pixels:
        flat = images[..., 0] if images.shape[3] == 1 else images
        return np.stack([np.asarray(change(Image.fromarray(image))) for image in flat]).reshape(images.shape)

    return all_of


def jpeg(quality: int) -> Change:
    def stored(picture: Image.Image) -> Image.Image:
        stream = io.BytesIO()
        picture.save(stream, "JPEG", quality=quality)
        return Image.open(stream)

    return each(stored)


def small_and_back(picture: Image.Image) -> Image.Image:
    w, h = picture.size
    return picture.resize((3 * w // 4, 3 * h // 4), Image.Resampling.BICUBIC).resize((w, h), Image.Resampling.BICUBIC)


def cropped(picture: Image.Image) -> Image.Image:
    w, h = picture.size
    x, y = w * (1 - CROP) / 2, h * (1 - CROP) / 2
    return picture.resize((w, h), Image.Resampling.BICUBIC, box=(x, y, w - x, h - y))


def after(first: Change, second: Change) -> Change:
    return lambda images: second(first(images))


CHANGES: dict[str, Change] = {
    "none": lambda images: images,
    "one bit of one pixel": one_bit,
    "each value ±8 at random": noised,
    "brightness +20": light(lambda x: x + 20),
    "brightness −20": light(lambda x: x - 20),
    "brightness +40": light(lambda x: x + 40),
    "brightness −40": light(lambda x: x - 40),
    "contrast ×.8": light(lambda x: 0.8 * x),
    "contrast ×1.1": light(lambda x: 1.1 * x),
    "contrast ×1.25": light(lambda x: 1.25 * x),
    "gamma .8": gamma(0.8),
    "gamma 1.25": gamma(1.25),
    "contrast ×1.2 about the middle, brightness −15": light(lambda x: 1.2 * (x - 128) + 113),
    "contrast ×.8, brightness +30, gamma .9": after(light(lambda x: 0.8 * x + 30), gamma(0.9)),
    "mirrored": mirrored,
    **{
        f"shifted by {size}, {words}": shifted(down, right, pad)
        for size, down, right in (("1 px", 1, 0), ("1 px both ways", 1, 1), ("2 px", 0, 2), ("2 px both ways", 2, -2))
        for words, pad in (("edge", "edge"), ("zeros", "constant"), ("reflected", "reflect"))
    },
    "mirrored, shifted by 1 px": after(mirrored, shifted(0, 1, "edge")),
    "mirrored, shifted by 2 px both ways": after(mirrored, shifted(2, 2, "reflect")),
    "shifted by 1 px both ways, brightness +20": after(shifted(1, 1, "edge"), light(lambda x: x + 20)),
    "JPEG, quality 90": jpeg(90),
    "JPEG, quality 75": jpeg(75),
    "JPEG, quality 50": jpeg(50),
    "made smaller by 3/4, and back": each(small_and_back),
    "the inner 7/8, made larger": each(cropped),
    "grey": grey,
    "turned by 90 degrees": lambda images: np.rot90(images, axes=(1, 2)),
    "inverted": light(lambda x: 255 - x),
}  # fmt: skip
"""The changes, in the order of the table. Images that a change leaves as they are count as found, as exact copies."""


def record_from(images: Pixels) -> Record:
    return record_of(np.ascontiguousarray(images), [str(row) for row in range(len(images))])


def found_by_change(originals: Pixels, count: int) -> list[dict[str, Any]]:
    """The share of the first `count` images that are found among all, with the right partner, after each change."""
    theirs, shares = record_from(originals), []
    for name, change in CHANGES.items():
        found = shared(record_from(change(originals[:count])), theirs)
        share = round(float((found.ours == found.theirs).sum()) / count, 4)
        shares.append({"change": name, "share": share})
        print(f"  {name}: {share}", flush=True)
    return shares


def apart(words: str, ours: ImageSet, theirs: ImageSet) -> dict[str, Any]:
    """How many images of two sets that are meant to be disjoint are taken for copies, and the processor time."""
    a, b = record_from(ours.images), record_from(theirs.images)
    started = time.process_time()
    found: Shared = shared(a, b)
    row = {"words": words, "ours": len(ours), "theirs": len(theirs), "exact": int(found.exact.sum())}
    row |= {"found": len(found), "core_seconds": round(time.process_time() - started, 1)}
    print(f"{words}: {len(found)} of {len(ours)} are taken for copies of {len(theirs)}", flush=True)
    return row


def main() -> None:
    parser = flags("overlap", __doc__, "a hundred images of each set")
    parser.add_argument("--root", type=Path, required=True, help="where torchvision put the published sets")
    args = parser.parse_args()
    changed, among, raw, trusted = (50, 100, 100, 200) if args.quick else (1000, 10_000, 10_000, 20_000)
    split = digits(600, 800, SEED)
    whole = len(split["raw"])
    print("digits", flush=True)
    found = found_by_change(split["raw"].images, whole)
    rates: dict[str, Any] = {"digits": {"changed": whole, "among": whole, "found": found}}
    rows = [apart(f"digits: {a} images and {b} ones", split[a], split[b])
            for a, b in (("raw", "trusted"), ("test", "raw"), ("test", "trusted"))]  # fmt: skip
    for name, title in (("fashion-mnist", "Fashion-MNIST"), ("cifar10", "CIFAR-10")):
        train, test = (read_all(open_published(name, args.root, part), name) for part in ("train", "test"))
        print(title, flush=True)
        found = found_by_change(train.images[:among], changed)
        rates[name] = {"changed": changed, "among": min(among, len(train)), "found": found}
        sets = published(name, args.root, trusted, raw, SEED)
        rows.append(apart(f"{title}: raw and trusted images of the training split", sets["raw"], sets["trusted"]))
        if args.quick:
            train, test = train.take(np.arange(trusted)), test.take(np.arange(raw))
        rows.append(apart(f"{title}: test and training split", test, train))
    record("overlap", {"changes": rates, "apart": rows}, results(args))


if __name__ == "__main__":
    errors.run(main)
