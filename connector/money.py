"""Integer amounts and exact ratios. The rounding direction is in the function's name."""

from decimal import Decimal, InvalidOperation
from math import gcd
from typing import Final

import msgspec

from connector.errors import InvalidInput

U64_MAX: Final = (1 << 64) - 1

# A rate is written by people and services: more digits than this are noise or an attack on CPU.
RATE_DIGITS_MAX: Final = 40
RATE_EXPONENT_MAX: Final = 30


class Ratio(msgspec.Struct, frozen=True, gc=False):
    """An exact ratio: destination units for one source unit, as numerator / denominator."""

    numerator: int
    denominator: int

    @property
    def is_one(self) -> bool:
        return self.numerator == self.denominator


ONE: Final = Ratio(1, 1)


def convert_floor(amount: int, ratio: Ratio) -> int:
    """The largest whole amount not above ``amount`` x ``ratio``."""
    return amount * ratio.numerator // ratio.denominator


def convert_ceil(amount: int, ratio: Ratio) -> int:
    """The smallest whole amount not below ``amount`` x ``ratio``."""
    return -(-amount * ratio.numerator // ratio.denominator)


def largest_source_floor(destination_amount: int, ratio: Ratio) -> int:
    """The largest source amount whose plain conversion does not exceed ``destination_amount``."""
    return destination_amount * ratio.denominator // ratio.numerator


def parse_rate(text: str | int | Decimal) -> Ratio:
    """Read a decimal rate exactly: units of the quote currency for one unit of the base.

    Raises: InvalidInput - not a finite number above 0 with at most 40 digits.
    """
    try:
        value = Decimal(text)
    except (InvalidOperation, ValueError, TypeError):
        raise InvalidInput(f"rate {str(text)[:60]!r} is not a decimal number") from None
    if not value.is_finite() or value <= 0:
        raise InvalidInput(f"rate {str(text)[:60]!r} is not above 0")
    _, digits, exponent = value.as_tuple()
    assert isinstance(exponent, int)  # finite, checked above
    if len(digits) > RATE_DIGITS_MAX or abs(exponent) > RATE_EXPONENT_MAX:
        raise InvalidInput(f"rate {str(text)[:60]!r} has too many digits")
    numerator, denominator = value.as_integer_ratio()
    return Ratio(numerator, denominator)


def rescale(rate: Ratio, source_scale: int, destination_scale: int) -> Ratio:
    """Turn a rate between currencies into a ratio between their smallest units, in lowest terms."""
    numerator = rate.numerator * 10**destination_scale
    denominator = rate.denominator * 10**source_scale
    divisor = gcd(numerator, denominator)
    return Ratio(numerator // divisor, denominator // divisor)
