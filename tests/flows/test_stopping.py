"""`smooth.stopping`: an ensemble that ends at the look that decides its gate, against a real store and real draws."""

import os
import sqlite3
from pathlib import Path

import pytest
from registered import (
    InThisProcess,
    Registered,
    enter,
    enter_copy,
    grow,
    make_plan,
    make_sets,
    registered,
    set_params,
    the_version,
)

from cleanlabel.flows.ensemble import planning
from cleanlabel.flows.ensemble.assembly import find_draws
from cleanlabel.flows.ensemble.making import make_prefix
from cleanlabel.flows.ensemble.opening import open_ensemble
from cleanlabel.flows.ensemble.planning import make_plan as plan_of_params
from cleanlabel.flows.ensemble.record import Ensemble, read_ensemble
from cleanlabel.flows.store.client import TAG, Store
from cleanlabel.models.params import CertifyParams, SmoothParams
from cleanlabel.models.plan import Plan, least_models
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.params import read_params

LOOKS = {"stopping": "looks", "looks": (20, 25, 30), "shares": (0.4, 0.3, 0.3), "m": 30}
SEQUENCE = {"stopping": "sequence", "looks": (20, 25, 30), "shares": (), "m": 30}
ANYTHING = {"accuracy": 0.0, "certified_accuracy": []}
"""A gate that the first look passes."""
MIDDLE = {"accuracy": 0.0, "certified_accuracy": [{"radius": 0.25, "at_least": 0.05}]}
"""A gate that 20 models cannot pass at sigma = 0.5, however they vote, and 25 can."""
LATE = {"accuracy": 0.0, "certified_accuracy": [{"radius": 0.3, "at_least": 0.05}]}
"""A gate that 20 or 25 models cannot pass at sigma = 0.5, however they vote, and 30 can."""


@pytest.fixture
def sets(store: Store) -> Store:
    """A store in a working directory with data and params."""
    make_sets()
    return store


def planned(store: Store, gate: dict, **changes: object) -> Ensemble:
    set_params(gate=gate)
    return open_ensemble(store, make_plan(**changes))


def again(ensemble: Ensemble, store: Store) -> Ensemble:
    """The ensemble as the next command reads it."""
    return read_ensemble(store, store.client.get_run(ensemble.run_id))


def set_stopped(run_id: str, value: str) -> None:
    """What somebody with access to the database can do."""
    with sqlite3.connect(os.environ["MLFLOW_TRACKING_URI"].removeprefix("sqlite:///")) as database:
        changed = database.execute(
            "update tags set value = ? where run_uuid = ? and key = ?", (value, run_id, f"{TAG}stopped")
        )
        assert changed.rowcount == 1


def draws_of(store: Store, ensemble: Ensemble) -> list[int]:
    return sorted(find_draws(store, ensemble)[0])


