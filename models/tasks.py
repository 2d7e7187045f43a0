"""How an ensemble's draws are dealt out to workers as tasks, and how much of the workers' time is left idle.

Networks that train one by one are the same in any grouping (`models.stacked.never_stacked`), so their draws are dealt
out when they are made, by the workers that there are then. Others keep the plan's batches, on which their bits depend.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heapify, heapreplace
from itertools import accumulate, pairwise

Task = tuple[range, list[int]]
"""A range of draws and those in it that are to be made."""


@dataclass(frozen=True)
class Timing:
    """What making all draws takes."""

    makespan: float
    """Seconds until the last worker is done."""
    idle: float
    """The share of all workers' time until then in which no draw is made, 0 to 1."""


def equal_sizes(draws: int, workers: int, most: int) -> list[int]:
    """The sizes of tasks that keep all workers at work to the end: whole waves of equal tasks of at most `most` draws.

    There are as few waves as possible, and sizes differ by one at most, larger ones first: no worker makes two draws
    more than another.
    """
    waves = -(-draws // (workers * most))
    tasks = min(draws, workers * waves)
    return [draws // tasks + (i < draws % tasks) for i in range(tasks)]


def batch_sizes(draws: int, batch: int) -> list[int]:
    """The sizes of the batches of a plan: all of `batch` draws, but for a smaller last one."""
    return [min(batch, draws - start) for start in range(0, draws, batch)]


def task_sizes(draws: int, workers: int, batch: int, *, regroup: bool) -> list[int]:
    """The sizes of the tasks of a whole ensemble: `equal_sizes` if draws may be regrouped, or those of the batches."""
    return equal_sizes(draws, workers, batch) if regroup else batch_sizes(draws, batch)


def balanced_batch(draws: int, workers: int, most: int) -> int:
    """The largest batch of at most `most` draws whose `batch_sizes` take the least time."""
    return min(range(min(most, draws), 0, -1), key=lambda batch: timing(batch_sizes(draws, batch), workers, 1).makespan)


def timing(sizes: Sequence[int], workers: int, seconds: float | Sequence[float]) -> Timing:
    """What tasks of these sizes take if each free worker takes the next one, in order.

    seconds: for a draw, or for each draw in the order of the tasks.
    """
    draws = sum(sizes)
    each = [float(seconds)] * draws if isinstance(seconds, int | float) else list(seconds)
    free = [0.0] * workers
    heapify(free)
    for first, end in pairwise(accumulate(sizes, initial=0)):
        heapreplace(free, free[0] + sum(each[first:end]))
    makespan = max(free)
    return Timing(makespan, max(0.0, 1 - sum(each) / (workers * makespan)) if makespan else 0.0)


def dealt(batches: Sequence[Task], workers: int) -> list[Task]:
    """The wanted draws of these batches as tasks of `equal_sizes`, none larger than the largest batch."""
    wanted = [draw for _, draws in batches for draw in draws]
    if not wanted:
        return []
    sizes = equal_sizes(len(wanted), workers, max(len(batch) for batch, _ in batches))
    parts = [wanted[first:end] for first, end in pairwise(accumulate(sizes, initial=0))]
    return [(range(min(part), max(part) + 1), part) for part in parts]
