"""The TigerBeetle ledger without a server: the library's echo mode, and a session that misbehaves.

In echo mode a request's events come back as its reply, so the eight 16-byte ids of a look-up come
back as one account record: bytes in, bytes out.
"""

import asyncio
import gc
import random
from collections.abc import Callable
from itertools import pairwise

import pytest

from connector.errors import (
    ConfigError,
    LedgerRejectedBatch,
    LedgerSessionLost,
    LedgerUnavailable,
)
from connector.ledger import tigerbeetle_records as records
from connector.ledger.ledger import BATCH_EVENTS_MAX, LINKED, Account, Transfer
from connector.ledger.tigerbeetle import (
    SESSION_ENDED,
    STATUS_OK,
    STATUS_TOO_MUCH_DATA,
    TigerBeetleLedger,
    chain_cuts,
    parse_addresses,
    resolve_addresses,
)
from connector.ledger.tigerbeetle_native import NativeSession, _requests

ECHO_IDS = 8


def echo_ledger() -> TigerBeetleLedger:
    loop = asyncio.get_running_loop()
    return TigerBeetleLedger(NativeSession(0, "3000", loop, echo=True))


async def see_echo(ledger: TigerBeetleLedger, first: int) -> None:
    ids = list(range(first, first + ECHO_IDS))
    accounts = await ledger.lookup_accounts(ids)
    assert accounts == records.unpack_accounts(records.pack_ids(ids))
    assert accounts[0].id == first


async def test_bytes_in_are_bytes_out() -> None:
    ledger = echo_ledger()
    entropy = random.Random(1)
    for _ in range(20):
        await see_echo(ledger, entropy.getrandbits(100))
    values = [entropy.getrandbits(bits) for bits in (128, 128, 64, 32, 16, 64, 64, 13, 3)]
    names = "user_data_128 user_data_64 user_data_32 code timestamp_min timestamp_max limit flags"
    (echoed,) = await ledger.account_transfers(
        values[0], **dict(zip(names.split(), values[1:], strict=True))
    )
    assert (echoed.id, echoed.debit_account_id) == (values[0], values[1])
    await ledger.close()


async def test_events_reach_the_library_unchanged() -> None:
    ledger = echo_ledger()
    transfer = Transfer(id=7, debit_account_id=8, credit_account_id=9, amount=10)
    # Read as results, an echoed transfer is eight of them, 16 bytes each; none says "created".
    statuses = await ledger.create_transfers([transfer] * BATCH_EVENTS_MAX)
    assert len(statuses) == 8 * BATCH_EVENTS_MAX
    statuses = await ledger.create_accounts([Account(id=5 << 64, ledger=1, code=1)])
    assert statuses[0] == 5
    await ledger.close()


async def test_nothing_to_do_asks_nobody() -> None:
    ledger = echo_ledger()
    await ledger.close()
    assert await ledger.create_accounts([]) == {}
    assert await ledger.create_transfers([]) == {}
    assert await ledger.lookup_accounts([]) == []
    assert await ledger.lookup_transfers([]) == []


async def test_a_thousand_requests_at_once() -> None:
    ledger = echo_ledger()
    for _ in range(3):
        await asyncio.gather(*(see_echo(ledger, first) for first in range(1000)))
        gc.collect()
    await ledger.close()
    assert not _requests


async def test_cancelling_a_caller_hurts_nobody() -> None:
    ledger = echo_ledger()
    entropy = random.Random(2)
    for round_ in range(100):
        tasks = [asyncio.create_task(see_echo(ledger, first)) for first in range(20)]
        for _ in range(entropy.randrange(4)):
            await asyncio.sleep(0)
        cancelled = entropy.sample(tasks, entropy.randrange(20))
        for task in cancelled:
            task.cancel()
        if round_ % 10 == 0:
            gc.collect()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        for task, result in zip(tasks, results, strict=True):
            assert result is None or (
                task in cancelled and isinstance(result, asyncio.CancelledError)
            )
    await ledger.close()
    assert not _requests


@pytest.mark.parametrize("steps", [0, 1, 2, 100])
async def test_cancelled_at_every_await(steps: int) -> None:
    ledger = echo_ledger()
    task = asyncio.create_task(ledger.lookup_accounts(range(ECHO_IDS)))
    for _ in range(steps):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await see_echo(ledger, 5)
    await ledger.close()
    assert not _requests


