"""The registered model as MLflow loads and serves it: what it refuses, it refuses in one sentence."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow.exceptions import INVALID_PARAMETER_VALUE, MlflowException

from cleanlabel.models.pixels import as_pixels
from cleanlabel.models.smoothed import SmoothedClassifier
from cleanlabel.sanitize.errors import InputError

if TYPE_CHECKING:
    import pandas as pd


class Refused(MlflowException, InputError):
    """Images that the model does not take. MLflow's scoring server answers the sentence with status 400."""

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence, error_code=INVALID_PARAMETER_VALUE)
        self.sentence = sentence

    def serialize_as_json(self) -> str:
        """The server's answer: the sentence alone. The server puts everything it was sent before the message."""
        self.message = self.sentence
        return super().serialize_as_json()


class ServedClassifier(SmoothedClassifier):
    """The smoothed classifier, with refusals that MLflow passes on."""

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> "pd.DataFrame":
        """As `SmoothedClassifier.predict`. Refused (an InputError) where the images are not what the model takes."""
        try:
            pixels = as_pixels(model_input, self.image_shape)
        except InputError as error:
            raise Refused(str(error)) from None
        return super().predict(pixels, params)


def _load_pyfunc(path: str) -> ServedClassifier:
    """Called by MLflow: the model in a registered version's data directory."""
    return ServedClassifier(Path(path))
