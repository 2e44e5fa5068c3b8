"""The ledger in Postgres: the embedded default, and small deployments.

One call of ``ledger_create_transfers`` (``schema.sql``) for each batch. What this module decides is
only whether the batch is of the common kind that the function may apply set-based, or has to be
applied event by event. Balances live on account rows and commits are synchronous.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from decimal import Decimal
from struct import Struct
from struct import error as StructError
from typing import Any, Final, TypeVar

import asyncpg

from connector.errors import LedgerRejectedBatch, LedgerUnavailable
from connector.ledger import rules
from connector.ledger.ledger import (
    AMOUNT_MAX,
    BATCH_EVENTS_MAX,
    CREDITS,
    DEBITS,
    LINKED,
    PENDING,
    POST_PENDING_TRANSFER,
    REVERSED,
    U128_MAX,
    VOID_PENDING_TRANSFER,
    Account,
    Transfer,
)

T = TypeVar("T")

REQUEST_S_MAX: Final = 30.0
ATTEMPTS_MAX: Final = 8
EXPIRE_PAGE: Final = 1000

# Refused ids of these codes are remembered (deposits and withdrawals), so they go event by event.
BURNT_CODES: Final = (2, 3)
_ODD_CODES: Final = (0, *BURNT_CODES)

# Another writer was at the same rows: the same call, made again, sees what he did.
_CONTENTION: Final = (
    asyncpg.SerializationError,
    asyncpg.DeadlockDetectedError,
    asyncpg.UniqueViolationError,
)
_UNAVAILABLE: Final = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.PostgresSystemError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.ReadOnlySQLTransactionError,
)

# The planner must not learn from a moment when a table was small or empty.
_SESSION: Final = {
    "application_name": "jirani-ledger",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "enable_seqscan": "off",
    "jit": "off",
    "plan_cache_mode": "force_generic_plan",
    "synchronous_commit": "on",
}

_APPLY: Final = "SELECT ledger_create_transfers($1)"
_APPLY_IN_ORDER: Final = "SELECT ledger_create_transfers($1, $2, $3, $4, $5, $6)"
_CREATE_ACCOUNTS: Final = "SELECT ledger_create_accounts($1, $2, $3, $4, $5, $6, $7, $8)"
_TRANSFERS: Final = "SELECT * FROM ledger_transfers"
_ACCOUNTS: Final = "SELECT * FROM ledger_accounts"

# Postgres's binary form of one ledger_event: size and number of fields, then type, size and value
# of each. Types by their fixed oids: 2950 uuid, 20 bigint, 23 integer.
_EVENT: Final = Struct(">16s16s8s16s8s16s8sq8s16s8s16s8sQ8sI8sq8sq8si8si")
_TYPED: Final = Struct(">iI")
_UUID: Final = _TYPED.pack(2950, 16)
_BIGINT: Final = _TYPED.pack(20, 8)
_INTEGER: Final = _TYPED.pack(23, 4)
_HEAD: Final = _TYPED.pack(_EVENT.size - 4, 12) + _UUID
_ARRAY: Final = Struct(">iiIii")
_AMOUNT_SMALL_MAX: Final = (1 << 63) - 1
_ALL: Final = -1
_ZERO: Final = bytes(16)


class PostgresLedger:
    """Implements ``Ledger`` on a database that has ``schema.sql`` applied.

    Connections are made when needed and replaced when lost. Field values outside their ranges are
    refused with LedgerRejectedBatch.
    """

    batch_events_max = BATCH_EVENTS_MAX

    def __init__(self, dsn: str, *, connections_max: int = 4) -> None:
        """Remember where the database is; the first call connects."""
        self._dsn = dsn
        # Connections that no request uses. A pool of asyncpg's costs more than a call itself.
        self._idle: list[asyncpg.Connection] = []
        self._room = asyncio.Semaphore(connections_max)
        self._event_oid = 0
        # Requests under way: they outlive a cancelled caller.
        self._tasks: set[asyncio.Task[Any]] = set()

    async def create_accounts(self, accounts: Sequence[Account]) -> dict[int, int]:
        self._check_size(accounts)
        if not accounts:
            return {}
        try:
            arguments: tuple[list[Any], ...] = (
                [_uuid(a.id) for a in accounts],
                [_uuid(a.user_data_128) for a in accounts],
                [_signed(a.user_data_64, 64) for a in accounts],
                [_signed(a.user_data_32, 32) for a in accounts],
                [a.ledger for a in accounts],
                [a.code for a in accounts],
                [a.flags for a in accounts],
                [rules.account_identity_fault(a) or rules.account_fault(a) for a in accounts],
            )
        except OverflowError as error:
            raise LedgerRejectedBatch(str(error)) from error
        return _failures(await self._run(lambda c: c.fetchval(_CREATE_ACCOUNTS, *arguments)))

    async def create_transfers(self, transfers: Sequence[Transfer]) -> dict[int, int]:
        self._check_size(transfers)
        if not transfers:
            return {}
        try:
            batch, plain = _encode(transfers)
            in_order = None if plain else _in_order(transfers)
        except (StructError, OverflowError) as error:
            raise LedgerRejectedBatch(str(error)) from error

        async def apply(connection: asyncpg.Connection) -> Any:
            nonlocal in_order
            head = _ARRAY.pack(1, 0, self._event_oid, len(transfers), 1)
            if in_order is None:
                try:
                    return await connection.fetchval(_APPLY, head + batch)
                except asyncpg.UniqueViolationError:
                    in_order = _in_order(transfers)
            return await connection.fetchval(_APPLY_IN_ORDER, head + batch, *in_order)

        return _failures(await self._run(apply))

    async def expire_pending(self) -> int:
        """Release what is past its time; returns how many. To be called every second."""
        total = 0
        while True:
            expired: int = await self._run(
                lambda c: c.fetchval("SELECT ledger_expire($1)", EXPIRE_PAGE)
            )
            total += expired
            if expired < EXPIRE_PAGE:
                return total

    async def lookup_accounts(self, ids: Sequence[int]) -> list[Account]:
        self._check_size(ids)
        wanted = [_uuid(i) for i in ids]
        rows = await self._fetch(f"{_ACCOUNTS} WHERE id = ANY ($1::uuid[])", wanted)
        found = {account.id: account for account in map(_account, rows)}
        return [found[i] for i in ids if i in found]

    async def lookup_transfers(self, ids: Sequence[int]) -> list[Transfer]:
        self._check_size(ids)
        wanted = [_uuid(i) for i in ids]
        rows = await self._fetch(f"{_TRANSFERS} WHERE id = ANY ($1::uuid[])", wanted)
        found = {transfer.id: transfer for transfer in map(_transfer, rows)}
        return [found[i] for i in ids if i in found]

    async def account_transfers(
        self,
        account_id: int,
        *,
        user_data_128: int = 0,
        user_data_64: int = 0,
        user_data_32: int = 0,
        code: int = 0,
        timestamp_min: int = 0,
        timestamp_max: int = 0,
        limit: int = BATCH_EVENTS_MAX,
        flags: int = DEBITS | CREDITS,
    ) -> list[Transfer]:
        where, values = _filter(
            user_data_128=_uuid(user_data_128) if user_data_128 else None,
            user_data_64=_signed(user_data_64, 64),
            user_data_32=_signed(user_data_32, 32),
            code=code,
            timestamp_min=timestamp_min,
            timestamp_max=timestamp_max,
        )
        order = _order(flags, min(limit, BATCH_EVENTS_MAX))
        values.append(_uuid(account_id))
        sides = [
            f"({_TRANSFERS} WHERE {where} AND {column} = ${len(values)} {order})"
            for flag, column in ((DEBITS, "debit_account_id"), (CREDITS, "credit_account_id"))
            if flags & flag
        ]
        if not sides:
            return []
        query = " UNION ALL ".join(sides) + (f" {order}" if len(sides) > 1 else "")
        rows = await self._fetch(query, *values)
        return [_transfer(row) for row in rows]

    async def query_transfers(
        self,
        *,
        user_data_128: int = 0,
        user_data_64: int = 0,
        user_data_32: int = 0,
        ledger: int = 0,
        code: int = 0,
        timestamp_min: int = 0,
        timestamp_max: int = 0,
        limit: int = BATCH_EVENTS_MAX,
        flags: int = 0,
    ) -> list[Transfer]:
        where, values = _filter(
            user_data_128=_uuid(user_data_128) if user_data_128 else None,
            user_data_64=_signed(user_data_64, 64),
            user_data_32=_signed(user_data_32, 32),
            ledger=ledger,
            code=code,
            timestamp_min=timestamp_min,
            timestamp_max=timestamp_max,
        )
        order = _order(flags, min(limit, BATCH_EVENTS_MAX))
        rows = await self._fetch(f"{_TRANSFERS} WHERE {where} {order}", *values)
        return [_transfer(row) for row in rows]

    async def query_accounts(
        self,
        *,
        ledger: int = 0,
        code: int = 0,
        timestamp_min: int = 0,
        limit: int = BATCH_EVENTS_MAX,
    ) -> list[Account]:
        where, values = _filter(ledger=ledger, code=code, timestamp_min=timestamp_min)
        order = _order(0, min(limit, BATCH_EVENTS_MAX))
        rows = await self._fetch(f"{_ACCOUNTS} WHERE {where} {order}", *values)
        return [_account(row) for row in rows]

    async def close(self) -> None:
        if self._tasks:
            await asyncio.wait(self._tasks)
        while self._idle:
            await self._idle.pop().close()

    def _check_size(self, events: Sequence[Any]) -> None:
        if len(events) > self.batch_events_max:
            raise LedgerRejectedBatch(f"{len(events)} events, at most {self.batch_events_max}")

    async def _fetch(self, query: str, *values: Any) -> list[asyncpg.Record]:
        return await self._run(lambda c: c.fetch(query, *values))

    async def _run(self, use: Callable[[asyncpg.Connection], Awaitable[T]]) -> T:
        """Run one request to its end, even when the caller is cancelled."""
        task = asyncio.ensure_future(self._attempt(use))
        self._tasks.add(task)
        task.add_done_callback(self._finish)
        return await asyncio.shield(task)

    def _finish(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            # Read here too, since a cancelled caller does not.
            task.exception()

    async def _attempt(self, use: Callable[[asyncpg.Connection], Awaitable[T]]) -> T:
        try:
            for _ in range(ATTEMPTS_MAX):
                try:
                    return await self._with_connection(use)
                except _CONTENTION:
                    continue
        except _UNAVAILABLE as error:
            raise LedgerUnavailable(f"Postgres ledger: {error}") from error
        except (asyncpg.PostgresError, asyncpg.DataError) as error:
            raise LedgerRejectedBatch(f"Postgres ledger: {error}") from error
        raise LedgerUnavailable(f"Postgres ledger: still contended after {ATTEMPTS_MAX} attempts")

    async def _with_connection(self, use: Callable[[asyncpg.Connection], Awaitable[T]]) -> T:
        async with self._room:
            connection = self._idle.pop() if self._idle else await self._connect()
            try:
                result = await use(connection)
            except _CONTENTION:
                self._idle.append(connection)
                raise
            except BaseException:
                # A call cut off at the wrong moment may still hold the clock's lock.
                connection.terminate()
                raise
            self._idle.append(connection)
            return result

    async def _connect(self) -> asyncpg.Connection:
        connection = await asyncpg.connect(
            self._dsn,
            timeout=REQUEST_S_MAX,
            command_timeout=REQUEST_S_MAX,
            server_settings=_SESSION,
        )
        try:
            await self._prepare(connection)
        except BaseException:
            connection.terminate()
            raise
        return connection

    async def _prepare(self, connection: asyncpg.Connection) -> None:
        """Have arrays of ledger_event sent as the bytes that we pack ourselves.

        asyncpg's own encoder takes 5 µs of an event, ours less than 1; it offers no public way to
        bring one's own encoder for an array.
        """
        row = await connection.fetchrow(
            "SELECT oid, typarray FROM pg_type WHERE oid = 'ledger_event'::regtype"
        )
        self._event_oid = row["oid"]
        settings = connection._protocol.get_settings()
        settings.add_python_codec(
            row["typarray"], "_ledger_event", "public", [], "scalar", bytes, bytes, "binary"
        )


def _encode(transfers: Sequence[Transfer]) -> tuple[bytes, bool]:
    """Pack a batch; also whether it is plain: nothing in it needs to be applied in order."""
    pack = _EVENT.pack
    packed: list[bytes] = []
    plain = not transfers[-1].flags & LINKED
    ids: set[int] = set()
    named = 0
    for t in transfers:
        flags = t.flags
        amount = t.amount
        ids.add(t.id)
        named += 1
        if flags & rules.RESOLVING:
            ids.add(t.pending_id)
            named += 1
            plain = plain and _plain_resolution(t)
            if amount == AMOUNT_MAX and flags & POST_PENDING_TRANSFER:
                amount = _ALL
        else:
            plain = plain and _plain_creation(t)
        packed.append(
            pack(
                _HEAD,
                t.id.to_bytes(16, "big"),
                _UUID,
                t.debit_account_id.to_bytes(16, "big"),
                _UUID,
                t.credit_account_id.to_bytes(16, "big"),
                _BIGINT,
                amount if amount <= _AMOUNT_SMALL_MAX else 0,
                _UUID,
                t.pending_id.to_bytes(16, "big"),
                _UUID,
                t.user_data_128.to_bytes(16, "big"),
                _BIGINT,
                t.user_data_64,
                _INTEGER,
                t.user_data_32,
                _BIGINT,
                t.timeout,
                _BIGINT,
                t.ledger,
                _INTEGER,
                t.code,
                _INTEGER,
                flags,
            )
        )
    # An id that is named twice makes one event depend on another.
    return b"".join(packed), plain and len(ids) == named


def _plain_creation(t: Transfer) -> bool:
    return (
        not t.flags & ~(PENDING | LINKED)
        and 0 < t.id < U128_MAX
        and 0 < t.debit_account_id < U128_MAX
        and 0 < t.credit_account_id < U128_MAX
        and 0 <= t.amount <= _AMOUNT_SMALL_MAX
        and not t.pending_id
        and t.debit_account_id != t.credit_account_id
        and (not t.timeout or t.flags & PENDING != 0)
        and t.ledger != 0
        and t.code not in _ODD_CODES
    )


def _plain_resolution(t: Transfer) -> bool:
    flags = t.flags & ~LINKED
    return (
        (
            (flags == POST_PENDING_TRANSFER and t.amount == AMOUNT_MAX)
            or (flags == VOID_PENDING_TRANSFER and not t.amount)
        )
        and 0 < t.id < U128_MAX
        and 0 < t.pending_id < U128_MAX
        and not (t.debit_account_id or t.credit_account_id or t.ledger or t.code or t.timeout)
    )


def _in_order(transfers: Sequence[Transfer]) -> tuple[list[Decimal], *tuple[list[int], ...]]:
    """What the function needs to apply a batch event by event; see ``schema.sql``."""
    last_of_id: dict[int, int] = {}
    last_of_pending: dict[int, int] = {}
    amounts: list[Decimal] = []
    faults: list[int] = []
    same_id: list[int] = []
    same_pending: list[int] = []
    origin: list[int] = []
    for number, t in enumerate(transfers, 1):
        if not 0 <= t.amount <= AMOUNT_MAX:
            raise OverflowError(f"amount {t.amount}")
        amounts.append(Decimal(t.amount))
        faults.append(rules.transfer_identity_fault(t) or rules.transfer_fault(t))
        same_id.append(last_of_id.get(t.id, 0))
        same_pending.append(last_of_pending.get(t.pending_id, 0))
        origin.append(last_of_id.get(t.pending_id, 0))
        last_of_id[t.id] = number
        if t.flags & rules.RESOLVING:
            last_of_pending[t.pending_id] = number
    return amounts, faults, same_id, same_pending, origin


def _failures(packed: Iterable[int] | None) -> dict[int, int]:
    return {item >> 32: item & 0xFFFFFFFF for item in packed} if packed else {}


def _filter(**wanted: Any) -> tuple[str, list[Any]]:
    """A WHERE clause of what is wanted and not 0 or None, and its values."""
    conditions = ["true"]
    values: list[Any] = []
    for name, value in wanted.items():
        if value:
            values.append(value)
            column, operator = {
                "timestamp_min": ("timestamp", ">="),
                "timestamp_max": ("timestamp", "<="),
            }.get(name, (name, "="))
            conditions.append(f"{column} {operator} ${len(values)}")
    return " AND ".join(conditions), values


def _order(flags: int, limit: int) -> str:
    return f"ORDER BY timestamp {'DESC' if flags & REVERSED else 'ASC'} LIMIT {int(limit)}"


def _uuid(value: int) -> asyncpg.pgproto.pgproto.UUID:
    return asyncpg.pgproto.pgproto.UUID(value.to_bytes(16, "big"))


def _signed(value: int, bits: int) -> int:
    """The signed integer that has the bits of an unsigned one."""
    return value - (1 << bits) if value >> (bits - 1) else value


def _unsigned(value: int, bits: int) -> int:
    return value + (1 << bits) if value < 0 else value


def _account(row: asyncpg.Record) -> Account:
    return Account(
        row["id"].int,
        row["ledger"],
        row["code"],
        row["flags"],
        row["user_data_128"].int,
        _unsigned(row["user_data_64"], 64),
        _unsigned(row["user_data_32"], 32),
        int(row["debits_pending"]),
        int(row["debits_posted"]),
        int(row["credits_pending"]),
        int(row["credits_posted"]),
        row["timestamp"],
    )


def _transfer(row: asyncpg.Record) -> Transfer:
    pending_id = row["pending_id"]
    return Transfer(
        row["id"].int,
        row["debit_account_id"].int,
        row["credit_account_id"].int,
        int(row["amount"]),
        0 if pending_id is None else pending_id.int,
        row["user_data_128"].int,
        _unsigned(row["user_data_64"], 64),
        _unsigned(row["user_data_32"], 32),
        row["timeout"],
        row["ledger"],
        row["code"],
        row["flags"],
        row["timestamp"],
    )
