from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connector.errors import DecodeError, EncodeError
from connector.packets import expiry
from connector.packets.expiry import format_expiry, parse_expiry
from tests.support.packets import YEAR_0000_MS, YEAR_9999_END_MS, moments_ms

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MILLISECOND = timedelta(milliseconds=1)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        (b"19700101000000000", datetime(1970, 1, 1, tzinfo=UTC)),
        (b"19691231235959999", datetime(1969, 12, 31, 23, 59, 59, 999_000, UTC)),
        (b"20171224161432279", datetime(2017, 12, 24, 16, 14, 32, 279_000, UTC)),
        (b"20240229000000000", datetime(2024, 2, 29, tzinfo=UTC)),
        (b"20000229000000001", datetime(2000, 2, 29, 0, 0, 0, 1_000, UTC)),
        (b"00010101000000000", datetime(1, 1, 1, tzinfo=UTC)),
        (b"99991231235959999", datetime(9999, 12, 31, 23, 59, 59, 999_000, UTC)),
    ],
)
def test_moments(text: bytes, moment: datetime) -> None:
    ms = (moment - EPOCH) // MILLISECOND
    assert parse_expiry(text) == ms
    assert format_expiry(ms) == text


def test_year_0000_is_a_leap_year() -> None:
    year_ms = 366 * 86_400_000
    assert parse_expiry(b"00000101000000000") == YEAR_0000_MS
    assert parse_expiry(b"00000229000000000") == YEAR_0000_MS + 59 * 86_400_000
    assert parse_expiry(b"00010101000000000") == YEAR_0000_MS + year_ms
    assert format_expiry(YEAR_0000_MS) == b"00000101000000000"


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"2017122421",
        b"2017122416143227",
        b"201712241614322790",
        b"20171224161432.79",
        b"20171224230000000.",
        b"2017122416143227Z",
        b"2017122416143227\n",
        b" 0171224161432279",
        b"+0171224161432279",
        b"2_171224161432279",
        b"\xb2\xb0171224161432279"[:17],
        "٢٠١٧".encode() + b"122416143",
        b"20170024161432279",
        b"20171324161432279",
        b"20171200161432279",
        b"20171232161432279",
        b"20170431161432279",
        b"20170229161432279",
        b"19000229161432279",
        b"20171224240000000",
        b"20171224236000000",
        b"20161231235960852",
    ],
)
def test_no_moment(text: bytes) -> None:
    for _ in range(2):
        with pytest.raises(DecodeError) as caught:
            parse_expiry(text, "prepare.expires_at", 10)
        assert (caught.value.field, caught.value.offset) == ("prepare.expires_at", 10)


def test_a_known_second_with_bad_milliseconds() -> None:
    assert parse_expiry(b"20171224161432000") == 1_514_132_072_000
    for text in (b"2017122416143200", b"20171224161432-01", b"201712241614320000"):
        with pytest.raises(DecodeError, match="17 digits"):
            parse_expiry(text)


@given(moments_ms)
def test_every_moment_returns(ms: int) -> None:
    text = format_expiry(ms)
    assert len(text) == 17
    assert parse_expiry(text) == ms


@given(moments_ms, st.integers(1, 10**9))
def test_text_sorts_as_time_does(ms: int, later_ms: int) -> None:
    then_ms = min(ms + later_ms, YEAR_9999_END_MS)
    assert (format_expiry(ms) < format_expiry(then_ms)) == (ms < then_ms)


@pytest.mark.parametrize("ms", [YEAR_0000_MS - 1, YEAR_9999_END_MS + 1, -(10**30), 10**30])
def test_outside_the_years(ms: int) -> None:
    with pytest.raises(EncodeError, match="years 0000 to 9999"):
        format_expiry(ms)


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expiry, "_CACHE_ENTRIES_MAX", 3)
    monkeypatch.setattr(expiry, "_parsed", {})
    monkeypatch.setattr(expiry, "_formatted", {})
    for second in (*range(10), *range(10)):
        text = format_expiry(1000 * second + 7)
        assert parse_expiry(text) == 1000 * second + 7
        assert len(expiry._parsed) <= 3
        assert len(expiry._formatted) <= 3
