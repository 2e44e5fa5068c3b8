"""Every row of MONEY.md's tables of packets and of the life of a reservation."""

import pytest

from connector.directory import Peer
from connector.ledger import plan
from connector.ledger.ledger import (
    AMOUNT_MAX,
    LINKED,
    PENDING,
    POST_PENDING_TRANSFER,
    VOID_PENDING_TRANSFER,
    Transfer,
    TransferStatus,
)
from connector.packets import ildcp
from connector.packets.expiry import format_expiry, parse_expiry
from connector.packets.ilp import (
    Fulfill,
    decode_amount_too_large,
    encode_fulfill,
    encode_prepare,
)
from connector.pipeline import FULFILLED, REJECTED, PacketRules
from connector.ports import LinkFailure
from tests.support.pipeline import (
    ALICE,
    BOB,
    CAROL,
    CONDITION,
    EUR,
    FULFILLMENT,
    USD,
    Bench,
    HandExchange,
)


def changed(peer: Peer, **changes: object) -> Peer:
    fields = {name: getattr(peer, name) for name in peer.__struct_fields__}
    return Peer(**(fields | changes))


def is_post(chain: tuple[Transfer, ...]) -> bool:
    return bool(chain[0].flags & POST_PENDING_TRANSFER)


def is_void(chain: tuple[Transfer, ...]) -> bool:
    return bool(chain[0].flags & VOID_PENDING_TRANSFER)


class TestForwarding:
    def test_money_is_held_before_a_byte_leaves_and_posted_before_the_answer(self) -> None:
        bench = Bench()
        exchange = bench.prepare(amount=100)
        assert bench.links.sent == []
        (held,) = bench.ledger.answer()
        assert (held.debit_account_id, held.credit_account_id) == (ALICE.id, BOB.id)
        assert (held.amount, held.ledger, held.code, held.flags) == (100, 1, 1, PENDING)

        bench.fulfill()
        assert exchange.answers == []
        (posted,) = bench.ledger.answer()
        assert posted.pending_id == held.id
        assert posted.id == held.id | plan.POST
        assert (posted.amount, posted.flags) == (AMOUNT_MAX, POST_PENDING_TRANSFER)
        assert exchange.reply == Fulfill(
            FULFILLMENT, b"thanks", encode_fulfill(FULFILLMENT, b"thanks")
        )
        assert bench.pipeline.in_flight == 0
        assert bench.account(BOB).in_flight == 0

    def test_the_packet_goes_on_with_amount_and_expiry_changed_and_nothing_else(self) -> None:
        bench = Bench()
        bench.prepare("test.carol.shop", 100, data=b"sealed")
        bench.ledger.answer()
        peer, sent, packet, connect_until, reply_until = bench.links.sent[0]
        assert peer is CAROL
        assert (sent.amount, sent.destination, sent.data) == (10_800, "test.carol.shop", b"sealed")
        assert sent.execution_condition == CONDITION
        assert parse_expiry(sent.expires_at) == bench.clock.wall + 19_000
        assert connect_until == pytest.approx(bench.clock.seconds + 5)
        assert reply_until > packet.decide_until

    def test_a_short_packet_looks_for_a_connection_only_while_it_may_be_sent(self) -> None:
        bench = Bench()
        bench.prepare(expires_in_ms=4000)
        bench.ledger.answer()
        assert bench.links.sent[0][3] == pytest.approx(bench.clock.seconds + 2.5)

    def test_across_assets_two_legs_are_linked_source_first(self) -> None:
        bench = Bench()
        bench.prepare("test.carol.shop", 99)
        first, second = bench.ledger.answer()
        assert (first.debit_account_id, first.credit_account_id) == (ALICE.id, EUR.id)
        assert (first.amount, first.ledger, first.flags) == (99, 1, PENDING | LINKED)
        assert (second.debit_account_id, second.credit_account_id) == (USD.id, CAROL.id)
        assert (second.amount, second.ledger, second.flags) == (99 * 108, 2, PENDING)
        assert second.id == first.id | 1
        bench.fulfill()
        post = bench.ledger.answer()
        assert [leg.pending_id for leg in post] == [first.id, second.id]
        assert [leg.flags for leg in post] == [
            POST_PENDING_TRANSFER | LINKED,
            POST_PENDING_TRANSFER,
        ]

    def test_transfers_carry_what_recovery_will_need(self) -> None:
        bench = Bench(rules=PacketRules(ledger_grace_s=300))
        bench.prepare(expires_in_ms=20_000)
        (held,) = bench.ledger.seen[0]
        assert held.user_data_128 == held.id == held.id & ~15
        assert held.id >> 80 == bench.clock.wall
        assert held.user_data_64 == bench.clock.wall + 19_000 + 500
        assert held.user_data_32 == 1 << 24 | 7
        assert held.timeout == 20 + 300

    def test_an_amount_of_zero_moves_no_money_but_still_expires(self) -> None:
        bench = Bench()
        exchange = bench.prepare(amount=0)
        assert bench.ledger.seen == []
        assert bench.links.sent[0][1].amount == 0
        bench.pass_ms(19_000 + 500 + 40)
        assert exchange.reject.code == "R00"
        assert bench.pipeline.in_flight == 0

    def test_an_amount_of_zero_is_fulfilled_without_a_post(self) -> None:
        bench = Bench()
        exchange = bench.prepare(amount=0)
        bench.fulfill()
        assert exchange.fulfilled
        assert bench.ledger.seen == []

    def test_a_reject_comes_back_as_it_is_and_does_not_wait_for_the_void(self) -> None:
        bench = Bench()
        exchange = bench.prepare()
        (held,) = bench.ledger.answer()
        raw = bench.reject("T04", "exceeded")
        assert exchange.answers == [raw]
        assert bench.pipeline.in_flight == 1
        (void,) = bench.ledger.answer()
        assert (void.id, void.pending_id) == (held.id | plan.VOID, held.id)
        assert (void.amount, void.code, void.flags) == (0, 0, VOID_PENDING_TRANSFER)
        assert bench.pipeline.in_flight == 0

    def test_ids_grow_strictly_within_a_worker_also_when_the_clock_steps_back(self) -> None:
        bench = Bench()
        for step in (0, 0, 5, -3_600_000, 1):
            bench.clock.wall += step
            bench.prepare()
        bases = [chain[0].id for chain in bench.ledger.seen]
        assert bases == sorted(set(bases))
        assert all(base % 16 == 0 for base in bases)


