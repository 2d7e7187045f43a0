"""Rule 6 against a real SQLite store: planned first, each draw once, votes as they were recorded."""

import os
import sqlite3
from dataclasses import replace

import numpy as np
import pytest
from models_recipes import PLAN as BASE

from cleanlabel.flows.ensemble.assembly import assemble, find_draws
from cleanlabel.flows.ensemble.entropy import recall_entropy
from cleanlabel.flows.ensemble.lock import ensemble_lock
from cleanlabel.flows.ensemble.opening import open_ensemble
from cleanlabel.flows.ensemble.record import describe, draw_params, draw_tags, root_of, save_ensemble
from cleanlabel.flows.store import client as store_module
from cleanlabel.flows.store.client import Store, create_run, find_runs, finish, log_files, log_metrics
from cleanlabel.flows.store.registry import SMOOTHED, register
from cleanlabel.models.plan import Plan, plan_from_dict
from cleanlabel.models.votes import count_votes, votes_hash, votes_to_bytes
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.imageset import save_npz
from cleanlabel.sanitize.paths import SETS

PLAN = replace(BASE, m=20, n_test=5, sigma=0.5)


def vote(store: Store, ensemble, draw: int, votes=(0, 1, 2, 0, 1), plan: Plan | None = None, status="FINISHED") -> str:
    """A child run as `smooth` records it, but for its weights."""
    row, plan = np.array(votes), plan or ensemble.plan
    run_id = create_run(
        store, f"draw {draw}", draw_tags(plan, draw), draw_params(plan, draw), parent_id=ensemble.run_id
    )
    log_files(store, run_id, {"votes.npy": votes_to_bytes(row)})
    log_metrics(
        store, run_id, {}, {"votes_sha256": votes_hash(row), "seal": f"seal {draw}", "copy_sha256": f"copy {draw}"}
    )
    finish(store, run_id, status)
    return run_id


def read_votes(store: Store, ensemble) -> dict:
    return assemble(store, ensemble).votes


def test_the_plan_and_a_commitment_stand_before_any_draw(store):
    ensemble = open_ensemble(store, PLAN)
    run = store.client.get_run(ensemble.run_id)
    assert run.data.params["m"] == "20"
    assert run.data.params["raw_digest"] == "raw"
    assert run.data.params["entropy_commitment"] == recall_entropy(ensemble).commitment
    stored = str(run.data.params) + str(run.data.tags)
    assert recall_entropy(ensemble).hex not in stored  # revealed with the certificate, not before
    assert find_draws(store, ensemble) == ({}, [])


def test_the_same_plan_is_the_same_ensemble_with_the_same_entropy(store):
    first = open_ensemble(store, PLAN)
    again = open_ensemble(store, PLAN)
    assert again == first
    assert recall_entropy(again) == recall_entropy(first)


def test_another_ensemble_on_the_same_raw_set_is_a_further_attempt(store):
    assert open_ensemble(store, PLAN).attempts_before == 0
    more = open_ensemble(store, replace(PLAN, m=30))
    assert more.attempts_before == 1
    assert recall_entropy(more) != recall_entropy(open_ensemble(store, PLAN))
    assert open_ensemble(store, replace(PLAN, m=40)).attempts_before == 2
    assert open_ensemble(store, replace(PLAN, sigma=1.0)).attempts_before == 3
    assert open_ensemble(store, replace(PLAN, raw_digest="new", raw_content="new")).attempts_before == 0


def test_a_worker_refuses_data_that_are_not_the_planned_ones(store, small_set):
    from cleanlabel.flows.ensemble import worker
    from cleanlabel.models.draw_sources import code_digest

    other = small_set.with_images(255 - small_set.images)
    for name in ("raw", "test"):
        save_npz(small_set, SETS[name])
    planned = replace(
        PLAN, raw_digest=small_set.digest, test_digest=small_set.digest, denoiser_digest=None, code_digest=code_digest()
    )
    first = worker.prepare(planned).raw
    assert first.digest == small_set.digest
    assert worker.prepare(replace(planned, m=7)).raw is first
    for field, name in (("raw_digest", "raw set"), ("test_digest", "test set"), ("code_digest", "code")):
        with pytest.raises(InputError, match=f"the {name} changed after the ensemble was planned"):
            worker.prepare(replace(planned, **{field: "other"}))
    with pytest.raises(InputError, match="the raw set changed after the ensemble was planned"):
        worker.prepare(replace(planned, raw_digest=other.digest))
    save_npz(other, SETS["raw"])  # the same process goes on with another ensemble, on another raw set
    assert worker.prepare(replace(planned, raw_digest=other.digest)).raw.digest == other.digest


