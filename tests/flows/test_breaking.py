"""The ways to break an ensemble, each tried against a real store: an error of its own, or the conservative count."""

import hashlib
import json
import os
import shutil
import sqlite3
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from registered import RECIPE, M, Registered, make_ensemble, make_plan, registered

from cleanlabel.flows.artifacts import CERTIFICATE, CERTIFICATE_ARTIFACT
from cleanlabel.flows.ensemble import worker
from cleanlabel.flows.ensemble.entropy import recall_entropy
from cleanlabel.flows.ensemble.opening import open_ensemble
from cleanlabel.flows.ensemble.record import draw_params, draw_tags
from cleanlabel.flows.ensemble.seal import write_seal
from cleanlabel.flows.store.client import TAG, Store, create_run, finish, log_files
from cleanlabel.flows.store.registry import SMOOTHED, get_version
from cleanlabel.models.draw import make_again, make_batch
from cleanlabel.models.votes import merkle_root, votes_from_bytes, votes_hash
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.imageset import load, save_npz
from cleanlabel.sanitize.noise import draw_entropy
from cleanlabel.sanitize.paths import SETS


def sql(statement: str, *values: object) -> None:
    """What somebody with access to the database can do."""
    with sqlite3.connect(os.environ["MLFLOW_TRACKING_URI"].removeprefix("sqlite:///")) as database:
        assert database.execute(statement, values).rowcount > 0


def set_tag(run_id: str, key: str, value: str) -> None:
    sql("update tags set value = ? where run_uuid = ? and key = ?", value, run_id, f"{TAG}{key}")


def artifact(run_id: str, name: str) -> Path:
    return Path(".mlflow/artifacts") / run_id / "artifacts" / name


def edit_votes(run_id: str) -> str:
    """Change one vote in the artifact store; the new votes' hash."""
    path = artifact(run_id, "votes.npy")
    votes = np.load(path, allow_pickle=False)
    votes[0] = (votes[0] + 1) % 10
    np.save(path, votes, allow_pickle=False)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_an_untouched_version_passes_every_check_and_replays(version):
    checks = version.audit(replay=3)
    assert [check.found for check in checks if not check.passed] == []
    assert [check.name for check in checks if not check.name.startswith("replay of draw")] == [
        "seal",
        "plan",
        "votes",
        "registered votes",
        "attached certificate",
        "git-tracked certificate",
        "entropy",
        "certificate",
        "version tags",
        "reports",
        "reviews",
    ]
    replays = [check.found.partition(";")[0] for check in checks[11:]]
    assert replays == ["100.0% of the votes repeated (all must, on the same machine and libraries)"] * 3


def test_a_deleted_run_counts_for_nobody_and_is_reported(version):
    before = version.certify()
    version.store.client.delete_run(version.run_of(5))
    after = version.certify()
    assert (after.certificate["missing_draws"], after.certificate["lost_draws"]) == ([5], [5])
    assert (after.counts <= before.counts).all()
    assert after.counts.sum() == before.counts.sum() - 40
    assert (after.radius <= before.radius).all()
    assert (after.radius < before.radius).any()
    assert version.failures() == []
    assert any("draws 5 were lost since" in check.found for check in version.audit())


def test_a_deleted_run_makes_the_earlier_certificate_fail_its_audit(version):
    version.store.client.delete_run(version.run_of(5))
    assert any("disagree" in failure for failure in version.failures())


def test_a_duplicated_draw_names_both_runs(version):
    original = version.store.client.get_run(version.run_of(3))
    plan = version.ensemble.plan
    copy = create_run(
        version.store, "draw 3", draw_tags(plan, 3), draw_params(plan, 3), parent_id=version.version.run_id
    )
    log_files(version.store, copy, {"votes.npy": artifact(original.info.run_id, "votes.npy").read_bytes()})
    finish(version.store, copy)
    with pytest.raises(InputError, match="both claim draw 3; a draw counts once") as refused:
        version.certify()
    assert original.info.run_id in str(refused.value)
    assert copy in str(refused.value)


def test_an_edited_vote_names_its_run(version):
    run_id = version.run_of(3)
    edit_votes(run_id)
    with pytest.raises(InputError, match=rf"the votes of run {run_id} \(draw 3\) do not match the hash it recorded$"):
        version.certify()


