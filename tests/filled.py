"""What a loop of checks goes over."""

from collections.abc import Iterable
from typing import TypeVar

T = TypeVar("T")


def filled(found: Iterable[T]) -> list[T]:
    """All of it as a list. Nothing found fails the test, since a loop over nothing would check nothing."""
    items = list(found)
    assert items, "there is nothing to check"
    return items
