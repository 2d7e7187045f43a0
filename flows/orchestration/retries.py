"""Tasks that are retried after a failure that may pass: a service does not answer, or a device is full."""

from collections.abc import Callable
from functools import partial
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.states import State

from cleanlabel.sanitize.errors import ServiceUnavailable

RETRY_SECONDS = [10, 30, 60, 120]
"""How long to wait for a service before each retry: about four minutes in all."""


def service_is_away(_task: object, _run: object, state: State[Any]) -> bool:
    """Whether a task failed because a service did not answer. Other failures are not retried: they would recur."""
    return isinstance(state.result(raise_on_failure=False), ServiceUnavailable)


def retried(seconds: list[int], may_pass: Callable[[object, object, State[Any]], bool]) -> Callable[..., Any]:
    """`prefect.task` with a retry after each of `seconds`, as long as `may_pass(task, run, state)` holds."""
    return partial(
        task,
        cache_policy=NO_CACHE,
        persist_result=False,
        retries=len(seconds),
        retry_delay_seconds=seconds,
        retry_condition_fn=may_pass,
    )


patient_task = retried(RETRY_SECONDS, service_is_away)
"""A `prefect.task` that is retried while a service is away."""