@pytest.mark.parametrize("alike", [False, True])
def test_swapped_votes_files_name_whose_they_are(version, alike):
    files = {draw: artifact(version.run_of(draw), "votes.npy") for draw in range(M)}
    votes = {draw: path.read_bytes() for draw, path in files.items()}
    other, *_, another = (draw for draw in range(4, M) if votes[draw] != votes[3])
    if alike:  # as two models that agree on every point record it
        votes[another] = votes[other]
        set_tag(version.run_of(another), "votes_sha256", votes_hash(votes_from_bytes(votes[other], "one")))
        files[another].write_bytes(votes[other])
    files[3].write_bytes(votes[other])
    files[other].write_bytes(votes[3])
    owners = " or ".join(str(draw) for draw in range(M) if votes[draw] == votes[other])
    assert str(another) in owners.split(" or ") or not alike
    said = rf"\(draw 3\) do not match the hash it recorded; they are those of draw {owners}$"
    with pytest.raises(InputError, match=said):
        version.certify()


def test_sigma_edited_in_a_tag_of_a_draw_of_the_ensemble_or_of_the_version_is_named(version):
    run_id = version.run_of(3)
    set_tag(run_id, "sigma", "2")
    with pytest.raises(InputError, match=f"run {run_id} has the tag cleanlabel.sigma='2' where its plan says '0.5'"):
        version.certify()
    set_tag(run_id, "sigma", "0.5")
    set_tag(version.version.run_id, "sigma", "2")
    with pytest.raises(InputError, match=f"run {version.version.run_id} has the tag cleanlabel.sigma='2'"):
        version.certify()
    set_tag(version.version.run_id, "sigma", "0.5")
    version.store.client.set_model_version_tag(SMOOTHED, "1", f"{TAG}sigma", "2")
    seal, failure = version.failures()
    assert seal == f"seal: version tag {TAG}sigma was changed"
    assert failure.startswith("plan: smoothed-classifier version 1 has the tag cleanlabel.sigma='2' where its ensemble")


def test_a_figure_edited_in_a_tag_of_the_version_is_named(version):
    version.store.client.set_model_version_tag(SMOOTHED, "1", f"{TAG}certified_accuracy_r0_50", "0.99")
    seal, failure = version.failures()
    assert seal == f"seal: version tag {TAG}certified_accuracy_r0_50 was changed"
    assert "tag cleanlabel.certified_accuracy_r0_50='0.99' where its ensemble says" in failure


def test_an_added_draw_is_no_member(version):
    plan = version.ensemble.plan
    extra = create_run(version.store, "x", draw_tags(plan, M), draw_params(plan, M), parent_id=version.version.run_id)
    finish(version.store, extra)
    with pytest.raises(InputError, match=f"run {extra} claims draw {M}; the ensemble has draws 0..{M - 1}"):
        version.certify()


def test_a_draw_made_after_the_registration_is_no_member(version):
    run = version.store.client.get_run(version.run_of(5))
    path = artifact(version.version.run_id, "ensemble/ensemble.json")
    content = json.loads(path.read_text())
    content["votes_sha256"][5] = None
    registered_then = {draw: value for draw, value in enumerate(content["votes_sha256"]) if value}
    path.write_text(json.dumps(content))
    version.store.client.set_model_version_tag(SMOOTHED, "1", f"{TAG}votes_root", merkle_root(registered_then, M))
    assert run.info.status == "FINISHED"
    with pytest.raises(InputError, match="draw 5 was made after smoothed-classifier version 1 was registered"):
        version.certify()


def test_a_changed_test_set_is_named(version):
    test = load(SETS["test"])
    save_npz(test.with_images(255 - test.images), SETS["test"])
    with pytest.raises(InputError, match="test.npz is not the test set this ensemble voted on"):
        version.certify()


def test_a_draw_of_another_recipe_is_no_member(version):
    # Trained as draw 3 of the ensemble, but by a recipe of its own.
    version.store.client.delete_run(version.run_of(3))
    other = make_plan(recipe=RECIPE | {"epochs": 1})
    stranger = replace(version.ensemble, plan=other)
    materials = worker.prepare(other)
    (made,) = make_batch(materials, recall_entropy(stranger).value, [3])
    worker.record(version.store, stranger, materials, made, None, 0)
    with pytest.raises(InputError, match=r"\(draw 3\) was made for another plan; it does not belong"):
        version.certify()
    (run_id,) = _runs(version.store, "tags.`cleanlabel.draw` = '3'", version)
    set_tag(run_id, "plan", version.ensemble.plan.digest)  # it says otherwise now, but its params do not
    with pytest.raises(InputError, match=f"run {run_id} has the param recipe_digest="):
        version.certify()


