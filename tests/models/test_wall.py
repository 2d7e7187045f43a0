"""Rule 1, the wall: nothing but noised images reaches a model or a vote.

Two raw sets whose *noised* images are equal to the bit are put through the whole draw: the noise absorbs their
difference. What is computed from noised images alone is equal to the bit too; anything taken from the raw images (a
mean, a whitening, features, an order) shows. Every architecture, mode and head that `models.params` knows is run.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cache
from itertools import product
from pathlib import Path
from tempfile import gettempdir
from typing import Any, Literal, get_args, get_origin

import numpy as np
import pytest
import torch
from filled import filled
from models_recipes import QUICK
from noise_source import absorb
from tiny import FIXED, save_tiny_denoiser

from cleanlabel.models.classifiers import LEAST_SIDE, PUBLISHED, Architecture, features_of
from cleanlabel.models.draw import Smoothed, make_batch, make_draw
from cleanlabel.models.extractors import Extractor
from cleanlabel.models.instrument import cosine, make_instrument
from cleanlabel.models.materials import Block, Materials
from cleanlabel.models.params import TrainParams, check_recipe
from cleanlabel.models.public_part import trusted_features
from cleanlabel.models.start import Start
from cleanlabel.models.training import architecture_of, initialised
from cleanlabel.sanitize.copies import make_copy
from cleanlabel.sanitize.denoiser import Denoiser, load_denoiser
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.imageset import ImageSet, load, save_npz
from cleanlabel.sanitize.sources import open_source

IMAGES, CLASSES = 16, 2
SIGMA, TEST_SIGMA = 0.5, 0.25
WIDTH = {"resnet18": 64}
"""The least width of an architecture; 8 where nothing stands here."""
RAW = "raw"
"""The value of `normalise` and `warm_on` that voids the certificate."""


def choices(field: str) -> tuple[Any, ...]:
    """Every value that the schema of the recipe knows for a field."""
    kind = TrainParams.model_fields[field].annotation
    return (False, True) if kind is bool else get_args(kind)


@dataclass(frozen=True)
class Way:
    """How draws are made: a batch of them or one alone, and what else the plan asks for."""

    batch: bool
    denoise: bool
    test_sigma: float = 0.0
    partitions: int = 1
    scratch: bool = False

    def __str__(self) -> str:
        parts = ("batch" if self.batch else "single", "denoised" if self.denoise else "noise-only")
        more = [*(["test-noise"] if self.test_sigma else []), *(["on-disk"] if self.scratch else [])]
        return "-".join((*parts, *more, f"{self.partitions}-blocks"))


SINGLE, BATCH = Way(batch=False, denoise=True), Way(batch=True, denoise=False)
WAYS = [Way(*rest) for rest in product((False, True), (False, True), (0.0, TEST_SIGMA), (1, 2))]


ON_DISK = [Way(batch=True, denoise=denoise, partitions=k, scratch=True) for denoise in (False, True) for k in (1, 2)]


def recipes() -> Iterator[TrainParams]:
    """Every recipe that goes together: trained networks of every kind, then heads of every kind."""
    for name, mode, normalise, warm in product(choices("architecture"), choices("mode"), choices("normalise"), (0, 1)):
        yield recipe(architecture=name, mode=mode, normalise=normalise, warm_epochs=warm)
    for head, prior in product(choices("head"), choices("head_prior")):
        yield recipe(architecture="small-cnn", mode="transfer", head=head, head_prior=prior)
    for form, sides in product(choices("influence_form"), choices("influence_sides")):
        own = {"head": "bounded-influence", "influence_form": form, "influence_sides": sides}
        yield recipe(architecture="small-cnn", mode="transfer", **own)
    for head in ("ridge", "bounded-influence"):
        yield recipe(architecture="small-cnn", mode="transfer", head=head, twin="twin.safetensors")


def recipe(**changes: Any) -> TrainParams:
    """A recipe that trains in a blink, with augmentation and smoothing where the network is not stacked."""
    name = changes["architecture"]
    plain = {"width": WIDTH.get(name, 8), "epochs": 1, "label_smoothing": 0.1, "head": "ridge"}
    if name in PUBLISHED:
        plain["batch"] = IMAGES
    if name != "linear":
        plain |= {"shift": 1, "flip": True}
    if changes.get("mode", "scratch") != "scratch":
        plain["initial_weights"] = "elsewhere.safetensors"
    return QUICK.model_copy(update=plain | changes)


def goes_together(one: TrainParams) -> bool:
    try:
        check_recipe(one)
    except InputError:
        return False
    return True


def name_of(one: TrainParams) -> str:
    words = [one.architecture, one.mode, one.normalise, *(["warm"] if one.warm_epochs else [])]
    words += ["twin"] if one.twin else []
    if one.bounded_influence:
        return "-".join((*words, one.head, one.influence_form, one.influence_sides))
    return "-".join(words + ([one.head, *(["prior"] if one.head_prior else [])] if one.mode == "transfer" else []))


ALLOWED = list({name_of(one): one for one in recipes() if goes_together(one)}.values())
SOUND = [one for one in ALLOWED if RAW not in (one.normalise, one.warm_on)]
WHOLE = [
    (one, way)
    for i, one in enumerate(SOUND)
    for way in ((SINGLE, BATCH) if one.architecture not in PUBLISHED else ((SINGLE, BATCH)[i % 2],))
]
"""Every sound recipe in both ways; in turns, of the published networks, which take most of the time."""
STACKED = recipe(architecture="mlp", shift=0, flip=False)
BY_ONE = recipe(architecture="small-cnn", mode="fine-tune", normalise="copy", warm_epochs=1)
MOVED = recipe(architecture="small-cnn", warm_epochs=1)
WHITENED = recipe(architecture="fast-cifar")
HEAD = recipe(architecture="small-cnn", mode="transfer")


def shape_of(one: TrainParams) -> tuple[int, int, int]:
    """The smallest images that the network and the denoiser take."""
    side = -(-max(8, LEAST_SIDE.get(one.architecture, 8)) // 4) * 4
    return side, side, 1


@cache
def raw_sets(shape: tuple[int, int, int]) -> tuple[ImageSet, ImageSet]:
    """Two sets of the same names and labels that have hardly a pixel statistic in common."""
    generator = np.random.default_rng(1)
    even = generator.integers(0, 256, (IMAGES, *shape))
    dark = generator.integers(0, 256, (IMAGES, *shape)) * np.linspace(0.02, 0.4, shape[1])[:, None]
    ids = tuple(f"image-{i:02d}" for i in range(IMAGES))
    labels = np.arange(IMAGES) % CLASSES
    one, other = (ImageSet(images.astype(np.uint8), labels, ids, ("a", "b")) for images in (even, dark))
    return one, other


@cache
def asked_about(shape: tuple[int, int, int]) -> ImageSet:
    images = np.random.default_rng(2).integers(0, 256, (6, *shape), dtype=np.uint8)
    return ImageSet(images, np.arange(6) % CLASSES, tuple(f"test-{i}" for i in range(6)), ("a", "b"))


@cache
def trusted(shape: tuple[int, int, int]) -> ImageSet:
    images = np.random.default_rng(3).integers(0, 256, (20, *shape), dtype=np.uint8)
    return ImageSet(images, np.arange(20) % CLASSES, tuple(f"trusted-{i}" for i in range(20)), ("a", "b"))


@pytest.fixture(scope="module")
def denoiser_of(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The denoiser for images of a shape."""

    @cache
    def of(shape: tuple[int, int, int]) -> Denoiser:
        return load_denoiser(save_tiny_denoiser(tmp_path_factory.mktemp("denoiser"), shape[0], shape[2]))

    return of


