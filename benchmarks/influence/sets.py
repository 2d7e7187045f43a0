"""The sets of the benchmark of bounded influences, the public networks, and the features of every copy.

CIFAR-10: raw, test and tuning test images are of the *test* split, which neither the published extractor nor the
denoiser has seen. All trusted images are of the training split, which both have seen. Fashion-MNIST: the networks
are trained on 20,000 images of the training split, the raw images are the other 40,000, and the rest is of the test
split. All sets are disjoint. Trusted images have three uses: the networks are trained on `learned`, the instrument's
moments are those of `moments`, and the constants are chosen on `tuned_raw` and `tuned_test`.

With `unseen` the raw, test and tuning images are of five classes. The extractor is trained here, on the other five, and
so is the twin. The moments are of the other five too, or of unlabelled images of the raw classes: no label is used.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from typing import Any, Literal, cast

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.common.runs import kept
from benchmarks.fashion.plan import SPLIT_SEED
from cleanlabel.models.distil import distilled
from cleanlabel.models.extractors import CifarResNet, Extractor, accelerated, features, load_extractor, require_fits
from cleanlabel.models.public_part import PUBLIC_ENTROPY
from cleanlabel.sanitize.denoiser import Denoiser
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.fast import FastDenoiser, accelerate
from cleanlabel.sanitize.files import replacing
from cleanlabel.sanitize.imageset import ImageSet, read_all
from cleanlabel.sanitize.ingest import published
from cleanlabel.sanitize.noise import Role
from cleanlabel.sanitize.sanitizer import sanitize
from cleanlabel.sanitize.sources import open_published

CHUNK, BATCH = 2048, 64
"""Images that are sanitized before their features are taken; images that a network takes at once."""
KNOWN = 5
"""How many classes the `unseen` extractor is trained on."""
HIDDEN, WIDTH, EPOCHS = 256, 64, 10
"""Of the extractors that are trained here: the hidden layer of Fashion-MNIST's, the features, and the training."""

Unseen = Literal["known", "raw"]
"""If the extractor has not seen the raw classes: whose images the moments are of."""


@dataclass(frozen=True)
class Size:
    """How many images of each kind; `copies`: noised copies of the learned images that a twin learns on, once each."""

    raw: int
    test: int
    learned: int
    moments: int
    tuned_raw: int
    tuned_test: int
    copies: int


FULL = {
    "cifar10": Size(8000, 1000, 40_000, 3000, 3000, 1000, 1),
    "fashion-mnist": Size(40_000, 1000, 20_000, 3000, 3000, 1000, 4),
}
QUICK = {
    "cifar10": Size(100, 100, 200, 100, 100, 100, 1),
    "fashion-mnist": Size(300, 100, 500, 100, 100, 100, 1),
}


@dataclass(frozen=True, eq=False)
class Sets:
    """A data set's parts and the extractor of clean images; l2: of the votes' heads."""

    raw: ImageSet
    test: ImageSet
    learned: ImageSet
    moments: ImageSet
    tuned_raw: ImageSet
    tuned_test: ImageSet
    extractor: Extractor
    copies: int
    l2: float

    @cached_property
    def asked(self) -> Tensor:
        """phi of the test images."""
        return features(self.extractor, self.test.images)

    @cached_property
    def clean(self) -> Tensor:
        """phi of the raw images: what the rivals see, who add no noise."""
        return features(self.extractor, self.raw.images)

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """Raw images per class, (K,)."""
        return np.bincount(self.raw.labels, minlength=len(self.raw.classes))


class Pooled(nn.Module):
    """A network that sees the mean of 2 x 2 pixels: a quarter of the work, where noise has drowned the detail."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> Tensor:
        """The network's answers to the halved images."""
        return self.network(nn.functional.avg_pool2d(pixels, 2))


