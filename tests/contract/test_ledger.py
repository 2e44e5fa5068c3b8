"""What every ledger does alike: one suite for the model, Postgres and TigerBeetle."""

import asyncio
import time

import msgspec
import pytest

from connector.errors import LedgerRejectedBatch
from connector.ledger.ledger import (
    ACCOUNT_LINKED,
    AMOUNT_MAX,
    BALANCING_DEBIT,
    CREDITS,
    CREDITS_MUST_NOT_EXCEED_DEBITS,
    DEBITS,
    DEBITS_MUST_NOT_EXCEED_CREDITS,
    HISTORY,
    LINKED,
    PENDING,
    POST_PENDING_TRANSFER,
    REVERSED,
    U128_MAX,
    VOID_PENDING_TRANSFER,
    Account,
    AccountStatus,
    Ledger,
    Transfer,
    TransferStatus,
)
from tests.contract.conftest import Opener
from tests.support.books import Books
from tests.support.transcripts import wait_for_expiry

S = TransferStatus
D = DEBITS_MUST_NOT_EXCEED_CREDITS
C = CREDITS_MUST_NOT_EXCEED_DEBITS
RESERVED = 1 << 15


@pytest.fixture
def books(ledger: Ledger) -> Books:
    return Books(ledger)


def but(transfer: Transfer, **fields: int) -> Transfer:
    """The same transfer with other fields."""
    return msgspec.structs.replace(transfer, **fields)


# Accounts.


async def test_an_account_is_created_once(books: Books) -> None:
    account = books.account(D | HISTORY, user_data_128=U128_MAX, user_data_64=2**64 - 1)
    account = msgspec.structs.replace(account, user_data_32=2**32 - 1)
    before_ns = time.time_ns() - 10_000_000_000
    assert await books.ledger.create_accounts([account]) == {}
    assert await books.ledger.create_accounts([account]) == {0: AccountStatus.EXISTS}
    (found,) = await books.ledger.lookup_accounts([account.id])
    assert found.timestamp > before_ns
    assert msgspec.structs.replace(found, timestamp=0) == account


@pytest.mark.parametrize(
    ("field", "value", "status"),
    [
        ("flags", HISTORY, AccountStatus.EXISTS_WITH_DIFFERENT_FLAGS),
        ("user_data_128", 9, AccountStatus.EXISTS_WITH_DIFFERENT_USER_DATA_128),
        ("user_data_64", 9, AccountStatus.EXISTS_WITH_DIFFERENT_USER_DATA_64),
        ("user_data_32", 9, AccountStatus.EXISTS_WITH_DIFFERENT_USER_DATA_32),
        ("ledger", 9, AccountStatus.EXISTS_WITH_DIFFERENT_LEDGER),
        ("code", 9, AccountStatus.EXISTS_WITH_DIFFERENT_CODE),
    ],
)
async def test_an_account_that_differs(
    books: Books, field: str, value: int, status: AccountStatus
) -> None:
    account = books.account(D)
    assert await books.ledger.create_accounts([account]) == {}
    other = msgspec.structs.replace(account, **{field: value})
    assert await books.ledger.create_accounts([other]) == {0: status}


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"flags": RESERVED, "id": 0}, AccountStatus.RESERVED_FLAG),
        ({"id": 0, "flags": D | C}, AccountStatus.ID_MUST_NOT_BE_ZERO),
        ({"id": U128_MAX, "flags": D | C}, AccountStatus.ID_MUST_NOT_BE_INT_MAX),
        ({"flags": D | C, "ledger": 0}, AccountStatus.FLAGS_ARE_MUTUALLY_EXCLUSIVE),
        ({"ledger": 0, "code": 0}, AccountStatus.LEDGER_MUST_NOT_BE_ZERO),
        ({"code": 0}, AccountStatus.CODE_MUST_NOT_BE_ZERO),
    ],
)
async def test_a_malformed_account(
    books: Books, fields: dict[str, int], status: AccountStatus
) -> None:
    account = msgspec.structs.replace(books.account(), **fields)
    assert await books.ledger.create_accounts([account]) == {0: status}


async def test_accounts_in_chains(books: Books) -> None:
    good = [books.account(ACCOUNT_LINKED), books.account()]
    broken = [
        books.account(ACCOUNT_LINKED),
        msgspec.structs.replace(books.account(ACCOUNT_LINKED), code=0),
        books.account(),
    ]
    single = books.account()
    open_chain = [books.account(ACCOUNT_LINKED), books.account(ACCOUNT_LINKED)]
    assert await books.ledger.create_accounts([*good, *broken, single, *open_chain]) == {
        2: AccountStatus.LINKED_EVENT_FAILED,
        3: AccountStatus.CODE_MUST_NOT_BE_ZERO,
        4: AccountStatus.LINKED_EVENT_FAILED,
        6: AccountStatus.LINKED_EVENT_FAILED,
        7: AccountStatus.LINKED_EVENT_CHAIN_OPEN,
    }
    everyone = [a.id for a in (*good, *broken, single, *open_chain)]
    found = await books.ledger.lookup_accounts(everyone)
    assert [a.id for a in found] == [good[0].id, good[1].id, single.id]


async def test_lookup_keeps_the_order_and_leaves_out_the_unknown(books: Books) -> None:
    a, b = await books.open(0, 0)
    found = await books.ledger.lookup_accounts([b, books.new_id(), a])
    assert [account.id for account in found] == [b, a]
    assert await books.ledger.lookup_accounts([]) == []