class TestRefusals:
    def refused(self, bench: Bench, exchange: HandExchange, code: str) -> bytes:
        assert exchange.reject.code == code
        assert exchange.reject.triggered_by == "test.node"
        assert bench.ledger.seen == []
        assert bench.links.sent == []
        assert bench.pipeline.in_flight == 0
        return exchange.reject.data

    def test_what_is_no_prepare_is_no_ilp_conversation(self) -> None:
        bench = Bench()
        exchange = HandExchange()
        bench.pipeline.receive_prepare(bench.account(ALICE), b"\x0c\x05hello", exchange)
        assert exchange.answers == []
        ((status, message),) = exchange.refusals
        assert status == 400
        assert "prepare" in message

    @pytest.mark.parametrize(
        "destination", ["test.nowhere", "test.bobby", "peer.route.control", "test.node.alice.x"]
    )
    def test_no_way_on(self, destination: str) -> None:
        bench = Bench()
        self.refused(bench, bench.prepare(destination), "F02")

    def test_back_to_the_sender_only_where_configured(self) -> None:
        alice = changed(ALICE, endpoint="http://alice.test/")
        bench = Bench(alice, BOB)
        self.refused(bench, bench.prepare("test.node.alice.x"), "F02")
        bench = Bench(alice, BOB, rules=PacketRules(route_to_sender=True))
        bench.prepare("test.node.alice.x")
        assert len(bench.ledger.seen) == 1

    def test_the_next_longest_prefix_takes_over_where_the_best_is_the_sender(self) -> None:
        bob = changed(BOB, routes=("test.node",))
        bench = Bench(ALICE, bob)
        bench.prepare("test.node.alice.x")
        bench.ledger.answer()
        assert bench.links.sent[0][0] is bob

    @pytest.mark.parametrize(
        ("own", "destination"), [("g.node", "test.bob.x"), ("test.node", "g.bob.x")]
    )
    def test_test_and_live_networks_do_not_mix(self, own: str, destination: str) -> None:
        bob = changed(BOB, routes=("test.bob", "g.bob"))
        bench = Bench(ALICE, bob, address=own)
        exchange = bench.prepare(destination)
        assert exchange.reject.code == "F02"
        assert bench.ledger.seen == []

    def test_a_peer_without_endpoint_only_sends(self) -> None:
        bench = Bench()
        self.refused(bench, bench.prepare("test.node.alice.x", source=BOB), "F02")

    def test_above_the_maximum_packet_amount(self) -> None:
        bench = Bench(changed(ALICE, max_packet_amount=99), BOB)
        data = self.refused(bench, bench.prepare(amount=100), "F08")
        assert decode_amount_too_large(data) == (100, 99)
        bench.prepare(amount=99)
        assert len(bench.ledger.seen) == 1

    def test_no_rate(self) -> None:
        bench = Bench()
        self.refused(bench, bench.prepare("test.bob.x", source=CAROL), "F07")

    def test_a_rate_that_is_too_old(self) -> None:
        bench = Bench()
        bench.clock.advance_ms(9_001_000)
        self.refused(bench, bench.prepare("test.carol.x"), "F07")

    def test_converts_to_nothing(self) -> None:
        bench = Bench()
        usd = changed(CAROL, asset=EUR, id=9)
        eur = changed(BOB, asset=USD)
        bench.apply(usd, eur)
        from connector.directory import RateTable
        from connector.money import Ratio

        bench.pipeline.apply_rates(RateTable({("EUR", "USD"): Ratio(1, 10_000)}, {"EUR": 1e9}))
        self.refused(bench, bench.prepare("test.bob.x", 99, source=usd), "R01")
        bench.prepare("test.bob.x", 100, source=usd)
        assert bench.ledger.seen[0][1].amount == 1

    def test_converts_to_more_than_a_packet_can_say(self) -> None:
        bench = Bench()
        data = self.refused(bench, bench.prepare("test.carol.x", 2**60), "F08")
        received, maximum = decode_amount_too_large(data)
        assert received == 2**60
        assert maximum * 108 < 2**64 <= (maximum + 1) * 108

    @pytest.mark.parametrize("expires_in_ms", [-1, 0, 1999])
    def test_too_little_time(self, expires_in_ms: int) -> None:
        bench = Bench()
        self.refused(bench, bench.prepare(expires_in_ms=expires_in_ms), "R02")

    def test_two_seconds_are_enough_and_a_long_expiry_is_cut_to_the_hold_time(self) -> None:
        bench = Bench()
        bench.prepare(expires_in_ms=2000)
        bench.prepare(expires_in_ms=10**9)
        bench.ledger.answer()
        bench.ledger.answer()
        short, long = (parse_expiry(sent[1].expires_at) for sent in bench.links.sent)
        assert short == bench.clock.wall + 1000
        assert long == bench.clock.wall + 30_000

    def test_too_many_on_the_way_to_one_peer(self) -> None:
        bench = Bench(ALICE, changed(BOB, max_in_flight=2))
        bench.prepare()
        bench.prepare()
        assert bench.prepare().reject.code == "T03"
        bench.ledger.answer()
        bench.reject()
        bench.ledger.queue.pop(0)[1](bench.sent(), 0, TransferStatus.EXCEEDS_CREDITS)
        assert bench.prepare().answers == []

    def test_too_much_on_the_way_to_one_peer(self) -> None:
        bench = Bench(ALICE, changed(BOB, max_in_flight_amount=150))
        bench.prepare(amount=100)
        assert bench.prepare(amount=51).reject.code == "T04"
        assert bench.prepare(amount=50).answers == []

    def test_a_silent_ledger_holds_nothing_more_but_lets_zero_amounts_pass(self) -> None:
        bench = Bench()
        bench.ledger.silent = True
        self.refused(bench, bench.prepare(), "T03")
        bench.prepare(amount=0)
        assert len(bench.links.sent) == 1

    def test_a_draining_node_takes_nothing_new(self) -> None:
        bench = Bench()
        bench.pipeline.accepting = False
        self.refused(bench, bench.prepare(), "T03")

    def test_limits_are_asked_in_order_packets_then_amounts(self) -> None:
        class Taken:
            def __init__(self, answer: bool) -> None:
                self.answer = answer
                self.asked: list[int] = []

            def take(self, amount: int) -> bool:
                self.asked.append(amount)
                return self.answer

        bench = Bench()
        account = bench.account(ALICE)
        account.packet_quota, account.amount_quota = packets, amounts = Taken(True), Taken(False)
        assert bench.prepare(amount=100).reject.code == "T04"
        assert (packets.asked, amounts.asked) == ([1], [100])
        packets.answer = False
        assert bench.prepare().reject.code == "T05"
        assert amounts.asked == [100]


