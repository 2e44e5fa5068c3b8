"""Our bytes against the official client's own structures."""

import ctypes
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tigerbeetle import bindings
from tigerbeetle.lib import c_uint128

from connector.errors import LedgerRejectedBatch
from connector.ledger import tigerbeetle as ledger_module
from connector.ledger import tigerbeetle_records as records
from connector.ledger.ledger import (
    BATCH_EVENTS_MAX,
    CREATED,
    Account,
    AccountStatus,
    Transfer,
    TransferStatus,
)

u128 = st.integers(0, (1 << 128) - 1)
u64 = st.integers(0, (1 << 64) - 1)
u32 = st.integers(0, (1 << 32) - 1)
u16 = st.integers(0, (1 << 16) - 1)
limits = st.integers(0, BATCH_EVENTS_MAX)

transfers = st.builds(
    Transfer,
    id=u128,
    debit_account_id=u128,
    credit_account_id=u128,
    amount=u128,
    pending_id=u128,
    user_data_128=u128,
    user_data_64=u64,
    user_data_32=u32,
    timeout=u32,
    ledger=u32,
    code=u16,
    flags=u16,
    timestamp=u64,
)
accounts = st.builds(
    Account,
    id=u128,
    ledger=u32,
    code=u16,
    flags=u16,
    user_data_128=u128,
    user_data_64=u64,
    user_data_32=u32,
    debits_pending=u128,
    debits_posted=u128,
    credits_pending=u128,
    credits_posted=u128,
    timestamp=u64,
)


def fields(value: Transfer | Account, *without: str) -> dict[str, Any]:
    return {
        name: 0 if name in without else getattr(value, name) for name in value.__struct_fields__
    }


BALANCES = ("debits_pending", "debits_posted", "credits_pending", "credits_posted")


@given(st.lists(transfers, max_size=5))
def test_transfers_are_the_clients_bytes_without_a_timestamp(values: list[Transfer]) -> None:
    theirs = [
        bytes(bindings.CTransfer.from_param(bindings.Transfer(**fields(value, "timestamp"))))
        for value in values
    ]
    assert records.pack_transfers(values) == b"".join(theirs)


@given(st.lists(accounts, max_size=5))
def test_accounts_are_the_clients_bytes_without_what_the_ledger_sets(values: list[Account]) -> None:
    theirs = [
        bytes(
            bindings.CAccount.from_param(bindings.Account(**fields(value, "timestamp", *BALANCES)))
        )
        for value in values
    ]
    assert records.pack_accounts(values) == b"".join(theirs)


@given(st.lists(transfers, max_size=5))
def test_transfers_are_read_as_the_client_wrote_them(values: list[Transfer]) -> None:
    theirs = [
        bytes(bindings.CTransfer.from_param(bindings.Transfer(**fields(value)))) for value in values
    ]
    assert records.unpack_transfers(b"".join(theirs)) == values


@given(st.lists(accounts, max_size=5))
def test_accounts_are_read_as_the_client_wrote_them(values: list[Account]) -> None:
    theirs = [
        bytes(bindings.CAccount.from_param(bindings.Account(**fields(value)))) for value in values
    ]
    assert records.unpack_accounts(b"".join(theirs)) == values


@given(
    st.fixed_dictionaries(
        {
            "account_id": u128,
            "user_data_128": u128,
            "user_data_64": u64,
            "user_data_32": u32,
            "code": u16,
            "timestamp_min": u64,
            "timestamp_max": u64,
            "limit": limits,
            "flags": u32,
        }
    )
)
def test_account_filters_are_the_clients_bytes(values: dict[str, Any]) -> None:
    theirs = bindings.CAccountFilter.from_param(bindings.AccountFilter(**values))
    assert records.pack_account_filter(**values) == bytes(theirs)


@given(
    st.fixed_dictionaries(
        {
            "user_data_128": u128,
            "user_data_64": u64,
            "user_data_32": u32,
            "ledger": u32,
            "code": u16,
            "timestamp_min": u64,
            "timestamp_max": u64,
            "limit": limits,
            "flags": u32,
        }
    )
)
def test_query_filters_are_the_clients_bytes(values: dict[str, Any]) -> None:
    theirs = bindings.CQueryFilter.from_param(bindings.QueryFilter(**values))
    assert records.pack_query_filter(**values) == bytes(theirs)


