"""The registered model as MLflow loads and serves it: what it refuses, it refuses in one sentence.

A registered version brings this module with it, and all that it needs of the package. Importing it sets nothing.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow.exceptions import INVALID_PARAMETER_VALUE, MlflowException

from cleanlabel.models.pixels import as_pixels
from cleanlabel.models.smoothed import DESCRIPTION, SmoothedClassifier
from cleanlabel.sanitize.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

ELSEWHERE = "networks.json"
"""In a logged model's data: where its networks are, {"networks": URI}. A registered version has them in itself."""


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
    """Called by MLflow: the model in a registered version's data directory, or in a logged model's.

    InputError if the networks are not the recorded ones.
    """
    directory = Path(path)
    if not (directory / ELSEWHERE).is_file():
        return ServedClassifier(directory)
    from mlflow.artifacts import download_artifacts

    uri = json.loads((directory / ELSEWHERE).read_text())["networks"]
    networks = Path(download_artifacts(uri))
    if (networks / DESCRIPTION).read_bytes() != (directory / DESCRIPTION).read_bytes():
        raise InputError(f"{uri} holds other networks than this model's; load the registered version instead")
    return ServedClassifier(networks)
