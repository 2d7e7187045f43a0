"""Ensembles made with the earlier noise: nothing old is silently read as new."""

from dataclasses import replace
from pathlib import Path

import pytest
from models_recipes import PLAN
from registered import make_ensemble, make_sets, set_params

from cleanlabel.flows.artifacts import NETWORKS
from cleanlabel.flows.ensemble.planning import make_plan
from cleanlabel.models.plan import OLD_STREAM, noise_distance_of, plan_from_dict, require_exact_noise
from cleanlabel.models.smoothed import SmoothedClassifier
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.noise import NOISE_STREAM

SENTENCE = r"used the noise stream cleanlabel/noise/1.*make a new ensemble with `dvc repro`"


def test_a_plan_that_names_no_stream_was_made_with_the_earlier_one_and_keeps_its_digest():
    old = replace(PLAN, noise_stream=OLD_STREAM, noise_distance=0.0)
    written = old.as_dict()
    assert not {"noise_stream", "noise_distance"} & set(written)  # as plans were written then
    assert plan_from_dict(written) == old
    assert old.digest != PLAN.digest
    with pytest.raises(InputError, match=SENTENCE):
        require_exact_noise(old)
    require_exact_noise(PLAN)


def test_a_version_made_with_the_earlier_noise_is_refused_wherever_it_is_read(store, tmp_path):
    make_sets()
    version = make_ensemble(store, noise_stream=OLD_STREAM, noise_distance=0.0)
    with pytest.raises(InputError, match=SENTENCE):
        version.certify()
    seal, check = [check for check in version.audit(replay=1) if not check.passed]
    assert seal.found.endswith("has no readable artifact ensemble/certificate/certificate.json")
    assert check.name == "certifiable"
    assert "make a new ensemble" in check.found
    found = store.client.download_artifacts(version.ensemble.run_id, NETWORKS, str(tmp_path))
    with pytest.raises(InputError, match=SENTENCE):
        SmoothedClassifier(Path(found))


def test_a_certificate_states_the_stream_and_the_distance_from_ideal_noise(version):
    certificate = version.certify().certificate
    assert certificate["noise_stream"] == NOISE_STREAM
    assert 0 < certificate["noise_distance"] < 2**-38


def test_a_new_plan_names_its_noise_and_how_far_it_is_from_ideal(store):
    make_sets()
    set_params(sanitize={"denoise": False, "sigma": 0.5}, smooth={"test_sigma": 0.25})
    plan = make_plan()
    assert plan.noise_stream == NOISE_STREAM
    assert plan.noise_distance == noise_distance_of(150, (8, 8, 1), 0.5, 0.25) > noise_distance_of(150, (8, 8, 1), 0.5)
