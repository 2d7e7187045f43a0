"""Rules 6, 10 and 11: what a plan fixes, what a further attempt costs, and what voids a certificate."""

from dataclasses import replace

import pytest
from filled import filled
from models_recipes import PLAN

from cleanlabel.models.plan import Plan, plan_from_dict


def recipe(**changes: object) -> dict:
    return PLAN.recipe | changes


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"recipe": recipe(warm_epochs=1, warm_on="raw")}, "training starts on the raw images"),
        ({"recipe": recipe(normalise="raw")}, "statistics of the raw images"),
        ({"denoiser_state": "on-raw"}, "denoiser was trained on the raw set as supplied"),
        ({"initial_digest": "x", "initial_state": "on-raw"}, "initial weights were trained on the raw set as supplied"),
    ],
)
def test_whatever_shows_raw_images_to_training_voids_the_certificate(changes, reason):
    void = replace(PLAN, **changes)
    assert not void.certifiable
    assert len(void.voids) == 1
    assert reason in void.voids[0]
    assert (void.as_dict()["certifiable"], void.as_dict()["voids"]) == (False, void.voids)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"denoiser_state": "fixed-before"},
        {"initial_digest": "x", "initial_state": "disjoint"},
        {"initial_digest": "x", "initial_state": "fixed-before"},
        {"recipe": recipe(normalise="copy")},
        {"denoiser_digest": None, "denoiser_state": None},
    ],
)
def test_what_an_attacker_cannot_reach_is_sound(changes):
    assert replace(PLAN, **changes).certifiable
    assert replace(PLAN, **changes).voids == []


def test_a_plan_cannot_be_declared_certifiable_in_its_file():
    void = replace(PLAN, denoiser_state="on-raw")
    assert not plan_from_dict(void.as_dict() | {"certifiable": True, "voids": []}).certifiable


def test_every_field_changes_the_digest():
    other = {
        int: 7,
        float: 0.75,
        str: "margin",
        dict: recipe(epochs=9),
        tuple: (3, 4),
        type(None): "something",
    }
    for name in filled(Plan.__dataclass_fields__):
        value = getattr(PLAN, name)
        changed = replace(PLAN, **{name: not value if isinstance(value, bool) else other[type(value)]})
        assert changed.digest != PLAN.digest, name
    assert plan_from_dict(PLAN.as_dict()) == PLAN


def test_alpha_is_shared_among_attempts_and_among_points():
    assert PLAN.level(0) == 0.001
    assert PLAN.level(3) == 0.001 / 8
    assert replace(PLAN, simultaneous=True).level(1) == 0.001 / 2 / 50
    assert sum(PLAN.level(a) for a in range(50)) < 2 * 0.001
    assert (PLAN.least_m(0), PLAN.least_m(1)) == (11, 12)
    assert replace(PLAN, method="split", selection=5).least_m(0) == 10


def test_the_selection_draws_come_after_those_that_are_bounded():
    assert (PLAN.draws, replace(PLAN, selection=20).draws) == (100, 120)
