"""What came from elsewhere and saw the raw set is found, by the code that made it, or stated and disclosed."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from models_recipes import PLAN
from registered import make_sets, set_params

from cleanlabel.flows.ensemble.planning import make_plan
from cleanlabel.flows.ensemble.record import network_file
from cleanlabel.flows.train import main as train_stage
from cleanlabel.models.classifiers import Architecture, build
from cleanlabel.models.plan import Plan, parts_of, plan_from_dict
from cleanlabel.models.weights import load_weights, read_trained_on, save_weights
from cleanlabel.sanitize.copies import make_copy
from cleanlabel.sanitize.denoiser_files import IMAGES, PROVENANCE
from cleanlabel.sanitize.door import in_words, notices
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.files import file_digest
from cleanlabel.sanitize.imageset import ImageSet, load, save_npz
from cleanlabel.sanitize.ingest import digits
from cleanlabel.sanitize.overlap import record_of, shared
from cleanlabel.sanitize.paths import CLASSIFIER, DENOISER, SANITIZED, SETS
from cleanlabel.sanitize.pretrain import main as denoiser_stage
from cleanlabel.sanitize.sources import open_source

BROUGHT = Path("data/pretrained/brought")
STATED = {"source": str(BROUGHT), "provenance": "disjoint", "origin": "a colleague's, trained on his own digits"}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with raw, test and trusted digits, and params of a denoiser that trains in a blink."""
    monkeypatch.chdir(tmp_path)
    make_sets()
    save_npz(digits(600, 150, 0)["trusted"], SETS["trusted"])
    set_params(denoiser={"channels": [8], "steps": 2, "batch": 8})
    return tmp_path


def part(plan: Plan, name: str) -> dict:
    """What the door said of the part of this name."""
    return next(one for one in plan.admitted if one["name"] == name)


def known(plan: Plan, name: str) -> tuple:
    """State, origin, and how many raw images it shares."""
    return tuple(part(plan, name)[key] for key in ("state", "origin", "shared"))


def one_bit_changed(images: ImageSet) -> ImageSet:
    """The same set but for one bit of one pixel of each image, and with other ids."""
    changed = images.images.copy()
    changed[:, 4, 4, 0] ^= 1
    return replace(images, images=changed, ids=tuple(f"mine/{i}" for i in range(len(images))))


def bring_denoiser_trained_on(images: ImageSet) -> None:
    """Train a denoiser with the stage on these images, take its files elsewhere, and name them in denoiser.source."""
    own = load(SETS["trusted"])
    save_npz(images, SETS["trusted"])
    denoiser_stage()
    shutil.copytree(DENOISER, BROUGHT)
    save_npz(own, SETS["trusted"])
    set_params(denoiser=STATED)


def bring_weights(**changes: object) -> Path:
    """What the stage `train` makes of this project's raw set, put where weights from elsewhere lie."""
    raw = open_source(SETS["raw"])
    make_copy(raw, SANITIZED, 1.0, None, "os", draw=0)
    set_params(train={"width": 8, "epochs": 1})
    train_stage()
    path = Path("data/pretrained/brought.safetensors")
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(CLASSIFIER, path)
    stated = {"initial_provenance": "disjoint", "initial_origin": "the model zoo"}
    set_params(train={"mode": "fine-tune", "initial_weights": str(path)} | stated | changes)
    set_params(sanitize={"denoise": False})
    return path


def test_a_denoiser_trained_here_is_disjoint_where_no_raw_image_is_among_its_own(project):
    denoiser_stage()
    plan = make_plan()
    assert known(plan, "denoiser") == ("disjoint", None, 0)
    assert (part(plan, "denoiser")["raw"], part(plan, "denoiser")["recorded"]) == (150, 600)
    assert plan.certifiable
    made = (DENOISER / IMAGES).read_bytes()
    denoiser_stage()
    assert (DENOISER / IMAGES).read_bytes() == made


def test_a_trusted_set_that_is_the_raw_set_is_refused_unless_it_is_stated(project):
    save_npz(load(SETS["raw"]), SETS["trusted"])
    denoiser_stage()
    with pytest.raises(InputError, match=r"150 of 150 raw images .* the denoiser was trained on \(150 exact, 0 near"):
        make_plan()
    set_params(denoiser={"provenance": "fixed-before"})
    denoiser_stage()
    plan = make_plan()
    assert (known(plan, "denoiser"), plan.certifiable) == (("fixed-before", None, 150), True)
    set_params(denoiser={"provenance": "on-raw"})
    denoiser_stage()
    assert make_plan().voids == ["the denoiser was trained on the raw set as supplied"]


def test_a_denoiser_trained_on_the_raw_set_and_brought_back_is_refused(project):
    raw = load(SETS["raw"])
    bring_denoiser_trained_on(raw)
    denoiser_stage()
    with pytest.raises(InputError) as refused:
        make_plan()
    said = str(refused.value)
    assert "150 of 150 raw images are among those that the denoiser was trained on (150 exact, 0 near" in said
    assert f"{raw.ids[0]} is {raw.ids[0]} there" in said
    assert "remove them from one side, or state denoiser.provenance: fixed-before" in said


