"""The rules of TigerBeetle that need no balances, in its order of precedence.

Shared by the ledgers that we run ourselves. Each function names the first rule that an event
breaks, or 0. Flags that ``ledger.py`` does not name (balancing credit, closing, imported) count as
reserved here. Source: TigerBeetle 0.17, docs/reference/requests.
"""

from typing import Final

from connector.ledger.ledger import (
    ACCOUNT_LINKED,
    AMOUNT_MAX,
    BALANCING_DEBIT,
    CREDITS_MUST_NOT_EXCEED_DEBITS,
    DEBITS_MUST_NOT_EXCEED_CREDITS,
    HISTORY,
    LINKED,
    PENDING,
    POST_PENDING_TRANSFER,
    U128_MAX,
    VOID_PENDING_TRANSFER,
    Account,
    AccountStatus,
    Transfer,
    TransferStatus,
)

RESOLVING: Final = POST_PENDING_TRANSFER | VOID_PENDING_TRANSFER
LIMITS: Final = DEBITS_MUST_NOT_EXCEED_CREDITS | CREDITS_MUST_NOT_EXCEED_DEBITS
TIMESTAMP_MAX: Final = (1 << 63) - 1
NS_PER_S: Final = 1_000_000_000

_ACCOUNT_FLAGS: Final = ACCOUNT_LINKED | LIMITS | HISTORY
_TRANSFER_FLAGS: Final = LINKED | PENDING | RESOLVING | BALANCING_DEBIT

# Refusals that another moment might not bring: the id is spent all the same, so that a repeat of
# the request cannot succeed behind the back of whoever was told of the refusal.
TRANSIENT: Final = frozenset(
    (
        TransferStatus.DEBIT_ACCOUNT_NOT_FOUND,
        TransferStatus.CREDIT_ACCOUNT_NOT_FOUND,
        TransferStatus.PENDING_TRANSFER_NOT_FOUND,
        TransferStatus.EXCEEDS_CREDITS,
        TransferStatus.EXCEEDS_DEBITS,
    )
)


def first(*rules: tuple[bool, int]) -> int:
    """The status of the first broken rule, or 0."""
    for broken, status in rules:
        if broken:
            return int(status)
    return 0


def account_identity_fault(a: Account) -> int:
    """What is wrong with an account before anybody asks whether it exists."""
    status = AccountStatus
    return first(
        (a.flags & ~_ACCOUNT_FLAGS != 0, status.RESERVED_FLAG),
        (a.id == 0, status.ID_MUST_NOT_BE_ZERO),
        (a.id == U128_MAX, status.ID_MUST_NOT_BE_INT_MAX),
    )


def account_fault(a: Account) -> int:
    """What is wrong with an account that does not exist yet."""
    status = AccountStatus
    return first(
        (a.flags & LIMITS == LIMITS, status.FLAGS_ARE_MUTUALLY_EXCLUSIVE),
        (a.ledger == 0, status.LEDGER_MUST_NOT_BE_ZERO),
        (a.code == 0, status.CODE_MUST_NOT_BE_ZERO),
    )


def account_difference(a: Account, e: Account) -> int:
    """How an account differs from the one that has its id; ``EXISTS`` if it does not."""
    status = AccountStatus
    return first(
        (a.flags != e.flags, status.EXISTS_WITH_DIFFERENT_FLAGS),
        (a.user_data_128 != e.user_data_128, status.EXISTS_WITH_DIFFERENT_USER_DATA_128),
        (a.user_data_64 != e.user_data_64, status.EXISTS_WITH_DIFFERENT_USER_DATA_64),
        (a.user_data_32 != e.user_data_32, status.EXISTS_WITH_DIFFERENT_USER_DATA_32),
        (a.ledger != e.ledger, status.EXISTS_WITH_DIFFERENT_LEDGER),
        (a.code != e.code, status.EXISTS_WITH_DIFFERENT_CODE),
        (True, status.EXISTS),
    )


def transfer_identity_fault(t: Transfer) -> int:
    """What is wrong with a transfer before anybody asks whether it exists."""
    status = TransferStatus
    return first(
        (t.flags & ~_TRANSFER_FLAGS != 0, status.RESERVED_FLAG),
        (t.id == 0, status.ID_MUST_NOT_BE_ZERO),
        (t.id == U128_MAX, status.ID_MUST_NOT_BE_INT_MAX),
    )


def transfer_fault(t: Transfer) -> int:
    """What is wrong with a transfer that does not exist yet, before any account is looked at."""
    return _resolution_fault(t) if t.flags & RESOLVING else _creation_fault(t)


def _resolution_fault(t: Transfer) -> int:
    status = TransferStatus
    exclusive = (POST_PENDING_TRANSFER, VOID_PENDING_TRANSFER)
    return first(
        (t.flags & ~LINKED not in exclusive, status.FLAGS_ARE_MUTUALLY_EXCLUSIVE),
        (t.pending_id == 0, status.PENDING_ID_MUST_NOT_BE_ZERO),
        (t.pending_id == U128_MAX, status.PENDING_ID_MUST_NOT_BE_INT_MAX),
        (t.pending_id == t.id, status.PENDING_ID_MUST_BE_DIFFERENT),
        (t.timeout != 0, status.TIMEOUT_RESERVED_FOR_PENDING_TRANSFER),
    )


