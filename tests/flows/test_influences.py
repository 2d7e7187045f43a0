"""What is refused of bounded-influence ensembles, and of what they are made from. Their life: `test_kinds.py`."""

import json
import re
import shutil
from pathlib import Path

import mlflow
import numpy as np
import pytest
from filled import filled
from models_recipes import QUICK
from registered import ROOT, Registered, enter, enter_copy, make_ensemble, make_plan, set_params, the_version

from cleanlabel.flows import choose, choose_influence, distil, estimate
from cleanlabel.flows.certificate.checks import agreeing
from cleanlabel.flows.ensemble import planning, worker
from cleanlabel.flows.ensemble.assembly import assemble
from cleanlabel.flows.ensemble.instrument import planned_instrument, recall_instrument
from cleanlabel.flows.ensemble.opening import open_ensemble
from cleanlabel.flows.ensemble.record import read_ensemble
from cleanlabel.flows.environment import state
from cleanlabel.flows.store.client import TAG, Store, log_files
from cleanlabel.flows.store.registry import SMOOTHED
from cleanlabel.models.extractors import load_extractor
from cleanlabel.models.plan import noise_distance_of, recipe_of
from cleanlabel.models.rounding import down_text
from cleanlabel.models.smoothed import SmoothedClassifier
from cleanlabel.models.start import start_of
from cleanlabel.models.sums import STEPS
from cleanlabel.models.training import architecture_of, initialised, train
from cleanlabel.models.twins import save_twin
from cleanlabel.models.votes import votes_hash, votes_to_bytes
from cleanlabel.models.weights import TrainedOn, save_weights, trained_on
from cleanlabel.sanitize.door import in_words
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.files import file_digest
from cleanlabel.sanitize.imageset import load, save_npz
from cleanlabel.sanitize.ingest import digits
from cleanlabel.sanitize.overlap import HASH, hashes_alone
from cleanlabel.sanitize.paths import SETS

EXTRACTOR = Path("data/pretrained/digits.safetensors")
STATED = {"initial_weights": str(EXTRACTOR), "initial_provenance": "disjoint", "initial_origin": "the trusted digits"}
RECIPE = QUICK.model_copy(update={"mode": "transfer", "head": "bounded-influence", **STATED})


