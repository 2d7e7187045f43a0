"""params.yaml: typed, frozen, and every bad value has its sentence."""

from pathlib import Path

import pydantic
import pytest

from models.params import CertifyParams, GateParams, SmoothParams, TrainParams
from sanitize.errors import InputError
from sanitize.params import DenoiserParams, IngestParams, SanitizeParams, read_params

ROOT = Path(__file__).resolve().parents[2]
SECTIONS = {
    "ingest": IngestParams,
    "denoiser": DenoiserParams,
    "sanitize": SanitizeParams,
    "train": TrainParams,
    "smooth": SmoothParams,
    "certify": CertifyParams,
    "gate": GateParams,
}


@pytest.mark.parametrize("name", SECTIONS)
def test_the_projects_own_params_are_valid_and_frozen(name):
    params = read_params(name, SECTIONS[name], ROOT / "params.yaml")
    field = next(iter(SECTIONS[name].model_fields))
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        setattr(params, field, None)


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    return path


GOOD = "sanitize: {sigma: 1.0, denoise: true, entropy: os}"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            GOOD.replace("os}", "os, sigmoid: 3}"),
            "unknown param sanitize.sigmoid; sanitize has sigma, denoise, entropy",
        ),
        (GOOD.replace("1.0", "-1.0"), "param sanitize.sigma=-1.0: input should be greater than 0"),
        (GOOD.replace("1.0", ".nan"), "param sanitize.sigma=nan"),
        (GOOD.replace("1.0", ".inf"), "param sanitize.sigma=inf"),
        (GOOD.replace("1.0", "'1.0'"), "param sanitize.sigma='1.0': input should be a valid number"),
        (GOOD.replace("true", "yes"), "param sanitize.denoise='yes'"),  # YAML 1.2: a word, not a truth value
        (GOOD.replace("os", "lucky"), "param sanitize.entropy='lucky': entropy='lucky' is neither"),
        ("sanitize: {sigma: 1.0, denoise: true}", "param sanitize.entropy is missing"),
        ("sanitize: 3", "no section 'sanitize'"),
        ("", "no section 'sanitize'"),
        ("sanitize: [", "is not valid YAML"),
        (GOOD + "\n" + GOOD, "is not valid YAML"),
    ],
)
def test_a_bad_value_is_named(tmp_path, text, sentence):
    with pytest.raises(InputError) as refused:
        read_params("sanitize", SanitizeParams, write(tmp_path, text))
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)


def test_no_models_are_refused(tmp_path):
    with pytest.raises(InputError, match="param smooth.m=0: input should be greater than or equal to 1"):
        read_params("smooth", SmoothParams, write(tmp_path, "smooth: {m: 0, batch_of_draws: 5}"))


def test_numbers_are_read_as_dvc_reads_them(tmp_path):
    # YAML 1.1 would make a string of 1e-3: DVC would hash one value and the code see another.
    path = write(tmp_path, GOOD.replace("1.0", "1e-3"))
    assert read_params("sanitize", SanitizeParams, path).sigma == 0.001


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match="run from the project's root"):
        read_params("sanitize", SanitizeParams, tmp_path / "params.yaml")