def test_too_few_models_to_certify_anything_are_refused_before_anything_is_recorded(store):
    with pytest.raises(InputError, match="smooth.m=10: .* raise smooth.m to at least 11"):
        open_ensemble(store, replace(PLAN, m=10))
    with pytest.raises(InputError, match="smooth.m=11: .* raise smooth.m to at least 14"):
        open_ensemble(store, replace(PLAN, m=11, simultaneous=True))
    assert find_runs(store, "") == []
    open_ensemble(store, replace(PLAN, m=11))
    with pytest.raises(InputError, match="smooth.m=11: .*, attempt 2 on this .* raise smooth.m to at least 12"):
        open_ensemble(store, replace(PLAN, m=11, recipe=PLAN.recipe, alpha=0.001, n_test=6))


def test_a_plan_that_died_before_it_was_recorded_is_planned_anew(store):
    tags = {"kind": "ensemble", "plan": PLAN.digest, "family": PLAN.family}
    dead = create_run(store, "ensemble", tags, {})
    ensemble = open_ensemble(store, PLAN)
    assert ensemble.run_id != dead
    assert ensemble.attempts_before == 0
    assert store.client.get_run(dead).info.status == "KILLED"


def test_draws_are_found_once_each_and_unfinished_ones_apart(store):
    ensemble = open_ensemble(store, PLAN)
    for draw in (0, 2):
        vote(store, ensemble, draw)
    vote(store, ensemble, 3, status="KILLED")
    finished, unfinished = find_draws(store, ensemble)
    assert sorted(finished) == [0, 2]
    assert len(unfinished) == 1
    assert sorted(read_votes(store, ensemble)) == [0, 2]


def test_a_draw_claimed_twice_is_an_error_that_names_both_runs(store):
    ensemble = open_ensemble(store, PLAN)
    one, other = vote(store, ensemble, 1), vote(store, ensemble, 1)
    with pytest.raises(InputError, match="both claim draw 1") as refused:
        read_votes(store, ensemble)
    assert one in str(refused.value)
    assert other in str(refused.value)


def test_an_extra_draw_is_an_error(store):
    ensemble = open_ensemble(store, PLAN)
    run_id = vote(store, ensemble, 20)
    with pytest.raises(InputError, match=f"{run_id} claims draw 20; the ensemble has draws 0..19"):
        read_votes(store, ensemble)


def test_edited_votes_are_an_error_that_names_the_run(store):
    ensemble = open_ensemble(store, PLAN)
    run_id = vote(store, ensemble, 0)
    log_files(store, run_id, {"votes.npy": votes_to_bytes(np.array([0, 0, 0, 0, 0]))})
    with pytest.raises(InputError, match=f"votes of run {run_id} .* do not match"):
        read_votes(store, ensemble)


def test_a_run_of_another_plan_is_an_error(store):
    ensemble = open_ensemble(store, PLAN)
    run_id = vote(store, ensemble, 0, plan=replace(PLAN, recipe=PLAN.recipe | {"epochs": 9}))
    with pytest.raises(InputError, match=f"{run_id} .draw 0. was made for another plan"):
        read_votes(store, ensemble)


def test_a_finished_run_without_votes_is_an_error(store):
    ensemble = open_ensemble(store, PLAN)
    run_id = create_run(store, "draw 0", draw_tags(PLAN, 0), draw_params(PLAN, 0), parent_id=ensemble.run_id)
    finish(store, run_id)
    with pytest.raises(InputError, match=f"run {run_id} has no readable artifact votes.npy"):
        read_votes(store, ensemble)


