"""What planning and workers make once and use again: from equal inputs alone."""

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from models_recipes import QUICK
from registered import ROOT, make_ensemble, make_sets, set_params
from tiny import save_tiny_denoiser

from cleanlabel.flows.ensemble import planning
from cleanlabel.flows.ensemble.instrument import planned_instrument, recall_instrument
from cleanlabel.flows.ensemble.record import network_file
from cleanlabel.flows.environment import state
from cleanlabel.models.classifiers import build
from cleanlabel.models.extractors import load_extractor
from cleanlabel.models.params import TrainParams
from cleanlabel.models.plan import recipe_of
from cleanlabel.models.training import architecture_of, train
from cleanlabel.models.twins import load_twin, save_twin
from cleanlabel.models.weights import TrainedOn, read_trained_on, save_weights, trained_on
from cleanlabel.sanitize.denoiser_files import digest_of
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.files import file_digest
from cleanlabel.sanitize.imageset import load, save_npz
from cleanlabel.sanitize.ingest import digits
from cleanlabel.sanitize.paths import DENOISER, SETS

EXTRACTOR, OTHER, TWIN = (Path(f"data/pretrained/{name}.safetensors") for name in ("extractor", "other", "twin"))
RECIPE = QUICK.model_copy(
    update={"mode": "transfer", "head": "bounded-influence", "initial_weights": str(EXTRACTOR), "influence_copies": 2}
)
SIGMA = 0.5


@pytest.fixture
def project(store, denoiser_dir):
    """Digits in three sets, a denoiser, an extractor with a twin, and another extractor: all of a moment's training."""
    found = digits(120, 60, 0, test=20)
    for name, images in found.items():
        save_npz(images, SETS[name])
    shutil.copytree(denoiser_dir, DENOISER)
    shutil.copy(ROOT / "params.yaml", "params.yaml")
    EXTRACTOR.parent.mkdir(parents=True)
    trusted = found["trusted"]
    for seed, path in enumerate((EXTRACTOR, OTHER)):
        network = train(trusted.images, trusted.labels, 10, QUICK, seed)
        save_weights(network, path, architecture_of(QUICK, trusted.image_shape, 10))
    extractor, other = load_extractor(EXTRACTOR), load_extractor(OTHER)
    save_twin(other.network, TWIN, extractor.digest, SIGMA, digest_of(DENOISER), trained_on(trusted))
    return store


def planned(recipe: TrainParams = RECIPE, sigma: float = SIGMA) -> str:
    return planned_instrument(recipe, load(SETS["raw"]), sigma, digest_of(DENOISER))


def pointers() -> dict[Path, int]:
    """What stands for an instrument that was made, and when it was written."""
    return {path: path.stat().st_mtime_ns for path in (state() / "instruments").glob("*.json")}


def trusted_with(change) -> None:
    save_npz(change(load(SETS["trusted"])), SETS["trusted"])


def one_bit(images):
    pixels = images.images.copy()
    pixels[0, 4, 4, 0] ^= 1
    return images.with_images(pixels)


INFLUENCE = {
    "influence_ridge": math.nextafter(0.5, 1),
    "influence_clip": math.nextafter(0.8, 1),
    "influence_threshold": 0.25,
    "influence_sides": "two",
    "influence_copies": 1,
}
CHANGES = {
    "a bit of a trusted image": lambda: trusted_with(one_bit),
    "the order of the trusted images": lambda: trusted_with(lambda images: images.take(np.arange(len(images))[::-1])),
    "fewer trusted images": lambda: trusted_with(lambda images: images.take(np.arange(len(images) - 1))),
    "another denoiser": lambda: save_tiny_denoiser(DENOISER, beta_schedule="squaredcos_cap_v2"),
    "another extractor": lambda: shutil.copy(OTHER, EXTRACTOR),
    "the last bit of sigma": lambda: {"sigma": math.nextafter(SIGMA, 1)},
    "another sigma": lambda: {"sigma": 0.25},
    "no noise": lambda: {"sigma": 0.0},
    "a twin": lambda: {"recipe": RECIPE.model_copy(update={"twin": str(TWIN)})},
    **{
        name: lambda name=name, value=value: {"recipe": RECIPE.model_copy(update={name: value})}
        for name, value in INFLUENCE.items()
    },
}


def test_the_changes_are_of_everything_a_recipe_says_of_influences():
    named = {name for name in TrainParams.model_fields if "influence_" in name}
    assert named == INFLUENCE.keys() | {"influence_form"}  # the cosine form is fitted to nothing, and not looked up


