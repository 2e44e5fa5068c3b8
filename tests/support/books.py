"""Accounts and transfers for ledger tests, with ids that nobody else uses."""

import random
from typing import Final

from connector.ledger.ledger import (
    AMOUNT_MAX,
    DEBITS_MUST_NOT_EXCEED_CREDITS,
    PENDING,
    POST_PENDING_TRANSFER,
    VOID_PENDING_TRANSFER,
    Account,
    Ledger,
    Transfer,
)

ACCOUNT_CODE: Final = 3
CODE: Final = 1
Balances = tuple[int, int, int, int]


class Books:
    """One currency of one's own on a ledger that may hold others."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.number = random.randrange(1 << 20, 1 << 31)
        self._next_id = random.getrandbits(96) << 30

    def new_id(self) -> int:
        self._next_id += 16
        return self._next_id

    def account(self, flags: int = 0, **fields: int) -> Account:
        values = {"id": self.new_id(), "ledger": self.number, "code": ACCOUNT_CODE, **fields}
        return Account(**values, flags=flags)

    async def open(self, *flags: int) -> list[int]:
        """Create one account for each set of flags; returns their ids."""
        accounts = [self.account(each) for each in flags]
        assert await self.ledger.create_accounts(accounts) == {}
        return [account.id for account in accounts]

    async def open_funded(self, amount: int, limited: int = 2) -> tuple[int, ...]:
        """A source of money, then accounts that must stay in credit, the first of them funded."""
        ids = await self.open(0, *[DEBITS_MUST_NOT_EXCEED_CREDITS] * limited)
        if amount:
            await self.apply(self.transfer(ids[0], ids[1], amount))
        return tuple(ids)

    def transfer(
        self, debit: int, credit: int, amount: int, flags: int = 0, **fields: int
    ) -> Transfer:
        values = {"id": self.new_id(), "ledger": self.number, "code": CODE, **fields}
        return Transfer(
            debit_account_id=debit, credit_account_id=credit, amount=amount, flags=flags, **values
        )

    def hold(self, debit: int, credit: int, amount: int, flags: int = 0, **fields: int) -> Transfer:
        return self.transfer(debit, credit, amount, flags | PENDING, **fields)

    def post(
        self, pending: Transfer, amount: int = AMOUNT_MAX, flags: int = 0, **fields: int
    ) -> Transfer:
        return self._resolve(pending, amount, flags | POST_PENDING_TRANSFER, fields)

    def void(self, pending: Transfer, amount: int = 0, flags: int = 0, **fields: int) -> Transfer:
        return self._resolve(pending, amount, flags | VOID_PENDING_TRANSFER, fields)

    def _resolve(
        self, pending: Transfer, amount: int, flags: int, fields: dict[str, int]
    ) -> Transfer:
        names = {"id", "debit_account_id", "credit_account_id"}
        values = dict.fromkeys(names, 0) | {"id": self.new_id()} | fields
        return Transfer(**values, amount=amount, pending_id=pending.id, flags=flags)

    async def apply(self, *transfers: Transfer) -> None:
        """Apply transfers that must all succeed."""
        assert await self.ledger.create_transfers(transfers) == {}

    async def balances(self, *ids: int) -> list[Balances]:
        """Debits pending and posted, credits pending and posted, of each account."""
        return [balances(a) for a in await self.ledger.lookup_accounts(ids)]


def balances(a: Account) -> Balances:
    return a.debits_pending, a.debits_posted, a.credits_pending, a.credits_posted
