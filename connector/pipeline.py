"""The way of a packet: one Prepare in, one Fulfill or Reject out. THE HOT PATH.

Read from top to bottom: ``receive_prepare`` admits, routes, converts and reserves; ``_held`` sends;
``receive_reply`` judges; ``decide`` answers and resolves; ``_posted`` and ``_voided`` end it.
In between the packet waits in ``_in_flight`` for the ledger, the next hop or a deadline.
There is no await, no task and no lock: the steps run in the one loop that owns the packet, so each
decision is taken once. MONEY.md, sections 2 and 3, is the specification.

This module must never write a log line, query a store or look up a metric label for a packet that
goes well.
"""

from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Final

import msgspec
import structlog

from connector.deadlines import DeadlineWheel
from connector.directory import EMPTY, NO_RATES, Directory, Peer, RateTable
from connector.errors import DecodeError
from connector.ledger import plan
from connector.ledger.outcome import (
    hold_refusal,
    is_account_missing,
    is_applied,
    is_released,
)
from connector.metrics import Histogram
from connector.money import U64_MAX, convert_floor, largest_source_floor
from connector.packets import codes, ildcp
from connector.packets.expiry import format_expiry, parse_expiry
from connector.packets.ilp import (
    Fulfill,
    Prepare,
    Reject,
    decode_prepare,
    decode_reply,
    encode_amount_too_large,
    encode_fulfill,
    encode_reject,
    rewrite_prepare,
)
from connector.policy import outgoing_expiry_ms
from connector.ports import Exchange, LedgerQueue, LinkFailure, Links, Quota

log = structlog.get_logger(__name__)

UNDECIDED: Final = 0
FULFILLED: Final = 1
REJECTED: Final = 2

# A packet is only sent while the next hop has at least this long to answer.
SEND_MARGIN_S: Final = 0.5
RESERVE_WAIT_MAX_S: Final = 1.0
# We stop waiting for the ledger this long before the previous hop's expiry, for the way back.
REPLY_MARGIN_MS: Final = 200
# A peer that cannot be connected to for this long is told to the sender, who knows what to do with
# the rest of the packet's time; the money is not held for nothing.
CONNECT_WAIT_MAX_S: Final = 5.0
# How long after its decision a next hop may still answer, to be counted.
LATE_REPLY_S: Final = 5.0
IN_FLIGHT_MAX: Final = 50_000


class PacketRules(msgspec.Struct, frozen=True):
    """The bounds of a packet's life, from settings; all in ms but ledger_grace_s (s)."""

    expiry_margin_ms: int = 1000
    hold_ms_max: int = 30_000
    late_fulfil_slack_ms: int = 500
    ledger_grace_s: int = 300
    route_to_sender: bool = False


