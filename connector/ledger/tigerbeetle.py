"""The production ledger: a TigerBeetle cluster, through the official client's C library.

The client never times out and never reports a lost connection: a silent cluster shows only as
requests without an answer. So the start is a probe with a deadline; afterwards the caller decides
how long it waits.
"""

import asyncio
import re
import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Final, Protocol, Self

from connector.errors import (
    ConfigError,
    LedgerRejectedBatch,
    LedgerSessionLost,
    LedgerUnavailable,
)
from connector.ledger import tigerbeetle_records as records
from connector.ledger.ledger import (
    ACCOUNT_LINKED,
    BATCH_EVENTS_MAX,
    CREDITS,
    DEBITS,
    LINKED,
    REVERSED,
    Account,
    Transfer,
)

REPLICAS_MAX: Final = 6
PORT_DEFAULT: Final = 3001
CLOSE_WAIT_S: Final = 5.0

# Packet statuses of the client's library.
STATUS_OK: Final = 0
STATUS_TOO_MUCH_DATA: Final = 1
SESSION_ENDED: Final = {
    2: "evicted by the cluster",
    3: "this client's release is too old for the cluster",
    4: "this client's release is too new for the cluster",
    5: "closed",
}

_ADDRESS: Final = re.compile(
    r"(?P<only_port>\d{1,5})|(\[(?P<v6>[\da-fA-F:.]+)\]|(?P<host>[^\s:\[\]]+))(:(?P<port>\d{1,5}))?",
    re.ASCII,
)

assert LINKED == ACCOUNT_LINKED


class _TooMuchData(Exception):
    """The request is larger than the server takes; nothing of it was applied."""


class Session(Protocol):
    """What the ledger needs of ``tigerbeetle_native.NativeSession``."""

    def submit(
        self, operation: int, events: bytes, done: Callable[[int, bytes], None], /
    ) -> bool: ...

    def close(self) -> None: ...


