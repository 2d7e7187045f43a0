"""The chooser: it finds the better of two, says what it cannot say, and never opens the raw set."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from imports import ROOT
from registered import RECIPE, set_params

from cleanlabel.flows.artifacts import CHOOSER
from cleanlabel.flows.choose import choose, parse, table, verdict
from cleanlabel.models.chooser import Target, forecast, unanimous_blocks_radius
from cleanlabel.models.classifiers import Architecture
from cleanlabel.models.pilot import LEAST_ASKED, OWN_IMAGE, Pilot, blocks_of_size
from cleanlabel.models.rounding import down_text
from cleanlabel.models.training import initialised
from cleanlabel.models.weights import save_weights
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.files import write_json
from cleanlabel.sanitize.imageset import ImageSet, save_npz
from cleanlabel.sanitize.ingest import digits
from cleanlabel.sanitize.paths import SETS

ASKED = ["--images", "150", "--models", "30", "--radius", "0.1", "--draws", "4"]


@pytest.fixture
def trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ImageSet:
    """A working directory with params for noise alone, 200 trusted digits, and a raw set that nobody can read."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "params.yaml", "params.yaml")
    set_params(train=RECIPE, sanitize={"denoise": False})
    images = digits(200, 10, 0)["trusted"]
    save_npz(images, SETS["trusted"])
    SETS["raw"].write_bytes(b"whoever opens this fails")
    return images


def test_the_better_of_two_is_chosen_without_a_look_at_the_raw_set(trusted):
    asked = parse([*ASKED, "--sigmas", "0.25", "4", "--partitions", "1", "10"])
    record = choose(asked)
    SETS["raw"].unlink()
    assert choose(asked) == record
    best = record["best"]
    assert (best["sigma"], best["k"], best["images_a_block"]) == (0.25, 1, 150)
    assert best["low"] <= best["accuracy"] <= best["high"]
    shares = {(row["sigma"], row["k"]): row["accuracy"] for row in record["candidates"]}
    assert len(shares) == 4
    assert shares[0.25, 1] > 0.5
    assert shares[4, 10] < 0.1
    assert (record["looked_at"], record["trusted_digest"]) == ("trusted", trusted.digest)
    write_json(CHOOSER, record)
    assert json.loads(CHOOSER.read_text()) == record
    assert f"| 0.25 | 1 | 150 | {down_text(best['largest'])} | {down_text(best['accuracy'])} |" in table(record)
    assert "sanitize.sigma: 0.25 and smooth.partitions: 1" in verdict(record)
    assert "The pilot used 200 trusted and no untrusted images" in verdict(record)


def test_what_cannot_be_piloted_or_reached_is_said(trusted):
    record = choose(parse(["--images", "170", "--models", "30", "--radius", "9", "--sigmas", "1", "--partitions", "1"]))
    assert record["best"] is None
    assert "0: even unanimous votes would not reach R" in table(record)
    assert "Nothing is expected to be certified" in verdict(record)
    words = ["--models", "30", "--radius", ".1", "--sigmas", ".25", "--partitions", "1", "2", "--draws", "2"]
    large = choose(parse(["--images", "170", *words]))
    assert "perhaps better: k = 1." in verdict(large)
    assert f"skipped: needs {170 + LEAST_ASKED} trusted images, there are 200" in table(large)