async def test_query_accounts_in_pages(books: Books) -> None:
    ids = await books.open(0, D, C)
    other = books.account(code=9)
    assert await books.ledger.create_accounts([other]) == {}
    query = books.ledger.query_accounts
    first = await query(ledger=books.number, limit=2)
    rest = await query(ledger=books.number, timestamp_min=first[-1].timestamp + 1)
    assert [a.id for a in (*first, *rest)] == [*ids, other.id]
    assert [a.id for a in await query(ledger=books.number, code=9)] == [other.id]


# Transfers.


async def test_a_transfer_moves_posted_balances(books: Books) -> None:
    source, a, b = await books.open_funded(100)
    t = books.transfer(
        a, b, 40, user_data_128=U128_MAX, user_data_64=2**64 - 1, user_data_32=2**32 - 1
    )
    await books.apply(t)
    assert await books.balances(source, a, b) == [(0, 100, 0, 0), (0, 40, 0, 100), (0, 0, 0, 40)]
    (found,) = await books.ledger.lookup_transfers([t.id])
    assert but(found, timestamp=0) == t


async def test_an_empty_request(books: Books) -> None:
    assert await books.ledger.create_transfers([]) == {}
    assert await books.ledger.create_accounts([]) == {}


async def test_amount_zero_is_an_amount(books: Books) -> None:
    _, a, b = await books.open_funded(0)
    hold = books.hold(a, b, 0)
    await books.apply(books.transfer(a, b, 0), hold)
    await books.apply(books.post(hold))
    assert await books.balances(a, b) == [(0, 0, 0, 0)] * 2


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"flags": RESERVED, "id": 0}, S.RESERVED_FLAG),
        ({"id": 0, "debit_account_id": 0}, S.ID_MUST_NOT_BE_ZERO),
        ({"id": U128_MAX, "debit_account_id": 0}, S.ID_MUST_NOT_BE_INT_MAX),
        ({"debit_account_id": 0, "credit_account_id": 0}, S.DEBIT_ACCOUNT_ID_MUST_NOT_BE_ZERO),
        ({"debit_account_id": U128_MAX}, S.DEBIT_ACCOUNT_ID_MUST_NOT_BE_INT_MAX),
        ({"credit_account_id": 0, "pending_id": 1}, S.CREDIT_ACCOUNT_ID_MUST_NOT_BE_ZERO),
        ({"credit_account_id": U128_MAX}, S.CREDIT_ACCOUNT_ID_MUST_NOT_BE_INT_MAX),
        ({"debit_account_id": 7, "credit_account_id": 7}, S.ACCOUNTS_MUST_BE_DIFFERENT),
        ({"pending_id": 1, "timeout": 1}, S.PENDING_ID_MUST_BE_ZERO),
        ({"timeout": 1, "ledger": 0}, S.TIMEOUT_RESERVED_FOR_PENDING_TRANSFER),
        ({"ledger": 0, "code": 0}, S.LEDGER_MUST_NOT_BE_ZERO),
        ({"code": 0, "debit_account_id": 7}, S.CODE_MUST_NOT_BE_ZERO),
        ({"debit_account_id": 7, "credit_account_id": 8}, S.DEBIT_ACCOUNT_NOT_FOUND),
        ({"credit_account_id": 8, "ledger": 9}, S.CREDIT_ACCOUNT_NOT_FOUND),
        ({"ledger": 9}, S.TRANSFER_MUST_HAVE_THE_SAME_LEDGER_AS_ACCOUNTS),
    ],
)
async def test_a_malformed_transfer(
    books: Books, fields: dict[str, int], status: TransferStatus
) -> None:
    _, a, b = await books.open_funded(100)
    t = but(books.transfer(a, b, 1), **fields)
    good = books.transfer(a, b, 1)
    assert await books.ledger.create_transfers([t, good]) == {0: status}
    assert await books.balances(b) == [(0, 0, 0, 1)]


