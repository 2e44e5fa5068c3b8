"""Random requests, side by side on a ledger and on the model: same answers, balances, transfers.

Few accounts, few ids and few amounts, so that everything runs into everything.
"""

import random
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from connector.ledger.ledger import (
    ACCOUNT_LINKED,
    AMOUNT_MAX,
    BALANCING_DEBIT,
    CREDITS_MUST_NOT_EXCEED_DEBITS,
    DEBITS_MUST_NOT_EXCEED_CREDITS,
    LINKED,
    PENDING,
    POST_PENDING_TRANSFER,
    U128_MAX,
    VOID_PENDING_TRANSFER,
    Account,
    Ledger,
    Transfer,
)
from connector.ledger.model import ModelLedger
from connector.ledger.postgres import BURNT_CODES, PostgresLedger
from connector.ledger.tigerbeetle import TigerBeetleLedger

if TYPE_CHECKING:
    from tests.support.tigerbeetle import Cluster

PROBE_S_MAX = 10.0
D = DEBITS_MUST_NOT_EXCEED_CREDITS
C = CREDITS_MUST_NOT_EXCEED_DEBITS
POST = POST_PENDING_TRANSFER
VOID = VOID_PENDING_TRANSFER

# Accounts by number: a free one, limited ones, one of another ledger. Number 9 does not exist.
FLAGS = {1: 0, 2: D, 3: D, 4: C, 5: 0, 6: D}
OTHER_LEDGER = (5, 6)
ACCOUNT_NUMBERS = (1, 2, 3, 4, 5, 6, 9)
TRANSFER_NUMBERS = tuple(range(1, 9))


class Pair(NamedTuple):
    """A ledger and how much of its refusals it remembers."""

    ledger: Ledger
    burnt_codes: tuple[int, ...] | None


@pytest.fixture(params=["postgres", "tigerbeetle"])
async def pair(request: pytest.FixtureRequest) -> AsyncIterator[Pair]:
    ledger: Ledger
    if request.param == "postgres":
        ledger = PostgresLedger(request.getfixturevalue("module_database_url"))
        yield Pair(ledger, BURNT_CODES)
    else:
        cluster: Cluster = request.getfixturevalue("tigerbeetle_cluster")
        ledger = await TigerBeetleLedger.connect(*cluster, PROBE_S_MAX)
        yield Pair(ledger, None)
    await ledger.close()


amounts = st.sampled_from((1, 2, 3, 5, 10, 0, 2**63 - 1, 2**63, AMOUNT_MAX - 1, AMOUNT_MAX))
small_amounts = st.sampled_from((1, 2, 3, 5, 10, 0))
account_numbers = st.sampled_from(ACCOUNT_NUMBERS[:3]) | st.sampled_from(ACCOUNT_NUMBERS)
transfer_numbers = st.sampled_from(TRANSFER_NUMBERS)
linked = st.sampled_from((0, 0, LINKED))
user_data = st.sampled_from((0, 0, 1, 2**32 - 1))
codes = st.sampled_from((1, 1, 1, 2, 3))


def event(**fields: st.SearchStrategy[int]) -> st.SearchStrategy[Transfer]:
    defaults: dict[str, st.SearchStrategy[int]] = {
        "debit_account_id": st.just(0),
        "credit_account_id": st.just(0),
        "amount": small_amounts,
        "user_data_128": user_data,
        "user_data_64": user_data,
        "user_data_32": user_data,
    }
    return st.builds(Transfer, id=transfer_numbers, **{**defaults, **fields})


def flags(*kinds: int) -> st.SearchStrategy[int]:
    return st.builds(int.__or__, st.sampled_from(kinds), linked)


