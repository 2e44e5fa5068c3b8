"""One node in a line, and what its books must say whatever went wrong.

alice (EUR/2) -> node -> bob (EUR/2) or carol (USD/4); more peers as a test needs them.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

import asyncpg
import msgspec
import pytest

from connector.accounts.cipher import Cipher
from connector.accounts.records import AssetRecord, PeerChanges
from connector.accounts.service import AccountService
from connector.accounts.store import AccountStore
from connector.errors import LedgerUnavailable
from connector.ledger import plan
from connector.ledger.accounts import SETTLEMENT, balance
from connector.ledger.ledger import (
    DEBITS_MUST_NOT_EXCEED_CREDITS,
    PENDING,
    POST_PENDING_TRANSFER,
    VOID_PENDING_TRANSFER,
    Account,
    Ledger,
    Transfer,
)
from connector.ledger.opening import open_ledger
from connector.money import convert_floor, parse_rate, rescale
from tests.support.gate import Gate
from tests.support.ledger_server import FaultyReplica, LedgerServer, LedgerUnderTest
from tests.support.neighbours import Receiver, Sender
from tests.support.node import SECRET, TENANT, Node

WAIT_S_MAX: Final = 30.0
# Of alice, and of the operator himself in each asset.
FUNDS: Final = 10**12
RATE: Final = "1.0837"
EUR_TO_USD: Final = rescale(parse_rate(RATE), 2, 4)
ALICE_TO_BOB: Final = "test.bob.wallet"
ALICE_TO_CAROL: Final = "test.carol.wallet"

# What became of a packet in the ledger.
HELD: Final = "held"
POSTED: Final = "posted"
VOIDED: Final = "voided"
EXPIRED: Final = "expired"
BOOKED_LATE: Final = "booked late"
LOST: Final = "lost"


class LedgerPacket(msgspec.Struct):
    """One packet as the ledger tells it. expired - neither posted nor voided, and not held."""

    source_id: int
    source_amount: int
    destination_id: int
    destination_amount: int
    outcome: str
    corrections: list[Transfer]


class Books:
    """Everything in the ledger that belongs to one line, once it is quiet."""

    def __init__(self, accounts: dict[int, Account], transfers: list[Transfer]) -> None:
        self.accounts = accounts
        self.transfers = transfers
        groups: dict[int, list[Transfer]] = {}
        for transfer in transfers:
            if purpose(transfer) in (plan.PACKET, plan.LATE_BOOKING):
                groups.setdefault(transfer.user_data_128 or transfer.id >> 4 << 4, []).append(
                    transfer
                )
        self.packets = [_ledger_packet(group) for group in groups.values()]

    def packets_of(self, account_id: int, *outcomes: str) -> list[LedgerPacket]:
        """Packets that came from an account, with one of these outcomes."""
        return [p for p in self.packets if p.source_id == account_id and p.outcome in outcomes]

    def paid_by(self, account_id: int) -> set[int]:
        """The amounts of packets that an account was debited for."""
        return _distinct(self.packets_of(account_id, POSTED, BOOKED_LATE), "source_amount")

    def earned_by(self, account_id: int) -> set[int]:
        """The amounts of packets that an account was credited for."""
        packets = [
            p
            for p in self.packets
            if p.destination_id == account_id and p.outcome in (POSTED, BOOKED_LATE, LOST)
        ]
        return _distinct(packets, "destination_amount")

    def check(self) -> None:
        """Hold them to the invariants M1 to M4, M7 and M12 of the money specification."""
        for number in {account.ledger for account in self.accounts.values()}:
            ledger = [a for a in self.accounts.values() if a.ledger == number]
            assert sum(a.debits_posted for a in ledger) == sum(a.credits_posted for a in ledger)
            (settlement,) = (a for a in ledger if a.code == SETTLEMENT)
            others = sum(balance(a) for a in ledger if a is not settlement)
            assert balance(settlement) == others
        for account in self.accounts.values():
            assert not account.debits_pending and not account.credits_pending
            if account.flags & DEBITS_MUST_NOT_EXCEED_CREDITS:
                assert account.debits_posted <= account.credits_posted
            self._check_history(account)
        for packet in self.packets:
            source, destination = (
                self.accounts[i] for i in (packet.source_id, packet.destination_id)
            )
            same = source.ledger == destination.ledger
            assert packet.destination_amount == (
                packet.source_amount if same else to_usd(packet.source_amount)
            )

    def _check_history(self, account: Account) -> None:
        """An account's balance is what its transfers say, to the unit."""
        final = [t for t in self.transfers if not t.flags & (PENDING | VOID_PENDING_TRANSFER)]
        debits = sum(t.amount for t in final if t.debit_account_id == account.id)
        credits = sum(t.amount for t in final if t.credit_account_id == account.id)
        assert (account.debits_posted, account.credits_posted) == (debits, credits)


