"""Expiry windows and token buckets: exact, whatever the clock and the rate."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connector.policy import NS_PER_S, TokenBucket, outgoing_expiry_ms, share_ceil

NOW = 1_760_000_000_000


@pytest.mark.parametrize(
    ("expires_in", "forwarded_in"),
    [
        (2000, 1000),
        (1999, None),
        (2001, 1001),
        (31_000, 30_000),
        (31_001, 30_000),
        (10**12, 30_000),
        (0, None),
        (-1, None),
    ],
)
def test_the_expiry_window(expires_in: int, forwarded_in: int | None) -> None:
    found = outgoing_expiry_ms(NOW + expires_in, NOW, 1000, 30_000)
    assert found == (None if forwarded_in is None else NOW + forwarded_in)


@given(st.integers(-(10**6), 10**6), st.integers(0, 10_000), st.integers(0, 100_000))
def test_a_forwarded_expiry_keeps_its_bounds(expires_in: int, margin: int, hold: int) -> None:
    found = outgoing_expiry_ms(NOW + expires_in, NOW, margin, hold)
    if found is not None:
        assert NOW + 1000 <= found <= NOW + hold
        assert found + margin <= NOW + expires_in


def admitted(bucket: TokenBucket, calls: int, step_ns: int) -> int:
    count = 0
    for call in range(1, calls + 1):
        while bucket.take(1, call * step_ns):
            count += 1
    return count


@pytest.mark.parametrize("rate", [1, 7, 167, 10_000, 20_000, 999_983])
@pytest.mark.parametrize("step_ns", [997, 1_000_003, 5_999_999])
def test_no_rate_drifts_however_often_it_is_asked(rate: int, step_ns: int) -> None:
    burst = max(rate, 10)
    bucket = TokenBucket(rate, burst, 0)
    assert bucket.take(burst, 0)
    calls = 500
    assert admitted(bucket, calls, step_ns) == calls * step_ns * rate // NS_PER_S


def test_a_bucket_holds_its_burst_and_no_more() -> None:
    bucket = TokenBucket(10, 3, 0)
    assert [bucket.take(1, 100 * NS_PER_S) for _ in range(4)] == [True, True, True, False]


def test_all_or_nothing() -> None:
    bucket = TokenBucket(1, 10, 0)
    assert bucket.take(7, 0)
    assert not bucket.take(4, 0)
    assert bucket.tokens() == 3
    assert bucket.take(3, 0)


def test_a_clock_that_steps_back_adds_nothing() -> None:
    bucket = TokenBucket(10, 10, NS_PER_S)
    assert bucket.take(10, NS_PER_S)
    assert not bucket.take(1, 0)
    assert not bucket.take(1, NS_PER_S)
    assert bucket.take(1, NS_PER_S + NS_PER_S // 10)


def test_more_than_the_burst_takes_a_full_bucket_and_leaves_a_debt() -> None:
    bucket = TokenBucket(10, 10, 0)
    assert bucket.take(25, 0)
    assert bucket.tokens() == -15
    assert not bucket.take(1, NS_PER_S * 3 // 2)
    assert bucket.take(1, NS_PER_S * 8 // 5)
    assert not bucket.take(25, 2 * NS_PER_S)


def test_a_slow_share_of_a_rate() -> None:
    bucket = TokenBucket(1, 1, 0, period_ns=4 * NS_PER_S)
    assert bucket.take(1, 0)
    assert not bucket.take(1, 4 * NS_PER_S - 1)
    assert bucket.take(1, 4 * NS_PER_S)


def test_a_level_can_be_set() -> None:
    bucket = TokenBucket(10, 5, 0)
    bucket.fill(8, 0)
    assert bucket.take(1, NS_PER_S)
    assert bucket.tokens() == 7
    bucket.fill(-1, NS_PER_S)
    assert not bucket.take(1, NS_PER_S)
    assert bucket.take(1, NS_PER_S + NS_PER_S // 5)


@given(st.integers(-(2**64), 2**64), st.integers(1, 64))
def test_shares_cover_the_whole(tokens: int, sharers: int) -> None:
    share = share_ceil(tokens, sharers)
    assert tokens <= share * sharers < tokens + sharers