def test_blocks_are_disjoint_and_leave_images_to_ask_about(trusted):
    blocks = blocks_of_size(trusted, 30)
    assert [len(rows) for rows in blocks] == [30] * 6
    assert len(np.unique(np.concatenate(blocks))) == 180
    assert all((np.diff([int(trusted.ids[row][-4:]) for row in rows]) > 0).all() for rows in blocks)
    assert blocks_of_size(trusted, 200 - LEAST_ASKED + 1) == []


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--radius", "0"], "--radius=0 with --rewritten=0 asks for no certificate"),
        (["--radius", "-1"], "--radius=-1 is not a joint l2 norm"),
        (["--radius", "nan"], "--radius=nan is not a joint l2 norm"),
        (["--rewritten", "-1"], "--rewritten=-1 is too small; give 0 or more"),
        (["--models", "0"], "--models=0 is too small; give 1 or more"),
        (["--sigmas", "-1"], "--sigmas=-1 is not a valid noise level"),
        (["--partitions", "151"], "--partitions has 151: 150 images are fewer than two per block"),
    ],
)
def test_a_target_that_makes_no_sense_is_refused_in_a_sentence(words, sentence):
    with pytest.raises(InputError, match=sentence):
        parse([*ASKED, *words])


def test_votes_without_noise_are_refused(trusted):
    with pytest.raises(InputError, match="--sigmas has 0, and votes certify nothing without noise"):
        choose(parse([*ASKED, "--sigmas", "0", "0.25"]))


def test_without_trusted_images_there_is_no_pilot(trusted):
    asked = parse(ASKED)
    save_npz(trusted.take(np.arange(0)), SETS["trusted"])
    with pytest.raises(InputError, match="has no images; set ingest.trusted"):
        choose(asked)
    SETS["trusted"].unlink()
    with pytest.raises(InputError, match="does not exist; run `dvc repro ingest`"):
        choose(asked)


def pilot_of(right: float, draws: int, blocks: int = 4, n: int = 200) -> Pilot:
    """Blocks that answer class 0 where it is right, with this chance, and else one of three others."""
    generator = np.random.default_rng(0)
    votes = np.where(generator.random((blocks, draws, n)) < right, 0, generator.integers(1, 4, (blocks, draws, n)))
    own = np.arange(n) % blocks == np.arange(blocks)[:, None]
    return Pilot(10, np.where(own[:, None], OWN_IMAGE, votes), np.zeros(n, dtype=np.int64), 4)


def test_the_forecast_grows_with_what_was_seen_and_never_takes_few_votes_for_certainty():
    target = Target(radius=0.5, rewritten=0, m=100, level=0.001)
    shares = [forecast(pilot_of(right, 12), 0.5, 4, target).mean() for right in (0.25, 0.8, 1.0)]
    assert shares[0] == 0.0 < shares[1] < shares[2]
    limit = unanimous_blocks_radius(0.5, 4, target, 4)
    near = Target(limit * 0.999, 0, 100, 0.001)
    few, more = (forecast(pilot_of(1.0, draws, n=2), 0.5, 4, near).mean() for draws in (2, 500))
    assert few < more
    assert not forecast(pilot_of(1.0, 500), 0.5, 4, Target(limit, 0, 100, 0.001)).any()


def test_the_pilot_is_of_heads_on_frozen_features_where_the_recipe_is(trusted):
    architecture = Architecture("mlp", (8, 8, 1), 10, 32, False)
    save_weights(initialised(architecture, 3, None), Path("elsewhere.safetensors"), architecture)
    heads = {"mode": "transfer", "initial_weights": "elsewhere.safetensors", "head": "lda", "head_l2": 1.0}
    set_params(train=heads)
    with pytest.raises(InputError, match=r"train\.initial_provenance and train\.initial_origin are null: state"):
        choose(parse([*ASKED, "--sigmas", "0.25", "--partitions", "1"]))
    set_params(train={"initial_provenance": "disjoint", "initial_origin": "random weights"})
    record = choose(parse([*ASKED, "--sigmas", "0.25", "4", "--partitions", "1", "10"]))
    shares = {(row["sigma"], row["k"]): row["accuracy"] for row in record["candidates"]}
    assert record["recipe"]["mode"] == "transfer"
    assert [(one["name"], one["shared"]) for one in record["admitted"]][-1] == ("initial weights", None)
    assert (record["best"]["sigma"], record["best"]["k"]) == (0.25, 1)
    assert shares[0.25, 1] > 0.3
    assert shares[4, 10] < 0.1
