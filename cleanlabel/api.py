"""Sanitized copies of a training set in memory, for a notebook or a training script."""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cleanlabel.certifying import Certificate, certify_votes
from cleanlabel.datasets import Dataset, items_of
from cleanlabel.given import Votes, rows_of, whole
from cleanlabel.models.plan import noise_distance_of
from cleanlabel.sanitize import denoiser as denoisers
from cleanlabel.sanitize.denoiser import Denoiser
from cleanlabel.sanitize.denoiser_files import find_denoiser
from cleanlabel.sanitize.device import default_device
from cleanlabel.sanitize.door import Admitted, admit
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.fast import accelerate
from cleanlabel.sanitize.fitting import Fit, fitting_for
from cleanlabel.sanitize.imageset import ImageSet, load, read_all
from cleanlabel.sanitize.noise import check_sigma, draw_entropy, training_seed
from cleanlabel.sanitize.parts import parts_of_loaded
from cleanlabel.sanitize.quality import LOOKED_AT, worse_than_noise
from cleanlabel.sanitize.rows import NETWORK_BATCH, network_rows
from cleanlabel.sanitize.sanitizer import sanitize_batch
from cleanlabel.sanitize.sources import MOST_CLASSES, from_array
from cleanlabel.sanitize.timestep import require_reachable

if TYPE_CHECKING:  # only this import needs pydantic
    from cleanlabel.sanitize.params import Provenance

Data = str | Path | tuple[Any, Any] | Dataset | ImageSet
"""A folder `root/<class>/<image>` or a `.npz`; (images, labels); a data set without a transform; an ImageSet."""


def load_denoiser(source: str | Path, *, revision: str | None = None, device: str | None = None) -> Denoiser:
    """A one-step denoiser from a diffusers directory or a hub id such as `google/ddpm-cifar10-32`.

    revision: the commit of a hub id; pin it. device: by default `cuda` if available, otherwise `cpu`. Weights are read
    from safetensors, and nothing is unpickled. InputError if files are missing or the model is not a denoiser.
    """
    place = device or default_device()
    return denoisers.load_denoiser(find_denoiser(str(source), revision), place)


def image_set(data: Data) -> ImageSet:
    """A labelled image set in memory, checked: images uint8 (n, h, w, c) with c = 1 or 3, labels 0..K-1, n ids.

    data: the path of a folder `root/<class>/<image>` or of a `.npz`; (images, labels), uint8 (n, h, w) or (n, h, w, c)
    and integers (n,); or a data set like torchvision's, whose images are PIL images of mode L or RGB, or uint8 arrays.
    An id is an image's path in the folder, its entry in the `.npz`'s `ids`, or its index. An image keeps its noise only
    as long as it keeps its id. InputError says what is wrong with the data: among other things that a data set has a
    transform of its images (one of its labels stays), or that an item read twice differs.
    """
    if isinstance(data, ImageSet):
        return data
    if isinstance(data, str | Path):
        return load(Path(data))
    if isinstance(data, tuple | list) and len(data) == 2:
        try:
            images, labels = (np.asarray(part) for part in data)
        except ValueError as error:
            raise InputError(f"the data are two parts that are not arrays ({error}); give (images, labels)") from error
        classes: Sequence[str] = ()
    elif hasattr(data, "__getitem__") and hasattr(data, "__len__"):
        images, labels = items_of(data)
        classes = getattr(data, "classes", ())
    else:
        raise InputError(
            f"the data are a {type(data).__name__}; give a path, (images, labels), or a data set of (image, label)"
        )
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise InputError(f"labels are {labels.dtype} of shape {labels.shape}; give one integer per image")
    count = int(labels.max()) + 1 if labels.size else 0
    if count > MOST_CLASSES:
        raise InputError(f"labels run to {count - 1}; number the classes from 0, at most {MOST_CLASSES}")
    names = tuple(map(str, classes)) if len(classes) >= count else tuple(map(str, range(count)))
    ids = tuple(map(str, range(len(images))))
    return read_all(from_array(images, labels.astype(np.int64), ids, names), "the data")


