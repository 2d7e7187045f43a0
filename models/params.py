"""The params of training, smoothing and certifying."""

from typing import Annotated, Literal

from pydantic import Field

from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.params import MOST, Origin, Provenance, Section, Sigma


class TrainParams(Section):
    """The recipe: everything that determines training but the data and the seeds."""

    architecture: Literal["linear", "mlp", "small-cnn", "resnet18", "vgg11", "mobilenet-v2", "fast-cifar"]
    width: Annotated[int, Field(ge=1, le=MOST)]
    """Channels of a convolutional network's first trained layer, the others in proportion (resnet18 takes 64 alone,
    mobilenet-v2 multiples of 8); hidden units of the MLP; nothing to linear."""
    mode: Literal["scratch", "fine-tune", "transfer"]
    """From random weights; all of `initial_weights` trained further; or they are frozen but for a new linear head."""
    epochs: Annotated[int, Field(ge=1, le=MOST)]
    batch: Annotated[int, Field(ge=2, le=MOST)]
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    """AdamW's; of fast-cifar, like its weight decay, per 1,024 examples of SGD (published: 11.5 and .0153)."""
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    label_smoothing: Annotated[float, Field(ge=0, lt=1)]
    shift: Annotated[int, Field(ge=0, le=MOST)]
    """Augmentation: a random shift by up to so many pixels, new at every visit; it comes after the noise."""
    flip: bool
    """Augmentation: every other visit mirrors the image, left to right."""
    normalise: Literal["constants", "copy", "raw"]
    """What centres and scales the pixels: public constants; statistics of the sanitized copy; or of the raw images,
    which voids the certificate."""
    warm_epochs: Annotated[int, Field(ge=0, le=MOST)]
    """Epochs of a first training, whose weights the second one starts from (the paper's section 4.2)."""
    warm_on: Literal["copy", "raw"]
    """What those see: the draw's own sanitized copy, or the raw images, which voids the certificate."""
    initial_weights: str | None
    """Weights that were trained elsewhere: their file (put it under data/pretrained/)."""
    initial_provenance: Provenance | None
    """What the initial weights saw; must be stated where there are any."""
    initial_origin: Origin | None = None
    """Where they come from, in words; must be stated with it. No part of the recipe (`models.plan.recipe_of`)."""
    head: Literal["mean", "direction", "lda", "ridge", "logistic", "bounded-influence"]
    """The head of `transfer`: a linear one (`models.heads`), whose models vote; or sums of bounded influences, which
    are certified directly (`models.influence`)."""
    head_l2: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    """How firmly lda, ridge and logistic hold it down, in units of the features' mean variance."""
    head_prior: bool
    """Whether ridge and logistic draw it towards the head that the initial weights came with."""
    twin: str | None = None
    """Of transfer: the extractor's twin for sanitized images (`flows.distil`). null: they go through the extractor."""
    influence_form: Literal["instrumental", "cosine"] = "instrumental"
    """Of a bounded-influence head: fitted to trusted images, or the cosine of features, which needs none."""
    influence_ridge: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.5
    """lambda: how firmly the instrumental form holds directions down of which the noise leaves little."""
    influence_clip: Annotated[float, Field(gt=0, le=1)] = 0.8
    """The quantile of trusted images' influences at which every influence is clipped."""
    influence_threshold: Annotated[float, Field(ge=0, lt=1)] | None = None
    """The quantile below which an image says nothing of an input; below influence_clip. null: none."""
    influence_sides: Literal["one", "two"] = "one"
    """`one`: influences lie in [0, 1]; `two`: in [-1, 1], which tells more and lets a rewritten image do twice as
    much."""
    influence_copies: Annotated[int, Field(ge=1, le=MOST)] = 1
    """Sanitized copies of the trusted images that the instrumental form is fitted to."""

    @property
    def bounded_influence(self) -> bool:
        """Whether a draw's answer is a sum of bounded influences, and no vote."""
        return self.mode == "transfer" and self.head == "bounded-influence"


def check_recipe(recipe: TrainParams) -> None:
    """InputError names params of a recipe that do not go together."""
    if (recipe.mode == "scratch") != (recipe.initial_weights is None):
        needs = "starts from random weights" if recipe.mode == "scratch" else "needs weights trained elsewhere"
        raise InputError(
            f"param train.mode={recipe.mode!r} {needs}, and train.initial_weights={recipe.initial_weights!r}; "
            "change one of them"
        )
    if recipe.mode == "transfer" and (recipe.warm_epochs or recipe.normalise != "constants"):
        raise InputError(
            f"param train.mode='transfer' fits one linear head: train.warm_epochs={recipe.warm_epochs} and "
            f"train.normalise={recipe.normalise!r} do not apply; set them to 0 and constants"
        )
    if recipe.twin and recipe.mode != "transfer":
        raise InputError(
            f"param train.twin={recipe.twin!r} stands in for a frozen extractor, and train.mode={recipe.mode!r} has "
            "none; set train.mode: transfer, or train.twin: null"
        )
    threshold = recipe.influence_threshold
    if recipe.bounded_influence and threshold is not None:
        own = {
            "influence_form": (recipe.influence_form, "instrumental", recipe.influence_form == "instrumental"),
            "influence_sides": (recipe.influence_sides, "one", recipe.influence_sides == "one"),
            "influence_clip": (recipe.influence_clip, "more than it", recipe.influence_clip > threshold),
        }
        for name, (value, wanted, holds) in own.items():
            if not holds:
                raise InputError(
                    f"params train.influence_threshold={threshold:g} and train.{name}={value} do not go together; set "
                    f"{name} to {wanted}, or influence_threshold to null"
                )
    if recipe.head == "bounded-influence" and recipe.mode != "transfer":
        raise InputError(
            f"param train.head='bounded-influence' sums up features of a frozen extractor, and "
            f"train.mode={recipe.mode!r} trains a network; set train.mode: transfer, or another train.head"
        )
    if recipe.head_prior and recipe.head not in ("ridge", "logistic"):
        raise InputError(
            f"param train.head_prior=true draws a ridge or logistic head towards another; train.head={recipe.head!r} "
            "takes none: change one of them"
        )
    if recipe.architecture == "fast-cifar" and (recipe.warm_epochs or recipe.normalise != "constants"):
        raise InputError(
            f"param train.architecture='fast-cifar' whitens by the copy itself: train.warm_epochs={recipe.warm_epochs} "
            f"and train.normalise={recipe.normalise!r} do not apply; set them to 0 and constants"
        )


