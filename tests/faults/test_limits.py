"""Limits of a peer that hold over two workers, through real HTTP, with Redis and without it."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from connector.directory import RateLimit
from connector.packets import codes
from tests.support.ledger_server import ON_POSTGRES
from tests.support.line import ALICE_TO_BOB, Line
from tests.support.neighbours import Sender, Sent
from tests.support.redis import RedisServer
from tests.support.waiting import wait_until

# Either worker gets some of them, all but 1 time in 2^15.
FLOWS = 16
WINDOW_S = 4.0
TOLERANCE = 0.05
PACKETS = RateLimit(200, 40)
AMOUNT = RateLimit(20_000_000, 4_000_000)

pytestmark = [ON_POSTGRES, pytest.mark.node_settings(CONNECTOR_WORKERS="2")]


class Flood:
    """More packets than a peer may send, and what was admitted of them."""

    def __init__(self, sender: Sender, size: Callable[[Sent], int]) -> None:
        """Begin. size - what one packet takes of the limit."""
        self.sender = sender
        self.size = size
        self.started = time.monotonic()
        self._stop = asyncio.Event()
        self._flows = [
            asyncio.create_task(sender.flow(ALICE_TO_BOB, self._stop)) for _ in range(FLOWS)
        ]

    @property
    def admitted(self) -> int:
        return sum(self.size(sent) for sent in self.sender.sent if sent.fulfilled)

    @property
    def offered(self) -> int:
        return sum(map(self.size, self.sender.sent))

    async def last(self, seconds: float) -> float:
        """Go on until so much time has passed since the beginning; returns how much it was."""
        await asyncio.sleep(self.started + seconds - time.monotonic())
        return time.monotonic() - self.started

    async def stop(self) -> float:
        """End; returns how long it took."""
        self._stop.set()
        await asyncio.gather(*self._flows)
        return time.monotonic() - self.started


@pytest.mark.parametrize("kind", ["packets", "amount"])
async def test_a_limit_over_two_workers(
    idle_line: Line, private_redis: RedisServer, kind: str
) -> None:
    line = idle_line
    line.node.environment["REDIS_URL"] = private_redis.url
    limit = PACKETS if kind == "packets" else AMOUNT
    limits: dict[str, Any] = {"packet_limit" if kind == "packets" else "amount_limit": limit}
    # Its amounts are around 110,000, so either limit lets through about 200 a second.
    limited = await line.add_sender("limited", **limits)
    await line.node.start()
    flood = Flood(limited, lambda sent: 1 if kind == "packets" else sent.amount)
    elapsed = await flood.last(WINDOW_S)
    admitted, offered = flood.admitted, flood.offered
    allowed = limit.burst + limit.per_second * elapsed
    print(f"admitted {admitted} of {offered} {kind}, {admitted / allowed:.3f} of what is allowed")
    assert offered > 1.5 * allowed, "no flood: nothing can be learned from this"
    assert abs(admitted / allowed - 1) < TOLERANCE

    private_redis.stop()
    so_far = len(limited.fulfilled)
    await wait_until(lambda: len(limited.fulfilled) > so_far + 100, "it goes on without Redis")
    private_redis.start()
    so_far = len(limited.fulfilled)
    await wait_until(lambda: len(limited.fulfilled) > so_far + 100, "it goes on with a new Redis")
    elapsed = await flood.stop()
    # A new bucket is a full one, as each worker's share of it was meanwhile.
    assert flood.admitted < 3 * limit.burst + limit.per_second * elapsed * (1 + TOLERANCE)
    refusal = codes.T05_RATE_LIMITED if kind == "packets" else codes.T04_INSUFFICIENT_LIQUIDITY
    assert {sent.code for sent in limited.sent} == {"fulfilled", refusal}
    # Nobody else was limited.
    assert (await line.alice.send(ALICE_TO_BOB)).fulfilled
    books = await line.check_books()
    assert books.paid_by(line.ids["limited"]) == limited.fulfilled
    assert await line.node.stop() == [0, 0]