async def test_accounts_of_different_ledgers(books: Books) -> None:
    other = Books(books.ledger)
    _, a, _ = await books.open_funded(100)
    (stranger,) = await other.open(0)
    status = S.ACCOUNTS_MUST_HAVE_THE_SAME_LEDGER
    assert await books.ledger.create_transfers([books.transfer(a, stranger, 1)]) == {0: status}


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"flags": PENDING, "amount": 9}, S.EXISTS_WITH_DIFFERENT_FLAGS),
        ({"pending_id": 9, "amount": 9}, S.EXISTS_WITH_DIFFERENT_PENDING_ID),
        ({"timeout": 9, "amount": 9}, S.EXISTS_WITH_DIFFERENT_TIMEOUT),
        ({"debit_account_id": 9, "amount": 9}, S.EXISTS_WITH_DIFFERENT_DEBIT_ACCOUNT_ID),
        ({"credit_account_id": 9, "amount": 9}, S.EXISTS_WITH_DIFFERENT_CREDIT_ACCOUNT_ID),
        ({"amount": 9, "user_data_128": 9}, S.EXISTS_WITH_DIFFERENT_AMOUNT),
        ({"user_data_128": 9, "user_data_64": 9}, S.EXISTS_WITH_DIFFERENT_USER_DATA_128),
        ({"user_data_64": 9, "user_data_32": 9}, S.EXISTS_WITH_DIFFERENT_USER_DATA_64),
        ({"user_data_32": 9, "ledger": 9}, S.EXISTS_WITH_DIFFERENT_USER_DATA_32),
        ({"ledger": 9, "code": 9}, S.EXISTS_WITH_DIFFERENT_LEDGER),
        ({"code": 9}, S.EXISTS_WITH_DIFFERENT_CODE),
        ({}, S.EXISTS),
    ],
)
async def test_an_id_is_applied_once(
    books: Books, fields: dict[str, int], status: TransferStatus
) -> None:
    _, a, b = await books.open_funded(100)
    t = books.transfer(a, b, 40)
    await books.apply(t)
    assert await books.ledger.create_transfers([but(t, **fields)]) == {0: status}
    assert await books.ledger.create_transfers([but(t, **fields)]) == {0: status}
    assert await books.balances(b) == [(0, 0, 0, 40)]


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"flags": VOID_PENDING_TRANSFER}, S.EXISTS_WITH_DIFFERENT_FLAGS),
        ({"pending_id": 9}, S.EXISTS_WITH_DIFFERENT_PENDING_ID),
        ({"timeout": 9}, S.EXISTS_WITH_DIFFERENT_TIMEOUT),
        ({"debit_account_id": 9}, S.EXISTS_WITH_DIFFERENT_DEBIT_ACCOUNT_ID),
        ({"credit_account_id": 9}, S.EXISTS_WITH_DIFFERENT_CREDIT_ACCOUNT_ID),
        ({"amount": AMOUNT_MAX}, S.EXISTS_WITH_DIFFERENT_AMOUNT),
        ({"user_data_128": 0}, S.EXISTS_WITH_DIFFERENT_USER_DATA_128),
        ({"user_data_64": 9}, S.EXISTS_WITH_DIFFERENT_USER_DATA_64),
        ({"user_data_32": 9}, S.EXISTS_WITH_DIFFERENT_USER_DATA_32),
        ({"ledger": 9}, S.EXISTS_WITH_DIFFERENT_LEDGER),
        ({"code": 9}, S.EXISTS_WITH_DIFFERENT_CODE),
        ({"user_data_64": 7}, S.EXISTS),
        ({}, S.EXISTS),
    ],
)
async def test_a_post_is_applied_once(
    books: Books, fields: dict[str, int], status: TransferStatus
) -> None:
    _, a, b = await books.open_funded(100)
    hold = books.hold(a, b, 40, user_data_128=5, user_data_64=7, user_data_32=8)
    await books.apply(hold)
    post = books.post(hold, 30, user_data_128=6)
    await books.apply(post)
    assert await books.ledger.create_transfers([but(post, **fields)]) == {0: status}
    assert await books.balances(a) == [(0, 30, 0, 100)]


async def test_a_repeated_request_answers_exists(books: Books) -> None:
    _, a, b = await books.open_funded(100)
    batch = [books.hold(a, b, 1) for _ in range(5)]
    await books.apply(*batch)
    assert await books.ledger.create_transfers(batch) == dict.fromkeys(range(5), S.EXISTS)
    posts = [books.post(hold) for hold in batch]
    await books.apply(*posts)
    assert await books.ledger.create_transfers(posts) == dict.fromkeys(range(5), S.EXISTS)
    assert await books.balances(b) == [(0, 0, 0, 5)]


async def test_a_repeat_within_one_request(books: Books) -> None:
    _, a, b = await books.open_funded(100)
    t = books.transfer(a, b, 40)
    statuses = await books.ledger.create_transfers([t, t, but(t, amount=41)])
    assert statuses == {1: S.EXISTS, 2: S.EXISTS_WITH_DIFFERENT_AMOUNT}


# Limits.


async def test_debits_must_not_exceed_credits(books: Books) -> None:
    _, a, b = await books.open_funded(100)
    too_much = books.transfer(a, b, 101)
    assert await books.ledger.create_transfers([too_much]) == {0: S.EXCEEDS_CREDITS}
    await books.apply(books.hold(a, b, 60))
    # What is held counts as spent, and what is only promised cannot be spent.
    statuses = await books.ledger.create_transfers(
        [books.transfer(a, b, 41), books.transfer(b, a, 1), books.transfer(a, b, 40)]
    )
    assert statuses == {0: S.EXCEEDS_CREDITS, 1: S.EXCEEDS_CREDITS}
    assert await books.balances(a, b) == [(60, 40, 0, 100), (0, 0, 60, 40)]


async def test_credits_must_not_exceed_debits(books: Books) -> None:
    a, b = await books.open(C, 0)
    assert await books.ledger.create_transfers([books.transfer(b, a, 1)]) == {0: S.EXCEEDS_DEBITS}
    await books.apply(books.transfer(a, b, 10))
    assert await books.ledger.create_transfers(
        [books.hold(b, a, 11), books.hold(b, a, 10), books.transfer(b, a, 1)]
    ) == {0: S.EXCEEDS_DEBITS, 2: S.EXCEEDS_DEBITS}


