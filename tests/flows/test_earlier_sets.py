"""A raw set that is nearly an earlier one, or in a copied project: what can be known is recorded with the plan."""

import json
import shutil
import sqlite3
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from models_recipes import PLAN
from registered import Registered, connect_here, make_ensemble, make_plan, make_sets, the_version

from cleanlabel.flows.artifacts import CERTIFICATE, PLAN_ARTIFACT
from cleanlabel.flows.certificate.checks import Check
from cleanlabel.flows.certificate.gate import Verdict
from cleanlabel.flows.ensemble import ledger
from cleanlabel.flows.ensemble.attempts import standing_so_far
from cleanlabel.flows.ensemble.earlier_sets import image_hashes, worth_telling
from cleanlabel.flows.ensemble.opening import open_ensemble
from cleanlabel.flows.ensemble.record import Ensemble, describe, read_ensemble
from cleanlabel.flows.environment import own_store
from cleanlabel.flows.report.card import card
from cleanlabel.flows.report.notices import notices
from cleanlabel.flows.report.page import render
from cleanlabel.flows.store.client import TAG, connect, find_runs, read_json
from cleanlabel.flows.store.registry import SMOOTHED
from cleanlabel.models.plan import attempts_before
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.files import write_json
from cleanlabel.sanitize.imageset import ImageSet, load, save_npz
from cleanlabel.sanitize.paths import SETS

PASSED = Verdict([Check("audit", passed=True, found="it was audited")])
LEDGER = Path(".state/attempts")


def numbered(images: np.ndarray, labels: np.ndarray) -> ImageSet:
    return ImageSet(images, labels, tuple(map(str, range(len(images)))), tuple(map(str, range(10))))


def one_removed(raw: ImageSet) -> ImageSet:
    return raw.take(np.arange(1, len(raw)))


def one_added(raw: ImageSet) -> ImageSet:
    images = np.concatenate([raw.images, 255 - raw.images[:1]])
    return numbered(images, np.append(raw.labels, 0))


def one_bit_changed(raw: ImageSet) -> ImageSet:
    images = raw.images.copy()
    images[7, 0, 0, 0] ^= 1
    return raw.with_images(images)


def grey_as_rgb(raw: ImageSet) -> ImageSet:
    return replace(raw, images=np.repeat(raw.images, 3, axis=3), channel_axis=True)


def relabelled(raw: ImageSet) -> ImageSet:
    return replace(raw, labels=(raw.labels + np.arange(len(raw))) % 10)


def half(raw: ImageSet) -> ImageSet:
    return raw.take(np.arange(0, len(raw), 2))


def padded(raw: ImageSet) -> ImageSet:
    """Twentyfold: of the new set, the earlier one is a twentieth."""
    others = np.random.default_rng(0).integers(0, 256, (19 * len(raw), *raw.image_shape), dtype=np.uint8)
    return numbered(np.concatenate([raw.images, others]), np.arange(20 * len(raw)) % 10)


def strangers(raw: ImageSet) -> ImageSet:
    """Eight of the earlier images among others: less than a tenth of either set."""
    images = np.random.default_rng(1).integers(0, 256, raw.images.shape, dtype=np.uint8)
    images[:8] = raw.images[:8]
    return raw.with_images(images)


