"""The params of training, smoothing and certifying."""

from typing import Annotated, Literal

from pydantic import Field

from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.params import MOST, Origin, Provenance, Section, Sigma


class TrainParams(Section):
    """The recipe: everything that determines training, except the data and the seeds."""

    architecture: Literal["linear", "mlp", "small-cnn", "resnet18", "vgg11", "mobilenet-v2", "fast-cifar"]
    """The network that is trained; unused in transfer, which trains a head alone."""
    width: Annotated[int, Field(ge=1, le=MOST)]
    """Channels of a convolutional network's first trained layer, the others in proportion (resnet18 allows only 64,
    mobilenet-v2 only multiples of 8); hidden units of the MLP; unused by linear."""
    mode: Literal["scratch", "fine-tune", "transfer"]
    """Train from random weights; train all `initial_weights` further; or freeze them and fit a new linear head."""
    epochs: Annotated[int, Field(ge=1, le=MOST)]
    """Passes over the training images."""
    batch: Annotated[int, Field(ge=2, le=MOST)]
    """Training images per step."""
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    """AdamW's; for fast-cifar, it and the weight decay are per 1,024 examples of SGD (published: 11.5 and .0153)."""
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    """How strongly weights are pulled towards 0."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)]
    """The share of a label that is spread over all classes."""
    shift: Annotated[int, Field(ge=0, le=MOST)]
    """Augmentation: a random shift by up to this many pixels, new at every visit; it comes after the noise."""
    flip: bool
    """Augmentation: every other visit mirrors the image, left to right."""
    normalise: Literal["constants", "copy", "raw"]
    """How pixels are centred and scaled: by public constants, by statistics of the sanitized copy, or by those of the
    raw images, which voids the certificate."""
    warm_epochs: Annotated[int, Field(ge=0, le=MOST)]
    """Epochs of a first training; the second one starts from its weights (the paper's section 4.2)."""
    warm_on: Literal["copy", "raw"]
    """The images of the first training: the draw's sanitized copy, or the raw images, which voids the certificate."""
    initial_weights: str | None
    """Weights that were trained elsewhere: their file (put it under data/pretrained/)."""
    initial_provenance: Provenance | None
    """What the initial weights were trained on; required if there are any."""
    initial_origin: Origin | None = None
    """The origin of the initial weights, in words; required with them. Not in the recipe (`models.plan.recipe_of`)."""
    head: Literal["mean", "direction", "lda", "ridge", "logistic", "bounded-influence"]
    """The head of `transfer`: a linear one (`models.heads`), whose models vote; or sums of bounded influences, which
    are certified directly (`models.influence`)."""
    head_l2: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    """The strength of regularisation for lda, ridge and logistic, in units of the features' mean variance."""
    head_prior: bool
    """Whether ridge and logistic shrink the head towards the one in the initial weights."""
    twin: str | None = None
    """For transfer: the extractor's twin for sanitized images (`flows.distil`). null: use the extractor itself."""
    twin_provenance: Provenance | None = None
    """What a twin was distilled on; required for one whose file has no record of its images, as of `flows.distil`."""
    twin_origin: Origin | None = None
    """The origin of such a twin, in words. Neither is part of the recipe."""
    influence_form: Literal["instrumental", "cosine"] = "instrumental"
    """For a bounded-influence head: fit to trusted images, or use the cosine of features, which needs none."""
    influence_ridge: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.5
    """lambda: how strongly the instrumental form shrinks directions of which the noise leaves little."""
    influence_clip: Annotated[float, Field(gt=0, le=1)] = 0.8
    """The quantile of trusted images' influences at which every influence is clipped."""
    influence_threshold: Annotated[float, Field(ge=0, lt=1)] | None = None
    """The quantile below which an image has no influence; it is below influence_clip. null: no threshold."""
    influence_sides: Literal["one", "two"] = "one"
    """`one`: influences lie in [0, 1]; `two`: in [-1, 1], which carries more information but doubles the effect of a
    rewritten image."""
    influence_copies: Annotated[int, Field(ge=1, le=MOST)] = 1
    """The number of sanitized copies of the trusted images that the instrumental form is fitted to."""

    @property
    def bounded_influence(self) -> bool:
        """Whether a draw's answer is a sum of bounded influences instead of a vote."""
        return self.mode == "transfer" and self.head == "bounded-influence"


def check_recipe(recipe: TrainParams) -> None:
    """InputError names the params of a recipe that cannot be combined."""
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
            f"param train.head='bounded-influence' needs a frozen extractor, and "
            f"train.mode={recipe.mode!r} trains a network; set train.mode: transfer, or another train.head"
        )
    if recipe.head_prior and recipe.head not in ("ridge", "logistic"):
        raise InputError(
            f"param train.head_prior=true is for ridge and logistic heads only, not for train.head={recipe.head!r}; "
            "change one of them"
        )
    if recipe.architecture == "fast-cifar" and (recipe.warm_epochs or recipe.normalise != "constants"):
        raise InputError(
            f"param train.architecture='fast-cifar' whitens by the copy itself: train.warm_epochs={recipe.warm_epochs} "
            f"and train.normalise={recipe.normalise!r} do not apply; set them to 0 and constants"
        )