@cache
def from_elsewhere(architecture: Architecture) -> torch.nn.Sequential:
    return initialised(architecture, 1, None).eval().requires_grad_(requires_grad=False)


def materials(raw: ImageSet, one: TrainParams, way: Way, denoiser: Denoiser | None) -> Materials:
    elsewhere = from_elsewhere(architecture_of(one, raw.image_shape, CLASSES)) if one.mode != "scratch" else None
    extractor = None
    if one.mode == "transfer":
        extractor = Extractor(features_of(elsewhere), elsewhere[-1], raw.image_shape, "elsewhere")
    instrument = twin = None
    if one.twin:
        other = initialised(architecture_of(one, raw.image_shape, CLASSES), 2, None).eval()
        twin = Extractor(features_of(other.requires_grad_(requires_grad=False)), other[-1], raw.image_shape, "twin")
    if one.bounded_influence and extractor:
        public = trusted(raw.image_shape)
        pair = trusted_features(extractor, public, SIGMA, denoiser, twin=twin)
        threshold = 0.5 if one.influence_sides == "one" else None
        fitted = make_instrument(*pair, sides=one.influence_sides, threshold=threshold)
        instrument = fitted if one.influence_form == "instrumental" else cosine(one.influence_sides)
    return Materials(
        raw,
        asked_about(raw.image_shape),
        SIGMA,
        denoiser,
        one,
        2,
        way.test_sigma,
        Start(elsewhere.state_dict() if one.mode == "fine-tune" else None, extractor, twin, instrument),
        partitions=way.partitions,
        scratch=Path(gettempdir()) if way.scratch else None,
    )


def made(raw: ImageSet, like: ImageSet, one: TrainParams, way: Way, denoiser_of: Any) -> list[Smoothed]:
    """The draws of `raw`, with noise that makes its noised images those of `like`."""
    ours = materials(raw, one, way, denoiser_of(raw.image_shape) if way.denoise else None)
    difference = like.images.astype(np.int64) - raw.images
    with pytest.MonkeyPatch.context() as patch:
        absorb(patch, dict(zip(raw.ids, difference, strict=True)))
        if not way.batch:
            return [make_draw(ours, FIXED, 0)]
        draws = range(2) if ours.stacked(2) else range(1)
        return list(make_batch(ours, FIXED, draws))


