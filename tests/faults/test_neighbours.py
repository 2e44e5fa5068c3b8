"""Neighbours that answer late, wrong or twice, or whose connections break off."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from connector.ledger.accounts import balance
from connector.packets import codes
from connector.packets.expiry import parse_expiry
from connector.packets.ilp import encode_fulfill
from tests.support.ledger_server import ON_POSTGRES
from tests.support.line import ALICE_TO_BOB, FUNDS, POSTED, VOIDED, Line
from tests.support.neighbours import Receiver, wall_ms
from tests.support.stub_peer import StubConnection, StubRequest, http_answer
from tests.support.waiting import wait_until

pytestmark = ON_POSTGRES

Answer = Callable[[StubConnection, bytes], Awaitable[None]]


async def wrong_hash(connection: StubConnection, fulfill: bytes) -> None:
    await connection.send(http_answer(encode_fulfill(bytes(32))))


async def no_packet(connection: StubConnection, fulfill: bytes) -> None:
    await connection.send(http_answer(b"\x0d\xffgarbage"))


async def half_a_packet(connection: StubConnection, fulfill: bytes) -> None:
    await connection.send(http_answer(fulfill[:-1]))


async def no_body(connection: StubConnection, fulfill: bytes) -> None:
    await connection.send(http_answer(b""))


async def no_http(connection: StubConnection, fulfill: bytes) -> None:
    await connection.send(b"\x0d" + fulfill)


async def http_error(connection: StubConnection, fulfill: bytes) -> None:
    await connection.send(http_answer(fulfill, "500 Internal Server Error"))


async def too_large(connection: StubConnection, fulfill: bytes) -> None:
    await connection.send(http_answer(fulfill + bytes(40_000)))


async def reset_at_once(connection: StubConnection, fulfill: bytes) -> None:
    connection.reset()


async def close_at_once(connection: StubConnection, fulfill: bytes) -> None:
    connection.close()


async def reset_in_the_answer(connection: StubConnection, fulfill: bytes) -> None:
    await connection.send(http_answer(fulfill)[:-1])
    connection.reset()


async def close_in_the_answer(connection: StubConnection, fulfill: bytes) -> None:
    await connection.send(http_answer(fulfill)[:-1])
    connection.close()


async def close_after_the_answer(connection: StubConnection, fulfill: bytes) -> None:
    # Announced: without it another packet may be on the connection already, and is rightly cut.
    await connection.send(http_answer(fulfill, "200 OK", "Connection: close"))
    connection.close()


async def two_answers(connection: StubConnection, fulfill: bytes) -> None:
    await connection.send(http_answer(fulfill) * 2)


async def fulfill_then_reject(connection: StubConnection, fulfill: bytes) -> None:
    await connection.send(http_answer(fulfill) + http_answer(b"", "500 Internal Server Error"))


async def largest_fulfill(connection: StubConnection, fulfill: bytes) -> None:
    await connection.send(http_answer(encode_fulfill(fulfill[2:34], bytes(32_767))))


def answer_with(bob: Receiver, answer: Answer) -> None:
    """Let bob answer what comes from now on in his own way."""

    async def handle(connection: StubConnection, request: StubRequest) -> None:
        prepare = bob.take(request)
        bob.fulfilled.append(prepare.amount)
        await answer(connection, encode_fulfill(prepare.data))

    bob.handler = handle


ANSWERS: dict[Answer, str] = {
    wrong_hash: codes.F05_WRONG_CONDITION,
    no_packet: codes.T00_INTERNAL_ERROR,
    half_a_packet: codes.T00_INTERNAL_ERROR,
    no_body: codes.T00_INTERNAL_ERROR,
    no_http: codes.T00_INTERNAL_ERROR,
    http_error: codes.T00_INTERNAL_ERROR,
    too_large: codes.T00_INTERNAL_ERROR,
    reset_at_once: codes.T01_PEER_UNREACHABLE,
    close_at_once: codes.T01_PEER_UNREACHABLE,
    reset_in_the_answer: codes.T01_PEER_UNREACHABLE,
    close_in_the_answer: codes.T01_PEER_UNREACHABLE,
    close_after_the_answer: "fulfilled",
    two_answers: "fulfilled",
    fulfill_then_reject: "fulfilled",
    largest_fulfill: "fulfilled",
}


async def test_what_a_next_hop_may_answer(line: Line) -> None:
    """Each answer for four packets at a time, with good packets between them."""
    uncertain: set[int] = set()
    for answer, code in ANSWERS.items():
        answer_with(line.bob, answer)
        packets = await asyncio.gather(*(line.alice.send(ALICE_TO_BOB) for _ in range(4)))
        assert {sent.code for sent in packets} == {code}, answer
        if code == codes.T01_PEER_UNREACHABLE:
            uncertain |= {sent.amount for sent in packets}
        line.bob.handler = line.bob.fulfil
        assert (await line.alice.send(ALICE_TO_BOB)).fulfilled, answer
    # No packet was sent twice.
    seen = [prepare.amount for prepare in line.bob.seen]
    assert len(set(seen)) == len(seen) == len(line.alice.sent)
    assert await line.node.count_of("jirani_uncertain_out") == len(uncertain)
    assert await line.node.count_of("jirani_uncertain_out_amount") == sum(uncertain)
    books = await line.check_books()
    alice = line.ids["alice"]
    assert books.paid_by(alice) == line.alice.fulfilled
    assert {p.source_amount for p in books.packets_of(alice, VOIDED)} == line.alice.rejected
    assert await line.node.count_of("jirani_alarms") == 0


async def test_a_next_hop_that_nobody_reaches(line: Line) -> None:
    await line.bob.close()
    sent = await line.alice.send(ALICE_TO_BOB, expires_in_ms=3000)
    assert sent.code == codes.T01_PEER_UNREACHABLE
    assert sent.in_time
    assert await line.node.count_of("jirani_uncertain_out") == 0
    books = await line.check_books()
    assert not books.paid_by(line.ids["alice"])


@pytest.mark.parametrize("after_deadline_ms", [-400, -1, 1, 400])
async def test_a_fulfil_around_the_decision_deadline(line: Line, after_deadline_ms: int) -> None:
    async def late(connection: StubConnection, request: StubRequest) -> None:
        prepare = line.bob.take(request)
        deadline_ms = parse_expiry(prepare.expires_at) + 500
        await asyncio.sleep((deadline_ms + after_deadline_ms - wall_ms()) / 1000)
        line.bob.fulfilled.append(prepare.amount)
        await connection.send(http_answer(encode_fulfill(prepare.data)))

    line.bob.handler = late
    packets = [line.alice.start(ALICE_TO_BOB, expires_in_ms=2500) for _ in range(10)]
    answers = await asyncio.gather(*packets)
    # On the deadline itself either may win, packet by packet; but each packet has one outcome.
    expected = {-400: {"fulfilled"}, 400: {codes.R00_TRANSFER_TIMED_OUT}}
    outcomes = {"fulfilled", codes.R00_TRANSFER_TIMED_OUT}
    assert {sent.code for sent in answers} <= expected.get(after_deadline_ms, outcomes)
    assert all(sent.in_time for sent in answers)
    await line.wait_for_count("jirani_late_fulfils", len(line.alice.rejected))
    assert await line.node.count_of("jirani_late_fulfils") == len(line.alice.rejected)
    books = await line.check_books()
    assert books.paid_by(line.ids["alice"]) == line.alice.fulfilled


async def test_a_previous_hop_that_hangs_up_after_we_sent(line: Line) -> None:
    line.bob.go.clear()
    packets = [line.alice.start(ALICE_TO_BOB) for _ in range(10)]
    await wait_until(lambda: len(line.bob.seen) == 10, "packets at bob")
    line.alice.hang_up()
    await asyncio.gather(*packets)
    line.bob.go.set()
    await line.wait_for_count("jirani_unacknowledged", 10)
    books = await line.check_books()
    # Bob has delivered, so alice pays; else hanging up would be a way to rob us.
    owed = sum(sent.amount for sent in line.alice.sent)
    assert books.paid_by(line.ids["alice"]) == line.alice.unanswered
    assert await line.node.count_of("jirani_unacknowledged_amount") == owed
    assert balance(books.accounts[line.ids["alice"]]) == FUNDS - owed
    assert balance(books.accounts[line.ids["bob"]]) == owed


async def test_a_previous_hop_that_hangs_up_before_we_sent(line: Line) -> None:
    line.server.pause()
    packets = [line.alice.start(ALICE_TO_BOB) for _ in range(10)]
    await line.wait_for_count("jirani_in_flight_packets", 10)
    line.alice.hang_up()
    await asyncio.gather(*packets)
    await line.wait_for_connections(0)
    line.server.resume()
    await line.wait_until_it_forwards()
    books = await line.check_books()
    assert {p.source_amount for p in books.packets_of(line.ids["alice"], VOIDED)} == (
        line.alice.unanswered
    )
    assert not line.alice.unanswered & {prepare.amount for prepare in line.bob.seen}
    assert len(books.packets_of(line.ids["alice"], POSTED)) == len(line.alice.fulfilled)
    assert await line.node.count_of("jirani_unacknowledged") == 0