def _runs(store: Store, filter_string: str, version: Registered) -> list[str]:
    parent = f"tags.mlflow.parentRunId = '{version.version.run_id}'"
    found = store.client.search_runs([store.experiment_id], f"{parent} and {filter_string}")
    return [run.info.run_id for run in found]


def test_a_failed_run_marked_finished_has_no_votes(version):
    version.store.client.delete_run(version.run_of(5))
    plan = version.ensemble.plan
    failed = create_run(
        version.store, "draw 5", draw_tags(plan, 5), draw_params(plan, 5), parent_id=version.version.run_id
    )
    finish(version.store, failed, "FAILED")
    with pytest.raises(InputError, match=f"not what was registered: child run {failed} id was added"):
        version.certify()  # as long as it says that it failed, it is no draw
    sql("update runs set status = 'FINISHED' where run_uuid = ?", failed)
    with pytest.raises(InputError, match=f"run {failed} has no readable artifact votes.npy"):
        version.certify()


def test_one_seed_for_two_draws_names_both_runs(version, monkeypatch):
    def twice(materials, entropy, draws):
        for made in make_batch(materials, entropy, draws):
            yield replace(next(make_batch(materials, entropy, [2])), draw=3) if made.draw == 3 else made

    monkeypatch.setattr(worker, "make_batch", twice)
    with pytest.raises(InputError, match=r"were made from the same seed; .* delete the second \(draw 3\)"):
        make_ensemble(version.store, m=M + 2)
    # The same with the tag made to fit: the pixels it was trained on give it away.
    ensemble = open_ensemble(version.store, make_plan(m=M + 2))
    rows = version.store.client.search_runs(
        [version.store.experiment_id], f"tags.mlflow.parentRunId = '{ensemble.run_id}' and tags.`cleanlabel.draw` = '3'"
    )
    set_tag(rows[0].info.run_id, "seal", "another")
    with pytest.raises(InputError, match="trained on the same sanitized copy"):
        registered(version.store, ensemble)


def test_a_draw_from_other_entropy_is_named_once_the_entropy_is_revealed(version, monkeypatch):
    def strange(materials, entropy, draws):
        for made in make_batch(materials, entropy, draws):
            yield next(make_batch(materials, draw_entropy("os").value, [3])) if made.draw == 3 else made

    monkeypatch.setattr(worker, "make_batch", strange)
    other = make_ensemble(version.store, m=M + 2)
    with pytest.raises(InputError, match=r"\(draw 3\) was not made from the entropy this ensemble committed to"):
        other.certify()


def test_votes_and_their_hash_edited_together_do_not_match_what_was_registered(version):
    run_id = version.run_of(3)
    set_tag(run_id, "votes_sha256", edit_votes(run_id))
    with pytest.raises(InputError, match="the votes of draw 3 are not the ones registered with"):
        version.certify()


def edit_everything_in_the_store(version: Registered) -> None:
    """A vote, its hash, the registered list, its root and the seal, so that the store agrees with itself."""
    run_id = version.run_of(3)
    new = edit_votes(run_id)
    set_tag(run_id, "votes_sha256", new)
    path = artifact(version.version.run_id, "ensemble/ensemble.json")
    content = json.loads(path.read_text())
    content["votes_sha256"][3] = new
    path.write_text(json.dumps(content))
    root = merkle_root(dict(enumerate(content["votes_sha256"])), M)
    version.store.client.set_model_version_tag(SMOOTHED, "1", f"{TAG}votes_root", root)
    write_seal(version.store, get_version(version.store, SMOOTHED, 1))


def test_votes_tags_and_certificate_edited_together_fail_at_the_root_that_git_holds(version):
    kept = CERTIFICATE.read_bytes()
    edit_everything_in_the_store(version)
    version.certify()  # the store agrees with itself: nothing in it can tell
    assert version.failures() == []
    CERTIFICATE.write_bytes(kept)  # but git does not follow
    (failure,) = version.failures()
    assert failure.startswith("git-tracked certificate: reports/certificate.json with root")
    assert "it and the store disagree" in failure


