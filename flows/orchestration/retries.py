"""Retries of a task while a service does not answer, for about four minutes in all."""

from functools import partial
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.states import State

from cleanlabel.sanitize.errors import ServiceUnavailable

RETRY_SECONDS = [10, 30, 60, 120]


def service_is_away(_task: object, _run: object, state: State[Any]) -> bool:
    """Whether a task failed because a service did not answer. Other failures are not retried: they would recur."""
    return isinstance(state.result(raise_on_failure=False), ServiceUnavailable)


patient_task = partial(
    task,
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=len(RETRY_SECONDS),
    retry_delay_seconds=RETRY_SECONDS,
    retry_condition_fn=service_is_away,
)
"""A `prefect.task` that is retried while a service is away."""