@pytest.fixture(scope="module")
def stopped_there(empty_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with a registered version that stopped at 20 of at most 30 models."""
    folder = tmp_path_factory.mktemp("stopped")
    with pytest.MonkeyPatch.context() as patch:
        store = enter(folder, patch, empty_database)
        make_sets()
        registered(store, grow(store, planned(store, ANYTHING, **LOOKS)))
    return folder


@pytest.fixture
def stopped(stopped_there: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registered:
    """That version in a working directory and a store of the test's own."""
    return the_version(enter_copy(stopped_there, tmp_path, monkeypatch), 1)


@pytest.mark.parametrize("how", [LOOKS, SEQUENCE], ids=["looks", "sequence"])
def test_where_no_look_decides_all_models_are_made(sets, how):
    ensemble = grow(sets, planned(sets, LATE, **how))
    assert (ensemble.stopped, ensemble.m) == (None, 30)
    version = registered(sets, ensemble)
    certificate = version.certify().certificate
    assert (certificate["m"], certificate["planned_m"]) == (30, 30)
    assert certificate["rule"].startswith("went on to all 30 of at most 30 models")
    assert version.failures() == []


def test_a_look_that_cannot_be_passed_ends_the_ensemble_as_well(sets):
    hopeless = {"accuracy": 0.0, "certified_accuracy": [{"radius": 9.0, "at_least": 1.0}]}
    assert grow(sets, planned(sets, hopeless, **LOOKS)).stopped == 20


def test_a_stopped_ensemble_trains_nothing_more_even_under_another_gate(stopped):
    sets = stopped.store
    set_params(gate=LATE)
    resumed = open_ensemble(sets, stopped.ensemble.plan)
    assert resumed == stopped.ensemble
    assert grow(sets, resumed) == resumed
    assert draws_of(sets, resumed) == list(range(20))
    assert registered(sets, resumed).number == stopped.number


def test_a_look_that_was_passed_by_is_not_taken_again_under_another_gate(sets):
    ensemble = planned(sets, LATE, **LOOKS)
    make_prefix(sets, ensemble, 23, InThisProcess())  # killed on the way from the look at 20 to the one at 25
    assert draws_of(sets, ensemble) == list(range(23))
    set_params(gate=ANYTHING)
    resumed = grow(sets, again(ensemble, sets))
    assert resumed.stopped == 25
    version = registered(sets, resumed)
    assert version.certify().certificate["m"] == 25
    assert version.failures() == []


@pytest.mark.parametrize("value", ["19", "10", "-20", "all", ""])
def test_an_ensemble_cannot_have_stopped_where_no_look_was_planned(stopped, value):
    set_stopped(stopped.ensemble.run_id, value)
    with pytest.raises(InputError, match=f"stopped at '{value}' draws, where no look was planned"):
        stopped.certify()
    assert any("no look was planned" in failure for failure in stopped.failures())


def test_an_ensemble_without_looks_cannot_have_stopped(version):
    version.store.client.set_tag(version.ensemble.run_id, f"{TAG}stopped", "14")
    with pytest.raises(InputError, match="stopped at '14' draws, where no look was planned"):
        the_version(version.store, 1)


@pytest.mark.parametrize("value", ["25", "30", None])
def test_a_registered_version_cannot_be_moved_to_another_planned_look(stopped, value):
    stopped.certify()
    if value:
        set_stopped(stopped.ensemble.run_id, value)
    else:
        stopped.store.client.delete_tag(stopped.ensemble.run_id, f"{TAG}stopped")
    with pytest.raises(InputError, match="the list of votes registered with .* is damaged"):
        stopped.certify()
    claimed = value or "30"
    seal = f"run tag {TAG}stopped {'was changed' if value else 'is gone'}"
    assert stopped.failures() == [
        f"seal: {seal}",
        f"plan: smoothed-classifier version 1 has the tag cleanlabel.m='20' where its ensemble says '{claimed}'; "
        "it was edited",
    ]


def test_a_version_cannot_be_moved_back_to_an_earlier_look(sets):
    version = registered(sets, grow(sets, planned(sets, MIDDLE, **LOOKS)))
    assert version.ensemble.stopped == 25
    version.certify()
    set_stopped(version.ensemble.run_id, "20")
    with pytest.raises(InputError, match=r"claims draw 2\d; the ensemble has draws 0..19"):
        version.certify()
    seal, _ = version.failures()
    assert seal == f"seal: run tag {TAG}stopped was changed"


def test_moved_on_before_it_is_registered_it_spends_the_later_looks_own_share(sets):
    ensemble = grow(sets, planned(sets, ANYTHING, **LOOKS))
    set_stopped(ensemble.run_id, "25")
    version = registered(sets, grow(sets, again(ensemble, sets)))
    certificate = version.certify().certificate
    assert draws_of(sets, version.ensemble) == list(range(25))
    assert (certificate["m"], certificate["level"]) == (25, pytest.approx(0.001 * 0.3))
    assert version.failures() == []


def looks_of(smooth_params: dict, certify: dict | None = None) -> tuple:
    set_params(smooth=smooth_params, certify=certify or {})
    return planning.looks_of(read_params("smooth", SmoothParams), read_params("certify", CertifyParams), 10, 40)


def test_looks_that_are_not_given_are_whole_batches_that_end_with_m(sets):
    for m, batch in ((100, 10), (101, 7), (30, 5), (12, 100)):
        times, shares = looks_of({"stopping": "looks", "m": m, "batch_of_draws": batch})
        assert times[-1] == m
        assert all(t % batch == 0 for t in times[:-1])
        assert list(times) == sorted(set(times))
        assert sum(shares) == pytest.approx(1)
        assert looks_of({"stopping": "sequence", "m": m, "batch_of_draws": batch}) == (times, ())


@pytest.mark.parametrize(
    ("params", "certify", "sentence"),
    [
        (
            {"stopping": "looks", "m": 30, "looks": [20, 20, 30], "batch_of_draws": 10},
            {},
            "param smooth.looks=[20, 20, 30] must increase, end with smooth.m=30 and, before that, be multiples of "
            "smooth.batch_of_draws=10",
        ),
        ({"stopping": "looks", "m": 30, "looks": [20, 10, 30]}, {}, "smooth.looks=[20, 10, 30] must increase"),
        ({"stopping": "looks", "m": 30, "looks": [10, 20]}, {}, "smooth.looks=[10, 20] must increase, end with smooth"),
        ({"stopping": "sequence", "m": 30, "looks": [20, 40]}, {}, "end with smooth.m=30"),
        (
            {"stopping": "looks", "m": 30, "looks": [15, 30], "batch_of_draws": 10},
            {},
            "multiples of smooth.batch_of_draws=10",
        ),
        ({"stopping": "looks", "m": 30, "looks": [0, 30]}, {}, "param smooth.looks"),
        (
            {"stopping": "none", "m": 30, "looks": [10, 30]},
            {},
            "param smooth.looks=[10, 30] needs smooth.stopping: looks or sequence",
        ),
        (
            {"stopping": "looks", "m": 30, "selection": 20},
            {"method": "split"},
            "param smooth.stopping='looks' does not go with certify.method='split'; choose the method binary or "
            "margin, or smooth.stopping: none",
        ),
        (
            {"stopping": "sequence", "m": 30},
            {"method": "margin"},
            "param smooth.stopping='sequence' does not go with certify.method='margin'; choose the method binary, or",
        ),
    ],
)
def test_looks_that_make_no_sense_are_refused_in_one_sentence_with_the_values(sets, params, certify, sentence):
    with pytest.raises(InputError) as refused:
        looks_of(params, certify)
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)


