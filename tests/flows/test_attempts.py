"""Rule 6: every ensemble on a raw set spends alpha, whatever else was changed, and whichever memory of it is left."""

import os
import shutil
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from mlflow.exceptions import MlflowException
from models_recipes import PLAN
from registered import make_sets, set_params

from cleanlabel.flows.artifacts import CERTIFICATE
from cleanlabel.flows.ensemble import planning
from cleanlabel.flows.ensemble.attempts import standing_so_far
from cleanlabel.flows.ensemble.opening import open_ensemble
from cleanlabel.flows.ensemble.record import Ensemble, describe
from cleanlabel.flows.environment import own_store
from cleanlabel.flows.report.card import assumptions, level_in_words
from cleanlabel.flows.store.client import Store, connect, find_runs
from cleanlabel.models.plan import Plan
from cleanlabel.sanitize.content import content_digest
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.files import write_json
from cleanlabel.sanitize.imageset import load, save_npz
from cleanlabel.sanitize.paths import SETS

ROOT = Path(__file__).resolve().parents[2]
LEDGER = Path(".state/attempts/content.jsonl")


def git(*words: str) -> None:
    who = ("-c", "user.name=ada", "-c", "user.email=ada@example.org")
    subprocess.run(["git", *who, *words], check=True, capture_output=True)


def before(store: Store | None, plan: Plan) -> int:
    return standing_so_far(store, plan).attempts_before


