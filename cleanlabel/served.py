"""The registered model as MLflow loads and serves it. It refuses unsuitable images with a one-sentence message.

A registered version contains this module and all it needs of the package. Importing it changes no settings.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow.exceptions import INVALID_PARAMETER_VALUE, MlflowException

from cleanlabel.loading import ELSEWHERE, check_if_sealed
from cleanlabel.models.pixels import as_pixels
from cleanlabel.models.smoothed import DESCRIPTION, SmoothedClassifier
from cleanlabel.sanitize.errors import InputError

if TYPE_CHECKING:
    import pandas as pd


class Refused(MlflowException, InputError):
    """The model does not take these images. MLflow's scoring server answers with the sentence and status 400."""

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence, error_code=INVALID_PARAMETER_VALUE)
        self.sentence = sentence

    def serialize_as_json(self) -> str:
        """The server's answer: only the sentence. By default the server puts all of its input before the message."""
        self.message = self.sentence
        return super().serialize_as_json()


class ServedClassifier(SmoothedClassifier):
    """The smoothed classifier with refusals that MLflow passes on to the client."""

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> "pd.DataFrame":
        """As `SmoothedClassifier.predict`. Raises Refused (an InputError) if the model does not take the images."""
        try:
            pixels = as_pixels(model_input, self.image_shape)
        except InputError as error:
            raise Refused(str(error)) from None
        return super().predict(pixels, params)


def _load_pyfunc(path: str) -> ServedClassifier:
    """The model in the data directory of a version or a logged model that is older than the seal. MLflow calls this
    if `MLmodel` names this module; newer ones name a copy of `cleanlabel.loading`.

    InputError if the networks are not the recorded ones, or if there is a seal that the files differ from.
    """
    directory = Path(path)
    try:
        check_if_sealed(directory)
    except ValueError as error:
        raise Refused(str(error)) from None
    if not (directory / ELSEWHERE).is_file():
        return ServedClassifier(directory)
    from mlflow.artifacts import download_artifacts

    uri = json.loads((directory / ELSEWHERE).read_text())["networks"]
    networks = Path(download_artifacts(uri))
    if (networks / DESCRIPTION).read_bytes() != (directory / DESCRIPTION).read_bytes():
        raise InputError(f"{uri} holds other networks than this model's; load the registered version instead")
    return ServedClassifier(networks)
