"""What a real TigerBeetle answered, asked again of the ledgers that imitate it.

The transcripts' server version stands in each file; ``record_transcripts`` makes them anew. On
Postgres one difference is allowed: it forgets that it refused a packet's transfer (a code other
than 2 and 3), so a repeat is refused for its own reason instead of ``id_already_failed``.
"""

import asyncio
from pathlib import Path

import pytest

from connector.ledger.ledger import Ledger, TransferStatus
from connector.ledger.model import ModelLedger
from connector.ledger.postgres import BURNT_CODES, PostgresLedger
from connector.ledger.rules import TRANSIENT
from tests.support import transcripts
from tests.support.transcripts import Step

PATHS = sorted(transcripts.FOLDER.glob("*.json"))


def test_there_are_transcripts_for_almost_every_status() -> None:
    seen = transcripts.transfer_statuses()
    # Timeouts of 32 bits reach the end of 63-bit nanoseconds only in the year 2126.
    assert {int(status) for status in TransferStatus} - seen == {
        TransferStatus.CREATED,
        TransferStatus.OVERFLOWS_TIMEOUT,
    }


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
async def test_the_model_answers_the_same(path: Path) -> None:
    await replay(ModelLedger(), transcripts.load(path))


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
async def test_postgres_answers_the_same(path: Path, module_database_url: str) -> None:
    ledger = PostgresLedger(module_database_url)
    expiring = asyncio.create_task(expire_always(ledger))
    try:
        await replay(ledger, without_spent_ids(transcripts.load(path)))
    finally:
        expiring.cancel()
        await asyncio.wait([expiring])
        await ledger.close()


async def expire_always(ledger: PostgresLedger) -> None:
    while True:
        await ledger.expire_pending()
        await asyncio.sleep(0.05)


def without_spent_ids(steps: list[Step]) -> list[Step]:
    """The steps as a ledger answers them that forgets the refusals of a packet's transfers."""
    refused: dict[int, int] = {}
    for step in steps:
        for index, event in enumerate(step.get("transfers", ())):
            status = step["statuses"].get(str(index))
            if status == TransferStatus.ID_ALREADY_FAILED and event["id"] in refused:
                step["statuses"][str(index)] = refused[event["id"]]
            elif status in TRANSIENT and event.get("code", 0) not in BURNT_CODES:
                refused[event["id"]] = status
    return steps


async def replay(ledger: Ledger, steps: list[Step]) -> None:
    balances: transcripts.Balances = {}
    for number, step in enumerate(steps, 1):
        answer = await transcripts.run_step(ledger, step)
        assert answer == {key: step[key] for key in answer}, f"step {number}: {step}"
        balances |= step["balances"]
        ids = transcripts.account_ids(steps[:number])
        assert await transcripts.read_balances(ledger, ids) == balances, f"step {number}: {step}"
