"""What is refused of a partitioned ensemble. Its life: `test_kinds.py`."""

import numpy as np
import pytest
from registered import make_ensemble, make_sets, set_params

from cleanlabel.flows.ensemble import planning
from cleanlabel.flows.ensemble.assembly import assemble
from cleanlabel.flows.store.client import TAG, log_files
from cleanlabel.models.blocks import RULE, block_of
from cleanlabel.models.params import CertifyParams, SmoothParams
from cleanlabel.models.votes import votes_hash, votes_to_bytes
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.imageset import load
from cleanlabel.sanitize.params import read_params
from cleanlabel.sanitize.paths import SETS

K = 3


def split(k: int = K) -> dict[str, object]:
    sizes = np.bincount(block_of(load(SETS["raw"]).ids, k), minlength=k)
    return {"partitions": k, "partition_rule": RULE, "block_sizes": tuple(sizes.tolist())}


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