class Line:
    """The node, its neighbours, and the ledger that it shall be tested with."""

    def __init__(self, node: Node, server: LedgerServer) -> None:
        self.node = node
        self.server = server
        self.bob = Receiver()
        self.carol = Receiver()
        self.ids: dict[str, int] = {}
        self.assets: dict[str, AssetRecord] = {}
        self.senders: dict[str, Sender] = {}
        self.alice: Sender
        # One session for all that a test does: TigerBeetle's take more than half a second each.
        self.ledger: Ledger
        self.service: AccountService
        self._pool: asyncpg.Pool

    async def set_up(self) -> None:
        """Neighbours, assets and peers; the node is not started."""
        await self.bob.start()
        await self.carol.start()
        self.ledger = await open_ledger(self.node.settings)
        self._pool = await asyncpg.create_pool(
            self.node.settings.postgres_url(),
            min_size=0,
            max_size=2,
            server_settings={"application_name": "jirani-test"},
        )
        store = AccountStore(self._pool)
        await store.ensure_operator(TENANT)
        self.service = AccountService(store, self.ledger, Cipher.from_base64(SECRET))
        for code, scale in (("EUR", 2), ("USD", 4)):
            asset = self.assets[code] = await self.service.create_asset(TENANT, code, scale)
            self.ids[code] = asset.id.int
            await self.service.deposit_asset(TENANT, asset.id, FUNDS)
        self.alice = await self.add_sender("alice")
        await self.add_peer("bob", endpoint=self.bob.endpoint)
        await self.add_peer("carol", "USD", endpoint=self.carol.endpoint)

    async def add_sender(self, name: str, *, funds: int = FUNDS, **changes: Any) -> Sender:
        """One more previous hop with EUR; its amounts are nobody else's."""
        await self.add_peer(name, funds=funds, **changes)
        first_amount = 10_001 + 100_000 * len(self.senders)
        sender = self.senders[name] = Sender(self.node.port, token_of(name), first_amount)
        return sender

    async def add_peer(
        self,
        name: str,
        code: str = "EUR",
        *,
        endpoint: str | None = None,
        funds: int = 0,
        **changes: Any,
    ) -> UUID:
        outgoing = {"outgoing_endpoint": endpoint, "outgoing_token": "let-us-in"}
        settings = {
            "name": name,
            "static_ilp_address": f"test.{name}",
            **(outgoing if endpoint else {}),
            **changes,
        }
        peer = await self.service.create_peer(
            TENANT, self.assets[code].id, msgspec.convert(settings, PeerChanges), [token_of(name)]
        )
        if funds:
            await self.service.deposit_peer(TENANT, peer.id, funds)
        self.ids[name] = peer.id.int
        return peer.id

    def uuid(self, name: str) -> UUID:
        return UUID(int=self.ids[name])

    async def close(self) -> None:
        for sender in self.senders.values():
            await sender.close()
        for receiver in (self.bob, self.carol):
            await receiver.close()
        self.node.close()
        await self._pool.close()
        await self.ledger.close()

    # -- waiting ---------------------------------------------------------------------------------

    async def wait_for_count(self, name: str, count: int) -> None:
        """Wait until a metric of the node has reached a count."""
        await wait_for(lambda: self._has_reached(name, count), f"{name} >= {count}")

    async def wait_for_connections(self, count: int) -> None:
        """Wait until the node has so many connections from previous hops."""

        async def reached() -> bool:
            return await self.node.count_of("jirani_connections") == count

        await wait_for(reached, f"{count} connections")

    async def _has_reached(self, name: str, count: int) -> bool:
        return await self.node.count_of(name) >= count

    async def wait_until_known(self, sender: Sender) -> None:
        """Wait until a peer that was added later can send, to the worker that we reach."""

        async def known() -> bool:
            return (await sender.send("peer.config", 0)).status == 200

        await wait_for(known, "the peer is known")

    async def wait_until_it_forwards(self, destination: str = ALICE_TO_BOB) -> None:
        """Wait until a packet gets through: the node has recovered by itself."""

        async def forwards() -> bool:
            return (await self.alice.send(destination)).fulfilled

        await wait_for(forwards, "the node forwards again")

    # -- the books -------------------------------------------------------------------------------

    async def read_books(self) -> Books:
        """Wait until nothing is pending, and read everything."""

        async def quiet() -> bool:
            try:
                accounts = await self._accounts()
            except LedgerUnavailable:
                return False  # A session that died with its server says so once.
            return not any(a.debits_pending or a.credits_pending for a in accounts.values())

        await wait_for(quiet, "nothing is pending")
        numbers = [asset.ledger for asset in self.assets.values()]
        transfers = [t for number in numbers for t in await _transfers(self.ledger, number)]
        return Books(await self._accounts(), transfers)

    async def check_books(self) -> Books:
        """Hold the books to the invariants, and to what the neighbours saw (M8 to M10).

        Valid whatever happened, as long as the node lost nothing: crashes have tests of their own.
        """
        books = await self.read_books()
        books.check()
        for name, sender in self.senders.items():
            paid = books.paid_by(self.ids[name])
            lost = {p.source_amount for p in books.packets_of(self.ids[name], LOST)}
            assert sender.fulfilled <= paid | lost
            assert not sender.rejected & paid
            assert paid <= sender.fulfilled | sender.unanswered
        for name, receiver in (("bob", self.bob), ("carol", self.carol)):
            assert len(set(receiver.fulfilled)) == len(receiver.fulfilled), "sent twice"
            assert books.earned_by(self.ids[name]) <= set(receiver.fulfilled)
        return books

    async def _accounts(self) -> dict[int, Account]:
        found: dict[int, Account] = {}
        for asset in self.assets.values():
            accounts = await self.ledger.query_accounts(ledger=asset.ledger)
            found.update((account.id, account) for account in accounts)
        return found