def test_one_changed_bit_in_every_image_hides_nothing(project):
    bring_denoiser_trained_on(one_bit_changed(load(SETS["raw"])))
    denoiser_stage()
    with pytest.raises(InputError, match=r"150 of 150 raw images .* \(0 exact, 150 near copies; .* is mine/0 the"):
        make_plan()


def test_a_single_shared_image_is_enough(project):
    raw, trusted = load(SETS["raw"]), load(SETS["trusted"])
    images = trusted.images.copy()
    images[17] = raw.images[3]
    save_npz(trusted.with_images(images), SETS["trusted"])
    denoiser_stage()
    with pytest.raises(InputError, match=rf"1 of 150 raw .*\(1 exact.*; {raw.ids[3]} is {trusted.ids[17]} there\);"):
        make_plan()


def test_the_record_follows_a_denoiser_named_by_its_unet_directory(project):
    bring_denoiser_trained_on(load(SETS["raw"]))
    set_params(denoiser={"source": f"{BROUGHT}/unet"})
    denoiser_stage()
    with pytest.raises(InputError, match="150 of 150 raw images"):
        make_plan()


def test_a_record_that_was_lost_or_changed_is_asked_for(project):
    bring_denoiser_trained_on(load(SETS["raw"]))
    (BROUGHT / IMAGES).unlink()
    with pytest.raises(InputError, match=r"images\.npz, the record of what the denoiser was trained on, is missing or"):
        denoiser_stage()
    shutil.copy(SETS["test"], BROUGHT / IMAGES)
    with pytest.raises(InputError, match="is missing or was changed; copy it again"):
        denoiser_stage()
    set_params(denoiser={"source": "train"})
    denoiser_stage()
    (DENOISER / IMAGES).unlink()
    with pytest.raises(InputError, match="does not exist; run `dvc repro --force denoiser`"):
        make_plan()
    shutil.copy(SETS["test"], DENOISER / IMAGES)
    with pytest.raises(InputError, match="was changed after it was made"):
        make_plan()


def test_without_images_the_digest_of_the_whole_set_still_tells(project):
    bring_denoiser_trained_on(load(SETS["raw"]))
    content = (BROUGHT / PROVENANCE).read_text()
    (BROUGHT / PROVENANCE).write_text(content.replace(file_digest(BROUGHT / IMAGES), ""))
    (BROUGHT / IMAGES).unlink()
    denoiser_stage()
    with pytest.raises(InputError, match="the denoiser was trained on this raw set"):
        make_plan()


@pytest.mark.parametrize(
    ("left_out", "sentence"),
    [
        ({"provenance": None}, r"and denoiser\.provenance is null: state denoiser\.provenance \(disjoint: trained on"),
        ({"origin": None}, r"and denoiser\.origin is null: state .* denoiser\.origin \(in words: its author"),
        ({"provenance": None, "origin": None}, r"denoiser\.provenance and denoiser\.origin are null"),
    ],
)
def test_a_denoiser_from_elsewhere_has_no_default(project, denoiser_dir, left_out, sentence):
    set_params(denoiser=STATED | {"source": str(denoiser_dir)} | left_out)
    with pytest.raises(InputError, match=sentence):
        denoiser_stage()
    assert not DENOISER.exists()


@pytest.mark.parametrize("origin", ["", "  ", "two\nlines", "\x1b[2J", "w" * 201])
def test_an_origin_is_one_line_of_words(project, denoiser_dir, origin):
    set_params(denoiser=STATED | {"source": str(denoiser_dir), "origin": origin})
    with pytest.raises(InputError, match=r"param denoiser\.origin="):
        denoiser_stage()


def test_a_denoiser_without_a_record_is_stated_not_checked(project, denoiser_dir):
    set_params(denoiser=STATED | {"source": str(denoiser_dir)})
    denoiser_stage()
    plan = make_plan()
    assert known(plan, "denoiser") == ("disjoint", STATED["origin"], None)
    assert "stated, not checked" in in_words(part(plan, "denoiser"))
    assert STATED["origin"] in in_words(part(plan, "denoiser"))
    assert len(notices([part(plan, "denoiser")])) == 1


def test_weights_that_the_stage_train_made_of_the_raw_set_are_refused(project, store):
    path = bring_weights()
    with pytest.raises(
        InputError, match=r"150 of 150 raw images .* the network in data/pretrained/brought.* \(150 exact"
    ):
        make_plan()
    raw = load(SETS["raw"])
    images = raw.images.copy()
    images[:, 0, 0, 0] ^= np.arange(150, dtype=np.uint8) % 2  # other pixels in every other image
    save_npz(raw.with_images(images), SETS["raw"])
    with pytest.raises(InputError, match=r"75 of 150 raw images"):
        make_plan()
    set_params(train={"initial_provenance": "fixed-before"})
    assert known(make_plan(), "initial weights")[2] == 75
    set_params(train={"initial_provenance": "on-raw"})
    assert not make_plan().certifiable
    assert read_trained_on(path).digest == raw.digest
    load_weights(path)


