"""The ledger in memory: the reference for tests, and the ledger that costs nothing in benchmarks.

TigerBeetle's results in TigerBeetle's order of precedence, one event after the other. Nothing
survives the process. Field values are trusted to be within their ranges.
"""

import heapq
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Final

from connector.errors import LedgerRejectedBatch
from connector.ledger import rules
from connector.ledger.ledger import (
    ACCOUNT_LINKED,
    AMOUNT_MAX,
    BALANCING_DEBIT,
    BATCH_EVENTS_MAX,
    CREATED,
    CREDITS,
    CREDITS_MUST_NOT_EXCEED_DEBITS,
    DEBITS,
    DEBITS_MUST_NOT_EXCEED_CREDITS,
    LINKED,
    PENDING,
    POST_PENDING_TRANSFER,
    REVERSED,
    U128_MAX,
    VOID_PENDING_TRANSFER,
    Account,
    AccountStatus,
    Transfer,
    TransferStatus,
)

_EXISTS: Final = int(TransferStatus.EXISTS)
_FAILED_BEFORE: Final = int(TransferStatus.ID_ALREADY_FAILED)
_NOT_FOUND: Final = int(TransferStatus.PENDING_TRANSFER_NOT_FOUND)
_NOT_PENDING: Final = int(TransferStatus.PENDING_TRANSFER_NOT_PENDING)
_POSTED: Final = int(TransferStatus.PENDING_TRANSFER_ALREADY_POSTED)
_VOIDED: Final = int(TransferStatus.PENDING_TRANSFER_ALREADY_VOIDED)
_EXPIRED: Final = int(TransferStatus.PENDING_TRANSFER_EXPIRED)
_CHAIN_FAILED: Final = int(TransferStatus.LINKED_EVENT_FAILED)
_CHAIN_OPEN: Final = int(TransferStatus.LINKED_EVENT_CHAIN_OPEN)
_NEVER: Final = rules.TIMESTAMP_MAX


class _Balances:
    """An account with its running balances."""

    __slots__ = (
        "account",
        "credits_pending",
        "credits_posted",
        "debits_pending",
        "debits_posted",
        "flags",
        "ledger",
    )

    def __init__(self, account: Account) -> None:
        self.account = account
        self.ledger = account.ledger
        self.flags = account.flags
        self.debits_pending = 0
        self.debits_posted = 0
        self.credits_pending = 0
        self.credits_posted = 0

    def view(self) -> Account:
        a = self.account
        return Account(
            a.id,
            a.ledger,
            a.code,
            a.flags,
            a.user_data_128,
            a.user_data_64,
            a.user_data_32,
            self.debits_pending,
            self.debits_posted,
            self.credits_pending,
            self.credits_posted,
            a.timestamp,
        )


