"""From the tables to the directory, and keeping each worker's directory up to date."""

import asyncio
import random
from collections.abc import Callable
from typing import Any, Final

import asyncpg
import structlog

from connector.accounts.cipher import Cipher
from connector.accounts.store import CONNECTION_ERRORS
from connector.directory import Asset, Directory, Peer, RateLimit
from connector.errors import ConfigError, StoreUnavailable

log = structlog.get_logger(__name__)

CHANNEL: Final = "directory"
POLL_S: Final = 1.0
# A script that adds a hundred peers makes a few directories, not a hundred.
COALESCE_S: Final = 0.05
ANSWER_S_MAX: Final = 2.0
LOAD_S_MAX: Final = 30.0
RECONNECT_S_MIN: Final = 0.1
RECONNECT_S_MAX: Final = 2.0


async def load_directory(
    connection: asyncpg.Connection, operator_address: str, cipher: Cipher
) -> Directory:
    """Read everything about peers, as it was at one moment.

    operator_address - ILP_ADDRESS; tenants without an address of their own are below it.
    Raises: ConfigError - an outgoing token cannot be decrypted.
    """
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        version = await connection.fetchval("SELECT version FROM directory_version")
        tenants = await connection.fetch(
            "SELECT id, is_operator, ilp_address FROM tenants WHERE deleted_at IS NULL"
        )
        asset_rows = await connection.fetch(
            "SELECT a.* FROM assets a JOIN tenants t ON t.id = a.tenant_id "
            "WHERE a.deleted_at IS NULL AND t.deleted_at IS NULL"
        )
        peer_rows = await connection.fetch(
            "SELECT *, ARRAY(SELECT prefix FROM peer_routes WHERE peer_id = peers.id "
            "ORDER BY prefix) AS routes FROM peers WHERE deleted_at IS NULL"
        )
        token_rows = await connection.fetch("SELECT digest, peer_id FROM incoming_tokens")
    assets = {row["id"]: _asset(row) for row in asset_rows}
    return Directory(
        version,
        {str(row["id"]): _tenant_address(row, operator_address) for row in tenants},
        [
            _peer(row, assets[row["asset_id"]], cipher)
            for row in peer_rows
            if row["asset_id"] in assets
        ],
        {row["digest"]: row["peer_id"].int for row in token_rows},
        assets.values(),
    )


def _tenant_address(row: Any, operator_address: str) -> str:
    if row["ilp_address"] is not None:
        return str(row["ilp_address"])
    return operator_address if row["is_operator"] else f"{operator_address}.{row['id']}"


def _asset(row: Any) -> Asset:
    threshold = row["liquidity_threshold"]
    return Asset(
        row["id"].int,
        str(row["tenant_id"]),
        row["code"],
        row["scale"],
        row["ledger"],
        None if threshold is None else int(threshold),
    )


def _peer(row: Any, asset: Asset, cipher: Cipher) -> Peer:
    peer_id = row["id"]
    token = row["outgoing_token"]
    threshold = row["liquidity_threshold"]
    return Peer(
        id=peer_id.int,
        tenant_id=asset.tenant_id,
        asset=asset,
        static_ilp_address=row["static_ilp_address"],
        name=row["name"],
        routes=tuple(row["routes"]),
        endpoint=row["outgoing_endpoint"],
        outgoing_token="" if token is None else cipher.decrypt(peer_id, token),
        max_packet_amount=int(row["max_packet_amount"]),
        packet_limit=_limit(row["packets_per_second"], row["packets_burst"]),
        amount_limit=_limit(row["amount_per_second"], row["amount_burst"]),
        max_in_flight=row["max_in_flight"],
        max_in_flight_amount=int(row["max_in_flight_amount"]),
        pipeline_depth=row["pipeline_depth"],
        liquidity_threshold=None if threshold is None else int(threshold),
    )


def _limit(per_second: Any, burst: Any) -> RateLimit | None:
    return None if per_second is None else RateLimit(int(per_second), int(burst))


