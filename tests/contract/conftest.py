"""Every ledger there is, one after the other."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING

import pytest

from connector.ledger.ledger import Ledger
from connector.ledger.model import ModelLedger
from connector.ledger.postgres import PostgresLedger
from connector.ledger.tigerbeetle import TigerBeetleLedger

if TYPE_CHECKING:
    from tests.support.tigerbeetle import Cluster

PROBE_S_MAX = 10.0

NAMES = ("model", "postgres", "tigerbeetle")

Opener = Callable[[], Awaitable[Ledger]]


@pytest.fixture(params=NAMES)
async def open_ledger(request: pytest.FixtureRequest) -> AsyncIterator[Opener]:
    """Opens sessions on one and the same ledger; the model has only one."""
    opened: list[Ledger] = []
    model = ModelLedger()
    url = request.getfixturevalue("module_database_url") if request.param == "postgres" else ""
    cluster: Cluster | None = (
        request.getfixturevalue("tigerbeetle_cluster") if request.param == "tigerbeetle" else None
    )

    async def open_one() -> Ledger:
        ledger: Ledger
        if cluster is not None:
            ledger = await TigerBeetleLedger.connect(*cluster, PROBE_S_MAX)
        else:
            ledger = PostgresLedger(url) if url else model
        opened.append(ledger)
        return ledger

    yield open_one
    for ledger in opened:
        await ledger.close()


@pytest.fixture
async def ledger(open_ledger: Opener) -> Ledger:
    return await open_ledger()
