"""The kinds of ledger accounts: their ids, codes, flags, and the sign of their balance. Pure.

Rafiki's codes and ids, so that its tools read a ledger of ours and we read one of theirs; the
allowance accounts are ours and live on shadow ledgers that Rafiki never looks at. An account's id
is the UUID of what it belongs to, as an unsigned 128-bit integer. Also the transfers by which the
operator's money enters and leaves: deposits and withdrawals.
"""

from typing import Final

import msgspec

from connector.directory import Asset
from connector.ledger.ledger import (
    ACCOUNT_LINKED,
    CREDITS_MUST_NOT_EXCEED_DEBITS,
    DEBITS_MUST_NOT_EXCEED_CREDITS,
    HISTORY,
    Account,
    Transfer,
)
from connector.ledger.plan import tag

WEB_MONETIZATION: Final = 1
ASSET: Final = 2
PEER: Final = 3
INCOMING: Final = 4
OUTGOING: Final = 5
ALLOWANCE: Final = 6
SETTLEMENT: Final = 101
ALLOWANCE_CONTROL: Final = 102

SHADOW_LEDGERS: Final = 1 << 31

DEPOSIT_CODE: Final = 2
WITHDRAWAL_CODE: Final = 3
FUNDING: Final = 8
"""The purpose of deposits and withdrawals."""

_VERSION_SHIFT: Final = 76


def with_version(uuid: int, version: int) -> int:
    """The id that derives from an entity's UUID for one purpose: its version nibble replaced."""
    return uuid & ~(0xF << _VERSION_SHIFT) | version << _VERSION_SHIFT


def asset_account(asset: Asset) -> Account:
    """The operator's own liquidity in an asset."""
    return _liquidity(asset.id, asset, ASSET, HISTORY)


def settlement_account(asset: Asset) -> Account:
    """The operator's money outside that backs everything on this ledger."""
    return Account(
        asset.ledger,
        asset.ledger,
        SETTLEMENT,
        CREDITS_MUST_NOT_EXCEED_DEBITS | HISTORY,
        asset.id,
    )


def peer_account(peer_id: int, asset: Asset) -> Account:
    """What we owe a peer."""
    return _liquidity(peer_id, asset, PEER)


def incoming_account(payment_id: int, asset: Asset) -> Account:
    """What an incoming payment received."""
    return _liquidity(payment_id, asset, INCOMING)


def outgoing_account(payment_id: int, asset: Asset) -> Account:
    """A customer's money that is to be sent."""
    return _liquidity(payment_id, asset, OUTGOING)


def web_monetization_account(wallet_address_id: int, asset: Asset) -> Account:
    """What a wallet address received outside of incoming payments."""
    return _liquidity(wallet_address_id, asset, WEB_MONETIZATION)


def allowance_account(payment_id: int, asset: Asset) -> Account:
    """How much an incoming payment may still receive: a counter on the shadow ledger."""
    return Account(
        with_version(payment_id, 8),
        SHADOW_LEDGERS + asset.ledger,
        ALLOWANCE,
        DEBITS_MUST_NOT_EXCEED_CREDITS,
        asset.id,
    )


def allowance_control_account(asset: Asset) -> Account:
    """The counterpart of all allowances of an asset."""
    return Account(
        SHADOW_LEDGERS + asset.ledger,
        SHADOW_LEDGERS + asset.ledger,
        ALLOWANCE_CONTROL,
        CREDITS_MUST_NOT_EXCEED_DEBITS,
        asset.id,
    )


def asset_accounts(asset: Asset) -> tuple[Account, Account, Account]:
    """All accounts that come with an asset, as one chain: all are made or none.

    The settlement account ends it, so that the flag of the chain is not on it, as in Rafiki.
    """
    return (
        _linked(asset_account(asset)),
        _linked(allowance_control_account(asset)),
        settlement_account(asset),
    )


def unlinked(account: Account) -> Account:
    """The same account, to be made on its own."""
    return msgspec.structs.replace(account, flags=account.flags & ~ACCOUNT_LINKED)


def _linked(account: Account) -> Account:
    return msgspec.structs.replace(account, flags=account.flags | ACCOUNT_LINKED)


def is_same_account(found: Account, wanted: Account) -> bool:
    """Whether an account in the ledger is the one we would create; however chained."""
    return (
        found.id == wanted.id
        and found.ledger == wanted.ledger
        and found.code == wanted.code
        and found.user_data_128 == wanted.user_data_128
        and found.flags | ACCOUNT_LINKED == wanted.flags | ACCOUNT_LINKED
    )


def balance(account: Account) -> int:
    """What an account can spend now; of a settlement account, the money outside that it stands for.

    Pending credits do not count, pending debits are gone already.
    """
    if account.code == SETTLEMENT:
        return account.debits_posted - account.credits_posted + account.debits_pending
    if account.code == ALLOWANCE_CONTROL:
        return account.debits_posted - account.credits_posted
    return account.credits_posted - account.debits_posted - account.debits_pending


def deposit(transfer_id: int, account_id: int, asset: Asset, amount: int) -> Transfer:
    """Money from outside onto an account of ours, single-phase."""
    return Transfer(
        transfer_id,
        asset.ledger,
        account_id,
        amount,
        user_data_128=transfer_id,
        user_data_32=tag(FUNDING, 0),
        ledger=asset.ledger,
        code=DEPOSIT_CODE,
    )


def withdrawal(transfer_id: int, account_id: int, asset: Asset, amount: int) -> Transfer:
    """Money from an account of ours to the world outside, single-phase."""
    return Transfer(
        transfer_id,
        account_id,
        asset.ledger,
        amount,
        user_data_128=transfer_id,
        user_data_32=tag(FUNDING, 0),
        ledger=asset.ledger,
        code=WITHDRAWAL_CODE,
    )


def _liquidity(account_id: int, asset: Asset, code: int, extra_flags: int = 0) -> Account:
    return Account(
        account_id,
        asset.ledger,
        code,
        DEBITS_MUST_NOT_EXCEED_CREDITS | extra_flags,
        asset.id,
    )
