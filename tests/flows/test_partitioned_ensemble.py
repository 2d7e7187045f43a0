"""A partitioned ensemble through the pipeline: planned, trained, resumed, registered, certified, audited, served."""

import mlflow
import numpy as np
import pytest
from filled import filled
from registered import InThisProcess, M, make_ensemble, make_plan, make_sets, registered, set_params

from cleanlabel.flows.ensemble import planning
from cleanlabel.flows.ensemble.assembly import assemble
from cleanlabel.flows.ensemble.making import make_draws
from cleanlabel.flows.ensemble.opening import open_ensemble
from cleanlabel.flows.store.client import TAG, log_files
from cleanlabel.flows.store.registry import SMOOTHED
from cleanlabel.models.answers import answers
from cleanlabel.models.blocks import RULE, block_of
from cleanlabel.models.certificate import ABSTAIN
from cleanlabel.models.params import CertifyParams, SmoothParams
from cleanlabel.models.rounding import down
from cleanlabel.models.votes import votes_hash, votes_to_bytes
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.imageset import load
from cleanlabel.sanitize.params import read_params
from cleanlabel.sanitize.paths import SETS

K = 3


def split(k: int = K) -> dict[str, object]:
    sizes = np.bincount(block_of(load(SETS["raw"]).ids, k), minlength=k)
    return {"partitions": k, "partition_rule": RULE, "block_sizes": tuple(sizes.tolist())}


def test_a_partitioned_ensemble_is_certified_audited_and_served(store):
    make_sets()
    made = make_ensemble(store, m=20, **split())
    certified = made.certify()
    votes = assemble(store, made.ensemble).votes
    assert all(row.shape == (K, 40) for row in filled(votes.values()))
    found = answers(made.ensemble.plan, 0, 20, votes, 40)
    np.testing.assert_array_equal(certified.radius, found.radius)
    assert certified.certificate["partitions"] == certified.certificate["blocks"]["k"] == K
    assert certified.certificate["blocks"]["frontier"][0]["certified"] == (certified.label != ABSTAIN).sum()
    assert certified.certificate["level"] == 0.001
    assert certified.certificate["largest_certifiable_radius"] >= down(certified.radius.max(), 6) > 0
    checks = {check.name: check for check in made.audit(replay=2)}
    assert all(check.passed for check in checks.values()), checks
    assert sum(name.startswith("replay") for name in checks) == 2

    served = mlflow.pyfunc.load_model(f"models:/{SMOOTHED}/{made.number}").predict(load(SETS["test"]).images[..., 0])
    np.testing.assert_array_equal(served["label"], certified.label)
    np.testing.assert_array_equal(served["radius"], down(certified.radius, 6))
    np.testing.assert_array_equal(np.stack(served["votes"]), certified.counts)


def test_a_lost_batch_is_made_again_and_the_votes_are_those_of_an_undisturbed_run(store):
    make_sets()
    ensemble = open_ensemble(store, make_plan(**split(), entropy_spec="fixed:1f"))
    make_draws(store, ensemble, InThisProcess(lose=1))
    disturbed = assemble(store, ensemble).votes
    undisturbed = make_ensemble(store, "none", **split(), entropy_spec="fixed:01f")
    again = assemble(store, undisturbed.ensemble).votes
    assert disturbed.keys() == again.keys() == set(range(M))
    assert all(np.array_equal(disturbed[draw], again[draw]) for draw in range(M))
    assert registered(store, ensemble).tags()[f"{TAG}partitions"] == str(K)
    assert undisturbed.ensemble.attempts_before == 1  # on the same raw set: its level is half the first one's


def test_votes_of_a_draw_that_are_not_the_blocks_own_are_refused(store):
    make_sets()
    made = make_ensemble(store, "none", **split())
    run, own = made.run_of(2), assemble(store, made.ensemble).votes[2]
    log_files(store, run, {"votes.npy": votes_to_bytes((own + 1) % 10)})
    with pytest.raises(InputError, match="do not match the hash"):
        made.certify()
    for edited in (own[:2], own[0]):
        log_files(store, run, {"votes.npy": votes_to_bytes(edited)})
        store.client.set_tag(run, f"{TAG}votes_sha256", votes_hash(edited))
        with pytest.raises(InputError, match=r"have the shape .* the plan's have \(3, 40\)"):
            made.certify()


@pytest.mark.parametrize(
    ("section", "changes", "words"),
    [
        ("smooth", {"partitions": 1000}, r"partitions=1000 is more blocks than the raw set has images \(150\)"),
        ("smooth", {"stopping": "looks"}, "partitions=3 and smooth.stopping=looks do not go together"),
        ("smooth", {"test_sigma": 0.5}, "partitions=3 and smooth.test_sigma=0.5"),
        ("certify", {"method": "margin"}, "partitions=3 and certify.method=margin"),
    ],
)
def test_what_does_not_go_with_blocks_is_said_before_anything_is_made(tmp_path, monkeypatch, section, changes, words):
    monkeypatch.chdir(tmp_path)
    make_sets()
    set_params(
        **{"smooth": {"partitions": 3}} | {section: {"partitions": 3} | changes if section == "smooth" else changes}
    )
    with pytest.raises(InputError, match=words):
        planning.planned_blocks(
            read_params("smooth", SmoothParams), read_params("certify", CertifyParams), load(SETS["raw"])
        )