@pytest.fixture(scope="module")
def folders(empty_database: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Digits in three sets and an extractor trained on the trusted ones; and the same with a certified version."""
    bare, whole = tmp_path_factory.mktemp("sets"), tmp_path_factory.mktemp("certified")
    with pytest.MonkeyPatch.context() as patch:
        enter(bare, patch, empty_database)
        found = digits(500, 400, 0)
        for name in ("trusted", "raw"):
            save_npz(found[name], SETS[name])
        save_npz(found["test"].take(np.arange(40)), SETS["test"])
        shutil.copy(ROOT / "params.yaml", "params.yaml")
        EXTRACTOR.parent.mkdir(parents=True)
        own = QUICK.model_copy(update={"width": 48, "epochs": 30})
        trusted = found["trusted"]
        model = train(trusted.images, trusted.labels, 10, own, 0)
        save_weights(model, EXTRACTOR, architecture_of(own, trusted.image_shape, 10), trained_on(trusted))
        made(enter_copy(bare, whole, patch)).certify()
    return bare, whole


@pytest.fixture
def sets(folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store beside the sets and the extractor."""
    return enter_copy(folders[0], tmp_path, monkeypatch)


@pytest.fixture
def certified(folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registered:
    """A certified version beside them."""
    return the_version(enter_copy(folders[1], tmp_path, monkeypatch), 1)


def planned(**changes: object) -> dict[str, object]:
    """What the plan of such an ensemble says beyond the usual one."""
    recipe = changes.pop("recipe", RECIPE)
    sigma = changes.setdefault("sigma", 0.5)
    raw = load(SETS["raw"])
    return {
        "m": 8,
        "recipe": recipe_of(recipe),
        "initial_digest": file_digest(EXTRACTOR),
        "initial_state": "disjoint",
        "instrument_digest": planned_instrument(recipe, raw, sigma, None),
        "class_sizes": tuple(np.bincount(raw.labels).tolist()),
        "noise_distance": noise_distance_of(len(raw), raw.image_shape, sigma),
        **changes,
    }


def made(store, keep: int | str = "all", **changes: object) -> Registered:
    return make_ensemble(store, keep, **planned(**changes))


def test_edited_sums_are_found(certified):
    one, sets = certified, certified.store
    run = one.run_of(3)
    sums = assemble(sets, one.ensemble).votes[3]
    sums[0] = sums[0][::-1].copy()
    log_files(sets, run, {"votes.npy": votes_to_bytes(sums)})
    assert f"the votes of run {run} (draw 3) do not match the hash it recorded" in one.failures()[1]
    sets.client.set_tag(run, f"{TAG}votes_sha256", votes_hash(sums))
    assert "the votes of draw 3 are not the ones registered" in one.failures()[1]


def test_another_machine_takes_the_instrument_from_the_store(certified):
    one, sets = certified, certified.store
    shutil.rmtree(state() / "instruments")
    assert all(check.passed for check in filled(one.audit(replay=1)))
    digest = one.ensemble.plan.instrument_digest
    shutil.rmtree(state() / "instruments")
    log_files(sets, one.ensemble.run_id, {"ensemble/data/networks/instrument.safetensors": b"another"})
    with pytest.raises(InputError, match="is not the planned one; it was edited"):
        recall_instrument(digest, sets, one.ensemble.run_id)


def test_a_plan_that_counts_other_classes_is_not_certified(sets):
    sizes = np.bincount(load(SETS["raw"]).labels)
    one = made(sets, class_sizes=tuple((sizes + 100).tolist()))
    with pytest.raises(InputError, match="its bounds would differ, so it cannot be certified"):
        one.certify()


def test_the_cosine_form_needs_no_trusted_images(sets):
    cosine = RECIPE.model_copy(update={"influence_form": "cosine"})
    SETS["trusted"].unlink()
    save_npz(load(SETS["raw"]).take(np.arange(0)), SETS["trusted"])
    with pytest.raises(InputError, match="has 0; add some, or set train.influence_form: cosine"):
        planned()
    assert made(sets, recipe=cosine).certify().certificate["vote_accuracy"] > 0.2


def test_trusted_images_among_the_raw_ones_are_refused(sets):
    raw = load(SETS["raw"])
    save_npz(raw.take(np.arange(30)), SETS["trusted"])
    set_params(
        sanitize={"sigma": 0.5, "denoise": False}, train={"mode": "transfer", "head": "bounded-influence", **STATED}
    )
    with pytest.raises(
        InputError, match=r"30 of 400 raw images are among those that the head is fitted to .* or state in"
    ):
        planning.make_plan()
    set_params(ingest={"trusted_provenance": "fixed-before"})
    said = next(one for one in planning.make_plan().admitted if one["name"] == "trusted images")
    assert (said["state"], said["shared"]) == ("fixed-before", 30)


def test_the_plan_is_made_from_params_and_made_once(sets):
    set_params(
        sanitize={"sigma": 0.5, "denoise": False},
        train={"mode": "transfer", "head": "bounded-influence", **STATED},
        smooth={"m": 8},
    )
    plan = planning.make_plan()
    assert plan.bounded_influence
    assert plan == planning.make_plan()
    ensemble = open_ensemble(sets, plan)
    assert read_ensemble(sets, sets.client.get_run(ensemble.run_id)).plan == plan
    set_params(train={"influence_clip": 0.95})
    assert planning.make_plan().instrument_digest != plan.instrument_digest


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"certify": {"method": "margin"}}, "certify.method=margin do not go together"),
        ({"smooth": {"partitions": 4}}, "smooth.partitions=4 do not go together"),
        ({"smooth": {"stopping": "sequence"}}, "smooth.stopping=sequence do not go together"),
        ({"smooth": {"test_sigma": 0.5}}, "smooth.test_sigma=0.5 do not go together"),
        ({"train": {"mode": "scratch", "initial_weights": None}}, "set train.mode: transfer"),
        (
            {"train": {"influence_sides": "two"}},
            "influence_threshold=0.9 and train.influence_sides=two do not go together",
        ),
        ({"train": {"influence_clip": 0.8}}, "influence_threshold=0.9 and train.influence_clip=0.8 do not go together"),
        (
            {"train": {"head": "lda"}, "sanitize": {"sigma": 0.0}},
            "votes without noise certify nothing; give a sigma above 0",
        ),
    ],
)
def test_params_that_do_not_go_together_are_refused(sets, sections, words):
    set_params(
        sanitize={"sigma": 0.5, "denoise": False},
        train={"mode": "transfer", "head": "bounded-influence", **STATED},
        smooth={"m": 8},
    )
    set_params(**sections)
    with pytest.raises(InputError, match=words):
        planning.make_plan()


