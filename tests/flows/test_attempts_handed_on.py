"""Rule 6: a further attempt is certified at its own level, by every rule, and its entropy is drawn after the digest."""

import secrets
import sys
from dataclasses import replace
from hashlib import sha256

import numpy as np
import pytest
from models_recipes import PLAN
from registered import make_sets, set_params

from cleanlabel.flows import smooth
from cleanlabel.flows.certificate.record import Certified, compute
from cleanlabel.flows.ensemble.planning import make_plan
from cleanlabel.flows.ensemble.record import Ensemble
from cleanlabel.flows.environment import state
from cleanlabel.flows.store.client import TAG, find_runs
from cleanlabel.models.answers import answers, largest_radius
from cleanlabel.models.certificate import certify
from cleanlabel.models.params import CertifyParams
from cleanlabel.models.partition import block_certificates, partition_radius
from cleanlabel.models.plan import Plan
from cleanlabel.models.sums import STEPS
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.imageset import ImageSet
from cleanlabel.sanitize.noise import Entropy

M, N = 40, 3
SUMS = replace(PLAN, m=M, n_test=N, instrument_digest="instrument", class_sizes=(20, 20, 20))
PLANS = {
    "binary": replace(PLAN, m=M, n_test=N),
    "margin": replace(PLAN, m=M, n_test=N, method="margin"),
    "split": replace(PLAN, m=M, n_test=N, method="split", selection=4),
    "simultaneous": replace(PLAN, m=M, n_test=N, simultaneous=True),
    "looks": replace(PLAN, m=M, n_test=N, stopping="looks", looks=(30, M), shares=(0.5, 0.5)),
    "sequence": replace(PLAN, m=M, n_test=N, stopping="sequence", looks=(30, M)),
    "blocks": replace(PLAN, m=M, n_test=N, partitions=3, partition_rule="rule", block_sizes=(1, 1, 1)),
    "influences": SUMS,
    "influences of two sides": replace(SUMS, recipe=PLAN.recipe | {"influence_sides": "two"}),
    "influences, simultaneous": replace(SUMS, simultaneous=True),
}


def unanimous(plan: Plan) -> dict[int, np.ndarray]:
    """All votes for the first class; or all sums the most for it, and the least for the others."""
    votes = np.zeros(plan.votes_shape, dtype=np.int64)
    if plan.bounded_influence:
        votes[:] = STEPS * 20 * np.array([1, *[-1 if plan.sides == "two" else 0] * 2])
    return dict.fromkeys(range(plan.draws), votes)


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_every_further_attempt_certifies_less(plan):
    radii = [float(answers(plan, attempt, M, unanimous(plan), N).radius[0]) for attempt in range(5)]
    assert radii == sorted(set(radii), reverse=True)
    assert radii == [largest_radius(plan, attempt, M) for attempt in range(5)]
    assert all(radius > 0 for radius in radii)


@pytest.mark.parametrize("attempt", range(4))
def test_attempt_a_is_certified_at_alpha_over_two_to_the_a(attempt):
    counts = np.array([[M, 0, 0]] * N)
    plain = answers(PLANS["binary"], attempt, M, unanimous(PLANS["binary"]), N)
    np.testing.assert_array_equal(
        plain.radius, certify(counts, M, 1.0, 0.001 / 2**attempt, distance=PLANS["binary"].noise_distance)[1]
    )
    blocks = answers(PLANS["blocks"], attempt, M, unanimous(PLANS["blocks"]), N)
    alone = block_certificates(
        np.stack([counts] * 3), M, 1.0, 0.001 / 2**attempt, distance=PLANS["blocks"].noise_distance
    )
    np.testing.assert_array_equal(blocks.block_radii, alone[1])
    np.testing.assert_array_equal(blocks.radius, partition_radius(*alone, 3)[1])


def certified(plan: Plan, attempt: int = 0, votes: dict[int, np.ndarray] | None = None) -> Certified:
    """The certificate of an ensemble of this plan; all votes are for the first class where none are given."""
    test = ImageSet(np.zeros((N, 8, 8, 1), np.uint8), np.zeros(N, np.int64), ("a", "b", "c"), ("x", "y", "z"))
    plan = replace(plan, test_digest=test.digest)
    entropy = Entropy(bytes(32), "os")
    params = CertifyParams(
        alpha=plan.alpha,
        method=plan.method,
        simultaneous=plan.simultaneous,
        radii=[0.0, 0.5],
        epsilon_255=8,
        images=[1],
        epsilons_255=[8.0],
    )
    ensemble = Ensemble("run", plan, attempt, entropy.commitment, "os")
    return compute(ensemble, unanimous(plan) if votes is None else votes, [], entropy, test, (8, 8, 1), params)


@pytest.mark.parametrize("name", ["binary", "looks", "sequence", "blocks", "influences", "influences of two sides"])
def test_the_certificate_of_an_ensemble_is_at_its_own_attempts_level(name):
    plan, share = PLANS[name], 0.5 if name == "looks" else 1
    for attempt in (0, 1, 3):
        made = certified(plan, attempt)
        assert made.radius[0] == answers(plan, attempt, M, unanimous(plan), N).radius[0]
        assert made.certificate["level"] == pytest.approx(0.001 * share / 2**attempt)
        assert made.certificate["largest_certifiable_radius"] == pytest.approx(made.radius[0], abs=1e-6)


def test_a_certificate_says_for_what_it_holds():
    one, all_at_once = (certified(PLANS[name]).certificate for name in ("binary", "simultaneous"))
    assert one["holds"] == "for each test point on its own"
    assert all_at_once["holds"] == "for all test points at once"
    assert one["covers"].endswith("not changes of the test input")
    assert "no image added or removed" in one["covers"]
    triggers = certified(replace(PLANS["binary"], test_sigma=0.25)).certificate
    assert "changes omega of the test input" in triggers["covers"]
    assert "not changes of the test input" not in triggers["covers"]


def test_the_class_is_not_chosen_by_the_draws_that_happen_to_be_there():
    votes = unanimous(PLANS["split"])
    assert certified(PLANS["split"], votes=votes).label.tolist() == [0] * N
    for draw in (M, M + 3):
        some = {other: row for other, row in votes.items() if other != draw}
        with pytest.raises(InputError, match="1 of the 4 draws that choose the class are missing"):
            certified(PLANS["split"], votes=some)
    assert certified(PLANS["split"], votes={d: row for d, row in votes.items() if d}).certificate["missing_draws"] == [
        0
    ]


class Reached(Exception):
    """The command has come to where the test ends."""


def test_the_entropy_of_an_ensemble_is_drawn_when_its_plan_with_the_raw_digest_stands(store, monkeypatch):
    # Whoever learns the entropy as it is drawn, and changes the raw set then, is too late: the plan has its digest.
    make_sets()
    set_params(sanitize={"denoise": False, "entropy": "os"}, train={"architecture": "linear"})
    real, planned = secrets.token_bytes, {}

    def watched(size: int) -> bytes:
        value = real(size)
        planned[sha256(value).hexdigest()] = [path.name for path in state().glob("locks/*")]
        return value

    def ends() -> None:
        raise Reached

    monkeypatch.setattr(secrets, "token_bytes", watched)
    monkeypatch.setattr(smooth, "prefect_server", ends)
    monkeypatch.setattr(sys, "argv", ["flows.smooth"])
    with pytest.raises(Reached):
        smooth.main()
    plan = make_plan()
    (run,) = find_runs(store, f"tags.`{TAG}plan` = '{plan.digest}'")
    assert plan.digest in planned[run.data.params["entropy_commitment"]]
