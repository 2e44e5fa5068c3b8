"""The ledger interface and its value types.

Types, flags and result codes are those of TigerBeetle 0.17 (its docs/reference): unsigned 128-bit
ids and amounts, double entry, linked chains, two-phase transfers. Every implementation here
behaves alike and is held to ``tests/contract``. Values are plain integers; nothing here does IO.
"""

from collections.abc import Sequence
from enum import IntEnum
from typing import Final, Protocol

import msgspec

U128_MAX: Final = (1 << 128) - 1
AMOUNT_MAX: Final = U128_MAX

# Account flags.
ACCOUNT_LINKED: Final = 1 << 0
DEBITS_MUST_NOT_EXCEED_CREDITS: Final = 1 << 1
CREDITS_MUST_NOT_EXCEED_DEBITS: Final = 1 << 2
HISTORY: Final = 1 << 3

# Transfer flags.
LINKED: Final = 1 << 0
PENDING: Final = 1 << 1
POST_PENDING_TRANSFER: Final = 1 << 2
VOID_PENDING_TRANSFER: Final = 1 << 3
BALANCING_DEBIT: Final = 1 << 4

# Account filter flags.
DEBITS: Final = 1 << 0
CREDITS: Final = 1 << 1
REVERSED: Final = 1 << 2

# The largest request, in events: TigerBeetle's 1 MiB message of 128-byte records, less its header.
BATCH_EVENTS_MAX: Final = 8189

CREATED: Final = 0xFFFFFFFF


class Account(msgspec.Struct, frozen=True, gc=False):
    """One account: its identity, its rules and (when looked up) its balances."""

    id: int
    ledger: int
    code: int
    flags: int = 0
    user_data_128: int = 0
    user_data_64: int = 0
    user_data_32: int = 0
    debits_pending: int = 0
    debits_posted: int = 0
    credits_pending: int = 0
    credits_posted: int = 0
    timestamp: int = 0


class Transfer(msgspec.Struct, frozen=True, gc=False):
    """One transfer. Of a post or void, fields left 0 are taken from the pending transfer.

    timeout - whole seconds, pending transfers only, 0 = never; timestamp - ns, set by the ledger.
    """

    id: int
    debit_account_id: int
    credit_account_id: int
    amount: int
    pending_id: int = 0
    user_data_128: int = 0
    user_data_64: int = 0
    user_data_32: int = 0
    timeout: int = 0
    ledger: int = 0
    code: int = 0
    flags: int = 0
    timestamp: int = 0


class AccountStatus(IntEnum):
    """What became of one account in a request; TigerBeetle's numbers."""

    CREATED = CREATED
    LINKED_EVENT_FAILED = 1
    LINKED_EVENT_CHAIN_OPEN = 2
    RESERVED_FLAG = 5
    ID_MUST_NOT_BE_ZERO = 6
    ID_MUST_NOT_BE_INT_MAX = 7
    FLAGS_ARE_MUTUALLY_EXCLUSIVE = 8
    LEDGER_MUST_NOT_BE_ZERO = 13
    CODE_MUST_NOT_BE_ZERO = 14
    EXISTS_WITH_DIFFERENT_FLAGS = 15
    EXISTS_WITH_DIFFERENT_USER_DATA_128 = 16
    EXISTS_WITH_DIFFERENT_USER_DATA_64 = 17
    EXISTS_WITH_DIFFERENT_USER_DATA_32 = 18
    EXISTS_WITH_DIFFERENT_LEDGER = 19
    EXISTS_WITH_DIFFERENT_CODE = 20
    EXISTS = 21


