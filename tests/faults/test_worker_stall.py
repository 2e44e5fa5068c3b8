"""A worker that stands still for a while, and wakes up when its packets' time is over."""

import asyncio
import signal

from tests.support.ledger_server import ON_POSTGRES
from tests.support.line import ALICE_TO_BOB, POSTED, VOIDED, Line
from tests.support.neighbours import wall_ms
from tests.support.waiting import wait_until

EXPIRES_IN_MS = 2500
PACKETS = 10

pytestmark = ON_POSTGRES


async def sleep_beyond_expiry(line: Line) -> None:
    """Let every packet's time at its sender run out: what the fault is about."""
    last_ms = max(sent.expires_at_ms for sent in line.alice.sent)
    await asyncio.sleep((last_ms + 100 - wall_ms()) / 1000)


async def test_fulfils_that_arrive_while_the_worker_stands_still(line: Line) -> None:
    line.bob.go.clear()
    packets = [line.alice.start(ALICE_TO_BOB, expires_in_ms=EXPIRES_IN_MS) for _ in range(PACKETS)]
    await wait_until(lambda: len(line.bob.seen) == PACKETS, "packets at bob")
    (worker,) = line.node.processes
    worker.send_signal(signal.SIGSTOP)
    line.bob.go.set()
    await sleep_beyond_expiry(line)
    worker.send_signal(signal.SIGCONT)
    # They came in time, but nobody would pay us for them any more.
    assert {sent.code for sent in await asyncio.gather(*packets)} == {"R00"}
    await line.wait_for_count("jirani_late_fulfils", PACKETS)
    books = await line.check_books()
    assert {p.outcome for p in books.packets} == {VOIDED}


async def test_posts_that_are_answered_while_the_worker_stands_still(line: Line) -> None:
    line.bob.go.clear()
    packets = [line.alice.start(ALICE_TO_BOB, expires_in_ms=EXPIRES_IN_MS) for _ in range(PACKETS)]
    await wait_until(lambda: len(line.bob.seen) == PACKETS, "packets at bob")
    line.server.pause()
    line.bob.go.set()
    await line.wait_for_count("jirani_sent_answers", PACKETS)
    (worker,) = line.node.processes
    worker.send_signal(signal.SIGSTOP)
    line.server.resume()
    await sleep_beyond_expiry(line)
    worker.send_signal(signal.SIGCONT)
    # Decided in time and answered late: debited, and listed.
    assert all(sent.fulfilled for sent in await asyncio.gather(*packets))
    owed = sum(line.alice.fulfilled)
    assert await line.node.count_of("jirani_answered_late") == PACKETS
    assert await line.node.count_of("jirani_answered_late_amount") == owed
    books = await line.check_books()
    assert {p.outcome for p in books.packets} == {POSTED}
    assert await line.node.count_of("jirani_alarms") == 0
