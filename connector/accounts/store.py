"""Assets, peers, routes and tokens in Postgres: SQL and nothing else.

Every read and every write takes the tenant's id, and what belongs to another tenant does not exist.
Values were checked by the caller; what only the database can decide (uniqueness, use) is decided
here. Rows of removed assets and peers stay, because their ledger accounts do.
"""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final
from uuid import UUID

import asyncpg
import msgspec

from connector.accounts.records import AssetChanges, AssetRecord, PeerRecord, TokenRecord
from connector.directory import RateLimit
from connector.errors import Conflict, InvalidInput, NotFound, StoreUnavailable

# What asyncpg raises where the server is away, going away or full.
CONNECTION_ERRORS: Final = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.TooManyConnectionsError,
)

_PEERS: Final = """
SELECT p.id, p.tenant_id, p.static_ilp_address, p.name, p.outgoing_endpoint, p.max_packet_amount,
    p.liquidity_threshold, p.packets_per_second, p.packets_burst, p.amount_per_second,
    p.amount_burst, p.max_in_flight, p.max_in_flight_amount, p.pipeline_depth, p.created_at,
    p.deleted_at, a.id AS asset_id, a.code, a.scale, a.ledger,
    a.liquidity_threshold AS asset_liquidity_threshold, a.withdrawal_threshold,
    a.created_at AS asset_created_at, a.deleted_at AS asset_deleted_at,
    ARRAY(SELECT prefix FROM peer_routes r WHERE r.peer_id = p.id ORDER BY prefix) AS routes,
    (SELECT count(*) FROM incoming_tokens t WHERE t.peer_id = p.id) AS incoming_tokens
FROM peers p JOIN assets a ON a.id = p.asset_id
"""


