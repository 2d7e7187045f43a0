"""What a defence is given, and what it hands back."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cleanlabel.models.extractors import Extractor, features
from cleanlabel.models.heads import fit_head_of_some
from cleanlabel.models.training import PREDICT_BATCH, as_tensor, predict_inputs
from cleanlabel.redteam.threat.victims import Victim, required_extractor
from cleanlabel.sanitize.denoiser import Denoiser
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.imageset import ImageSet
from cleanlabel.sanitize.noise import draw_entropy

Images = NDArray[np.uint8]
Ints = NDArray[np.int64]
Certified = Callable[[Images], tuple[Ints, NDArray[np.float64]]]
NOTHING = np.empty(0, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Context:
    """What a defence may use besides the raw set and the victim's recipe; most use none of it.

    sigma in [0,1] pixel units, denoiser, entropy (new by default) and draw: of the noise, as in `sanitize`. alpha: a
    radius is false with at most this probability. features: images -> the frozen extractor's
    features, where they are cached (they are the same for every new head); None: computed.
    """

    sigma: float = 0.25
    denoiser: Denoiser | None = None
    entropy: bytes = field(default_factory=lambda: draw_entropy("os").value)
    draw: int = 0
    alpha: float = 0.001
    features: Callable[[Images], Tensor] | None = None


@dataclass(frozen=True, eq=False)
class Defended:
    """The result of training under a defence.

    answers: images uint8 (n, h, w, c) -> labels (n,), -1 for no answer. seconds: wall time of everything. removed: rows
    of the raw set that were filtered out. votes: images -> (members, n), where several networks vote.

    Two certificates that answer different questions, both images -> (labels, tolerance), (n,) each, label -1 where
    nothing is certified. `insertions`: how many images may be inserted or removed, whatever they show, without a change
    of the answer; a changed image is one removal and one insertion. `radius`: how far all training images together may
    move, their joint l2 norm in [0,1] units, with none inserted, removed or relabelled. None: the defence has no such
    certificate. facts: what else it reports, by name.
    """

    answers: Callable[[Images], Ints]
    seconds: float
    removed: Ints = field(default_factory=lambda: NOTHING)
    votes: Callable[[Images], Ints] | None = None
    insertions: Certified | None = None
    radius: Certified | None = None
    facts: dict[str, float] = field(default_factory=dict)


class Defence(Protocol):
    """A defence: its fields are its published settings."""

    def require(self, raw: ImageSet, victim: Victim, context: Context) -> None:
        """InputError, before the slow work begins, where the defence cannot run on this set and victim."""
        ...

    def fit(self, raw: ImageSet, victim: Victim, context: Context, seed: int) -> Defended:
        """Train on a possibly poisoned set; the same arguments give the same answers."""
        ...


def features_of_images(images: Images, victim: Victim, context: Context) -> Tensor:
    """Features (n, d) of the victim's extractor, kept ones where the context has them."""
    if context.features is not None:
        return context.features(images)
    return features(required_extractor(victim), images, victim.device)


def logits_of(network: Extractor, victim: Victim, context: Context) -> Callable[[Images], Tensor]:
    """images -> logits (n, K) on the CPU."""

    @torch.inference_mode()
    def ask(images: Images) -> Tensor:
        if victim.scenario == "transfer":
            head = network.head
            return head(features_of_images(images, victim, context).to(head.weight.device)).cpu()
        model = nn.Sequential(network.network, network.head)
        starts = range(0, len(images), PREDICT_BATCH)
        parts = [model(as_tensor(images[start : start + PREDICT_BATCH], victim.device)).float() for start in starts]
        return torch.cat(parts).cpu() if parts else torch.empty(0, victim.classes)

    return ask


def answers_of(network: Extractor, victim: Victim, context: Context) -> Callable[[Images], Ints]:
    """images -> labels (n,), of one network; -1 where its logits are not finite."""
    ask = logits_of(network, victim, context)
    return lambda images: predict_inputs(nn.Identity(), ask(images))


def training_features(raw: ImageSet, victim: Victim, seed: int) -> Tensor:
    """Features (n, d) by which filters judge the training images.

    Those of the victim's extractor, or, from scratch, of a network trained on the set that will be filtered.
    """
    network = victim.extractor or victim.trained(raw.images, raw.labels, seed)
    return features(network, raw.images, victim.device)


def trained_without(
    removed: Ints, raw: ImageSet, victim: Victim, context: Context, seed: int
) -> Callable[[Images], Ints]:
    """The answers of the victim trained on the rest of the set. InputError where a filter has left too little."""
    rest = raw.take(np.setdiff1d(np.arange(len(raw)), removed))
    if len(np.unique(rest.labels)) < 2:
        raise InputError(f"the filter removes {len(removed)} of {len(raw)} images and leaves no two classes; soften it")
    return answers_of(trained_on_what_is_there(rest.images, rest.labels, victim, seed), victim, context)


def trained_on_what_is_there(images: Images, labels: Ints, victim: Victim, seed: int) -> Extractor:
    """The victim trained on images of some of its classes; it never chooses another. InputError if it fine-tunes."""
    present = np.unique(labels)
    if victim.scenario == "scratch" or len(present) == victim.classes:
        return victim.trained(images, labels, seed)
    if victim.scenario == "fine-tune":
        absent = np.setdiff1d(np.arange(victim.classes), present)
        raise InputError(
            f"class {absent[0]} has no image left, and fine-tuning begins with a head of every class; soften the "
            "defence or choose another scenario"
        )
    extractor = required_extractor(victim)
    found, truth = features(extractor, images, victim.device), torch.from_numpy(labels)
    head = fit_head_of_some(found, truth, victim.classes, victim.recipe.head, victim.recipe.head_l2).to(victim.device)
    return Extractor(extractor.network, head, extractor.image_shape, "")