async def test_order_decides_who_gets_the_last_of_it(books: Books) -> None:
    _, a, b = await books.open_funded(100)
    _, rich, c = await books.open_funded(1000)
    batch = [
        books.hold(a, b, 70),
        books.hold(rich, c, 70),
        books.hold(a, b, 31),
        books.hold(a, b, 30),
        books.hold(rich, c, 930),
        books.hold(a, b, 1),
    ]
    assert await books.ledger.create_transfers(batch) == dict.fromkeys((2, 5), S.EXCEEDS_CREDITS)
    assert await books.balances(a, rich) == [(100, 0, 0, 100), (1000, 0, 0, 1000)]


async def test_payers_without_funds_among_others(books: Books) -> None:
    source, rich, a = await books.open_funded(100)
    poor, poorer, relieved = await books.open(D, D, D)
    await books.apply(books.transfer(source, poor, 2), books.transfer(source, relieved, 5))
    held = books.hold(relieved, a, 5)
    await books.apply(held)
    broke = [books.hold(poor, a, 3), books.transfer(poorer, a, 1), books.hold(poor, rich, 9)]
    batch = [broke[0], books.hold(rich, poor, 4), *broke[1:], books.hold(rich, a, 4)]
    assert await books.ledger.create_transfers(batch) == dict.fromkeys((0, 2, 3), S.EXCEEDS_CREDITS)
    # What a void, a credit or a smaller debit makes possible is possible after it.
    batch = [
        books.hold(relieved, a, 5),
        books.void(held),
        books.hold(relieved, a, 5),
        books.hold(poor, a, 3),
        books.hold(poor, a, 1),
        books.transfer(rich, poorer, 1),
        books.transfer(poorer, a, 1),
    ]
    assert await books.ledger.create_transfers(batch) == dict.fromkeys((0, 3), S.EXCEEDS_CREDITS)
    assert await books.balances(poor, poorer, relieved) == [
        (1, 0, 4, 2),
        (0, 1, 0, 1),
        (5, 0, 0, 5),
    ]


async def test_money_received_within_a_request_can_be_spent_after_it(books: Books) -> None:
    _, a, b = await books.open_funded(100)
    batch = [books.transfer(b, a, 50), books.transfer(a, b, 60), books.transfer(b, a, 50)]
    assert await books.ledger.create_transfers(batch) == {0: S.EXCEEDS_CREDITS}
    assert await books.balances(a, b) == [(0, 60, 0, 150), (0, 50, 0, 60)]


async def test_balancing_debit_takes_what_is_there(books: Books) -> None:
    _, a, b = await books.open_funded(100)
    await books.apply(books.hold(a, b, 30))
    drain = books.transfer(a, b, AMOUNT_MAX, BALANCING_DEBIT)
    again = books.transfer(a, b, AMOUNT_MAX, BALANCING_DEBIT)
    part = books.transfer(a, b, 1, BALANCING_DEBIT)
    await books.apply(drain, again, part)
    found = await books.ledger.lookup_transfers([drain.id, again.id, part.id])
    assert [t.amount for t in found] == [70, 0, 0]
    statuses = await books.ledger.create_transfers([drain, but(drain, amount=69)])
    assert statuses == {0: S.EXISTS, 1: S.EXISTS_WITH_DIFFERENT_AMOUNT}


async def test_balancing_debit_on_the_ordered_side_of_a_request(books: Books) -> None:
    _, a, b = await books.open_funded(100)
    batch = [
        books.transfer(a, b, 40),
        books.transfer(a, b, 50, BALANCING_DEBIT),
        books.hold(a, b, AMOUNT_MAX, BALANCING_DEBIT),
        books.transfer(a, b, 1),
    ]
    assert await books.ledger.create_transfers(batch) == {3: S.EXCEEDS_CREDITS}
    assert await books.balances(a) == [(10, 90, 0, 100)]


async def test_the_largest_numbers(books: Books) -> None:
    a, b, c, d = await books.open(0, 0, 0, 0)
    last = AMOUNT_MAX - 1
    hold = books.hold(c, d, last)
    await books.apply(books.transfer(a, b, last), hold)
    assert await books.balances(a, b) == [(0, last, 0, 0), (0, 0, 0, last)]
    e, f = await books.open(0, 0)
    assert await books.ledger.create_transfers(
        [
            books.transfer(a, e, 2),
            books.transfer(f, b, 2),
            books.hold(a, e, 2),
            books.hold(f, b, 2),
            books.hold(c, e, 2),
            books.hold(f, d, 2),
            books.transfer(c, e, 2),
            books.transfer(f, d, 2),
            books.transfer(a, e, AMOUNT_MAX),
            books.transfer(a, e, 1),
        ]
    ) == {
        0: S.OVERFLOWS_DEBITS_POSTED,
        1: S.OVERFLOWS_CREDITS_POSTED,
        2: S.OVERFLOWS_DEBITS_POSTED,
        3: S.OVERFLOWS_CREDITS_POSTED,
        4: S.OVERFLOWS_DEBITS_PENDING,
        5: S.OVERFLOWS_CREDITS_PENDING,
        6: S.OVERFLOWS_DEBITS,
        7: S.OVERFLOWS_CREDITS,
        8: S.OVERFLOWS_DEBITS_POSTED,
    }
    await books.apply(books.post(hold))
    assert await books.balances(a, c) == [(0, AMOUNT_MAX, 0, 0), (0, last, 0, 0)]


