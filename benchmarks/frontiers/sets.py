"""The sets of the frontiers, how each is sanitized, and the blocks' models.

Of every set the raw, the test and the trusted images are disjoint. Extractors and denoisers were trained only on
trusted images; for CIFAR-10 see `benchmarks.transfer`. `twin` extractors are distilled as there: on noised trusted
images, towards the extractor's features of the clean ones. Test images are clean and use the extractor itself.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.common.recipes import recipe
from benchmarks.fashion import plan as fashion
from benchmarks.transfer import plan as transfer
from cleanlabel.models.classifiers import features_of
from cleanlabel.models.distil import distilled
from cleanlabel.models.extractors import Extractor, accelerated, features, load_extractor, require_fits
from cleanlabel.models.heads import HeadKind
from cleanlabel.models.params import TrainParams
from cleanlabel.models.training import as_tensor, train
from cleanlabel.sanitize.denoiser import load_denoiser
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.fast import accelerate
from cleanlabel.sanitize.imageset import ImageSet, read_all
from cleanlabel.sanitize.ingest import digits, published
from cleanlabel.sanitize.noise import draw_entropy
from cleanlabel.sanitize.params import IngestParams, read_params
from cleanlabel.sanitize.sanitizer import sanitize, sanitize_batch
from cleanlabel.sanitize.sources import open_published

Body = Callable[[NDArray[Any]], Tensor]
"""Images (n, h, w, c), uint8 or float32 in [0,1] units -> features (n, d)."""
BATCH = 256


@dataclass(frozen=True, eq=False)
class Head:
    """A head on features: of sanitized images by `noised`, made for one sigma; of clean ones by `clean`."""

    kind: HeadKind
    l2: float
    clean: Body
    noised: Callable[[float], Body]


@dataclass(frozen=True, eq=False)
class Task:
    """A data set and everything fixed before its draws.

    sizes: how many of the raw images, from the first on, are taken in turn; the last is all. heads and recipes: the
    blocks' models by name. copier: sigma -> (entropy, draw) -> a sanitized copy. facts: for the record.
    """

    raw: ImageSet
    test: ImageSet
    sizes: tuple[int, ...]
    heads: dict[str, Head]
    recipes: dict[str, TrainParams]
    copier: Callable[[float], Callable[[bytes, int], NDArray[Any]]]
    facts: dict[str, Any]


def public_copy(images: ImageSet, sigma: float) -> NDArray[Any]:
    """Trusted images noised by public noise: no raw image has these streams, so they need not be secret."""
    return sanitize_batch(images.images, images.ids, sigma, None, draw_entropy("fixed:0").value, 0)


def small_extractor(trusted: ImageSet, width: int, epochs: int, *, flip: bool) -> Extractor:
    """The hidden layer of an MLP trained on clean trusted images."""
    chosen = recipe("mlp", width, epochs, flip=flip)
    model: Any = train(trusted.images, trusted.labels, len(trusted.classes), chosen, seed=0)
    model.requires_grad_(requires_grad=False)
    return Extractor(features_of(model), model[-1], trusted.image_shape, "trained here")


def body_of(extractor: Extractor) -> Body:
    """`features`, as a body."""
    return lambda images: features(extractor, images)


def twin(extractor: Extractor, trusted: ImageSet, epochs: int, sigma: float) -> Body:
    """The extractor's twin for images with noise of `sigma` left in."""
    copied, wanted = public_copy(trusted, sigma), features(extractor, trusted.images)
    network = distilled(extractor, copied, wanted, epochs, "cpu", f"twin, σ={sigma:g}")
    return body_of(accelerated(Extractor(network, extractor.head, extractor.image_shape, extractor.digest)))


def components(trusted: ImageSet, width: int) -> Body:
    """The images' first `width` principal components, those of trusted images: linear, and no label is used."""
    pixels = as_tensor(trusted.images).flatten(1).double()
    middle = pixels.mean(dim=0)
    axes = torch.linalg.eigh((pixels - middle).T @ (pixels - middle)).eigenvectors[:, -width:].float()
    return lambda images: (as_tensor(images).flatten(1) - middle.float()) @ axes