class ModelLedger:
    """Implements ``Ledger`` in memory."""

    batch_events_max = BATCH_EVENTS_MAX

    def __init__(
        self,
        *,
        now_ns: Callable[[], int] = time.time_ns,
        burnt_codes: Collection[int] | None = None,
    ) -> None:
        """Start empty.

        now_ns - the wall clock; burnt_codes - transfer codes whose refused ids are remembered,
        None = all, as TigerBeetle does.
        """
        self._now_ns = now_ns
        self._burnt_codes = burnt_codes
        self._timestamp = 0
        self._accounts: dict[int, _Balances] = {}
        # Both in the order of their timestamps, since events only ever append.
        self._transfers: dict[int, Transfer] = {}
        self._burnt: set[int] = set()
        # Open pending transfers and when they expire; the fate of those that are not open.
        self._open: dict[int, int] = {}
        self._fates: dict[int, int] = {}
        self._expiries: list[tuple[int, int]] = []

    async def create_accounts(self, accounts: Sequence[Account]) -> dict[int, int]:
        start = self._begin(len(accounts))
        failures: dict[int, int] = {}
        chain: list[int] = []
        broken = False
        last = len(accounts) - 1
        for index, account in enumerate(accounts):
            linked = account.flags & ACCOUNT_LINKED
            if linked and index == last:
                status = int(AccountStatus.LINKED_EVENT_CHAIN_OPEN)
            elif broken:
                status = int(AccountStatus.LINKED_EVENT_FAILED)
            else:
                status = self._create_account(account, start + index)
            if status != CREATED:
                failures[index] = status
                for earlier in () if broken else chain:
                    del self._accounts[accounts[earlier].id]
                    failures[earlier] = int(AccountStatus.LINKED_EVENT_FAILED)
            chain.append(index)
            broken = broken or status != CREATED
            if not linked:
                chain = []
                broken = False
        return failures

    async def create_transfers(self, transfers: Sequence[Transfer]) -> dict[int, int]:
        timestamp = self._begin(len(transfers))
        failures: dict[int, int] = {}
        chain_start = -1
        for index, transfer in enumerate(transfers):
            if transfer.flags & LINKED:
                if chain_start < 0:
                    chain_start = index
            elif chain_start >= 0:
                self._apply_chain(transfers, chain_start, index + 1, timestamp, failures)
                chain_start = -1
            else:
                status = self._apply(transfer, timestamp + index)
                if status != CREATED:
                    failures[index] = status
        if chain_start >= 0:
            self._apply_chain(transfers, chain_start, len(transfers), timestamp, failures)
        return failures

    async def lookup_accounts(self, ids: Sequence[int]) -> list[Account]:
        self._begin(len(ids))
        return [self._accounts[i].view() for i in ids if i in self._accounts]

    async def lookup_transfers(self, ids: Sequence[int]) -> list[Transfer]:
        self._begin(len(ids))
        return [self._transfers[i] for i in ids if i in self._transfers]

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
        found = await self.query_transfers(
            user_data_128=user_data_128,
            user_data_64=user_data_64,
            user_data_32=user_data_32,
            code=code,
            timestamp_min=timestamp_min,
            timestamp_max=timestamp_max,
            limit=len(self._transfers),
            flags=flags & REVERSED,
        )
        of_account = [
            t
            for t in found
            if (flags & DEBITS and t.debit_account_id == account_id)
            or (flags & CREDITS and t.credit_account_id == account_id)
        ]
        return of_account[:limit]

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
        transfers: Iterable[Transfer] = self._transfers.values()
        if flags & REVERSED:
            transfers = reversed(self._transfers.values())
        found = [
            t
            for t in transfers
            if timestamp_min <= t.timestamp <= (timestamp_max or _NEVER)
            and user_data_128 in (0, t.user_data_128)
            and user_data_64 in (0, t.user_data_64)
            and user_data_32 in (0, t.user_data_32)
            and ledger in (0, t.ledger)
            and code in (0, t.code)
        ]
        return found[:limit]

    async def query_accounts(
        self,
        *,
        ledger: int = 0,
        code: int = 0,
        timestamp_min: int = 0,
        limit: int = BATCH_EVENTS_MAX,
    ) -> list[Account]:
        self._begin(0)
        found = [
            b.view()
            for b in self._accounts.values()
            if timestamp_min <= b.account.timestamp
            and ledger in (0, b.ledger)
            and code in (0, b.account.code)
        ]
        return found[:limit]

    async def expire_pending(self) -> int:
        before = len(self._open)
        self._begin(0)
        return before - len(self._open)

    async def close(self) -> None:
        """Nothing to end: what is stored stays readable."""

    def _begin(self, events: int) -> int:
        """Expire what is due and give ``events`` events their timestamps; returns the first."""
        if events > self.batch_events_max:
            raise LedgerRejectedBatch(f"{events} events, at most {self.batch_events_max}")
        first = max(self._now_ns(), self._timestamp + 1)
        self._timestamp = first + events
        while self._expiries and self._expiries[0][0] <= first:
            expires_at, pending_id = heapq.heappop(self._expiries)
            if self._open.get(pending_id) == expires_at:
                self._release(self._transfers[pending_id], _EXPIRED)
        return first

    def _create_account(self, account: Account, timestamp: int) -> int:
        fault = rules.account_identity_fault(account)
        if fault:
            return fault
        existing = self._accounts.get(account.id)
        if existing is not None:
            return rules.account_difference(account, existing.account)
        fault = rules.account_fault(account)
        if fault:
            return fault
        stored = Account(
            account.id,
            account.ledger,
            account.code,
            account.flags,
            account.user_data_128,
            account.user_data_64,
            account.user_data_32,
            timestamp=timestamp,
        )
        self._accounts[account.id] = _Balances(stored)
        return CREATED

    def _apply_chain(
        self,
        transfers: Sequence[Transfer],
        start: int,
        end: int,
        timestamp: int,
        failures: dict[int, int],
    ) -> None:
        """Apply ``transfers[start:end]`` whole or not at all."""
        for index in range(start, end):
            transfer = transfers[index]
            if index == len(transfers) - 1 and transfer.flags & LINKED:
                status = _CHAIN_OPEN
            else:
                status = self._apply(transfer, timestamp + index)
            if status != CREATED:
                for applied in range(index - 1, start - 1, -1):
                    self._revert(transfers[applied].id)
                failures.update(dict.fromkeys(range(start, end), _CHAIN_FAILED))
                failures[index] = status
                if end == len(transfers) and transfers[-1].flags & LINKED:
                    failures[end - 1] = _CHAIN_OPEN
                return

    def _apply(self, transfer: Transfer, timestamp: int) -> int:
        """Apply one transfer; returns its status."""
        transfer_id = transfer.id
        burns = self._burnt_codes is None or transfer.code in self._burnt_codes
        if transfer_id in self._transfers or (burns and transfer_id in self._burnt):
            return self._repeated(transfer)
        flags = transfer.flags
        if flags & rules.RESOLVING:
            status = self._resolve(transfer, timestamp)
        else:
            status = self._create(transfer, timestamp)
        if status != CREATED and burns and status in rules.TRANSIENT:
            self._burnt.add(transfer_id)
        return status

    def _repeated(self, transfer: Transfer) -> int:
        fault = rules.transfer_identity_fault(transfer)
        if fault:
            return fault
        existing = self._transfers.get(transfer.id)
        if existing is None:
            return _FAILED_BEFORE
        return rules.transfer_difference(
            transfer, existing, self._transfers.get(existing.pending_id)
        )

    def _create(self, t: Transfer, timestamp: int) -> int:
        # One test for everything that may be wrong keeps the common case short; which rule was
        # broken first is looked up only when one was.
        debit = self._accounts.get(t.debit_account_id)
        credit = self._accounts.get(t.credit_account_id)
        if debit is None or credit is None or debit is credit:
            return self._missing(t, debit)
        flags = t.flags
        amount = t.amount
        held = debit.debits_pending + debit.debits_posted
        if flags & BALANCING_DEBIT:
            amount = min(amount, max(debit.credits_posted - held, 0))
        received = credit.credits_pending + credit.credits_posted
        debits = held + amount
        credits_ = received + amount
        expires_at = timestamp + t.timeout * rules.NS_PER_S
        if (
            not 0 < t.id < U128_MAX
            or flags > BALANCING_DEBIT | PENDING | LINKED
            or t.pending_id
            or (t.timeout and not flags & PENDING)
            or not t.ledger == debit.ledger == credit.ledger
            or not t.code
            or debits > U128_MAX
            or credits_ > U128_MAX
            or expires_at > rules.TIMESTAMP_MAX
            or (debit.flags & DEBITS_MUST_NOT_EXCEED_CREDITS and debits > debit.credits_posted)
            or (credit.flags & CREDITS_MUST_NOT_EXCEED_DEBITS and credits_ > credit.debits_posted)
        ):
            return _refusal(t, amount, debit, credit, expires_at)
        self._transfers[t.id] = Transfer(
            t.id,
            t.debit_account_id,
            t.credit_account_id,
            amount,
            0,
            t.user_data_128,
            t.user_data_64,
            t.user_data_32,
            t.timeout,
            t.ledger,
            t.code,
            flags,
            timestamp,
        )
        if flags & PENDING:
            debit.debits_pending += amount
            credit.credits_pending += amount
            if t.timeout:
                self._open[t.id] = expires_at
                heapq.heappush(self._expiries, (expires_at, t.id))
            else:
                self._open[t.id] = _NEVER
        else:
            debit.debits_posted += amount
            credit.credits_posted += amount
        return CREATED

    def _missing(self, t: Transfer, debit: _Balances | None) -> int:
        """Why a transfer is refused whose two accounts are not both there, or are one."""
        return (
            rules.transfer_identity_fault(t)
            or rules.transfer_fault(t)
            or int(
                TransferStatus.DEBIT_ACCOUNT_NOT_FOUND
                if debit is None
                else TransferStatus.CREDIT_ACCOUNT_NOT_FOUND
            )
        )

    def _resolve(self, t: Transfer, timestamp: int) -> int:
        pending = self._transfers.get(t.pending_id)
        flags = t.flags & ~LINKED
        if pending is None or (
            not 0 < t.id < U128_MAX
            or not (
                (flags == POST_PENDING_TRANSFER and t.amount == AMOUNT_MAX)
                or (flags == VOID_PENDING_TRANSFER and not t.amount)
            )
            or t.debit_account_id
            or t.credit_account_id
            or t.ledger
            or t.code
            or t.timeout
            or self._open.get(t.pending_id, 0) <= timestamp
        ):
            fault = self._resolution_fault(t, pending, timestamp)
            if fault or pending is None:
                return fault
        amount = rules.resolved_amount(t, pending)
        self._transfers[t.id] = Transfer(
            t.id,
            pending.debit_account_id,
            pending.credit_account_id,
            amount,
            t.pending_id,
            t.user_data_128 or pending.user_data_128,
            t.user_data_64 or pending.user_data_64,
            t.user_data_32 or pending.user_data_32,
            0,
            pending.ledger,
            pending.code,
            t.flags,
            timestamp,
        )
        if flags == POST_PENDING_TRANSFER:
            self._release(pending, _POSTED)
            self._accounts[pending.debit_account_id].debits_posted += amount
            self._accounts[pending.credit_account_id].credits_posted += amount
        else:
            self._release(pending, _VOIDED)
        return CREATED

    def _resolution_fault(self, t: Transfer, pending: Transfer | None, timestamp: int) -> int:
        """The first rule that a post or void breaks, or 0."""
        fault = rules.transfer_identity_fault(t) or rules.transfer_fault(t)
        if fault:
            return fault
        if pending is None:
            return _NOT_FOUND
        if not pending.flags & PENDING:
            return _NOT_PENDING
        fault = rules.resolution_mismatch(t, pending) or self._fates.get(t.pending_id, 0)
        if fault:
            return fault
        return _EXPIRED if self._open[t.pending_id] <= timestamp else 0

    def _release(self, pending: Transfer, fate: int) -> None:
        """Take a pending transfer off its accounts and remember what became of it."""
        self._accounts[pending.debit_account_id].debits_pending -= pending.amount
        self._accounts[pending.credit_account_id].credits_pending -= pending.amount
        del self._open[pending.id]
        self._fates[pending.id] = fate

    def _revert(self, transfer_id: int) -> None:
        """Undo a transfer of a chain that failed further on."""
        t = self._transfers.pop(transfer_id)
        debit = self._accounts[t.debit_account_id]
        credit = self._accounts[t.credit_account_id]
        if t.flags & PENDING:
            debit.debits_pending -= t.amount
            credit.credits_pending -= t.amount
            del self._open[t.id]
            return
        if t.flags & rules.RESOLVING:
            pending = self._transfers[t.pending_id]
            debit.debits_pending += pending.amount
            credit.credits_pending += pending.amount
            del self._fates[pending.id]
            timeout_ns = pending.timeout * rules.NS_PER_S
            self._open[pending.id] = pending.timestamp + timeout_ns if timeout_ns else _NEVER
        if t.flags & rules.RESOLVING != VOID_PENDING_TRANSFER:
            debit.debits_posted -= t.amount
            credit.credits_posted -= t.amount