def another_store(empty_database: Path, monkeypatch: pytest.MonkeyPatch, name: str = "new") -> Store:
    """An empty store, in the place of the one before."""
    path = Path.cwd() / f"{name}.db"
    shutil.copy(empty_database, path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{path}")
    return connect()


def asked_for(**sections: dict) -> Plan:
    """The plan that params.yaml asks for with these changes, without a denoiser."""
    set_params(sanitize={"denoise": False})
    set_params(**sections)
    return planning.make_plan()


def rename(images):
    return replace(images, ids=tuple(f"renamed-{i}" for i in range(len(images))))


def reverse(images):
    """As an array in another order comes, whose ids are places."""
    return replace(images.take(np.arange(len(images))[::-1]), ids=images.ids)


def rename_classes(images):
    """Other names, in another order: the numbers change too."""
    k = len(images.classes)
    return replace(images, labels=k - 1 - images.labels, classes=tuple(f"class {i}" for i in range(k)))


@pytest.mark.parametrize(
    "sections",
    [
        {"train": {"head_l2": 2.0}},  # an MLP has no such head
        {"sanitize": {"sigma": 1.0001}},
        {"smooth": {"m": 101}},
        {"certify": {"method": "margin"}},
    ],
)
def test_a_changed_param_is_a_further_attempt_at_half_the_level(store, sections):
    make_sets()
    first = open_ensemble(store, asked_for())
    more = open_ensemble(store, asked_for(**sections))
    assert (first.attempts_before, more.attempts_before) == (0, 1)
    assert more.plan.level(more.attempts_before) == first.plan.level(0) / 2


def test_a_denoiser_of_another_seed_is_a_further_attempt(store):
    assert open_ensemble(store, PLAN).attempts_before == 0
    assert open_ensemble(store, replace(PLAN, denoiser_digest="of another seed")).attempts_before == 1


@pytest.mark.parametrize("change", [rename, reverse, rename_classes])
def test_the_same_images_in_another_guise_are_the_same_raw_set(store, change):
    make_sets()
    first = open_ensemble(store, asked_for())
    save_npz(change(load(SETS["raw"])), SETS["raw"])
    more = open_ensemble(store, asked_for(train={"head_l2": 2.0}))  # and by another recipe
    assert more.plan.raw_content == first.plan.raw_content
    assert (more.attempts_before, more.plan.level(more.attempts_before)) == (1, 0.0005)


def test_other_pixels_and_other_labels_are_another_raw_set(small_set):
    pixels = small_set.images.copy()
    pixels[5, 0, 0, 0] ^= 1
    labels = small_set.labels.copy()
    labels[5] = (labels[5] + 1) % 3
    rows = [*range(23), 20]  # an image twice, and another one of its class not at all
    twice = replace(small_set, images=small_set.images[rows])
    others = [small_set, small_set.with_images(pixels), replace(small_set, labels=labels), twice]
    others.append(small_set.with_images(small_set.images.reshape(-1, 4, 16, 1)))
    assert len({content_digest(one) for one in others}) == len(others)


def test_an_ensemble_on_another_raw_set_is_a_first_attempt(store):
    open_ensemble(store, PLAN)
    assert open_ensemble(store, replace(PLAN, raw_digest="b", raw_content="other")).attempts_before == 0


def test_make_clean_keeps_the_ledger(store, empty_database, monkeypatch):
    open_ensemble(store, PLAN)
    shutil.copy(ROOT / "Makefile", "Makefile")
    said = subprocess.run(["make", "clean"], check=True, capture_output=True, text=True).stdout
    assert "kept .state/attempts" in said
    assert [path.name for path in Path(".state").iterdir()] == ["attempts"]
    assert not Path(".mlflow").exists()
    new = another_store(empty_database, monkeypatch)
    assert before(new, PLAN) == before(None, PLAN) == 1
    again = open_ensemble(new, PLAN)  # the same plan, but other entropy: another ensemble
    assert (again.attempts_before, again.ledger) == (1, "kept")


def test_the_store_is_asked_where_the_ledger_is_gone(store):
    open_ensemble(store, PLAN)
    shutil.rmtree(".state")
    more = open_ensemble(store, replace(PLAN, sigma=0.9))
    assert (more.attempts_before, more.ledger) == (1, "new")
    assert open_ensemble(store, replace(PLAN, sigma=0.8)).attempts_before == 2  # each once


def test_certificates_in_git_are_asked_where_all_else_is_gone(store, empty_database, monkeypatch):
    git("init", "--quiet")
    for sigma in (1.0, 0.9):
        write_json(CERTIFICATE, describe(open_ensemble(store, replace(PLAN, sigma=sigma))))
        git("add", "--force", str(CERTIFICATE))
        git("commit", "--quiet", "--message", "certified")
    write_json(CERTIFICATE, {"no": "certificate"})
    shutil.rmtree(".state")
    new = another_store(empty_database, monkeypatch)
    assert before(new, PLAN) == 2
    assert before(new, replace(PLAN, raw_content="other", raw_digest="b")) == 0
    git("rm", "--quiet", "--force", str(CERTIFICATE))
    git("commit", "--quiet", "--message", "removed")
    assert open_ensemble(new, PLAN).attempts_before == 2


def certified_in_git(store: Store, sigma: float, *words: str) -> None:
    """Plan an ensemble and commit its certificate."""
    write_json(CERTIFICATE, describe(open_ensemble(store, replace(PLAN, sigma=sigma))))
    git("add", "--force", str(CERTIFICATE))
    git("commit", "--quiet", "--message", "certified", *words)


def only_branches(*deleted: str) -> None:
    """What a clone has: no reflog, and not these branches."""
    for name in deleted:
        git("branch", "--quiet", "-D", name)
    git("reflog", "expire", "--expire=now", "--all")


def merged(_store: Store) -> None:
    """The side branch was merged, but not its certificate."""
    git("merge", "--quiet", "--strategy", "ours", "--message", "merged", "side")
    only_branches("side")


def merged_anew(store: Store) -> None:
    """A merge has a certificate that neither side has."""
    git("merge", "--quiet", "--strategy", "ours", "--no-commit", "side")
    certified_in_git(store, 0.8)
    only_branches("side")


def unmerged(_store: Store) -> None:
    """The side branch is there, and was never merged."""
    only_branches()


def reset_away(store: Store) -> None:
    """The branches are gone, and with them their certificates."""
    git("branch", "--quiet", "-D", "side")
    certified_in_git(store, 0.8)
    git("reset", "--quiet", "--hard", "HEAD~")


def stashed(store: Store) -> None:
    """A certificate that was put aside."""
    write_json(CERTIFICATE, describe(open_ensemble(store, replace(PLAN, sigma=0.8))))
    git("stash", "--quiet")


@pytest.mark.parametrize(
    ("history", "known"), [(merged, 2), (merged_anew, 3), (unmerged, 2), (reset_away, 3), (stashed, 3)]
)
def test_every_certificate_that_git_still_holds_is_an_attempt(store, history, known, empty_database, monkeypatch):
    git("init", "--quiet", "--initial-branch", "main")
    git("config", "user.name", "ada")
    git("config", "user.email", "ada@example.org")
    certified_in_git(store, 1.0)
    git("switch", "--quiet", "--create", "side")
    certified_in_git(store, 0.9)
    git("switch", "--quiet", "main")
    git("commit", "--quiet", "--allow-empty", "--message", "something else")
    history(store)
    shutil.rmtree(".state")
    assert before(another_store(empty_database, monkeypatch), PLAN) == known


def test_a_deleted_ensemble_is_an_attempt_where_only_the_store_knows_it(store):
    for sigma in (1.0, 0.9):
        store.client.delete_run(open_ensemble(store, replace(PLAN, sigma=sigma)).run_id)
    shutil.rmtree(".state")
    assert before(store, PLAN) == 2
    assert open_ensemble(store, replace(PLAN, sigma=0.8)).attempts_before == 2


def test_a_certificate_that_is_not_committed_yet_is_asked_too(store, empty_database, monkeypatch):
    write_json(CERTIFICATE, describe(open_ensemble(store, PLAN)))
    shutil.rmtree(".state")
    assert before(another_store(empty_database, monkeypatch), PLAN) == 1


def test_a_project_without_a_past_says_that_earlier_attempts_are_unknown(store):
    first, other = open_ensemble(store, PLAN), open_ensemble(store, replace(PLAN, raw_digest="b", raw_content="other"))
    assert (first.attempts_before, first.ledger, other.ledger) == (0, "new", "kept")
    assert describe(first)["ledger"] == "new"
    assert store.client.get_run(first.run_id).data.params["ledger"] == "new"
    assert open_ensemble(store, PLAN) == first  # resumed: what was known at first stands
    assert any("made elsewhere" in one for one in assumptions({"noise_distance": 0.0}))


def test_a_crash_between_ledger_and_store_costs_an_attempt(store):
    with sqlite3.connect(".mlflow/mlflow.db") as rows:
        rows.execute("create trigger full before insert on runs begin select raise(abort, 'disk full'); end")
    with pytest.raises(MlflowException, match=r"IntegrityError\) disk full"):
        open_ensemble(store, PLAN)
    with sqlite3.connect(".mlflow/mlflow.db") as rows:
        rows.execute("drop trigger full")
    assert find_runs(store, "") == []
    assert open_ensemble(store, PLAN).attempts_before == 1


def test_a_torn_line_of_the_ledger_is_an_attempt_and_breaks_none_after_it(store):
    LEDGER.parent.mkdir(parents=True)
    LEDGER.write_text('{"plan": "died whi')
    assert open_ensemble(store, PLAN).attempts_before == 1
    assert open_ensemble(store, replace(PLAN, sigma=0.9)).attempts_before == 2
    assert len(LEDGER.read_text().splitlines()) == 3


def test_what_is_refused_before_it_is_planned_is_no_attempt(store):
    with pytest.raises(InputError, match="raise smooth.m to at least 11"):
        open_ensemble(store, replace(PLAN, m=10))
    assert not LEDGER.exists()
    assert open_ensemble(store, PLAN).attempts_before == 0


def test_the_same_plan_with_the_same_fixed_entropy_stays_the_attempt_it_was(store, empty_database, monkeypatch):
    fixed = replace(PLAN, entropy_spec="fixed:1f")
    first, more = open_ensemble(store, fixed), open_ensemble(store, PLAN)
    again = open_ensemble(another_store(empty_database, monkeypatch), fixed)
    assert describe(again) == describe(first)  # to the byte: its votes are the same too
    assert (first.attempts_before, more.attempts_before) == (0, 1)


def test_declared_ensembles_share_alpha_and_further_ones_get_what_is_left(store):
    three = replace(PLAN, ensembles=3)
    made = [open_ensemble(store, replace(three, sigma=sigma)) for sigma in (1.0, 0.9, 0.8, 0.7, 0.6)]
    assert [one.attempts_before for one in made] == [0, 1, 2, 3, 4]
    levels = [one.plan.level(one.attempts_before) for one in made]
    assert levels == pytest.approx([0.001 / 3] * 3 + [0.0005, 0.00025])
    assert sum(three.level(a) for a in range(60)) < 2 * three.alpha
    words = level_in_words({**describe(made[1]), "level": levels[1]})
    assert words.endswith("level 0.000334 (attempt 2 on this raw set, one of 3 planned to share alpha)")


@pytest.mark.parametrize("left", ["ledger", "store", "git"])
def test_another_declared_number_is_refused_by_whichever_memory_is_left(store, left, empty_database, monkeypatch):
    first = open_ensemble(store, replace(PLAN, ensembles=3))
    if left != "ledger":
        shutil.rmtree(".state")
    if left == "git":
        git("init", "--quiet")
        write_json(CERTIFICATE, describe(first))
        git("add", "--force", str(CERTIFICATE))
    asked = store if left == "store" else another_store(empty_database, monkeypatch)
    with pytest.raises(InputError, match=r"smooth.ensembles=2: .* planned with 3, .*; set it to 3$"):
        open_ensemble(asked, replace(PLAN, sigma=0.9, ensembles=2))
    assert open_ensemble(asked, replace(PLAN, sigma=0.9, ensembles=3)).attempts_before == 1


def test_a_run_that_claims_an_earlier_attempt_than_the_ledger_has_is_refused(store):
    first, more = open_ensemble(store, PLAN), open_ensemble(store, replace(PLAN, m=30))
    forged: Ensemble = replace(more, attempts_before=0)
    store.client.log_dict(more.run_id, describe(forged), "ensemble/plan.json")
    with sqlite3.connect(".mlflow/mlflow.db") as rows:
        rows.execute("update params set value = '1' where run_uuid = ? and key = 'attempt'", (more.run_id,))
        rows.execute("delete from tags where run_uuid = ?", (first.run_id,))  # as if it had never been
    with pytest.raises(InputError, match="claims to be attempt 1 on its raw set, but 1 were planned before it"):
        open_ensemble(store, more.plan)


PLANNER = """
import sys
from dataclasses import replace
from models_recipes import PLAN
from cleanlabel.flows.ensemble.opening import open_ensemble
from cleanlabel.flows.store.client import connect
store = connect()
print("ready", flush=True)
sys.stdin.readline()
print(*(open_ensemble(store, replace(PLAN, sigma=sigma)).attempts_before for sigma in (0.6, 0.5, 0.4)))
"""


def test_processes_that_plan_at_once_get_different_attempts(store, tmp_path):
    env = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "MLFLOW_TRACKING_URI": own_store(tmp_path)}
    command, pipe = [sys.executable, "-c", PLANNER], subprocess.PIPE
    with subprocess.Popen(command, env=env, stdin=pipe, stdout=pipe, text=True) as other:
        assert other.stdin
        assert other.stdout
        assert other.stdout.readline() == "ready\n"
        other.stdin.write("go\n")
        other.stdin.flush()
        own = [open_ensemble(store, replace(PLAN, sigma=sigma)).attempts_before for sigma in (0.9, 0.8, 0.7)]
        theirs = [int(word) for word in other.stdout.read().split()]
    assert sorted(own + theirs) == list(range(6))
    assert own == sorted(own)
    assert theirs == sorted(theirs)
    assert before(store, replace(PLAN, sigma=0.6)) == theirs[0]
    assert before(store, PLAN) == 6


def test_a_plan_of_before_keeps_its_digest_its_family_and_its_level(store):
    old = replace(PLAN, raw_content=None)
    assert {"raw_content", "ensembles", "ledger"}.isdisjoint(old.as_dict())
    assert old.family == replace(old, m=30).family != replace(old, sigma=0.9).family
    assert [old.level(a) for a in range(3)] == [0.001, 0.0005, 0.00025]
    assert open_ensemble(store, old).attempts_before == 0
    assert open_ensemble(store, PLAN).attempts_before == 1  # what was planned before on this raw set counts
