"""Tasks: every worker has work to the end, and no bit of a draw depends on its task."""

from itertools import product

import numpy as np
import pytest
from filled import filled
from hypothesis import given
from hypothesis import strategies as st
from models_recipes import QUICK
from tiny import FIXED

from cleanlabel.models.draw import Smoothed, make_batch
from cleanlabel.models.materials import Materials
from cleanlabel.models.stacked import never_stacked
from cleanlabel.models.tasks import balanced_batch, batch_sizes, dealt, equal_sizes, task_sizes, timing

COUNTS = st.integers(1, 300)
WORKERS = st.integers(1, 20)


def batches(draws: int, batch: int) -> list[tuple[range, list[int]]]:
    ranges = [range(start, min(start + batch, draws)) for start in range(0, draws, batch)]
    return [(each, [*each]) for each in ranges]


@given(COUNTS, WORKERS, st.integers(1, 40))
def test_equal_tasks_leave_no_worker_more_than_one_draw_behind_another(draws, workers, most):
    sizes = equal_sizes(draws, workers, most)
    assert sum(sizes) == draws
    assert 1 <= min(sizes) <= max(sizes) <= min(sizes) + 1
    assert max(sizes) <= most
    assert sorted(sizes, reverse=True) == sizes
    took = timing(sizes, workers, 1)
    assert took.makespan - draws / workers < 2
    assert took.makespan <= timing(batch_sizes(draws, most), workers, 1).makespan


@given(COUNTS, WORKERS, st.integers(1, 40))
def test_tasks_are_all_wanted_draws_once_each(draws, workers, batch):
    given = batches(draws, batch)
    tasks = dealt(given, workers)
    assert [draw for _, wanted in tasks for draw in wanted] == [*range(draws)]
    assert all(set(wanted) <= {*around} for around, wanted in tasks)
    assert max(len(wanted) for _, wanted in tasks) <= batch
    assert [len(wanted) for _, wanted in tasks] == equal_sizes(draws, workers, min(batch, draws))


def test_what_is_left_of_a_run_is_dealt_out_anew():
    left = [(range(4), [1, 3]), (range(4, 8), [6]), (range(8, 12), [8, 9, 10, 11])]
    assert [wanted for _, wanted in dealt(left, 2)] == [[1, 3, 6, 8], [9, 10, 11]]
    assert dealt([(range(4), [])], 2) == []


@pytest.mark.parametrize(
    ("sizes", "workers", "makespan", "idle"),
    [
        ([25, 25, 25, 25], 2, 100.0, 0.0),
        ([25, 25, 25, 25], 3, 100.0, 1 / 3),
        ([17, 17, 17, 17, 17, 15], 3, 68.0, 1 - 100 / 102),
        ([3, 1, 1, 1], 2, 6.0, 0.0),
        ([5], 4, 10.0, 0.75),
    ],
)
def test_the_time_of_tasks_by_hand(sizes, workers, makespan, idle):
    took = timing(sizes, workers, 2.0)
    assert took.makespan == makespan
    assert took.idle == pytest.approx(idle)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(1, 5))
def test_the_time_of_tasks_agrees_with_a_clock_that_ticks(sizes, workers):
    """The slow twin: workers that look for a task at every moment at which one of them is done."""
    seconds = np.random.default_rng(sum(sizes)).uniform(0.5, 2, sum(sizes))
    ends = np.zeros(workers)
    done = 0
    for size in sizes:
        first = min(range(workers), key=lambda one: ends[one])
        ends[first] += sum(seconds[done : done + size].tolist())
        done += size
    took = timing(sizes, workers, seconds.tolist())
    assert took.makespan == pytest.approx(ends.max())
    assert took.idle == pytest.approx(1 - seconds.sum() / workers / ends.max())
    assert 0 <= took.idle < 1


def test_the_balanced_batch_is_the_largest_that_takes_the_least_time():
    assert balanced_batch(100, 2, 25) == 25
    assert balanced_batch(100, 3, 25) == 17
    assert balanced_batch(100, 8, 25) == 13
    assert balanced_batch(3, 8, 25) == 1
    assert task_sizes(100, 8, 25, regroup=False) == [25] * 4
    assert task_sizes(100, 8, 25, regroup=True) == [13] * 4 + [12] * 4


def same(one: Smoothed, other: Smoothed) -> bool:
    pairs = zip(one.model.state_dict().values(), other.model.state_dict().values(), strict=True)
    return one.votes.tolist() == other.votes.tolist() and all(
        a.numpy().tobytes() == b.numpy().tobytes() for a, b in pairs
    )


@pytest.mark.parametrize("changes", [{"shift": 1}, {"architecture": "small-cnn", "flip": True}], ids=str)
def test_no_bit_of_a_draw_depends_on_its_task_or_on_their_order(changes, small_set, denoiser):
    recipe = QUICK.model_copy(update=changes)
    assert never_stacked(recipe)
    ours = Materials(small_set, small_set, 0.5, denoiser, recipe, 7)
    whole = {made.draw: made for made in make_batch(ours, FIXED, range(7))}
    for workers in (2, 3):
        tasks = dealt(batches(7, 3), workers)
        for made in filled((made for _, wanted in reversed(tasks) for made in make_batch(ours, FIXED, wanted))):
            assert same(made, whole[made.draw])
    (back, *_) = make_batch(ours, FIXED, [5, 0])
    assert same(back, whole[5])


def test_recipes_that_may_train_at_once_keep_the_plans_batches():
    for architecture, shift in product(("linear", "mlp", "small-cnn"), (0, 1)):
        assert never_stacked(QUICK.model_copy(update={"architecture": architecture, "shift": shift})) == bool(shift)
    for other in ({"architecture": "fast-cifar"}, {"architecture": "resnet18"}, {"mode": "transfer"}):
        assert never_stacked(QUICK.model_copy(update=other))