class TestLedgerRefusesTheHold:
    @pytest.mark.parametrize(
        ("leg", "status", "code", "message"),
        [
            (0, TransferStatus.EXCEEDS_CREDITS, "T04", "exceeded maximum balance."),
            (1, TransferStatus.EXCEEDS_CREDITS, "T04", "insufficient liquidity"),
            (
                0,
                TransferStatus.EXISTS_WITH_DIFFERENT_AMOUNT,
                "T00",
                "the ledger refused the transfer",
            ),
            (0, 0, "T00", "the ledger refused the transfer"),
            (0, 999, "T00", "the ledger refused the transfer"),
        ],
    )
    def test_tells_the_sender_why(self, leg: int, status: int, code: str, message: str) -> None:
        bench = Bench()
        exchange = bench.prepare("test.carol.x")
        bench.ledger.answer(status, leg)
        assert (exchange.reject.code, exchange.reject.message) == (code, message)
        assert bench.links.sent == []
        assert bench.ledger.queue == []
        assert bench.pipeline.in_flight == 0

    def test_an_account_it_does_not_know_asks_for_a_fresh_directory(self) -> None:
        bench = Bench()
        exchange = bench.prepare()
        bench.ledger.answer(TransferStatus.CREDIT_ACCOUNT_NOT_FOUND)
        assert exchange.reject.code == "T00"
        assert bench.missing_accounts == 1

    def test_a_repeated_hold_that_exists_counts_as_held(self) -> None:
        bench = Bench()
        bench.prepare()
        bench.ledger.answer(TransferStatus.EXISTS)
        assert len(bench.links.sent) == 1