def noise_only(raw: ImageSet) -> Callable[[float], Callable[[bytes, int], NDArray[Any]]]:
    """Copies with the noise left in."""
    return lambda sigma: lambda entropy, draw: sanitize(raw, sigma, None, entropy, draw)


def digits_task(denoiser: Path, train_params: TrainParams, draws: int) -> Task:
    """800 raw digits as the pipeline's default has them, denoised; the pipeline's MLP, and features of another's.

    The MLP is trained by train_params as they are, for every k: a block of n/k images gets 1/k of the steps.
    """
    ingest = read_params("ingest", IngestParams)
    sets = digits(ingest.trusted, ingest.raw, ingest.seed, ingest.test)
    removing = load_denoiser(denoiser)
    extractor = small_extractor(sets["trusted"], 64, 30, flip=False)
    clean = body_of(extractor)

    def copier(sigma: float) -> Callable[[bytes, int], NDArray[Any]]:
        fast = accelerate(removing, sigma, BATCH, draws * len(sets["raw"]))
        return lambda entropy, draw: sanitize(sets["raw"], sigma, removing, entropy, draw, denoise=fast, batch=BATCH)

    return Task(
        sets["raw"],
        sets["test"],
        (len(sets["raw"]),),
        {"frozen": Head("lda", 1.0, clean, lambda _: clean)},
        {"mlp": train_params},
        copier,
        {"way": "denoised", "denoiser_digest": removing.digest, "extractor": "mlp 64 on the trusted digits"},
    )


def fashion_task(root: Path, images: int, size: fashion.Size) -> Task:
    """Fashion-MNIST with the noise left in: principal components, or the twin of an extractor of trusted images."""
    sets = published("fashion-mnist", root, size.trusted, images, fashion.SPLIT_SEED, size.test)
    # the split's rows are in the order of the file; nested sizes take them from the front
    extractor = small_extractor(sets["trusted"], 128, 10, flip=True)
    made, projected = partial(twin, extractor, sets["trusted"], 6), components(sets["trusted"], 64)
    return Task(
        sets["raw"],
        sets["test"],
        sizes_up_to(images, 2000, 4),
        {
            "components": Head("lda", 0.1, projected, lambda _: projected),
            "twin": Head("lda", 0.3, body_of(extractor), made),
        },
        {},
        noise_only(sets["raw"]),
        {"way": "noise only", "trusted": size.trusted, "extractor": "mlp 128 on the trusted images, 6 epochs' twin"},
    )


def cifar_task(root: Path, extractor_file: Path, images: int, size: transfer.Size) -> Task:
    """CIFAR-10 transfer with the noise left in: the `distilled` extractor of `benchmarks.transfer` and its split."""
    held_out = read_all(open_published("cifar10", root, "test"), "cifar10")
    half = len(held_out) // 2
    if images > half:
        raise InputError(f"--images {images} is more than the {half} that stay clear of the test images; give fewer")
    raw = held_out.take(np.arange(images))
    test = held_out.take(np.arange(half, half + size.test))
    trusted = read_all(open_published("cifar10", root, "train"), "cifar10").take(np.arange(size.trusted))
    extractor = load_extractor(extractor_file)
    require_fits(extractor, raw.image_shape)
    made = partial(twin, extractor, trusted, size.epochs)
    kind, l2, _ = transfer.HEADS["lda"]
    return Task(
        raw,
        test,
        sizes_up_to(images, 600),
        {"twin": Head(kind, l2, body_of(extractor), made)},
        {},
        noise_only(raw),
        {"way": "noise only", "trusted": len(trusted), "extractor_digest": extractor.digest},
    )


def sizes_up_to(most: int, least: int, factor: int = 2) -> tuple[int, ...]:
    """`most`, its `factor`-th part, that one's and so on down to `least`, rising."""
    sizes = [most]
    while sizes[-1] // factor >= least:
        sizes.append(sizes[-1] // factor)
    return tuple(reversed(sizes))
