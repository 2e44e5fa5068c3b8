"""The kinds of accounts: every number here is part of the ledger's format."""

from uuid import UUID

import pytest

from connector.directory import Asset
from connector.ledger import accounts
from connector.ledger.ledger import (
    ACCOUNT_LINKED,
    CREDITS_MUST_NOT_EXCEED_DEBITS,
    DEBITS_MUST_NOT_EXCEED_CREDITS,
    HISTORY,
    Account,
)
from connector.ledger.model import ModelLedger

UUID_4 = UUID("3f0d8c1e-5c55-4d6e-9a35-0e8a7c2f6b11").int
USD = Asset(UUID("11111111-2222-4333-8444-555555555555").int, "a", "USD", 2, 9)
SHADOW = 2**31 + 9
D = DEBITS_MUST_NOT_EXCEED_CREDITS
C = CREDITS_MUST_NOT_EXCEED_DEBITS


@pytest.mark.parametrize(
    ("account", "account_id", "ledger", "code", "flags"),
    [
        (accounts.settlement_account(USD), 9, 9, 101, C | HISTORY),
        (accounts.asset_account(USD), USD.id, 9, 2, D | HISTORY),
        (accounts.peer_account(UUID_4, USD), UUID_4, 9, 3, D),
        (accounts.incoming_account(UUID_4, USD), UUID_4, 9, 4, D),
        (accounts.outgoing_account(UUID_4, USD), UUID_4, 9, 5, D),
        (accounts.web_monetization_account(UUID_4, USD), UUID_4, 9, 1, D),
        (
            accounts.allowance_account(UUID_4, USD),
            UUID("3f0d8c1e-5c55-8d6e-9a35-0e8a7c2f6b11").int,
            SHADOW,
            6,
            D,
        ),
        (accounts.allowance_control_account(USD), SHADOW, SHADOW, 102, C),
    ],
)
def test_each_kind(account: Account, account_id: int, ledger: int, code: int, flags: int) -> None:
    assert account == Account(account_id, ledger, code, flags, USD.id)


@pytest.mark.parametrize(("code", "expected"), [(1, 61), (2, 61), (3, 61), (4, 61), (5, 61)])
def test_balance_of_liquidity(code: int, expected: int) -> None:
    account = Account(
        1, 1, code, debits_pending=9, debits_posted=30, credits_pending=1000, credits_posted=100
    )
    assert accounts.balance(account) == expected


def test_balance_of_the_other_side() -> None:
    balances = {"debits_pending": 9, "debits_posted": 100, "credits_posted": 30}
    assert accounts.balance(Account(1, 1, 101, **balances)) == 79
    assert accounts.balance(Account(1, 1, 102, **balances)) == 70
    assert accounts.balance(Account(1, 1, 6, **balances)) == -79


async def test_an_asset_s_accounts_are_made_together_or_not_at_all() -> None:
    ledger = ModelLedger()
    chain = accounts.asset_accounts(USD)
    assert [bool(account.flags & ACCOUNT_LINKED) for account in chain] == [True, True, False]
    taken = accounts.unlinked(accounts.allowance_control_account(USD))
    await ledger.create_accounts([Account(taken.id, taken.ledger, 102, C, 77)])
    assert len(await ledger.create_accounts(chain)) == 3
    assert len(await ledger.query_accounts()) == 1


def test_how_an_account_was_chained_makes_no_difference() -> None:
    linked, _, settlement = accounts.asset_accounts(USD)
    assert accounts.is_same_account(accounts.unlinked(linked), linked)
    assert not accounts.is_same_account(linked, settlement)
    other = accounts.peer_account(linked.id, USD)
    assert not accounts.is_same_account(linked, other)


def test_transfers_from_and_to_the_world_outside() -> None:
    deposit = accounts.deposit(UUID_4, 5, USD, 100)
    assert (deposit.debit_account_id, deposit.credit_account_id) == (9, 5)
    assert (deposit.id, deposit.code, deposit.ledger, deposit.amount) == (UUID_4, 2, 9, 100)
    withdrawal = accounts.withdrawal(UUID_4, 5, USD, 100)
    assert (withdrawal.debit_account_id, withdrawal.credit_account_id) == (5, 9)
    assert withdrawal.code == 3
    assert deposit.user_data_32 == withdrawal.user_data_32 == 8 << 24
    assert deposit.flags == deposit.timeout == 0
