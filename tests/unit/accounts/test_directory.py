"""Loading the directory, and following changes, on a real Postgres that comes and goes."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from uuid import UUID, uuid4

import asyncpg
import pytest

from connector.accounts.cipher import Cipher
from connector.accounts.directory import DirectoryWatcher, load_directory
from connector.accounts.records import AssetChanges, PeerChanges
from connector.accounts.service import AccountService, digest_token
from connector.accounts.store import AccountStore
from connector.directory import Directory, RateLimit
from connector.errors import ConfigError, StoreUnavailable
from connector.ledger.model import ModelLedger
from connector.money import U64_MAX
from tests.support.postgres import EmbeddedPostgres
from tests.support.waiting import wait_until

TOKEN = "bob-comes-in-with-this"
ADDRESS = "test.node"


async def load(pool: asyncpg.Pool, cipher: Cipher) -> Directory:
    async with pool.acquire() as connection:
        return await load_directory(connection, ADDRESS, cipher)


async def test_everything_is_loaded(
    service: AccountService, pool: asyncpg.Pool, cipher: Cipher, tenant: UUID
) -> None:
    asset = await service.create_asset(tenant, "USD", 2, liquidity_threshold=U64_MAX)
    settings = PeerChanges(
        static_ilp_address="test.bob",
        name="bob",
        outgoing_endpoint="http://bob",
        outgoing_token="open-sesame",
        routes=("test.far", ""),
        max_packet_amount=U64_MAX,
        liquidity_threshold=5,
        packet_limit=RateLimit(1, 2),
        amount_limit=RateLimit(U64_MAX, U64_MAX),
        max_in_flight=3,
        max_in_flight_amount=U64_MAX,
        pipeline_depth=4,
    )
    record = await service.create_peer(tenant, asset.id, settings, [TOKEN])
    directory = await load(pool, cipher)
    assert directory.addresses == {str(tenant): ADDRESS}
    [peer] = directory.peers.values()
    assert directory.assets == {asset.id.int: asset.to_asset()}
    assert peer.id == record.id.int
    assert peer.asset == asset.to_asset()
    assert (peer.endpoint, peer.outgoing_token) == ("http://bob", "open-sesame")
    for field in (
        *("static_ilp_address", "name", "max_packet_amount", "liquidity_threshold"),
        *("packet_limit", "amount_limit", "max_in_flight", "max_in_flight_amount"),
        "pipeline_depth",
    ):
        assert getattr(peer, field) == getattr(settings, field)
    assert directory.by_token == {digest_token(TOKEN): peer}
    assert set(directory.tables[str(tenant)].routes) == {"test.bob", "test.far", ""}
    assert "open-sesame" not in repr(peer)


async def test_what_was_removed_is_gone(
    service: AccountService, pool: asyncpg.Pool, cipher: Cipher, tenant: UUID
) -> None:
    asset = await service.create_asset(tenant, "USD", 2)
    settings = PeerChanges(static_ilp_address="test.bob")
    peer = await service.create_peer(tenant, asset.id, settings, [TOKEN])
    before = await load(pool, cipher)
    await service.remove_peer(tenant, peer.id)
    await service.remove_asset(tenant, asset.id)
    after = await load(pool, cipher)
    assert not (after.peers or after.by_token or after.assets or after.tables)
    assert after.version > before.version


async def test_each_tenant_has_its_address(
    service: AccountService,
    pool: asyncpg.Pool,
    cipher: Cipher,
    tenant: UUID,
    other_tenant: UUID,
) -> None:
    own = uuid4()
    await pool.execute("INSERT INTO tenants (id, ilp_address) VALUES ($1, 'g.own')", own)
    for owner in (tenant, other_tenant):
        asset = await service.create_asset(owner, "USD", 2)
        await service.create_peer(owner, asset.id, PeerChanges(static_ilp_address="test.bob"))
    directory = await load(pool, cipher)
    assert directory.addresses == {
        str(tenant): ADDRESS,
        str(other_tenant): f"{ADDRESS}.{other_tenant}",
        str(own): "g.own",
    }
    hops = {owner: table.hops("test.bob.x") for owner, table in directory.tables.items()}
    assert len(hops) == 2
    assert len({hop for found in hops.values() for hop in found}) == 2
    await pool.execute("UPDATE tenants SET deleted_at = now() WHERE id = $1", other_tenant)
    directory = await load(pool, cipher)
    assert len(directory.peers) == 1


async def test_another_secret_is_noticed(
    service: AccountService, pool: asyncpg.Pool, tenant: UUID
) -> None:
    asset = await service.create_asset(tenant, "USD", 2)
    settings = PeerChanges(
        static_ilp_address="test.bob", outgoing_endpoint="http://bob", outgoing_token="x"
    )
    await service.create_peer(tenant, asset.id, settings)
    with pytest.raises(ConfigError, match="DB_ENCRYPTION_SECRET"):
        await load(pool, Cipher(bytes(32)))


async def test_a_token_of_another_peer_does_not_decrypt(cipher: Cipher) -> None:
    owner = uuid4()
    data = cipher.encrypt(owner, "secret")
    assert cipher.decrypt(owner, data) == "secret"
    assert cipher.encrypt(owner, "secret") != data
    with pytest.raises(ConfigError):
        cipher.decrypt(uuid4(), data)
    with pytest.raises(ConfigError):
        cipher.decrypt(owner, data[:-1])


@pytest.mark.parametrize("text", ["", "AAAA", "not base64!", "A" * 43])
def test_a_malformed_secret_is_named(text: str) -> None:
    with pytest.raises(ConfigError, match="DB_ENCRYPTION_SECRET"):
        Cipher.from_base64(text)


async def test_one_snapshot_never_mixes_two_moments(
    service: AccountService, pool: asyncpg.Pool, cipher: Cipher, tenant: UUID
) -> None:
    """Token and peer come in one transaction; a reader sees both or neither."""
    asset = await service.create_asset(tenant, "USD", 2)
    loads: list[Directory] = []

    async def keep_loading() -> None:
        while True:
            loads.append(await load(pool, cipher))

    task = asyncio.create_task(keep_loading())
    for number in range(20):
        settings = PeerChanges(static_ilp_address=f"test.p{number}")
        await service.create_peer(tenant, asset.id, settings, [f"token-of-peer-number-{number}"])
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert len(loads) > 5
    for directory in loads:
        assert len(directory.by_token) == len(directory.peers)


class Watched:
    """A watcher and every directory that it handed out."""

    def __init__(self, url: str, cipher: Cipher) -> None:
        self.seen: list[Directory] = []
        self.watcher = DirectoryWatcher(url, ADDRESS, cipher, self.seen.append)

    @property
    def names(self) -> set[str]:
        return {peer.name for peer in self.seen[-1].peers.values()}

    async def pid(self, pool: asyncpg.Pool) -> int | None:
        found = await pool.fetchval(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() "
            "AND application_name = 'jirani directory'"
        )
        return None if found is None else int(found)


@pytest.fixture
async def watched(module_database_url: str, tenant: UUID, cipher: Cipher) -> AsyncIterator[Watched]:
    watched = Watched(module_database_url, cipher)
    await watched.watcher.start()
    yield watched
    await watched.watcher.close()


async def add(service: AccountService, tenant: UUID, name: str) -> UUID:
    asset = await service.store.find_asset(tenant, "USD", 2)
    asset = asset or await service.create_asset(tenant, "USD", 2)
    settings = PeerChanges(static_ilp_address=f"test.{name}", name=name)
    return (await service.create_peer(tenant, asset.id, settings)).id


async def test_changes_are_seen_within_a_second(
    service: AccountService, tenant: UUID, watched: Watched
) -> None:
    peer_id = await add(service, tenant, "bob")
    changed = time.monotonic()
    await wait_until(lambda: watched.names == {"bob"})
    assert time.monotonic() - changed < 1
    await service.add_routes(tenant, peer_id, ["test.far"])
    await wait_until(lambda: "test.far" in watched.seen[-1].tables[str(tenant)].routes)
    await service.add_token(tenant, peer_id)
    await wait_until(lambda: watched.seen[-1].by_token)
    asset = await service.store.find_asset(tenant, "USD", 2)
    assert asset is not None
    await service.update_asset(tenant, asset.id, AssetChanges(liquidity_threshold=3))
    await wait_until(
        lambda: {a.liquidity_threshold for a in watched.seen[-1].assets.values()} == {3}
    )
    await service.remove_peer(tenant, peer_id)
    await wait_until(lambda: watched.names == set())


async def test_a_burst_of_changes_makes_few_directories(
    service: AccountService, tenant: UUID, watched: Watched
) -> None:
    await add(service, tenant, "first")
    before = len(watched.seen)
    for number in range(100):
        await add(service, tenant, f"peer{number}")
    await wait_until(lambda: len(watched.names) == 101)
    assert len(watched.seen) - before < 50
    versions = [directory.version for directory in watched.seen]
    assert versions == sorted(set(versions))


async def test_a_lost_connection_is_replaced_and_what_it_missed_is_read(
    service: AccountService, pool: asyncpg.Pool, tenant: UUID, watched: Watched
) -> None:
    await add(service, tenant, "bob")
    await wait_until(lambda: watched.names == {"bob"})
    for round_number in range(3):
        pid = await watched.pid(pool)
        assert pid is not None
        async with pool.acquire() as connection, connection.transaction():
            await connection.execute("SELECT pg_terminate_backend($1)", pid)
            await connection.execute("UPDATE peers SET name = $1", f"bob{round_number}")
        expected = {f"bob{round_number}"}
        await wait_until(lambda expected=expected: watched.names == expected)  # type: ignore[misc]
        assert await watched.pid(pool) != pid


async def test_a_change_without_its_notification_is_polled(
    service: AccountService, pool: asyncpg.Pool, tenant: UUID, watched: Watched
) -> None:
    await add(service, tenant, "bob")
    await wait_until(lambda: watched.names == {"bob"})
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("ALTER TABLE peers DISABLE TRIGGER directory_changed")
        await connection.execute("UPDATE peers SET name = 'robert'")
        await connection.execute("ALTER TABLE peers ENABLE TRIGGER directory_changed")
        await connection.execute("UPDATE directory_version SET version = version + 1")
    await wait_until(lambda: watched.names == {"robert"})


async def test_a_directory_that_cannot_be_loaded_changes_nothing(
    service: AccountService, pool: asyncpg.Pool, tenant: UUID, watched: Watched
) -> None:
    await add(service, tenant, "bob")
    await wait_until(lambda: watched.names == {"bob"})
    await pool.execute(
        "UPDATE peers SET name = 'broken', outgoing_endpoint = 'http://x', outgoing_token = $1",
        bytes(40),
    )
    await wait_until(lambda: watched.watcher.failures)
    assert watched.names == {"bob"}
    await pool.execute("UPDATE peers SET outgoing_endpoint = NULL, outgoing_token = NULL")
    await wait_until(lambda: watched.names == {"broken"})


async def test_whoever_takes_the_directory_may_fail(
    service: AccountService, tenant: UUID, module_database_url: str, cipher: Cipher
) -> None:
    seen: list[Directory] = []

    def take(directory: Directory) -> None:
        seen.append(directory)
        if len(seen) == 2:
            raise KeyError("a fault of ours")

    watcher = DirectoryWatcher(module_database_url, ADDRESS, cipher, take)
    await watcher.start()
    await add(service, tenant, "bob")
    await wait_until(lambda: watcher.failures == 1)
    await add(service, tenant, "carol")
    await wait_until(lambda: len(seen[-1].peers) == 2)
    await watcher.close()


async def test_without_postgres_the_last_directory_stays(
    private_postgres: EmbeddedPostgres, cipher: Cipher
) -> None:
    url = private_postgres.create_database()
    tenant = uuid4()
    async with AsyncExitStack() as stack:
        pool = await asyncpg.create_pool(url, min_size=0, max_size=2)
        stack.callback(pool.terminate)
        service = AccountService(AccountStore(pool), ModelLedger(), cipher)
        await service.store.ensure_operator(tenant)
        await add(service, tenant, "bob")
        watched = Watched(url, cipher)
        await watched.watcher.start()
        stack.push_async_callback(watched.watcher.close)
        private_postgres.stop()
        await wait_until(lambda: watched.watcher.failures > 2)
        assert watched.names == {"bob"}
        with pytest.raises(StoreUnavailable):
            await service.store.list_peers(tenant)
        private_postgres.start()
        await add(service, tenant, "carol")
        await wait_until(lambda: watched.names == {"bob", "carol"})


async def test_starting_without_postgres_says_so(cipher: Cipher) -> None:
    watched = Watched("postgresql://127.0.0.1:1/none", cipher)
    with pytest.raises(StoreUnavailable, match="Postgres cannot be reached"):
        await watched.watcher.start()
