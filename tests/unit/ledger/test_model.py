"""The model's own part: its clock, its bounds. What it shares with others is in tests/contract."""

import pytest

from connector.errors import LedgerRejectedBatch
from connector.ledger.ledger import (
    BATCH_EVENTS_MAX,
    LINKED,
    PENDING,
    Account,
    TransferStatus,
)
from connector.ledger.model import ModelLedger
from tests.support.books import Books

S = TransferStatus
SECOND_NS = 1_000_000_000


class Clock:
    def __init__(self) -> None:
        self.ns = 1_800_000_000 * SECOND_NS

    def __call__(self) -> int:
        return self.ns


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def books(clock: Clock) -> Books:
    return Books(ModelLedger(now_ns=clock))


async def test_a_hold_expires_by_the_clock(books: Books, clock: Clock) -> None:
    _, a, b = await books.open_funded(100)
    hold = books.hold(a, b, 100, timeout=5)
    await books.apply(hold)
    clock.ns += 5 * SECOND_NS - 1000
    assert await books.balances(a) == [(100, 0, 0, 100)]
    clock.ns += 2000
    assert await books.balances(a) == [(0, 0, 0, 100)]
    assert await books.ledger.create_transfers([books.post(hold)]) == {
        0: S.PENDING_TRANSFER_EXPIRED
    }
    await books.apply(books.transfer(a, b, 100))


async def test_an_event_may_find_its_hold_expired_within_the_request(
    books: Books, clock: Clock
) -> None:
    """Events of one request are a nanosecond apart."""
    _, a, b = await books.open_funded(100)
    hold = books.hold(a, b, 100, timeout=5)
    await books.apply(hold)
    (stored,) = await books.ledger.lookup_transfers([hold.id])
    clock.ns = stored.timestamp + 5 * SECOND_NS - 1
    batch = [books.transfer(b, a, 0), books.post(hold)]
    assert await books.ledger.create_transfers(batch) == {1: S.PENDING_TRANSFER_EXPIRED}


async def test_a_hold_whose_post_was_taken_back_still_expires(books: Books, clock: Clock) -> None:
    _, a, b = await books.open_funded(100)
    hold, endless = books.hold(a, b, 60, timeout=5), books.hold(a, b, 40)
    await books.apply(hold, endless)
    await books.ledger.create_transfers(
        [
            books.post(hold, flags=LINKED),
            books.void(endless, flags=LINKED),
            books.transfer(a, b, 101),
        ]
    )
    assert await books.balances(a) == [(100, 0, 0, 100)]
    clock.ns += 6 * SECOND_NS
    assert await books.balances(a) == [(40, 0, 0, 100)]


async def test_an_id_taken_back_and_used_again_has_only_its_new_expiry(
    books: Books, clock: Clock
) -> None:
    _, a, b = await books.open_funded(100)
    hold = books.hold(a, b, 60, LINKED, timeout=5)
    await books.ledger.create_transfers([hold, books.transfer(a, b, 1000)])
    again = books.hold(a, b, 60, timeout=50, id=hold.id)
    await books.apply(again)
    clock.ns += 6 * SECOND_NS
    assert await books.balances(a) == [(60, 0, 0, 100)]


async def test_timestamps_grow_when_the_clock_does_not(books: Books, clock: Clock) -> None:
    _, a, b = await books.open_funded(100)
    for _ in range(3):
        await books.apply(books.transfer(a, b, 1), books.transfer(a, b, 1))
        clock.ns -= SECOND_NS
    stamps = [t.timestamp for t in await books.ledger.account_transfers(b)]
    assert stamps == sorted(set(stamps))


async def test_a_timeout_beyond_the_end_of_time(clock: Clock) -> None:
    clock.ns = (1 << 63) - 10 * SECOND_NS
    books = Books(ModelLedger(now_ns=clock))
    _, a, b = await books.open_funded(100)
    batch = [books.hold(a, b, 1, timeout=11), books.hold(a, b, 1, timeout=9)]
    assert await books.ledger.create_transfers(batch) == {0: S.OVERFLOWS_TIMEOUT}


@pytest.mark.parametrize(
    ("burnt_codes", "code", "remembered"),
    [
        (None, 1, True),
        ((2, 3), 1, False),
        ((2, 3), 2, True),
    ],
)
async def test_which_refusals_are_remembered(
    burnt_codes: tuple[int, ...] | None, code: int, remembered: bool
) -> None:
    books = Books(ModelLedger(burnt_codes=burnt_codes))
    source, a, b = await books.open_funded(0)
    refused = books.transfer(a, b, 1, PENDING, code=code)
    assert await books.ledger.create_transfers([refused]) == {0: S.EXCEEDS_CREDITS}
    await books.apply(books.transfer(source, a, 1))
    expected = {0: S.ID_ALREADY_FAILED} if remembered else {}
    assert await books.ledger.create_transfers([refused]) == expected


async def test_the_size_of_a_request_is_bounded(books: Books) -> None:
    accounts = [Account(n, 1, 1) for n in range(1, BATCH_EVENTS_MAX + 2)]
    with pytest.raises(LedgerRejectedBatch):
        await books.ledger.create_accounts(accounts)
    assert await books.ledger.create_accounts(accounts[:-1]) == {}
    await books.ledger.close()