def plan_on(change, **changes: object):
    """The plan for a changed raw set, which takes the place of the one in data/."""
    save_npz(change(load(SETS["raw"])), SETS["raw"])
    return make_plan(**changes)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (one_removed, "149 of 149 images are those of an earlier raw set (of 150 images) with 2 attempts"),
        (one_added, "150 of 151 images are those of an earlier raw set (of 150 images) with 2 attempts"),
        (one_bit_changed, "149 of 150 images are those of an earlier raw set with 2 attempts"),
        (grey_as_rgb, "150 of 150 images are those of an earlier raw set with 2 attempts"),
        (relabelled, "150 of 150 images are those of an earlier raw set with 2 attempts"),
        (half, "75 of 75 images are those of an earlier raw set (of 150 images) with 2 attempts"),
        (padded, "150 of 3000 images are those of an earlier raw set (of 150 images) with 2 attempts"),
        (strangers, "at most 8 of 150 images are those of any one earlier raw set (1 compared)"),
    ],
)
def test_a_raw_set_with_the_images_of_an_earlier_one_says_how_many(store, change, words):
    make_sets()
    first = [open_ensemble(store, make_plan(sigma=sigma)) for sigma in (0.5, 0.6)]
    plan = plan_on(change)
    would = standing_so_far(store, plan)
    made = open_ensemble(store, plan)
    assert made.earlier_raw_sets["in_words"] == would.earlier_raw_sets["in_words"] == words
    assert standing_so_far(store, plan).earlier_raw_sets == made.earlier_raw_sets
    assert (made.attempts_before, made.ledger) == (0, "kept")  # only equal content is the same raw set
    assert made.plan.raw_content != first[0].plan.raw_content
    told = worth_telling(made.earlier_raw_sets)
    asked = [] if change is strangers else [f"{words}. The level stays: only equal content is the same raw set."]
    assert told == asked
    assert describe(made)["earlier_raw_sets"] == made.earlier_raw_sets
    assert words in store.client.get_run(made.run_id).data.params["earlier_raw_sets"]


def test_the_nearest_of_many_earlier_raw_sets_is_named_and_the_others_are_counted(store):
    make_sets()
    raw = load(SETS["raw"])
    for seed, sigmas in ((0, (0.5,)), (1, (0.5, 0.6, 0.7)), (2, (0.5, 0.6))):
        rows = np.random.default_rng(seed).permutation(150)[: 120 + 10 * seed]
        save_npz(raw.take(np.sort(rows)), SETS["raw"])
        for sigma in sigmas:
            open_ensemble(store, make_plan(sigma=sigma))
    save_npz(raw, SETS["raw"])
    made = open_ensemble(store, make_plan())
    assert made.earlier_raw_sets["in_words"] == (
        "140 of 150 images are those of an earlier raw set (of 140 images) with 2 attempts; "
        "2 other earlier raw sets, with 4 attempts, share a tenth or more"
    )


def test_grey_images_in_a_colour_set_are_the_same_images(small_set):
    colour = np.repeat(small_set.images, 3, axis=3)
    colour[3, 0, 0, 0] ^= 1
    same = image_hashes(colour) == image_hashes(small_set.images)
    assert same.tolist() == [i != 3 for i in range(24)]


@pytest.mark.parametrize("loss", ["deleted", "damaged", "empty", "all of the ledger"])
def test_an_earlier_raw_set_without_readable_hashes_is_said_not_to_be_compared(store, loss):
    make_sets()
    first = open_ensemble(store, make_plan())
    kept = LEDGER / f"{first.plan.family}.images"
    assert kept.stat().st_size == 150 * 8
    if loss == "all of the ledger":
        shutil.rmtree(LEDGER)  # the store still knows of the set
    elif loss == "deleted":
        kept.unlink()
    else:
        kept.write_bytes(b"" if loss == "empty" else kept.read_bytes()[:-3])
    made = open_ensemble(store, plan_on(one_bit_changed))
    words = "the ledger holds no images of an earlier raw set to compare with; 1 earlier raw set was not compared, as"
    assert made.earlier_raw_sets["in_words"] == f"{words} no hashes are kept"
    assert worth_telling(made.earlier_raw_sets) == [f"{words[0].upper()}{words[1:]} no hashes are kept."]


def test_an_earlier_raw_set_that_only_git_knows_is_said_not_to_be_compared(store, empty_database, monkeypatch):
    make_sets()
    write_json(CERTIFICATE, describe(open_ensemble(store, make_plan())))
    shutil.rmtree(".state")
    shutil.copy(empty_database, "new.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{Path.cwd()}/new.db")
    made = open_ensemble(connect(), plan_on(one_removed))
    assert (made.earlier_raw_sets["compared"], made.earlier_raw_sets["not_compared"]) == (0, 1)


