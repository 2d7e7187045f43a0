"""A gate that a plan can never pass is refused before the first draw, with what would pass."""

import re
from dataclasses import replace

import numpy as np
import pytest
from models_recipes import PLAN

from cleanlabel.flows.ensemble.attempts import standing_so_far
from cleanlabel.flows.ensemble.opening import open_ensemble
from cleanlabel.flows.ensemble.reach import radius_asked, reach, require_reach, with_models
from cleanlabel.flows.store.client import find_runs
from cleanlabel.models.answers import answers
from cleanlabel.models.anytime import look_shares
from cleanlabel.models.params import GateParams
from cleanlabel.models.plan import Plan
from cleanlabel.sanitize.errors import InputError

HALF = replace(PLAN, m=20, sigma=0.5)
LOOKS = (20, 40)
PLANS = {
    "binary": HALF,
    "split": replace(HALF, method="split", selection=5),
    "margin": replace(HALF, method="margin"),
    "simultaneous": replace(HALF, simultaneous=True, m=30),
    "partitions": replace(HALF, partitions=5, block_sizes=(10,) * 5),
    "test noise": replace(HALF, test_sigma=0.5),
    "looks": replace(HALF, m=40, stopping="looks", looks=LOOKS, shares=look_shares(LOOKS)),
    "sequence": replace(HALF, m=40, stopping="sequence", looks=LOOKS),
}


def gate(*asked: tuple[float, float]) -> GateParams:
    return GateParams.model_validate(
        {
            "accuracy": 0.9,
            "certified_accuracy": [{"radius": radius, "at_least": share} for radius, share in asked],
            "entropy": "os",
            "replay": 0,
            "approval": "review",
        }
    )


def refusal(plan: Plan, asked: float, attempt: int = 0) -> str:
    with pytest.raises(InputError) as refused:
        require_reach(plan, attempt, asked)
    return str(refused.value)


def test_the_largest_radius_with_a_threshold_counts():
    assert radius_asked(gate((0.25, 0.75), (0.5, 0.65), (2.0, 0.0))) == 0.5
    assert radius_asked(gate()) == -1.0
    require_reach(HALF, 0, radius_asked(gate()))


def test_the_refusal_says_what_is_asked_what_there_is_and_every_way_out():
    assert refusal(HALF, 0.5) == (
        "the gate requires certified accuracy at R = 0.5, and smooth.m=20 models at sanitize.sigma=0.5 certify radii "
        "up to 0.239, where all of them agree: raise smooth.m to at least 44, raise sanitize.sigma to at least 1.046 "
        "or lower the radii of gate.certified_accuracy"
    )


@pytest.mark.parametrize("name", PLANS)
def test_what_is_offered_passes_and_what_is_refused_could_not(name):
    plan = PLANS[name]
    most = reach(plan, 0)
    require_reach(plan, 0, most - 1e-6)
    said = refusal(plan, most)  # strict: a radius counts that is larger than the gate's
    models = int(re.search(r"smooth\.m to at least (\d+)", said)[1])
    sigma = float(re.search(r"sanitize\.sigma to at least ([\d.]+)", said)[1])
    require_reach(with_models(plan, models), 0, most)
    require_reach(replace(plan, sigma=sigma), 0, most)
    if plan.stopping == "none":
        refusal(with_models(plan, models - 1), most)
    refusal(replace(plan, sigma=sigma - 0.002), most)


@pytest.mark.parametrize("name", [name for name, plan in PLANS.items() if plan.stopping == "none"])
def test_the_reach_is_what_unanimous_votes_are_certified_for(name):
    plan = PLANS[name]
    row = np.zeros((plan.partitions, 1) if plan.partitions > 1 else 1, dtype=np.int64)
    votes = dict.fromkeys(range(plan.draws), row)
    assert reach(plan, 0) == answers(plan, 0, plan.m, votes, 1).radius[0]


def test_a_later_attempt_has_less_reach_and_says_so():
    asked = reach(HALF, 1)
    require_reach(HALF, 0, asked)
    assert "certify radii up to 0.206 in attempt 2 on this raw set, where" in refusal(HALF, asked, 1)


def test_where_nothing_could_pass_only_the_gate_is_offered():
    assert refusal(HALF, 100.0).endswith("where all of them agree: lower the radii of gate.certified_accuracy")


def test_a_plan_that_is_never_certified_is_not_measured_by_radii():
    require_reach(replace(HALF, chosen_on="raw"), 0, 100.0)
    assert "certified accuracy at R = 100" in refusal(HALF, 100.0)


def test_nothing_is_recorded_of_a_plan_out_of_reach_and_a_begun_one_goes_on(store):
    with pytest.raises(InputError, match="certify radii up to 0.239"):
        open_ensemble(store, HALF, 0.5)
    assert find_runs(store, "") == []  # so that it was no attempt
    assert standing_so_far(store, HALF).attempts_before == 0
    begun = open_ensemble(store, HALF, 0.2)
    assert open_ensemble(store, HALF, 0.5).run_id == begun.run_id  # whatever the gate asks for by now
    assert [standing_so_far(store, one).attempts_before for one in (HALF, replace(HALF, m=30))] == [0, 1]