async def test_a_request_that_is_too_large(books: Books) -> None:
    _, a, b = await books.open_funded(0)
    batch = [books.transfer(a, b, 0) for _ in range(books.ledger.batch_events_max + 1)]
    with pytest.raises(LedgerRejectedBatch):
        await books.ledger.create_transfers(batch)
    assert await books.ledger.lookup_transfers([batch[0].id]) == []


# Chains.


async def test_a_chain_applies_whole_or_not(books: Books) -> None:
    _, a, b = await books.open_funded(100)
    _, poor, c = await books.open_funded(0)
    good = [books.hold(a, b, 10, LINKED), books.hold(a, b, 20)]
    bad = [books.hold(a, b, 10, LINKED), books.hold(poor, c, 1, LINKED), books.hold(a, b, 1)]
    single = books.hold(a, b, 5)
    assert await books.ledger.create_transfers([*good, *bad, single]) == {
        2: S.LINKED_EVENT_FAILED,
        3: S.EXCEEDS_CREDITS,
        4: S.LINKED_EVENT_FAILED,
    }
    assert await books.balances(a, poor) == [(35, 0, 0, 100), (0, 0, 0, 0)]
    found = await books.ledger.lookup_transfers([t.id for t in (*good, *bad, single)])
    assert [t.id for t in found] == [good[0].id, good[1].id, single.id]


async def test_a_chain_over_two_ledgers(books: Books) -> None:
    other = Books(books.ledger)
    _, a, asset_1 = await books.open_funded(1000)
    _, asset_2, c = await other.open_funded(100)
    good = [books.hold(a, asset_1, 50, LINKED), other.hold(asset_2, c, 60)]
    bad = [books.hold(a, asset_1, 50, LINKED), other.hold(asset_2, c, 60)]
    assert await books.ledger.create_transfers([*good, *bad]) == {
        2: S.LINKED_EVENT_FAILED,
        3: S.EXCEEDS_CREDITS,
    }
    await books.apply(books.post(good[0], flags=LINKED), other.post(good[1]))
    assert await books.balances(a, asset_2, c) == [(0, 50, 0, 1000), (0, 60, 0, 100), (0, 0, 0, 60)]


async def test_an_open_chain(books: Books) -> None:
    _, a, b = await books.open_funded(100)
    batch = [books.transfer(a, b, 1), *(books.transfer(a, b, 1, LINKED) for _ in range(2))]
    assert await books.ledger.create_transfers(batch) == {
        1: S.LINKED_EVENT_FAILED,
        2: S.LINKED_EVENT_CHAIN_OPEN,
    }
    batch = [books.transfer(a, b, 101, LINKED), books.transfer(a, b, 1, LINKED)]
    assert await books.ledger.create_transfers(batch) == {
        0: S.EXCEEDS_CREDITS,
        1: S.LINKED_EVENT_CHAIN_OPEN,
    }
    assert await books.balances(b) == [(0, 0, 0, 1)]


async def test_a_repeated_chain_answers_exists_first(books: Books) -> None:
    _, a, b = await books.open_funded(100)
    chain = [books.hold(a, b, 1, LINKED), books.hold(a, b, 1, LINKED), books.hold(a, b, 1)]
    await books.apply(*chain)
    again = {0: S.EXISTS, 1: S.LINKED_EVENT_FAILED, 2: S.LINKED_EVENT_FAILED}
    assert await books.ledger.create_transfers(chain) == again
    posts = [books.post(hold, flags=hold.flags & LINKED) for hold in chain]
    await books.apply(*posts)
    assert await books.ledger.create_transfers(posts) == again
    assert await books.balances(b) == [(0, 0, 0, 3)]


async def test_a_broken_chain_takes_everything_back(books: Books) -> None:
    _, a, b = await books.open_funded(100)
    posted, voided, kept = (books.hold(a, b, 10) for _ in range(3))
    await books.apply(posted, voided, kept)
    before = await books.balances(a, b)
    post, void = books.post(posted, 4, LINKED), books.void(voided, flags=LINKED)
    new = books.hold(a, b, 1, LINKED)
    statuses = await books.ledger.create_transfers(
        [post, void, new, books.post(new, flags=LINKED), books.transfer(a, b, 1000)]
    )
    assert statuses == {**dict.fromkeys(range(4), S.LINKED_EVENT_FAILED), 4: S.EXCEEDS_CREDITS}
    assert await books.balances(a, b) == before
    # Nothing of it happened, so all of it may happen now.
    await books.apply(but(post, flags=POST_PENDING_TRANSFER), books.post(voided), books.void(kept))
    assert await books.balances(a, b) == [(0, 14, 0, 100), (0, 0, 0, 14)]


# Two phases.


async def test_post_and_void(books: Books) -> None:
    _, a, b = await books.open_funded(100)
    posted, partly, voided = (
        books.hold(a, b, 30, user_data_128=5, user_data_64=6, user_data_32=7) for _ in range(3)
    )
    await books.apply(posted, partly, voided)
    assert await books.balances(a, b) == [(90, 0, 0, 100), (0, 0, 90, 0)]
    post, part, void = books.post(posted), books.post(partly, 10), books.void(voided)
    await books.apply(post, part, void)
    assert await books.balances(a, b) == [(0, 40, 0, 100), (0, 0, 0, 40)]
    found = await books.ledger.lookup_transfers([post.id, part.id, void.id])
    assert [t.amount for t in found] == [30, 10, 30]
    # Fields left 0 are taken from the pending transfer.
    kind = {"user_data_128": 5, "user_data_64": 6, "user_data_32": 7, "ledger": books.number}
    assert [but(t, timestamp=0) for t in found] == [
        but(t, debit_account_id=a, credit_account_id=b, amount=amount, code=1, **kind)
        for t, amount in ((post, 30), (part, 10), (void, 30))
    ]


