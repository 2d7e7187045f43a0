"""The params of the sanitize room's stages: read once at the start into frozen typed objects."""

import reprlib
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.noise import check_sigma, draw_entropy

PARAMS = Path("params.yaml")
MOST = 2**31 - 1
"""The largest count; larger ones could overflow later arithmetic."""
Provenance = Literal["disjoint", "fixed-before", "on-raw"]
"""What an external network was trained on: `disjoint`: other data; `fixed-before`: a trusted earlier copy of the raw
set; `on-raw`: the raw set as supplied, which voids the certificate."""


def _one_line(text: str) -> str:
    if not text.strip() or not text.isprintable():
        raise ValueError("give one line of text")
    return text.strip()


Origin = Annotated[str, Field(max_length=200), AfterValidator(_one_line)]
"""The origin of an external network, in words: its author, and its training data."""

Sigma = Annotated[float, Field(ge=0, allow_inf_nan=False), AfterValidator(check_sigma)]
"""A standard deviation of noise, in [0,1] pixel units; 0: none."""
Noise = Annotated[float, Field(gt=0, allow_inf_nan=False), AfterValidator(check_sigma)]
"""The same, but above 0."""


class Section(BaseModel):
    """A section of params.yaml: frozen, without coercion of types, and without unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class IngestParams(Section):
    """Where the image sets come from."""

    source: Literal["digits", "incoming", "cifar10", "cifar100", "fashion-mnist", "mnist", "svhn"]
    """`digits`: scikit-learn's 1,797 images. `incoming`: data/incoming/{raw,test[,trusted]}, folders or .npz. A
    published set: the files that torchvision downloads, under data/incoming/."""
    seed: Annotated[int, Field(ge=0, le=MOST)]
    """Shuffles digits and published sets before they are split."""
    trusted: Annotated[int, Field(ge=0, le=MOST)]
    """The number of their images reserved for the denoiser."""
    raw: Annotated[int, Field(ge=1, le=MOST)]
    """The number of their images that play the untrusted training set."""
    test: Annotated[int, Field(ge=0, le=MOST)]
    """The number of test images; 0: all remaining ones (digits), or the whole test split."""
    trusted_provenance: Provenance | None = None
    """What the trusted images are, if the raw set has copies of some: a trusted earlier copy (`fixed-before`; published
    sets have near copies within themselves), or the raw set as supplied (`on-raw`). null: they must be apart."""
    side: Annotated[int, Field(ge=1, le=MOST)] | None
    """For `incoming`: first resize images of any size to side x side. null: they have one size."""


class DenoiserParams(Section):
    """The one-step denoiser: trained on the trusted split, or an external one."""

    source: str
    """`train`, or a diffusers directory (put it under data/pretrained/), or a hub id such as google/ddpm-cifar10-32."""
    revision: str | None
    """The commit of a hub id; pin it."""
    provenance: Provenance | None
    """What the denoiser was trained on. Required for an external one; null for one trained here, which is disjoint."""
    origin: Origin | None
    """The origin of an external denoiser; required with its provenance."""
    channels: tuple[Annotated[int, Field(ge=8, le=MOST, multiple_of=8)], ...]
    """Widths of the UNet trained here, one per resolution."""
    steps: Annotated[int, Field(ge=1, le=MOST)] | None
    """Training steps; null: a number that suits the size of the images (`sanitize.pretrain.steps_for`)."""
    batch: Annotated[int, Field(ge=1, le=MOST)]
    """Images per training step."""
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    """AdamW's largest learning rate; it rises to it and falls again."""
    seed: Annotated[int, Field(ge=0, le=MOST)]
    """Of the first weights, the order of images, and the noise of the training."""
    schedule: Literal["linear", "cosine"] = "linear"
    """The noise levels of the training's timesteps: as in DDPM, or as in improved DDPM."""
    prediction: Literal["epsilon", "v_prediction"] = "epsilon"
    """What the network predicts: the noise, or the velocity (Salimans & Ho 2022)."""
    held_out: Annotated[int, Field(ge=0, le=MOST)] = 0
    """Trusted images that are not trained on. Ten times during the training, their PSNR is shown for several sigmas."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of the training; bfloat16 only where the machine has instructions for it."""
    int8: Noise | None = None
    """The sigma at which the finished network runs in 8-bit integers on CPUs, which is `sanitize.sigma`. Its scales are
    set on trusted images. It needs the extra `cpu` (OpenVINO, NNCF)."""

    @field_validator("channels", mode="before")
    @classmethod
    def _list_to_tuple(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value


class SanitizeParams(Section):
    """The noise, and whether a denoiser removes it."""

    sigma: Sigma
    """Standard deviation of the noise, in [0,1] pixel units. 0 only if train.head is bounded-influence, which then
    certifies counts of images but no radius."""
    denoise: bool
    """false: the noise-only baseline (RAB's way)."""
    entropy: str
    """`os`: 256 new bits from the operating system. `fixed:HEX`: for tests; no certificate made with it passes."""

    @field_validator("entropy")
    @classmethod
    def _known_entropy(cls, value: str) -> str:
        draw_entropy(value)
        return value


SectionT = TypeVar("SectionT", bound=Section)


def read_params(name: str, schema: type[SectionT], path: Path = PARAMS) -> SectionT:
    """Section `name` of params.yaml as a `schema`. InputError names the unknown key or the bad value.

    It reads YAML 1.2, like DVC, so that the code sees what DVC hashes.
    """
    content = _read_yaml(path)
    if not isinstance(content, dict) or not isinstance(content.get(name), dict):
        raise InputError(f"{path} has no section {name!r}")
    try:
        return schema.model_validate(content[name])
    except ValidationError as error:
        sentences = "; ".join(_sentence(name, schema, e) for e in error.errors())
        raise InputError(" ".join(sentences.split())) from error


def _read_yaml(path: Path) -> Any:
    """The content of a YAML file. InputError if it cannot be read as text, or as one YAML document."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist; run from the project's root") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); give a readable YAML file") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise InputError(
            f"{path} is not UTF-8: line {line} has the byte 0x{error.object[error.start]:02x}; save it as UTF-8"
        ) from error
    try:
        return YAML(typ="safe", pure=True).load(text)
    except YAMLError as error:
        raise InputError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        # For some texts (an invalid date, 10,000 open brackets) the parser raises one of Python's own errors.
        raise InputError(f"{path} is not valid YAML: {' '.join(str(error).split())}; correct it") from error


def reason(error: Any) -> str:
    """The error that pydantic found, as the end of a sentence."""
    message = error["msg"].removeprefix("Value error, ")
    return f"{message[0].lower()}{message[1:]}"


def _sentence(section: str, schema: type[Section], error: Any) -> str:
    key = ".".join([section, *map(str, error["loc"])])
    if error["type"] == "extra_forbidden":
        return f"unknown param {key}; {section} has {', '.join(schema.model_fields)}"
    if error["type"] == "missing":
        return f"param {key} is missing from {PARAMS}"
    return f"param {key}={_shown(error['input'])}: {reason(error)}"


def _shown(value: Any) -> str:
    """A value in one short line: a few YAML anchors can expand to a list of billions."""
    brief = reprlib.Repr()
    brief.maxlevel, brief.maxstring, brief.maxother = 2, 80, 80
    try:
        return brief.repr(value)
    except ValueError:  # more digits than Python writes out
        return "(a number of thousands of digits)"
