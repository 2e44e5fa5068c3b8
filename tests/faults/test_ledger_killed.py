"""The ledger dies under load and comes back with the same data; or only the directory's store."""

import asyncio

from connector.accounts.records import PeerChanges
from tests.support.ledger_server import ON_TIGERBEETLE, FaultyPostgres
from tests.support.line import ALICE_TO_BOB, ALICE_TO_CAROL, Line, wait_for
from tests.support.node import TENANT
from tests.support.waiting import wait_until

FLOWS = 10


async def test_a_killed_ledger_under_load(line: Line) -> None:
    (worker,) = line.node.processes
    stop = asyncio.Event()
    flows = [
        asyncio.create_task(line.alice.flow(destination, stop))
        for destination in [ALICE_TO_BOB, ALICE_TO_CAROL] * (FLOWS // 2)
    ]
    await wait_until(lambda: len(line.alice.fulfilled) >= 100, "load")
    line.server.kill()
    await wait_until(lambda: line.alice.amounts_with("T03"), "refusals")
    assert (await line.alice.send(ALICE_TO_BOB, 0)).fulfilled
    line.server.start()
    fulfilled = len(line.alice.fulfilled)
    await wait_until(lambda: len(line.alice.fulfilled) >= fulfilled + 100, "recovery")
    stop.set()
    await asyncio.gather(*flows)
    assert worker.poll() is None
    assert not line.alice.unanswered
    books = await line.check_books()
    assert books.paid_by(line.ids["alice"]) == line.alice.fulfilled
    assert await line.node.count_of("jirani_alarms") == 0
    assert await line.node.stop() == [0]


async def test_fulfils_while_the_ledger_is_dead(line: Line) -> None:
    line.bob.go.clear()
    held = [line.alice.start(ALICE_TO_BOB, expires_in_ms=3000) for _ in range(20)]
    await wait_until(lambda: len(line.bob.seen) == 20, "packets at bob")
    line.server.kill()
    line.bob.go.set()
    for sent in await asyncio.gather(*held):
        assert sent.fulfilled
        assert sent.in_time
    line.server.start()
    await line.wait_until_it_forwards()
    books = await line.check_books()
    assert books.paid_by(line.ids["alice"]) == line.alice.fulfilled
    assert await line.node.count_of("jirani_late_bookings") == 0


@ON_TIGERBEETLE
async def test_forwarding_goes_on_without_the_directory(
    line: Line, faulty_postgres: FaultyPostgres
) -> None:
    faulty_postgres.kill()
    answers = [await line.alice.send(destination) for destination in [ALICE_TO_BOB] * 50]
    assert all(sent.fulfilled for sent in answers)
    assert line.node.processes[0].poll() is None
    faulty_postgres.start()
    # What is changed from now on is noticed.
    changes = PeerChanges(max_packet_amount=1)
    await line.service.update_peer(TENANT, line.uuid("alice"), changes)

    async def is_too_large() -> bool:
        return (await line.alice.send(ALICE_TO_BOB)).code == "F08"

    await wait_for(is_too_large, "the directory is read again")
    await line.check_books()