def test_a_certificate_written_anew_from_an_edited_store_fails_at_the_one_that_is_committed(version):
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    for command in (("init", "-q"), ("add", str(CERTIFICATE)), (*identity, "commit", "-qm", "certified")):
        subprocess.run(["git", *command], check=True)
    assert version.failures() == []
    assert any("committed in" in check.found for check in version.audit())
    edit_everything_in_the_store(version)
    version.certify()  # as the schedule would, over the file in the working tree
    seal, failure = version.failures()
    assert seal.startswith("seal: git holds another seal for this ensemble")
    assert failure.startswith("git-tracked certificate: git holds another root for this ensemble")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"recipe": RECIPE | {"epochs": 1, "warm_epochs": 1, "warm_on": "raw"}}, "training starts on the raw images"),
        ({"recipe": RECIPE | {"epochs": 1, "normalise": "raw"}}, "scaled by statistics of the raw images"),
    ],
)
def test_a_warm_start_on_raw_data_is_recorded_and_refused(version, change, reason):
    other = make_ensemble(version.store, "none", **change)
    assert other.version.tags[f"{TAG}certifiable"] == "false"
    assert version.store.client.get_run(other.ensemble.run_id).data.params["certifiable"] == "False"
    with pytest.raises(InputError, match=f"the ensemble is not certifiable: .*{reason}"):
        other.certify()
    # Nor can it be declared certifiable afterwards.
    other.store.client.set_model_version_tag(SMOOTHED, str(other.number), f"{TAG}certifiable", "true")
    set_tag(other.ensemble.run_id, "certifiable", "true")
    with pytest.raises(InputError, match="tag cleanlabel.certifiable='true' where its plan says 'false'"):
        other.certify()


def test_another_versions_certificate_is_not_this_ones(version):
    other = get_version(version.store, SMOOTHED, 2)
    foreign = artifact(other.run_id, CERTIFICATE_ARTIFACT).read_bytes()
    artifact(version.version.run_id, CERTIFICATE_ARTIFACT).write_bytes(foreign)
    seal, failure = version.failures()
    assert seal.startswith("seal: the certificate's field seal is")
    assert failure.startswith("attached certificate: the one attached to smoothed-classifier version 1 is of another")


def test_a_damaged_certificate_in_git_is_a_failed_check_and_no_traceback(version):
    for damage in ("", "[1]", "{}"):
        CERTIFICATE.write_text(damage)
        (failure,) = version.failures()
        assert failure.startswith("git-tracked certificate: ")


@pytest.mark.parametrize("damage", [b"", b"{}", b"[1]", b'{"plan_digest": 3}'])
def test_a_damaged_certificate_is_a_failed_check_and_no_traceback(version, damage):
    artifact(version.version.run_id, CERTIFICATE_ARTIFACT).write_bytes(damage)
    seal, failure = version.failures()
    assert seal.startswith("seal: ")
    assert failure.startswith("attached certificate: ")


def test_the_entropy_is_known_on_another_machine_once_the_certificate_reveals_it(version):
    before = version.certify().certificate
    shutil.rmtree(".state")
    assert version.certify().certificate == before
    assert version.failures() == []
    artifact(version.version.run_id, CERTIFICATE_ARTIFACT).unlink()
    with pytest.raises(InputError, match="was drawn on another machine"):
        version.certify()


def test_a_replay_that_differs_fails_by_the_environment_it_was_made_in(version, monkeypatch):
    def strange(materials, entropy, batch, draw):
        made = make_again(materials, entropy, batch, draw)
        return replace(made, votes=(made.votes + 1) % len(materials.raw.classes))

    monkeypatch.setattr("cleanlabel.models.draw.make_again", strange)
    same = [check for check in version.audit(replay=1) if check.name.startswith("replay")]
    assert not same[0].passed
    assert "all must, on the same machine and libraries" in same[0].found
    monkeypatch.setattr(worker, "environment", lambda materials: "another machine")
    other = [check for check in version.audit(replay=1) if check.name.startswith("replay")]
    assert not other[0].passed
    assert "98% must; made on" in other[0].found


def test_known_entropy_that_is_called_new_in_the_whole_store_contradicts_the_plan(version):
    known = make_ensemble(version.store, m=M + 2, entropy_spec=f"fixed:{'ab' * 32}")
    run_id = known.ensemble.run_id
    recorded = artifact(run_id, "ensemble/plan.json")
    recorded.write_text(json.dumps(json.loads(recorded.read_text()) | {"entropy_source": "os"}))
    set_tag(run_id, "entropy_source", "os")
    sql("update params set value = 'os' where run_uuid = ? and key = 'entropy_source'", run_id)
    name, number = f"{TAG}entropy_source", known.number
    sql("update model_version_tags set value = 'os' where key = ? and version = ?", name, number)
    with pytest.raises(InputError, match="calls its entropy 'os', and its plan says fixed"):
        known.certify()
    assert "calls its entropy 'os'" in known.failures()[1]
