"""Exact arithmetic on amounts and rates."""

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connector.errors import InvalidInput
from connector.money import (
    ONE,
    U64_MAX,
    Ratio,
    convert_ceil,
    convert_floor,
    largest_source_floor,
    parse_rate,
    rescale,
)

amounts = st.integers(0, U64_MAX)
ratios = st.builds(Ratio, st.integers(1, 10**40), st.integers(1, 10**40))


@given(amounts, ratios)
def test_rounding_has_the_direction_of_its_name(amount: int, ratio: Ratio) -> None:
    exact = Fraction(amount * ratio.numerator, ratio.denominator)
    floor, ceil = convert_floor(amount, ratio), convert_ceil(amount, ratio)
    assert floor <= exact <= ceil
    assert ceil - floor == (0 if exact.denominator == 1 else 1)


@given(amounts, ratios)
def test_the_largest_source_does_not_exceed(amount: int, ratio: Ratio) -> None:
    source = largest_source_floor(amount, ratio)
    assert source * ratio.numerator <= amount * ratio.denominator
    assert (source + 1) * ratio.numerator > amount * ratio.denominator


@pytest.mark.parametrize(
    ("text", "ratio"),
    [
        ("1", Ratio(1, 1)),
        ("0.91", Ratio(91, 100)),
        ("1.080", Ratio(27, 25)),
        ("1e-30", Ratio(1, 10**30)),
        ("1E+30", Ratio(10**30, 1)),
        (7, Ratio(7, 1)),
        (Decimal("0.1"), Ratio(1, 10)),
        ("9" * 40, Ratio(10**40 - 1, 1)),
    ],
)
def test_rates_are_read_exactly(text: str | int | Decimal, ratio: Ratio) -> None:
    assert parse_rate(text) == ratio


@pytest.mark.parametrize(
    "text",
    [
        *("", "x", "0", "-1", "-0", "NaN", "sNaN", "Infinity", "1e31", "1e-31", "1,5", "1/3"),
        *("9" * 41, "9" * 100_000, "1e999999999999999999", "\x00"),
    ],
    ids=range(16),
)
def test_what_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput) as refusal:
        parse_rate(text)
    assert len(str(refusal.value)) < 120


@pytest.mark.parametrize(
    ("source_scale", "destination_scale", "ratio"),
    [
        (2, 2, Ratio(27, 25)),
        (2, 9, Ratio(10_800_000, 1)),
        (9, 2, Ratio(27, 25 * 10**7)),
        (0, 255, Ratio(108 * 10**253, 1)),
        (255, 0, Ratio(27, 25 * 10**255)),
    ],
)
def test_scales_move_the_point(source_scale: int, destination_scale: int, ratio: Ratio) -> None:
    assert rescale(parse_rate("1.08"), source_scale, destination_scale) == ratio


@given(ratios, st.integers(0, 255), st.integers(0, 255))
def test_rescaling_is_exact_and_reversible(rate: Ratio, source: int, destination: int) -> None:
    ratio = rescale(rate, source, destination)
    exact = Fraction(rate.numerator, rate.denominator) * Fraction(10) ** (destination - source)
    assert Fraction(ratio.numerator, ratio.denominator) == exact
    assert (ratio.numerator, ratio.denominator) == (exact.numerator, exact.denominator)


def test_one_is_one() -> None:
    assert ONE.is_one
    assert Ratio(3, 3).is_one
    assert not Ratio(1, 2).is_one