def test_a_class_without_images_is_named(sets):
    raw = load(SETS["raw"])
    save_npz(raw.take(np.flatnonzero(raw.labels != 4)), SETS["raw"])
    set_params(sanitize={"denoise": False}, train={"mode": "transfer", "head": "bounded-influence", **STATED})
    with pytest.raises(InputError, match="has no image of the class '4'"):
        planning.make_plan()


def test_a_replay_elsewhere_may_differ_in_last_bits(sets):
    plan = make_plan(**planned())
    sums = np.full((40, 10), 20 * STEPS)
    near, far = sums + 30, sums + 2 * STEPS
    assert agreeing(plan, near, sums, exactly=False) == 1
    assert agreeing(plan, near, sums, exactly=True) == 0
    assert agreeing(plan, far, sums, exactly=False) == 0


def test_a_version_s_features_are_held_to_their_digests(certified):
    one = certified
    root = Path(mlflow.artifacts.download_artifacts(f"models:/{SMOOTHED}/{one.number}", dst_path="served"))
    description = json.loads(next(root.rglob("smoothed.json")).read_text())
    assert description["labels"] == load(SETS["raw"]).labels.tolist()
    path = next(root.rglob("draw-00002.safetensors"))
    path.write_bytes(next(root.rglob("draw-00001.safetensors")).read_bytes())
    with pytest.raises(ValueError, match="draw-00002.safetensors was changed"):
        mlflow.pyfunc.load_model(str(root))
    with pytest.raises(InputError, match="is not the network that draw 2 recorded"):
        SmoothedClassifier(path.parent)
    description["labels"][0] = (description["labels"][0] + 1) % 10
    (path.parent / "smoothed.json").write_text(json.dumps(description))
    with pytest.raises(InputError, match="it has other labels than its plan counts by class"):
        SmoothedClassifier(path.parent)


def test_the_estimate_knows_the_time_of_its_draws(sets):
    set_params(sanitize={"denoise": False}, train={"mode": "transfer", "head": "bounded-influence", **STATED})
    assert re.search(r"(?m)^  smooth +[\d.]+ (?:s|min|h) ", estimate.estimate())


def test_an_extractor_that_changes_while_it_is_read_is_refused(certified, monkeypatch):
    one = certified
    other = initialised(architecture_of(QUICK, (8, 8, 1), 10), 1, None)

    def changed(*args):
        save_weights(other, EXTRACTOR, architecture_of(QUICK, (8, 8, 1), 10))
        return start_of(*args)

    monkeypatch.setattr(worker, "start_of", changed)
    worker._start.cache_clear()
    with pytest.raises(InputError, match="an extractor's file changed while it was read; restore it"):
        worker.prepare(one.ensemble.plan)