def _refusal(t: Transfer, amount: int, debit: _Balances, credit: _Balances, expires_at: int) -> int:
    """The first rule that a new transfer between two accounts breaks."""
    status = TransferStatus
    pending = bool(t.flags & PENDING)
    debits = debit.debits_pending + debit.debits_posted + amount
    credits_ = credit.credits_pending + credit.credits_posted + amount
    return (
        rules.transfer_identity_fault(t)
        or rules.transfer_fault(t)
        or rules.first(
            (debit.ledger != credit.ledger, status.ACCOUNTS_MUST_HAVE_THE_SAME_LEDGER),
            (t.ledger != debit.ledger, status.TRANSFER_MUST_HAVE_THE_SAME_LEDGER_AS_ACCOUNTS),
            (
                pending and debit.debits_pending + amount > U128_MAX,
                status.OVERFLOWS_DEBITS_PENDING,
            ),
            (
                pending and credit.credits_pending + amount > U128_MAX,
                status.OVERFLOWS_CREDITS_PENDING,
            ),
            (debit.debits_posted + amount > U128_MAX, status.OVERFLOWS_DEBITS_POSTED),
            (credit.credits_posted + amount > U128_MAX, status.OVERFLOWS_CREDITS_POSTED),
            (debits > U128_MAX, status.OVERFLOWS_DEBITS),
            (credits_ > U128_MAX, status.OVERFLOWS_CREDITS),
            (expires_at > rules.TIMESTAMP_MAX, status.OVERFLOWS_TIMEOUT),
            (
                bool(debit.flags & DEBITS_MUST_NOT_EXCEED_CREDITS)
                and debits > debit.credits_posted,
                status.EXCEEDS_CREDITS,
            ),
            (True, status.EXCEEDS_DEBITS),
        )
    )