class SmoothParams(Section):
    """The ensemble."""

    m: Annotated[int, Field(ge=1, le=MOST)]
    """How many smoothed models."""
    partitions: Annotated[int, Field(ge=1, le=MOST)]
    """k: blocks of the raw set, each with m models of its own, for a certificate of how many images *and* how far."""
    chosen_on: Literal["trusted", "raw"]
    """What sigma, k and the recipe were chosen by looking at: trusted images or none; `raw` voids the certificate."""
    ensembles: Annotated[int, Field(ge=1, le=MOST)]
    """How many ensembles on this raw set are planned beforehand: each of them runs at alpha/ensembles, further ones at
    alpha/2, alpha/4 and so on. The first one fixes the number."""
    selection: Annotated[int, Field(ge=0, le=MOST)]
    """m0: further draws that only choose the class. For certify.method `split`; 0 otherwise."""
    test_sigma: Sigma
    """sigma_x: noise on the test inputs too, in [0,1] units; certifies triggers as well. 0: none."""
    batch_of_draws: Annotated[int, Field(ge=1, le=MOST)]
    """Draws that one task makes, small networks all at once; what a lost worker costs at most."""
    keep_weights: Literal["all", "none"] | Annotated[int, Field(ge=1, le=MOST)]
    """Whose networks are kept: all, none, or the first so many draws'. Without all, the version cannot be served."""
    stopping: Literal["none", "looks", "sequence"]
    """Stop before m once the gate is decided: never; at planned looks that share alpha out; or by a confidence
    sequence, valid at every number of models."""
    looks: list[Annotated[int, Field(ge=1, le=MOST)]] | None
    """Numbers of models at which the gate is looked at, multiples of batch_of_draws that end with m; null: chosen."""


class CertifyParams(Section):
    """The certificate."""

    alpha: Annotated[float, Field(gt=0, lt=1)]
    """A certificate is false with at most this probability."""
    method: Literal["binary", "split", "margin"]
    simultaneous: bool
    """true: alpha holds for all test points at once, not for each."""
    radii: Annotated[list[Annotated[float, Field(ge=0, allow_inf_nan=False)]], Field(min_length=1)]
    """Joint l2 radii at which certified accuracy is summarised."""
    epsilon_255: Annotated[float, Field(gt=0, le=255)]
    """l_infinity change an image, in 255ths, by which a radius is put into words."""
    images: Annotated[list[Annotated[int, Field(ge=1, le=MOST)]], Field(min_length=1)]
    """Rows of the grid: how many images change at once."""
    epsilons_255: Annotated[list[Annotated[float, Field(gt=0, le=255)]], Field(min_length=1)]
    """Columns of the grid: by how much each, l_infinity, in 255ths."""


class Threshold(Section):
    """Certified accuracy that is asked for at a joint radius."""

    radius: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    at_least: Annotated[float, Field(ge=0, le=1)]


class CountThreshold(Section):
    """Certified accuracy that is asked for where so many images change at will (bounded-influence heads)."""

    images: Annotated[int, Field(ge=1, le=MOST)]
    at_least: Annotated[float, Field(ge=0, le=1)]


class GateParams(Section):
    """What a version must show before it may be promoted."""

    accuracy: Annotated[float, Field(ge=0, le=1)]
    """Accuracy of the vote on the clean test set, at least."""
    certified_accuracy: list[Threshold]
    rewritten: list[CountThreshold] = Field(default=[])
    """Where images are rewritten at will under their own labels."""
    relabelled: list[CountThreshold] = Field(default=[])
    """Where they are rewritten and relabelled at will."""
    entropy: Literal["os", "any"]
    """`os`: the entropy came from the operating system. `any`: fixed entropy passes too (for tests)."""
    replay: Annotated[int, Field(ge=0, le=MOST)]
    """Draws that the audit trains again, chosen at random."""
    approval: Literal["review", "automatic"]
    """Who makes a version that passes `certified`: a person (`flows.review`; it is a `candidate` until then), or the
    gate itself."""