class DirectoryWatcher:
    """One worker's directory: loaded at the start, and again within a second of each change.

    It has a connection of its own, on which it listens. What a notification could miss (a lost
    connection, a restored database) the version row tells, which is read every second. While
    Postgres is away the last directory stays in force.
    """

    def __init__(
        self,
        database_url: str,
        operator_address: str,
        cipher: Cipher,
        on_change: Callable[[Directory], None],
    ) -> None:
        self._database_url = database_url
        self._operator_address = operator_address
        self._cipher = cipher
        self._on_change = on_change
        self._notified = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._version: int | None = None
        self.reloads = 0
        self.failures = 0

    async def start(self) -> None:
        """Load the directory once, then keep it up to date in the background.

        Raises: StoreUnavailable, ConfigError - there is no directory to begin with.
        """
        try:
            connection = await self._connect()
        except CONNECTION_ERRORS as error:
            raise StoreUnavailable(f"Postgres cannot be reached: {error}") from error
        try:
            await self._load(connection)
        except BaseException:
            connection.terminate()
            raise
        self._task = asyncio.create_task(self._run(connection), name="directory")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    def refresh(self) -> None:
        """Look for a change now: somebody met an account that the directory does not explain."""
        self._notified.set()

    async def _run(self, connection: asyncpg.Connection) -> None:
        while True:
            try:
                await self._follow(connection)
            except (*CONNECTION_ERRORS, asyncpg.PostgresError) as error:
                self.failures += 1
                log.warning("directory_connection_lost", error=str(error))
            finally:
                connection.terminate()
            connection = await self._reconnect()

    async def _follow(self, connection: asyncpg.Connection) -> None:
        """Load whenever the version has moved, until the connection fails."""
        while True:
            try:
                async with asyncio.timeout(POLL_S):
                    await self._notified.wait()
                await asyncio.sleep(COALESCE_S)
            except TimeoutError:
                pass
            self._notified.clear()
            version = await connection.fetchval(
                "SELECT version FROM directory_version", timeout=ANSWER_S_MAX
            )
            if version != self._version:
                await self._reload(connection)

    async def _reload(self, connection: asyncpg.Connection) -> None:
        try:
            await self._load(connection)
        except ConfigError as error:
            # The next change or the next second tries again; until then the last one serves.
            self.failures += 1
            log.error("directory_not_loaded", error=str(error))  # noqa: TRY400 - the text says all
        except CONNECTION_ERRORS:
            raise
        except Exception:
            # A fault of whoever takes the directory must not end the watching.
            self.failures += 1
            log.exception("directory_not_applied")

    async def _load(self, connection: asyncpg.Connection) -> None:
        async with asyncio.timeout(LOAD_S_MAX):
            directory = await load_directory(connection, self._operator_address, self._cipher)
        self._version = directory.version
        self.reloads += 1
        self._on_change(directory)

    async def _connect(self) -> asyncpg.Connection:
        connection = await asyncpg.connect(
            self._database_url,
            timeout=ANSWER_S_MAX,
            server_settings={"application_name": "jirani directory"},
        )
        try:
            # Listening comes before loading, so that no change falls between the two.
            await connection.add_listener(CHANNEL, self._receive_notification)
        except BaseException:
            connection.terminate()
            raise
        connection.add_termination_listener(lambda _: self._notified.set())
        return connection

    async def _reconnect(self) -> asyncpg.Connection:
        """Connect again and load, whatever the version says: the database may be another one."""
        delay_s = RECONNECT_S_MIN
        while True:
            try:
                connection = await self._connect()
            except (*CONNECTION_ERRORS, asyncpg.PostgresError):
                self.failures += 1
                await asyncio.sleep(delay_s * random.uniform(0.5, 1.0))
                delay_s = min(2 * delay_s, RECONNECT_S_MAX)
            else:
                self._version = None
                self._notified.set()
                return connection

    def _receive_notification(self, *_: object) -> None:
        self._notified.set()
