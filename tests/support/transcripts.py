"""Transcripts: what a ledger was told, step by step, what it answered and what the balances were.

They are recorded from a real TigerBeetle and replayed on the ledgers that imitate it. A transcript
is a JSON list of steps, each an object with one of the keys below, the answer in ``statuses`` or
``found``, and ``balances`` of every account whose balances the step changed, as
``[debits_pending, debits_posted, credits_pending, credits_posted]``.

    accounts, transfers - events to create, with their fields that are not 0
    expiry - [account id, debits_pending]: wait until so much is left, as pending transfers expire
    lookup_transfers - ids; account_transfers, query_transfers - arguments
"""

import asyncio
import json
from pathlib import Path
from typing import Any, Final

from connector.ledger.ledger import Account, Ledger, Transfer

FOLDER: Final = Path(__file__).parents[1] / "contract" / "transcripts"
EXPIRY_S_MAX: Final = 20

Step = dict[str, Any]
Balances = dict[str, list[int]]


async def run_step(ledger: Ledger, step: Step) -> Step:
    """Do what a step says; returns its answer, as a recorded step holds it."""
    if "accounts" in step:
        return _statuses(await ledger.create_accounts([read_account(a) for a in step["accounts"]]))
    if "transfers" in step:
        return _statuses(
            await ledger.create_transfers([read_transfer(t) for t in step["transfers"]])
        )
    if "lookup_transfers" in step:
        found = await ledger.lookup_transfers(step["lookup_transfers"])
        return {"found": [write_transfer(t) for t in found]}
    if "account_transfers" in step:
        found = await ledger.account_transfers(**step["account_transfers"])
        return {"found": [t.id for t in found]}
    if "query_transfers" in step:
        found = await ledger.query_transfers(**step["query_transfers"])
        return {"found": [t.id for t in found]}
    await wait_for_expiry(ledger, *step["expiry"])
    return {}


async def read_balances(ledger: Ledger, account_ids: list[int]) -> Balances:
    return {
        str(a.id): [a.debits_pending, a.debits_posted, a.credits_pending, a.credits_posted]
        for a in await ledger.lookup_accounts(account_ids)
    }


async def wait_for_expiry(ledger: Ledger, account_id: int, debits_pending: int) -> None:
    """Return once no more than this is pending. Raises: TimeoutError."""
    async with asyncio.timeout(EXPIRY_S_MAX):
        while True:
            (account,) = await ledger.lookup_accounts([account_id])
            if account.debits_pending <= debits_pending:
                return
            await asyncio.sleep(0.02)


def account_ids(steps: list[Step]) -> list[int]:
    """Every account that the steps may have created, each once, in order."""
    ids = {fields.get("id", 0): None for step in steps for fields in step.get("accounts", ())}
    return list(ids)


def read_account(fields: dict[str, int]) -> Account:
    return Account(**{"id": 0, "ledger": 0, "code": 0, **fields})


def read_transfer(fields: dict[str, int]) -> Transfer:
    required = {"id": 0, "debit_account_id": 0, "credit_account_id": 0, "amount": 0}
    return Transfer(**{**required, **fields})


def write_transfer(transfer: Transfer) -> dict[str, int]:
    fields = {name: getattr(transfer, name) for name in transfer.__struct_fields__}
    del fields["timestamp"]
    return {name: value for name, value in fields.items() if value}


def load(path: Path) -> list[Step]:
    steps: list[Step] = json.loads(path.read_text())["steps"]
    return steps


def transfer_statuses() -> set[int]:
    """Every status of a transfer in any transcript."""
    return {
        status
        for path in FOLDER.glob("*.json")
        for step in load(path)
        if "transfers" in step
        for status in step["statuses"].values()
    }


def save(path: Path, server: str, steps: list[Step]) -> None:
    """One line for each step, so that a new recording shows what changed."""
    lines = ",\n".join(json.dumps(step, separators=(",", ":")) for step in steps)
    path.write_text(f'{{"server": {json.dumps(server)}, "steps": [\n{lines}\n]}}\n')


def _statuses(statuses: dict[int, int]) -> Step:
    return {"statuses": {str(index): int(status) for index, status in statuses.items()}}
