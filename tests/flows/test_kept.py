"""What is kept of a thousand models: votes and hashes always, networks as asked, once; and what a run says."""

import time
from pathlib import Path

import mlflow.pyfunc
import numpy as np
import pytest
from filled import filled
from models_recipes import QUICK
from registered import M, Registered, make_ensemble, make_plan

from cleanlabel.flows.ensemble import worker
from cleanlabel.flows.ensemble.assembly import assemble
from cleanlabel.flows.store.client import TAG, create_run, find_runs, system_metrics
from cleanlabel.flows.store.registry import SMOOTHED
from cleanlabel.models.classifiers import Architecture, build
from cleanlabel.models.materials import Materials
from cleanlabel.models.weights import save_weights
from cleanlabel.sanitize.files import file_digest
from cleanlabel.sanitize.imageset import load
from cleanlabel.sanitize.paths import SETS


def kept_by(version: Registered) -> list[str]:
    artifacts = Path(f".mlflow/artifacts/{version.version.run_id}/artifacts/ensemble")
    return sorted(path.name for path in artifacts.rglob("*.safetensors"))


@pytest.mark.parametrize(("keep", "count"), [("none", 0), (3, 3)])
def test_networks_are_kept_as_asked_and_the_certificate_needs_none(version, keep, count):
    lean = make_ensemble(version.store, keep, m=M + 2)
    assert kept_by(lean) == [f"draw-{draw:05d}.safetensors" for draw in range(count)]
    hashed = [f"{TAG}weights_sha256" in run.data.tags for run in assemble(lean.store, lean.ensemble).runs.values()]
    assert sum(hashed) == count
    lean.certify()
    assert [check.name for check in lean.audit(replay=1) if not check.passed] == []
    with pytest.raises(mlflow.exceptions.MlflowException, match='Could not find an "MLmodel" configuration file'):
        mlflow.pyfunc.load_model(f"models:/{SMOOTHED}/{lean.number}")


def test_a_network_is_kept_once_at_the_ensembles_run(version):
    assert len(kept_by(version)) == M
    for run in filled(assemble(version.store, version.ensemble).runs.values()):
        artifacts = Path(f".mlflow/artifacts/{run.info.run_id}/artifacts")
        assert [path.name for path in artifacts.rglob("*") if path.is_file()] == ["votes.npy"]


def test_the_ensembles_run_names_the_data_it_was_made_from(version):
    run = version.store.client.get_run(version.ensemble.run_id)
    named = {one.dataset.name: one.dataset for one in run.inputs.dataset_inputs}
    assert set(named) == {"raw", "test"}  # noise only: no denoiser
    for name, dataset in named.items():
        digest = load(SETS[name]).digest
        assert (dataset.digest, digest in dataset.source) == (digest[:36], True)


def test_a_draw_says_all_it_has_to_say_and_nothing_of_the_machines_load(version):
    for run in filled(find_runs(version.store, f"tags.`{TAG}kind` = 'draw'")):
        assert set(run.data.metrics) == {"test_accuracy", "sanitize_seconds", "train_seconds"}
        assert {f"{TAG}{name}" for name in ("votes_sha256", "seal", "copy_sha256", "environment")} <= set(run.data.tags)
        assert run.info.start_time <= run.info.end_time


def test_transfer_keeps_heads_and_serves_them_on_the_extractor(version, tmp_path):
    path = tmp_path / "data" / "pretrained" / "body.safetensors"
    architecture = Architecture("small-cnn", (8, 8, 1), 10, 4)
    save_weights(build(architecture), path, architecture)
    recipe = make_plan().recipe | {"mode": "transfer", "initial_weights": "data/pretrained/body.safetensors"}
    heads = make_ensemble(
        version.store,
        recipe=recipe | {"head": "ridge", "head_l2": 0.01, "head_prior": True},
        initial_digest=file_digest(path),
        initial_state="disjoint",
    )
    assert len(kept_by(heads)) == M + 1  # and the extractor
    certified, test = heads.certify(), load(SETS["test"])
    assert heads.audit(replay=1)[-1].passed
    model = mlflow.pyfunc.load_model(f"models:/{SMOOTHED}/{heads.number}")
    answers = model.predict(test.images[..., 0])
    assert answers["votes"].tolist() == certified.counts.tolist()
    assert np.mean(certified.counts.argmax(axis=1) == test.labels) > 0.3  # random features, noised images: above chance


def test_the_machines_load_is_logged_to_the_ensembles_run(store, monkeypatch):
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.1")
    run_id = create_run(store, "ensemble", {"kind": "ensemble"}, {})
    with system_metrics(store, run_id):
        time.sleep(1)
    assert "system/cpu_utilization_percentage" in store.client.get_run(run_id).data.metrics


def test_the_environment_names_the_rows_that_an_accelerator_takes_at_once(small_set, denoiser, monkeypatch):
    ours = Materials(small_set, small_set, 0.5, denoiser, QUICK, 10)
    assert "rows at once" not in worker.environment(ours)
    monkeypatch.setattr(worker, "is_accelerator", lambda _: True)
    assert worker.environment(ours).endswith(", 24 rows at once")