class Account:
    """One peer as the packet path knows it: its configuration, its limits, its counts."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.packet_quota: Quota | None = None
        self.amount_quota: Quota | None = None
        # On the way to this peer.
        self.in_flight = 0
        self.in_flight_amount = 0
        # As the previous hop.
        self.prepares = 0
        self.fulfills = 0
        self.fulfilled_amount = 0
        self.rejects: dict[str, int] = {}
        self.answered_late = 0
        self.answered_late_amount = 0
        self.unacknowledged = 0
        self.unacknowledged_amount = 0
        # As the next hop.
        self.sent = 0
        self.sent_fulfills = 0
        self.sent_fulfilled_amount = 0
        self.sent_rejects: dict[str, int] = {}
        self.late_fulfils = 0
        self.late_fulfil_amount = 0
        self.uncertain_out = 0
        self.uncertain_out_amount = 0


class Refusal(msgspec.Struct, gc=False):
    """Why a packet gets no further: what goes into our own Reject."""

    code: str
    message: str
    data: bytes = b""


class Packet(msgspec.Struct):
    """One packet between its Prepare and the end of its transfers. Deadlines: monotonic seconds."""

    base: int
    prepare: Prepare
    exchange: Exchange
    source: Account
    destination: Account
    destination_amount: int
    expires_at_ms: int
    started: float
    reserve_until: float
    send_until: float
    decide_until: float
    reply_until: float
    hold: plan.Chain = ()
    held: bool = False
    verdict: int = UNDECIDED
    reply: bytes = b""
    answered: bool = False
    done: bool = False
    step_at: float = 0.0


class Pipeline:
    """Carries packets between peers. Owns every packet in flight in this worker."""

    def __init__(
        self,
        *,
        ledger: LedgerQueue,
        slot: int,
        rules: PacketRules,
        wall_ms: Callable[[], int],
        monotonic: Callable[[], float],
        random_bits: Callable[[int], int],
        on_account_missing: Callable[[], None],
    ) -> None:
        """Wire the packet path.

        slot - this worker start's number, 24 bits; on_account_missing - the ledger does not know
        an account that the directory names: the directory should be read again.
        """
        self._ledger = ledger
        # Set by whoever wires the node: links report to the pipeline, so each needs the other.
        self.links: Links
        self._rules = rules
        self._wall_ms = wall_ms
        self._monotonic = monotonic
        self._on_account_missing = on_account_missing
        self._ids = plan.BaseIds(random_bits)
        self._tag = plan.tag(plan.PACKET, slot)
        self._directory: Directory = EMPTY
        self._rates: RateTable = NO_RATES
        self._in_flight: dict[int, Packet] = {}
        self._wheel: DeadlineWheel[Packet] = DeadlineWheel(monotonic())
        self.accounts: dict[int, Account] = {}
        self.accepting = True
        self.undecodable = 0
        self.late_bookings = 0
        self.alarms = 0
        self.reserve_latency = Histogram()
        self.send_latency = Histogram()
        self.post_latency = Histogram()
        self.whole_latency = Histogram()

    # -- configuration -------------------------------------------------------------------------

    def apply_directory(self, directory: Directory) -> None:
        """Take a new snapshot; packets in flight keep what they were admitted with."""
        self._directory = directory
        for peer in directory.peers.values():
            account = self.accounts.get(peer.id)
            if account is None:
                self.accounts[peer.id] = Account(peer)
            else:
                account.peer = peer

    def apply_rates(self, rates: RateTable) -> None:
        self._rates = rates

    def authenticate(self, token: bytes) -> Account | None:
        """The account behind a bearer token, or None.

        The look-up is by SHA-256 of the token, so its timing tells nothing about stored ones.
        """
        peer = self._directory.by_token.get(sha256(token).digest())
        return None if peer is None else self.accounts[peer.id]

    @property
    def in_flight(self) -> int:
        return len(self._in_flight)

    def packets(self) -> Mapping[int, Packet]:
        """What is in flight, by base; for reports and tests."""
        return self._in_flight

    # -- 1. decode, admit, route, convert, reserve ---------------------------------------------

    def receive_prepare(self, source: Account, raw: bytes, exchange: Exchange) -> None:
        """A previous hop sent bytes that should be a Prepare; ``exchange`` takes the one reply."""
        try:
            prepare = decode_prepare(raw)
        except DecodeError as error:
            self.undecodable += 1
            exchange.refuse(400, f"not an ILP Prepare: {error}")
            return
        source.prepares += 1
        refusal = self._admit(source, prepare)
        if refusal is None:
            if prepare.destination.startswith("peer."):
                self._serve_peer_protocol(source, prepare, exchange)
                return
            planned = self._plan(source, prepare, exchange)
            if isinstance(planned, Packet):
                self._reserve(planned)
                return
            refusal = planned
        self._refuse(source, exchange, refusal)

    def _admit(self, source: Account, prepare: Prepare) -> Refusal | None:
        """The rules for what this previous hop may send at all."""
        peer = source.peer
        amount = prepare.amount
        if 0 < peer.max_packet_amount < amount:
            return Refusal(
                codes.F08_AMOUNT_TOO_LARGE,
                "packet amount exceeds the maximum",
                encode_amount_too_large(amount, peer.max_packet_amount),
            )
        if source.packet_quota is not None and not source.packet_quota.take(1):
            return Refusal(codes.T05_RATE_LIMITED, "too many requests, throttling.")
        if source.amount_quota is not None and amount and not source.amount_quota.take(amount):
            return Refusal(
                codes.T04_INSUFFICIENT_LIQUIDITY, "exceeded money bandwidth, throttling."
            )
        if not self.accepting or len(self._in_flight) >= IN_FLIGHT_MAX:
            return Refusal(codes.T03_CONNECTOR_BUSY, "the connector is busy")
        return None

    def _plan(self, source: Account, prepare: Prepare, exchange: Exchange) -> Packet | Refusal:
        """Everything that is known before money is reserved: next hop, amount, deadlines."""
        destination = self._next_hop(source, prepare.destination)
        if isinstance(destination, Refusal):
            return destination
        now = self._monotonic()
        amount = self._convert(source.peer, destination.peer, prepare.amount, now)
        if isinstance(amount, Refusal):
            return amount
        refusal = self._next_hop_refusal(destination, amount)
        if refusal is not None:
            return refusal

        rules = self._rules
        now_ms = self._wall_ms()
        arrived_expiry_ms = parse_expiry(prepare.expires_at)
        expires_at_ms = outgoing_expiry_ms(
            arrived_expiry_ms, now_ms, rules.expiry_margin_ms, rules.hold_ms_max
        )
        if expires_at_ms is None:
            return Refusal(codes.R02_INSUFFICIENT_TIMEOUT, "insufficient timeout")
        # From here on only the monotonic clock counts: a jump of the wall clock changes nothing.
        leaves_in_s = (expires_at_ms - now_ms) / 1000
        decide_in_ms = expires_at_ms - now_ms + rules.late_fulfil_slack_ms
        packet = Packet(
            self._ids.next(now_ms),
            prepare,
            exchange,
            source,
            destination,
            amount,
            expires_at_ms,
            now,
            now + min(RESERVE_WAIT_MAX_S, leaves_in_s - SEND_MARGIN_S),
            now + leaves_in_s - SEND_MARGIN_S,
            now + decide_in_ms / 1000,
            now + (arrived_expiry_ms - now_ms - REPLY_MARGIN_MS) / 1000,
        )
        if prepare.amount:
            packet.hold = plan.hold(
                packet.base,
                self._tag,
                (source.peer.id, source.peer.asset),
                (destination.peer.id, destination.peer.asset),
                prepare.amount,
                amount,
                now_ms + decide_in_ms,
                -(-decide_in_ms // 1000) + rules.ledger_grace_s,
            )
        return packet

    def _next_hop(self, source: Account, destination: str) -> Account | Refusal:
        """The peer with the longest prefix of the destination, the sender left out."""
        directory = self._directory
        peer = source.peer
        own = directory.addresses.get(peer.tenant_id, "")
        if not _is_same_network(own, destination):
            return Refusal(codes.F02_UNREACHABLE, "test and live addresses do not mix")
        table = directory.tables.get(peer.tenant_id)
        if table is not None:
            for hop in table.hops(destination):
                if hop != peer.id or self._rules.route_to_sender:
                    return self.accounts[hop]
        return Refusal(codes.F02_UNREACHABLE, "no route to the destination")

    def _convert(self, source: Peer, destination: Peer, amount: int, now: float) -> int | Refusal:
        """The amount to forward, rounded down."""
        if source.asset.id == destination.asset.id:
            return amount
        if not amount:
            return 0
        ratio = self._rates.ratio(source.asset, destination.asset, now)
        if ratio is None:
            return Refusal(
                codes.F07_CANNOT_RECEIVE,
                f"no exchange rate from {source.asset.code} to {destination.asset.code}",
            )
        converted = convert_floor(amount, ratio)
        if converted == 0:
            return Refusal(codes.R01_INSUFFICIENT_SOURCE_AMOUNT, "the amount converts to nothing")
        if converted > U64_MAX:
            return Refusal(
                codes.F08_AMOUNT_TOO_LARGE,
                "the converted amount is too large",
                encode_amount_too_large(amount, largest_source_floor(U64_MAX, ratio)),
            )
        return converted

    def _next_hop_refusal(self, destination: Account, amount: int) -> Refusal | None:
        """The bounds of what may be under way to one peer: they bound what a crash can cost."""
        peer = destination.peer
        if peer.endpoint is None:
            return Refusal(codes.F02_UNREACHABLE, "the next hop has no endpoint")
        if destination.in_flight >= peer.max_in_flight:
            return Refusal(codes.T03_CONNECTOR_BUSY, "too many packets on the way to the next hop")
        if 0 < peer.max_in_flight_amount < destination.in_flight_amount + amount:
            return Refusal(codes.T04_INSUFFICIENT_LIQUIDITY, "too much on the way to the next hop")
        if amount and self._ledger.silent:
            return Refusal(codes.T03_CONNECTOR_BUSY, "the ledger is not answering")
        return None

    def _reserve(self, packet: Packet) -> None:
        self._in_flight[packet.base] = packet
        packet.destination.in_flight += 1
        packet.destination.in_flight_amount += packet.destination_amount
        if packet.hold:
            self._wheel.add(packet.reserve_until, packet)
            self._ledger.submit(packet.hold, self._held, packet)
        else:
            self._wheel.add(packet.decide_until, packet)
            self._send(packet)

    # -- 2. held: send ---------------------------------------------------------------------------

    def _held(self, packet: Packet, leg: int, status: int) -> None:
        """The ledger answered the hold."""
        now = self._monotonic()
        self.reserve_latency.observe(now - packet.started)
        if not is_applied(leg, status):
            self._hold_refused(packet, leg, status)
            return
        packet.held = True
        if packet.verdict == REJECTED:
            # It came after RESERVE_DEADLINE: the packet is answered, the money goes back.
            self._ledger.submit(plan.void(packet.hold), self._voided, packet)
        elif now < packet.send_until and not packet.exchange.closed:
            self._send(packet)
        else:
            self._reject(packet, codes.R00_TRANSFER_TIMED_OUT, "no time left to forward")

    def _hold_refused(self, packet: Packet, leg: int, status: int) -> None:
        packet.hold = ()
        code, message = hold_refusal(leg, status)
        if is_account_missing(status):
            self._on_account_missing()
        elif code == codes.T00_INTERNAL_ERROR:
            self._alarm("hold_refused", packet, status)
        if packet.verdict == REJECTED:
            self._finish(packet)
        else:
            self._reject(packet, code, message)

    def _send(self, packet: Packet) -> None:
        destination = packet.destination
        destination.sent += 1
        packet.step_at = self._monotonic()
        data = rewrite_prepare(
            packet.prepare, packet.destination_amount, format_expiry(packet.expires_at_ms)
        )
        self.links.send(
            destination.peer,
            data,
            packet,
            min(packet.send_until, packet.step_at + CONNECT_WAIT_MAX_S),
            packet.decide_until + LATE_REPLY_S,
        )

    # -- 3. the next hop answered, or did not ----------------------------------------------------

    def receive_reply(self, packet: Packet, body: bytes) -> None:
        """The next hop's answer, as bytes; judged once, and only before the decision deadline."""
        now = self._monotonic()
        self.send_latency.observe(now - packet.step_at)
        if packet.verdict == UNDECIDED and now > packet.decide_until:
            self._reject(packet, codes.R00_TRANSFER_TIMED_OUT, "packet expired.")
        try:
            reply = decode_reply(body)
        except DecodeError:
            if packet.verdict == UNDECIDED:
                self._reject(
                    packet, codes.T00_INTERNAL_ERROR, "the next hop's answer is no ILP packet"
                )
            return
        destination = packet.destination
        if packet.verdict != UNDECIDED:
            if isinstance(reply, Fulfill):
                destination.late_fulfils += 1
                destination.late_fulfil_amount += packet.destination_amount
        elif isinstance(reply, Reject):
            _count(destination.sent_rejects, reply.code)
            self.decide(packet, REJECTED, reply.raw, reply.code)
        elif sha256(reply.fulfillment).digest() == packet.prepare.execution_condition:
            destination.sent_fulfills += 1
            destination.sent_fulfilled_amount += packet.destination_amount
            packet.step_at = now
            self.decide(packet, FULFILLED, reply.raw)
        else:
            self._reject(packet, codes.F05_WRONG_CONDITION, "fulfillment does not match condition.")

    def receive_link_failure(self, packet: Packet, failure: LinkFailure) -> None:
        """The link has no answer for a packet, and will have none."""
        if packet.verdict != UNDECIDED:
            return
        if failure is LinkFailure.HTTP_ERROR:
            self._reject(
                packet, codes.T00_INTERNAL_ERROR, "the next hop answered with an HTTP error"
            )
            return
        if failure is LinkFailure.CUT:
            packet.destination.uncertain_out += 1
            packet.destination.uncertain_out_amount += packet.destination_amount
        self._reject(packet, codes.T01_PEER_UNREACHABLE, "the next hop cannot be reached")

    def tick(self) -> None:
        """Act on deadlines that have passed. Called by the node every ``deadlines.TICK_S``."""
        now = self._monotonic()
        for packet in self._wheel.expired(now):
            if not packet.done:
                self._expire(packet, now)

    def _expire(self, packet: Packet, now: float) -> None:
        if packet.verdict == UNDECIDED:
            if packet.hold and not packet.held:
                if now >= packet.reserve_until:
                    self._reject(packet, codes.T03_CONNECTOR_BUSY, "the ledger is not answering")
            elif now >= packet.decide_until:
                self._reject(packet, codes.R00_TRANSFER_TIMED_OUT, "packet expired.")
        elif packet.verdict == FULFILLED and not packet.answered and now >= packet.reply_until:
            # The post is still under way; waiting longer would cost us the claim on the sender.
            self._answer_fulfill(packet)
        if packet.verdict == UNDECIDED:
            held = packet.held or not packet.hold
            self._wheel.add(packet.decide_until if held else packet.reserve_until, packet)
        elif packet.verdict == FULFILLED and not packet.answered:
            self._wheel.add(packet.reply_until, packet)

    # -- 4. decide once, then answer and resolve -------------------------------------------------

    def decide(self, packet: Packet, verdict: int, reply: bytes, code: str = "") -> bool:
        """THE decision point: called by reply, deadline and link failure; only the first counts.

        A Fulfill waits for its post (until the reply deadline). A Reject does not wait for its
        void: the money stays held meanwhile, which is the safe side.
        """
        if packet.verdict != UNDECIDED:
            return False
        packet.verdict = verdict
        packet.reply = reply
        if verdict == REJECTED:
            _count(packet.source.rejects, code)
            packet.answered = True
            packet.exchange.answer(reply)
            self.whole_latency.observe(self._monotonic() - packet.started)
            if packet.held:
                self._ledger.submit(plan.void(packet.hold), self._voided, packet)
            elif not packet.hold:
                self._finish(packet)
        elif packet.hold:
            self._ledger.submit(plan.post(packet.hold), self._posted, packet)
        else:
            self._answer_fulfill(packet)
            self._finish(packet)
        return True

    def _reject(self, packet: Packet, code: str, message: str) -> None:
        reply = self._own_reject(packet.source, Refusal(code, message))
        self.decide(packet, REJECTED, reply, code)

    def _posted(self, packet: Packet, leg: int, status: int) -> None:
        """The ledger answered the post. It decides how long we waited, never what we answer."""
        self.post_latency.observe(self._monotonic() - packet.step_at)
        if not packet.answered:
            self._answer_fulfill(packet)
        if is_applied(leg, status):
            self._finish(packet)
        elif is_released(status):
            self.late_bookings += 1
            self._ledger.submit(plan.late_booking(packet.hold), self._booked_late, packet)
        else:
            self._alarm("post_refused", packet, status)
            self._finish(packet)

    def _answer_fulfill(self, packet: Packet) -> None:
        now = self._monotonic()
        source = packet.source
        amount = packet.prepare.amount
        packet.answered = True
        source.fulfills += 1
        source.fulfilled_amount += amount
        if packet.exchange.closed:
            source.unacknowledged += 1
            source.unacknowledged_amount += amount
        elif now > packet.reply_until + REPLY_MARGIN_MS / 1000:
            source.answered_late += 1
            source.answered_late_amount += amount
        packet.exchange.answer(packet.reply)
        self.whole_latency.observe(now - packet.started)

    def _voided(self, packet: Packet, leg: int, status: int) -> None:
        if not is_applied(leg, status) and not is_released(status):
            self._alarm("void_refused", packet, status)
        self._finish(packet)

    def _booked_late(self, packet: Packet, leg: int, status: int) -> None:
        """The hold was gone, so the legs were booked again; else the loss is ours."""
        if is_applied(leg, status):
            self._finish(packet)
            return
        self._alarm("late_booking_refused", packet, status)
        loss = plan.late_loss(packet.hold, packet.destination.peer.asset)
        self._ledger.submit(loss, self._loss_booked, packet)

    def _loss_booked(self, packet: Packet, leg: int, status: int) -> None:
        if not is_applied(leg, status):
            self._alarm("loss_not_booked", packet, status)
        self._finish(packet)

    def _finish(self, packet: Packet) -> None:
        packet.done = True
        del self._in_flight[packet.base]
        packet.destination.in_flight -= 1
        packet.destination.in_flight_amount -= packet.destination_amount

    # -- answers of our own ----------------------------------------------------------------------

    def _refuse(self, source: Account, exchange: Exchange, refusal: Refusal) -> None:
        _count(source.rejects, refusal.code)
        exchange.answer(self._own_reject(source, refusal))

    def _own_reject(self, source: Account, refusal: Refusal) -> bytes:
        address = self._directory.addresses.get(source.peer.tenant_id, "")
        return encode_reject(refusal.code, address, refusal.message, refusal.data)

    def _serve_peer_protocol(self, source: Account, prepare: Prepare, exchange: Exchange) -> None:
        """``peer.*`` is between neighbours and goes no further. Spec: RFC 31 (ILDCP)."""
        if not ildcp.is_ildcp_request(prepare):
            self._refuse(source, exchange, Refusal(codes.F02_UNREACHABLE, "unknown peer protocol"))
            return
        asset = source.peer.asset
        data = ildcp.encode_response(source.peer.static_ilp_address, asset.scale, asset.code)
        source.fulfills += 1
        exchange.answer(encode_fulfill(ildcp.PEER_FULFILLMENT, data))

    def _alarm(self, event: str, packet: Packet, status: int) -> None:
        """Something that an operator must look at: the books and the world may differ."""
        self.alarms += 1
        log.error(
            event,
            status=status,
            base=hex(packet.base),
            previous_hop=str(packet.source.peer),
            next_hop=str(packet.destination.peer),
            source_amount=packet.prepare.amount,
            destination_amount=packet.destination_amount,
        )


def _is_same_network(own: str, destination: str) -> bool:
    """RFC 34: a node is on the live network or on a test network, never on both."""
    if own.startswith("g."):
        return not destination.startswith("test")
    if own.startswith("test"):
        return not destination.startswith("g.")
    return True


def _count(counts: dict[str, int], code: str) -> None:
    """Count by code; codes come from peers, so unknown ones share one entry."""
    if code not in codes.NAMES:
        code = "other"
    counts[code] = counts.get(code, 0) + 1
