"""The ledger did what it was asked, and its answer is lost: the repeat must change nothing.

TRAP of the money specification: a chain that was applied before answers ``exists`` on its first
event and ``linked_event_failed`` on the others.
"""

import asyncio

from connector.ledger.ledger import PENDING, POST_PENDING_TRANSFER, VOID_PENDING_TRANSFER
from connector.packets.ilp import encode_reject
from tests.support.gate import Gate
from tests.support.ledger_server import ON_POSTGRES
from tests.support.line import ALICE_TO_BOB, ALICE_TO_CAROL, POSTED, VOIDED, Line, wait_for
from tests.support.stub_peer import StubConnection, StubRequest, http_answer
from tests.support.waiting import wait_until

EACH = 5


async def wait_for_transfers(line: Line, flag: int, count: int) -> None:
    """Wait until the ledger has so many transfers of a kind, whether or not the node knows."""

    async def there() -> bool:
        found = await line.ledger.query_transfers(ledger=line.assets["EUR"].ledger)
        return sum(1 for t in found if t.flags & flag) >= count

    await wait_for(there, f"{count} transfers with flag {flag}")


async def lose_answers(line: Line, gate: Gate, flag: int) -> None:
    """Lose the answer to the request that is under way, once the ledger has applied it."""
    await wait_for_transfers(line, flag, 1)
    gate.cut_all()
    gate.open()


async def test_answers_to_holds(idle_line: Line, gate: Gate) -> None:
    line = idle_line
    await line.node.start()
    await line.wait_until_it_forwards(ALICE_TO_CAROL)
    so_far = len(line.alice.sent)
    gate.shut_to_answers()
    packets = [line.alice.start(to) for to in (ALICE_TO_BOB, ALICE_TO_CAROL) for _ in range(EACH)]
    await wait_for_transfers(line, PENDING, so_far + 1)
    gate.cut_all()
    gate.open()
    # The holds exist, so the packets go on, unless that took too long: then they are given back.
    codes = {sent.code for sent in await asyncio.gather(*packets)}
    assert codes <= {"fulfilled", "T03"}
    books = await line.check_books()
    alice = line.ids["alice"]
    assert books.paid_by(alice) == line.alice.fulfilled
    assert {p.source_amount for p in books.packets_of(alice, VOIDED)} == line.alice.rejected
    await check_that_answers_were_lost(line)


async def test_answers_to_posts(idle_line: Line, gate: Gate) -> None:
    line = idle_line
    await line.node.start()
    line.carol.go.clear()
    packets = [line.alice.start(ALICE_TO_CAROL) for _ in range(EACH)]
    await wait_until(lambda: len(line.carol.seen) == EACH, "packets at carol")
    gate.shut_to_answers()
    line.carol.go.set()
    await lose_answers(line, gate, POST_PENDING_TRANSFER)
    assert {sent.code for sent in await asyncio.gather(*packets)} == {"fulfilled"}
    books = await line.check_books()
    assert books.paid_by(line.ids["alice"]) == line.alice.fulfilled
    assert {p.outcome for p in books.packets} == {POSTED}
    assert await line.node.count_of("jirani_late_bookings") == 0
    await check_that_answers_were_lost(line)


@ON_POSTGRES
async def test_answers_to_voids(idle_line: Line, gate: Gate) -> None:
    async def reject(connection: StubConnection, request: StubRequest) -> None:
        line.carol.take(request)
        await line.carol.go.wait()
        await connection.send(http_answer(encode_reject("F99", "test.carol", "no")))

    line = idle_line
    line.carol.handler = reject
    line.carol.go.clear()
    await line.node.start()
    packets = [line.alice.start(ALICE_TO_CAROL) for _ in range(EACH)]
    await wait_until(lambda: len(line.carol.seen) == EACH, "packets at carol")
    gate.shut_to_answers()
    line.carol.go.set()
    assert {sent.code for sent in await asyncio.gather(*packets)} == {"F99"}
    await lose_answers(line, gate, VOID_PENDING_TRANSFER)
    books = await line.check_books()
    assert {p.outcome for p in books.packets} == {VOIDED}
    assert len(books.packets) == EACH
    await check_that_answers_were_lost(line)


async def check_that_answers_were_lost(line: Line) -> None:
    assert await line.node.count_of("jirani_alarms") == 0
    # TigerBeetle's client repeats a request by itself and tells nobody.
    if not line.node.settings.use_tigerbeetle:
        assert await line.node.count_of("jirani_ledger_failures") >= 1
