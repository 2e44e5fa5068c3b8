"""The TigerBeetle ledger and a real server that is silent, killed, small or tired of us."""

import asyncio
import random
from collections.abc import AsyncIterator

import pytest

from connector.errors import LedgerRejectedBatch, LedgerSessionLost, LedgerUnavailable
from connector.ledger.ledger import BATCH_EVENTS_MAX, LINKED, Account, Transfer
from connector.ledger.tigerbeetle import TigerBeetleLedger
from tests.support.tigerbeetle import Cluster, Replica

PROBE_S = 30
CLIENTS_MAX = 64
# A server with --development has 8 connections for clients.
CLIENTS_AT_ONCE = 4


@pytest.fixture
async def private_ledger(private_tigerbeetle: Replica) -> AsyncIterator[TigerBeetleLedger]:
    ledger = await TigerBeetleLedger.connect(*private_tigerbeetle.cluster, PROBE_S)
    yield ledger
    await ledger.close()


@pytest.fixture
async def ledger(tigerbeetle_cluster: Cluster) -> AsyncIterator[TigerBeetleLedger]:
    ledger = await TigerBeetleLedger.connect(*tigerbeetle_cluster, PROBE_S)
    yield ledger
    await ledger.close()


def two_accounts() -> list[Account]:
    return [Account(random.getrandbits(127) + 1, ledger=1, code=1) for _ in range(2)]


def transfers_between(accounts: list[Account], count: int, flags: int = 0) -> list[Transfer]:
    debit, credit = accounts
    first = random.getrandbits(120) << 7
    return [
        Transfer(first + i + 1, debit.id, credit.id, 1, ledger=1, code=1, flags=flags)
        for i in range(count)
    ]


async def debits(ledger: TigerBeetleLedger, accounts: list[Account]) -> int:
    (account,) = await ledger.lookup_accounts([accounts[0].id])
    return account.debits_posted


async def test_a_silent_server_keeps_callers_waiting_until_it_speaks(
    private_tigerbeetle: Replica, private_ledger: TigerBeetleLedger
) -> None:
    accounts = two_accounts()
    assert await private_ledger.create_accounts(accounts) == {}
    private_tigerbeetle.pause()
    kept, given_up = (
        asyncio.create_task(private_ledger.create_transfers(transfers_between(accounts, 10)))
        for _ in range(2)
    )
    done, _ = await asyncio.wait([kept, given_up], timeout=0.2)
    assert not done
    given_up.cancel()
    with pytest.raises(asyncio.CancelledError):
        await given_up
    private_tigerbeetle.resume()
    assert await kept == {}
    # Giving up on the answer did not take the request back.
    assert await debits(private_ledger, accounts) == 20


async def test_a_killed_server_answers_after_its_restart(
    private_tigerbeetle: Replica, private_ledger: TigerBeetleLedger
) -> None:
    accounts = two_accounts()
    assert await private_ledger.create_accounts(accounts) == {}
    private_tigerbeetle.kill()
    request = asyncio.create_task(private_ledger.create_transfers(transfers_between(accounts, 10)))
    done, _ = await asyncio.wait([request], timeout=0.2)
    assert not done
    await asyncio.to_thread(private_tigerbeetle.start)
    assert await request == {}
    assert await debits(private_ledger, accounts) == 10


async def test_closing_a_session_with_a_silent_server_answers_its_callers(
    private_tigerbeetle: Replica,
) -> None:
    ledger = await TigerBeetleLedger.connect(*private_tigerbeetle.cluster, PROBE_S)
    private_tigerbeetle.pause()
    tasks = [asyncio.create_task(ledger.lookup_accounts([1])) for _ in range(100)]
    await asyncio.wait(tasks, timeout=0.1)
    await ledger.close()
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        assert isinstance(result, LedgerSessionLost)
    private_tigerbeetle.resume()


async def test_connecting_to_a_silent_server_ends_with_a_message(
    private_tigerbeetle: Replica,
) -> None:
    private_tigerbeetle.pause()
    with pytest.raises(LedgerUnavailable, match="Is the server running"):
        await TigerBeetleLedger.connect(*private_tigerbeetle.cluster, 0.3)
    private_tigerbeetle.resume()


async def test_a_wrong_cluster_id_ends_with_a_message(tigerbeetle_cluster: Cluster) -> None:
    wrong = tigerbeetle_cluster.cluster_id + 1
    with pytest.raises(LedgerUnavailable, match=f"TIGERBEETLE_CLUSTER_ID={wrong} its cluster id"):
        await TigerBeetleLedger.connect(wrong, tigerbeetle_cluster.addresses, 0.3)


async def test_an_idle_session_is_evicted_by_many_newer_ones(
    private_tigerbeetle: Replica, private_ledger: TigerBeetleLedger
) -> None:
    # A closed session keeps its place until somebody needs it; few may be connected at a time.
    for _ in range(CLIENTS_MAX // CLIENTS_AT_ONCE):
        newer = await asyncio.gather(
            *(
                TigerBeetleLedger.connect(*private_tigerbeetle.cluster, PROBE_S)
                for _ in range(CLIENTS_AT_ONCE)
            )
        )
        await asyncio.gather(*(ledger.close() for ledger in newer))
    with pytest.raises(LedgerSessionLost, match="session is over"):
        await private_ledger.lookup_accounts([1])
    with pytest.raises(LedgerSessionLost, match="session is over"):
        await private_ledger.create_accounts(two_accounts())


async def test_a_small_server_takes_a_large_request_in_parts(
    private_ledger: TigerBeetleLedger,
) -> None:
    accounts = two_accounts()
    assert await private_ledger.create_accounts(accounts) == {}
    transfers = transfers_between(accounts, 1000)
    assert await private_ledger.create_transfers(transfers) == {}
    # --development takes 32 KiB less 256 bytes of header and 128 of trailer.
    assert private_ledger.batch_events_max == 253
    assert await debits(private_ledger, accounts) == 1000
    statuses = await private_ledger.create_transfers(transfers)
    assert statuses == dict.fromkeys(range(1000), 46)
    found = await private_ledger.lookup_transfers([t.id for t in transfers])
    assert [t.id for t in found] == [t.id for t in transfers]
    chain = transfers_between(accounts, 254, LINKED)
    chain[-1] = Transfer(7, accounts[0].id, accounts[1].id, 1, ledger=1, code=1)
    with pytest.raises(LedgerRejectedBatch, match="more than 253"):
        await private_ledger.create_transfers(transfers_between(accounts, 10) + chain)
    assert await debits(private_ledger, accounts) == 1000


async def test_a_look_up_may_be_the_first_to_be_too_large(
    private_ledger: TigerBeetleLedger,
) -> None:
    accounts = two_accounts()
    assert await private_ledger.create_accounts(accounts) == {}
    ids = [random.getrandbits(100) for _ in range(BATCH_EVENTS_MAX)]
    found = await private_ledger.lookup_accounts([*ids, accounts[0].id])
    assert [account.id for account in found] == [accounts[0].id]
    assert private_ledger.batch_events_max == 253


async def test_many_callers_at_once(ledger: TigerBeetleLedger) -> None:
    accounts = two_accounts()
    assert await ledger.create_accounts(accounts) == {}
    results = await asyncio.gather(
        *(ledger.create_transfers(transfers_between(accounts, 3)) for _ in range(1000))
    )
    assert results == [{}] * 1000
    assert await debits(ledger, accounts) == 3000
