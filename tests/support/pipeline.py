"""The packet path without IO: a ledger, links and exchanges that a test answers by hand."""

from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Any

from connector.directory import Asset, Directory, Peer, RateTable
from connector.ledger.ledger import CREATED, Transfer
from connector.money import Ratio
from connector.packets.expiry import format_expiry
from connector.packets.ilp import (
    Fulfill,
    Prepare,
    Reject,
    decode_prepare,
    decode_reply,
    encode_fulfill,
    encode_prepare,
    encode_reject,
)
from connector.pipeline import Account, Packet, PacketRules, Pipeline
from connector.ports import LinkFailure
from tests.support.clock import FakeClock

FULFILLMENT = bytes(range(32))
CONDITION = sha256(FULFILLMENT).digest()

EUR = Asset(id=101, tenant_id="operator", code="EUR", scale=2, ledger=1)
USD = Asset(id=102, tenant_id="operator", code="USD", scale=4, ledger=2)

ALICE = Peer(
    id=11, tenant_id="operator", asset=EUR, static_ilp_address="test.node.alice", name="alice"
)
BOB = Peer(
    id=12,
    tenant_id="operator",
    asset=EUR,
    static_ilp_address="test.bob",
    name="bob",
    endpoint="http://bob.test/ilp",
)
CAROL = Peer(
    id=13,
    tenant_id="operator",
    asset=USD,
    static_ilp_address="test.carol",
    name="carol",
    endpoint="http://carol.test/ilp",
)


class HandLedger:
    """A ``LedgerQueue`` that answers when the test says so."""

    def __init__(self) -> None:
        self.silent = False
        self.queue: list[tuple[tuple[Transfer, ...], Callable[[Any, int, int], None], Any]] = []
        self.seen: list[tuple[Transfer, ...]] = []

    def submit(
        self, chain: Sequence[Transfer], done: Callable[[Any, int, int], None], packet: Any
    ) -> None:
        self.queue.append((tuple(chain), done, packet))
        self.seen.append(tuple(chain))

    def answer(self, status: int = CREATED, leg: int = 0) -> tuple[Transfer, ...]:
        """Answer the oldest chain; returns it."""
        chain, done, packet = self.queue.pop(0)
        done(packet, leg, status)
        return chain


class HandLinks:
    """``Links`` that only remember what was sent."""

    def __init__(self) -> None:
        self.sent: list[tuple[Peer, Prepare, Packet, float, float]] = []

    def send(
        self, peer: Peer, data: bytes, packet: Packet, connect_until: float, reply_until: float
    ) -> None:
        self.sent.append((peer, decode_prepare(data), packet, connect_until, reply_until))


class HandExchange:
    """An ``Exchange`` that keeps its one answer."""

    def __init__(self) -> None:
        self.closed = False
        self.answers: list[bytes] = []
        self.refusals: list[tuple[int, str]] = []

    def answer(self, packet: bytes) -> None:
        self.answers.append(packet)

    def refuse(self, status: int, message: str) -> None:
        self.refusals.append((status, message))

    @property
    def reply(self) -> Fulfill | Reject:
        """The answer, of which there must be exactly one."""
        (answer,) = self.answers
        return decode_reply(answer)

    @property
    def reject(self) -> Reject:
        reply = self.reply
        assert isinstance(reply, Reject)
        return reply

    @property
    def fulfilled(self) -> bool:
        return isinstance(self.reply, Fulfill)


class Bench:
    """One pipeline with everything around it in the test's hands."""

    def __init__(
        self, *peers: Peer, rules: PacketRules | None = None, address: str = "test.node"
    ) -> None:
        self.clock = FakeClock()
        self.ledger = HandLedger()
        self.links = HandLinks()
        self.missing_accounts = 0
        self.pipeline = Pipeline(
            ledger=self.ledger,
            slot=7,
            rules=rules or PacketRules(),
            wall_ms=self.clock.wall_ms,
            monotonic=self.clock.monotonic,
            random_bits=lambda bits: 5,
            on_account_missing=self._account_missing,
        )
        self.pipeline.links = self.links
        self.apply(*(peers or (ALICE, BOB, CAROL)), address=address)
        self.pipeline.apply_rates(RateTable({("EUR", "USD"): Ratio(108, 100)}, {"EUR": 10_000.0}))

    def _account_missing(self) -> None:
        self.missing_accounts += 1

    def apply(self, *peers: Peer, address: str = "test.node") -> None:
        tokens = {sha256(f"token-{peer.name}".encode()).digest(): peer.id for peer in peers}
        self.pipeline.apply_directory(Directory(1, {"operator": address}, peers, tokens))

    def account(self, peer: Peer) -> Account:
        return self.pipeline.accounts[peer.id]

    def prepare(
        self,
        destination: str = "test.bob.account",
        amount: int = 100,
        *,
        source: Peer = ALICE,
        expires_in_ms: int = 20_000,
        condition: bytes = CONDITION,
        data: bytes = b"payload",
    ) -> HandExchange:
        """Let a packet arrive; the exchange keeps what is answered."""
        exchange = HandExchange()
        expires_at = format_expiry(self.clock.wall + expires_in_ms)
        raw = encode_prepare(amount, expires_at, condition, destination, data)
        self.pipeline.receive_prepare(self.account(source), raw, exchange)
        return exchange

    def sent(self) -> Packet:
        """The packet that went out last."""
        return self.links.sent[-1][2]

    def fulfill(self, fulfillment: bytes = FULFILLMENT, data: bytes = b"thanks") -> None:
        self.pipeline.receive_reply(self.sent(), encode_fulfill(fulfillment, data))

    def reject(self, code: str = "F99", message: str = "no") -> bytes:
        raw = encode_reject(code, "test.bob", message, b"why")
        self.pipeline.receive_reply(self.sent(), raw)
        return raw

    def fail(self, failure: LinkFailure) -> None:
        self.pipeline.receive_link_failure(self.sent(), failure)

    def pass_ms(self, ms: int) -> None:
        """Let time pass, with the node's timer running."""
        while ms > 0:
            step = min(ms, 20)
            self.clock.advance_ms(step)
            self.pipeline.tick()
            ms -= step