def _creation_fault(t: Transfer) -> int:
    status = TransferStatus
    return first(
        (t.debit_account_id == 0, status.DEBIT_ACCOUNT_ID_MUST_NOT_BE_ZERO),
        (t.debit_account_id == U128_MAX, status.DEBIT_ACCOUNT_ID_MUST_NOT_BE_INT_MAX),
        (t.credit_account_id == 0, status.CREDIT_ACCOUNT_ID_MUST_NOT_BE_ZERO),
        (t.credit_account_id == U128_MAX, status.CREDIT_ACCOUNT_ID_MUST_NOT_BE_INT_MAX),
        (t.credit_account_id == t.debit_account_id, status.ACCOUNTS_MUST_BE_DIFFERENT),
        (t.pending_id != 0, status.PENDING_ID_MUST_BE_ZERO),
        (
            t.timeout != 0 and not t.flags & PENDING,
            status.TIMEOUT_RESERVED_FOR_PENDING_TRANSFER,
        ),
        (t.ledger == 0, status.LEDGER_MUST_NOT_BE_ZERO),
        (t.code == 0, status.CODE_MUST_NOT_BE_ZERO),
    )


def resolution_mismatch(t: Transfer, p: Transfer) -> int:
    """How a post or void contradicts its pending transfer; its own fields left 0 never do."""
    status = TransferStatus
    amount = resolved_amount(t, p)
    return first(
        (
            t.debit_account_id not in (0, p.debit_account_id),
            status.PENDING_TRANSFER_HAS_DIFFERENT_DEBIT_ACCOUNT_ID,
        ),
        (
            t.credit_account_id not in (0, p.credit_account_id),
            status.PENDING_TRANSFER_HAS_DIFFERENT_CREDIT_ACCOUNT_ID,
        ),
        (t.ledger not in (0, p.ledger), status.PENDING_TRANSFER_HAS_DIFFERENT_LEDGER),
        (t.code not in (0, p.code), status.PENDING_TRANSFER_HAS_DIFFERENT_CODE),
        (amount > p.amount, status.EXCEEDS_PENDING_TRANSFER_AMOUNT),
        (
            bool(t.flags & VOID_PENDING_TRANSFER) and amount < p.amount,
            status.PENDING_TRANSFER_HAS_DIFFERENT_AMOUNT,
        ),
    )


def resolved_amount(t: Transfer, p: Transfer) -> int:
    """What a post or void asks for: all of the pending amount where it names none."""
    everything = AMOUNT_MAX if t.flags & POST_PENDING_TRANSFER else 0
    return p.amount if t.amount == everything else t.amount


def transfer_difference(t: Transfer, e: Transfer, p: Transfer | None) -> int:
    """How a transfer differs from the one that has its id; ``EXISTS`` if it does not.

    p - the pending transfer that ``e`` resolved, if it did: what ``t`` leaves 0 means p's value.
    """
    status = TransferStatus
    different_kind = first(
        (t.flags != e.flags, status.EXISTS_WITH_DIFFERENT_FLAGS),
        (t.pending_id != e.pending_id, status.EXISTS_WITH_DIFFERENT_PENDING_ID),
        (t.timeout != e.timeout, status.EXISTS_WITH_DIFFERENT_TIMEOUT),
    )
    if different_kind:
        return different_kind
    asked = t if p is None else _inherit(t, p)
    # A repeated balancing transfer names its upper limit again, not what was moved.
    balancing = t.flags & BALANCING_DEBIT
    same_amount = asked.amount >= e.amount if balancing else asked.amount == e.amount
    return first(
        (
            asked.debit_account_id != e.debit_account_id,
            status.EXISTS_WITH_DIFFERENT_DEBIT_ACCOUNT_ID,
        ),
        (
            asked.credit_account_id != e.credit_account_id,
            status.EXISTS_WITH_DIFFERENT_CREDIT_ACCOUNT_ID,
        ),
        (not same_amount, status.EXISTS_WITH_DIFFERENT_AMOUNT),
        (asked.user_data_128 != e.user_data_128, status.EXISTS_WITH_DIFFERENT_USER_DATA_128),
        (asked.user_data_64 != e.user_data_64, status.EXISTS_WITH_DIFFERENT_USER_DATA_64),
        (asked.user_data_32 != e.user_data_32, status.EXISTS_WITH_DIFFERENT_USER_DATA_32),
        (asked.ledger != e.ledger, status.EXISTS_WITH_DIFFERENT_LEDGER),
        (asked.code != e.code, status.EXISTS_WITH_DIFFERENT_CODE),
        (True, status.EXISTS),
    )


def _inherit(t: Transfer, p: Transfer) -> Transfer:
    return Transfer(
        t.id,
        t.debit_account_id or p.debit_account_id,
        t.credit_account_id or p.credit_account_id,
        resolved_amount(t, p),
        t.pending_id,
        t.user_data_128 or p.user_data_128,
        t.user_data_64 or p.user_data_64,
        t.user_data_32 or p.user_data_32,
        0,
        t.ledger or p.ledger,
        t.code or p.code,
        t.flags,
    )
