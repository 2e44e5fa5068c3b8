"""From the ledger's statuses to what they mean for a chain, and for the packet behind it. Pure."""

from typing import Final

from connector.ledger.ledger import CREATED, TransferStatus
from connector.packets import codes

# The store refused the request itself, and nothing of the chain was applied.
NOT_APPLIED: Final = 0

_EXISTS: Final = int(TransferStatus.EXISTS)
_LINKED_EVENT_FAILED: Final = int(TransferStatus.LINKED_EVENT_FAILED)
_NOT_FOUND: Final = frozenset(
    {int(TransferStatus.DEBIT_ACCOUNT_NOT_FOUND), int(TransferStatus.CREDIT_ACCOUNT_NOT_FOUND)}
)
_RELEASED: Final = frozenset(
    {
        int(TransferStatus.PENDING_TRANSFER_EXPIRED),
        int(TransferStatus.PENDING_TRANSFER_ALREADY_VOIDED),
    }
)


def chain_status(failures: dict[int, int], start: int, length: int) -> tuple[int, int]:
    """The leg that decided a chain, and its status; (0, CREATED) if the chain was applied now.

    A chain that was applied before answers ``exists`` on its first event and
    ``linked_event_failed`` on the others: since chains are atomic and an id belongs to one chain,
    ``exists`` on the first event means that the whole chain is applied.
    """
    for leg in range(length):
        status = failures.get(start + leg, CREATED)
        if status not in (CREATED, _LINKED_EVENT_FAILED):
            return leg, status
    return 0, CREATED


def is_applied(leg: int, status: int) -> bool:
    """Whether a chain is in the ledger, by this request or an earlier one."""
    return status == CREATED or (leg == 0 and status == _EXISTS)


def is_released(status: int) -> bool:
    """Whether a hold was gone when it was to be resolved: expired, or voided by someone else."""
    return status in _RELEASED


def is_account_missing(status: int) -> bool:
    return status in _NOT_FOUND


def hold_refusal(leg: int, status: int) -> tuple[str, str]:
    """The ILP code and message for a hold that the ledger refused.

    The first leg takes from the previous hop: its *balance*; the second from our own *liquidity*.
    The RFC has one code for both. A Rafiki peer takes the balance text for a ledger mismatch.
    """
    if status == TransferStatus.EXCEEDS_CREDITS:
        if leg == 0:
            return codes.T04_INSUFFICIENT_LIQUIDITY, "exceeded maximum balance."
        return codes.T04_INSUFFICIENT_LIQUIDITY, "insufficient liquidity"
    return codes.T00_INTERNAL_ERROR, "the ledger refused the transfer"