def cifar_sets(root: Path, extractor: Path | None, size: Size, unseen: Unseen | None = None) -> Sets:
    """CIFAR-10's sets. InputError without an extractor, if all classes are known, or for more images than there are."""
    if extractor is None and not unseen:
        raise InputError("--set cifar10 needs --extractor, a .safetensors file")
    held_out, train = (read_all(open_published("cifar10", root, split), "cifar10") for split in ("test", "train"))
    raw, test, tuned_test = parts(held_out, size.raw, size.test, size.tuned_test)
    learned, moments, tuned_raw = parts(train, size.learned, size.moments, size.tuned_raw)
    sets = {"raw": raw, "test": test, "moments": moments, "tuned_raw": tuned_raw, "tuned_test": tuned_test}
    sets["learned"] = learned
    if unseen:
        return split_classes(sets, unseen, lambda: CifarResNet(3), size.copies, 1.0)
    network = load_extractor(extractor)
    require_fits(network, raw.image_shape)
    return Sets(**sets, extractor=network, copies=size.copies, l2=1.0)


def fashion_sets(root: Path, size: Size, unseen: Unseen | None = None) -> Sets:
    """Fashion-MNIST's sets and an extractor trained on the trusted images; l2 as in `benchmarks.frontiers.sets`.

    The extractor is the two hidden layers of an MLP.
    """
    published_sets = published("fashion-mnist", root, size.learned, size.raw, SPLIT_SEED)
    order = np.random.default_rng(SPLIT_SEED).permutation(len(published_sets["test"]))
    rest = published_sets["test"].take(order)
    names = ("test", "moments", "tuned_raw", "tuned_test")
    sizes = (size.test, size.moments, size.tuned_raw, size.tuned_test)
    sets = dict(zip(names, parts(rest, *sizes), strict=True))
    sets |= {"learned": published_sets["trusted"], "raw": published_sets["raw"]}

    def body() -> nn.Module:
        pixels = sets["raw"].images[0].size
        layers = (nn.Linear(pixels, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, WIDTH), nn.ReLU())
        return nn.Sequential(nn.Flatten(), *layers)

    if unseen:
        return split_classes(sets, unseen, body, size.copies, 0.3)
    return Sets(**sets, extractor=trained_extractor(sets["learned"], body), copies=size.copies, l2=0.3)


def split_classes(
    sets: dict[str, ImageSet], unseen: Unseen, body: Callable[[], nn.Module], copies: int, l2: float
) -> Sets:
    """The sets with an extractor that is trained on the first five classes; raw and test images are of the others."""
    others = range(KNOWN, len(sets["raw"].classes))
    known = {"learned", "moments"} if unseen == "known" else {"learned"}
    found = {name: of_classes(images, range(KNOWN) if name in known else others) for name, images in sets.items()}
    return Sets(**found, extractor=trained_extractor(found["learned"], body), copies=copies, l2=l2)


def trained_extractor(learned: ImageSet, body: Callable[[], nn.Module]) -> Extractor:
    """A body with WIDTH features that learned the labels of clean trusted images by least squares, from seed 0.

    This brings the images of a class close together, which helps sums with one number per image.
    """
    torch.manual_seed(0)
    classes = len(learned.classes)
    network = nn.Sequential(body(), nn.Linear(WIDTH, classes))
    start = Extractor(network, nn.Linear(WIDTH, classes), learned.image_shape, "")
    wanted = nn.functional.one_hot(torch.from_numpy(learned.labels), classes).float()
    network = cast(nn.Sequential, distilled(start, learned.images, wanted, EPOCHS, "cpu", "the extractor"))
    return replace(start, network=network[0], head=network[1], digest="trained here")


def parts(images: ImageSet, *sizes: int) -> list[ImageSet]:
    """The first images, the next ones and so on. InputError where they do not suffice."""
    if sum(sizes) > len(images):
        raise InputError(f"{sum(sizes)} images are needed and there are {len(images)}; give smaller sets")
    ends = np.cumsum((0, *sizes))
    return [images.take(np.arange(a, b)) for a, b in pairwise(ends)]