@dataclass(frozen=True, eq=False)
class SanitizedCopy:
    """One sanitized copy of a training set: the same order and labels, other pixels.

    images: uint8, in the shape of the raw ones; without a denoiser, noised and unclipped float32 in [0,1] units.
    labels: int64 (n,). draw: the number of the copy. seed: 63 bits for all other randomness of this training, from a
    stream that is independent of the noise.
    """

    images: NDArray[Any]
    labels: NDArray[np.int64]
    draw: int
    seed: int


class SanitizedCopies:
    """m sanitized copies of one training set, for m models. Iterate over it, or get one with `copy(draw)`.

    Copy i is a function of (the data, denoiser, sigma, entropy, i): on the same machine it is always the same, in any
    order and any process. Copies are made on request, one at a time; none is stored.

    data: see `image_set`. denoiser: a diffusers directory, a hub id or a loaded Denoiser; None leaves the noise in.
    sigma: the noise, in [0,1] pixel units; m: the number of models that vote. Choose all of these before you look at
    the data. entropy: `os` draws 256 new bits from the operating system after the data are read; `fixed:HEX` makes
    earlier copies again. fit: `exact` refuses images whose size is not the denoiser's; `tiles` cuts larger ones into
    overlapping tiles. provenance: what the denoiser was trained on: `disjoint` (other data than these), `fixed-before`
    (a trusted earlier copy of them) or `on-raw` (these data as supplied); origin: its author and training data, in
    words. Certificates repeat both, or say that they were not stated. InputError if the data, the denoiser or a number
    is refused; so is a denoiser whose own record of training images holds some of these. Warns if the denoiser does
    harm.

    raw_digest identifies the data. You can publish `commitment`, the sha256 of `entropy` (hexadecimal), before the
    first model is trained. Keep `entropy` secret until all votes exist, then store it with them.
    """

    def __init__(
        self,
        data: Data,
        denoiser: Denoiser | str | Path | None,
        sigma: float,
        m: int,
        *,
        entropy: str = "os",
        fit: Fit = "exact",
        provenance: "Provenance | None" = None,
        origin: str | None = None,
    ) -> None:
        if not check_sigma(sigma):
            raise InputError(
                "sigma=0 adds no noise, and nothing would be certified; give a number above 0, such as .25"
            )
        m = whole(m, "m")
        if fit == "resize":
            raise InputError(
                "fit='resize' changes images before the noise, and a radius would be about the resized ones; resize "
                "them first and give those, or give fit='tiles'"
            )
        self.sigma, self.m = float(sigma), m
        self.raw = _kept(image_set(data))
        if not len(self.raw):
            raise InputError("the data hold no image; there is nothing to sanitize")
        self.denoiser = load_denoiser(denoiser) if isinstance(denoiser, str | Path) else denoiser
        self.admitted: Admitted = ()
        self._fitting, self._fast, self._rows = None, None, network_rows(self.denoiser) or NETWORK_BATCH
        if self.denoiser is not None:
            require_reachable(sigma, self.denoiser.facts.largest_sigma)
            h, w, channels = self.raw.image_shape
            self._fitting = fitting_for(np.tile([h, w], (len(self.raw), 1)), channels, self.denoiser.facts, fit)
            int8 = self.denoiser.int8 is not None and self.denoiser.int8.sigma == sigma
            parts = parts_of_loaded(self.denoiser, provenance, origin, ("provenance", "origin"), int8=int8)
            self.admitted = admit(self.raw, parts, demand=False)
            self._fast = accelerate(self.denoiser, sigma, self._rows, images=len(self.raw))
            few = self.raw.take(np.arange(min(LOOKED_AT, len(self.raw))))
            harm = worse_than_noise(
                few.images,
                few.ids,
                sigma,
                self.denoiser,
                fitting=self._fitting,
                denoise=self._fast,
                batch=self._rows,
            )
            if harm:
                warnings.warn(harm, stacklevel=2)
        self.raw_digest = self.raw.digest
        self._entropy = draw_entropy(entropy)  # after the digest: the noise must not be known when the data are chosen

    @property
    def entropy(self) -> str:
        """256 bits in hexadecimal. The argument `entropy="fixed:..."` with this value makes the same copies again."""
        return self._entropy.hex

    @property
    def commitment(self) -> str:
        """sha256 of the entropy's bytes. It does not reveal the entropy."""
        return self._entropy.commitment

    @property
    def noise_distance(self) -> float:
        """An upper bound on the total variation between all the noise of one copy and ideal Gaussian noise."""
        return noise_distance_of(len(self.raw), self.raw.image_shape, self.sigma)

    @property
    def class_sizes(self) -> tuple[int, ...]:
        """The number of images of each class 0..K-1, for `certify_sums`; 0 for a number that no label has.

        A class without images has the sum 0, and may be the answer where all other sums are below 0 (`sides="two"`).
        """
        return tuple(np.bincount(self.raw.labels, minlength=len(self.raw.classes)).tolist())

    def __len__(self) -> int:
        return self.m

    def __iter__(self) -> Iterator[SanitizedCopy]:
        return map(self.copy, range(self.m))

    def copy(self, draw: int) -> SanitizedCopy:
        """Copy number `draw`, 0..m-1. InputError for another number."""
        if not 0 <= whole(draw, "draw", 0) < self.m:
            raise InputError(f"copy {draw} is not planned; there are copies 0..{self.m - 1}")
        parts = []
        for start in range(0, len(self.raw), self._rows):
            rows = slice(start, start + self._rows)
            parts.append(
                sanitize_batch(
                    self.raw.images[rows].copy(),  # PyTorch warns of arrays that cannot be written to
                    self.raw.ids[rows],
                    self.sigma,
                    self.denoiser,
                    self._entropy.value,
                    draw,
                    fitting=self._fitting,
                    denoise=self._fast,
                    batch=self._rows,
                )
            )
        images = np.concatenate(parts)
        shown = images if self.raw.channel_axis else images[..., 0]
        return SanitizedCopy(shown, self.raw.labels.copy(), draw, training_seed(self._entropy.value, draw))

    def certify(self, votes: Votes, *, alpha: float = 0.001, **rule: Any) -> Certificate:
        """`certify_votes` for the models of these copies, with their sigma, noise distance and classes.

        votes: one row per copy, in the order of the draws; None or a row of -1 for a missing model. rule: the arguments
        method, simultaneous and ensembles of `certify_votes`. InputError unless there are exactly m rows.
        """
        if (given := rows_of(votes, 1)[1]) != self.m:
            raise InputError(
                f"there are votes of {given} models and {self.m} copies were planned; give one row per copy, and "
                "None for a model that is missing"
            )
        if any(part["voids"] for part in self.admitted):
            raise InputError(
                f"{next(part['voids'] for part in self.admitted if part['voids'])}, as provenance='on-raw' states: no "
                "radius holds; take a denoiser that was trained on other data"
            )
        found = certify_votes(
            votes,
            self.sigma,
            (len(self.raw), *self.raw.image_shape),
            alpha=alpha,
            classes=len(self.raw.classes),
            entropy_source=self._entropy.source,
            **rule,
        )
        return replace(found, admitted=self.admitted)


def _kept(images: ImageSet) -> ImageSet:
    """A read-only copy of a set: its digest stays that of its images."""
    kept = replace(
        images,
        images=images.images.copy(),
        labels=images.labels.copy(),
        ids=tuple(images.ids),
        classes=tuple(images.classes),
    )
    kept.images.flags.writeable = kept.labels.flags.writeable = False
    return kept


def sanitize_images(
    data: Data,
    denoiser: Denoiser | str | Path | None,
    sigma: float,
    *,
    entropy: str = "os",
    draw: int = 0,
    fit: Fit = "exact",
    provenance: "Provenance | None" = None,
    origin: str | None = None,
) -> SanitizedCopy:
    """One sanitized copy of a data set, for ordinary training. Arguments as for `SanitizedCopies`.

    A model trained on it is defended but not certified: a certificate needs the votes of many models. The command
    `cleanlabel sanitize` writes such a copy to disk, also for sets that do not fit in memory.
    """
    m = whole(draw, "draw", 0) + 1
    copies = SanitizedCopies(data, denoiser, sigma, m, entropy=entropy, fit=fit, provenance=provenance, origin=origin)
    return copies.copy(draw)