class TestSilentLedger:
    def test_silence_past_the_reserve_deadline_is_answered_and_the_late_hold_given_back(
        self,
    ) -> None:
        bench = Bench()
        exchange = bench.prepare()
        bench.pass_ms(980)
        assert exchange.answers == []
        bench.pass_ms(60)
        assert exchange.reject.code == "T03"
        assert len(bench.ledger.queue) == 1, "no void before the hold is known to exist"
        bench.ledger.answer()
        assert bench.links.sent == []
        assert is_void(bench.ledger.answer())
        assert bench.pipeline.in_flight == 0

    def test_silence_and_then_a_refusal_leaves_nothing_to_void(self) -> None:
        bench = Bench()
        bench.prepare()
        bench.pass_ms(1100)
        bench.ledger.answer(TransferStatus.EXCEEDS_CREDITS)
        assert bench.ledger.queue == []
        assert bench.pipeline.in_flight == 0

    def test_a_short_packet_shortens_the_reserve_deadline(self) -> None:
        bench = Bench()
        exchange = bench.prepare(expires_in_ms=2000)
        bench.pass_ms(540)
        assert exchange.reject.code == "T03"

    def test_a_post_without_answer_lets_the_fulfil_go_at_the_reply_deadline(self) -> None:
        bench = Bench()
        exchange = bench.prepare(expires_in_ms=20_000)
        bench.ledger.answer()
        bench.fulfill()
        bench.pass_ms(19_780)
        assert exchange.answers == []
        bench.pass_ms(60)
        assert exchange.fulfilled
        assert bench.pipeline.in_flight == 1, "the post is still pursued"
        bench.ledger.answer()
        assert len(exchange.answers) == 1
        assert bench.pipeline.in_flight == 0