async def test_own_user_data_of_a_post(books: Books) -> None:
    _, a, b = await books.open_funded(100)
    hold = books.hold(a, b, 30, user_data_128=5, user_data_64=6, user_data_32=7)
    post = books.post(hold, user_data_128=8, user_data_64=2**64 - 1, user_data_32=2**32 - 1)
    await books.apply(hold)
    await books.apply(post)
    (found,) = await books.ledger.lookup_transfers([post.id])
    assert (found.user_data_128, found.user_data_64, found.user_data_32) == (
        8,
        2**64 - 1,
        2**32 - 1,
    )


@pytest.mark.parametrize("first", ["post", "void"])
async def test_a_hold_is_resolved_once(books: Books, first: str) -> None:
    _, a, b = await books.open_funded(100)
    hold = books.hold(a, b, 30)
    await books.apply(hold)
    await books.apply(books.post(hold) if first == "post" else books.void(hold))
    late = [books.post(hold), books.void(hold)]
    status = (
        S.PENDING_TRANSFER_ALREADY_POSTED if first == "post" else S.PENDING_TRANSFER_ALREADY_VOIDED
    )
    for _ in range(2):
        assert await books.ledger.create_transfers(late) == {0: status, 1: status}
    assert await books.balances(b) == [(0, 0, 0, 30 if first == "post" else 0)]


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"flags": POST_PENDING_TRANSFER | VOID_PENDING_TRANSFER}, S.FLAGS_ARE_MUTUALLY_EXCLUSIVE),
        ({"flags": POST_PENDING_TRANSFER | PENDING}, S.FLAGS_ARE_MUTUALLY_EXCLUSIVE),
        ({"flags": VOID_PENDING_TRANSFER | BALANCING_DEBIT}, S.FLAGS_ARE_MUTUALLY_EXCLUSIVE),
        ({"pending_id": 0, "timeout": 1}, S.PENDING_ID_MUST_NOT_BE_ZERO),
        ({"pending_id": U128_MAX, "timeout": 1}, S.PENDING_ID_MUST_NOT_BE_INT_MAX),
        ({"pending_id": 12, "id": 12}, S.PENDING_ID_MUST_BE_DIFFERENT),
        ({"timeout": 1, "ledger": 9}, S.TIMEOUT_RESERVED_FOR_PENDING_TRANSFER),
        ({"debit_account_id": 9, "ledger": 9}, S.PENDING_TRANSFER_HAS_DIFFERENT_DEBIT_ACCOUNT_ID),
        ({"credit_account_id": 9, "code": 9}, S.PENDING_TRANSFER_HAS_DIFFERENT_CREDIT_ACCOUNT_ID),
        ({"ledger": 9, "code": 9}, S.PENDING_TRANSFER_HAS_DIFFERENT_LEDGER),
        ({"code": 9, "amount": 31}, S.PENDING_TRANSFER_HAS_DIFFERENT_CODE),
        ({"amount": 31}, S.EXCEEDS_PENDING_TRANSFER_AMOUNT),
        (
            {"amount": 29, "flags": VOID_PENDING_TRANSFER},
            S.PENDING_TRANSFER_HAS_DIFFERENT_AMOUNT,
        ),
        ({"amount": AMOUNT_MAX, "flags": VOID_PENDING_TRANSFER}, S.EXCEEDS_PENDING_TRANSFER_AMOUNT),
    ],
)
async def test_a_post_that_contradicts_its_hold(
    books: Books, fields: dict[str, int], status: TransferStatus
) -> None:
    _, a, b = await books.open_funded(100)
    hold = books.hold(a, b, 30)
    await books.apply(hold)
    post = but(books.post(hold), **fields)
    assert await books.ledger.create_transfers([post]) == {0: status}
    await books.apply(books.post(hold, debit_account_id=a, credit_account_id=b, code=1))
    assert await books.balances(b) == [(0, 0, 0, 30)]


async def test_posting_what_was_never_pending(books: Books) -> None:
    _, a, b = await books.open_funded(100)
    t = books.transfer(a, b, 1)
    await books.apply(t)
    assert await books.ledger.create_transfers([books.post(t)]) == {
        0: S.PENDING_TRANSFER_NOT_PENDING
    }
    assert await books.ledger.create_transfers([books.post(books.hold(a, b, 1))]) == {
        0: S.PENDING_TRANSFER_NOT_FOUND
    }


async def test_hold_and_resolution_in_one_request(books: Books) -> None:
    _, a, b = await books.open_funded(100)
    posted, voided, early = (books.hold(a, b, 10) for _ in range(3))
    statuses = await books.ledger.create_transfers(
        [
            books.post(early),
            posted,
            voided,
            early,
            books.post(posted, 4),
            books.void(voided),
            books.void(posted),
            books.post(voided),
        ]
    )
    assert statuses == {
        0: S.PENDING_TRANSFER_NOT_FOUND,
        6: S.PENDING_TRANSFER_ALREADY_POSTED,
        7: S.PENDING_TRANSFER_ALREADY_VOIDED,
    }
    assert await books.balances(a) == [(10, 4, 0, 100)]


