"""Limits that hold over all workers, on a real Redis."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

import pytest
from redis.asyncio import Redis

from connector.directory import Asset, Directory, Peer, RateLimit
from connector.quota import PeerQuota, QuotaManager
from tests.support.redis import RedisServer
from tests.support.waiting import wait_until

USD = Asset(1, "operator", "USD", 2, 1)
FLOOD_S = 5.0
PEER = 7


def directory(
    packets: RateLimit | None = None, amount: RateLimit | None = None, peer_id: int = PEER
) -> Directory:
    peer = Peer(peer_id, "operator", USD, "test.bob", packet_limit=packets, amount_limit=amount)
    return Directory(1, {}, [peer], {})


class Node:
    """Some workers on one Redis."""

    def __init__(self, url: str, stack: AsyncExitStack) -> None:
        self._url = url
        self._stack = stack

    async def workers(self, count: int, of: int | None = None) -> list[QuotaManager]:
        managers = []
        for index in range(count):
            client = Redis.from_url(self._url)
            self._stack.push_async_callback(client.aclose)
            manager = QuotaManager(client, f"worker-{index}", of or count)
            manager.start()
            self._stack.push_async_callback(manager.close)
            managers.append(manager)
        return managers


@pytest.fixture
async def node(redis_url: str) -> AsyncIterator[Node]:
    async with AsyncExitStack() as stack:
        yield Node(redis_url, stack)


def packets_of(manager: QuotaManager, peer_id: int = PEER) -> PeerQuota:
    quota = manager.packet_quota(peer_id)
    assert quota is not None
    return quota


async def flood(quotas: list[PeerQuota], amount: int, seconds: float) -> tuple[int, float]:
    """Take from all of them, each as often as possible; what was admitted, and in which time."""
    admitted = 0
    started = time.monotonic()
    while time.monotonic() < started + seconds:
        for quota in quotas:
            refused = 0
            for _ in range(2000):
                if quota.take(amount):
                    admitted += amount
                else:
                    refused += 1
                    if refused == 5:
                        break
        await asyncio.sleep(0.001)
    return admitted, time.monotonic() - started


@pytest.mark.parametrize("flooded", [1, 2], ids=["one worker", "both workers"])
async def test_a_flood_gets_the_limit(node: Node, flooded: int) -> None:
    """Several limits at once, each for its own peer, since the time is the same for all."""
    limits = [
        (RateLimit(20_000, 20_000), 1),
        (RateLimit(20_000, 100), 1),
        (RateLimit(10, 10), 1),
        (RateLimit(10, 50), 1),
        (RateLimit(1_000, 1), 1),
        (RateLimit(1_000_000_000_000, 2_000_000_000_000), 10_000_000_000),
        (RateLimit(2**63, 2**63), 2**56),
    ]
    managers = await node.workers(2)
    peers = [
        Peer(peer_id, "operator", USD, "test.bob", packet_limit=limit)
        for peer_id, (limit, _) in enumerate(limits, 1)
    ]
    for manager in managers:
        manager.apply_directory(Directory(1, {}, peers, {}))
    outcomes = await asyncio.gather(
        *(
            flood([packets_of(manager, peer_id) for manager in managers[:flooded]], amount, FLOOD_S)
            for peer_id, (_, amount) in enumerate(limits, 1)
        )
    )
    for (limit, amount), (admitted, seconds) in zip(limits, outcomes, strict=True):
        allowed = limit.burst + limit.per_second * seconds
        assert abs(admitted - allowed) <= 0.05 * allowed + 2 * amount, (limit, admitted, allowed)


async def test_traffic_below_the_limit_is_never_refused(node: Node) -> None:
    """Packets spread evenly at 80 % of the limit, over both workers, with a small burst."""
    managers = await node.workers(2)
    for manager in managers:
        manager.apply_directory(directory(RateLimit(500, 50)))
    quotas = [packets_of(manager) for manager in managers]
    started = time.monotonic()
    sent = 0
    while (elapsed := time.monotonic() - started) < 2.0:
        while sent < elapsed * 400:
            assert quotas[sent % 2].take(1), f"packet {sent} after {elapsed} s"
            sent += 1
        await asyncio.sleep(0.001)


async def test_the_first_packets_of_an_idle_worker_pass(node: Node) -> None:
    managers = await node.workers(2)
    for manager in managers:
        manager.apply_directory(directory(RateLimit(10, 10), RateLimit(100, 1000)))
    for manager in managers:
        quota = manager.amount_quota(PEER)
        assert quota is not None
        assert quota.take(1000)
        assert packets_of(manager).take(1)


async def test_an_amount_above_the_burst_is_refused(node: Node) -> None:
    [manager] = await node.workers(1)
    manager.apply_directory(directory(RateLimit(1000, 10)))
    quota = packets_of(manager)
    assert not quota.take(11)
    assert quota.take(10)


async def test_a_debt_is_paid_by_all(node: Node, redis_url: str) -> None:
    """Two workers take a large packet each, out of one bucket that holds one."""
    managers = await node.workers(2)
    for manager in managers:
        manager.apply_directory(directory(RateLimit(1, 1000)))
        assert packets_of(manager).take(1000)
    async with Redis.from_url(redis_url) as client:

        async def level() -> float:
            return float(await client.hget(f"quota:{PEER:032x}:packets", "level") or 0)

        async with asyncio.timeout(10):
            while await level() > -990:
                await asyncio.sleep(0.001)
    for manager in managers:
        assert not packets_of(manager).take(1)


async def test_a_new_limit_counts_at_once(node: Node) -> None:
    [manager] = await node.workers(1)
    manager.apply_directory(directory(RateLimit(1, 1)))
    quota = packets_of(manager)
    assert quota.take(1)
    assert not quota.take(1)
    manager.apply_directory(directory(RateLimit(100_000, 100_000)))
    assert packets_of(manager) is quota
    await wait_until(lambda: quota.take(10_000))
    manager.apply_directory(directory(RateLimit(1, 1)))
    await wait_until(lambda: not quota.take(1))
    manager.apply_directory(directory())
    assert manager.packet_quota(PEER) is None


async def test_peers_without_limits_have_no_quota(node: Node) -> None:
    [manager] = await node.workers(1)
    manager.apply_directory(directory(amount=RateLimit(5, 5)))
    assert manager.packet_quota(PEER) is None
    assert manager.amount_quota(PEER) is not None
    assert manager.amount_quota(PEER + 1) is None


async def test_redis_forgets_buckets_and_workers(node: Node, redis_url: str) -> None:
    managers = await node.workers(2)
    for manager in managers:
        manager.apply_directory(directory(RateLimit(1000, 1000)))
        packets_of(manager).take(1)
    async with Redis.from_url(redis_url) as client, asyncio.timeout(10):
        fields = {b"level", b"at", b"worker-0", b"worker-1"}
        key = f"quota:{PEER:032x}:packets"
        while set(await client.hkeys(key)) != fields:
            await asyncio.sleep(0.001)
        assert 0 < await client.ttl(key) <= 12
        while set(await client.hkeys(key)) != fields - {b"worker-1"}:
            packets_of(managers[0]).take(1)
            await asyncio.sleep(0.001)


class FakeNs:
    """Nanoseconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 10**12

    def __call__(self) -> int:
        return self.now


