"""One life for every kind of ensemble: planned, made, killed, certified, judged, audited, served, and refused.

The table of kinds stands in `tests/kinds.py`. Each kind's ensemble is made once; each step of its life is a test of its
own, on that ensemble or on a copy of it.
"""

import json
import os
import secrets
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from random import Random
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import mlflow
import numpy as np
import pytest
from filled import filled
from kinds import ALIKE, CLASSES, N_TEST, SAME_FOR_ALL, TABLE, Kind, make_parts, set_up
from registered import (
    ROOT,
    InThisProcess,
    Registered,
    connect_here,
    enter,
    enter_copy,
    forget_elsewhere,
    seal_again,
    set_params,
    the_version,
)

from cleanlabel.flows.artifacts import CERTIFICATE, CERTIFICATE_ARTIFACT, PLAN_ARTIFACT
from cleanlabel.flows.certificate.gate import Verdict, judge
from cleanlabel.flows.certificate.record import Certified, certify_version, compute
from cleanlabel.flows.ensemble import planning, worker
from cleanlabel.flows.ensemble.assembly import assemble, find_draws
from cleanlabel.flows.ensemble.attempts import standing_so_far
from cleanlabel.flows.ensemble.entropy import recall_entropy
from cleanlabel.flows.ensemble.making import make_version
from cleanlabel.flows.ensemble.opening import open_ensemble
from cleanlabel.flows.ensemble.reach import require_reach
from cleanlabel.flows.ensemble.record import Ensemble, draw_params, draw_tags, read_ensemble
from cleanlabel.flows.report.card import card, not_covered
from cleanlabel.flows.report.influences import counts_table, frontier_table
from cleanlabel.flows.store.client import TAG, create_run
from cleanlabel.flows.store.registry import SMOOTHED, aliases_of, get_version
from cleanlabel.models.answers import answers, largest_radius
from cleanlabel.models.certificate import ABSTAIN, certified_accuracy
from cleanlabel.models.draw import make_batch
from cleanlabel.models.influence import radius_between
from cleanlabel.models.influenced import COSTS
from cleanlabel.models.params import CertifyParams, GateParams, SmoothParams, TrainParams
from cleanlabel.models.partition import partition_radius
from cleanlabel.models.plan import LATER, Plan, noise_distance_of
from cleanlabel.models.rounding import down
from cleanlabel.models.smoothed import DESCRIPTION, SmoothedClassifier
from cleanlabel.sanitize import door
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.imageset import load
from cleanlabel.sanitize.params import read_params
from cleanlabel.sanitize.paths import SETS

READ_BEFORE = {"plan_digest", "entropy", "entropy_source", "votes_root", "reported", "image_shape"}
"""Fields of a certificate that an audit reads before it compares all of them; another check fails on each."""


class Killed(Exception):
    """The process that makes the draws is gone."""