async def test_two_resolutions_in_one_request(books: Books) -> None:
    _, a, b = await books.open_funded(100)
    hold = books.hold(a, b, 10)
    await books.apply(hold)
    statuses = await books.ledger.create_transfers([books.void(hold), books.post(hold)])
    assert statuses == {1: S.PENDING_TRANSFER_ALREADY_VOIDED}


async def test_a_hold_expires(books: Books) -> None:
    _, a, b = await books.open_funded(100)
    short, long = books.hold(a, b, 60, timeout=1), books.hold(a, b, 30, timeout=3600)
    await books.apply(short, long)
    status = S.PENDING_TRANSFER_EXPIRED
    posts = [books.post(short), books.post(long)]
    sweeps = asyncio.create_task(_sweep(books.ledger))
    await wait_for_expiry(books.ledger, a, 30)
    sweeps.cancel()
    assert await books.ledger.create_transfers(posts) == {0: status}
    for late in (books.post(short), books.void(short)):
        assert await books.ledger.create_transfers([late]) == {0: status}
    assert await books.balances(a, b) == [(0, 30, 0, 100), (0, 0, 0, 30)]
    # What expired is free for others.
    await books.apply(books.transfer(a, b, 70))


async def _sweep(ledger: Ledger) -> None:
    """Do what the node does every second, where the ledger does not do it itself."""
    while True:
        await ledger.expire_pending()
        await asyncio.sleep(0.05)


# Refused ids.


@pytest.mark.parametrize("code", [2, 3])
async def test_the_id_of_a_refused_deposit_or_withdrawal_is_spent(books: Books, code: int) -> None:
    source, a, b = await books.open_funded(100)
    refused = books.transfer(a, b, 101, code=code)
    for status in (S.EXCEEDS_CREDITS, S.ID_ALREADY_FAILED):
        assert await books.ledger.create_transfers([refused]) == {0: status}
    await books.apply(books.transfer(source, a, 1000))
    assert await books.ledger.create_transfers([refused]) == {0: S.ID_ALREADY_FAILED}
    other = books.transfer(a, books.new_id(), 1, code=code)
    statuses = await books.ledger.create_transfers([other, but(other, credit_account_id=b)])
    assert statuses == {0: S.CREDIT_ACCOUNT_NOT_FOUND, 1: S.ID_ALREADY_FAILED}


async def test_a_malformed_transfer_does_not_spend_its_id(books: Books) -> None:
    _, a, b = await books.open_funded(100)
    t = books.transfer(a, b, 1, code=2)
    assert await books.ledger.create_transfers([but(t, ledger=9)]) == {
        0: S.TRANSFER_MUST_HAVE_THE_SAME_LEDGER_AS_ACCOUNTS
    }
    await books.apply(t)


async def test_a_broken_chain_spends_only_the_guilty_id(books: Books) -> None:
    source, a, b = await books.open_funded(100)
    chain = [
        books.transfer(a, b, 1, LINKED, code=2),
        books.transfer(a, b, 1000, LINKED, code=2),
        books.transfer(a, b, 1, code=2),
    ]
    await books.ledger.create_transfers(chain)
    await books.apply(books.transfer(source, a, 1000))
    singles = [but(t, flags=0) for t in chain]
    assert await books.ledger.create_transfers(singles) == {1: S.ID_ALREADY_FAILED}


async def test_a_void_before_its_hold(books: Books) -> None:
    """The hold still succeeds; whether the void's id is spent depends on its code."""
    _, a, b = await books.open_funded(100)
    hold = books.hold(a, b, 10, code=3)
    void = books.void(hold, code=3)
    assert await books.ledger.create_transfers([void]) == {0: S.PENDING_TRANSFER_NOT_FOUND}
    await books.apply(hold)
    assert await books.ledger.create_transfers([void]) == {0: S.ID_ALREADY_FAILED}
    await books.apply(books.void(hold, code=3))


# Reading.


async def test_account_transfers_in_pages(books: Books) -> None:
    source, a, b = await books.open_funded(100)
    transfers = [books.transfer(a, b, 1) for _ in range(3)] + [books.transfer(b, a, 1)]
    await books.apply(*transfers)
    (deposit,) = await books.ledger.account_transfers(source)
    read = books.ledger.account_transfers
    everything = await read(a)
    assert [t.id for t in everything] == [deposit.id, *(t.id for t in transfers)]
    stamps = [t.timestamp for t in everything]
    assert stamps == sorted(set(stamps))
    assert await read(a, flags=DEBITS | CREDITS | REVERSED) == everything[::-1]
    assert [t.id for t in await read(a, flags=CREDITS)] == [deposit.id, transfers[3].id]
    assert [t.id for t in await read(a, flags=DEBITS | REVERSED, limit=2)] == [
        transfers[2].id,
        transfers[1].id,
    ]
    page = await read(a, limit=2)
    rest = await read(a, timestamp_min=page[-1].timestamp + 1)
    assert page + rest == everything
    assert await read(a, timestamp_min=stamps[1], timestamp_max=stamps[2]) == everything[1:3]
    assert await read(books.new_id()) == []
    assert await read(a, flags=0) == []


