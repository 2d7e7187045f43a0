"""The denoiser's int8 network in the plan: named there, held to it, and refused if it saw raw images."""

import json
import shutil
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from registered import make_sets, set_params
from tiny import save_int8_denoiser, save_int8_facts

from cleanlabel import SanitizedCopies
from cleanlabel.flows.ensemble import worker
from cleanlabel.flows.ensemble.planning import make_plan
from cleanlabel.models.plan import plan_from_dict
from cleanlabel.sanitize.denoiser import load_denoiser
from cleanlabel.sanitize.denoiser_files import INT8, PROVENANCE
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.files import write_json
from cleanlabel.sanitize.imageset import load
from cleanlabel.sanitize.paths import DENOISER, SETS

SIGMA = 1.0


@pytest.fixture
def project(denoiser_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory as the stages before `smooth` leave it."""
    monkeypatch.chdir(tmp_path)
    make_sets()
    shutil.copytree(denoiser_dir, DENOISER)
    save_int8_facts(DENOISER, SIGMA, load(SETS["test"]))
    record_denoiser()
    return tmp_path


def record_denoiser() -> None:
    denoiser = load_denoiser(DENOISER)
    elsewhere = {"source": "ours/own", "state": "disjoint", "origin": "our own"}
    known = {"digest": denoiser.digest, "made_for": asdict(denoiser.facts), "int8": denoiser.int8.as_dict()}
    write_json(DENOISER / PROVENANCE, known | elsewhere)


def test_the_plan_holds_the_network_and_draws_are_held_to_it(project):
    plan = make_plan()
    assert plan.int8 == load_denoiser(DENOISER).int8.as_dict()
    assert (plan.int8["threads"], plan.int8["scales_set_on"]) == (1, load(SETS["test"]).digest)
    assert plan_from_dict(json.loads(json.dumps(plan.as_dict()))) == plan
    assert replace(plan, int8=None).digest != plan.digest
    worker.prepare(plan)
    with pytest.raises(InputError, match=r"the denoiser's int8 network changed after the ensemble was planned"):
        worker.prepare(replace(plan, int8=plan.int8 | {"threads": 2}))
    (DENOISER / INT8 / "network.bin").write_bytes(b"another")
    worker._inputs.cache_clear()
    with pytest.raises(InputError, match=r"the denoiser changed after the ensemble was planned"):
        worker.prepare(plan)


def test_a_draw_says_what_its_bits_depend_on(project):
    shutil.rmtree(DENOISER)
    save_int8_denoiser(DENOISER, SIGMA)
    record_denoiser()
    assert "1 thread(s)" in (said := worker.environment(worker.prepare(make_plan())))
    assert said.endswith(f"denoised in int8, OpenVINO {version('openvino')}, 1 thread(s) a part")


@pytest.mark.parametrize(
    ("sections", "sentence"),
    [
        ({"sanitize": {"sigma": 0.5}}, r"sanitize\.sigma=0\.5 and smooth\.test_sigma=0 .* set denoiser\.int8 to 0\.5"),
        ({"smooth": {"test_sigma": 0.5}}, r"smooth\.test_sigma=0\.5 do not fit; set denoiser\.int8 to null"),
    ],
)
def test_another_noise_than_it_was_made_for_is_refused(project, sections, sentence):
    set_params(**sections)
    with pytest.raises(InputError, match=sentence):
        make_plan()


def test_scales_set_on_raw_images_are_refused(project):
    raw = load(SETS["raw"])
    save_int8_facts(DENOISER, SIGMA, raw.take(np.arange(20)))
    record_denoiser()
    sentence = r"20 of \d+ raw images are among those that the .*int8 network .*had its scales set on .* void"
    with pytest.raises(InputError, match=sentence):
        make_plan()
    with pytest.raises(InputError, match=sentence):
        SanitizedCopies(raw, load_denoiser(DENOISER), SIGMA, 2)
