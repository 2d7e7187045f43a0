"""From params.yaml to the plan: what is recorded, and what is refused before anything is."""

from dataclasses import asdict
from pathlib import Path

import pytest
from registered import make_sets, set_params

from cleanlabel.flows.ensemble.planning import make_plan
from cleanlabel.models.classifiers import Architecture, build
from cleanlabel.models.weights import save_weights
from cleanlabel.sanitize.denoiser import load_denoiser
from cleanlabel.sanitize.denoiser_files import PROVENANCE, copy_denoiser
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.files import file_digest, write_json
from cleanlabel.sanitize.imageset import load
from cleanlabel.sanitize.paths import DENOISER, SETS


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, denoiser_dir: Path) -> Path:
    """A working directory with sets, params and a denoiser, as the stages before `smooth` leave it."""
    monkeypatch.chdir(tmp_path)
    make_sets()
    copy_denoiser(denoiser_dir, DENOISER)
    record_denoiser()
    return tmp_path


def record_denoiser(**changes: object) -> None:
    denoiser = load_denoiser(DENOISER)
    elsewhere = {"source": "ours/own", "state": "disjoint", "origin": "our own, trained on drawings of ours"}
    known = {"digest": denoiser.digest, "made_for": asdict(denoiser.facts)} | elsewhere
    write_json(DENOISER / PROVENANCE, known | changes)


def test_the_plan_has_everything_that_determines_the_draws(project):
    plan = make_plan()
    assert (plan.m, plan.sigma, plan.test_sigma, plan.draws) == (100, 1.0, 0.0, 100)
    assert plan.raw_digest == load(SETS["raw"]).digest
    denoiser = plan.admitted[0]
    assert (denoiser["name"], denoiser["digest"]) == ("denoiser", plan.denoiser_digest)
    assert (denoiser["state"], denoiser["origin"]) == ("disjoint", "our own, trained on drawings of ours")
    assert denoiser["shared"] is None
    assert (plan.initial_digest, plan.initial_state) == (None, None)
    assert plan.certifiable
    set_params(smooth={"selection": 20}, certify={"method": "split"})
    assert make_plan().draws == 120


@pytest.mark.parametrize(
    ("sections", "sentence"),
    [
        ({"smooth": {"m": 0}}, "param smooth.m=0"),
        ({"sanitize": {"sigma": -1.0}}, "param sanitize.sigma=-1.0"),
        ({"smooth": {"selection": 5}}, "certify.method='binary' and smooth.selection=5 do not fit"),
        ({"certify": {"method": "split"}}, "certify.method='split' and smooth.selection=0 do not fit"),
        ({"smooth": {"test_sigma": 25}}, "smooth.test_sigma=25: sigma=25 is above 4"),
        ({"smooth": {"test_sigma": -0.1}}, "param smooth.test_sigma=-0.1"),
        (
            {"train": {"mode": "fine-tune", "initial_weights": "data/pretrained/no"}},
            "train.initial_weights='data/pretrained/no' does not exist",
        ),
        ({"train": {"initial_provenance": "unknown"}}, "param train.initial_provenance='unknown'"),
        ({"train": {"warm_epochs": -1}}, "param train.warm_epochs=-1"),
        ({"train": {"initial_weights": "some"}}, "train.mode='scratch' starts from random weights"),
        ({"train": {"mode": "transfer"}}, "train.mode='transfer' needs weights trained elsewhere"),
        ({"train": {"architecture": "fast-cifar", "normalise": "copy"}}, "train.normalise='copy' do not apply"),
        ({"train": {"head_prior": True}}, "not for train.head='lda'"),
        ({"train": {"architecture": "resnet"}}, "param train.architecture='resnet'"),
        ({"train": {"momentum": 0.9}}, "train.momentum"),
        ({"smooth": {"keep_weights": 0}}, "param smooth.keep_weights"),
        ({"certify": {"images": []}}, "param certify.images="),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_sentence(project, sections, sentence):
    set_params(**sections)
    with pytest.raises(InputError) as refused:
        make_plan()
    assert sentence in str(refused.value)


def test_a_denoiser_that_saw_the_raw_set_voids_the_plan(project):
    record_denoiser(state="on-raw")
    assert make_plan().voids == ["the denoiser was trained on the raw set as supplied"]


@pytest.mark.parametrize("unknown", ["state", "origin"])
def test_a_denoiser_of_which_nothing_is_stated_is_not_planned_with(project, unknown):
    record_denoiser(**{unknown: None})
    with pytest.raises(
        InputError, match=r"the denoiser \(denoiser.source='ours/own'\) comes from elsewhere and denoiser"
    ):
        make_plan()


def test_initial_weights_stand_in_the_plan_with_what_they_saw(project):
    path = project / "data" / "pretrained" / "mine.safetensors"
    architecture = Architecture("small-cnn", (8, 8, 1), 10, 16)
    save_weights(build(architecture), path, architecture)
    for state in ("disjoint", "fixed-before", "on-raw"):
        set_params(
            train={
                "mode": "fine-tune",
                "architecture": "small-cnn",
                "width": 16,
                "initial_weights": "data/pretrained/mine.safetensors",
                "initial_provenance": state,
                "initial_origin": "a colleague's",
            }
        )
        plan = make_plan()
        assert (plan.initial_digest, plan.initial_state) == (file_digest(path), state)
        assert plan.certifiable is (state != "on-raw")


def test_initial_weights_of_another_network_are_refused_before_anything_is_planned(project):
    path = project / "data" / "pretrained" / "mine.safetensors"
    architecture = Architecture("small-cnn", (8, 8, 1), 10, 8)
    save_weights(build(architecture), path, architecture)
    changes = {"mode": "fine-tune", "architecture": "small-cnn", "width": 16}
    set_params(train=changes | {"initial_weights": "data/pretrained/mine.safetensors"})
    with pytest.raises(InputError, match="width=8.*train.mode='fine-tune' needs.*width=16"):
        make_plan()


def test_an_extractor_for_images_of_another_size_is_refused_with_both_sizes(project):
    path = project / "data" / "pretrained" / "mine.safetensors"
    architecture = Architecture("small-cnn", (16, 16, 1), 10, 8)
    save_weights(build(architecture), path, architecture)
    set_params(train={"mode": "transfer", "initial_weights": "data/pretrained/mine.safetensors"})
    with pytest.raises(InputError, match="images are 8x8 with 1 channel, the extractor takes 16x16 with 1 channel"):
        make_plan()