accounts_of = {"debit_account_id": account_numbers, "credit_account_id": account_numbers}
ledgers = st.sampled_from((1, 1, 1, 2))
creations = event(
    **accounts_of,
    ledger=ledgers,
    code=codes,
    flags=flags(0, PENDING, PENDING, BALANCING_DEBIT, PENDING | BALANCING_DEBIT),
    amount=small_amounts | amounts,
    timeout=st.sampled_from((0, 0, 0, 1000)),
)
resolutions = event(
    pending_id=transfer_numbers, flags=flags(POST), amount=st.just(AMOUNT_MAX) | small_amounts
) | event(pending_id=transfer_numbers, flags=flags(VOID), amount=st.just(0))
oddities = event(
    debit_account_id=st.just(0) | account_numbers,
    credit_account_id=st.just(0) | account_numbers,
    pending_id=st.sampled_from((0, U128_MAX, *TRANSFER_NUMBERS)),
    ledger=st.sampled_from((0, 1, 2)),
    code=st.sampled_from((0, 1, 2, 3)),
    timeout=st.sampled_from((0, 1000, 2**32 - 1)),
    flags=flags(0, PENDING, POST, VOID, POST | VOID, PENDING | POST, BALANCING_DEBIT, 1 << 15),
    amount=amounts,
)
batches = st.lists(
    creations | resolutions | creations | resolutions | oddities, min_size=1, max_size=8
)
# The first money, so that not everything is refused.
FUNDING = [
    Transfer(number, 1, account, 20, ledger=1, code=1) for number, account in ((21, 2), (22, 3))
]


def place(t: Transfer, base: int, number: int) -> Transfer:
    """Give the small numbers of an event the ids of this run."""

    def account_id(small: int) -> int:
        return small and base + small

    def transfer_id(small: int) -> int:
        return small if small in (0, U128_MAX) else base + small

    return msgspec.structs.replace(
        t,
        id=transfer_id(t.id),
        pending_id=transfer_id(t.pending_id),
        debit_account_id=account_id(t.debit_account_id),
        credit_account_id=account_id(t.credit_account_id),
        ledger=t.ledger and number + t.ledger,
    )


async def state(ledger: Ledger, base: int, ids: list[int]) -> tuple[list[Account], list[Transfer]]:
    """All accounts of this run and these transfers, without their times but in their order."""
    accounts = await ledger.lookup_accounts([base + n for n in FLAGS])
    transfers = await ledger.lookup_transfers(ids)
    transfers.sort(key=lambda t: t.timestamp)
    return (
        [msgspec.structs.replace(a, timestamp=0) for a in accounts],
        [msgspec.structs.replace(t, timestamp=0) for t in transfers],
    )


@settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(requests=st.lists(batches | batches | st.integers(0, 4), min_size=2, max_size=8))
async def test_random_transfers(pair: Pair, requests: list[list[Transfer] | int]) -> None:
    """A number among the requests repeats an earlier one."""
    entropy = random.SystemRandom()
    base = entropy.getrandbits(100) << 24
    number = entropy.randrange(1 << 20, 1 << 30)
    model = ModelLedger(burnt_codes=pair.burnt_codes)
    accounts = [
        Account(base + n, number + (2 if n in OTHER_LEDGER else 1), 3, each)
        for n, each in FLAGS.items()
    ]
    for ledger in (model, pair.ledger):
        assert await ledger.create_accounts(accounts) == {}
    batches_sent: list[list[Transfer]] = []
    for request in (FUNDING, *requests):
        if isinstance(request, int):
            batch = batches_sent[request % len(batches_sent)]
        else:
            batch = [place(t, base, number) for t in request]
        batches_sent.append(batch)
        expected = await model.create_transfers(batch)
        assert await pair.ledger.create_transfers(batch) == expected
    ids = [base + n for n in (*TRANSFER_NUMBERS, 21, 22)]
    assert await state(pair.ledger, base, ids) == await state(model, base, ids)


# The packets of a busy node: fresh ids, whole posts and voids of what earlier requests held, and
# hardly enough money. What of it needs no order, Postgres applies set-based.
steps = (
    st.sampled_from(("hold", "hold", "post", "void", "transfer")),
    st.integers(1, 4),
    st.integers(1, 4),
    st.sampled_from((1, 2, 3, 5, 10, 20)),
)
# A request has chains or has none.
packet_requests = st.lists(st.tuples(*steps, st.just(0)), min_size=1, max_size=15) | st.lists(
    st.tuples(*steps, linked), min_size=1, max_size=15
)


