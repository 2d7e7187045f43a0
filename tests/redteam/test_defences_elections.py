"""The certificates of partition aggregation, held to every way in which votes can change."""

from itertools import combinations_with_replacement, permutations

import numpy as np
import pytest

from cleanlabel.redteam.defences.elections import aggregated, gaps_to, moves_past_two, run_off, votes_of


def tallies(votes: int, kinds: int) -> np.ndarray:
    """Every way to share so many votes out among so many kinds, (states, kinds)."""
    found = [np.bincount(chosen, minlength=kinds) for chosen in combinations_with_replacement(range(kinds), votes)]
    return np.array(found, dtype=np.int64)


def least_changes(states: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """From each state, how many votes have to change until `wanted` (states, states) holds; 99: never."""
    changes = np.abs(states[:, None, :].astype(np.int8) - states[None].astype(np.int8)).sum(axis=2) // 2
    return np.where(wanted, changes, 99).min(axis=1)


@pytest.mark.parametrize(("votes", "classes"), [(4, 3), (7, 3), (9, 3), (5, 4), (9, 4)])
def test_two_classes_pass_a_third_after_as_many_votes_as_the_closed_form_says(votes, classes):
    states = tallies(votes, classes)
    leaders = np.argsort(-states, axis=1, kind="stable")[:, :2]
    for ahead in range(classes):
        gaps = gaps_to(states, np.full(len(states), ahead))
        for a in range(classes):
            for b in range(a):
                if ahead in (a, b):
                    continue
                passed = ((gaps[:, a] <= 0) & (gaps[:, b] <= 0))[None]
                found = least_changes(states, np.broadcast_to(passed, (len(states),) * 2))
                closed = moves_past_two(gaps[:, a], gaps[:, b])
                assert (closed <= found).all()
                in_the_lead = (leaders == ahead).any(axis=1)  # as the winner of a run-off is: it has a vote to lose
                has_one = in_the_lead & (states[:, ahead] > 0)
                assert (closed[has_one] == found[has_one]).all()


@pytest.mark.parametrize(("votes", "classes"), [(1, 2), (6, 2), (9, 3), (8, 4), (9, 4)])
def test_aggregation_tolerates_exactly_what_every_change_of_votes_leaves(votes, classes):
    states = tallies(votes, classes)
    label, tolerated = aggregated(states)
    found = least_changes(states, label[:, None] != label[None])
    assert (tolerated + 1 == found).all()
    ranked = np.sort(states, axis=1)
    at_most = (ranked[:, -1] - ranked[:, -2]) // 2  # the formula where no tie speaks against the winner
    assert ((tolerated == at_most) | (tolerated == at_most - 1)).all()


def test_aggregation_by_hand():
    counts = np.array([[5, 3, 1], [3, 5, 1], [4, 4, 0], [0, 4, 4]])
    label, tolerated = aggregated(counts)
    assert label.tolist() == [0, 1, 0, 1]
    assert tolerated.tolist() == [1, 0, 0, 0]  # floor(2 / 2), floor((2 - 1) / 2), and ties


def elections(members: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Every election of so many members by their rankings: states (s, rankings) and logits (members, s, classes)."""
    rankings = np.array(list(permutations(range(classes))))
    states = tallies(members, len(rankings))
    chosen = np.array([np.repeat(np.arange(len(rankings)), state) for state in states])
    return states, rankings[chosen].transpose(1, 0, 2).astype(np.float32)


@pytest.mark.parametrize(("members", "classes"), [(1, 3), (3, 3), (6, 3), (9, 3), (2, 4), (3, 4), (6, 2)])
def test_no_change_of_as_many_members_as_are_tolerated_turns_a_run_off(members, classes):
    states, logits = elections(members, classes)
    label, tolerated = run_off(logits)
    found = least_changes(states, label[:, None] != label[None])
    assert tolerated.min() >= 0
    assert (tolerated < found).all()
    if members > 3:
        assert (tolerated + 1 == found).mean() > 0.9  # and it gives away next to nothing


def test_a_run_off_goes_to_whom_more_members_prefer_of_the_two_that_lead():
    first, second, third = [9.0, 5, 1], [1, 9, 5], [1.0, 5, 9]
    label, _ = run_off(np.array([[first]] * 4 + [[second]] * 3 + [[third]] * 2))
    assert label.tolist() == [1]  # 0 leads with 4 votes; the two that voted for 2 prefer 1


def test_a_tie_is_the_smaller_class_s_in_both_rounds():
    label, tolerated = run_off(np.array([[[0.0, 9, 5]], [[0, 5, 9]]]))
    assert (label.tolist(), tolerated.tolist()) == ([1], [0])
    label, _ = run_off(np.zeros((3, 1, 4)))
    assert label.tolist() == [0]


def test_a_member_without_numbers_votes_for_nobody():
    logits = np.array([[[1.0, 0]], [[np.nan, 5]], [[0, 1]], [[1, 0]]])
    assert votes_of(logits)[:, 0].tolist() == [0, -1, 1, 0]
    assert run_off(logits)[0].tolist() == [0]