def test_a_raw_set_that_changed_under_the_plan_is_refused_before_anything_is_recorded(store):
    make_sets()
    plan = make_plan()
    plan_on(one_bit_changed)
    with pytest.raises(InputError, match=r"data/raw.npz was changed while this command planned on it"):
        open_ensemble(store, plan)
    assert find_runs(store, "") == []
    assert not LEDGER.exists()


def test_what_is_shared_stands_in_certificate_card_page_and_notices_and_the_audit_passes(version):
    plan_on(one_bit_changed)
    made = make_ensemble(version.store)
    certified = made.certify()
    c, raw, test = certified.certificate, load(SETS["raw"]), load(SETS["test"])
    words = "149 of 150 images are those of an earlier raw set with 2 attempts"
    assert c["earlier_raw_sets"]["in_words"] == words
    assert c["unknown_attempts"].endswith("; attempts in a clone or a copy of this project's folder are unknown too")
    assert f"{words}. The level stays: only equal content is the same raw set." in notices(certified, test)
    assert card(c, PASSED, 3, None).count(words) == 2
    assert render(certified, PASSED, 3, raw, test, b"").count(words) == 2
    assert made.failures() == []


@pytest.mark.parametrize("said", ["shared", "ledger"])
def test_a_record_that_no_longer_says_what_was_known_is_refused(version, said):
    plan_on(one_bit_changed)
    made = make_ensemble(version.store)
    forged: Ensemble = replace(made.ensemble, ledger="kept" if said == "shared" else "new")
    if said == "shared":
        forged = replace(forged, earlier_raw_sets=made.ensemble.earlier_raw_sets | {"in_words": "nothing", "alike": 0})
    rewrite(made, describe(forged))
    with pytest.raises(InputError, match="says another thing about earlier attempts and raw sets than the project's"):
        read_ensemble(made.store, made.store.client.get_run(made.ensemble.run_id))


def rewrite(made: Registered, content: dict) -> None:
    """Record another standing, in the plan and in the params of its run."""
    made.store.client.log_dict(made.ensemble.run_id, content, PLAN_ARTIFACT)
    earlier, new = content.get("earlier_raw_sets"), "attempts_before" in content
    with sqlite3.connect(".mlflow/mlflow.db") as rows:
        for key, value in (
            ("attempt", str(attempts_before(content) + new)),
            ("ledger", content["ledger"]),
            ("earlier_raw_sets", json.dumps(earlier, sort_keys=True)),
        ):
            rows.execute(
                "update params set value = ? where run_uuid = ? and key = ?", (value, made.ensemble.run_id, key)
            )


def test_the_second_attempt_has_one_number_wherever_it_is_read(version):
    second = the_version(version.store, 2)
    certified = second.certify()
    c, raw, test = certified.certificate, load(SETS["raw"]), load(SETS["test"])
    run = second.store.client.get_run(second.ensemble.run_id)
    root = Path(f".mlflow/artifacts/{run.info.run_id}/artifacts/ensemble")
    (logged,) = (
        m
        for m in second.store.client.search_logged_models([second.store.experiment_id])
        if m.source_run_id == run.info.run_id
    )
    (line,) = (
        found
        for found in map(json.loads, (LEDGER / f"{second.ensemble.plan.family}.jsonl").read_text().splitlines())
        if found["plan"] == second.ensemble.plan.digest
    )
    records = {
        "plan": read_json(second.store, run.info.run_id, PLAN_ARTIFACT),
        "votes": json.loads((root / "ensemble.json").read_text()),
        "served": json.loads((root / "data" / "networks" / "smoothed.json").read_text()),
        "attached": json.loads((root / "certificate" / "certificate.json").read_text()),
        "in git": json.loads(CERTIFICATE.read_text()),
        "certificate": c,
        "ledger": line,
    }
    assert {name: record["attempts_before"] for name, record in records.items()} == dict.fromkeys(records, 1)
    assert not [name for name, record in records.items() if "attempt" in record]
    assert second.tags()["cleanlabel.attempt"] == run.data.params["attempt"] == logged.params["attempt"] == "2"
    words = [
        *notices(certified, test),
        card(c, PASSED, 2, None),
        render(certified, PASSED, 2, raw, test, b""),
        str(second.store.client.get_model_version(SMOOTHED, "2").tags),
    ]
    assert "(attempt 2 on this raw set" in words[-3]
    assert "(attempt 2 on this raw set" in words[-2]
    assert not [one for one in words if "attempt 1 " in one.lower() or "first attempt" in one]


