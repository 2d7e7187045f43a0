"""The params of training, smoothing and certifying."""

from typing import Annotated, Literal

from pydantic import Field

from sanitize.params import Provenance, Section


class TrainParams(Section):
    """The recipe: everything that determines training but the data and the seeds."""

    architecture: Literal["small-cnn", "mlp", "linear"]
    width: Annotated[int, Field(ge=1)]
    """Channels of the CNN's first layer; hidden units of the MLP."""
    epochs: Annotated[int, Field(ge=1)]
    batch: Annotated[int, Field(ge=2)]
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    label_smoothing: Annotated[float, Field(ge=0, lt=1)]
    shift: Annotated[int, Field(ge=0)]
    """Augmentation: a random shift by up to so many pixels, new at every visit; it comes after the noise."""
    normalise: Literal["constants", "copy", "raw"]
    """What centres and scales the pixels: public constants; statistics of the sanitized copy; or of the raw images,
    which voids the certificate."""
    warm_epochs: Annotated[int, Field(ge=0)]
    """Epochs on the raw images before those on the copy (the paper's section 4.2). Any at all voids the certificate."""
    initial_weights: str | None
    """Start from a classifier that was trained elsewhere: its file (put it under data/pretrained/)."""
    initial_provenance: Provenance
    """What the initial weights saw."""


class SmoothParams(Section):
    """The ensemble."""

    m: Annotated[int, Field(ge=1)]
    """How many smoothed models."""
    selection: Annotated[int, Field(ge=0)]
    """m0: further draws that only choose the class. For certify.method `split`; 0 otherwise."""
    test_sigma: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    """sigma_x: noise on the test inputs too, in [0,1] units; certifies triggers as well. 0: none."""
    batch_of_draws: Annotated[int, Field(ge=1)]
    """Draws a task trains before it reports."""


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
    images: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)]
    """Rows of the grid: how many images change at once."""
    epsilons_255: Annotated[list[Annotated[float, Field(gt=0, le=255)]], Field(min_length=1)]
    """Columns of the grid: by how much each, l_infinity, in 255ths."""


class Threshold(Section):
    """Certified accuracy that is asked for at a joint radius."""

    radius: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    at_least: Annotated[float, Field(ge=0, le=1)]


class GateParams(Section):
    """What a version must show before it may be promoted."""

    accuracy: Annotated[float, Field(ge=0, le=1)]
    """Accuracy of the vote on the clean test set, at least."""
    certified_accuracy: list[Threshold]
    entropy: Literal["os", "any"]
    """`os`: the entropy came from the operating system. `any`: fixed entropy passes too (for tests)."""
    replay: Annotated[int, Field(ge=0)]
    """Draws that the audit trains again, chosen at random."""
    approval: Literal["review", "automatic"]
    """Who makes a version that passes `certified`: a person (`flows.review`; it is a `candidate` until then), or the
    gate itself."""
