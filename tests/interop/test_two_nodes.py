"""Money from a foreign sender to a foreign receiver, through two nodes with different assets.

At the outer ends npm's ilp-protocol-stream over ilp-plugin-http; in the middle two nodes of ours as
processes. Afterwards every balance on both nodes is what arithmetic says, to the unit.
"""

import asyncio

import pytest

from connector.ledger.accounts import balance
from connector.ledger.ledger import Account
from tests.support.foreign import ForeignPeer
from tests.support.network import (
    FROM_N1,
    FROM_N2,
    FUNDS,
    TO_N1,
    TO_N2,
    Network,
    posted,
    to_gbp,
    to_usd,
)
from tests.support.node import free_port

pytestmark = pytest.mark.timeout(180)
AMOUNT = 1_234_567


async def test_a_foreign_payment_is_booked_to_the_unit(network: Network) -> None:
    sender_port, receiver_port = free_port(), free_port()
    n1, n2 = network.n1, network.n2
    await network.set_up(
        f"http://127.0.0.1:{sender_port}/",
        f"http://127.0.0.1:{receiver_port}/",
        max_packet_amount=10_000,
    )
    await asyncio.gather(n1.start(), n2.start())
    receiver = await ForeignPeer.start(
        "stream_peer.js", "receive", receiver_port, n2.url, FROM_N2, TO_N2
    )
    try:
        credentials = await receiver.line()
        assert credentials["account"].startswith("test.n2.receiver.")
        account, secret = credentials["account"], credentials["secret"]
        sender = await ForeignPeer.start(
            "stream_peer.js", "send", sender_port, n1.url, FROM_N1, TO_N1, account, secret, AMOUNT
        )
        report = await sender.line()
        await sender.close()
        assert report["error"] is None
        received = 0
        while received < int(report["delivered"]):
            received = int((await receiver.line())["received"])
    finally:
        await receiver.close()
    assert report["address"].startswith("test.n1.sender")
    assert int(report["sent"]) == AMOUNT
    assert report["asset"] == "GBP"

    assert await n1.stop() == [0, 0]
    assert await n2.stop() == [0, 0]
    assert (n1.log, n2.log) == ("", "")
    await check_books(network, received)


async def check_books(network: Network, received: int) -> None:
    """Each packet's amounts by the rates, and every balance by the packets."""
    ids = network.ids
    async with network.n1.open_ledger() as ledger:
        eur = await posted(ledger, ids["sender"])
        usd = await posted(ledger, ids["n2"])
    async with network.n2.open_ledger() as ledger:
        usd_there = await posted(ledger, ids["n1"])
        gbp = await posted(ledger, ids["receiver"])
    assert sum(eur) == AMOUNT
    assert len(eur) >= AMOUNT // 10_000
    assert sorted(usd) == sorted(map(to_usd, eur))
    assert sorted(usd_there) == sorted(usd)
    assert sorted(gbp) == sorted(map(to_gbp, usd))
    assert sum(gbp) == received

    found = await network.accounts()
    balances = {name: balance(account) for name, account in found.items()}
    assert balances == {
        "sender": FUNDS - AMOUNT,
        "n1.eur": FUNDS + AMOUNT,
        "n1.usd": FUNDS - sum(usd),
        "n2": FUNDS + sum(usd),
        "n1": FUNDS - sum(usd),
        "n2.usd": FUNDS + sum(usd),
        "n2.gbp": FUNDS - received,
        "receiver": FUNDS + received,
    }
    assert not any(map(pending, found.values()))


def pending(account: Account) -> int:
    return account.debits_pending + account.credits_pending