class TestWhileSending:
    @pytest.mark.parametrize(
        ("failure", "code"),
        [
            (LinkFailure.UNREACHABLE, "T01"),
            (LinkFailure.CUT, "T01"),
            (LinkFailure.HTTP_ERROR, "T00"),
        ],
    )
    def test_a_failed_link_gives_the_money_back(self, failure: LinkFailure, code: str) -> None:
        bench = Bench()
        exchange = bench.prepare(amount=70)
        bench.ledger.answer()
        bench.fail(failure)
        assert exchange.reject.code == code
        assert is_void(bench.ledger.answer())
        bob = bench.account(BOB)
        cut = failure is LinkFailure.CUT
        assert (bob.uncertain_out, bob.uncertain_out_amount) == ((1, 70) if cut else (0, 0))

    def test_a_wrong_fulfillment_is_not_passed_on(self) -> None:
        bench = Bench()
        exchange = bench.prepare()
        bench.ledger.answer()
        bench.fulfill(bytes(32))
        assert exchange.reject.code == "F05"
        assert is_void(bench.ledger.answer())

    def test_an_answer_that_is_no_packet(self) -> None:
        bench = Bench()
        exchange = bench.prepare()
        bench.ledger.answer()
        bench.pipeline.receive_reply(bench.sent(), b"<html>")
        assert exchange.reject.code == "T00"
        assert is_void(bench.ledger.answer())

    def test_the_decision_deadline_ends_the_wait(self) -> None:
        bench = Bench()
        exchange = bench.prepare(expires_in_ms=20_000, amount=40)
        bench.ledger.answer()
        bench.pass_ms(19_480)
        assert exchange.answers == []
        bench.pass_ms(60)
        assert exchange.reject.code == "R00"
        assert is_void(bench.ledger.answer())
        bench.fulfill()
        assert len(exchange.answers) == 1
        bob = bench.account(BOB)
        assert (bob.late_fulfils, bob.late_fulfil_amount) == (1, 40)

    @pytest.mark.parametrize(
        ("late_ms", "fulfilled"), [(-1, True), (1, True), (499, True), (501, False)]
    )
    def test_a_fulfil_at_the_expiry_counts_until_the_decision_deadline(
        self, late_ms: int, fulfilled: bool
    ) -> None:
        bench = Bench()
        exchange = bench.prepare(expires_in_ms=20_000)
        bench.ledger.answer()
        bench.clock.advance_ms(19_000 + late_ms)  # No timer runs: the clock alone must decide.
        bench.fulfill()
        assert is_post(bench.ledger.answer()) is fulfilled
        assert exchange.fulfilled is fulfilled
        assert bench.account(BOB).late_fulfils == (0 if fulfilled else 1)

    def test_without_slack_the_expiry_is_read_strictly(self) -> None:
        bench = Bench(rules=PacketRules(late_fulfil_slack_ms=0))
        exchange = bench.prepare(expires_in_ms=20_000)
        bench.ledger.answer()
        bench.clock.advance_ms(19_001)
        bench.fulfill()
        assert exchange.reject.code == "R00"

    @pytest.mark.parametrize("jump_ms", [-3_600_000, 3_600_000])
    def test_a_jump_of_the_wall_clock_changes_no_deadline(self, jump_ms: int) -> None:
        bench = Bench()
        exchange = bench.prepare(expires_in_ms=20_000)
        bench.ledger.answer()
        bench.clock.wall += jump_ms
        bench.pass_ms(19_400)
        assert exchange.answers == []
        bench.fulfill()
        bench.ledger.answer()
        assert exchange.fulfilled

    def test_two_answers_are_one_decision(self) -> None:
        bench = Bench()
        exchange = bench.prepare()
        bench.ledger.answer()
        bench.fulfill()
        bench.reject()
        bench.fail(LinkFailure.CUT)
        bench.fulfill()
        assert [is_post(chain) for chain in bench.ledger.seen[1:]] == [True]
        bench.ledger.answer()
        assert exchange.fulfilled
        assert bench.account(BOB).sent_fulfills == 1

    def test_the_decision_point_takes_the_first_verdict_only(self) -> None:
        bench = Bench()
        exchange = bench.prepare()
        bench.ledger.answer()
        packet = bench.sent()
        assert bench.pipeline.decide(packet, REJECTED, b"first", "T00")
        assert not bench.pipeline.decide(packet, FULFILLED, b"second")
        assert exchange.answers == [b"first"]
        assert [is_void(chain) for chain in bench.ledger.seen[1:]] == [True]

    def test_a_hold_that_came_too_late_is_given_back_unsent(self) -> None:
        bench = Bench()
        exchange = bench.prepare(expires_in_ms=2000)
        bench.clock.advance_ms(501)
        bench.ledger.answer()
        assert exchange.reject.code == "R00"
        assert bench.links.sent == []
        assert is_void(bench.ledger.answer())

    def test_a_sender_who_left_before_we_sent_costs_nobody(self) -> None:
        bench = Bench()
        exchange = bench.prepare()
        exchange.closed = True
        bench.ledger.answer()
        assert bench.links.sent == []
        assert is_void(bench.ledger.answer())

    def test_a_sender_who_left_after_we_sent_still_pays_and_is_listed(self) -> None:
        bench = Bench()
        exchange = bench.prepare(amount=30)
        bench.ledger.answer()
        exchange.closed = True
        bench.fulfill()
        assert is_post(bench.ledger.answer())
        alice = bench.account(ALICE)
        assert (alice.unacknowledged, alice.unacknowledged_amount) == (1, 30)

    def test_an_answer_after_the_senders_expiry_is_posted_and_listed(self) -> None:
        bench = Bench()
        exchange = bench.prepare(amount=30, expires_in_ms=20_000)
        bench.ledger.answer()
        bench.fulfill()
        bench.clock.advance_ms(20_001)  # Our own stall: no timer ran.
        bench.ledger.answer()
        assert exchange.fulfilled
        alice = bench.account(ALICE)
        assert (alice.answered_late, alice.answered_late_amount) == (1, 30)


