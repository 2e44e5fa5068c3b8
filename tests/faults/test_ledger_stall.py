"""The ledger is silent for a while: what waits, what is refused, and what the books say after."""

import asyncio

import pytest

from connector.packets import codes
from tests.support.line import ALICE_TO_BOB, ALICE_TO_CAROL, EXPIRED, POSTED, VOIDED, Line
from tests.support.waiting import wait_until

FLOWS = 10


@pytest.mark.parametrize("stall_s", [0.3, 2.0])
async def test_a_stall_under_load(line: Line, stall_s: float) -> None:
    stop = asyncio.Event()
    flows = [
        asyncio.create_task(line.alice.flow(destination, stop))
        for destination in [ALICE_TO_BOB, ALICE_TO_CAROL] * (FLOWS // 2)
    ]
    await wait_until(lambda: len(line.alice.fulfilled) >= 100, "load")
    line.server.pause()
    await asyncio.sleep(stall_s)  # This is the fault.
    line.server.resume()
    fulfilled = len(line.alice.fulfilled)
    await wait_until(lambda: len(line.alice.fulfilled) >= fulfilled + 100, "recovery")
    stop.set()
    await asyncio.gather(*flows)
    assert {sent.code for sent in line.alice.sent} <= {"fulfilled", codes.T03_CONNECTOR_BUSY}
    assert all(sent.in_time for sent in line.alice.sent)
    books = await line.check_books()
    assert books.paid_by(line.ids["alice"]) == line.alice.fulfilled
    assert await line.node.count_of("jirani_alarms") == 0
    assert await line.node.stop() == [0]


async def test_what_waits_for_a_silent_ledger_is_answered_all_the_same(line: Line) -> None:
    line.bob.go.clear()
    held = [line.alice.start(ALICE_TO_BOB, expires_in_ms=4000) for _ in range(20)]
    await wait_until(lambda: len(line.bob.seen) == 20, "packets at bob")
    line.server.pause()
    # Their holds reach the ledger's door and no further.
    unconfirmed = [line.alice.start(ALICE_TO_BOB) for _ in range(5)]
    for sent in await asyncio.gather(*unconfirmed):
        assert (sent.code, sent.message) == ("T03", "the ledger is not answering")
    # From now on the silence is known, and nobody waits any more.
    assert (await line.alice.send(ALICE_TO_CAROL)).code == codes.T03_CONNECTOR_BUSY
    line.bob.go.set()
    assert (await line.alice.send(ALICE_TO_BOB, 0)).fulfilled
    for sent in await asyncio.gather(*held):
        assert sent.fulfilled
        assert sent.in_time
    assert await line.node.count_of("jirani_answered_late") == 0
    line.server.resume()
    await line.wait_until_it_forwards()
    books = await line.check_books()
    posted = {p.source_amount for p in books.packets_of(line.ids["alice"], POSTED)}
    assert {task.result().amount for task in held} <= posted
    # What came too late was given back as soon as the ledger spoke, and never sent.
    late = {task.result().amount for task in unconfirmed}
    assert {p.source_amount for p in books.packets_of(line.ids["alice"], VOIDED)} == late
    assert not late & {prepare.amount for prepare in line.bob.seen}
    assert not books.packets_of(line.ids["alice"], EXPIRED)
    assert await line.node.count_of("jirani_alarms") == 0


async def test_a_stall_beyond_the_expiry_of_what_is_in_flight(line: Line) -> None:
    line.bob.go.clear()
    held = [line.alice.start(ALICE_TO_BOB, expires_in_ms=2500) for _ in range(20)]
    await wait_until(lambda: len(line.bob.seen) == 20, "packets at bob")
    line.server.pause()
    unconfirmed = [line.alice.start(ALICE_TO_BOB, expires_in_ms=2500) for _ in range(5)]
    for sent in await asyncio.gather(*held):
        assert (sent.code, sent.message) == ("R00", "packet expired.")
        assert sent.in_time
    assert {sent.code for sent in await asyncio.gather(*unconfirmed)} == {"T03"}
    # Bob fulfils after all: that is too late, and costs nobody but him.
    line.bob.go.set()
    await line.wait_for_count("jirani_late_fulfils", 20)
    line.server.resume()
    await line.wait_until_it_forwards()
    books = await line.check_books()
    voided = {p.source_amount for p in books.packets_of(line.ids["alice"], VOIDED)}
    assert voided == {task.result().amount for task in held + unconfirmed}
    assert await line.node.count_of("jirani_alarms") == 0