def test_a_limit_above_one_reply_is_cut_to_it() -> None:
    filters = [
        records.pack_query_filter(ledger=1, code=0, timestamp_min=0, limit=limit)
        for limit in (BATCH_EVENTS_MAX, BATCH_EVENTS_MAX + 1, 1 << 40)
    ]
    assert filters[0] == filters[1] == filters[2]


@given(st.lists(u128, max_size=5))
def test_ids_are_the_clients_bytes(ids: list[int]) -> None:
    theirs = [bytes(c_uint128.from_param(i)) for i in ids]
    assert records.pack_ids(ids) == b"".join(theirs)


@given(st.lists(st.sampled_from([CREATED, *TransferStatus]), max_size=20), u64)
def test_statuses_leave_out_what_was_created(statuses: list[int], timestamp: int) -> None:
    reply = b"".join(
        bytes(bindings.CCreateTransferResult(timestamp=timestamp, status=status))
        for status in statuses
    )
    assert records.unpack_statuses(reply) == {
        index: status for index, status in enumerate(statuses) if status != CREATED
    }


@pytest.mark.parametrize(
    ("field", "bits"),
    [
        ("id", 128),
        ("debit_account_id", 128),
        ("credit_account_id", 128),
        ("amount", 128),
        ("pending_id", 128),
        ("user_data_128", 128),
        ("user_data_64", 64),
        ("user_data_32", 32),
        ("timeout", 32),
        ("ledger", 32),
        ("code", 16),
        ("flags", 16),
    ],
)
@pytest.mark.parametrize("value", [lambda bits: -1, lambda bits: 1 << bits], ids=["-1", "2^bits"])
def test_a_transfer_out_of_range_is_refused(
    field: str, bits: int, value: Callable[[int], int]
) -> None:
    values = {"id": 1, "debit_account_id": 1, "credit_account_id": 2, "amount": 1}
    with pytest.raises(LedgerRejectedBatch):
        records.pack_transfers([Transfer(**{**values, field: value(bits)})])


@pytest.mark.parametrize("value", [-1, 1 << 128])
def test_other_values_out_of_range_are_refused(value: int) -> None:
    with pytest.raises(LedgerRejectedBatch):
        records.pack_accounts([Account(id=value, ledger=1, code=1)])
    with pytest.raises(LedgerRejectedBatch):
        records.pack_accounts([Account(id=1, ledger=1, code=value)])
    with pytest.raises(LedgerRejectedBatch):
        records.pack_ids([value])
    with pytest.raises(LedgerRejectedBatch):
        records.pack_query_filter(ledger=value, code=0, timestamp_min=0, limit=1)
    with pytest.raises(LedgerRejectedBatch):
        records.pack_account_filter(
            account_id=value,
            user_data_128=0,
            user_data_64=0,
            user_data_32=0,
            code=0,
            timestamp_min=0,
            timestamp_max=0,
            limit=1,
            flags=0,
        )


def test_numbers_are_the_clients() -> None:
    for name, operation in bindings.Operation.__members__.items():
        assert getattr(records, name, operation) == operation
    assert int(bindings.QueryFilterFlags.REVERSED) == records.QUERY_REVERSED
    assert int(bindings.PacketStatus.OK) == ledger_module.STATUS_OK
    assert int(bindings.PacketStatus.TOO_MUCH_DATA) == ledger_module.STATUS_TOO_MUCH_DATA
    assert set(ledger_module.SESSION_ENDED) == {
        bindings.PacketStatus.CLIENT_EVICTED,
        bindings.PacketStatus.CLIENT_RELEASE_TOO_LOW,
        bindings.PacketStatus.CLIENT_RELEASE_TOO_HIGH,
        bindings.PacketStatus.CLIENT_SHUTDOWN,
    }
    for account_status in AccountStatus:
        assert int(bindings.CreateAccountStatus[account_status.name]) == account_status.value
    for transfer_status in TransferStatus:
        assert int(bindings.CreateTransferStatus[transfer_status.name]) == transfer_status.value
    assert ctypes.sizeof(bindings.CTransfer) == records.RECORD_BYTES