class TestPostRefused:
    @pytest.mark.parametrize(
        "status",
        [
            TransferStatus.PENDING_TRANSFER_EXPIRED,
            TransferStatus.PENDING_TRANSFER_ALREADY_VOIDED,
        ],
    )
    def test_the_fulfil_is_answered_and_the_legs_are_booked_late(
        self, status: TransferStatus
    ) -> None:
        bench = Bench()
        exchange = bench.prepare("test.carol.x", 50)
        held = bench.ledger.answer()
        bench.fulfill()
        bench.ledger.answer(status)
        assert exchange.fulfilled
        booked = bench.ledger.answer()
        assert [leg.id for leg in booked] == [held[0].id | 12, held[0].id | 13]
        assert [leg.flags for leg in booked] == [LINKED, 0]
        for late, leg in zip(booked, held, strict=True):
            assert late.amount == leg.amount
            assert late.debit_account_id == leg.debit_account_id
            assert late.credit_account_id == leg.credit_account_id
            assert late.user_data_32 == 7 << 24 | 7
            assert (late.timeout, late.pending_id) == (0, 0)
        assert bench.pipeline.in_flight == 0
        assert bench.pipeline.alarms == 0

    def test_where_the_sender_cannot_pay_the_loss_is_booked_as_ours(self) -> None:
        bench = Bench()
        bench.prepare("test.carol.x", 50)
        held = bench.ledger.answer()
        bench.fulfill()
        bench.ledger.answer(TransferStatus.PENDING_TRANSFER_EXPIRED)
        bench.ledger.answer(TransferStatus.EXCEEDS_CREDITS)
        (loss,) = bench.ledger.answer()
        assert loss.id == held[0].id | 14
        assert (loss.debit_account_id, loss.credit_account_id) == (USD.id, CAROL.id)
        assert loss.amount == held[1].amount
        assert bench.pipeline.alarms == 1
        assert bench.pipeline.in_flight == 0

    def test_a_loss_that_cannot_be_booked_is_alarmed_again(self) -> None:
        bench = Bench()
        bench.prepare()
        bench.ledger.answer()
        bench.fulfill()
        bench.ledger.answer(TransferStatus.PENDING_TRANSFER_EXPIRED)
        bench.ledger.answer(TransferStatus.EXCEEDS_CREDITS)
        bench.ledger.answer(TransferStatus.EXCEEDS_CREDITS)
        assert bench.pipeline.alarms == 2
        assert bench.pipeline.in_flight == 0

    def test_a_post_that_someone_made_already_is_a_post(self) -> None:
        bench = Bench()
        exchange = bench.prepare()
        bench.ledger.answer()
        bench.fulfill()
        bench.ledger.answer(TransferStatus.EXISTS)
        assert exchange.fulfilled
        assert bench.ledger.queue == []
        assert bench.pipeline.alarms == 0

    def test_any_other_refusal_is_answered_and_alarmed(self) -> None:
        bench = Bench()
        exchange = bench.prepare()
        bench.ledger.answer()
        bench.fulfill()
        bench.ledger.answer(TransferStatus.PENDING_TRANSFER_NOT_FOUND)
        assert exchange.fulfilled
        assert bench.pipeline.alarms == 1
        assert bench.pipeline.in_flight == 0