class TransferStatus(IntEnum):
    """What became of one transfer in a request; TigerBeetle's numbers."""

    CREATED = CREATED
    LINKED_EVENT_FAILED = 1
    LINKED_EVENT_CHAIN_OPEN = 2
    RESERVED_FLAG = 4
    ID_MUST_NOT_BE_ZERO = 5
    ID_MUST_NOT_BE_INT_MAX = 6
    FLAGS_ARE_MUTUALLY_EXCLUSIVE = 7
    DEBIT_ACCOUNT_ID_MUST_NOT_BE_ZERO = 8
    DEBIT_ACCOUNT_ID_MUST_NOT_BE_INT_MAX = 9
    CREDIT_ACCOUNT_ID_MUST_NOT_BE_ZERO = 10
    CREDIT_ACCOUNT_ID_MUST_NOT_BE_INT_MAX = 11
    ACCOUNTS_MUST_BE_DIFFERENT = 12
    PENDING_ID_MUST_BE_ZERO = 13
    PENDING_ID_MUST_NOT_BE_ZERO = 14
    PENDING_ID_MUST_NOT_BE_INT_MAX = 15
    PENDING_ID_MUST_BE_DIFFERENT = 16
    TIMEOUT_RESERVED_FOR_PENDING_TRANSFER = 17
    LEDGER_MUST_NOT_BE_ZERO = 19
    CODE_MUST_NOT_BE_ZERO = 20
    DEBIT_ACCOUNT_NOT_FOUND = 21
    CREDIT_ACCOUNT_NOT_FOUND = 22
    ACCOUNTS_MUST_HAVE_THE_SAME_LEDGER = 23
    TRANSFER_MUST_HAVE_THE_SAME_LEDGER_AS_ACCOUNTS = 24
    PENDING_TRANSFER_NOT_FOUND = 25
    PENDING_TRANSFER_NOT_PENDING = 26
    PENDING_TRANSFER_HAS_DIFFERENT_DEBIT_ACCOUNT_ID = 27
    PENDING_TRANSFER_HAS_DIFFERENT_CREDIT_ACCOUNT_ID = 28
    PENDING_TRANSFER_HAS_DIFFERENT_LEDGER = 29
    PENDING_TRANSFER_HAS_DIFFERENT_CODE = 30
    EXCEEDS_PENDING_TRANSFER_AMOUNT = 31
    PENDING_TRANSFER_HAS_DIFFERENT_AMOUNT = 32
    PENDING_TRANSFER_ALREADY_POSTED = 33
    PENDING_TRANSFER_ALREADY_VOIDED = 34
    PENDING_TRANSFER_EXPIRED = 35
    EXISTS_WITH_DIFFERENT_FLAGS = 36
    EXISTS_WITH_DIFFERENT_DEBIT_ACCOUNT_ID = 37
    EXISTS_WITH_DIFFERENT_CREDIT_ACCOUNT_ID = 38
    EXISTS_WITH_DIFFERENT_AMOUNT = 39
    EXISTS_WITH_DIFFERENT_PENDING_ID = 40
    EXISTS_WITH_DIFFERENT_USER_DATA_128 = 41
    EXISTS_WITH_DIFFERENT_USER_DATA_64 = 42
    EXISTS_WITH_DIFFERENT_USER_DATA_32 = 43
    EXISTS_WITH_DIFFERENT_TIMEOUT = 44
    EXISTS_WITH_DIFFERENT_CODE = 45
    EXISTS = 46
    OVERFLOWS_DEBITS_PENDING = 47
    OVERFLOWS_CREDITS_PENDING = 48
    OVERFLOWS_DEBITS_POSTED = 49
    OVERFLOWS_CREDITS_POSTED = 50
    OVERFLOWS_DEBITS = 51
    OVERFLOWS_CREDITS = 52
    OVERFLOWS_TIMEOUT = 53
    EXCEEDS_CREDITS = 54
    EXCEEDS_DEBITS = 55
    EXISTS_WITH_DIFFERENT_LEDGER = 67
    ID_ALREADY_FAILED = 68


class Ledger(Protocol):
    """What the node needs from a ledger.

    Calls may be made concurrently. Cancelling the caller neither cancels the request nor corrupts
    a later one. A request that may have been applied is repeated by whoever made it: ids make the
    repeat harmless.

    Raises: LedgerUnavailable - no answer, outcome unknown; LedgerRejectedBatch - nothing of this
    request was applied (too large, or an event the store cannot take); LedgerSessionLost - final.
    """

    batch_events_max: int

    async def create_accounts(self, accounts: Sequence[Account]) -> dict[int, int]:
        """Create accounts in order.

        Returns: index -> status of every account that was not ``CREATED``, ``EXISTS`` included.
        """

    async def create_transfers(self, transfers: Sequence[Transfer]) -> dict[int, int]:
        """Apply transfers in order; a chain (events joined by ``LINKED``) applies whole or not.

        Returns: index -> status of every event that was not ``CREATED``; so an empty dict is the
        common answer, and costs nothing to read.
        """

    async def lookup_accounts(self, ids: Sequence[int]) -> list[Account]:
        """The accounts that exist among ``ids``, in the order asked for."""

    async def lookup_transfers(self, ids: Sequence[int]) -> list[Transfer]:
        """The transfers that exist among ``ids``, in the order asked for."""

    async def account_transfers(
        self,
        account_id: int,
        *,
        user_data_128: int = 0,
        user_data_64: int = 0,
        user_data_32: int = 0,
        code: int = 0,
        timestamp_min: int = 0,
        timestamp_max: int = 0,
        limit: int = BATCH_EVENTS_MAX,
        flags: int = DEBITS | CREDITS,
    ) -> list[Transfer]:
        """Transfers of one account, oldest first (newest with ``REVERSED``); 0 = any.

        Timestamps are ns, both bounds inclusive, so a page continues at the last one seen + 1.
        """

    async def query_transfers(
        self,
        *,
        user_data_128: int = 0,
        user_data_64: int = 0,
        user_data_32: int = 0,
        ledger: int = 0,
        code: int = 0,
        timestamp_min: int = 0,
        timestamp_max: int = 0,
        limit: int = BATCH_EVENTS_MAX,
        flags: int = 0,
    ) -> list[Transfer]:
        """Transfers of all accounts by what they carry; as ``account_transfers`` otherwise."""

    async def query_accounts(
        self,
        *,
        ledger: int = 0,
        code: int = 0,
        timestamp_min: int = 0,
        limit: int = BATCH_EVENTS_MAX,
    ) -> list[Account]:
        """All accounts, oldest first, a page at a time: what the invariant checks read."""

    async def expire_pending(self) -> int:
        """Release pending transfers that are past their time; returns how many.

        For ledgers that do not do it by themselves; to be called every second.
        """

    async def close(self) -> None:
        """End the session. Requests under way finish or raise."""