def of_classes(images: ImageSet, wanted: range) -> ImageSet:
    """The images of some classes, which become 0, 1, .."""
    found = images.take(np.flatnonzero((images.labels >= wanted.start) & (images.labels < wanted.stop)))
    return replace(found, labels=found.labels - wanted.start, classes=tuple(images.classes[c] for c in wanted))


@dataclass(frozen=True, eq=False)
class Copies:
    """Features of noised images at one sigma, one way; those that were made are read from the folder.

    noise only: by a twin that was distilled on noised copies of `learned`; denoised: by the extractor as it is.
    """

    sets: Sets
    sigma: float
    denoiser: Denoiser | None
    pooled: bool
    folder: Path

    @cached_property
    def fast(self) -> FastDenoiser | None:
        """The fast path of the denoiser; None without one."""
        return accelerate(self.denoiser, self.sigma, BATCH) if self.denoiser else None

    @cached_property
    def body(self) -> Extractor:
        """What takes features of noised images."""
        own = self.sets.extractor
        if self.denoiser or not self.sigma:
            return accelerated(own)
        path = self.folder / "twin.safetensors"
        network = copy.deepcopy(own.network)
        start = replace(own, network=Pooled(network) if self.pooled else network)
        if path.is_file():
            start.network.load_state_dict(safetensors.torch.load_file(path))
            return accelerated(start)
        learned, copies = self.sets.learned, range(1, self.sets.copies + 1)
        noised = np.concatenate([sanitize(learned, self.sigma, None, PUBLIC_ENTROPY, c, role=PUBLIC) for c in copies])
        wanted = features(own, learned.images).repeat(len(copies), 1)
        twin = distilled(start, noised, wanted, 1, "cpu", f"twin, σ={self.sigma:g}")
        with replacing(path) as part:
            safetensors.torch.save_file({k: v.contiguous() for k, v in twin.state_dict().items()}, part)
        return accelerated(replace(start, network=twin))

    def psi(self, images: ImageSet, entropy: bytes, draw: int, role: Role) -> Tensor:
        """float16 (n, d): the features of one sanitized copy."""
        if not self.sigma:
            return features(self.body, images.images, batch=BATCH).half()
        found = []
        for start in range(0, len(images), CHUNK):
            part = images.take(np.arange(start, min(start + CHUNK, len(images))))
            copied = sanitize(part, self.sigma, self.denoiser, entropy, draw, role=role, denoise=self.fast, batch=BATCH)
            found.append(features(self.body, copied, batch=BATCH).half())
        return torch.cat(found)

    def draw(self, entropy: bytes, draw: int) -> tuple[Tensor, float]:
        """psi of the raw images, and the seconds it took."""
        made = kept(self.folder / f"{draw:05d}.npz", partial(self._timed, entropy, draw))
        return torch.from_numpy(made["rows"]), float(made["seconds"])

    def _timed(self, entropy: bytes, draw: int) -> dict[str, NDArray[Any]]:
        _ = self.body
        started = perf_counter()
        rows = self.psi(self.sets.raw, entropy, draw, "noise").numpy()
        return {"rows": rows, "seconds": np.array(perf_counter() - started)}

    def public(self, copies: int) -> dict[str, NDArray[Any]]:
        """psi of public copies, one below the other: `moments` and `tuned` (of `tuned_raw`)."""
        return kept(self.folder / "public.npz", partial(self._public, copies if self.sigma else 1))

    def _public(self, copies: int) -> dict[str, NDArray[Any]]:
        of = {"moments": self.sets.moments, "tuned": self.sets.tuned_raw}
        return {
            name: torch.cat([self.psi(images, PUBLIC_ENTROPY, c, PUBLIC) for c in range(copies)]).numpy()
            for name, images in of.items()
        }


PUBLIC: Role = "public-noise"
