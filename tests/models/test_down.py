"""Rule 16: what leaves the program is rounded down, by one function."""

import json
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cleanlabel.models.rounding import below, down, down_text, exact, percent_down, up, up_text

AWKWARD = (0.119609, 0.2499999, 1.9999996, 0.14, 0.29, 0.01, 0.07, 1.005, 2.675, 0.88967, 1 / 3, 5e-324, 1e-300, 1e300)
numbers = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(AWKWARD),
    st.builds(lambda n, d: n / 10**d, st.integers(-(10**6), 10**6), st.integers(0, 9)),
)
digits = st.integers(0, 9)


@given(numbers, digits)
def test_it_is_never_above_the_value_and_less_than_a_step_below(value, d):
    found = down(value, d)
    assert found <= value
    assert Fraction(value) - Fraction(found) < Fraction(1, 10**d) + Fraction(math.ulp(value)) + Fraction(
        math.ulp(found)
    )


@given(numbers, digits)
def test_a_number_without_more_digits_stays_and_rounding_twice_is_rounding_once(value, d):
    found = down(value, d)
    assert down(found, d) == found == down(found, d + 1)
    assert math.copysign(1, found) == 1 or found < 0  # no negative zero


@given(numbers, digits)
def test_its_text_reads_back_as_the_number(value, d):
    said = down_text(value, d)
    assert float(said) == down(value, d) <= value
    assert len(said.partition(".")[2]) == d
    assert json.loads(json.dumps(down(value, d))) == down(value, d)


@given(st.integers(0, 10**6), st.integers(1, 9))
def test_a_decimal_number_is_not_taken_for_the_one_below_it(n, d):
    """The doubles nearest to .29, 1.005 and 2.675 lie below them; the quotient .14 / .01 lies above 14."""
    assert down(n / 10**d, d) == n / 10**d == up(n / 10**d, d)


@given(numbers, digits)
def test_up_is_its_mirror(value, d):
    assert up(value, d) == -down(-value, d)
    assert up(value, d) >= value


@given(st.lists(numbers, max_size=5), digits)
def test_an_array_is_rounded_number_by_number(values, d):
    assert down(np.array(values), d).tolist() == [down(value, d) for value in values]
    assert down(np.array([values, values]), d).shape == (2, len(values))


def test_infinity_passes_and_nan_is_refused():
    assert down(math.inf, 3) == math.inf
    assert (down_text(math.inf), down_text(-math.inf, 1)) == ("inf", "-inf")
    for rounded in (down, up, down_text):
        with pytest.raises(ValueError, match="nan cannot be rounded"):
            rounded(math.nan, 3)
    with pytest.raises(ValueError, match="nan cannot be rounded"):
        down(np.array([1.0, math.nan]), 3)


def test_what_the_eye_would_round_up():
    assert (down_text(0.119609), down_text(0.2499999), down_text(1.9999996)) == ("0.119", "0.249", "1.999")
    assert (down_text(-0.0), down_text(-1e-9), down_text(0)) == ("0.000", "-0.001", "0.000")
    assert (down_text(np.float32(0.1), 2), down_text(np.float64(0.7), 1)) == ("0.10", "0.7")
    assert (percent_down(0.88967), percent_down(0.29), percent_down(0.999, 0), percent_down(1)) == (
        *("88.9", "29.0", "99", "100.0"),
    )


@given(st.floats(1e-12, 1.0), st.integers(2, 6))
def test_a_probability_of_error_is_never_shown_smaller(level, significant):
    assert level <= float(up_text(level, significant)) <= level * (1 + 2 * 10.0 ** (1 - significant))


def test_a_probability_of_error_in_words():
    assert [up_text(level) for level in (0.001, 0.0005, 0.001 / 3, 3.125e-05)] == [
        "0.001",
        "0.0005",
        "0.000334",
        "3.13e-05",
    ]


@given(st.one_of(st.floats(1e-6, 1e6), st.integers(1, 1000).map(lambda n: n / 100)))
def test_a_bound_in_words_is_below_the_bound_and_close_to_it(value):
    assert 0.89 * value <= below(value) < value


@given(st.floats(0, 1e6))
def test_what_a_person_set_keeps_all_of_its_digits(value):
    assert float(exact(value)) == value


def test_what_a_person_set_has_no_more_digits_than_that():
    assert [exact(value) for value in (0, 2.0, 0.5, 12.4, 1.9999996, 1e-7)] == [
        *("0", "2", "0.5", "12.4", "1.9999996", "0.0000001"),
    ]