def test_a_changed_plan_is_an_error(store):
    ensemble = open_ensemble(store, PLAN)
    changed = describe(replace(ensemble, plan=replace(PLAN, sigma=2.0)))
    store.client.log_dict(ensemble.run_id, changed, "ensemble/plan.json")
    with pytest.raises(InputError, match="was changed after it was recorded"):
        open_ensemble(store, PLAN)


def test_an_edited_param_or_tag_of_the_ensemble_is_an_error(store):
    ensemble = open_ensemble(store, PLAN)
    store.client.set_tag(ensemble.run_id, "cleanlabel.sigma", "2")
    with pytest.raises(InputError, match=f"run {ensemble.run_id} has the tag cleanlabel.sigma='2' .* says '0.5'"):
        open_ensemble(store, PLAN)


def test_a_further_attempt_cannot_call_itself_the_first(store):
    open_ensemble(store, PLAN)
    more = open_ensemble(store, replace(PLAN, m=30))
    store.client.log_dict(more.run_id, describe(replace(more, attempts_before=0)), "ensemble/plan.json")
    with pytest.raises(InputError, match=f"run {more.run_id} has the param attempt='2' where its plan says '1'"):
        open_ensemble(store, replace(PLAN, m=30))
    database = os.environ["MLFLOW_TRACKING_URI"].removeprefix("sqlite:///")
    with sqlite3.connect(database) as rows:
        rows.execute("update params set value = '1' where run_uuid = ? and key = 'attempt'", (more.run_id,))
    with pytest.raises(InputError, match="claims to be attempt 1 .* but 1 were planned before it"):
        open_ensemble(store, replace(PLAN, m=30))


def test_the_saved_ensemble_has_a_row_a_draw_and_says_nothing_of_when_or_where(store, tmp_path):
    ensemble = open_ensemble(store, PLAN)
    run_ids = [vote(store, ensemble, draw) for draw in (0, 1, 3)]
    votes = read_votes(store, ensemble)
    content = save_ensemble(store, ensemble, votes, tmp_path / "ensemble")
    assert content["missing_draws"] == [2, *range(4, 20)]
    assert content["votes_root"] == root_of(votes, 20)
    matrix = np.load(tmp_path / "ensemble" / "votes.npy", allow_pickle=False)
    assert matrix.shape == (20, 5)
    assert matrix[:4].tolist() == [[0, 1, 2, 0, 1], [0, 1, 2, 0, 1], [-1] * 5, [0, 1, 2, 0, 1]]
    assert (matrix[4:] == -1).all()
    text = (tmp_path / "ensemble" / "ensemble.json").read_text()
    assert not any(run_id in text for run_id in [*run_ids, ensemble.run_id])
    assert plan_from_dict(content) == PLAN


def test_an_ensemble_has_one_version_however_often_it_is_registered(store):
    ensemble = open_ensemble(store, PLAN)
    assert [register(store, SMOOTHED, ensemble.run_id, "ensemble", {"plan": PLAN.digest}, "") for _ in range(3)] == [
        1
    ] * 3
    other = open_ensemble(store, replace(PLAN, m=30))
    assert register(store, SMOOTHED, other.run_id, "ensemble", {"plan": other.plan.digest}, "") == 2


def test_every_page_of_a_long_list_is_read(store, monkeypatch):
    plan = replace(PLAN, m=30)
    ensemble = open_ensemble(store, plan)
    for draw in range(30):
        vote(store, ensemble, draw, votes=(draw % 3,) * 5)
    search = store.client.search_runs
    monkeypatch.setattr(store.client, "search_runs", lambda *a, **k: search(*a, **(k | {"max_results": 7})))
    assert count_votes(read_votes(store, ensemble), 30, 5, 3).tolist() == [[10, 10, 10]] * 5


def test_two_processes_never_work_on_one_ensemble(store):
    with ensemble_lock(PLAN):
        with pytest.raises(InputError, match="working on this ensemble already"), ensemble_lock(PLAN):
            pass
        with ensemble_lock(replace(PLAN, m=5)):
            pass
    with ensemble_lock(PLAN):
        pass


def test_a_store_that_is_away_is_one_sentence_without_its_password(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(InputError, match=r"MLflow store http://\*\*\*@127.0.0.1:9 refused") as refused:
        store_module.connect()
    assert "secret" not in str(refused.value)
    assert "\n" not in str(refused.value)
