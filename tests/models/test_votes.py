"""Rule 6: draws 0..m-1, once each; a missing draw is a vote for nobody; one root over all votes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cleanlabel.models.votes import count_votes, merkle_root, votes_from_bytes, votes_hash, votes_to_bytes
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
