"""Rates from a file: read exactly, crossed exactly, read again when the file changes.

The file is JSON: ``{"base": "USD", "rates": {"EUR": "0.92", ...}}``, units of EUR for one USD, as
text or as numbers.
"""

import json
import re
from decimal import ROUND_HALF_EVEN, Context, Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any, Final, NoReturn

import structlog

log = structlog.get_logger(__name__)

BUILT_IN: Final = Path(__file__).with_name("rates.json")
FILE_BYTES_MAX: Final = 1 << 20
# A cross rate that has no end as a decimal is rounded to this many digits.
DIGITS: Final = 16
EXPONENT_MAX: Final = 24

_CODE: Final = re.compile(r"[A-Za-z0-9._-]{1,32}", re.ASCII)


class RatesFileError(Exception):
    """The file is not what it should be; the text says why."""


class RatesFile:
    """The rates of one file, as it is now; as it last was while it is broken."""

    def __init__(self, path: Path) -> None:
        """Read the file. Raises RatesFileError."""
        self._path = path
        self._seen = self._signature()
        self._units = parse_rates(self._read())

    def quotes(self, base: str) -> dict[str, Decimal] | None:
        """Units of every other currency for one unit of ``base``; None if it is unknown."""
        self._refresh()
        units = self._units
        if base not in units:
            return None
        return {
            code: to_decimal(amount / units[base]) for code, amount in units.items() if code != base
        }

    def codes(self) -> list[str]:
        return sorted(self._units)

    def _refresh(self) -> None:
        signature = self._signature()
        if signature == self._seen:
            return
        # A broken edit is reported once, not with each question.
        self._seen = signature
        try:
            self._units = parse_rates(self._read())
        except RatesFileError as error:
            log.error(  # noqa: TRY400 - the text says all
                "rates_file_broken", file=str(self._path), reason=str(error), kept="last good rates"
            )
        else:
            log.info("rates_file_read", file=str(self._path), currencies=len(self._units))

    def _signature(self) -> tuple[int, int, int] | None:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino

    def _read(self) -> bytes:
        try:
            with self._path.open("rb") as file:
                data = file.read(FILE_BYTES_MAX + 1)
        except OSError as error:
            raise RatesFileError(f"cannot be read: {error.strerror}") from None
        if len(data) > FILE_BYTES_MAX:
            raise RatesFileError(f"has more than {FILE_BYTES_MAX} bytes")
        return data


def parse_rates(data: bytes) -> dict[str, Fraction]:
    """Read a rates file: units of each currency, the base itself included, for one of the base.

    Raises RatesFileError.
    """
    try:
        content = json.loads(
            data.decode(),
            parse_float=Decimal,
            parse_int=Decimal,
            parse_constant=_refuse_constant,
            object_pairs_hook=_refuse_duplicates,
        )
    except (ValueError, ArithmeticError, RecursionError) as error:
        raise RatesFileError(f"is not JSON: {str(error)[:100]}") from None
    base = content.get("base") if isinstance(content, dict) else None
    rates = content.get("rates") if isinstance(content, dict) else None
    if not isinstance(base, str) or not isinstance(rates, dict):
        raise RatesFileError('needs "base" and "rates"')
    if base in rates:
        raise RatesFileError("gives a rate for its own base")
    return {code: _parse_rate(code, rate) for code, rate in {**rates, base: Decimal(1)}.items()}


def to_decimal(rate: Fraction) -> Decimal:
    """A rate as a decimal: exact where it ends within ``DIGITS`` digits, else rounded half even."""
    context = Context(prec=DIGITS, rounding=ROUND_HALF_EVEN)
    quotient = context.divide(Decimal(rate.numerator), Decimal(rate.denominator))
    return quotient.normalize(context)


def _parse_rate(code: str, value: object) -> Fraction:
    if _CODE.fullmatch(code) is None:
        raise RatesFileError(f"has no currency code in {code[:40]!r}")
    try:
        rate = Decimal(value) if isinstance(value, str | Decimal) else Decimal("NaN")
    except ArithmeticError:
        rate = Decimal("NaN")
    if not rate.is_finite() or rate <= 0 or abs(rate.adjusted()) > EXPONENT_MAX:
        raise RatesFileError(f"has no rate above 0 for {code}")
    if len(rate.as_tuple().digits) > DIGITS:
        raise RatesFileError(f"has more than {DIGITS} digits for {code}")
    return Fraction(rate)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name appears twice")
    return found
