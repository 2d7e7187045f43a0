"""Rule 6: draws 0..m-1, once each; a missing draw is a vote for nobody; one root over all votes."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cleanlabel.models.votes import (
    array_of,
    count_votes,
    merkle_root,
    repeated,
    votes_from_bytes,
    votes_hash,
    votes_to_bytes,
)
from cleanlabel.sanitize.errors import InputError

VOTES = {0: np.array([0, 1, 2]), 1: np.array([0, 1, 1]), 2: np.array([0, 2, -1])}


def test_votes_are_counted_by_class():
    assert count_votes(VOTES, 3, 3, 3).tolist() == [[3, 0, 0], [0, 2, 1], [0, 1, 1]]


def test_a_missing_draw_counts_for_no_class():
    assert count_votes({0: VOTES[0], 2: VOTES[2]}, 3, 3, 3).sum(axis=1).tolist() == [2, 2, 1]


@given(st.lists(st.lists(st.integers(-1, 3), min_size=4, max_size=4), min_size=1, max_size=9))
def test_counting_agrees_with_a_loop(rows):
    votes = {draw: np.array(row) for draw, row in enumerate(rows)}
    slow = [[sum(row[i] == c for row in rows) for c in range(4)] for i in range(4)]
    assert count_votes(votes, len(rows), 4, 4).tolist() == slow


@pytest.mark.parametrize(
    ("votes", "sentence"),
    [
        ({3: VOTES[0]}, "draw 3 is not in the plan of draws 0..2"),
        ({0: VOTES[0][:2]}, "draw 0 voted on"),
        ({0: np.array([0, 1, 3])}, "votes for class 3; there are classes 0..2"),
        ({0: np.array([0, 1, -2])}, "votes for class -2; there are classes 0..2"),
    ],
)
def test_a_stranger_is_refused(votes, sentence):
    with pytest.raises(InputError, match=sentence):
        count_votes(votes, 3, 3, 3)


def test_votes_come_back_as_they_went_and_unpickle_nothing():
    np.testing.assert_array_equal(votes_from_bytes(votes_to_bytes(VOTES[2]), "run x"), VOTES[2])
    with pytest.raises(InputError, match="votes of run x are not a .npy file"):
        votes_from_bytes(b"\x80\x04}\x94.", "run x")
    with pytest.raises(InputError, match="votes of run x are float64"):
        votes_from_bytes(votes_to_bytes(VOTES[0]).replace(b"<i8", b"<f8"), "run x")


def header(shape: tuple[int, ...], dtype: str = "<i8") -> bytes:
    """A `.npy` file that has a header and almost nothing else."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_2_0(stream, {"descr": dtype, "fortran_order": False, "shape": shape})
    return stream.getvalue() + b"12345678"


@pytest.mark.parametrize("shape", [(10**12,), (10**6, 10**6), (2,), (10**30,), (-(10**12),)])
def test_a_header_that_claims_more_than_there_is_takes_no_memory(shape):
    with pytest.raises(InputError, match="the votes of run x are not a .npy file .its header says"):
        votes_from_bytes(header(shape), "run x")


def test_an_array_of_any_version_of_the_format_comes_back():
    assert array_of(header((1,))).tobytes() == b"12345678"
    assert array_of(votes_to_bytes(np.arange(6).reshape(2, 3))).tolist() == [[0, 1, 2], [3, 4, 5]]
    with pytest.raises(ValueError, match="Object arrays cannot be loaded"):
        array_of(header((1,), "|O"))


def of(rows: np.ndarray) -> dict[int, np.ndarray]:
    return dict(enumerate(rows))


@pytest.mark.parametrize("further", [1, 3, 10, 40])
def test_rows_over_again_are_told_from_further_models_rows(further):
    """Of models that err independently on 200 points, no two agree everywhere."""
    rng = np.random.default_rng(further)
    every = np.where(
        rng.random((100 + further, 200)) < 0.9, np.arange(200) % 3, rng.integers(0, 3, (100 + further, 200))
    )
    votes, fresh = every[:100], every[100:]
    assert repeated(of(fresh), of(votes)) == 0
    for copied in (votes[:further], votes[-further:], rng.permutation(votes)[:further]):
        assert repeated(of(copied), of(votes)) == further
    assert repeated(of(votes), of(votes)) == repeated(of(votes), of(votes[:10])) + 90 == 100
    if further == 10:
        assert repeated(of(np.vstack([votes[:5], fresh[5:]])), of(votes)) == 5


def test_where_models_agree_equal_rows_are_chance():
    unanimous, one = np.zeros((100, 50), dtype=np.int64), np.ones((1, 50), dtype=np.int64)
    assert repeated(of(unanimous[:10]), of(unanimous)) == 0
    assert repeated(of(one), of(np.vstack([unanimous, one]))) == 0  # one model that went another way, in both
    few = np.array([[0]] * 95 + [[1]] * 5)
    for seed in range(200):  # one test point: all rows are equal to some
        rng = np.random.default_rng(seed)
        assert repeated(of(rng.permutation(few)[:10]), of(rng.permutation(few))) == 0
    mostly = np.random.default_rng(0).permutation(few)
    assert repeated(of(mostly), of(mostly)) == 100  # but not in the same order, of a hundred


def test_the_root_changes_with_any_vote_any_swap_and_any_missing_draw():
    hashes = {draw: votes_hash(votes) for draw, votes in VOTES.items()}
    root = merkle_root(hashes, 3)
    assert root == merkle_root(dict(reversed(hashes.items())), 3)
    edited = hashes | {1: votes_hash(np.array([0, 1, 0]))}
    swapped = hashes | {0: hashes[1], 1: hashes[0]}
    missing = {draw: h for draw, h in hashes.items() if draw != 2}
    roots = [root, merkle_root(edited, 3), merkle_root(swapped, 3), merkle_root(missing, 3), merkle_root(missing, 2)]
    assert len(set(roots)) == 5


@pytest.mark.parametrize("m", [1, 2, 5, 8, 100])
def test_a_root_exists_for_every_m(m):
    assert len(merkle_root({}, m)) == 64
