"""params.yaml: typed, frozen, and every bad value has its sentence."""

import random
from pathlib import Path

import pydantic
import pytest

from cleanlabel.models.params import CertifyParams, GateParams, SmoothParams, TrainParams
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.params import DenoiserParams, IngestParams, SanitizeParams, read_params

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
    with pytest.raises(pydantic.ValidationError, match="Instance is frozen"):
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
        (GOOD.replace("1.0", "-1.0"), "param sanitize.sigma=-1.0: input should be greater than or equal to 0"),
        (
            GOOD.replace("1.0", "25"),
            "param sanitize.sigma=25: sigma=25 is above 4, the largest noise accepted in [0,1] pixel units; "
            "is it meant in 0..255 units? Then give 0.098 (25/255)",
        ),
        (
            GOOD.replace("1.0", "1e6"),
            "sigma=1e+06 is above 4, the largest noise accepted in [0,1] pixel units; choose a",
        ),
        (GOOD.replace("1.0", "[" + "9" * 100 + "]"), "param sanitize.sigma=[9"),
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
    # YAML 1.1 would make a string of 1e-2: DVC would hash one value and the code see another.
    path = write(tmp_path, GOOD.replace("1.0", "1e-2"))
    assert read_params("sanitize", SanitizeParams, path).sigma == 0.01


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match="run from the project's root"):
        read_params("sanitize", SanitizeParams, tmp_path / "params.yaml")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"a: 1\nname: \xfcber\n", "is not UTF-8: line 2 has the byte 0xfc; save it as UTF-8"),
        (GOOD.encode("utf-16"), "is not UTF-8: line 1 has the byte 0xff"),
        (b"sanitize:\n\tsigma: 1.0\n", "is not valid YAML"),
        (b"- sanitize\n- train\n", "has no section 'sanitize'"),
        (GOOD.encode() + b"\nday: 2001-99-99\n", "is not valid YAML"),
        (b"[" * 5000, "is not valid YAML"),
        (GOOD.replace("1.0", "9" * 5000).encode(), "is not valid YAML"),
        (b"sanitize: {<<: *nothing}", "is not valid YAML"),
    ],
)
def test_what_is_no_params_file_is_refused_in_a_sentence(tmp_path, content, sentence):
    path = tmp_path / "params.yaml"
    path.write_bytes(content)
    with pytest.raises(InputError) as refused:
        read_params("sanitize", SanitizeParams, path)
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_directory_in_the_place_of_the_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"cannot be read \(Is a directory\)"):
        read_params("sanitize", SanitizeParams, tmp_path)


def test_a_byte_order_mark_and_anchors_are_read_as_yaml_has_them(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text("base: &base {denoise: true, entropy: os}\nsanitize: {<<: *base, sigma: 0.5}", encoding="utf-8-sig")
    assert read_params("sanitize", SanitizeParams, path).sigma == 0.5


def test_a_value_that_stands_for_billions_is_named_in_one_short_line(tmp_path):
    anchors = ["a0: &a0 [1, 1]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    text = "\n".join([*anchors, GOOD.replace("1.0", "*a11")])
    with pytest.raises(InputError, match="param sanitize.sigma=") as refused:
        read_params("sanitize", SanitizeParams, write(tmp_path, text))
    assert len(str(refused.value)) < 400


NOISE = (
    *(b"\xff", b"\x00", b"\t", b"&a ", b"*a", b"<<: *a\n", b"9" * 400, b".nan", b"-.inf", b"1e999", b"0x", b"1:60:60"),
    *(
        b"[",
        b"{",
        b"'",
        b"? ",
        b": ",
        b"- ",
        b"#",
        b"|\n",
        b"---\n",
        b"%YAML 1.1\n---\n",
        b"2001-99-99",
        b"\xef\xbb\xbf",
    ),
    *(
        b"!!python/object:os.system ",
        b"!!int x",
        b"!!float x",
        b"!!binary x",
        b"!!timestamp x",
        b"!!omap [a]",
        b"!!set {a}",
    ),
    *(b'"\\ud800"', b'"\\U00110000"', b"\xe2\x80\xa8", b"~", b"-"),
)


def test_no_text_brings_down_the_reader(tmp_path):
    generator = random.Random(17)
    path = tmp_path / "params.yaml"
    refusals = []
    for _ in range(250):
        content = bytearray(GOOD.replace(", ", ",\n  ").encode())
        for _ in range(generator.randint(1, 3)):
            at = generator.randrange(len(content))
            content[at : at + generator.randint(0, 3)] = generator.choice(NOISE)
        path.write_bytes(content)
        try:
            read_params("sanitize", SanitizeParams, path)
        except InputError as refused:
            refusals.append(str(refused))
    assert len(refusals) > 100
    assert [words for words in refusals if len(words.splitlines()) != 1] == []