class SmoothParams(Section):
    """The ensemble."""

    m: Annotated[int, Field(ge=1, le=MOST)]
    """The number of smoothed models."""
    partitions: Annotated[int, Field(ge=1, le=MOST)]
    """k: blocks of the raw set, each with its own m models. They certify how many images may change *and* how far."""
    chosen_on: Literal["trusted", "nothing", "fixed-before", "raw"] | None
    """The images by which sigma, k, the recipe and all other settings were chosen. It has no default: `trusted` images,
    `nothing`, a trusted earlier copy of the raw set (`fixed-before`), or the `raw` set as supplied, which voids the
    certificate. null: not stated, which only the embedded digits allow, whose settings come with this project."""
    ensembles: Annotated[int, Field(ge=1, le=MOST)]
    """How many ensembles on this raw set are planned beforehand: each of them has alpha/ensembles, later ones have
    alpha/2, alpha/4 and so on. The first one fixes the number."""
    selection: Annotated[int, Field(ge=0, le=MOST)]
    """m0: further draws that only choose the class. For certify.method `split`; 0 otherwise."""
    test_sigma: Sigma
    """sigma_x: noise on the test inputs, in [0,1] units, which also certifies against triggers. 0: none."""
    batch_of_draws: Annotated[int, Field(ge=1, le=MOST)]
    """Draws per task, small networks all at once. A lost worker costs at most this many draws."""
    keep_weights: Literal["all", "none"] | Annotated[int, Field(ge=1, le=MOST)]
    """Keep the networks of all draws, of none, or of the first n. The version can be served only with all of them."""
    stopping: Literal["none", "looks", "sequence"]
    """When to stop before m because the gate is decided: never; at planned looks that share alpha; or at any number of
    models, by a confidence sequence."""
    looks: list[Annotated[int, Field(ge=1, le=MOST)]] | None
    """Numbers of models at which the gate is checked: multiples of batch_of_draws, the last is m. null: automatic."""


class CertifyParams(Section):
    """The certificate."""

    alpha: Annotated[float, Field(gt=0, lt=1)]
    """The largest probability with which a certificate may be false."""
    method: Literal["binary", "split", "margin"]
    """How votes become a bound: the class and its bound from the same votes; further votes choose the class; or a bound
    for every class."""
    simultaneous: bool
    """true: alpha holds for all test points at once, not for each."""
    radii: Annotated[list[Annotated[float, Field(ge=0, allow_inf_nan=False)]], Field(min_length=1)]
    """Joint l2 radii at which certified accuracy is summarised."""
    epsilon_255: Annotated[float, Field(gt=0, le=255)]
    """The l_infinity change per image, in 255ths, that is used to express a radius in words."""
    images: Annotated[list[Annotated[int, Field(ge=1, le=MOST)]], Field(min_length=1)]
    """Rows of the grid: how many images change at once."""
    epsilons_255: Annotated[list[Annotated[float, Field(gt=0, le=255)]], Field(min_length=1)]
    """Columns of the grid: the change of each image, l_infinity, in 255ths."""


class Threshold(Section):
    """The required certified accuracy at a joint radius."""

    radius: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    """The joint l2 radius R."""
    at_least: Annotated[float, Field(ge=0, le=1)]
    """The least certified accuracy at R that passes."""


class CountThreshold(Section):
    """The required certified accuracy if `images` images change at will (bounded-influence heads)."""

    images: Annotated[int, Field(ge=1, le=MOST)]
    """The number of images that change."""
    at_least: Annotated[float, Field(ge=0, le=1)]
    """The least certified accuracy against them that passes."""


class GateParams(Section):
    """The conditions for the promotion of a version."""

    accuracy: Annotated[float, Field(ge=0, le=1)]
    """The least accuracy of the vote on the clean test set."""
    certified_accuracy: list[Threshold]
    """Thresholds at joint radii; empty for none."""
    rewritten: list[CountThreshold] = Field(default=[])
    """Thresholds for images rewritten at will under their own labels."""
    relabelled: list[CountThreshold] = Field(default=[])
    """Thresholds for images rewritten and relabelled at will."""
    entropy: Literal["os", "any"]
    """`os`: the entropy came from the operating system. `any`: fixed entropy passes too (for tests)."""
    replay: Annotated[int, Field(ge=0, le=MOST)]
    """The number of draws, chosen at random, that the audit trains again."""
    approval: Literal["review", "automatic"]
    """Who gives a passing version the alias `certified`: a person (`flows.review`; it is `candidate` until then), or
    the gate itself."""