def test_the_chooser_suggests_noise_and_clip_from_trusted_images_alone(sets):
    set_params(
        sanitize={"denoise": False},
        train={"mode": "transfer", "head": "bounded-influence", **STATED},
    )
    SETS["raw"].unlink()  # which nobody may look at
    words = ["--images", "4000", "--models", "20", "--radius", "0", "--rewritten", "5", "--draws", "2"]
    record = choose.choose(choose.parse([*words, "--sigmas", "0.5", "4"]))
    assert record["best"]["sigma"] == 0.5
    assert record["best"]["accuracy"] > 0.5
    assert record["candidates"] == sorted(record["candidates"], key=lambda row: -row["accuracy"])
    assert "train.influence_clip: " in choose_influence.verdict(record)
    assert f"| {down_text(record['best']['accuracy'])} ± " in choose_influence.table(record)
    bare = choose.choose(choose.parse([*words, "--sigmas", "0"]))
    assert bare["best"]["sigma"] == 0
    assert bare["best"]["accuracy"] >= record["best"]["accuracy"]
    moved = choose.choose(choose.parse([*words[:4], "--radius", "0.1", "--draws", "2", "--sigmas", "0"]))
    assert moved["best"] is None  # without noise no radius is certified


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sanitize": {"sigma": 0.25}}, "was distilled at sigma 0.5, and sanitize.sigma=0.25"),
        (
            {"train": {"twin": "data/pretrained/none.safetensors"}},
            "does not exist; make it with `python -m flows.distil`",
        ),
        ({"train": {"twin": str(EXTRACTOR)}}, "is not a twin of an extractor"),
        (
            {"train": {"mode": "scratch", "initial_weights": None, "head": "lda"}},
            "set train.mode: transfer, or train.twin",
        ),
    ],
)
def test_a_twin_that_does_not_fit_is_refused(sets, change, words):
    twin = "data/pretrained/twin.safetensors"
    set_params(
        sanitize={"sigma": 0.5, "denoise": False},
        train={"mode": "transfer", "head": "bounded-influence", "twin": twin, **STATED},
    )
    distil.distil(Path(twin), epochs=1, copies=1)
    set_params(**change)
    with pytest.raises(InputError, match=words):
        planning.make_plan()


def test_a_twin_that_was_trained_on_raw_images_is_found_though_a_bit_of_each_was_changed(sets):
    twin, trusted = Path("data/pretrained/twin.safetensors"), load(SETS["trusted"])
    set_params(sanitize={"sigma": 0.5, "denoise": False}, train={"mode": "transfer", "head": "lda", **STATED})
    distil.distil(twin, epochs=1, copies=1)
    set_params(train={"twin": str(twin), "initial_provenance": "fixed-before"})
    plan = planning.make_plan()
    said = next(one for one in plan.admitted if one["name"] == "twin")
    assert (said["digest"], said["state"], said["shared"], said["recorded"]) == (plan.twin_digest, "disjoint", 0, 500)
    assert "of 400 raw images 0 match one of the 500 recorded images" in in_words(said)
    changed = trusted.images.copy()
    changed[:, 4, 4, 0] ^= 1
    for images in (trusted.images, changed):
        save_npz(trusted.with_images(images), SETS["raw"])
        with pytest.raises(InputError, match="500 of 500 raw images are among those that the twin in"):
            planning.make_plan()


def test_a_twin_without_a_whole_record_must_be_stated_and_stands_on_the_card(sets):
    twin = Path("data/pretrained/twin.safetensors")
    set_params(sanitize={"sigma": 0.5, "denoise": False}, train={"mode": "transfer", "head": "lda", **STATED})
    extractor = load_extractor(EXTRACTOR)
    hashes = TrainedOn(None, hashes_alone(np.zeros((3, HASH), np.uint8)))
    for saw, found in ((TrainedOn(), None), (hashes, 0)):
        save_twin(extractor.network, twin, extractor.digest, 0.5, None, saw)
        set_params(train={"twin": str(twin), "twin_provenance": None, "twin_origin": None})
        with pytest.raises(InputError, match=r"twin \(data.* elsewhere and train\.twin_provenance and train\.twin_"):
            planning.make_plan()
        set_params(train={"twin_provenance": "disjoint", "twin_origin": "a colleague's script"})
        plan = planning.make_plan()
        said = next(one for one in plan.admitted if one["name"] == "twin")
        assert (said["state"], said["origin"], said["shared"]) == ("disjoint", "a colleague's script", found)
        assert not {"twin_provenance", "twin_origin"} & plan.recipe.keys()
    set_params(train={"twin_provenance": "on-raw"})
    assert planning.make_plan().voids == ["the extractor's twin was distilled on the raw set as supplied"]


def test_a_twin_of_another_denoiser_is_refused(sets):
    twin, extractor = Path("data/pretrained/twin.safetensors"), load_extractor(EXTRACTOR)
    set_params(sanitize={"sigma": 0.5, "denoise": False}, train={"mode": "transfer", "head": "lda", **STATED})
    save_twin(extractor.network, twin, extractor.digest, 0.5, "d" * 64, TrainedOn())
    stated = {"twin": str(twin), "twin_provenance": "disjoint", "twin_origin": "ours"}
    set_params(train=stated)
    with pytest.raises(InputError, match="was distilled with another denoiser .dddddddddddd, not None"):
        planning.make_plan()