async def test_transfers_by_what_they_carry(books: Books) -> None:
    source, a, b = await books.open_funded(0)
    carried = (2**128 - 2, 2**64 - 1, 2**31 | 5)
    names = ("user_data_128", "user_data_64", "user_data_32")
    marked = [
        books.transfer(source, a, 1, **{name: value})
        for name, value in zip(names, carried, strict=True)
    ]
    plain = books.transfer(a, b, 1, code=7)
    await books.apply(*marked, plain)
    query = books.ledger.query_transfers
    for name, value, t in zip(names, carried, marked, strict=True):
        found = await query(ledger=books.number, **{name: value})
        assert [f.id for f in found] == [t.id]
        found = await books.ledger.account_transfers(a, **{name: value})
        assert [f.id for f in found] == [t.id]
    everything = await query(ledger=books.number)
    assert [t.id for t in everything] == [t.id for t in (*marked, plain)]
    assert await query(ledger=books.number, flags=REVERSED, limit=2) == everything[:1:-1]
    assert [t.id for t in await query(ledger=books.number, code=7)] == [plain.id]
    assert await books.ledger.account_transfers(a, code=7) == everything[3:]
    low, high = everything[1].timestamp, everything[2].timestamp
    assert (
        await query(ledger=books.number, timestamp_min=low, timestamp_max=high) == everything[1:3]
    )


async def test_lookup_transfers_keeps_the_order(books: Books) -> None:
    source, a, _ = await books.open_funded(0)
    x, y = books.transfer(source, a, 1), books.transfer(source, a, 2)
    await books.apply(x, y)
    found = await books.ledger.lookup_transfers([y.id, books.new_id(), x.id])
    assert [t.id for t in found] == [y.id, x.id]


# Load.


async def test_the_largest_request(books: Books) -> None:
    _, a, b = await books.open_funded(100_000)
    holds = [books.hold(a, b, 1) for _ in range(min(books.ledger.batch_events_max, 240))]
    await books.apply(*holds)
    await books.apply(*(books.post(hold) for hold in holds))
    assert await books.balances(b) == [(0, 0, 0, len(holds))]


async def test_two_writers_in_opposite_orders(open_ledger: Opener) -> None:
    one, two = await open_ledger(), await open_ledger()
    books = Books(one)
    source, *accounts = await books.open(0, *[D] * 6)
    await books.apply(*(books.transfer(source, a, 10_000) for a in accounts))

    async def write(ledger: Ledger, order: list[int]) -> None:
        for _ in range(30):
            pairs = list(zip(order, order[1:] + order[:1], strict=True))
            holds = [books.hold(debit, credit, 1) for debit, credit in pairs]
            assert await ledger.create_transfers(holds) == {}
            assert await ledger.create_transfers([books.post(hold) for hold in holds]) == {}

    async with asyncio.timeout(60):
        await asyncio.gather(write(one, accounts), write(two, accounts[::-1]))
    assert await books.balances(*accounts) == [(0, 60, 0, 10_060)] * 6


async def test_writers_race_for_the_last_of_it(open_ledger: Opener) -> None:
    ledgers = [await open_ledger() for _ in range(3)]
    books = Books(ledgers[0])
    _, a, b = await books.open_funded(50)

    async def spend(ledger: Ledger) -> int:
        refused = 0
        for _ in range(10):
            batch = [books.hold(a, b, 1) for _ in range(3)]
            refused += len(await ledger.create_transfers(batch))
        return refused

    assert sum(await asyncio.gather(*map(spend, ledgers))) == 90 - 50
    assert await books.balances(a) == [(50, 0, 0, 50)]


async def test_writers_race_for_the_same_ids(open_ledger: Opener) -> None:
    ledgers = [await open_ledger() for _ in range(3)]
    books = Books(ledgers[0])
    _, a, b = await books.open_funded(1000)
    for _ in range(10):
        holds = [books.hold(a, b, 1) for _ in range(4)]
        posts = [books.post(hold) for hold in holds]
        for batch in (holds, posts):
            answers = await asyncio.gather(*(each.create_transfers(batch) for each in ledgers))
            repeated = dict.fromkeys(range(4), S.EXISTS)
            assert sorted(answers, key=len) == [{}, repeated, repeated]
    assert await books.balances(b) == [(0, 0, 0, 40)]


async def test_a_post_and_a_void_race(open_ledger: Opener) -> None:
    one, two = await open_ledger(), await open_ledger()
    books = Books(one)
    _, a, b = await books.open_funded(1000)
    posted = 0
    for _ in range(20):
        holds = [books.hold(a, b, 1) for _ in range(3)]
        await books.apply(*holds)
        post, void = await asyncio.gather(
            one.create_transfers([books.post(hold) for hold in holds]),
            two.create_transfers([books.void(hold) for hold in reversed(holds)]),
        )
        assert sorted((len(post), len(void))) == [0, 3]
        posted += 3 - len(post)
    assert await books.balances(a) == [(0, posted, 0, 1000)]


async def test_a_cancelled_caller_leaves_the_session_usable(books: Books) -> None:
    _, a, b = await books.open_funded(1000)
    for turns in range(8):
        request = asyncio.create_task(books.ledger.create_transfers([books.hold(a, b, 1)]))
        for _ in range(turns):
            await asyncio.sleep(0)
        request.cancel()
        await asyncio.wait([request])
        assert await books.ledger.create_transfers([books.hold(a, b, 1)]) == {}
    assert isinstance((await books.ledger.lookup_accounts([a]))[0], Account)