async def test_cancelled_in_the_tick_of_the_reply() -> None:
    session = FaultySession()
    ledger = faulty_ledger(session)
    task = asyncio.create_task(ledger.lookup_accounts(range(ECHO_IDS)))
    await asyncio.sleep(0)
    # The reply is scheduled before the cancellation, and is delivered first.
    asyncio.get_running_loop().call_soon(task.cancel)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(await ledger.lookup_accounts(range(ECHO_IDS))) == 1


async def test_closing_answers_every_caller_and_repeats() -> None:
    ledger = echo_ledger()
    tasks = [asyncio.create_task(see_echo(ledger, first)) for first in range(100)]
    await asyncio.sleep(0)
    await asyncio.gather(ledger.close(), ledger.close())
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        assert result is None or isinstance(result, LedgerSessionLost)
    await ledger.close()
    with pytest.raises(LedgerSessionLost, match="closed"):
        await ledger.lookup_accounts([1])
    assert not _requests


async def test_a_cancelled_close_still_closes() -> None:
    ledger = echo_ledger()
    closing = asyncio.create_task(ledger.close())
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    await ledger.close()
    assert not _requests


async def test_a_request_beyond_the_most_is_refused() -> None:
    ledger = echo_ledger()
    transfer = Transfer(id=1, debit_account_id=1, credit_account_id=2, amount=1)
    with pytest.raises(LedgerRejectedBatch, match="8190 events"):
        await ledger.create_transfers([transfer] * (BATCH_EVENTS_MAX + 1))
    with pytest.raises(LedgerRejectedBatch, match="out of range"):
        await ledger.create_transfers([transfer, Transfer(1, 1, 2, amount=-1)])
    await ledger.close()


