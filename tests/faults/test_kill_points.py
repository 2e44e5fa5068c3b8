"""SIGKILL of a worker while packets stand at chosen points of their way.

The points are the rows of the table "What a crash costs" in the money specification. Without
journal and sweeper the ledger's own timeout is what resolves the holds, so it is short here.
"""

import asyncio
import signal

import pytest

from connector.ledger.accounts import balance
from connector.packets.ilp import encode_reject
from tests.support.line import ALICE_TO_BOB, ALICE_TO_CAROL, EXPIRED, FUNDS, POSTED, Line, wait_for
from tests.support.neighbours import Receiver, Sent
from tests.support.node import free_port
from tests.support.stub_peer import StubConnection, StubRequest, http_answer
from tests.support.waiting import wait_until

EXPIRES_IN_MS = 5000
EACH = 3

pytestmark = pytest.mark.node_settings(LEDGER_GRACE_S="1")


class Refuser(Receiver):
    """Rejects, once ``go`` is set."""

    async def fulfil(self, connection: StubConnection, request: StubRequest) -> None:
        self.take(request)
        await self.go.wait()
        await connection.send(http_answer(encode_reject("F99", "test.refuser", "no")))


async def test_a_kill_with_packets_at_every_point_before_the_post(idle_line: Line) -> None:
    line = idle_line
    async with Refuser() as refuser:
        nobody = f"http://127.0.0.1:{free_port()}/"
        await line.add_peer("nobody", endpoint=nobody)
        await line.add_peer("refuser", endpoint=refuser.endpoint)
        await line.node.start()
        for receiver in (line.bob, line.carol, refuser):
            receiver.go.clear()

        # Row 3: held and not sent, since there is nobody to connect to.
        unsent = send(line, "test.nobody.wallet")
        sent = send(line, ALICE_TO_CAROL)
        fulfilled = send(line, ALICE_TO_BOB)
        rejected = send(line, "test.refuser.wallet")
        receivers = (line.bob, line.carol, refuser)
        await wait_until(lambda: all(len(r.seen) == EACH for r in receivers), "packets sent")
        await wait_until_held(line, sum(sent.amount for sent in line.alice.sent))
        line.server.pause()
        # Rows 1 and 2: the first is on its way to the ledger, the others wait behind it.
        unconfirmed = send(line, ALICE_TO_BOB)
        await line.wait_for_count("jirani_in_flight_packets", 5 * EACH)
        # Row 6, and row 3 with a void that the ledger never gets: both wait there, too.
        line.bob.go.set()
        refuser.go.set()
        await line.wait_for_count("jirani_sent_answers", 2 * EACH)
        assert {sent.code for sent in await asyncio.gather(*rejected)} == {"F99"}
        # Rows 4 and 5: sent, and the fulfil arrives at a worker that does not read it any more.
        line.node.processes[0].send_signal(signal.SIGSTOP)
        line.carol.go.set()
        await wait_until(lambda: len(line.carol.fulfilled) == EACH, "fulfils from carol")
        line.node.kill()
        line.server.resume()
        dead = await asyncio.gather(*unsent, *sent, *fulfilled)
        assert {packet.code for packet in dead} == {"none"}
        # On a slow machine these had their second of waiting before the kill.
        assert {packet.code for packet in await asyncio.gather(*unconfirmed)} <= {"none", "T03"}

        await line.node.start()
        books = await line.read_books()
        books.check()
        # Nobody is debited for anything that he got no Fulfill for, and nobody saw one.
        assert {packet.outcome for packet in books.packets} == {EXPIRED}
        assert balance(books.accounts[line.ids["alice"]]) == FUNDS
        assert len(books.packets) in (4 * EACH, 4 * EACH + 1)
        # Known to be lost until there is a journal: what these have delivered is not in our books.
        assert len(line.bob.fulfilled) == len(line.carol.fulfilled) == EACH
        for name in ("bob", "carol"):
            assert balance(books.accounts[line.ids[name]]) == 0
        await line.wait_until_it_forwards()
        assert await line.node.stop() == [0]


@pytest.mark.parametrize("answered", [False, True])
async def test_a_kill_with_a_post_under_way(line: Line, answered: bool) -> None:
    """Rows 7 and 8: the ledger takes the post of a worker that is dead."""
    line.bob.go.clear()
    packet = line.alice.start(ALICE_TO_BOB, expires_in_ms=2500 if answered else EXPIRES_IN_MS)
    await wait_until(lambda: line.bob.seen, "the packet at bob")
    line.server.pause()
    line.bob.go.set()
    await line.wait_for_count("jirani_sent_amount", line.alice.sent[0].amount)
    if answered:
        assert (await packet).fulfilled
    line.node.kill()
    line.server.resume()
    assert (await packet).fulfilled == answered
    await line.node.start()
    books = await line.check_books()
    # The sender pays for what was delivered, whether or not it had our answer in time.
    assert [p.outcome for p in books.packets] == [POSTED]
    assert balance(books.accounts[line.ids["bob"]]) == line.alice.sent[0].amount
    assert await line.node.stop() == [0]


def send(line: Line, destination: str) -> list[asyncio.Task[Sent]]:
    return [line.alice.start(destination, expires_in_ms=EXPIRES_IN_MS) for _ in range(EACH)]


async def wait_until_held(line: Line, amount: int) -> None:

    async def held() -> bool:
        (alice,) = await line.ledger.lookup_accounts([line.ids["alice"]])
        return alice.debits_pending == amount

    await wait_for(held, "all holds are made")
