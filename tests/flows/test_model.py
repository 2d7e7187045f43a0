"""The registered model: the whole ensemble as MLflow loads it, and what it answers."""

import importlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import mlflow.pyfunc
import numpy as np
import pytest
from filled import filled
from registered import M, Registered, make_ensemble, make_plan

from cleanlabel.flows.ensemble.assembly import assemble
from cleanlabel.flows.store.registry import SMOOTHED
from cleanlabel.models.certificate import radius_beside_a_trigger
from cleanlabel.models.rounding import down
from cleanlabel.models.smoothed import SmoothedClassifier
from cleanlabel.sanitize.denoiser_files import digest_of
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.imageset import load
from cleanlabel.sanitize.paths import DENOISER, SETS


@pytest.fixture
def no_pickle(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("something was unpickled")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(importlib.import_module("pickle"), name, refuse)


def test_the_registered_model_answers_as_the_certificate_says_and_unpickles_nothing(version, no_pickle):
    certified, test = version.certify(), load(SETS["test"])
    model = mlflow.pyfunc.load_model(f"models:/{SMOOTHED}/1")
    answers = model.predict(test.images[..., 0])
    assert answers["label"].tolist() == certified.label.tolist()
    np.testing.assert_array_equal(answers["radius"], down(certified.radius, 6))
    assert answers["votes"].tolist() == certified.counts.tolist()
    assert {name for name, y in zip(answers["class"], answers["label"], strict=True) if y == -1} == {"abstain"}
    assert all(name == str(y) for name, y in zip(answers["class"], answers["label"], strict=True) if y != -1)


def networks_of(version: Registered) -> Path:
    return Path(f".mlflow/artifacts/{version.version.run_id}/artifacts/ensemble/data/networks")


def test_the_ensemble_asked_without_mlflow_refuses_bad_images_too(version):
    model, takes = SmoothedClassifier(networks_of(version)), r"; this model takes images of shape \(n, 8, 8\)"
    for ask in (model.predict, model.certify, model.votes):
        with pytest.raises(InputError, match=f"the images are float16{takes}"):
            ask(np.zeros((2, 8, 8), np.float16))
        with pytest.raises(InputError, match=rf"the images have the shape \(2, 9, 8\){takes}"):
            ask(np.zeros((2, 9, 8), np.uint8))


def test_a_network_that_was_exchanged_is_refused(version):
    networks = networks_of(version)
    assert len(list(networks.iterdir())) == M + 1  # and their description
    shutil.copy(networks / "draw-00001.safetensors", networks / "draw-00002.safetensors")
    with pytest.raises(InputError, match="draw-00002.safetensors is not the network that draw 2 recorded"):
        SmoothedClassifier(networks)


def with_plan(**changes: object) -> Callable[[dict], object]:
    return lambda content: content["plan"].update(changes)


EDITS = {
    "its plan's digest is": [
        with_plan(alpha=0.5),
        with_plan(sigma=4.0),
        with_plan(method="margin"),
        with_plan(noise_distance=0),
        with_plan(plan_digest="0" * 64),
        with_plan(stopping="looks", looks=[M], shares=[1.0]),
    ],
    "it has m = ": [lambda c: c.update(m=M - 1), lambda c: c.update(m=float(M)), lambda c: c.update(m=True)],
    "it lists other draws than the 14 of its plan": [
        lambda c: c["weights"].update({"14": c["weights"]["0"]}),
        lambda c: c["weights"].update({"-1": c["weights"]["0"]}),
        lambda c: c["weights"].update({"01": c["weights"]["1"]}),
    ],
    "it has 9 classes, and its plan 10": [lambda c: c["classes"].pop()],
    "cannot be read": [
        lambda c: c.pop("attempts_before"),
        lambda c: c.update(attempts_before=-1),
        lambda c: c.update(attempts_before=0.5),
        lambda c: c["plan"].pop("plan_digest"),
        lambda c: c.update(weights=[]),
        lambda c: c["plan"].update(sigma=None, plan_digest=3) or c.update(labels=[10**30]),
    ],
}


@pytest.mark.parametrize(("said", "edit"), [(said, edit) for said, edits in EDITS.items() for edit in edits])
def test_a_description_that_contradicts_itself_is_refused(version, said, edit):
    path = networks_of(version) / "smoothed.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=said):
        SmoothedClassifier(path.parent)


def test_a_draw_without_a_network_stays_among_the_m_and_is_told(version):
    path, images = networks_of(version) / "smoothed.json", load(SETS["test"]).images
    whole = SmoothedClassifier(path.parent).certify(images)
    content = json.loads(path.read_text())
    content["weights"] = {draw: content["weights"][draw] for draw in list(content["weights"])[:13]}
    path.write_text(json.dumps(content))
    with pytest.warns(UserWarning, match="1 of the 14 draws have no network; they vote for no class"):
        _, radius, counts = SmoothedClassifier(path.parent).certify(images)
    assert (counts.sum(axis=1) == 13).all()
    assert (radius <= whole[1]).all()


def test_split_chooses_by_draws_of_its_own(version, no_pickle):
    split = make_ensemble(version.store, m=M, selection=5, method="split")
    certified = split.certify(method="split")
    certificate = certified.certificate
    assert len(assemble(split.store, split.ensemble).runs) == M + 5
    assert (certificate["m"], certificate["selection"], certified.counts.sum(axis=1).max()) == (M, 5, M)
    assert split.failures() == []
    model = mlflow.pyfunc.load_model(f"models:/{SMOOTHED}/{split.number}")
    assert model.predict(load(SETS["test"]).images[..., 0])["label"].tolist() == certified.label.tolist()
    description = networks_of(split) / "smoothed.json"
    sealed = description.read_text()
    content = json.loads(sealed)
    del content["weights"][str(M + 2)]
    description.write_text(json.dumps(content))
    with pytest.raises(InputError, match="a draw that chooses the class is missing"):
        SmoothedClassifier(description.parent)
    description.write_text(sealed)
    split.store.client.delete_run(split.run_of(M + 2))
    with pytest.raises(InputError, match="1 of the 5 draws that choose the class are missing"):
        split.certify(method="split")


def test_noise_on_the_test_inputs_certifies_triggers(version, denoiser_dir, no_pickle):
    shutil.copytree(denoiser_dir, DENOISER)
    noised = make_ensemble(
        version.store, test_sigma=0.25, denoiser_digest=digest_of(DENOISER), denoiser_state="disjoint"
    )
    certified = noised.certify()
    rows = certified.certificate["at_triggers"]
    truth = load(SETS["test"]).labels
    assert len(rows) == 16
    for row in rows:
        left = radius_beside_a_trigger(certified.radius, 0.5, 0.25, row["trigger_l2"])
        held = (certified.label == truth) & (left > row["radius"])
        assert row["certified_accuracy"] == down(np.mean(held), 4)
    assert "changes omega of the test input" in certified.certificate["covers"]
    assert noised.failures() == []
    assert all(check.passed for check in filled(noised.audit(replay=2)))
    # The model meets new inputs under new noise, and carries the denoiser with it.
    shutil.rmtree(DENOISER)
    answers = mlflow.pyfunc.load_model(f"models:/{SMOOTHED}/{noised.number}").predict(load(SETS["test"]).images[..., 0])
    assert all(sum(votes) == M for votes in answers["votes"])
    shutil.rmtree(networks_of(noised) / "denoiser")
    with pytest.raises(InputError, match="the denoiser directory .*networks/denoiser does not exist"):
        SmoothedClassifier(networks_of(noised))


def test_a_model_that_is_not_certifiable_answers_without_a_radius(version, no_pickle):
    plan = make_plan()
    void = make_ensemble(version.store, recipe=plan.recipe | {"warm_epochs": 1, "warm_on": "raw"})
    answers = mlflow.pyfunc.load_model(f"models:/{SMOOTHED}/{void.number}").predict(load(SETS["test"]).images[..., 0])
    assert (answers["radius"] == 0).all()
    assert (answers["label"] >= 0).all()