def test_weights_of_weights_remember_what_the_first_ones_saw(project, store):
    bring_weights()
    first = load(SETS["raw"])
    save_npz(digits(600, 800, 0)["raw"].take(np.arange(700, 800)), SETS["raw"])
    make_copy(open_source(SETS["raw"]), SANITIZED, 1.0, None, "os", draw=0)
    with pytest.raises(InputError, match="19 of 100 raw images are among those that the network in data/pretr"):
        train_stage()
    set_params(train={"initial_provenance": "fixed-before"})
    train_stage()
    set_params(train={"initial_provenance": "disjoint"})
    shutil.copy(CLASSIFIER, "data/pretrained/brought.safetensors")
    assert len(read_trained_on(CLASSIFIER).record) == 250
    save_npz(first, SETS["raw"])
    with pytest.raises(InputError, match="150 of 150 raw images"):
        make_plan()


def test_the_networks_of_an_ensemble_say_what_they_saw(version):
    raw = load(SETS["raw"])
    found = read_trained_on(next(Path(f".mlflow/artifacts/{version.version.run_id}").rglob(network_file(0))))
    assert found.digest == raw.digest
    assert shared(record_of(raw.images, raw.ids), found.record).exact.sum() == len(raw)


def test_initial_weights_have_no_default(project, tmp_path):
    architecture = Architecture("mlp", (8, 8, 1), 10, 8)
    path = Path("data/pretrained/own.safetensors")
    save_weights(build(architecture), path, architecture)
    set_params(train={"mode": "fine-tune", "width": 8, "initial_weights": str(path)}, sanitize={"denoise": False})
    with pytest.raises(InputError, match=r"own\.safetensors\) comes from elsewhere .* are null: state"):
        make_plan()
    set_params(train={"initial_provenance": "disjoint", "initial_origin": "drawn at random"})
    plan = make_plan()
    assert known(plan, "initial weights") == ("disjoint", "drawn at random", None)
    assert "initial_origin" not in plan.recipe  # another wording is no other recipe


def test_old_plans_are_silent_of_what_they_did_not_know():
    old = PLAN.as_dict()
    assert not {"denoiser_origin", "denoiser_shared", "initial_origin", "initial_shared"} & old.keys()
    assert plan_from_dict(old).digest == PLAN.digest
    known = replace(PLAN, denoiser_shared=0)
    assert plan_from_dict(known.as_dict()) == known
    assert known.digest != PLAN.digest


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            {"denoiser_shared": 0},
            "trained on other data than the raw set; compared: 0 raw images match those recorded as its own",
        ),
        ({"denoiser_origin": "a zoo", "denoiser_shared": 2}, "stated: trained on other data than the raw set; from: a"),
        ({"denoiser_origin": "a zoo"}, "stated, not checked: trained on other data than the raw set; from: a zoo"),
        ({"denoiser_state": "fixed-before"}, "trained on a trusted earlier copy of the raw set: no attack reaches it"),
        ({}, "trained on other data than the raw set"),
    ],
)
def test_what_older_plans_knew_is_put_into_words(fields, words):
    plan: Plan = replace(PLAN, **fields)
    assert words in in_words(next(one for one in parts_of(plan.as_dict()) if one["name"] == "denoiser"))


def test_a_comparison_is_told_with_its_numbers_and_never_as_an_absence(project):
    denoiser_stage()
    said = in_words(part(make_plan(), "denoiser"))
    assert "of 150 raw images 0 match one of the 600 recorded images" in said
    assert "no raw image" not in said


def test_the_settings_are_stated_on_every_plan_and_have_no_default_for_data_of_ones_own(project):
    denoiser_stage()
    settings = part(make_plan(), "settings")
    assert (settings["state"], "embedded digits" in settings["origin"]) == ("fixed-before", True)
    set_params(ingest={"source": "incoming"})
    with pytest.raises(InputError, match=r"param smooth\.chosen_on is null: state by which images"):
        make_plan()
    for stated, state in (("trusted", "disjoint"), ("nothing", "disjoint"), ("fixed-before", "fixed-before")):
        set_params(smooth={"chosen_on": stated})
        plan = make_plan()
        assert (known(plan, "settings")[0], plan.certifiable) == (state, True)
        assert any("settings" in words for words in notices(plan.admitted))
    set_params(smooth={"chosen_on": "raw"})
    assert make_plan().voids == ["its params were chosen by looking at the raw set (smooth.chosen_on)"]


def test_a_raw_set_that_was_resized_says_so_in_the_plan(project):
    denoiser_stage()
    save_npz(replace(load(SETS["raw"]), resized=8), SETS["raw"])
    with pytest.raises(InputError, match=r"param ingest\.side=None, and data/raw\.npz was made with 8; run `dvc repro"):
        make_plan()
    set_params(ingest={"source": "incoming", "side": 8}, smooth={"chosen_on": "nothing"})
    plan = make_plan()
    assert plan.resized_to == 8
    assert replace(plan, resized_to=None).digest != plan.digest
    assert replace(load(SETS["raw"]), resized=None).digest == plan.raw_digest  # the pixels are the same