def plain_batch(
    request: list[tuple[str, int, int, int, int]], base: int, number: int, held: list[int]
) -> list[Transfer]:
    """The request's transfers, ids from ``base`` on; held - the ids of earlier holds."""
    batch = []
    for index, (kind, one, other, amount, link) in enumerate(request):
        if kind in ("post", "void") and held:
            pending_id = held[(one * 20 + other * 5 + amount) % len(held)]
            whole, flag = (AMOUNT_MAX, POST) if kind == "post" else (0, VOID)
            t = Transfer(base + index, 0, 0, whole, pending_id, flags=flag | link)
        else:
            flag = (0 if kind == "transfer" else PENDING) | link
            accounts = base & ~0xFFFF
            debit, credit = accounts + one, accounts + (other if other != one else one % 4 + 1)
            t = Transfer(base + index, debit, credit, amount, ledger=number, code=1, flags=flag)
        batch.append(t)
    return batch


@settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(requests=st.lists(packet_requests, min_size=1, max_size=6))
async def test_random_packets(
    pair: Pair, requests: list[list[tuple[str, int, int, int, int]]]
) -> None:
    entropy = random.SystemRandom()
    base = entropy.getrandbits(100) << 24
    number = entropy.randrange(1 << 20, 1 << 30)
    model = ModelLedger(burnt_codes=pair.burnt_codes)
    accounts = [Account(base + n, number, 3, FLAGS[n]) for n in range(1, 5)]
    funding = [
        Transfer(base + 20 + n, base + 1, base + n, 15, ledger=number, code=1) for n in (2, 3)
    ]
    for ledger in (model, pair.ledger):
        assert await ledger.create_accounts(accounts) == {}
        assert await ledger.create_transfers(funding) == {}
    ids: list[int] = []
    held: list[int] = []
    for round_, request in enumerate(requests, 1):
        batch = plain_batch(request, base + 100 * round_, number, held)
        ids.extend(t.id for t in batch)
        held.extend(t.id for t in batch if t.flags & PENDING)
        expected = await model.create_transfers(batch)
        assert await pair.ledger.create_transfers(batch) == expected
    assert await state(pair.ledger, base, ids) == await state(model, base, ids)


account_events = st.lists(
    st.builds(
        Account,
        id=st.sampled_from((1, 2, 3, 4, 0, U128_MAX)),
        ledger=st.sampled_from((1, 1, 1, 0)),
        code=st.sampled_from((1, 1, 1, 0)),
        flags=st.sampled_from((0, ACCOUNT_LINKED, D, C | ACCOUNT_LINKED, D | C, 1 << 15)),
        user_data_128=user_data,
        user_data_64=user_data,
        user_data_32=user_data,
    ),
    min_size=1,
    max_size=8,
)


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(requests=st.lists(account_events, min_size=1, max_size=3))
async def test_random_accounts(pair: Pair, requests: list[list[Account]]) -> None:
    entropy = random.SystemRandom()
    base = entropy.getrandbits(100) << 24
    number = entropy.randrange(1 << 20, 1 << 30)
    model = ModelLedger()
    for request in requests:
        batch = [
            msgspec.structs.replace(
                a,
                id=a.id if a.id in (0, U128_MAX) else base + a.id,
                ledger=a.ledger and number + a.ledger,
            )
            for a in request
        ]
        expected = await model.create_accounts(batch)
        assert await pair.ledger.create_accounts(batch) == expected
    ids = [base + n for n in range(1, 5)]
    found = [msgspec.structs.replace(a, timestamp=0) for a in await model.lookup_accounts(ids)]
    stored = await pair.ledger.lookup_accounts(ids)
    assert [msgspec.structs.replace(a, timestamp=0) for a in stored] == found
