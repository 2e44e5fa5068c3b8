"""Exactly as much money as some packets need, and a hundred that want it at the same time."""

import asyncio
from collections import Counter

from connector.ledger.accounts import balance
from tests.support.line import ALICE_TO_BOB, ALICE_TO_CAROL, FUNDS, Line, to_usd
from tests.support.neighbours import Sender, Sent
from tests.support.node import TENANT

PACKETS = 60
CONCURRENCY = 100
SENDERS = 10

EXHAUSTED = ("T04", "exceeded maximum balance.")
NO_LIQUIDITY = ("T04", "insufficient liquidity")


async def send_at_once(
    sender: Sender, destination: str, amounts: range
) -> Counter[tuple[str, str]]:
    """Send packets all at the same time; counts outcomes."""
    packets = (sender.send(destination, amount) for amount in amounts)
    return Counter(map(outcome, await asyncio.gather(*packets)))


def outcome(sent: Sent) -> tuple[str, str]:
    return (sent.code, "" if sent.fulfilled else sent.message)


async def test_a_sender_with_money_for_exactly_some(line: Line) -> None:
    # Amounts differ, but by less than one packet all together: no other choice fits one more.
    amounts = range(1_000_000, 1_000_000 + CONCURRENCY)
    poor = await line.add_sender("poor", funds=PACKETS * amounts[-1])
    await line.wait_until_known(poor)
    outcomes = await send_at_once(poor, ALICE_TO_BOB, amounts)
    assert outcomes == {("fulfilled", ""): PACKETS, EXHAUSTED: CONCURRENCY - PACKETS}
    books = await line.check_books()
    left = balance(books.accounts[line.ids["poor"]])
    assert left == PACKETS * amounts[-1] - sum(poor.fulfilled)
    assert 0 <= left < amounts[0]
    # The rest is worth something, too: to the last unit, and no further.
    assert (await poor.send(ALICE_TO_BOB, left)).fulfilled
    assert outcome(await poor.send(ALICE_TO_BOB, 1)) == EXHAUSTED
    books = await line.check_books()
    assert balance(books.accounts[line.ids["poor"]]) == 0
    assert await line.node.count_of("jirani_alarms") == 0


async def test_liquidity_for_exactly_some(line: Line) -> None:
    amounts = range(1_000_000, 1_000_000 + CONCURRENCY)
    liquidity = PACKETS * to_usd(amounts[-1])
    usd = line.assets["USD"].id
    await line.service.withdraw_asset(TENANT, usd, FUNDS - liquidity)
    outcomes = await send_at_once(line.alice, ALICE_TO_CAROL, amounts)
    assert outcomes == {("fulfilled", ""): PACKETS, NO_LIQUIDITY: CONCURRENCY - PACKETS}
    books = await line.check_books()
    delivered = sum(map(to_usd, line.alice.fulfilled))
    assert balance(books.accounts[line.ids["USD"]]) == liquidity - delivered
    # The source leg of a refused chain was not left behind.
    assert balance(books.accounts[line.ids["EUR"]]) == FUNDS + sum(line.alice.fulfilled)
    assert balance(books.accounts[line.ids["alice"]]) == FUNDS - sum(line.alice.fulfilled)
    assert await line.node.count_of("jirani_alarms") == 0


async def test_one_sender_without_funds_among_ten(line: Line) -> None:
    names = [f"sender{number}" for number in range(SENDERS)]
    senders = [
        await line.add_sender(name, funds=FUNDS if number else 0)
        for number, name in enumerate(names)
    ]
    await asyncio.gather(*map(line.wait_until_known, senders))
    first_amounts = [10_001 + 1_000 * number for number in range(SENDERS)]
    outcomes = await asyncio.gather(
        *(
            send_at_once(sender, destination, range(first, first + CONCURRENCY // SENDERS))
            for destination, offset in ((ALICE_TO_BOB, 0), (ALICE_TO_CAROL, 500))
            for sender, first in zip(senders, (a + offset for a in first_amounts), strict=True)
        )
    )
    broke, *others = outcomes[:SENDERS]
    broke_abroad, *others_abroad = outcomes[SENDERS:]
    each = CONCURRENCY // SENDERS
    assert broke == broke_abroad == {EXHAUSTED: each}
    assert others + others_abroad == [{("fulfilled", ""): each}] * 2 * (SENDERS - 1)
    await line.check_books()
    assert await line.node.count_of("jirani_alarms") == 0