def test_an_instrument_is_used_again_until_anything_changes_that_it_is_made_from(project):
    before, seen = planned(), 1
    for name, change in CHANGES.items():
        kept = pointers()
        assert len(kept) == seen, name
        saved = {path: path.read_bytes() for path in Path("data").rglob("*") if path.is_file()}
        changed = change()
        given = changed if isinstance(changed, dict) else {}
        if name == "another extractor":
            with pytest.raises(InputError, match="is the twin of another extractor; make one"):
                planned(RECIPE.model_copy(update={"twin": str(TWIN)}))
        found = planned(**given)
        assert len(pointers()) == seen + 1, name
        (state() / "instruments").rename("aside")
        assert planned(**given) == found, name  # what is found beside others is what is made where there are none
        shutil.rmtree(state() / "instruments")
        Path("aside").rename(state() / "instruments")
        after = pointers()
        assert planned(**given) == found
        assert pointers() == after
        for path, content in saved.items():
            path.write_bytes(content)
        assert planned() == before
        assert pointers() == after
        assert kept.items() < after.items()
        seen += 1


def test_an_instrument_is_not_that_of_other_code(project, code):
    planned()
    planned()
    for seen, module in enumerate(("models/public_part.py", "models/instrument.py", "flows/ensemble/instrument.py")):
        assert len(pointers()) == seen + 1
        (code / module).write_bytes((code / module).read_bytes() + b"\n")
        planned()
    assert len(pointers()) == 4
    (code / "models" / "votes.py").write_bytes(b"")
    planned()
    assert len(pointers()) == 4


def test_an_instrument_whose_file_is_damaged_or_gone_is_made_again(project):
    digest = planned()
    path = state() / "instruments" / f"{digest}.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-8] + b"another.")
    assert planned() == digest
    assert path.read_bytes() == content
    path.unlink()
    assert planned() == digest
    assert recall_instrument(digest).digest == digest


def test_the_door_compares_trusted_images_again_though_their_instrument_is_kept(project):
    set_params(
        sanitize={"sigma": SIGMA, "denoise": False},
        train={**RECIPE.model_dump(), "initial_provenance": "disjoint", "initial_origin": "ours"},
    )
    plan = planning.make_plan()
    kept = pointers()
    raw, trusted = load(SETS["raw"]), load(SETS["trusted"])
    pixels = raw.images.copy()
    pixels[:3] = trusted.images[:3]
    save_npz(raw.with_images(pixels), SETS["raw"])
    with pytest.raises(InputError, match=r"3 of 60 raw images are among those that the head is fitted to"):
        planning.make_plan()
    save_npz(raw, SETS["raw"])
    assert planning.make_plan() == plan
    assert pointers() == kept


def test_a_twin_is_taken_for_its_own_extractor_noise_and_denoiser_alone(project):
    extractor, denoiser = load_extractor(EXTRACTOR), digest_of(DENOISER)
    assert load_twin(extractor, TWIN).digest == file_digest(TWIN)
    planning.check_twin(TWIN, SIGMA, denoiser)
    with pytest.raises(InputError, match="is the twin of another extractor"):
        load_twin(load_extractor(OTHER), TWIN)
    for sigma in (math.nextafter(SIGMA, 1), 0.0):
        with pytest.raises(InputError, match="was distilled at sigma 0.5, and"):
            planning.check_twin(TWIN, sigma, denoiser)
    for other in (None, denoiser[:-1] + "x"):
        with pytest.raises(InputError, match="was distilled with another denoiser"):
            planning.check_twin(TWIN, SIGMA, other)
    save_twin(extractor.network, TWIN, extractor.digest, SIGMA, None, TrainedOn())  # distilled on noise alone
    with pytest.raises(InputError, match="was distilled with another denoiser"):
        planning.check_twin(TWIN, SIGMA, denoiser)
    planning.check_twin(TWIN, SIGMA, None)


def test_the_networks_of_an_ensemble_remember_what_their_first_weights_saw(store):
    make_sets()
    raw, earlier = load(SETS["raw"]), digits(120, 150, 0)["trusted"]
    recipe = QUICK.model_copy(update={"mode": "fine-tune", "initial_weights": str(EXTRACTOR), "epochs": 1})
    architecture = architecture_of(recipe, raw.image_shape, 10)
    save_weights(build(architecture), EXTRACTOR, architecture, trained_on(earlier))
    made = make_ensemble(
        store, recipe=recipe_of(recipe), initial_digest=file_digest(EXTRACTOR), initial_state="disjoint"
    )
    saw = read_trained_on(next(Path(f".mlflow/artifacts/{made.ensemble.run_id}").rglob(network_file(0))))
    assert saw.digest == raw.digest
    assert {row.tobytes() for row in saw.record.hashes} == {
        row.tobytes() for images in (raw, earlier) for row in trained_on(images).record.hashes
    }
