"""The registered model as people ask it: through `mlflow.pyfunc`, and through MLflow's scoring server."""

import base64
import io
import json
import shutil
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import numpy as np
import pandas as pd
import pytest
import requests
import torch
from fastapi.testclient import TestClient
from mlflow.models import Model
from mlflow.pyfunc import PyFuncModel, scoring_server
from PIL import Image
from registered import M
from services import Service, answers_http, free_port

from cleanlabel.flows.store.registry import SMOOTHED
from cleanlabel.models.smoothed import SmoothedClassifier
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.imageset import load
from cleanlabel.served import Refused

TAKES = "this model takes images of shape (n, 8, 8) or (n, 8, 8, 1), whole numbers 0..255 (uint8)"


@pytest.fixture(scope="module")
def packaged(snapshot: Path) -> Path:
    """The MLflow model of a registered version."""
    found = snapshot.glob(".mlflow/artifacts/*/artifacts/ensemble")
    return next(path for path in found if len(list(path.rglob("draw-*.safetensors"))) == M)


@pytest.fixture(scope="module")
def model(packaged: Path) -> PyFuncModel:
    return mlflow.pyfunc.load_model(str(packaged))


@pytest.fixture(scope="module")
def images(snapshot: Path) -> np.ndarray:
    """Real digits, uint8 (8, 8, 8)."""
    return load(snapshot / "data" / "test.npz").images[:8, ..., 0]


@pytest.fixture(scope="module")
def expected(packaged: Path, images: np.ndarray) -> list[dict[str, Any]]:
    """What the ensemble certifies about them, asked without MLflow."""
    return SmoothedClassifier(packaged / "data" / "networks").predict(images).to_dict("records")


