"""Random lives of packets against the model of the ledger: money is neither made nor lost.

Whatever the order of arrivals, ledger answers, next hops' answers, hang-ups and deadlines: every
packet gets one answer, and the books say what the answers said.
"""

from collections.abc import Coroutine
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from connector.directory import Peer
from connector.ledger.accounts import asset_accounts, balance, deposit, peer_account
from connector.ledger.ledger import Account, Transfer
from connector.ledger.model import ModelLedger
from connector.ledger.outcome import chain_status
from connector.packets.ilp import encode_fulfill, encode_reject
from connector.pipeline import Packet, PacketRules
from connector.ports import LinkFailure
from tests.support.pipeline import ALICE, BOB, CAROL, EUR, FULFILLMENT, USD, Bench, HandExchange

FUNDS = 1000


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """The model never waits, so one step is all."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("the model waited")


class PacketLives(RuleBasedStateMachine):
    @initialize(grace_s=st.sampled_from([1, 300]))
    def begin(self, grace_s: int) -> None:
        # What happened to each packet, by its place.
        self.exchanges: list[tuple[HandExchange, Peer, int]] = []
        self.open: list[Packet] = []
        self.bench = Bench(rules=PacketRules(ledger_grace_s=grace_s))
        clock = self.bench.clock
        self.ledger = ModelLedger(now_ns=lambda: clock.wall * 1_000_000)
        accounts = [*asset_accounts(EUR), *asset_accounts(USD)]
        accounts += [peer_account(peer.id, peer.asset) for peer in (ALICE, BOB, CAROL)]
        assert run(self.ledger.create_accounts(accounts)) == {}
        deposits = [
            deposit(900, ALICE.id, EUR, FUNDS),
            deposit(901, USD.id, USD, 200 * FUNDS),
        ]
        assert run(self.ledger.create_transfers(deposits)) == {}

    def account(self, account_id: int) -> Account:
        (found,) = run(self.ledger.lookup_accounts([account_id]))
        return found  # type: ignore[no-any-return]

    @rule(
        amount=st.integers(0, 400),
        to_carol=st.booleans(),
        expires_in_ms=st.integers(0, 40_000),
    )
    def arrive(self, amount: int, to_carol: bool, expires_in_ms: int) -> None:
        peer = CAROL if to_carol else BOB
        destination = f"{peer.static_ilp_address}.account"
        exchange = self.bench.prepare(destination, amount, expires_in_ms=expires_in_ms)
        self.exchanges.append((exchange, peer, amount))

    @precondition(lambda self: self.bench.ledger.queue)
    @rule(chains=st.integers(1, 10))
    def ledger_answers(self, chains: int) -> None:
        """One request of some chains; the pipeline reacts to each answer."""
        taken = self.bench.ledger.queue[:chains]
        del self.bench.ledger.queue[:chains]
        transfers: list[Transfer] = [transfer for chain, _, _ in taken for transfer in chain]
        failures = run(self.ledger.create_transfers(transfers))
        start = 0
        for chain, done, packet in taken:
            done(packet, *chain_status(failures, start, len(chain)))
            start += len(chain)
        self.open += [sent[2] for sent in self.bench.links.sent]
        self.bench.links.sent.clear()

    @precondition(lambda self: self.open)
    @rule(
        place=st.integers(0, 10**6),
        answer=st.sampled_from(["fulfill", "fulfill", "wrong", "reject", "garbage", "cut", "http"]),
        twice=st.booleans(),
    )
    def next_hop_answers(self, place: int, answer: str, twice: bool) -> None:
        packet = self.open.pop(place % len(self.open))
        pipeline = self.bench.pipeline
        for _ in range(2 if twice else 1):
            match answer:
                case "fulfill":
                    pipeline.receive_reply(packet, encode_fulfill(FULFILLMENT))
                case "wrong":
                    pipeline.receive_reply(packet, encode_fulfill(bytes(32)))
                case "reject":
                    pipeline.receive_reply(packet, encode_reject("T01", "test.bob", "no"))
                case "garbage":
                    pipeline.receive_reply(packet, b"\x0d\x00")
                case "cut":
                    pipeline.receive_link_failure(packet, LinkFailure.CUT)
                case _:
                    pipeline.receive_link_failure(packet, LinkFailure.HTTP_ERROR)

    @precondition(lambda self: self.exchanges)
    @rule(place=st.integers(0, 10**6))
    def previous_hop_hangs_up(self, place: int) -> None:
        self.exchanges[place % len(self.exchanges)][0].closed = True

    @rule(ms=st.integers(1, 5000))
    def time_passes(self, ms: int) -> None:
        self.bench.pass_ms(ms)

    @rule(ms=st.integers(1, 60_000))
    def we_stall(self, ms: int) -> None:
        """Time passes and no timer runs; then one does."""
        self.bench.clock.advance_ms(ms)
        self.bench.pipeline.tick()

    def teardown(self) -> None:
        if not hasattr(self, "ledger"):
            return
        for _ in range(100):
            while self.bench.ledger.queue:
                self.ledger_answers(10)
            if not self.bench.pipeline.in_flight:
                break
            self.bench.clock.advance_ms(1000)
            self.bench.pipeline.tick()
        assert self.bench.pipeline.in_flight == 0
        self.check_books()

    def check_books(self) -> None:
        assert all(len(exchange.answers) == 1 for exchange, _, _ in self.exchanges)
        everything = run(self.ledger.query_accounts())
        for account in everything:
            assert (account.debits_pending, account.credits_pending) == (0, 0)
        for ledger in (EUR.ledger, USD.ledger):
            of_ledger = [a for a in everything if a.ledger == ledger]
            debits = sum(a.debits_posted for a in of_ledger)
            assert debits == sum(a.credits_posted for a in of_ledger)
        fulfilled = [(p, n) for exchange, p, n in self.exchanges if exchange.fulfilled]
        # We owe every next hop what it fulfilled in time, and nothing else.
        assert balance(self.account(BOB.id)) == sum(n for p, n in fulfilled if p is BOB) - (
            self.unpaid(BOB)
        )
        assert balance(self.account(CAROL.id)) == sum(
            n * 108 for p, n in fulfilled if p is CAROL
        ) - self.unpaid(CAROL)
        # Only a hold that was gone when its fulfil arrived can leave something unpaid.
        assert self.bench.pipeline.alarms <= 2 * self.bench.pipeline.late_bookings
        if not self.bench.pipeline.alarms:
            paid = FUNDS - balance(self.account(ALICE.id))
            assert paid == sum(n for _, n in fulfilled)

    def unpaid(self, peer: Peer) -> int:
        """Fulfilled, but neither the sender's money nor ours was there to book it: alarmed."""
        if not self.bench.pipeline.alarms:
            return 0
        amounts = [
            n if peer is BOB else n * 108 for e, p, n in self.exchanges if p is peer and e.fulfilled
        ]
        return max(0, sum(amounts) - balance(self.account(peer.id)))


PacketLives.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestPacketLives = PacketLives.TestCase