class AccountStore:
    """The tables behind the directory. Raises StoreUnavailable where Postgres cannot be reached."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    # -- tenants -------------------------------------------------------------------------------

    async def ensure_operator(self, tenant_id: UUID) -> None:
        """Write the operator's tenant at the first start.

        Raises: Conflict - this database belongs to another OPERATOR_TENANT_ID.
        """
        async with self._transaction() as connection:
            await connection.execute(
                "INSERT INTO tenants (id, name, is_operator) VALUES ($1, 'operator', true) "
                "ON CONFLICT DO NOTHING",
                tenant_id,
            )
            found = await connection.fetchval("SELECT id FROM tenants WHERE is_operator")
        if found != tenant_id:
            raise Conflict(
                f"OPERATOR_TENANT_ID is {tenant_id}, but this database belongs to the operator "
                f"{found}"
            )

    # -- assets --------------------------------------------------------------------------------

    async def next_ledger(self) -> int:
        """A ledger number that no asset ever had."""
        try:
            async with self._connection() as connection:
                return int(await connection.fetchval("SELECT nextval('asset_ledger_seq')"))
        except asyncpg.SequenceGeneratorLimitExceededError:
            raise Conflict("all 32767 ledger numbers are used: no further asset fits") from None

    async def insert_asset(self, asset: AssetRecord) -> AssetRecord:
        """Write an asset whose ledger accounts exist."""
        try:
            async with self._connection() as connection:
                row = await connection.fetchrow(
                    "INSERT INTO assets (id, tenant_id, code, scale, ledger, liquidity_threshold, "
                    "withdrawal_threshold) VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING *",
                    asset.id,
                    asset.tenant_id,
                    asset.code,
                    asset.scale,
                    asset.ledger,
                    asset.liquidity_threshold,
                    asset.withdrawal_threshold,
                )
        except asyncpg.UniqueViolationError:
            raise Conflict(f"asset {asset.name} exists already") from None
        except asyncpg.ForeignKeyViolationError:
            raise NotFound(f"there is no tenant {asset.tenant_id}") from None
        return _asset(row)

    async def find_asset(self, tenant_id: UUID, code: str, scale: int) -> AssetRecord | None:
        """The asset with this code and scale, also a removed one."""
        async with self._connection() as connection:
            row = await connection.fetchrow(
                "SELECT * FROM assets WHERE tenant_id = $1 AND code = $2 AND scale = $3",
                tenant_id,
                code,
                scale,
            )
        return None if row is None else _asset(row)

    async def load_asset(self, tenant_id: UUID, asset_id: UUID) -> AssetRecord:
        """One asset, also a removed one. Raises NotFound."""
        async with self._connection() as connection:
            return _asset(await _lock_asset(connection, tenant_id, asset_id, lock=False))

    async def list_assets(self, tenant_id: UUID) -> list[AssetRecord]:
        """All assets, removed ones too, by code and scale."""
        async with self._connection() as connection:
            rows = await connection.fetch(
                "SELECT * FROM assets WHERE tenant_id = $1 ORDER BY code, scale", tenant_id
            )
        return [_asset(row) for row in rows]

    async def update_asset(
        self, tenant_id: UUID, asset_id: UUID, changes: AssetChanges, *, restore: bool = False
    ) -> AssetRecord:
        """Change an asset; ``restore`` brings a removed one back. Raises NotFound."""
        async with self._transaction() as connection:
            asset = _asset(await _lock_asset(connection, tenant_id, asset_id))
            if asset.deleted_at is not None and not restore:
                raise NotFound(f"asset {asset.name} was removed")
            asset = msgspec.structs.replace(asset, **set_fields(changes))
            row = await connection.fetchrow(
                "UPDATE assets SET liquidity_threshold = $3, withdrawal_threshold = $4, "
                "deleted_at = NULL WHERE tenant_id = $1 AND id = $2 RETURNING *",
                tenant_id,
                asset_id,
                asset.liquidity_threshold,
                asset.withdrawal_threshold,
            )
        return _asset(row)

    async def remove_asset(self, tenant_id: UUID, asset_id: UUID) -> None:
        """Take an asset out of use. Raises: NotFound; Conflict - a peer uses it."""
        async with self._transaction() as connection:
            # This lock waits for peers being added, which lock the asset too.
            asset = _asset(await _lock_asset(connection, tenant_id, asset_id))
            peers = await connection.fetchval(
                "SELECT count(*) FROM peers "
                "WHERE tenant_id = $1 AND asset_id = $2 AND deleted_at IS NULL",
                tenant_id,
                asset_id,
            )
            if peers:
                raise Conflict(f"asset {asset.name} is used by {peers} peers: remove them first")
            await connection.execute(
                "UPDATE assets SET deleted_at = coalesce(deleted_at, now()) "
                "WHERE tenant_id = $1 AND id = $2",
                tenant_id,
                asset_id,
            )

    # -- peers ---------------------------------------------------------------------------------

    async def insert_peer(
        self, peer: PeerRecord, outgoing_token: bytes | None, tokens: dict[UUID, bytes]
    ) -> PeerRecord:
        """Write a peer whose ledger account exists, with its routes and tokens, all or nothing.

        outgoing_token - encrypted; tokens - SHA-256 digests of incoming tokens by their ids.
        """
        with _peer_conflicts(peer):
            async with self._transaction() as connection:
                asset = await connection.fetchrow(
                    "SELECT deleted_at FROM assets WHERE tenant_id = $1 AND id = $2 FOR SHARE",
                    peer.tenant_id,
                    peer.asset.id,
                )
                if asset is None or asset["deleted_at"] is not None:
                    raise NotFound(f"there is no asset {peer.asset.id}")
                await connection.execute(
                    "INSERT INTO peers (tenant_id, id, asset_id, outgoing_token, name, "
                    "static_ilp_address, outgoing_endpoint, max_packet_amount, "
                    "liquidity_threshold, packets_per_second, packets_burst, amount_per_second, "
                    "amount_burst, max_in_flight, max_in_flight_amount, pipeline_depth) VALUES "
                    "($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)",
                    peer.tenant_id,
                    peer.id,
                    peer.asset.id,
                    outgoing_token,
                    *_peer_columns(peer),
                )
                await _write_routes(connection, peer.id, peer.routes)
                for token_id, digest in tokens.items():
                    await _insert_token(connection, peer.id, token_id, digest)
                return await _load_peer(connection, peer.tenant_id, peer.id)

    async def find_peer(self, tenant_id: UUID, asset_id: UUID, address: str) -> PeerRecord | None:
        """The peer in use with this asset and static address."""
        async with self._connection() as connection:
            row = await connection.fetchrow(
                _PEERS + "WHERE p.tenant_id = $1 AND p.asset_id = $2 "
                "AND p.static_ilp_address = $3 AND p.deleted_at IS NULL",
                tenant_id,
                asset_id,
                address,
            )
        return None if row is None else _peer(row)

    async def load_peer(self, tenant_id: UUID, peer_id: UUID) -> PeerRecord:
        """One peer, also a removed one. Raises NotFound."""
        async with self._connection() as connection:
            return await _load_peer(connection, tenant_id, peer_id)

    async def list_peers(self, tenant_id: UUID) -> list[PeerRecord]:
        """All peers, removed ones too, oldest first."""
        async with self._connection() as connection:
            rows = await connection.fetch(
                _PEERS + "WHERE p.tenant_id = $1 ORDER BY p.created_at, p.id", tenant_id
            )
        return [_peer(row) for row in rows]

    async def update_peer(
        self,
        tenant_id: UUID,
        peer_id: UUID,
        change: Callable[[PeerRecord, bytes | None], tuple[PeerRecord, bytes | None]],
    ) -> PeerRecord:
        """Change a peer under a lock.

        change - from peer and encrypted outgoing token to both as they shall be.
        """
        async with self._transaction() as connection:
            token = await _lock_peer(connection, tenant_id, peer_id)
            old = await _load_peer(connection, tenant_id, peer_id)
            peer, token = change(old, token)
            with _peer_conflicts(peer):
                await connection.execute(
                    "UPDATE peers SET outgoing_token = $3, name = $4, static_ilp_address = $5, "
                    "outgoing_endpoint = $6, max_packet_amount = $7, liquidity_threshold = $8, "
                    "packets_per_second = $9, packets_burst = $10, amount_per_second = $11, "
                    "amount_burst = $12, max_in_flight = $13, max_in_flight_amount = $14, "
                    "pipeline_depth = $15 WHERE tenant_id = $1 AND id = $2",
                    tenant_id,
                    peer_id,
                    token,
                    *_peer_columns(peer),
                )
            if peer.routes != old.routes:
                await _write_routes(connection, peer_id, peer.routes)
            return await _load_peer(connection, tenant_id, peer_id)

    async def remove_peer(self, tenant_id: UUID, peer_id: UUID) -> None:
        """Take a peer out of use, and its routes and tokens away. Raises NotFound."""
        async with self._transaction() as connection:
            await _lock_peer(connection, tenant_id, peer_id)
            await connection.execute(
                "UPDATE peers SET deleted_at = now(), outgoing_endpoint = NULL, "
                "outgoing_token = NULL WHERE tenant_id = $1 AND id = $2",
                tenant_id,
                peer_id,
            )
            await connection.execute("DELETE FROM peer_routes WHERE peer_id = $1", peer_id)
            await connection.execute("DELETE FROM incoming_tokens WHERE peer_id = $1", peer_id)

    # -- tokens --------------------------------------------------------------------------------

    async def insert_token(
        self, tenant_id: UUID, peer_id: UUID, token_id: UUID, digest: bytes, count_max: int
    ) -> None:
        """Give a peer one more token. Raises: NotFound; Conflict - in use, or too many."""
        async with self._transaction() as connection:
            await _lock_peer(connection, tenant_id, peer_id)
            count = await connection.fetchval(
                "SELECT count(*) FROM incoming_tokens WHERE peer_id = $1", peer_id
            )
            if count >= count_max:
                raise Conflict(f"a peer has at most {count_max} incoming tokens: remove one first")
            with _token_conflicts():
                await _insert_token(connection, peer_id, token_id, digest)

    async def list_tokens(self, tenant_id: UUID, peer_id: UUID) -> list[TokenRecord]:
        async with self._connection() as connection:
            rows = await connection.fetch(
                "SELECT t.id, t.peer_id, t.created_at FROM incoming_tokens t "
                "JOIN peers p ON p.id = t.peer_id WHERE p.tenant_id = $1 AND p.id = $2 "
                "ORDER BY t.created_at, t.id",
                tenant_id,
                peer_id,
            )
        return [TokenRecord(**dict(row)) for row in rows]

    async def remove_token(self, tenant_id: UUID, token_id: UUID) -> None:
        """Raises NotFound."""
        async with self._connection() as connection:
            done = await connection.execute(
                "DELETE FROM incoming_tokens t USING peers p "
                "WHERE p.id = t.peer_id AND p.tenant_id = $1 AND t.id = $2",
                tenant_id,
                token_id,
            )
        if done == "DELETE 0":
            raise NotFound(f"there is no incoming token {token_id}")

    # -- claims --------------------------------------------------------------------------------

    async def record_claim(
        self,
        tenant_id: UUID,
        peer_id: UUID,
        base: int,
        reason: str,
        amount: int,
        fulfillment: bytes,
    ) -> None:
        """Write down what is owed and could not be booked; once, however often it is said.

        amount - in the peer's asset; reason - as listed in schema.sql. Raises NotFound.
        """
        async with self._connection() as connection:
            peer = await _load_peer(connection, tenant_id, peer_id)
            await connection.execute(
                "INSERT INTO ledger_claims (peer_id, base, reason, amount, asset_id, fulfillment) "
                "VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING",
                peer_id,
                UUID(int=base),
                reason,
                amount,
                peer.asset.id,
                fulfillment,
            )

    # -- connections ---------------------------------------------------------------------------

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Any]:
        try:
            async with self._pool.acquire() as connection:
                yield connection
        except CONNECTION_ERRORS as error:
            raise StoreUnavailable(f"Postgres cannot be reached: {error}") from error
        except asyncpg.CheckViolationError as error:
            # The last net: what the callers' own checks should have said better.
            raise InvalidInput(f"a value breaks the rule {error.constraint_name}") from None

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[Any]:
        async with self._connection() as connection, connection.transaction():
            yield connection


async def _lock_asset(
    connection: Any, tenant_id: UUID, asset_id: UUID, *, lock: bool = True
) -> asyncpg.Record:
    query = "SELECT * FROM assets WHERE tenant_id = $1 AND id = $2"
    row = await connection.fetchrow(f"{query} FOR UPDATE" if lock else query, tenant_id, asset_id)
    if row is None:
        raise NotFound(f"there is no asset {asset_id}")
    return row


async def _lock_peer(connection: Any, tenant_id: UUID, peer_id: UUID) -> bytes | None:
    """Lock a peer in use; returns its encrypted outgoing token."""
    row = await connection.fetchrow(
        "SELECT outgoing_token FROM peers "
        "WHERE tenant_id = $1 AND id = $2 AND deleted_at IS NULL FOR UPDATE",
        tenant_id,
        peer_id,
    )
    if row is None:
        raise NotFound(f"there is no peer {peer_id}")
    token: bytes | None = row["outgoing_token"]
    return token


async def _load_peer(connection: Any, tenant_id: UUID, peer_id: UUID) -> PeerRecord:
    row = await connection.fetchrow(
        _PEERS + "WHERE p.tenant_id = $1 AND p.id = $2", tenant_id, peer_id
    )
    if row is None:
        raise NotFound(f"there is no peer {peer_id}")
    return _peer(row)


async def _write_routes(connection: Any, peer_id: UUID, routes: tuple[str, ...]) -> None:
    await connection.execute("DELETE FROM peer_routes WHERE peer_id = $1", peer_id)
    await connection.execute(
        "INSERT INTO peer_routes (peer_id, prefix) SELECT $1, unnest($2::text[])",
        peer_id,
        sorted(set(routes)),
    )


async def _insert_token(connection: Any, peer_id: UUID, token_id: UUID, digest: bytes) -> None:
    await connection.execute(
        "INSERT INTO incoming_tokens (id, peer_id, digest) VALUES ($1, $2, $3)",
        token_id,
        peer_id,
        digest,
    )


@contextmanager
def _peer_conflicts(peer: PeerRecord) -> Iterator[None]:
    with _token_conflicts():
        try:
            yield
        except asyncpg.UniqueViolationError as error:
            if error.constraint_name not in ("peers_address", "peers_pkey"):
                raise
            raise Conflict(
                f"there is a peer {peer.static_ilp_address} with asset {peer.asset.name} already"
            ) from None


@contextmanager
def _token_conflicts() -> Iterator[None]:
    try:
        yield
    except asyncpg.UniqueViolationError as error:
        if not str(error.constraint_name).startswith("incoming_tokens"):
            raise
        # Whose it is must not be said: it may be another tenant's.
        raise Conflict("this incoming token is in use: choose another one") from None


def set_fields(changes: msgspec.Struct) -> dict[str, Any]:
    """What a record of changes sets."""
    return {
        name: value
        for name, value in msgspec.structs.asdict(changes).items()
        if value is not msgspec.UNSET
    }


def _peer_columns(peer: PeerRecord) -> tuple[Any, ...]:
    packets, amount = peer.packet_limit, peer.amount_limit
    return (
        peer.name,
        peer.static_ilp_address,
        peer.outgoing_endpoint,
        peer.max_packet_amount,
        peer.liquidity_threshold,
        packets and packets.per_second,
        packets and packets.burst,
        amount and amount.per_second,
        amount and amount.burst,
        peer.max_in_flight,
        peer.max_in_flight_amount,
        peer.pipeline_depth,
    )


def _asset(row: Any) -> AssetRecord:
    return AssetRecord(
        id=row["id"],
        tenant_id=row["tenant_id"],
        code=row["code"],
        scale=row["scale"],
        ledger=row["ledger"],
        liquidity_threshold=_integer(row["liquidity_threshold"]),
        withdrawal_threshold=_integer(row["withdrawal_threshold"]),
        created_at=row["created_at"],
        deleted_at=row["deleted_at"],
    )


def _peer(row: Any) -> PeerRecord:
    return PeerRecord(
        id=row["id"],
        tenant_id=row["tenant_id"],
        asset=AssetRecord(
            id=row["asset_id"],
            tenant_id=row["tenant_id"],
            code=row["code"],
            scale=row["scale"],
            ledger=row["ledger"],
            liquidity_threshold=_integer(row["asset_liquidity_threshold"]),
            withdrawal_threshold=_integer(row["withdrawal_threshold"]),
            created_at=row["asset_created_at"],
            deleted_at=row["asset_deleted_at"],
        ),
        static_ilp_address=row["static_ilp_address"],
        name=row["name"],
        outgoing_endpoint=row["outgoing_endpoint"],
        routes=tuple(row["routes"]),
        max_packet_amount=int(row["max_packet_amount"]),
        liquidity_threshold=_integer(row["liquidity_threshold"]),
        packet_limit=_limit(row["packets_per_second"], row["packets_burst"]),
        amount_limit=_limit(row["amount_per_second"], row["amount_burst"]),
        max_in_flight=row["max_in_flight"],
        max_in_flight_amount=int(row["max_in_flight_amount"]),
        pipeline_depth=row["pipeline_depth"],
        incoming_tokens=row["incoming_tokens"],
        created_at=row["created_at"],
        deleted_at=row["deleted_at"],
    )


def _integer(value: Any) -> int | None:
    return None if value is None else int(value)


def _limit(per_second: Any, burst: Any) -> RateLimit | None:
    return None if per_second is None else RateLimit(int(per_second), int(burst))