def test_a_version_of_before_counts_from_zero_in_its_record_and_passes_its_audit(version):
    second = the_version(version.store, 2)
    run_id, plan = second.ensemble.run_id, second.ensemble.plan
    old = replace(second.ensemble, earlier_raw_sets=None)
    assert describe(old)["attempt"] == 1
    rewrite(second, describe(old))
    served = Path(f".mlflow/artifacts/{run_id}/artifacts/ensemble/data/networks/smoothed.json")
    description = json.loads(served.read_text())
    served.write_text(json.dumps(description | {"attempt": description.pop("attempts_before")}))
    (served.parents[2] / "seal.json").unlink()  # versions of before were not sealed
    version.store.client.delete_model_version_tag(SMOOTHED, "2", f"{TAG}seal")
    book = LEDGER / f"{plan.family}.jsonl"
    lines = [json.loads(line) for line in book.read_text().splitlines()]
    for line in lines:
        line |= {"attempt": line.pop("attempts_before")}
        del line["earlier_raw_sets"]
    book.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    assert [line.attempts_before for line in ledger.read_lines(plan.family)] == [0, 1]

    again = the_version(version.store, 2)
    assert again.ensemble == old
    c = again.certify().certificate
    assert (c["attempt"], c["level"]) == (1, 0.0005)
    assert "earlier_raw_sets" not in c
    assert again.tags()["cleanlabel.attempt"] == "1"  # as its record says
    assert "(attempt 2 on this raw set" in card(c, PASSED, 2, None)
    assert again.failures() == []
    # imported late: it needs torch
    from cleanlabel.models.smoothed import SmoothedClassifier

    assert SmoothedClassifier(served.parent).attempts_before == 1
    assert open_ensemble(version.store, replace(plan, m=30)).attempts_before == 2


def test_a_copied_project_says_so_in_all_that_it_plans_and_a_moved_one_does_not(version, tmp_path, monkeypatch):
    moved, copy = tmp_path.with_name(f"{tmp_path.name}-moved"), tmp_path.with_name(f"{tmp_path.name}-copy")
    version = the_version(version.store, 1)
    (LEDGER / "place").unlink()  # of the snapshot that this folder is copied from
    assert make_ensemble(version.store, m=20).ensemble.ledger == "kept"
    shutil.copytree(tmp_path, copy)
    tmp_path.rename(moved)
    for folder, past in ((moved, "kept"), (copy, "copied")):
        monkeypatch.chdir(folder)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", own_store(folder))
        store = connect_here()
        made = [make_ensemble(store, m=m) for m in (21, 22)]
        assert [(one.ensemble.attempts_before, one.ensemble.ledger) for one in made] == [(3, past), (4, past)]
        certified = made[1].certify()
        found, said = notices(certified, load(SETS["test"])), "This project's folder is a copy of another one"
        assert any(one.startswith(said) for one in found) == (past == "copied")
        assert ("copied or restored from" in certified.certificate["unknown_attempts"]) == (past == "copied")
        assert ("the ledger of attempts is a copy" in card(certified.certificate, PASSED, 5, None)) == (
            past == "copied"
        )
        assert made[1].failures() == []
    tmp_path.mkdir()  # pytest removes it


def test_a_ledger_of_before_counts_as_this_folders_own(store):
    open_ensemble(store, PLAN)
    (LEDGER / "place").unlink()
    assert open_ensemble(store, replace(PLAN, sigma=0.9)).ledger == "kept"
    assert (LEDGER / "place").is_file()
