"""TigerBeetle's records as bytes: 128-byte events out, accounts, transfers and statuses in.

Little-endian, u128 as 16 bytes, exactly what the official client's own structures hold (a test
compares them), at a tenth of their cost. Nothing here knows the client or does IO.
"""

from collections.abc import Sequence
from struct import Struct, error
from typing import Final

from connector.errors import LedgerRejectedBatch
from connector.ledger.ledger import BATCH_EVENTS_MAX, CREATED, Account, Transfer

LOOKUP_ACCOUNTS: Final = 140
LOOKUP_TRANSFERS: Final = 141
GET_ACCOUNT_TRANSFERS: Final = 142
QUERY_ACCOUNTS: Final = 144
QUERY_TRANSFERS: Final = 145
CREATE_ACCOUNTS: Final = 146
CREATE_TRANSFERS: Final = 147

RECORD_BYTES: Final = 128

# The same word has another bit in a query's filter than in an account's.
QUERY_REVERSED: Final = 1 << 0

# Fields that only the ledger sets (timestamp, balances, reserved bytes) are padding on the way out:
# there they must be zero, so an event that was looked up can be sent again as it is.
_transfer_out = Struct("<16s16s16s16s16s16sQIIIHH8x")
_account_out = Struct("<16s64x16sQI4xIHH8x")
_account_filter = Struct("<16s16sQIH58xQQII")
_query_filter = Struct("<16sQIIH6xQQII")

_transfer_in = Struct("<12QQIIIHHQ")
_account_in = Struct("<12QQI4xIHHQ")
_status_in = Struct("<8xI4x")

_u128 = int.to_bytes


def pack_transfers(transfers: Sequence[Transfer]) -> bytes:
    """Raises: LedgerRejectedBatch - a value that does not fit its field."""
    pack = _transfer_out.pack
    try:
        return b"".join(
            [
                pack(
                    _u128(t.id, 16, "little"),
                    _u128(t.debit_account_id, 16, "little"),
                    _u128(t.credit_account_id, 16, "little"),
                    _u128(t.amount, 16, "little"),
                    _u128(t.pending_id, 16, "little"),
                    _u128(t.user_data_128, 16, "little"),
                    t.user_data_64,
                    t.user_data_32,
                    t.timeout,
                    t.ledger,
                    t.code,
                    t.flags,
                )
                for t in transfers
            ]
        )
    except (error, OverflowError) as problem:
        raise LedgerRejectedBatch(f"a transfer has a value out of range: {problem}") from problem


def pack_accounts(accounts: Sequence[Account]) -> bytes:
    """Raises: LedgerRejectedBatch - a value that does not fit its field."""
    try:
        return b"".join(
            [
                _account_out.pack(
                    _u128(a.id, 16, "little"),
                    _u128(a.user_data_128, 16, "little"),
                    a.user_data_64,
                    a.user_data_32,
                    a.ledger,
                    a.code,
                    a.flags,
                )
                for a in accounts
            ]
        )
    except (error, OverflowError) as problem:
        raise LedgerRejectedBatch(f"an account has a value out of range: {problem}") from problem


def pack_ids(ids: Sequence[int]) -> bytes:
    """Raises: LedgerRejectedBatch - a value that is no u128."""
    try:
        return b"".join([_u128(i, 16, "little") for i in ids])
    except OverflowError as problem:
        raise LedgerRejectedBatch(f"an id is out of range: {problem}") from problem


def pack_account_filter(
    *,
    account_id: int,
    user_data_128: int,
    user_data_64: int,
    user_data_32: int,
    code: int,
    timestamp_min: int,
    timestamp_max: int,
    limit: int,
    flags: int,
) -> bytes:
    """Raises: LedgerRejectedBatch - a value that does not fit its field."""
    try:
        return _account_filter.pack(
            _u128(account_id, 16, "little"),
            _u128(user_data_128, 16, "little"),
            user_data_64,
            user_data_32,
            code,
            timestamp_min,
            timestamp_max,
            min(limit, BATCH_EVENTS_MAX),
            flags,
        )
    except (error, OverflowError) as problem:
        raise LedgerRejectedBatch(f"a filter has a value out of range: {problem}") from problem


def pack_query_filter(
    *,
    user_data_128: int = 0,
    user_data_64: int = 0,
    user_data_32: int = 0,
    ledger: int,
    code: int,
    timestamp_min: int,
    timestamp_max: int = 0,
    limit: int,
    flags: int = 0,
) -> bytes:
    """Raises: LedgerRejectedBatch - a value that does not fit its field."""
    try:
        return _query_filter.pack(
            _u128(user_data_128, 16, "little"),
            user_data_64,
            user_data_32,
            ledger,
            code,
            timestamp_min,
            timestamp_max,
            min(limit, BATCH_EVENTS_MAX),
            flags,
        )
    except (error, OverflowError) as problem:
        raise LedgerRejectedBatch(f"a filter has a value out of range: {problem}") from problem


def unpack_statuses(reply: bytes) -> dict[int, int]:
    """Index -> status of every event that was not created, from one 16-byte result an event."""
    # Only the status "created" has 0xFF as its lowest byte, so the common answer needs no loop.
    if reply[8::16].count(CREATED & 0xFF) * _status_in.size == len(reply):
        return {}
    return {
        index: status
        for index, (status,) in enumerate(_status_in.iter_unpack(reply))
        if status != CREATED
    }


def unpack_transfers(reply: bytes) -> list[Transfer]:
    return [
        Transfer(
            id_low | id_high << 64,
            debit_low | debit_high << 64,
            credit_low | credit_high << 64,
            amount_low | amount_high << 64,
            pending_low | pending_high << 64,
            data_low | data_high << 64,
            *rest,
        )
        for (
            id_low,
            id_high,
            debit_low,
            debit_high,
            credit_low,
            credit_high,
            amount_low,
            amount_high,
            pending_low,
            pending_high,
            data_low,
            data_high,
            *rest,
        ) in _transfer_in.iter_unpack(reply)
    ]


def unpack_accounts(reply: bytes) -> list[Account]:
    return [
        Account(
            id=id_low | id_high << 64,
            ledger=ledger,
            code=code,
            flags=flags,
            user_data_128=data_low | data_high << 64,
            user_data_64=user_data_64,
            user_data_32=user_data_32,
            debits_pending=dp_low | dp_high << 64,
            debits_posted=d_low | d_high << 64,
            credits_pending=cp_low | cp_high << 64,
            credits_posted=c_low | c_high << 64,
            timestamp=timestamp,
        )
        for (
            id_low,
            id_high,
            dp_low,
            dp_high,
            d_low,
            d_high,
            cp_low,
            cp_high,
            c_low,
            c_high,
            data_low,
            data_high,
            user_data_64,
            user_data_32,
            ledger,
            code,
            flags,
            timestamp,
        ) in _account_in.iter_unpack(reply)
    ]