class TigerBeetleLedger:
    """A ``Ledger`` on one TigerBeetle session; all its calls belong to the loop that connected it.

    The cluster keeps 64 sessions, closed ones too, and evicts the one longest without a request for
    a new one: so one for each process. After ``LedgerSessionLost`` only a new process helps.
    """

    def __init__(self, session: Session) -> None:
        self.batch_events_max = BATCH_EVENTS_MAX
        self._session = session
        self._loop = asyncio.get_running_loop()
        self._waiting: set[asyncio.Future[bytes]] = set()
        self._ended = ""
        self._closing: asyncio.Future[None] | None = None

    @classmethod
    async def connect(cls, cluster_id: int, addresses: str, probe_deadline_s: float) -> Self:
        """Open the session and see one look-up answered.

        addresses - the setting TIGERBEETLE_REPLICA_ADDRESSES: ``host:port``, ``[v6]:port``,
        ``host`` or ``port``, with commas, in the order of the replicas' indexes. Names are resolved
        here, once.
        Raises: ConfigError - malformed addresses; LedgerUnavailable - no answer by the deadline;
        LedgerSessionLost - the cluster refuses this client.
        """
        # Imported late: loading the library takes 0.1 s and a node on Postgres does without it.
        from connector.ledger.tigerbeetle_native import NativeSession

        if not 0 <= cluster_id < 1 << 128:
            raise ConfigError("TIGERBEETLE_CLUSTER_ID is not an unsigned 128-bit number")
        try:
            async with asyncio.timeout(probe_deadline_s):
                resolved = await resolve_addresses(addresses)
        except TimeoutError:
            raise LedgerUnavailable(
                f"TIGERBEETLE_REPLICA_ADDRESSES={addresses}: names not resolved in "
                f"{probe_deadline_s} s"
            ) from None
        ledger = cls(NativeSession(cluster_id, resolved, asyncio.get_running_loop()))
        try:
            async with asyncio.timeout(probe_deadline_s):
                await ledger.lookup_accounts([1])
        except TimeoutError:
            await ledger.close()
            raise LedgerUnavailable(
                f"TIGERBEETLE_REPLICA_ADDRESSES={addresses} ({resolved}): no answer in "
                f"{probe_deadline_s} s. Is the server running and reachable there, is "
                f"TIGERBEETLE_CLUSTER_ID={cluster_id} its cluster id, is its release at least this "
                f"client's, and has it a connection left (64, or 8 with --development)?"
            ) from None
        except BaseException:
            await ledger.close()
            raise
        return ledger

    async def create_accounts(self, accounts: Sequence[Account]) -> dict[int, int]:
        events = records.pack_accounts(accounts)
        return await self._create(records.CREATE_ACCOUNTS, events, accounts)

    async def create_transfers(self, transfers: Sequence[Transfer]) -> dict[int, int]:
        events = records.pack_transfers(transfers)
        return await self._create(records.CREATE_TRANSFERS, events, transfers)

    async def lookup_accounts(self, ids: Sequence[int]) -> list[Account]:
        return records.unpack_accounts(await self._lookup(records.LOOKUP_ACCOUNTS, ids))

    async def lookup_transfers(self, ids: Sequence[int]) -> list[Transfer]:
        return records.unpack_transfers(await self._lookup(records.LOOKUP_TRANSFERS, ids))

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
        request = records.pack_account_filter(
            account_id=account_id,
            user_data_128=user_data_128,
            user_data_64=user_data_64,
            user_data_32=user_data_32,
            code=code,
            timestamp_min=timestamp_min,
            timestamp_max=timestamp_max,
            limit=limit,
            flags=flags,
        )
        reply = await self._request(records.GET_ACCOUNT_TRANSFERS, request)
        return records.unpack_transfers(reply)

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
        request = records.pack_query_filter(
            user_data_128=user_data_128,
            user_data_64=user_data_64,
            user_data_32=user_data_32,
            ledger=ledger,
            code=code,
            timestamp_min=timestamp_min,
            timestamp_max=timestamp_max,
            limit=limit,
            flags=records.QUERY_REVERSED if flags & REVERSED else 0,
        )
        return records.unpack_transfers(await self._request(records.QUERY_TRANSFERS, request))

    async def query_accounts(
        self,
        *,
        ledger: int = 0,
        code: int = 0,
        timestamp_min: int = 0,
        limit: int = BATCH_EVENTS_MAX,
    ) -> list[Account]:
        request = records.pack_query_filter(
            ledger=ledger, code=code, timestamp_min=timestamp_min, limit=limit
        )
        return records.unpack_accounts(await self._request(records.QUERY_ACCOUNTS, request))

    async def expire_pending(self) -> int:
        """TigerBeetle does this by itself."""
        return 0

    async def close(self) -> None:
        """End the session: requests under way raise LedgerSessionLost. Repeating it is harmless.

        The library's own end may wait for a socket that is connecting into the void; after
        ``CLOSE_WAIT_S`` it is left to itself, with all that it may still touch kept.
        """
        if self._closing is None:
            self._ended = self._ended or "closed"
            self._closing = self._loop.create_future()
            threading.Thread(
                target=self._close_session, name="tigerbeetle-close", daemon=True
            ).start()
        await asyncio.wait([self._closing], timeout=CLOSE_WAIT_S)
        for future in self._waiting:
            if not future.done():
                future.set_exception(self._session_lost())

    def _close_session(self) -> None:
        self._session.close()
        with suppress(RuntimeError):  # The loop is closed, so nobody waits.
            self._loop.call_soon_threadsafe(self._session_closed)

    def _session_closed(self) -> None:
        assert self._closing is not None
        if not self._closing.done():
            self._closing.set_result(None)

    async def _create(
        self, operation: int, events: bytes, originals: Sequence[Account] | Sequence[Transfer]
    ) -> dict[int, int]:
        count = len(originals)
        if not count:
            return {}
        if count > BATCH_EVENTS_MAX:
            raise LedgerRejectedBatch(
                f"{count} events in one request, the most is {BATCH_EVENTS_MAX}"
            )
        if count <= self.batch_events_max:
            try:
                return records.unpack_statuses(await self._request(operation, events))
            except _TooMuchData:
                await self._learn_batch_events_max(count)
        # All cuts are made before the first part is sent: refused means nothing was applied.
        statuses: dict[int, int] = {}
        for start, end in chain_cuts([event.flags for event in originals], self.batch_events_max):
            part = events[start * records.RECORD_BYTES : end * records.RECORD_BYTES]
            reply = await self._request(operation, part)
            for index, status in records.unpack_statuses(reply).items():
                statuses[start + index] = status
        return statuses

    async def _lookup(self, operation: int, ids: Sequence[int]) -> bytes:
        size = self.batch_events_max
        parts = [records.pack_ids(ids[start : start + size]) for start in range(0, len(ids), size)]
        try:
            return b"".join([await self._request(operation, part) for part in parts])
        except _TooMuchData:
            await self._learn_batch_events_max(size)
            return await self._lookup(operation, ids)

    async def _learn_batch_events_max(self, refused: int) -> None:
        """Find the server's request size, which it tells the library but the library not us.

        Events of zeros are refused one by one and change nothing; too many are refused as a whole.
        """
        fits, refused = 0, min(refused, self.batch_events_max + 1)
        while refused - fits > 1:
            middle = (fits + refused) // 2
            try:
                await self._request(records.CREATE_TRANSFERS, bytes(middle * records.RECORD_BYTES))
                fits = middle
            except _TooMuchData:
                refused = middle
        self.batch_events_max = max(fits, 1)

    async def _request(self, operation: int, events: bytes) -> bytes:
        future: asyncio.Future[bytes] = self._loop.create_future()
        if self._ended or not self._session.submit(
            operation, events, partial(self._receive_reply, future)
        ):
            raise self._session_lost()
        self._waiting.add(future)
        try:
            return await future
        finally:
            self._waiting.discard(future)

    def _receive_reply(self, future: "asyncio.Future[bytes]", status: int, reply: bytes) -> None:
        if status in SESSION_ENDED:
            self._ended = self._ended or SESSION_ENDED[status]
        if future.done():
            return
        if status == STATUS_OK:
            future.set_result(reply)
        elif status == STATUS_TOO_MUCH_DATA:
            future.set_exception(_TooMuchData())
        elif status in SESSION_ENDED:
            future.set_exception(self._session_lost())
        else:
            future.set_exception(LedgerRejectedBatch(f"the TigerBeetle client says {status}"))

    def _session_lost(self) -> LedgerSessionLost:
        # A submission is refused before the reason arrives when the library has just been evicted.
        reason = self._ended or "the cluster has ended it"
        return LedgerSessionLost(f"the TigerBeetle session is over: {reason}")