async def silent_take(clock: FakeNs, quota: PeerQuota, seconds: int) -> int:
    """What gets through in so much time, asked often."""
    admitted = 0
    end = clock.now + seconds * 10**9
    while True:
        while quota.take(1):
            admitted += 1
        if clock.now == end:
            return admitted
        clock.now += 1_000_000


async def test_without_redis_each_worker_has_its_share(private_redis: RedisServer) -> None:
    private_redis.stop()
    clock = FakeNs()
    async with Redis.from_url(private_redis.url) as client:
        manager = QuotaManager(client, "worker", 4, clock)
        manager.apply_directory(directory(RateLimit(30, 40)))
        manager.start()
        quota = packets_of(manager)
        assert await silent_take(clock, quota, 10) == 10 + 75
        await wait_until(lambda: manager.redis_away, "the failure is noticed")
        private_redis.start()

        def is_back() -> bool:
            quota.take(1)
            return not manager.redis_away

        await wait_until(is_back, "the shared bucket is in use again")
        await manager.close()


@pytest.mark.parametrize("fault", ["stopped", "paused", "emptied"])
async def test_losing_redis_neither_stops_nor_frees_a_peer(
    private_redis: RedisServer, fault: str
) -> None:
    faults: dict[str, tuple[Callable[[], None], Callable[[], None]]] = {
        "stopped": (private_redis.stop, private_redis.start),
        "paused": (private_redis.pause, private_redis.go_on),
        "emptied": (private_redis.stop, private_redis.start),
    }
    begin, end = faults[fault]
    async with AsyncExitStack() as stack:
        managers = await Node(private_redis.url, stack).workers(2)
        for manager in managers:
            manager.apply_directory(directory(RateLimit(1000, 100)))
        quotas = [packets_of(manager) for manager in managers]
        before, before_s = await flood(quotas, 1, 1.0)
        begin()
        if fault == "emptied":
            end()
        during, during_s = await flood(quotas, 1, 2.0)
        if fault != "emptied":
            end()
        after, after_s = await flood(quotas, 1, 2.0)
    admitted, seconds = before + during + after, before_s + during_s + after_s
    # A bucket that Redis forgot begins full again; what was used while it did not answer may come
    # off a bucket that could not fill meanwhile.
    assert 0.8 * 1000 * seconds < admitted < 1.1 * 1000 * seconds + 3 * 100