def purpose(transfer: Transfer) -> int:
    return (transfer.user_data_32 & ~plan.RESOLVED) >> 24


def to_usd(amount: int) -> int:
    """One packet's EUR/2 in USD/4, rounded down as the node does."""
    return convert_floor(amount, EUR_TO_USD)


def token_of(name: str) -> str:
    return f"token-of-{name}-0123456789abcdef0123456789abcdef"


async def wait_for(condition: Callable[[], Awaitable[bool]], what: str) -> None:
    """Return once ``condition()`` is true; fail after ``WAIT_S_MAX`` seconds."""
    deadline = time.monotonic() + WAIT_S_MAX
    while not await condition():
        assert time.monotonic() < deadline, f"not in {WAIT_S_MAX} s: {what}"
        await asyncio.sleep(0.02)


async def _transfers(ledger: Ledger, number: int) -> list[Transfer]:
    found: list[Transfer] = []
    start = 0
    while page := await ledger.query_transfers(ledger=number, timestamp_min=start):
        found += page
        start = page[-1].timestamp + 1
    return found


def _ledger_packet(transfers: list[Transfer]) -> LedgerPacket:
    """One packet from all transfers of its base; M7: it was resolved at most once."""
    holds = sorted((t for t in transfers if t.flags & PENDING), key=lambda t: t.id)
    posts = [t for t in transfers if t.flags & POST_PENDING_TRANSFER]
    voids = [t for t in transfers if t.flags & VOID_PENDING_TRANSFER]
    corrections = [t for t in transfers if purpose(t) == plan.LATE_BOOKING]
    resolutions = [group for group in (posts, voids, corrections) if group]
    assert len(resolutions) <= 1, transfers
    base = holds[0].id
    assert not base & 0xF
    outcome = EXPIRED
    if posts:
        outcome = POSTED
        assert len(posts) == len(holds)
    elif voids:
        outcome = VOIDED
        assert len(voids) == len(holds)
    elif corrections:
        late = [base | plan.CORRECTION | leg for leg in range(len(holds))]
        lost = [base | plan.CORRECTION | plan.LOSS_LEG]
        ids = sorted(t.id for t in corrections)
        assert ids in (late, lost)
        outcome = BOOKED_LATE if ids == late else LOST
    return LedgerPacket(
        holds[0].debit_account_id,
        holds[0].amount,
        holds[-1].credit_account_id,
        holds[-1].amount,
        outcome,
        corrections,
    )


