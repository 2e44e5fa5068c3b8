"""What is Postgres's own: its errors, its locks, its sweep. The rest is in tests/contract."""

import asyncio
import random
import signal
from collections.abc import AsyncIterator
from uuid import UUID

import asyncpg
import msgspec
import pytest

from connector.errors import LedgerRejectedBatch, LedgerUnavailable
from connector.ledger import postgres
from connector.ledger.ledger import (
    AMOUNT_MAX,
    BATCH_EVENTS_MAX,
    DEBITS_MUST_NOT_EXCEED_CREDITS,
    LINKED,
    Account,
    AccountStatus,
    Transfer,
    TransferStatus,
)
from connector.ledger.postgres import PostgresLedger
from tests.support.books import Books
from tests.support.postgres import EmbeddedPostgres

S = TransferStatus
WAIT_S = 20


@pytest.fixture
async def ledger(module_database_url: str) -> AsyncIterator[PostgresLedger]:
    ledger = PostgresLedger(module_database_url)
    yield ledger
    await ledger.close()


@pytest.fixture
async def sql(module_database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A session beside the ledger's, to look and to disturb."""
    connection = await asyncpg.connect(module_database_url)
    yield connection
    await connection.close()


@pytest.fixture
def books(ledger: PostgresLedger) -> Books:
    return Books(ledger)


def as_uuid(value: int) -> UUID:
    return UUID(int=value)


async def lock_account(sql: asyncpg.Connection, account_id: int) -> None:
    await sql.execute("BEGIN")
    await sql.execute("SELECT FROM ledger_accounts WHERE id = $1 FOR UPDATE", as_uuid(account_id))


async def blocked_pid(sql: asyncpg.Connection) -> int:
    """Wait until a ledger session waits for our lock; returns its process."""
    async with asyncio.timeout(WAIT_S):
        while True:
            pid = await sql.fetchval(
                "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
                " AND application_name = 'jirani-ledger'"
                " AND pg_backend_pid() = ANY (pg_blocking_pids(pid))"
            )
            if pid is not None:
                return int(pid)
            await asyncio.sleep(0.01)


# Encoding.


async def test_events_are_packed_as_asyncpg_packs_them(sql: asyncpg.Connection) -> None:
    transfers = [
        Transfer(
            id=random.getrandbits(120),
            debit_account_id=random.getrandbits(120),
            credit_account_id=random.getrandbits(120),
            amount=random.getrandbits(63),
            pending_id=random.getrandbits(120),
            user_data_128=random.getrandbits(120),
            user_data_64=random.getrandbits(63),
            user_data_32=random.getrandbits(31),
            timeout=random.getrandbits(32),
            ledger=random.getrandbits(32),
            code=random.getrandbits(16),
            flags=2,
        )
        for _ in range(3)
    ]
    uuids = {"id", "debit_account_id", "credit_account_id", "pending_id", "user_data_128"}
    names = [name for name in Transfer.__struct_fields__ if name != "timestamp"]
    theirs = await sql.fetchval(
        "SELECT array_send($1::ledger_event[])",
        [
            tuple(as_uuid(getattr(t, n)) if n in uuids else getattr(t, n) for n in names)
            for t in transfers
        ],
    )
    batch, plain = postgres._encode(transfers)
    event_oid = await sql.fetchval("SELECT 'ledger_event'::regtype::oid")
    assert postgres._ARRAY.pack(1, 0, event_oid, len(transfers), 1) + batch == theirs
    assert not plain


@pytest.mark.parametrize(
    "fields",
    [
        {"amount": -1},
        {"amount": 1 << 128},
        {"id": 1 << 128},
        {"id": -1},
        {"user_data_64": 1 << 64},
        {"user_data_32": -1},
        {"code": 1 << 32},
    ],
)
async def test_a_number_out_of_range(books: Books, fields: dict[str, int]) -> None:
    _, a, b = await books.open_funded(100)
    bad = msgspec.structs.replace(books.transfer(a, b, 1), **fields)
    with pytest.raises(LedgerRejectedBatch):
        await books.ledger.create_transfers([books.transfer(a, b, 1), bad])
    assert await books.balances(b) == [(0, 0, 0, 0)]


@pytest.mark.parametrize("fields", [{"id": -1}, {"user_data_64": 1 << 70}, {"ledger": 1 << 70}])
async def test_an_account_out_of_range(books: Books, fields: dict[str, int]) -> None:
    bad = msgspec.structs.replace(books.account(), **fields)
    good = books.account()
    with pytest.raises(LedgerRejectedBatch):
        await books.ledger.create_accounts([good, bad])
    assert await books.ledger.lookup_accounts([good.id]) == []


@pytest.mark.parametrize("code", [1, 2])
async def test_the_largest_request(books: Books, code: int) -> None:
    """Set-based and, for deposits, in order."""
    _, a, b = await books.open_funded(100_000)
    batch = [books.transfer(a, b, 1, code=code) for _ in range(BATCH_EVENTS_MAX)]
    await books.apply(*batch)
    assert await books.balances(b) == [(0, 0, 0, BATCH_EVENTS_MAX)]
    page = await books.ledger.account_transfers(b)
    assert [t.id for t in page] == [t.id for t in batch]


# Sweep and expiry.


async def let_expire(sql: asyncpg.Connection, holds: list[Transfer]) -> None:
    await sql.execute(
        "UPDATE ledger_pendings SET expires_at = 1 WHERE id = ANY ($1::uuid[])",
        [as_uuid(hold.id) for hold in holds],
    )


async def test_an_expired_hold_is_expired_before_the_sweep(
    books: Books, sql: asyncpg.Connection
) -> None:
    _, a, b = await books.open_funded(100)
    late, live = books.hold(a, b, 60, timeout=60), books.hold(a, b, 40, timeout=60)
    await books.apply(late, live)
    await let_expire(sql, [late])
    posts = [books.post(late), books.post(live)]
    assert await books.ledger.create_transfers(posts) == {0: S.PENDING_TRANSFER_EXPIRED}
    assert await books.balances(a) == [(60, 40, 0, 100)]
    assert isinstance(books.ledger, PostgresLedger)
    assert await books.ledger.expire_pending() == 1
    assert await books.ledger.expire_pending() == 0
    assert await books.balances(a, b) == [(0, 40, 0, 100), (0, 0, 0, 40)]
    assert await books.ledger.create_transfers(posts) == {
        0: S.PENDING_TRANSFER_EXPIRED,
        1: S.EXISTS,
    }


async def test_many_workers_sweep_in_pages(
    books: Books, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "EXPIRE_PAGE", 4)
    ledger = books.ledger
    assert isinstance(ledger, PostgresLedger)
    _, a, b = await books.open_funded(100)
    _, c, d = await books.open_funded(100)
    holds = [books.hold(*pair, 2, timeout=60) for pair in ((a, b), (c, d), (a, b)) * 7]
    kept = books.hold(a, b, 1, timeout=60)
    await books.apply(*holds, kept)
    await let_expire(sql, holds)
    expired = 0
    async with asyncio.timeout(WAIT_S):
        while expired < len(holds):
            expired += sum(await asyncio.gather(*(ledger.expire_pending() for _ in range(4))))
    assert expired == len(holds)
    assert await books.balances(a, c) == [(1, 0, 0, 100), (0, 0, 0, 100)]


async def test_sweep_and_posts_race(books: Books, sql: asyncpg.Connection) -> None:
    ledger = books.ledger
    assert isinstance(ledger, PostgresLedger)
    _, a, b = await books.open_funded(1000)
    posted = 0
    for _ in range(10):
        holds = [books.hold(a, b, 1, timeout=60) for _ in range(6)]
        await books.apply(*holds)
        _, refused, _ = await asyncio.gather(
            let_expire(sql, holds[:3]),
            ledger.create_transfers([books.post(hold) for hold in holds]),
            ledger.expire_pending(),
        )
        posted += 6 - len(refused)
        await ledger.expire_pending()
    assert await books.balances(a) == [(0, posted, 0, 1000)]


async def test_the_open_holds_of_a_slot_can_be_found(books: Books, sql: asyncpg.Connection) -> None:
    _, a, b = await books.open_funded(100)
    slot = random.getrandbits(24)
    mine, later, resolved = (
        books.hold(a, b, 1, user_data_32=1 << 24 | slot, user_data_64=d) for d in (10, 20, 10)
    )
    other = books.hold(a, b, 1, user_data_32=1 << 24 | slot ^ 1, user_data_64=10)
    await books.apply(mine, later, resolved, other)
    await books.apply(books.void(resolved))
    found = await sql.fetch(
        "SELECT id FROM ledger_pendings WHERE slot = $1 AND user_data_64 < $2", slot, 15
    )
    assert [row["id"].int for row in found] == [mine.id]


# Locks.


async def test_timestamps_are_unique_over_writers(module_database_url: str) -> None:
    ledgers = [PostgresLedger(module_database_url) for _ in range(3)]
    everyone = [Books(ledger) for ledger in ledgers]
    pairs = [await books.open(0, 0) for books in everyone]

    async def write(books: Books, a: int, b: int) -> list[int]:
        for _ in range(15):
            await books.apply(*(books.transfer(a, b, 1) for _ in range(7)))
        return [t.timestamp for t in await books.ledger.account_transfers(a)]

    written = await asyncio.gather(
        *(write(books, *pair) for books, pair in zip(everyone, pairs, strict=True))
    )
    stamps = [stamp for each in written for stamp in each]
    assert len(set(stamps)) == 3 * 15 * 7
    for ledger in ledgers:
        await ledger.close()


async def test_two_workers_create_the_same_accounts(ledger: PostgresLedger) -> None:
    books = Books(ledger)
    accounts = [books.account(DEBITS_MUST_NOT_EXCEED_CREDITS) for _ in range(20)]
    answers = await asyncio.gather(
        ledger.create_accounts(accounts), ledger.create_accounts(accounts[::-1])
    )
    exist = dict.fromkeys(range(20), AccountStatus.EXISTS)
    assert sorted(answers, key=len) == [{}, exist]


async def test_writers_in_contention_give_up_in_the_end(ledger: PostgresLedger) -> None:
    attempts = 0

    async def lose(connection: asyncpg.Connection) -> None:
        nonlocal attempts
        attempts += 1
        await connection.execute("DO $$ BEGIN RAISE deadlock_detected; END $$")

    with pytest.raises(LedgerUnavailable, match="contended"):
        await ledger._run(lose)
    assert attempts == postgres.ATTEMPTS_MAX


async def test_balances_are_guarded_by_the_table_too(books: Books, sql: asyncpg.Connection) -> None:
    _, a, _ = await books.open_funded(100)
    for change in ("debits_posted = 101", "debits_pending = -1"):
        with pytest.raises(asyncpg.CheckViolationError):
            await sql.execute(f"UPDATE ledger_accounts SET {change} WHERE id = $1", as_uuid(a))


async def test_commits_are_synchronous(ledger: PostgresLedger) -> None:
    async def show(connection: asyncpg.Connection) -> str:
        return str(await connection.fetchval("SHOW synchronous_commit"))

    assert await ledger._run(show) == "on"


# Trouble.


async def test_a_cancelled_caller_does_not_cancel_the_request(
    books: Books, sql: asyncpg.Connection
) -> None:
    _, a, b = await books.open_funded(100)
    await lock_account(sql, a)
    hold = books.hold(a, b, 1)
    request = asyncio.create_task(books.ledger.create_transfers([hold]))
    await blocked_pid(sql)
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    await sql.execute("COMMIT")
    assert await books.ledger.create_transfers([hold]) == {0: S.EXISTS}


@pytest.mark.parametrize("how", ["pg_terminate_backend", "pg_cancel_backend"])
async def test_a_session_that_ends_under_a_request(
    books: Books, sql: asyncpg.Connection, how: str
) -> None:
    _, a, b = await books.open_funded(100)
    await lock_account(sql, a)
    hold = books.hold(a, b, 1)
    request = asyncio.create_task(books.ledger.create_transfers([hold]))
    await sql.execute(f"SELECT {how}($1)", await blocked_pid(sql))
    with pytest.raises(LedgerUnavailable):
        await request
    await sql.execute("COMMIT")
    await books.apply(hold)


async def test_a_session_that_ends_between_requests(books: Books, sql: asyncpg.Connection) -> None:
    _, a, b = await books.open_funded(100)
    await sql.execute(
        "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
        " WHERE application_name = 'jirani-ledger' AND datname = current_database()"
    )
    hold = books.hold(a, b, 1)
    try:
        await books.apply(hold)
    except LedgerUnavailable:
        # The end of the session may be noticed only by using it; once.
        await books.apply(hold)


async def test_a_database_without_the_schema(private_postgres: EmbeddedPostgres) -> None:
    ledger = PostgresLedger(private_postgres.create_database(schema=False))
    with pytest.raises(LedgerRejectedBatch, match="ledger_event"):
        await ledger.lookup_accounts([1])
    await ledger.close()


async def test_a_server_that_stops_and_comes_back(private_postgres: EmbeddedPostgres) -> None:
    ledger = PostgresLedger(private_postgres.create_database())
    books = Books(ledger)
    _, a, b = await books.open_funded(100)
    for stop in (signal.SIGINT, signal.SIGQUIT):
        hold = books.hold(a, b, 10)
        await books.apply(hold)
        private_postgres.stop(stop)
        post = books.post(hold)
        for _ in range(2):
            with pytest.raises(LedgerUnavailable):
                await ledger.create_transfers([post])
        private_postgres.start()
        # What was confirmed has survived, and the same ids go on.
        await books.apply(post)
    assert await books.balances(a, b) == [(0, 20, 0, 100), (0, 0, 0, 20)]
    await ledger.close()


async def test_a_crash_under_load_loses_nothing_confirmed(
    private_postgres: EmbeddedPostgres,
) -> None:
    ledger = PostgresLedger(private_postgres.create_database())
    books = Books(ledger)
    _, a, b = await books.open_funded(AMOUNT_MAX // 2)
    confirmed: list[Transfer] = []
    unknown: list[Transfer] = []

    async def write() -> None:
        while not unknown:
            batch = [books.hold(a, b, 1, LINKED), books.hold(a, b, 1)]
            try:
                await books.apply(*batch)
            except LedgerUnavailable:
                unknown.extend(batch)
            else:
                confirmed.extend(batch)

    writer = asyncio.create_task(write())
    async with asyncio.timeout(WAIT_S):
        while len(confirmed) < 20:
            await asyncio.sleep(0.01)
        await asyncio.to_thread(private_postgres.stop, signal.SIGQUIT)
        await writer
        await asyncio.to_thread(private_postgres.start)
    found = await ledger.lookup_transfers([t.id for t in confirmed])
    assert len(found) == len(confirmed)
    # Repeating what has no answer gives one, and applies it once in all.
    statuses = await ledger.create_transfers(unknown)
    assert statuses in ({}, {0: S.EXISTS, 1: S.LINKED_EVENT_FAILED})
    held = len(confirmed) + len(unknown)
    assert (await books.balances(a))[0][0] == held
    await ledger.close()


async def test_accounts_can_be_paged_while_new_ones_come(books: Books) -> None:
    ids: list[int] = []
    for _ in range(3):
        ids += await books.open(0, 0)
    seen: list[Account] = []
    while page := await books.ledger.query_accounts(
        ledger=books.number, timestamp_min=seen[-1].timestamp + 1 if seen else 0, limit=4
    ):
        seen += page
    assert [a.id for a in seen] == ids