@dataclass
class Life:
    """A kind, its registered and certified ensemble, and the folder where they stand."""

    kind: Kind
    version: Registered
    plan: Plan
    """As `params.yaml` gives it."""
    asked_again: list[list[int]]
    """The draws that were asked for when the command was run again."""
    reopened: Ensemble
    uri: str

    @cached_property
    def votes(self) -> dict[int, np.ndarray]:
        return assemble(self.version.store, self.version.ensemble).votes

    @cached_property
    def certified(self) -> Certified:
        """The certificate, computed again from the store's votes."""
        return self.computed()

    @property
    def truth(self) -> np.ndarray:
        return load(SETS["test"]).labels

    @property
    def distance(self) -> float:
        raw = load(SETS["raw"])
        return noise_distance_of(len(raw), raw.image_shape, self.kind.sigma, self.plan.test_sigma)

    def computed(self, **changes: Any) -> Certified:
        """The certificate if its ensemble had these changes, of its plan or its number of earlier attempts."""
        before = changes.pop("attempts_before", 0)
        plan = replace(self.plan, **changes)
        ensemble = replace(self.version.ensemble, plan=plan, attempts_before=before)
        params = read_params("certify", CertifyParams).model_copy(update={"simultaneous": plan.simultaneous})
        raw, test, entropy = load(SETS["raw"]), load(SETS["test"]), recall_entropy(self.version.ensemble)
        return compute(ensemble, self.votes, [], entropy, test, raw.image_shape, params)

    def set_tag_of_draw_0(self, key: str, value: str) -> None:
        """What somebody with access to the database can do."""
        change = "update tags set value = ? where run_uuid = ? and key = ?"
        with sqlite3.connect(os.environ["MLFLOW_TRACKING_URI"].removeprefix("sqlite:///")) as database:
            assert database.execute(change, (value, self.version.run_of(0), f"{TAG}{key}")).rowcount == 1

    def artifact(self, name: str) -> Path:
        return Path(".mlflow/artifacts") / str(self.version.version.run_id) / "artifacts" / name

    def edit_json(self, name: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        path = self.artifact(name)
        path.write_text(json.dumps(change(json.loads(path.read_text()))))


def make(kind: Kind) -> Life:
    """Plan the kind's ensemble, kill the command after a batch, run it again, register and certify it."""
    store = connect_here()
    set_up(kind)
    plan = planning.make_plan()
    first = open_ensemble(store, plan)
    unfinished = create_run(store, "draw 1", draw_tags(plan, 1), draw_params(plan, 1), parent_id=first.run_id)

    def dies(ensemble: Ensemble, batches: list[tuple[range, list[int]]], planned: int) -> None:
        batch, wanted = batches[0]
        InThisProcess("all")(ensemble, [(batch, wanted[:2])], planned)
        raise Killed

    with pytest.raises(Killed):
        make_version(store, first, dies)
    store.client.update_run(unfinished, "RUNNING")
    reopened, again = open_ensemble(store, planning.make_plan()), InThisProcess("all", lose=1)
    number = make_version(store, reopened, again)
    version = the_version(store, number)
    version.gate(version.certify())
    return Life(kind, version, plan, [wanted for _, wanted in again.given], reopened, os.environ["MLFLOW_TRACKING_URI"])


@pytest.fixture(scope="module")
def made(empty_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Kind], tuple]]:
    """(folder, life) of a kind, made when it is first asked for."""
    base, found = tmp_path_factory.mktemp("parts"), {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(base)
        make_parts()

    def of(kind: Kind) -> tuple[Path, Life]:
        if kind.name not in found:
            folder = tmp_path_factory.mktemp("kind")
            shutil.copytree(base, folder, dirs_exist_ok=True)
            with pytest.MonkeyPatch.context() as patch:
                enter(folder, patch, empty_database)
                patch.setattr(secrets, "token_bytes", Random(kind.name).randbytes)  # every run has the same votes
                found[kind.name] = folder, make(kind)
        return found[kind.name]

    yield of
    forget_elsewhere()


@pytest.fixture(params=TABLE, ids=lambda kind: kind.name)
def life(request: pytest.FixtureRequest, made, monkeypatch: pytest.MonkeyPatch) -> Life:
    """A kind's ensemble where it was made, for tests that change nothing."""
    folder, found = made(request.param)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", found.uri)
    mlflow.set_tracking_uri(found.uri)
    forget_elsewhere()
    return found


@pytest.fixture(params=TABLE, ids=lambda kind: kind.name)
def copied(request: pytest.FixtureRequest, made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Life:
    """A copy of a kind's ensemble, for tests that change it."""
    folder, found = made(request.param)
    return replace(found, version=the_version(enter_copy(folder, tmp_path, monkeypatch), found.version.number))


def choices(annotation: Any) -> set[Any]:
    """The values of a param that is one of a few: of a Literal, of a bool, or of either beside None."""
    if annotation is bool:
        return {True, False}
    if get_origin(annotation) is Literal:
        return set(get_args(annotation))
    if get_origin(annotation) in (Union, UnionType):
        return set().union(*(choices(one) for one in get_args(annotation)))
    return set()


ASKED = {"train": TrainParams, "smooth": SmoothParams, "certify": CertifyParams}
PROVENANCE = {"initial_provenance", "twin_provenance"}
"""Statements about parts: recorded alike, but for on-raw, which voids the certificate."""
OPTIONS = {"flip", "head_prior"}
"""Options of training, which make no kind."""


def test_every_value_of_a_param_that_makes_a_kind_has_a_row(monkeypatch):
    monkeypatch.chdir(ROOT)
    without = set()
    for section, model in ASKED.items():
        for name, one in model.model_fields.items():
            if f"{section}.{name}" in ALIKE or name in PROVENANCE | OPTIONS:
                continue
            usual = getattr(read_params(section, model), name)
            asked = [usual, *(kind.sections.get(section, {}).get(name) for kind in TABLE)]
            without |= {f"{section}.{name}: {value}" for value in choices(one.annotation) if value not in asked}
    assert without == set(), "add a row to tests/kinds.py"
    assert {kind.sums for kind in TABLE} == {True, False}
    assert {kind.sigma > 0 for kind in TABLE if kind.sums} == {True, False}


def test_every_field_of_a_plan_that_makes_a_kind_has_a_row():
    rows = frozenset().union(*(kind.plan for kind in TABLE))
    assert LATER.keys() - rows - SAME_FOR_ALL.keys() == set(), "add a row to tests/kinds.py"
    assert rows | SAME_FOR_ALL.keys() <= {one.name for one in fields(Plan)}


def test_every_kind_of_part_has_a_row_and_every_threshold_a_step():
    assert frozenset().union(*(kind.parts for kind in TABLE)) == door.KINDS.keys(), "add a row to tests/kinds.py"
    lists = {name for name, one in GateParams.model_fields.items() if get_origin(one.annotation) is list}
    assert lists == {"certified_accuracy", *COUNTED}, "add a step to tests/flows/test_kinds.py"


def test_planned(life):
    kind, plan = life.kind, life.plan
    plain = Plan(**{one.name: getattr(plan, one.name) for one in fields(Plan) if one.name not in kind.plan} | PLAIN)
    assert {one.name for one in fields(Plan) if getattr(plan, one.name) != getattr(plain, one.name)} == kind.plan
    assert {part["name"] for part in plan.admitted} == kind.parts
    assert (plan.m, plan.sigma, plan.selection, plan.simultaneous) == (
        kind.planned,
        kind.sigma,
        kind.chooses,
        kind.simultaneous,
    )
    assert plan.noise_distance == life.distance
    assert (plan.noise_distance > 0) == (kind.sigma > 0)
    assert (plan.bounded_influence, plan.certifiable, plan.voids) == (kind.sums, True, [])
    assert life.version.ensemble.plan == planning.make_plan() == plan


PLAIN = {
    "test_sigma": 0.0,
    "denoiser_digest": None,
    "denoiser_state": None,
    "initial_digest": None,
    "initial_state": None,
    "looks": (),
    "shares": (),
    **{name: default for name, default in LATER.items() if name not in SAME_FOR_ALL},
}
"""The fields of a plan that rows set, as a plain plan has them."""


def test_no_gate_is_planned_for_that_unanimous_models_cannot_pass(life):
    plan, kind = life.plan, life.kind
    largest = max(largest_radius(plan, 0, m) for m in (kind.m, kind.planned))
    with pytest.raises(InputError, match="without noise" if not kind.sigma else "certify radii up to"):
        require_reach(plan, 0, largest)
    require_reach(plan, 0, np.nextafter(largest, -1.0))


def test_killed_and_run_again_its_votes_are_those_of_an_undisturbed_run(life):
    kind, version = life.kind, life.version
    runs, unfinished = find_draws(version.store, version.ensemble)
    wanted = {*range(kind.m), *range(kind.planned, kind.planned + kind.chooses)}
    assert runs.keys() == life.votes.keys() == wanted
    assert [run.info.status for run in unfinished] == ["KILLED"]
    assert (life.reopened.commitment, life.reopened.attempts_before) == (version.ensemble.commitment, 0)
    assert sorted({draw for draws in life.asked_again for draw in draws}) == sorted(wanted - {*range(min(2, kind.m))})
    materials, entropy = worker.prepare(life.plan), recall_entropy(version.ensemble).value
    for batch in filled(life.plan.batches):
        if wanted & {*batch}:
            for one in filled(make_batch(materials, entropy, batch)):
                assert life.votes[one.draw].shape == life.plan.votes_shape
                np.testing.assert_array_equal(one.votes, life.votes[one.draw])


def test_it_is_a_candidate_whose_audit_passes_and_whose_draws_repeat(life):
    version = life.version
    assert aliases_of(version.store, SMOOTHED) == {"candidate": version.number}
    checks = version.audit(replay=1)
    assert [f"{check.name}: {check.found}" for check in checks if not check.passed] == []
    assert checks[-1].found.startswith(f"100.0% of the {'sums' if life.kind.sums else 'votes'} repeated")


def test_certified(life):
    kind, certificate = life.kind, life.certified.certificate
    level = kind.level(0, simultaneous=kind.simultaneous)
    label, radius = kind.expected(life.plan, life.votes, level, life.distance)
    np.testing.assert_array_equal(life.certified.label, label)
    np.testing.assert_array_equal(life.certified.radius, radius)
    assert (label != ABSTAIN).sum() > N_TEST / 4
    assert (radius[label != ABSTAIN] > 0).all() if kind.sigma else not radius.any()
    assert certificate["level"] == pytest.approx(level, rel=1e-12)
    assert (certificate["m"], certificate["planned_m"], certificate["rule"]) == (kind.m, kind.planned, kind.rule)
    assert life.version.tags()[f"{TAG}m"] == str(kind.m)
    assert certificate["missing_draws"] == certificate["lost_draws"] == []
    assert certificate["largest_certifiable_radius"] >= down(radius.max(), 6)
    assert ("influence" in certificate, "blocks" in certificate) == (kind.sums, kind.blocks > 1)
    attached = json.loads(life.artifact(CERTIFICATE_ARTIFACT).read_text())
    assert {key: value for key, value in attached.items() if key not in ("seal", "registered_seal")} == certificate
    assert certificate == json.loads(json.dumps(certificate))


def test_every_row_of_a_frontier_pays_for_the_images_that_it_gives_away(life):
    kind, certificate = life.kind, life.certified.certificate
    rows = certificate.get("influence", certificate.get("blocks", {})).get("frontier", [])
    assert bool(rows) == ((kind.sums or kind.blocks > 1) and kind.sigma > 0)
    for row in rows:
        label, radius = left_beside(life, row["rewritten"])
        held = label != ABSTAIN
        assert row["certified"] == held.sum()
        assert row["median_radius"] == (down(np.median(radius[held]), 6) if held.any() else None)
        for at in row["at_radii"]:
            share = certified_accuracy(label, radius, life.truth, [at["radius"]])[0]
            assert at["certified_accuracy"] == down(share, 4)
    assert not rows or len(rows) > 1
    for row in filled(certificate["influence"]["counts"]) if kind.sums else ():  # can fail: for the kinds with sums
        for way in COSTS:
            enough = life.certified.influenced.counts(way) >= row["images"]
            assert row[way] == down(np.mean(enough & (life.certified.label == life.truth)), 4)


def test_its_card_says_what_is_covered_and_what_is_not(life):
    certificate, without = life.certified.certificate, not_covered(life.certified.certificate)[0]
    words = card(certificate, judged(life), life.version.number, 0.1)
    if life.kind.sums:
        section = certificate["influence"]
        assert counts_table(section) in words
        short = not {"twin", "trusted images"} & life.kind.parts  # a longer card leaves it to the page
        assert not section["frontier"] or not short or frontier_table(section) in words
        assert ("any radius, since there is no noise" in without) == (not life.kind.sigma)
        assert without.startswith("more images changed at will than stated")
    assert ("rewritten, relabelled, added or removed at will" in certificate["covers"]) == life.kind.sums
    assert ("changed pixels" in certificate["covers"]) == (life.kind.sigma > 0)
    assert ("not changes of the test input" in certificate["covers"]) == (not life.plan.test_sigma)
    assert without in words


def test_run_once_more_it_makes_nothing_and_stays_the_version_it_is(life):
    again, version = InThisProcess(), life.version
    assert make_version(version.store, open_ensemble(version.store, planning.make_plan()), again) == version.number
    assert again.given == []


def left_beside(life: Life, rewritten: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels and radii that are left when this number of images is rewritten at will."""
    found, plan = answers(life.plan, 0, life.kind.m, life.votes, N_TEST), life.plan
    if found.influenced is None:
        return partition_radius(found.block_labels, found.block_radii, CLASSES, rewritten)
    width, low = (2.0, -1.0) if plan.sides == "two" else (1.0, 0.0)
    radius = radius_between(
        found.label, found.influenced.bounds, plan.class_sizes, width, low, plan.sigma, width * rewritten
    )
    return np.where(radius > 0, found.label, ABSTAIN), radius


@pytest.mark.parametrize("simultaneous", [False, True])
def test_every_further_attempt_and_all_points_at_once_are_certified_at_their_level(life, simultaneous):
    kind, distance = life.kind, life.distance
    plan, found = replace(life.plan, simultaneous=simultaneous), []
    for attempt in range(4):
        level = kind.level(attempt, simultaneous=simultaneous)
        perfect = kind.unanimous(plan)
        label, radius = kind.expected(plan, perfect, level, distance)
        own = answers(plan, attempt, kind.m, perfect, CLASSES)
        np.testing.assert_array_equal(own.label, label)
        np.testing.assert_array_equal(own.radius, radius)
        assert largest_radius(plan, attempt, kind.m) == radius.max()
        found.append(float(radius.max()))
        again = life.computed(attempts_before=attempt, simultaneous=simultaneous)
        label, radius = kind.expected(plan, life.votes, level, distance)
        np.testing.assert_array_equal(again.radius, radius)
        assert again.certificate["level"] == pytest.approx(level, rel=1e-12)
        assert again.certificate["holds"].startswith("for all" if simultaneous else "for each")
        if kind.sums:
            np.testing.assert_array_equal(
                again.influenced.margin, kind.influences(plan, life.votes, N_TEST, level, distance).margin
            )
    positive = [radius for radius in found if radius]
    assert positive == sorted(set(positive), reverse=True)
    assert found[0] > 0 or not kind.sigma or (simultaneous and not kind.simultaneous)


def test_the_distance_from_ideal_noise_is_paid_for(life):
    kind, perfect = life.kind, life.kind.unanimous(life.plan)
    level = kind.level(0, simultaneous=kind.simultaneous)
    far = replace(life.plan, noise_distance=0.01)
    radius = kind.expected(far, perfect, level, 0.01)[1]
    np.testing.assert_array_equal(answers(far, 0, kind.m, perfect, CLASSES).radius, radius)
    assert largest_radius(far, 0, kind.m) == radius.max()
    near = largest_radius(life.plan, 0, kind.m)
    assert radius.max() < near if kind.sigma else radius.max() == near == 0


COUNTED = ("rewritten", "relabelled")


def judged(life: Life, **asked: object) -> Verdict:
    lenient = {"accuracy": 0.0, "certified_accuracy": [], "entropy": "os", "replay": 0, "approval": "review"}
    return judge(life.certified, life.truth, [], GateParams.model_validate(lenient | asked))


def test_the_gate_is_just_passed_and_just_failed(life):
    one = 1 / N_TEST
    accuracy = life.certified.certificate["vote_accuracy"]
    assert judged(life, accuracy=accuracy).passed
    assert not judged(life, accuracy=min(1, accuracy + 1e-4)).passed or accuracy == 1
    correct = life.certified.label == life.truth
    assert correct.any()

    reach = np.sort(life.certified.radius[correct])
    r = float(reach[len(reach) // 2])
    below, at = ((life.certified.radius[correct] > x).sum() * one for x in (np.nextafter(r, -1), r))
    if life.kind.sigma:
        assert judged(life, certified_accuracy=[{"radius": float(np.nextafter(r, 0)), "at_least": below}]).passed
        assert not judged(life, certified_accuracy=[{"radius": r, "at_least": below}]).passed
        assert judged(life, certified_accuracy=[{"radius": r, "at_least": at}]).passed
    else:
        assert not judged(life, certified_accuracy=[{"radius": 0, "at_least": one}]).passed


@pytest.mark.parametrize("way", COUNTED)
def test_the_gate_counts_images_or_says_that_votes_certify_none(life, way):
    if not life.kind.sums:
        verdict = judged(life, **{way: [{"images": 1, "at_least": 0.0}]})
        words = "votes certify none; set train.head: bounded-influence"
        assert verdict.reasons == f"certified accuracy against 1 images {way}: {words}"
        return
    counts = life.certified.influenced.counts(way)[life.certified.label == life.truth]
    most = int(counts.max())
    assert most > 0
    share = float((counts >= most).sum() / N_TEST)
    assert judged(life, **{way: [{"images": most, "at_least": share}]}).passed
    assert not judged(life, **{way: [{"images": most + 1, "at_least": share}]}).passed
    assert not judged(life, **{way: [{"images": most, "at_least": share + 0.5 / N_TEST}]}).passed


def test_served(life):
    kind, images = life.kind, load(SETS["test"]).images[..., 0]
    table = mlflow.pyfunc.load_model(f"models:/{SMOOTHED}/{life.version.number}").predict(images)
    assert set(table) == {"label", "class", "radius", "votes", *(COSTS if kind.sums else ())}
    if kind.same:
        np.testing.assert_array_equal(table["label"], life.certified.label)
        np.testing.assert_array_equal(table["radius"], down(life.certified.radius, 6))
        np.testing.assert_array_equal(np.stack(table["votes"]), life.certified.counts)
    else:
        assert (np.stack(table["votes"]).sum(axis=1) == kind.m).all()
        assert 0 < table["radius"].max() <= life.certified.certificate["largest_certifiable_radius"]
    for way in COSTS if kind.sums else ():
        counts = life.certified.influenced.counts(way)
        np.testing.assert_array_equal(table[way], counts)
        assert counts.any()


def test_void_it_is_not_certified_and_served_without_any_guarantee(copied):
    set_params(smooth={"chosen_on": "raw"})
    void = planning.make_plan()
    assert void.voids == ["its params were chosen by looking at the raw set (smooth.chosen_on)"]
    with pytest.raises(InputError, match="the ensemble is not certifiable: its params were chosen by looking at"):
        copied.computed(admitted=void.admitted)
    copied.edit_json(f"ensemble/data/networks/{DESCRIPTION}", lambda own: {**own, "plan": void.as_dict()})
    table = SmoothedClassifier(copied.artifact("ensemble/data/networks")).predict(load(SETS["test"]).images)
    assert not table["radius"].any()
    assert (table["label"] != ABSTAIN).all()
    for way in COSTS if copied.kind.sums else ():  # can fail: for the kinds with sums
        assert not table[way].any()


def test_a_lost_draw_counts_against_every_answer(copied):
    kind, version, before, votes = copied.kind, copied.version, copied.certified, copied.votes
    if kind.m > 1:
        version.store.client.delete_run(version.run_of(1))
        after = certify(copied)
        assert after.certificate["missing_draws"] == after.certificate["lost_draws"] == [1]
        assert (after.radius <= before.radius).all()
        assert (after.radius < before.radius).any()
        left = {draw: row for draw, row in votes.items() if draw != 1}
        level = kind.level(0, simultaneous=kind.simultaneous)
        label, radius = kind.expected(copied.plan, left, level, copied.distance)
        np.testing.assert_array_equal(after.label, label)
        np.testing.assert_array_equal(after.radius, radius)
    last = max(votes)
    version.store.client.delete_run(version.run_of(last))
    if kind.chooses:
        with pytest.raises(InputError, match=f"1 of the {kind.chooses} draws that choose the class are missing"):
            certify(copied)
    else:
        assert certify(copied).certificate["missing_draws"] == [*({1} if kind.m > 1 else ()), last]


def test_another_ensemble_on_its_raw_set_is_a_further_attempt_by_whichever_memory_is_left(copied):
    store, second, own = copied.version.store, replace(copied.plan, code_digest="another"), CERTIFICATE.read_bytes()
    CERTIFICATE.unlink()
    assert standing_so_far(None, second).attempts_before == 1, "the ledger knows it"
    shutil.rmtree(".state/attempts")
    assert standing_so_far(None, second).attempts_before == 0
    store.client.delete_run(copied.version.ensemble.run_id)
    assert standing_so_far(store, second).attempts_before == 1, "the store knows a deleted run"
    CERTIFICATE.write_bytes(own)
    merge_certificate()
    assert standing_so_far(None, second).attempts_before == 1, "git knows a merged branch"
    opened = open_ensemble(store, second)
    assert opened.attempts_before == 1
    assert read_ensemble(store, store.client.get_run(opened.run_id)) == opened
    assert open_ensemble(store, replace(second, code_digest="a third")).attempts_before == 2


def merge_certificate() -> None:
    """Commit the certificate on a branch that is merged without it, and then forgotten."""

    def git(*words: str) -> None:
        who = ("-c", "user.name=ada", "-c", "user.email=ada@example.org")
        subprocess.run(["git", *who, *words], check=True, capture_output=True)

    git("init", "--quiet", "--initial-branch", "main")
    git("commit", "--quiet", "--allow-empty", "--message", "begun")
    git("switch", "--quiet", "--create", "side")
    git("add", "--force", str(CERTIFICATE))
    git("commit", "--quiet", "--message", "certified")
    git("switch", "--quiet", "main")
    git("commit", "--quiet", "--allow-empty", "--message", "something else")
    git("merge", "--quiet", "--strategy", "ours", "--message", "merged", "side")
    git("branch", "--quiet", "-D", "side")
    git("reflog", "expire", "--expire=now", "--all")
    assert not CERTIFICATE.exists()


def test_an_audit_compares_every_field_of_the_certificate_and_every_word_of_the_store(copied):
    attached = json.loads(copied.artifact(CERTIFICATE_ARTIFACT).read_text())
    fields_edited = attached.keys() - READ_BEFORE - {"seal", "registered_seal", "entropy_commitment"}
    edited = attached | {key: ["edited", attached[key]] for key in fields_edited} | {"added": 1}
    for path in (CERTIFICATE, copied.artifact(CERTIFICATE_ARTIFACT)):
        path.write_text(json.dumps(edited))
    copied.set_tag_of_draw_0("environment", "another machine")
    checks = {check.name: check for check in copied.version.audit()}
    assert not checks["certificate"].passed
    assert checks["certificate"].found == f"differs in {', '.join(sorted({*fields_edited, 'added'}))}"
    assert not checks["seal"].passed
    assert "draw 0 tag cleanlabel.environment was changed" in checks["seal"].found


def test_an_audit_reads_no_plan_that_was_edited_after_it_was_recorded(copied):
    copied.edit_json(PLAN_ARTIFACT, lambda plan: {**plan, "noise_distance": 0.0 if copied.kind.sigma else 0.1})
    seal_again(copied.version.store, copied.version.number)
    assert any("was changed after it was recorded" in failure for failure in copied.version.failures())
    with pytest.raises(InputError, match="was changed after it was recorded"):
        certify(copied)


def test_no_draw_of_other_entropy_and_no_edited_word_is_certified(copied):
    store, run_id = copied.version.store, copied.version.run_of(0)
    copied.set_tag_of_draw_0("seal", "of other noise")
    with pytest.raises(InputError, match="is not what was registered: draw 0 tag cleanlabel.seal was changed"):
        certify(copied)
    seal_again(store, copied.version.number)
    with pytest.raises(InputError, match=r"\(draw 0\) was not made from the entropy this ensemble committed to"):
        certify(copied)
    assert copied.version.failures() == [
        f"entropy: run {run_id} (draw 0) was not made from the entropy this ensemble committed to"
    ]


def certify(life: Life) -> Certified:
    """The certificate by the store, without reports."""
    version = get_version(life.version.store, SMOOTHED, life.version.number)
    params = read_params("certify", CertifyParams)
    return certify_version(life.version.store, version, load(SETS["raw"]), load(SETS["test"]), params)[0]
