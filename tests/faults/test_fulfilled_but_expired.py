"""A fulfil whose hold is gone by the time that the ledger takes the post: booked late, or a loss.

The node reaches its ledger through a gate. While the gate is shut the ledger itself goes on: holds
expire, and the operator pays money out by another way.
"""

import asyncio

import pytest

from connector.ledger import plan
from connector.ledger.accounts import balance
from connector.ledger.postgres import PostgresLedger
from tests.support.gate import Gate
from tests.support.ledger_server import ON_POSTGRES
from tests.support.line import (
    ALICE_TO_BOB,
    ALICE_TO_CAROL,
    BOOKED_LATE,
    EXPIRED,
    FUNDS,
    LOST,
    Line,
    to_usd,
    wait_for,
)
from tests.support.neighbours import Sent
from tests.support.node import TENANT
from tests.support.waiting import wait_until

TO_BOB = 1_000
TO_CAROL = 2_000
EXPIRES_IN_MS = 3000

pytestmark = pytest.mark.node_settings(LEDGER_GRACE_S="1")


async def fulfil_behind_the_gate(line: Line, gate: Gate, packets: list[asyncio.Task[Sent]]) -> None:
    """Let packets be fulfilled while the ledger hears nothing, until their holds expire."""
    await wait_until(lambda: len(line.bob.seen + line.carol.seen) == len(packets), "packets sent")
    gate.shut()
    line.bob.go.set()
    line.carol.go.set()
    for sent in await asyncio.gather(*packets):
        assert sent.fulfilled
        assert sent.in_time

    async def expired() -> bool:
        if isinstance(line.ledger, PostgresLedger):
            await line.ledger.expire_pending()
        accounts = await line.ledger.query_accounts(ledger=line.assets["EUR"].ledger)
        return not any(account.debits_pending for account in accounts)

    await wait_for(expired, "the holds are gone")


async def test_late_bookings_and_losses(idle_line: Line, gate: Gate) -> None:
    line = idle_line
    await line.node.start()
    broke = await line.add_sender("broke", funds=TO_BOB + TO_CAROL)
    line.bob.go.clear()
    line.carol.go.clear()
    await line.wait_until_known(broke)
    rich_to_bob, rich_to_carol = packets = [
        line.alice.start(destination, expires_in_ms=EXPIRES_IN_MS)
        for destination in (ALICE_TO_BOB, ALICE_TO_CAROL)
    ]
    packets += [
        broke.start(ALICE_TO_BOB, TO_BOB, expires_in_ms=EXPIRES_IN_MS),
        broke.start(ALICE_TO_CAROL, TO_CAROL, expires_in_ms=EXPIRES_IN_MS),
    ]
    await fulfil_behind_the_gate(line, gate, packets)
    await line.service.withdraw_peer(TENANT, line.uuid("broke"), TO_BOB + TO_CAROL)
    gate.open()
    await line.wait_for_count("jirani_late_bookings", 4)
    await line.wait_until_it_forwards()
    books = await line.check_books()
    late = books.packets_of(line.ids["alice"], BOOKED_LATE)
    assert {p.source_amount for p in late} == {
        rich_to_bob.result().amount,
        rich_to_carol.result().amount,
    }
    # What the broke sender got fulfilled is our loss, and its next hops have their money.
    lost = books.packets_of(line.ids["broke"], LOST)
    assert {p.source_amount for p in lost} == {TO_BOB, TO_CAROL}
    for packet in late + lost:
        assert all(t.code == plan.TRANSFER_CODE for t in packet.corrections)
    forwarded = {p.source_amount for p in books.packets_of(line.ids["alice"], "posted")}
    to_carol = rich_to_carol.result().amount
    own = {code: balance(books.accounts[line.ids[code]]) - FUNDS for code in ("EUR", "USD")}
    assert own == {"EUR": to_carol - TO_BOB, "USD": -to_usd(to_carol) - to_usd(TO_CAROL)}
    bob = rich_to_bob.result().amount + TO_BOB + sum(forwarded)
    assert balance(books.accounts[line.ids["bob"]]) == bob
    # Nobody need look at a late booking; at a loss somebody must.
    assert await line.node.count_of("jirani_alarms") == 2


@ON_POSTGRES
async def test_a_loss_that_we_cannot_pay_either(idle_line: Line, gate: Gate) -> None:
    line = idle_line
    await line.node.start()
    line.bob.go.clear()
    packet = line.alice.start(ALICE_TO_BOB, expires_in_ms=EXPIRES_IN_MS)
    await fulfil_behind_the_gate(line, gate, [packet])
    await line.service.withdraw_peer(TENANT, line.uuid("alice"), FUNDS)
    await line.service.withdraw_asset(TENANT, line.assets["EUR"].id, FUNDS)
    gate.open()
    await line.wait_for_count("jirani_alarms", 2)
    assert "late_booking_refused" in line.node.log
    assert "loss_not_booked" in line.node.log
    books = await line.read_books()
    books.check()
    (expired,) = books.packets
    assert expired.outcome == EXPIRED