def _distinct(packets: list[LedgerPacket], field: str) -> set[int]:
    amounts = [getattr(packet, field) for packet in packets]
    assert len(set(amounts)) == len(amounts), "a packet was booked twice"
    return set(amounts)


@pytest.fixture
async def idle_line(
    ledger_server: LedgerUnderTest, request: pytest.FixtureRequest
) -> AsyncIterator[Line]:
    """A line whose node is not started; ``@pytest.mark.node_settings(NAME=value)`` holds for it."""
    marker = request.node.get_closest_marker("node_settings")
    settings: dict[str, str] = marker.kwargs if marker else {}
    url = ledger_server.postgres.create_database()
    node = Node(
        url,
        workers=int(settings.get("CONNECTOR_WORKERS", "1")),
        environment={
            "EXCHANGE_RATES": f'{{"EUR": {{"USD": "{RATE}"}}}}',
            **settings,
            **ledger_server.environment,
        },
    )
    line = Line(node, ledger_server.server)
    await line.set_up()
    try:
        yield line
    finally:
        ledger_server.put_right()
        await line.close()
        ledger_server.postgres.drop_database(url)


@pytest.fixture
async def line(idle_line: Line) -> Line:
    """A line whose node is ready."""
    await idle_line.node.start()
    return idle_line


@pytest.fixture
async def gate(idle_line: Line, ledger_server: LedgerUnderTest) -> AsyncIterator[Gate]:
    """The only way of the idle line's node to its ledger; ours and the operator's is another."""
    environment = idle_line.node.environment
    if isinstance(ledger_server.server, FaultyReplica):
        port = int(ledger_server.server.cluster.addresses.rpartition(":")[2])
        async with Gate(partial(asyncio.open_connection, "127.0.0.1", port)) as gate:
            environment["TIGERBEETLE_REPLICA_ADDRESSES"] = f"127.0.0.1:{gate.port}"
            yield gate
            idle_line.node.kill()
    else:
        url = urlsplit(environment["DATABASE_URL"])
        (folder,) = parse_qs(url.query)["host"]
        socket = f"{folder}/.s.PGSQL.5432"
        async with Gate(partial(asyncio.open_unix_connection, socket)) as gate:
            address = f"{url.username}@127.0.0.1:{gate.port}"
            environment["DATABASE_URL"] = f"postgresql://{address}{url.path}"
            yield gate
            idle_line.node.kill()