async def resolve_addresses(addresses: str) -> str:
    """The IP:port list for the library, which knows no names.

    Raises: ConfigError - malformed; LedgerUnavailable - a name without an address.
    """
    loop = asyncio.get_running_loop()
    resolved = []
    for host, port in parse_addresses(addresses):
        try:
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as problem:
            raise LedgerUnavailable(
                f"TIGERBEETLE_REPLICA_ADDRESSES: {host} has no address ({problem})"
            ) from problem
        family, *_, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
        ip = f"[{address[0]}]" if family == socket.AF_INET6 else address[0]
        resolved.append(f"{ip}:{port}")
    return ",".join(resolved)


def parse_addresses(addresses: str) -> list[tuple[str, int]]:
    """Raises: ConfigError - not a list of 1 to 6 addresses."""
    parsed = []
    for entry in addresses.split(","):
        match = _ADDRESS.fullmatch(entry.strip())
        port = int(match["only_port"] or match["port"] or PORT_DEFAULT) if match else 0
        if match is None or not 0 < port < 1 << 16:
            raise ConfigError(
                f"TIGERBEETLE_REPLICA_ADDRESSES: {entry!r} is no host:port, [v6]:port or port"
            )
        parsed.append((match["v6"] or match["host"] or "127.0.0.1", port))
    if len(parsed) > REPLICAS_MAX:
        raise ConfigError(f"TIGERBEETLE_REPLICA_ADDRESSES: more than {REPLICAS_MAX} replicas")
    return parsed


def chain_cuts(flags: Sequence[int], size_max: int) -> list[tuple[int, int]]:
    """Cut a request into parts of at most ``size_max`` events, never inside a chain.

    Returns: (start, end) of each part. Raises: LedgerRejectedBatch - a chain longer than that.
    """
    cuts = []
    start = chain_start = 0
    for index, flag in enumerate(flags):
        if index - start == size_max:
            if chain_start == start:
                raise LedgerRejectedBatch(f"a chain of more than {size_max} events")
            cuts.append((start, chain_start))
            start = chain_start
        if not flag & LINKED:
            chain_start = index + 1
    return [*cuts, (start, len(flags))]
