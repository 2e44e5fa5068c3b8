"""Timestamps of ILP packets: ``YYYYMMDDHHmmSSfff``, UTC (RFC 30, "Fixed-length Timestamps").

A moment is an ``int`` of milliseconds since 1970-01-01, so nothing is ever rounded. Seconds that
were met before are remembered both ways; each memory is emptied when full, because peers choose
what is put in.
"""

from datetime import UTC, datetime, timedelta

from connector.errors import DecodeError, EncodeError

EXPIRY_BYTES = 17

_SECONDS_BYTES = 14
_CACHE_ENTRIES_MAX = 4096
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND = timedelta(seconds=1)

# datetime begins at year 1, the format at year 0. The calendar repeats every 400 years, therefore
# every year is looked up in the cycle that begins with 2000.
_CYCLE_YEARS = 400
_CYCLE_SECONDS = 146_097 * 86_400
_SECONDS_2000 = (datetime(2000, 1, 1, tzinfo=UTC) - _EPOCH) // _SECOND
_CYCLE_2000 = 2000 // _CYCLE_YEARS
_CYCLES_MAX = 10_000 // _CYCLE_YEARS

_MILLISECONDS_TEXT = tuple(b"%03d" % value for value in range(1000))
_MILLISECONDS = {text: value for value, text in enumerate(_MILLISECONDS_TEXT)}

_parsed: dict[bytes, int] = {}
_formatted: dict[int, bytes] = {}


def parse_expiry(text: bytes, field: str = "expires_at", offset: int = 0) -> int:
    """Read a timestamp.

    Returns: milliseconds since the epoch; negative before 1970.
    Raises: DecodeError - not 17 digits, or no moment of the calendar (hour 24 and second 60 are
    none: midnight belongs to the following day and leap seconds are smeared).
    """
    try:
        # Keys of the two tables are 14 and 3 digits long: a hit proves length and digits.
        return _parsed[text[:_SECONDS_BYTES]] + _MILLISECONDS[text[_SECONDS_BYTES:]]
    except KeyError:
        return _parse(text, field, offset)


def format_expiry(ms: int) -> bytes:
    """Write a moment. Raises EncodeError outside the years 0000 to 9999."""
    seconds, milliseconds = divmod(ms, 1000)
    text = _formatted.get(seconds)
    if text is None:
        text = _format_seconds(seconds)
        if len(_formatted) >= _CACHE_ENTRIES_MAX:
            _formatted.clear()
        _formatted[seconds] = text
    return text + _MILLISECONDS_TEXT[milliseconds]


def _parse(text: bytes, field: str, offset: int) -> int:
    if len(text) != EXPIRY_BYTES or not text.isdigit():
        raise DecodeError(field, offset, "not 17 digits")
    cycle, year = divmod(int(text[:4]), _CYCLE_YEARS)
    month, day, hour, minute, second = (int(text[at : at + 2]) for at in range(4, 14, 2))
    try:
        moment = datetime(2000 + year, month, day, hour, minute, second, tzinfo=UTC)
    except ValueError as problem:
        raise DecodeError(field, offset, str(problem)) from None
    seconds = (moment - _EPOCH) // _SECOND + (cycle - _CYCLE_2000) * _CYCLE_SECONDS
    if len(_parsed) >= _CACHE_ENTRIES_MAX:
        _parsed.clear()
    _parsed[text[:_SECONDS_BYTES]] = 1000 * seconds
    return 1000 * seconds + int(text[_SECONDS_BYTES:])


def _format_seconds(seconds: int) -> bytes:
    cycles, within = divmod(seconds - _SECONDS_2000, _CYCLE_SECONDS)
    cycle = cycles + _CYCLE_2000
    if not 0 <= cycle < _CYCLES_MAX:
        raise EncodeError(f"{seconds} s since the epoch is outside the years 0000 to 9999")
    moment = _EPOCH + (_SECONDS_2000 + within) * _SECOND
    year = moment.year - 2000 + cycle * _CYCLE_YEARS
    return b"%04d%s" % (year, moment.strftime("%m%d%H%M%S").encode())
