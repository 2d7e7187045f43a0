"""The params of training, smoothing and certifying."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from sanitize.params import Section


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


class SmoothParams(Section):
    """The ensemble."""

    m: Annotated[int, Field(ge=1)]
    """How many smoothed models."""
    batch_of_draws: Annotated[int, Field(ge=1)]
    """Draws a task trains before it reports."""


class CertifyParams(Section):
    """The certificate."""

    alpha: Annotated[float, Field(gt=0, lt=1)]
    """A certificate is false with at most this probability."""
    method: Literal["binary", "margin"]
    simultaneous: bool
    """true: alpha holds for all test points at once, not for each."""
    radii: list[Annotated[float, Field(ge=0, allow_inf_nan=False)]]
    """Joint l2 radii at which certified accuracy is summarised."""
    epsilon: Annotated[float, Field(gt=0, le=1)]
    """l_infinity change an image, in [0,1] units, by which a radius is put into words."""

    @model_validator(mode="after")
    def _some_radius(self) -> "CertifyParams":
        if not self.radii:
            raise ValueError("radii is empty; name at least one")
        return self
