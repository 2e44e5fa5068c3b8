"""SIGTERM to busy workers: what is in flight is answered and booked, and nothing new begins."""

import asyncio

import pytest

from connector.ledger.ledger import PENDING
from tests.support.ledger_server import ON_POSTGRES
from tests.support.line import ALICE_TO_BOB, ALICE_TO_CAROL, Line, wait_for
from tests.support.raw_http import RawClient
from tests.support.waiting import wait_until

FLOWS = 40


async def wait_until_refused(line: Line) -> None:
    async def refused() -> bool:
        try:
            client = await RawClient.connect(line.node.port)
        except ConnectionRefusedError:
            return True
        except ConnectionResetError:
            return False  # It stood before the door when that was shut.
        client.reset()
        return False

    await wait_for(refused, "new connections are refused")


@ON_POSTGRES
@pytest.mark.node_settings(CONNECTOR_WORKERS="2")
async def test_sigterm_under_load(line: Line) -> None:
    stop = asyncio.Event()
    flows = [
        asyncio.create_task(line.alice.flow(destination, stop))
        for destination in [ALICE_TO_BOB, ALICE_TO_CAROL] * (FLOWS // 2)
    ]
    await wait_until(lambda: len(line.alice.fulfilled) >= 500, "load")
    assert await line.node.stop() == [0, 0]
    # Every flow ends because the node takes no connection any more.
    await asyncio.gather(*flows)
    assert not stop.is_set()
    assert not line.alice.rejected
    books = await line.check_books()
    # A packet without an answer was never read: the connection was closed before it came.
    assert books.paid_by(line.ids["alice"]) == line.alice.fulfilled
    assert set(line.bob.fulfilled) <= line.alice.fulfilled
    assert len(line.carol.seen) + len(line.bob.seen) == len(line.alice.fulfilled)


@ON_POSTGRES
async def test_sigterm_while_packets_are_at_the_next_hop(line: Line) -> None:
    line.bob.go.clear()
    packets = [line.alice.start(ALICE_TO_BOB) for _ in range(50)]
    await wait_until(lambda: len(line.bob.seen) == 50, "packets at bob")
    stopping = asyncio.create_task(line.node.stop())
    await wait_until_refused(line)
    assert not stopping.done()
    line.bob.go.set()
    assert all(sent.fulfilled for sent in await asyncio.gather(*packets))
    assert await stopping == [0]
    books = await line.check_books()
    assert books.paid_by(line.ids["alice"]) == line.alice.fulfilled


async def test_sigterm_while_the_ledger_is_silent(line: Line) -> None:
    line.bob.go.clear()
    line.carol.go.clear()
    fulfilled = [line.alice.start(ALICE_TO_BOB, expires_in_ms=2500) for _ in range(10)]
    expired = [line.alice.start(ALICE_TO_CAROL, expires_in_ms=2500) for _ in range(10)]
    await wait_until(lambda: len(line.bob.seen + line.carol.seen) == 20, "packets sent")
    line.server.pause()
    stopping = asyncio.create_task(line.node.stop())
    await wait_until_refused(line)
    line.bob.go.set()
    assert {sent.code for sent in await asyncio.gather(*fulfilled)} == {"fulfilled"}
    assert {sent.code for sent in await asyncio.gather(*expired)} == {"R00"}
    # Posts and voids are still to be taken by the ledger, so the worker waits.
    assert not stopping.done()
    line.server.resume()
    assert await stopping == [0]
    # Nothing was left to a timeout.
    transfers = await line.ledger.query_transfers(ledger=line.assets["EUR"].ledger, code=1)
    holds = [transfer for transfer in transfers if transfer.flags & PENDING]
    assert len(transfers) == 2 * len(holds) == 40
    books = await line.check_books()
    assert books.paid_by(line.ids["alice"]) == line.alice.fulfilled
    assert len(line.alice.fulfilled) == 10


@ON_POSTGRES
async def test_a_second_sigterm_ends_it_at_once(line: Line) -> None:
    line.bob.go.clear()
    packet = line.alice.start(ALICE_TO_BOB, expires_in_ms=3000)
    await wait_until(lambda: line.bob.seen, "a packet at bob")
    (worker,) = line.node.processes
    worker.terminate()
    await wait_until_refused(line)
    assert worker.poll() is None
    assert await line.node.stop() == [1]
    assert (await packet).code == "none"