def both(one: TrainParams, way: Way, denoiser_of: Any) -> tuple[list[Smoothed], list[Smoothed]]:
    """The draws of two raw sets that share their noised images."""
    raw, other = raw_sets(shape_of(one))
    return made(raw, raw, one, way, denoiser_of), made(other, raw, one, way, denoiser_of)


def bits(draws: list[Smoothed]) -> list[tuple[Any, ...]]:
    """Weights, votes and the copy's digest, to the bit."""
    return [
        (
            {name: tensor.numpy().tobytes() for name, tensor in draw.model.state_dict().items()},
            draw.votes.tolist(),
            draw.copy_sha256,
        )
        for draw in draws
    ]


@pytest.mark.parametrize(("one", "way"), WHOLE, ids=lambda part: name_of(part) if part in SOUND else str(part))
def test_raw_sets_with_the_same_noised_images_give_the_same_models_and_votes(one, way, denoiser_of):
    ours, others = both(one, way, denoiser_of)
    assert bits(ours) == bits(others)


@pytest.mark.parametrize("way", [way for way in WAYS if way not in (SINGLE, BATCH)], ids=str)
@pytest.mark.parametrize("one", [STACKED, BY_ONE, WHITENED, HEAD], ids=name_of)
def test_in_every_way_of_making_draws(one, way, denoiser_of):
    ours, others = both(one, way, denoiser_of)
    assert bits(ours) == bits(others)


@pytest.mark.parametrize("way", ON_DISK, ids=str)
@pytest.mark.parametrize("one", [MOVED, WHITENED, HEAD], ids=name_of)
def test_with_copies_on_a_scratch_disk(one, way, denoiser_of):
    ours, others = both(one, way, denoiser_of)
    assert bits(ours) == bits(others)


@pytest.mark.parametrize("way", [SINGLE, BATCH], ids=str)
@pytest.mark.parametrize("change", [{"normalise": RAW}, {"warm_epochs": 1, "warm_on": RAW}], ids=str)
def test_the_wall_finds_recipes_that_show_raw_images_to_training(change, way, denoiser_of):
    ours, others = both(recipe(architecture="small-cnn", **change), way, denoiser_of)
    for own, other in zip(filled(bits(ours)), bits(others), strict=True):
        assert own[2] == other[2]  # the copy is the same ..
        assert own[0] != other[0]  # .. and the weights are not


def test_without_noise_that_absorbs_it_the_difference_shows(denoiser_of):
    raw, other = raw_sets(shape_of(STACKED))
    ours, others = (bits(made(one, one, STACKED, SINGLE, denoiser_of)) for one in (raw, other))
    assert ours[0][0] != others[0][0]
    assert ours[0][2] != others[0][2]


def test_a_copy_that_is_written_is_made_of_noised_images_alone(denoiser_of, tmp_path):
    raw, other = raw_sets((8, 8, 1))
    written = []
    for name, own in (("one", raw), ("other", other)):
        save_npz(own, tmp_path / f"{name}.npz")
        difference = raw.images.astype(np.int64) - own.images
        with pytest.MonkeyPatch.context() as patch:
            absorb(patch, dict(zip(own.ids, difference, strict=True)))
            source, output = open_source(tmp_path / f"{name}.npz"), tmp_path / f"{name}-copy.npz"
            make_copy(source, output, SIGMA, denoiser_of((8, 8, 1)), "fixed:07", 0)
        written.append(load(output).images)
    np.testing.assert_array_equal(*written)


def test_every_choice_of_the_recipe_passes_the_wall():
    chosen = [field for field in TrainParams.model_fields if not field.startswith("initial_")]
    chosen = [field for field in chosen if len(choices(field)) > 1 and is_a_choice(field)]
    for field in filled(chosen):
        run = {getattr(one, field) for one in (*SOUND, STACKED)}
        unsound = {RAW} if field in ("normalise", "warm_on") else set()
        assert run | unsound == {*choices(field)}, f"the wall does not run train.{field} in every way it has"


def is_a_choice(field: str) -> bool:
    kind = TrainParams.model_fields[field].annotation
    return kind is bool or get_origin(kind) is Literal


def test_everything_that_a_draw_is_made_from_passes_the_wall():
    """A new field of these is a new way for something to reach training: run it in a `Way`, then name it here."""
    known = {"raw", "test", "sigma", "denoiser", "recipe", "draws", "test_sigma", "start", "device", "partitions"}
    known |= {"scratch"}
    assert {field.name for field in fields(Materials)} == known
    assert {field.name for field in fields(Start)} == {"weights", "extractor", "twin", "instrument"}
    assert {field.name for field in fields(Block)} == {"materials", "raw", "number"}