def plan_at(m: int, **changes: object) -> Plan:
    set_params(
        sanitize={"denoise": False, "sigma": 0.5},
        smooth={"m": m, "batch_of_draws": 5, **changes},
        train={"architecture": "linear"},
    )
    return plan_of_params()


@pytest.mark.parametrize("stopping", ["looks", "sequence"])
def test_fewer_models_than_the_last_look_needs_are_refused_with_that_number(sets, stopping):
    asked = {"stopping": stopping, "looks": [5, 11]}
    plan = plan_at(11, **asked)
    least = plan.least_m(0)
    assert least > least_models(0.001) == 11  # enough without looks
    with pytest.raises(InputError, match=f"param smooth.m=11: .* raise smooth.m to at least {least}$"):
        open_ensemble(sets, plan)
    enough = plan_at(least, stopping=stopping, looks=[5, least])
    assert open_ensemble(sets, enough).plan == enough


def test_the_plan_has_the_looks_of_the_params_and_is_another_plan_with_others(sets):
    plan = plan_at(30, stopping="looks", looks=[20, 30])
    assert (plan.looks, plan.stopping) == ((20, 30), "looks")
    assert plan.level_at(20, 0) + plan.level_at(30, 0) == pytest.approx(plan.alpha)
    assert plan_at(30, stopping="looks", looks=[15, 30]).digest != plan.digest
    assert plan_at(30, stopping="looks", looks=[20, 30]) == plan
