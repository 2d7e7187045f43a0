"""How a claim leaves the program: rounded so that what is read is never more than what was proved.

Radii, counts, certified shares and whatever is computed from them are rounded down (`down`, `down_text`,
`percent_down`). A number that nothing may exceed, such as the probability of error, is rounded up (`up`, `up_text`).
What a person set (a radius to report, a threshold) is shown with all of its digits (`exact`). Nothing here rounds to
nearest: a number is cut at the digits that `repr` gives it, which are those that read back as the same double. So a
number that has no more digits than asked stays what it is, and rounding twice is rounding once.
"""

import math
from collections.abc import Iterable
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

CONTEXT = Context(prec=800)
"""Enough digits for every double."""
Floats = NDArray[np.float64]


@overload
def down(value: float, digits: int) -> float: ...
@overload
def down(value: NDArray[Any] | Iterable[float], digits: int) -> Floats: ...
def down(value: Any, digits: int) -> Any:
    """The largest number of `digits` decimals that is not above `value`: a float, or an array of value's shape.

    Its digits read back as a double that is not above `value`. -0 becomes 0, infinity stays. ValueError for nan: no
    number is known to lie below it.
    """
    return _each(value, digits, ROUND_FLOOR)


@overload
def up(value: float, digits: int) -> float: ...
@overload
def up(value: NDArray[Any] | Iterable[float], digits: int) -> Floats: ...
def up(value: Any, digits: int) -> Any:
    """The least number of `digits` decimals that is not below `value`: the mirror of `down`."""
    return _each(value, digits, ROUND_CEILING)


def down_text(value: float, digits: int = 3) -> str:
    """`down` as text with exactly `digits` decimals: 0.119609 is "0.119"."""
    return _text(_rounded(value, digits, ROUND_FLOOR))


def percent_down(share: float, digits: int = 1) -> str:
    """A share in percent, rounded down to `digits` decimals: .88967 is "88.9"."""
    return _text(_rounded(share, digits + 2, ROUND_FLOOR).scaleb(2, CONTEXT))


def up_text(value: float, significant: int = 3) -> str:
    """A number above 0, rounded up to this many significant digits: a probability of 3.125e-05 is "3.13e-05"."""
    return f"{up(value, _decimals(value, significant)):.{significant}g}"


def below(value: float) -> float:
    """The largest number of two significant digits that is truly below `value`, which is above 0."""
    less = math.nextafter(value, 0.0)
    return down(less, _decimals(less, 2))


def exact(value: float) -> str:
    """All digits of a number that a person set, and no more: 0.5 is "0.5", 2.0 is "2", 1.9999996 is "1.9999996"."""
    return np.format_float_positional(float(value), trim="-")


def _each(value: Any, digits: int, way: str) -> Any:
    if np.ndim(value) == 0:
        return float(_rounded(value, digits, way))
    values = np.asarray(value, dtype=np.float64)
    return np.array([float(_rounded(one, digits, way)) for one in values.ravel().tolist()]).reshape(values.shape)


def _rounded(value: float, digits: int, way: str) -> Decimal:
    number = float(value)
    if math.isnan(number):
        raise ValueError("nan cannot be rounded to a number that it is known not to exceed; give a number")
    if math.isinf(number):
        return Decimal(number)
    found = Decimal(repr(number)).quantize(Decimal(1).scaleb(-digits), way, CONTEXT)
    return found if found else abs(found)


def _text(number: Decimal) -> str:
    return f"{number:f}" if number.is_finite() else str(float(number))


def _decimals(value: float, significant: int) -> int:
    return significant - 1 - Decimal(repr(float(value))).adjusted()