@pytest.fixture(scope="module")
def server(model: PyFuncModel) -> Iterator[TestClient]:
    """MLflow's scoring server, in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("_MLFLOW_IS_IN_SERVING_ENVIRONMENT", "true")  # it would set it for ever
        yield TestClient(scoring_server.init(model))


def test_every_form_of_the_same_images_gets_the_same_answer(model, images, expected):
    for form in (
        images,
        images[..., None],
        images.astype(np.int64),
        images.astype(float),
        list(images),
        images.tolist(),
        torch.from_numpy(images),
        [Image.fromarray(image) for image in images],
    ):
        assert model.predict(form).to_dict("records") == expected


def test_no_images_of_the_right_shape_get_no_answers(model, images):
    assert model.predict(images[:0]).empty


@pytest.mark.parametrize(
    ("form", "what"),
    [
        (lambda x: x / 255, "not a whole number"),
        (lambda x: torch.from_numpy(x) / 255, "not a whole number"),
        (lambda x: x > 99, "the images are bool"),
        (lambda x: x.astype(str), "the images are <U3"),
        (lambda x: x.astype(object), "the images are object"),
        (lambda x: pd.DataFrame(x.reshape(8, 64)), "the images are a DataFrame"),
        (lambda x: {"images": x}, "the images are a dict"),
        (lambda x: x[0], "has no batch axis"),
        (lambda x: x[:, None], "channels first"),
        (lambda x: x[:, :7], r"the shape \(8, 7, 8\)"),
        (lambda x: [Image.fromarray(x[0]).convert("RGBA")], "the mode RGBA"),
        (lambda x: [], "there are no images"),
    ],
)
def test_a_refusal_is_one_sentence_and_not_mlflows_page(model, images, form, what):
    with pytest.raises(InputError, match=what) as refusal:
        model.predict(form(images))
    assert TAKES in str(refusal.value)
    assert len(str(refusal.value)) < 250
    assert isinstance(refusal.value, Refused)


def test_the_models_page_shows_a_signature_and_an_example_that_works(packaged, model, server):
    signature = model.metadata.signature
    assert signature.inputs.to_dict() == [
        {"type": "tensor", "tensor-spec": {"dtype": "uint8", "shape": (-1, 8, 8)}},
    ]
    assert signature.outputs.input_names() == ["label", "class", "radius", "votes"]
    assert len(model.predict(model.input_example)) == 1
    example = (packaged / "serving_input_example.json").read_text()
    assert server.post("/invocations", content=example, headers={"content-type": "application/json"}).status_code == 200


def test_the_server_answers_what_the_ensemble_certifies(server, images, expected):
    for numbers in (images.tolist(), images[..., None].tolist(), images.astype(float).tolist()):
        answer = server.post("/invocations", json={"inputs": numbers})
        assert (answer.status_code, answer.json()) == (200, {"predictions": expected})


def png(image: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def with_pixel(images: np.ndarray, value: object) -> list:
    numbers = images[:2].tolist()
    numbers[1][4][4] = value
    return numbers


@pytest.mark.parametrize(
    ("inputs", "what"),
    [
        (lambda x: (x / 255).tolist(), "which is not a whole number"),
        (lambda x: (x > 99).astype(int).tolist(), "the largest pixel is 1, so the images may be in [0,1]"),
        (lambda x: with_pixel(x, 12.7), "the images hold 12.7, which is not a whole number"),
        (lambda x: with_pixel(x, 256), "the images hold 256, which is outside 0..255"),
        (lambda x: with_pixel(x, -1), "the images hold -1, which is outside 0..255"),
        (lambda x: with_pixel(x, float("nan")), "the images hold NaN or infinity"),
        (lambda x: with_pixel(x, None), "the images hold null"),
        (lambda x: with_pixel(x, True), "the images hold true or false"),
        (lambda x: with_pixel(x, "12"), "the images hold text"),
        (lambda x: [x[0].tolist(), x[1, :5].tolist()], "the images are lists of different lengths"),
        (lambda x: x[0].tolist(), "one image of shape (8, 8) has no batch axis"),
        (lambda x: x[:, None].tolist(), "the images have the shape (8, 1, 8, 8), channels first"),
        (lambda x: x[:, :7].tolist(), "the images have the shape (8, 7, 8)"),
        (lambda x: [], "there are no images"),
        (lambda x: None, "the images are a NoneType"),
        (lambda x: png(x[0]), "the images are text"),
        (lambda x: [png(image) for image in x], "the images hold text"),
        (lambda x: {"images": x.tolist()}, "the images are a dict"),
    ],
)
def test_the_server_refuses_what_it_would_have_to_guess(server, images, inputs, what):
    body = json.dumps({"inputs": inputs(images)})
    answer = server.post("/invocations", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    message = answer.json()["message"]
    assert what in message
    assert TAKES in message
    assert len(message) < 250
    assert "stack_trace" not in answer.json()


@pytest.mark.parametrize(
    "body",
    [
        lambda x: {"instances": x.tolist()},
        lambda x: {"instances": (x / 255).tolist()},
        lambda x: {"dataframe_split": {"data": (x / 255).reshape(8, 64).tolist()}},
        lambda x: {"dataframe_split": {"columns": ["image"], "data": [[row] for row in x.reshape(8, 64).tolist()]}},
        lambda x: {"dataframe_records": [{"image": row} for row in x.reshape(8, 64).tolist()]},
    ],
)
def test_the_server_takes_images_as_inputs_only_and_says_so(server, images, body):
    answer = server.post("/invocations", json=body(images))
    assert answer.status_code == 400
    assert "must be a dictionary with 'inputs' key" in answer.json()["message"]
    assert len(answer.json()["message"]) < 250


def test_the_server_refuses_csv(server, images):
    table = pd.DataFrame(images.reshape(8, 64) / 255).to_csv(index=False)
    answer = server.post("/invocations", content=table, headers={"content-type": "text/csv"})
    assert answer.status_code == 400
    assert len(answer.json()["message"]) < 300


@pytest.mark.parametrize("loader", ["models.smoothed", "flows.served"])
def test_in_a_checkout_versions_that_bring_no_code_and_name_an_earlier_loader_still_load(
    version, images, expected, loader
):
    path = Path(f".mlflow/artifacts/{version.version.run_id}/artifacts/ensemble/MLmodel")
    described = Model.load(path)
    described.flavors["python_function"]["loader_module"] = loader
    described.flavors["python_function"]["code"] = None
    described.signature._is_signature_from_type_hint = False
    described.save(path)
    shutil.rmtree(path.parent / "code")
    load_it = partial(mlflow.pyfunc.load_model, f"models:/{SMOOTHED}/1")
    with pytest.raises(InputError, match="MLmodel was changed"):
        load_it()
    (path.parent / "seal.json").unlink()
    with pytest.warns(UserWarning, match="is older than the seal: its files were not checked") as warned:
        model = load_it()
    said = [str(warning.message) for warning in warned]
    truncates = [words for words in said if "send only whole numbers 0..255, or serve a newer version" in words]
    assert bool(truncates) == (loader == "models.smoothed")
    assert model.predict(images).to_dict("records") == expected


@pytest.mark.slow  # it starts MLflow's server as a process of its own
def test_mlflow_models_serve_answers_and_refuses_away_from_the_checkout(version, images, expected, packaged, tmp_path):
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--env-manager=local", f"--port={port}"]
    command.append(f"--model-uri=models:/{SMOOTHED}/1")
    served = Service(url, {}, command, {"PYTHONPATH": ""}, tmp_path / "log", answers_http(f"{url}/health"))
    try:
        example = (packaged / "serving_input_example.json").read_text()
        headers = {"content-type": "application/json"}
        assert requests.post(f"{url}/invocations", data=example, headers=headers, timeout=60).status_code == 200
        right = requests.post(f"{url}/invocations", json={"inputs": images.tolist()}, timeout=60)
        assert (right.status_code, right.json()) == (200, {"predictions": expected})
        scaled = requests.post(f"{url}/invocations", json={"inputs": (images / 255).tolist()}, timeout=60)
        assert scaled.status_code == 400
        assert "multiply images in [0,1] by 255" in scaled.json()["message"]
    finally:
        served.kill()