class TestPeerProtocols:
    def request(self, bench: Bench, destination: str, condition: bytes) -> HandExchange:
        return bench.prepare(destination, 0, condition=condition, data=b"")

    def test_ildcp_tells_a_child_its_address_and_asset(self) -> None:
        bench = Bench()
        exchange = self.request(bench, "peer.config", ildcp.PEER_CONDITION)
        reply = exchange.reply
        assert isinstance(reply, Fulfill)
        assert reply.fulfillment == bytes(32)
        response = ildcp.decode_response(reply.data)
        assert response.client_address == "test.node.alice"
        assert (response.asset_scale, response.asset_code) == (2, "EUR")
        assert bench.ledger.seen == []

    def test_a_request_with_another_condition_is_refused(self) -> None:
        bench = Bench()
        assert not self.request(bench, "peer.config", CONDITION).fulfilled

    def test_peer_addresses_are_never_forwarded(self) -> None:
        bench = Bench(ALICE, changed(BOB, routes=("peer.x", "")))
        assert self.request(bench, "peer.x.y", ildcp.PEER_CONDITION).reject.code == "F02"
        assert bench.links.sent == []


class TestDirectory:
    def test_a_token_names_its_account_and_a_wrong_one_nobody(self) -> None:
        bench = Bench()
        account = bench.pipeline.authenticate(b"token-alice")
        assert account is bench.account(ALICE)
        assert bench.pipeline.authenticate(b"token-mallory") is None
        assert bench.pipeline.authenticate(b"") is None

    def test_a_change_keeps_counts_and_acts_on_the_next_packet(self) -> None:
        bench = Bench()
        bench.prepare()
        bench.apply(changed(ALICE, max_packet_amount=10), BOB)
        assert bench.prepare(amount=100).reject.code == "F08"
        assert bench.account(ALICE).prepares == 2

    def test_a_packet_in_flight_outlives_its_peers_removal(self) -> None:
        bench = Bench()
        exchange = bench.prepare()
        bench.ledger.answer()
        bench.apply(ALICE)
        assert bench.prepare().reject.code == "F02"
        bench.fulfill()
        bench.ledger.answer()
        assert exchange.fulfilled

    def test_unknown_codes_from_peers_share_one_counter(self) -> None:
        bench = Bench()
        for code in ("T77", "X01", "T00"):
            bench.prepare()
            bench.ledger.answer()
            bench.reject(code)
            bench.ledger.answer()
        assert bench.account(BOB).sent_rejects == {"other": 2, "T00": 1}


def test_expiries_are_text_of_the_same_moment() -> None:
    bench = Bench()
    raw = encode_prepare(1, format_expiry(bench.clock.wall + 5000), CONDITION, "test.bob.x", b"")
    exchange = HandExchange()
    bench.pipeline.receive_prepare(bench.account(ALICE), raw, exchange)
    bench.ledger.answer()
    assert bench.links.sent[0][1].expires_at == format_expiry(bench.clock.wall + 4000)