class FaultySession:
    """Answers as a server does whose requests are small, until told to end."""

    def __init__(self, events_max: int = BATCH_EVENTS_MAX, status: int = STATUS_OK) -> None:
        self.events_max = events_max
        self.status = status
        self.taken: list[bytes] = []

    def submit(self, operation: int, events: bytes, done: Callable[[int, bytes], None]) -> bool:
        count = len(events) // (16 if operation == records.LOOKUP_ACCOUNTS else 128)
        loop = asyncio.get_running_loop()
        if self.status != STATUS_OK:
            loop.call_soon(done, self.status, b"")
        elif count > self.events_max:
            loop.call_soon(done, STATUS_TOO_MUCH_DATA, b"")
        elif operation == records.LOOKUP_ACCOUNTS:
            self.taken.append(events)
            loop.call_soon(done, STATUS_OK, events.ljust(-(-len(events) // 128) * 128, b"\0"))
        else:
            # A status other than created for each event that carries an amount of 13.
            self.taken.append(events)
            results = [
                (54 if events[at + 48] == 13 else 0xFFFFFFFF).to_bytes(8, "little")
                for at in range(0, len(events), 128)
            ]
            loop.call_soon(done, STATUS_OK, b"".join(bytes(8) + result for result in results))
        return True

    def close(self) -> None:
        self.status = 5


def faulty_ledger(session: FaultySession) -> TigerBeetleLedger:
    return TigerBeetleLedger(session)


def chain(first_id: int, length: int, amount: int = 1) -> list[Transfer]:
    return [
        Transfer(first_id + i, 1, 2, amount, flags=LINKED if i < length - 1 else 0)
        for i in range(length)
    ]


async def test_a_small_server_gets_parts_cut_between_chains() -> None:
    session = FaultySession(events_max=10)
    ledger = faulty_ledger(session)
    transfers = [*chain(1, 4), *chain(5, 4), *chain(9, 4, amount=13), *chain(13, 10)]
    assert await ledger.create_transfers(transfers) == {8: 54, 9: 54, 10: 54, 11: 54}
    assert ledger.batch_events_max == 10
    applied = [part for part in session.taken if any(part)]
    assert [len(part) // 128 for part in applied] == [8, 4, 10]
    assert b"".join(applied) == records.pack_transfers(transfers)
    session.taken.clear()
    assert await ledger.create_transfers(chain(30, 2) * 6) == {}
    assert [len(part) // 128 for part in session.taken] == [10, 2]


async def test_a_chain_too_long_for_the_server_applies_nothing() -> None:
    session = FaultySession(events_max=10)
    ledger = faulty_ledger(session)
    with pytest.raises(LedgerRejectedBatch, match="more than 10 events"):
        await ledger.create_transfers([*chain(1, 5), *chain(10, 11)])
    assert not any(any(part) for part in session.taken)


async def test_look_ups_are_cut_too() -> None:
    session = FaultySession(events_max=16)
    ledger = faulty_ledger(session)
    ids = list(range(1, 41))
    accounts = await ledger.lookup_accounts(ids)
    assert ledger.batch_events_max == 16
    assert [account.id for account in accounts] == [1, 9, 17, 25, 33]


@pytest.mark.parametrize("status", SESSION_ENDED)
async def test_an_ended_session_is_final(status: int) -> None:
    session = FaultySession(status=status)
    ledger = faulty_ledger(session)
    with pytest.raises(LedgerSessionLost, match=SESSION_ENDED[status]):
        await ledger.lookup_accounts([1])
    session.status = STATUS_OK
    with pytest.raises(LedgerSessionLost, match=SESSION_ENDED[status]):
        await ledger.create_transfers(chain(1, 1))


async def test_an_unknown_packet_status_rejects_the_request() -> None:
    ledger = faulty_ledger(FaultySession(status=7))
    with pytest.raises(LedgerRejectedBatch, match="7"):
        await ledger.create_transfers(chain(1, 1))


def test_chain_cuts_never_part_a_chain() -> None:
    entropy = random.Random(3)
    for _ in range(500):
        flags = [LINKED * (entropy.random() < 0.6) for _ in range(entropy.randrange(1, 40))]
        size_max = entropy.randrange(1, 15)
        try:
            cuts = chain_cuts(flags, size_max)
        except LedgerRejectedBatch:
            lengths = "".join(str(flag) for flag in flags).split("0")
            assert max(map(len, lengths)) + 1 > size_max
            continue
        assert cuts[0][0] == 0 and cuts[-1][1] == len(flags)
        assert all(0 < end - start <= size_max for start, end in cuts)
        for (_, end), (start, _) in pairwise(cuts):
            assert end == start
            assert not flags[end - 1]


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("3004", [("127.0.0.1", 3004)]),
        ("tb-0:3001, tb-1:3002 ,10.0.0.3", [("tb-0", 3001), ("tb-1", 3002), ("10.0.0.3", 3001)]),
        ("[::1]:3000,[fe80::1]", [("::1", 3000), ("fe80::1", 3001)]),
    ],
)
def test_addresses_are_parsed(text: str, parsed: list[tuple[str, int]]) -> None:
    assert parse_addresses(text) == parsed


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a:b",
        "host:",
        "::1",
        "0",
        "70000",
        "host:0",
        "a,,b",
        "h:1,",
        "[::1",
        "a b",
        "1,2,3,4,5,6,7",
    ],
)
def test_malformed_addresses_name_the_setting(text: str) -> None:
    with pytest.raises(ConfigError, match="TIGERBEETLE_REPLICA_ADDRESSES"):
        parse_addresses(text)


async def test_names_are_resolved() -> None:
    assert await resolve_addresses("localhost:3001,3002,[::1]:3003") == (
        "127.0.0.1:3001,127.0.0.1:3002,[::1]:3003"
    )
    with pytest.raises(LedgerUnavailable, match="nowhere"):
        await resolve_addresses("nowhere.invalid:3001")


async def test_a_cluster_id_must_fit() -> None:
    with pytest.raises(ConfigError, match="TIGERBEETLE_CLUSTER_ID"):
        await TigerBeetleLedger.connect(1 << 128, "3001", 1)


async def test_no_server_is_one_clear_message(unused_tcp_port: int) -> None:
    with pytest.raises(LedgerUnavailable) as caught:
        await TigerBeetleLedger.connect(3, f"localhost:{unused_tcp_port}", 0.3)
    message = str(caught.value)
    assert f"TIGERBEETLE_REPLICA_ADDRESSES=localhost:{unused_tcp_port}" in message
    assert f"127.0.0.1:{unused_tcp_port}" in message
    assert "TIGERBEETLE_CLUSTER_ID=3" in message
    assert not _requests
