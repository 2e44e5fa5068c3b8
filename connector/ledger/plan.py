"""From a packet to its transfers. Pure.

Ids: ``base`` = ms since the epoch << 80 | 76 random bits << 4, so ids grow with time, as ledgers
like them; everything about one packet is ``base | op << 2 | leg``, so that whoever repeats a step
repeats its id. Amounts are integers in the smallest unit of each leg's asset.
"""

from collections.abc import Callable
from typing import Final

from connector.directory import Asset
from connector.ledger.ledger import (
    AMOUNT_MAX,
    LINKED,
    PENDING,
    POST_PENDING_TRANSFER,
    VOID_PENDING_TRANSFER,
    Transfer,
)

Chain = tuple[Transfer, ...]

TRANSFER_CODE: Final = 1

# Operations, the bits above the leg in an id.
POST: Final = 1 << 2
VOID: Final = 2 << 2
CORRECTION: Final = 3 << 2
LOSS_LEG: Final = 2

# Purposes, in ``user_data_32``.
PACKET: Final = 1
LATE_BOOKING: Final = 7
RESOLVED: Final = 1 << 31
SLOT_MAX: Final = (1 << 24) - 1


def tag(purpose: int, slot: int) -> int:
    """``user_data_32``: what a transfer is for, and which worker start made it."""
    return purpose << 24 | slot


class BaseIds:
    """Makes ``base`` numbers: strictly increasing in a worker, unique by 76 random bits."""

    def __init__(self, random_bits: Callable[[int], int]) -> None:
        self._random_bits = random_bits
        self._last = 0
        self._last_ms = 0

    def next(self, now_ms: int) -> int:
        if now_ms > self._last_ms:
            self._last_ms = now_ms
            self._last = now_ms << 80 | self._random_bits(76) << 4
        else:
            self._last += 16
        return self._last


def hold(
    base: int,
    packet_tag: int,
    source: tuple[int, Asset],
    destination: tuple[int, Asset],
    source_amount: int,
    destination_amount: int,
    decision_deadline_ms: int,
    timeout_s: int,
) -> Chain:
    """Reserve the money of one forwarded Prepare.

    Shapes: source, destination - account id and its asset. One leg within a ledger, where both
    amounts are equal; across ledgers the source leg first, then the destination leg, linked.
    Units: decision_deadline_ms - when this worker decides at the latest, ms since the epoch;
    timeout_s - the ledger's own, only the last safety net.
    """
    source_id, source_asset = source
    destination_id, destination_asset = destination
    if source_asset.ledger == destination_asset.ledger:
        assert source_amount == destination_amount
        return (
            Transfer(
                base,
                source_id,
                destination_id,
                source_amount,
                0,
                base,
                decision_deadline_ms,
                packet_tag,
                timeout_s,
                source_asset.ledger,
                TRANSFER_CODE,
                PENDING,
            ),
        )
    return (
        Transfer(
            base,
            source_id,
            source_asset.id,
            source_amount,
            0,
            base,
            decision_deadline_ms,
            packet_tag,
            timeout_s,
            source_asset.ledger,
            TRANSFER_CODE,
            PENDING | LINKED,
        ),
        Transfer(
            base | 1,
            destination_asset.id,
            destination_id,
            destination_amount,
            0,
            base,
            decision_deadline_ms,
            packet_tag,
            timeout_s,
            destination_asset.ledger,
            TRANSFER_CODE,
            PENDING,
        ),
    )


def post(held: Chain) -> Chain:
    """Make a hold final, all legs or none."""
    return _resolve(held, POST, AMOUNT_MAX, POST_PENDING_TRANSFER)


def void(held: Chain) -> Chain:
    """Give a hold back, all legs or none. Only for a hold that is known to exist."""
    return _resolve(held, VOID, 0, VOID_PENDING_TRANSFER)


def _resolve(held: Chain, operation: int, amount: int, flag: int) -> Chain:
    if len(held) == 1:
        return (_resolution(held[0], operation, amount, flag),)
    first, last = held
    return (
        _resolution(first, operation, amount, flag | LINKED),
        _resolution(last, operation, amount, flag),
    )


def _resolution(leg: Transfer, operation: int, amount: int, flags: int) -> Transfer:
    return Transfer(
        leg.id | operation,
        0,
        0,
        amount,
        leg.id,
        0,
        0,
        leg.user_data_32 | RESOLVED,
        0,
        0,
        0,
        flags,
    )


def late_booking(held: Chain) -> Chain:
    """The same legs, single-phase, for a hold that was gone when its fulfil arrived."""
    return tuple(
        Transfer(
            leg.id | CORRECTION,
            leg.debit_account_id,
            leg.credit_account_id,
            leg.amount,
            0,
            leg.user_data_128,
            0,
            _repurpose(leg.user_data_32, LATE_BOOKING),
            0,
            leg.ledger,
            TRANSFER_CODE,
            leg.flags & LINKED,
        )
        for leg in held
    )


def late_loss(held: Chain, destination_asset: Asset) -> Chain:
    """What we owe the next hop, from our own liquidity, where the previous hop cannot pay."""
    last = held[-1]
    return (
        Transfer(
            held[0].id | CORRECTION | LOSS_LEG,
            destination_asset.id,
            last.credit_account_id,
            last.amount,
            0,
            last.user_data_128,
            0,
            _repurpose(last.user_data_32, LATE_BOOKING),
            0,
            last.ledger,
            TRANSFER_CODE,
            0,
        ),
    )


def _repurpose(packet_tag: int, purpose: int) -> int:
    return tag(purpose, packet_tag & SLOT_MAX)
