"""Records the transcripts: ``TIGERBEETLE_BIN=… python -m tests.contract.record_transcripts``.

Scripts say what to cover by hand, and the random sequences (seeded) what nobody thought of. All run
on one fresh replica, each with a ledger number, account ids and transfer ids of its own.
"""

import asyncio
import os
import random
import subprocess
from collections.abc import Callable
from typing import Any, Final

from connector.ledger.ledger import (
    ACCOUNT_LINKED,
    AMOUNT_MAX,
    BALANCING_DEBIT,
    CREDITS,
    CREDITS_MUST_NOT_EXCEED_DEBITS,
    DEBITS,
    DEBITS_MUST_NOT_EXCEED_CREDITS,
    HISTORY,
    LINKED,
    PENDING,
    POST_PENDING_TRANSFER,
    REVERSED,
    U128_MAX,
    VOID_PENDING_TRANSFER,
    TransferStatus,
)
from connector.ledger.rules import TRANSIENT
from connector.ledger.tigerbeetle import TigerBeetleLedger
from tests.support import transcripts
from tests.support.tigerbeetle import Replica
from tests.support.transcripts import Step

Event = dict[str, int]
Script = Callable[["Recorder"], Any]

D: Final = DEBITS_MUST_NOT_EXCEED_CREDITS
C: Final = CREDITS_MUST_NOT_EXCEED_DEBITS
POST: Final = POST_PENDING_TRANSFER
VOID: Final = VOID_PENDING_TRANSFER
RESERVED: Final = 1 << 15

RANDOM_SEQUENCES: Final = 10
RANDOM_STEPS: Final = 40
# Refusals of these codes are remembered by every ledger; of others, not by Postgres.
REMEMBERED_CODES: Final = (2, 3)


class Recorder:
    """One transcript in the making; number - its ledger; base - its ids are above it."""

    def __init__(self, ledger: TigerBeetleLedger, number: int, base: int) -> None:
        self._ledger = ledger
        self._balances: transcripts.Balances = {}
        self._base = base
        self.number = number
        self.steps: list[Step] = []

    def account(self, index: int, flags: int = 0, **fields: int) -> Event:
        event = {"id": self.id(index), "ledger": self.number, "code": 1, "flags": flags, **fields}
        return {name: value for name, value in event.items() if value}

    def transfer(self, index: int, debit: int, credit: int, amount: int, **fields: int) -> Event:
        """Between two accounts given by index; code 2 unless said otherwise."""
        event = {
            "id": self.id(index),
            "debit_account_id": self.id(debit),
            "credit_account_id": self.id(credit),
            "amount": amount,
            "ledger": self.number,
            "code": 2,
            **fields,
        }
        return {name: value for name, value in event.items() if value}

    def resolve(self, index: int, pending: int, flags: int, **fields: int) -> Event:
        """A post of everything or a void, unless ``amount`` says otherwise."""
        amount = AMOUNT_MAX if flags & POST else 0
        pending_id = self.id(pending)
        event = {
            "id": self.id(index),
            "amount": amount,
            "pending_id": pending_id,
            "flags": flags,
            **fields,
        }
        return {name: value for name, value in event.items() if value}

    def id(self, index: int) -> int:
        return self._base + index

    async def accounts(self, *events: Event) -> Step:
        return await self._record({"accounts": list(events)})

    async def transfers(self, *events: Event) -> Step:
        return await self._record({"transfers": list(events)})

    async def each(self, *events: Event) -> None:
        for event in events:
            await self.transfers(event)

    async def read(self, **step: Any) -> None:
        await self._record(step)

    async def _record(self, step: Step) -> Step:
        self.steps.append(step)
        step |= await transcripts.run_step(self._ledger, step)
        ids = transcripts.account_ids(self.steps)
        after = await transcripts.read_balances(self._ledger, ids)
        step["balances"] = {i: b for i, b in after.items() if self._balances.get(i) != b}
        self._balances = after
        return step


async def accounts(r: Recorder) -> None:
    first = r.account(1, D, user_data_128=1, user_data_64=2, user_data_32=3)
    await r.accounts(first)
    await r.accounts(first)
    for change in (
        {"flags": C},
        {"flags": D | HISTORY},
        {"user_data_128": 9},
        {"user_data_64": 9},
        {"user_data_32": 9},
        {"ledger": 9},
        {"code": 9},
        {"code": 9, "ledger": 9, "user_data_32": 9, "user_data_64": 9, "user_data_128": 9},
        {"flags": D | C},
        {"flags": RESERVED},
        {"ledger": 0},
        {"code": 0},
        {"flags": D | ACCOUNT_LINKED},
    ):
        await r.accounts({**first, **change})
    await r.accounts(
        r.account(2, D | C),
        r.account(2, RESERVED),
        r.account(2, ledger=0),
        r.account(2, code=0),
        r.account(2, id=0),
        r.account(2, id=U128_MAX),
        r.account(2, D | C, ledger=0, code=0),
        r.account(2, RESERVED, id=0),
        r.account(2, HISTORY),
        r.account(2),
    )
    # A chain whole, a chain broken in the middle, one broken by an account that exists, one open.
    await r.accounts(r.account(3, ACCOUNT_LINKED), r.account(4, D))
    await r.accounts(r.account(5, ACCOUNT_LINKED), r.account(6, D | C), r.account(7))
    await r.accounts(
        r.account(5, ACCOUNT_LINKED), r.account(6, D | C | ACCOUNT_LINKED), r.account(8)
    )
    await r.accounts(r.account(5, ACCOUNT_LINKED), r.account(1, ACCOUNT_LINKED), r.account(8))
    await r.accounts(r.account(3, ACCOUNT_LINKED), r.account(4, D))
    await r.accounts(r.account(9), r.account(10, ACCOUNT_LINKED), r.account(11, ACCOUNT_LINKED))
    await r.accounts(r.account(12, ACCOUNT_LINKED))
    await r.accounts(r.account(13), r.account(13), r.account(13, D))


async def refusals(r: Recorder) -> None:
    """Every refusal of a single transfer, and which of several comes first."""
    await r.accounts(r.account(1), r.account(2), r.account(3, ledger=r.number + (1 << 31)))
    good = r.transfer(100, 1, 2, 10)
    changes: list[dict[str, int]] = [
        {"flags": RESERVED},
        {"id": 0},
        {"id": U128_MAX},
        {"flags": POST | VOID, "pending_id": 5},
        {"flags": POST | PENDING, "pending_id": 5},
        {"flags": VOID | BALANCING_DEBIT, "pending_id": 5},
        {"debit_account_id": 0},
        {"debit_account_id": U128_MAX},
        {"credit_account_id": 0},
        {"credit_account_id": U128_MAX},
        {"credit_account_id": r.id(1)},
        {"pending_id": 5},
        {"timeout": 1},
        {"ledger": 0},
        {"code": 0},
        {"ledger": r.number + (1 << 31)},
        {"credit_account_id": r.id(3)},
        {"credit_account_id": r.id(3), "ledger": 99},
        {"flags": POST, "pending_id": 0},
        {"flags": POST, "pending_id": U128_MAX},
        {"flags": POST, "pending_id": r.id(100)},
        {"flags": POST, "pending_id": r.id(5), "timeout": 1},
        {"flags": RESERVED, "id": 0},
        {"id": 0, "debit_account_id": 0},
        {"debit_account_id": 0, "credit_account_id": 0, "ledger": 0, "code": 0},
        {"pending_id": 5, "timeout": 1, "ledger": 0},
        {"timeout": 1, "ledger": 0, "code": 0},
        {"ledger": 0, "code": 0, "debit_account_id": r.id(50)},
        {"code": 0, "debit_account_id": r.id(50)},
        {"flags": POST | VOID, "debit_account_id": 0, "pending_id": 0},
    ]
    for change in changes:
        await r.transfers({**good, **change})
    await r.transfers(*({**good, **change} for change in changes))
    # None of these spent the id.
    await r.transfers(good)


async def exists(r: Recorder) -> None:
    """Repeats of what exists, changed in every field, one at a time and together."""
    await r.accounts(r.account(1), r.account(2), r.account(3), r.account(4))
    tags = {"user_data_128": 1, "user_data_64": 2, "user_data_32": 3}
    await r.transfers(r.transfer(90, 1, 2, 10, flags=PENDING))
    single = r.transfer(100, 1, 2, 10, **tags)
    pending = r.transfer(101, 1, 2, 10, flags=PENDING, timeout=3600, **tags)
    post = r.resolve(102, 101, POST, user_data_64=7)
    part = r.transfer(103, 1, 2, 10, flags=PENDING, **tags)
    partial = r.resolve(104, 103, POST, amount=4)
    held = r.transfer(105, 1, 2, 10, flags=PENDING, **tags)
    void = r.resolve(106, 105, VOID)
    originals = [single, pending, post, part, partial, held, void]
    await r.transfers(*originals)
    await r.transfers(*originals)
    for original in originals:
        await r.transfers(
            *(
                {**original, **change}
                for change in (
                    {"flags": original.get("flags", 0) ^ PENDING},
                    {"flags": original.get("flags", 0) | LINKED},
                    {"flags": POST},
                    {"flags": VOID, "amount": 0},
                    {"pending_id": r.id(90)},
                    {"timeout": 9},
                    {"debit_account_id": r.id(3)},
                    {"credit_account_id": r.id(4)},
                    {"debit_account_id": r.id(1), "credit_account_id": r.id(2)},
                    {"amount": 9},
                    {"amount": 11},
                    {"amount": 10},
                    {"amount": 0},
                    {"amount": 4},
                    {"amount": 3},
                    {"amount": AMOUNT_MAX},
                    {"user_data_128": 9},
                    {"user_data_64": 9},
                    {"user_data_32": 9},
                    {"user_data_128": 0, "user_data_64": 0, "user_data_32": 0},
                    tags,
                    {"ledger": 99},
                    {"ledger": r.number},
                    {"code": 9},
                    {"code": 2},
                    {"code": 0},
                    {"timeout": 9, "code": 9, "amount": 9, "user_data_32": 9},
                    {"pending_id": 9, "debit_account_id": 9, "credit_account_id": 9},
                    {"debit_account_id": 9, "amount": 9, "user_data_128": 9},
                    {"user_data_64": 9, "code": 9, "ledger": 99},
                )
            )
        )
    await r.read(lookup_transfers=[*(event["id"] for event in originals), r.id(90), r.id(91)])


async def limits(r: Recorder) -> None:
    await r.accounts(r.account(1, D), r.account(2, C), r.account(3), r.account(4, D))
    await r.each(
        r.transfer(100, 1, 3, 1),
        r.transfer(101, 3, 2, 1),
        r.transfer(102, 1, 2, 1),
        r.transfer(103, 1, 2, 0),
        # Pending credits cannot be spent, pending debits count.
        r.transfer(104, 3, 1, 100, flags=PENDING),
        r.transfer(105, 1, 3, 1),
        r.resolve(106, 104, POST, amount=60),
        r.transfer(107, 1, 3, 61),
        r.transfer(108, 1, 3, 40, flags=PENDING),
        r.transfer(109, 1, 3, 21),
        r.transfer(110, 1, 3, 20),
        r.transfer(111, 1, 3, 1, flags=PENDING),
        r.resolve(112, 108, VOID),
        r.transfer(113, 1, 3, 40),
        r.transfer(114, 1, 3, 1),
        # The same on the other side.
        r.transfer(120, 2, 3, 50, flags=PENDING),
        r.transfer(121, 3, 2, 1),
        r.resolve(122, 120, POST),
        r.transfer(123, 3, 2, 51),
        r.transfer(124, 3, 2, 30, flags=PENDING),
        r.transfer(125, 3, 2, 21),
        r.transfer(126, 3, 2, 20),
    )
    # Who comes first within a request gets the money.
    await r.transfers(
        r.transfer(130, 3, 4, 10),
        r.transfer(131, 4, 3, 6),
        r.transfer(132, 4, 3, 6),
        r.transfer(133, 4, 3, 4),
        r.transfer(134, 3, 4, 5),
        r.transfer(135, 4, 3, 5),
    )


async def chains(r: Recorder) -> None:
    await r.accounts(
        r.account(1, D),
        r.account(2, D),
        r.account(3),
        r.account(4, D, ledger=r.number + (1 << 31)),
        r.account(5, C, ledger=r.number + (1 << 31)),
    )
    shadow = {"ledger": r.number + (1 << 31)}
    linked = {"flags": LINKED}
    await r.transfers(r.transfer(100, 3, 1, 100, **linked), r.transfer(101, 5, 4, 50, **shadow))
    # Broken at the first, in the middle, at the end; the neighbours live.
    await r.transfers(
        r.transfer(102, 2, 1, 1, **linked),
        r.transfer(103, 3, 1, 1),
        r.transfer(104, 1, 3, 1),
        r.transfer(105, 1, 3, 1, **linked),
        r.transfer(106, 2, 1, 1, **linked),
        r.transfer(107, 1, 3, 1),
        r.transfer(108, 1, 3, 1, **linked),
        r.transfer(109, 1, 3, 1, **linked),
        r.transfer(110, 2, 3, 1),
        r.transfer(111, 1, 3, 1),
    )
    # An event may use what the one before it in the chain brought, and gets it back on failure.
    await r.transfers(r.transfer(112, 1, 2, 5, **linked), r.transfer(113, 2, 3, 5))
    await r.transfers(
        r.transfer(114, 1, 2, 5, **linked),
        r.transfer(115, 2, 3, 5, **linked),
        r.transfer(116, 2, 3, 1),
    )
    await r.transfers(r.transfer(117, 2, 3, 5))
    # Over two ledgers.
    await r.transfers(r.transfer(118, 4, 5, 40, **shadow, **linked), r.transfer(119, 1, 3, 40))
    await r.transfers(r.transfer(120, 4, 5, 20, **shadow, **linked), r.transfer(121, 1, 3, 20))
    # The same id twice in one chain, and an id of a chain that failed.
    await r.transfers(r.transfer(122, 1, 3, 1, **linked), r.transfer(122, 1, 3, 1))
    await r.transfers(r.transfer(122, 1, 3, 1), r.transfer(105, 1, 3, 1))
    # Open chains: alone, behind a good one, behind a broken one.
    await r.transfers(r.transfer(123, 1, 3, 1, **linked))
    await r.transfers(
        r.transfer(124, 1, 3, 1),
        r.transfer(125, 1, 3, 1, **linked),
        r.transfer(126, 1, 3, 1, **linked),
    )
    await r.transfers(
        r.transfer(127, 1, 3, 1, **linked),
        r.transfer(128, 1, 1, 1, **linked),
        r.transfer(129, 1, 3, 1, **linked),
    )
    await r.transfers(r.transfer(123, 1, 3, 1), r.transfer(129, 1, 3, 1))
    # Pending and its resolution in one chain; a chain that fails after a resolution.
    await r.transfers(r.transfer(130, 1, 3, 3, flags=PENDING | LINKED), r.resolve(131, 130, POST))
    await r.transfers(r.transfer(132, 1, 3, 3, flags=PENDING))
    await r.transfers(r.resolve(133, 132, POST | LINKED), r.transfer(134, 2, 3, 99))
    await r.transfers(r.resolve(135, 132, VOID | LINKED), r.transfer(136, 2, 3, 99))
    await r.transfers(r.resolve(133, 132, POST | LINKED), r.resolve(137, 132, VOID))
    await r.transfers(r.resolve(138, 132, VOID))


async def two_phase(r: Recorder) -> None:
    await r.accounts(r.account(1), r.account(2), r.account(3), r.account(4))
    tags = {"user_data_128": 1, "user_data_64": 2, "user_data_32": 3}
    for index in range(100, 110):
        await r.transfers(r.transfer(index, 1, 2, 10, flags=PENDING, **tags))
    await r.transfers(r.transfer(110, 1, 2, 10), r.transfer(111, 1, 2, 0, flags=PENDING))
    await r.each(
        r.resolve(120, 100, POST),
        r.resolve(121, 101, VOID),
        r.resolve(122, 102, POST, amount=4),
        r.resolve(123, 103, POST, amount=0),
        r.resolve(124, 104, POST, amount=10),
        r.resolve(125, 105, VOID, amount=10),
        # Refused: too much, the wrong amount, other accounts, ledger, code; no hold, no pending.
        r.resolve(126, 106, POST, amount=11),
        r.resolve(127, 106, VOID, amount=4),
        r.resolve(128, 106, VOID, amount=AMOUNT_MAX),
        r.resolve(129, 106, POST, debit_account_id=r.id(3)),
        r.resolve(130, 106, POST, credit_account_id=r.id(3)),
        r.resolve(131, 106, POST, ledger=99),
        r.resolve(132, 106, POST, code=99),
        r.resolve(133, 99, POST, code=2),
        r.resolve(134, 110, POST, code=2),
        r.resolve(135, 110, VOID, code=99, ledger=99, debit_account_id=r.id(3)),
        r.resolve(136, 100, VOID),
        r.resolve(137, 100, POST),
        r.resolve(138, 101, VOID),
        r.resolve(139, 101, POST),
        r.resolve(140, 100, POST, code=99, amount=11),
        r.resolve(141, 101, POST, amount=11, ledger=99),
        r.resolve(142, 100, POST, amount=11),
        # With the fields named, and with tags of its own.
        r.resolve(
            143,
            106,
            POST,
            debit_account_id=r.id(1),
            credit_account_id=r.id(2),
            ledger=r.number,
            code=2,
            user_data_128=7,
            user_data_64=8,
            user_data_32=9,
        ),
        r.resolve(144, 107, VOID, user_data_32=9),
        r.resolve(145, 111, POST),
        r.resolve(146, 108, POST | VOID),
    )
    await r.transfers(
        r.resolve(150, 108, POST), r.resolve(151, 108, VOID), r.resolve(152, 108, POST)
    )
    await r.transfers(
        r.resolve(153, 109, VOID), r.resolve(154, 109, POST), r.resolve(155, 109, VOID)
    )
    await r.read(lookup_transfers=[r.id(index) for index in range(100, 156)])


async def spent_ids(r: Recorder) -> None:
    """A refusal that another moment might not bring spends its id."""
    await r.accounts(r.account(1, D), r.account(2), r.account(3, C))
    poor = r.transfer(100, 1, 2, 5)
    full = r.transfer(101, 2, 3, 5)
    no_debit = r.transfer(102, 9, 2, 5)
    no_credit = r.transfer(103, 2, 9, 5)
    early = r.resolve(104, 110, POST, code=2)
    packet = r.transfer(105, 1, 2, 5, code=1)
    early_packet = r.resolve(106, 110, VOID)
    spent = [poor, full, no_debit, no_credit, early, packet, early_packet]
    await r.transfers(*spent)
    await r.transfers(*spent)
    # What was missing arrives, except for the packets', whose repeat differs between ledgers.
    await r.accounts(r.account(9))
    await r.transfers(
        r.transfer(107, 2, 1, 4), r.transfer(108, 3, 2, 50), r.transfer(110, 2, 9, 3, flags=PENDING)
    )
    await r.transfers(poor, full, no_debit, no_credit, early, packet)
    await r.transfers({**poor, "amount": 1}, {**poor, "flags": RESERVED}, {**full, "code": 3})
    # Within one request, and within one chain: the culprit's id is spent, its neighbours' are not.
    await r.transfers(r.transfer(120, 1, 2, 9), r.transfer(120, 1, 2, 1))
    await r.transfers(r.transfer(121, 2, 1, 1, flags=LINKED), r.transfer(122, 1, 2, 99))
    await r.transfers(r.transfer(121, 2, 1, 1), r.transfer(122, 1, 2, 1))
    await r.transfers(
        r.transfer(123, 2, 1, 1, flags=LINKED),
        r.transfer(124, 1, 2, 99, flags=LINKED),
        r.transfer(124, 1, 2, 1),
    )
    # Refusals by form spend nothing.
    await r.transfers(r.transfer(130, 2, 1, 1, ledger=99), r.transfer(130, 2, 1, 1))
    await r.transfers(r.resolve(131, 110, POST, amount=9), r.resolve(131, 110, POST, amount=2))
    await r.read(lookup_transfers=[r.id(index) for index in (*range(100, 111), 120, 121, 122)])


async def balancing(r: Recorder) -> None:
    await r.accounts(r.account(1), r.account(2), r.account(3, D), r.account(4, C))
    take = {"flags": BALANCING_DEBIT}
    await r.each(
        r.transfer(100, 1, 2, 5, **take),
        r.transfer(101, 2, 1, 30),
        r.transfer(102, 1, 2, 10, flags=PENDING),
        r.transfer(103, 1, 2, 5, **take),
        r.transfer(104, 1, 2, AMOUNT_MAX, **take),
        r.transfer(104, 1, 2, AMOUNT_MAX, **take),
        r.transfer(104, 1, 2, 15, **take),
        r.transfer(104, 1, 2, 14, **take),
        r.transfer(104, 1, 2, 99, **take),
        r.transfer(105, 1, 2, AMOUNT_MAX, **take),
        r.transfer(105, 1, 2, 1, **take),
        r.transfer(106, 1, 2, 0, **take),
        r.resolve(107, 102, VOID),
        r.transfer(108, 1, 2, 7, flags=BALANCING_DEBIT | PENDING, timeout=3600),
        r.transfer(108, 1, 2, 9, flags=BALANCING_DEBIT | PENDING, timeout=3600),
        r.resolve(109, 108, POST),
        r.resolve(109, 108, POST, amount=7),
        r.transfer(110, 1, 2, AMOUNT_MAX, flags=BALANCING_DEBIT | PENDING),
        r.resolve(111, 110, POST, amount=AMOUNT_MAX),
        r.transfer(112, 2, 3, 20),
        r.transfer(113, 3, 2, AMOUNT_MAX, **take),
        r.transfer(114, 3, 4, 1, **take),
        r.transfer(115, 2, 3, 20),
        r.transfer(116, 3, 4, 30, **take),
        r.transfer(117, 2, 9, 30, **take),
    )
    await r.read(lookup_transfers=[r.id(index) for index in range(100, 118)])


async def overflow(r: Recorder) -> None:
    top = U128_MAX
    await r.accounts(*(r.account(index) for index in range(1, 9)))
    await r.each(
        r.transfer(100, 1, 2, top - 10),
        r.transfer(101, 1, 3, 11),
        r.transfer(102, 3, 2, 11),
        r.transfer(103, 1, 3, 11, flags=PENDING),
        r.transfer(104, 3, 2, 11, flags=PENDING),
        r.transfer(105, 1, 2, 10),
        r.transfer(106, 1, 2, 0),
        r.transfer(107, 1, 2, 1),
        r.transfer(110, 4, 5, top - 10, flags=PENDING),
        r.transfer(111, 4, 6, 11, flags=PENDING),
        r.transfer(112, 6, 5, 11, flags=PENDING),
        r.transfer(113, 4, 6, 11),
        r.transfer(114, 6, 5, 11),
        r.transfer(115, 4, 6, 10),
        r.transfer(116, 6, 5, 10),
        r.transfer(117, 4, 6, 1, flags=PENDING),
        r.transfer(118, 6, 5, 1, flags=PENDING),
        r.resolve(119, 110, POST),
        r.transfer(120, 7, 8, top, flags=PENDING, timeout=(1 << 32) - 1),
        r.resolve(121, 120, VOID),
        r.transfer(122, 7, 8, top),
    )


async def expiries(r: Recorder) -> None:
    await r.accounts(r.account(1, D), r.account(2), r.account(3, C))
    brief = {"flags": PENDING, "timeout": 2}
    await r.transfers(r.transfer(99, 2, 1, 100), r.transfer(98, 3, 2, 100))
    await r.transfers(
        r.transfer(100, 1, 2, 10, **brief),
        r.transfer(101, 1, 2, 20, flags=PENDING, timeout=3600),
        r.transfer(102, 1, 2, 30, flags=PENDING),
        r.transfer(103, 1, 2, 5, **brief),
        r.transfer(104, 1, 2, 6, **brief),
        r.transfer(105, 1, 3, 7, **brief),
        r.transfer(106, 1, 2, 22, **brief),
        r.transfer(107, 1, 2, 1),
    )
    await r.transfers(r.resolve(110, 103, POST), r.resolve(111, 104, VOID))
    # Only 101 and 102 hold on.
    await r.read(expiry=[r.id(1), 50])
    await r.each(
        r.resolve(112, 100, POST),
        r.resolve(113, 100, VOID),
        r.resolve(114, 105, POST, amount=1),
        r.resolve(115, 105, POST, amount=99),
        r.resolve(116, 103, POST),
        r.resolve(117, 104, POST),
        r.transfer(100, 1, 2, 10, **brief),
        r.transfer(118, 1, 2, 46),
        r.transfer(119, 1, 2, 45),
        r.resolve(120, 101, POST),
        r.resolve(121, 102, POST, amount=1),
    )
    # An expired hold breaks a chain.
    await r.transfers(
        r.transfer(122, 2, 1, 5, flags=LINKED), r.resolve(123, 106, VOID), r.transfer(124, 2, 1, 1)
    )


async def packets(r: Recorder) -> None:
    """The chains that the node makes, and the traps among them."""
    money, shadow = r.number, r.number + (1 << 31)
    usd = r.number + (1 << 20)
    await r.accounts(
        r.account(1, C | HISTORY | ACCOUNT_LINKED, code=101),
        r.account(2, D | HISTORY, code=2),
        r.account(3, C | HISTORY | ACCOUNT_LINKED, code=101, ledger=usd),
        r.account(4, D | HISTORY, code=2, ledger=usd),
        r.account(5, D, code=3),
        r.account(6, D, code=3, ledger=usd),
        r.account(7, D, code=4),
        r.account(8, D, code=6, ledger=shadow),
        r.account(9, C, code=102, ledger=shadow),
    )
    await r.transfers(
        r.transfer(100, 1, 5, 1000, code=2),
        r.transfer(101, 1, 2, 500, code=2),
        r.transfer(102, 3, 4, 500, code=2, ledger=usd),
        r.transfer(103, 9, 8, 250, code=10, ledger=shadow),
    )
    tag, resolved = 1 << 24 | 7, 1 << 31 | 1 << 24 | 7

    def create(base: int, amount: int, delivered: int) -> list[Event]:
        common = {"code": 1, "timeout": 330, "user_data_128": r.id(base), "user_data_32": tag}
        return [
            r.transfer(base, 5, 2, amount, flags=PENDING | LINKED, **common),
            r.transfer(base | 1, 4, 6, delivered, flags=PENDING, ledger=usd, **common),
        ]

    def resolve(base: int, op: int, flags: int) -> list[Event]:
        common = {"user_data_32": resolved}
        return [
            r.resolve(base | op << 2, base, flags | LINKED, **common),
            r.resolve(base | op << 2 | 1, base | 1, flags, **common),
        ]

    # Fulfilled and rejected, each said twice: the first event exists, the rest of the chain failed.
    for base, op, flags in ((0x1000, 1, POST), (0x1010, 2, VOID)):
        await r.transfers(*create(base, 100, 108))
        await r.transfers(*create(base, 100, 108))
        await r.transfers(*resolve(base, op, flags))
        await r.transfers(*resolve(base, op, flags))
        await r.transfers(*resolve(base, 3 - op, POST | VOID ^ flags))
    # A void that comes before its pending burns its own id, and the pending still succeeds.
    await r.transfers(*resolve(0x1020, 2, VOID))
    await r.transfers(*create(0x1020, 10, 11))
    await r.transfers(*resolve(0x1020, 1, POST))
    # No liquidity on the way out: the second leg is to blame.
    await r.transfers(*create(0x1030, 10, 999))
    # One chain broken among good ones.
    await r.transfers(*create(0x1040, 1, 1), *create(0x1050, 9999, 1), *create(0x1060, 1, 1))
    # Crash loss: a leg voided and the other posted; or voided and booked anew from liquidity.
    await r.transfers(r.resolve(0x1048, 0x1040, VOID | LINKED), r.resolve(0x1045, 0x1041, POST))
    await r.transfers(
        r.resolve(0x1068, 0x1060, VOID | LINKED),
        r.resolve(0x1069, 0x1061, VOID | LINKED),
        r.transfer(0x106E, 4, 6, 1, code=1, ledger=usd),
    )
    # A local receive under its cap, at it, above it with the overshoot, and beyond.
    for base, amount in ((0x2000, 200), (0x2010, 60)):
        await r.transfers(
            r.transfer(base, 8, 9, amount, code=10, ledger=shadow, flags=LINKED),
            r.transfer(base | 1, 5, 7, amount, code=1),
        )
    await r.transfers(
        r.transfer(0x2020, 8, 9, 50, code=10, ledger=shadow, flags=LINKED),
        r.transfer(0x2021, 5, 7, 50, code=1, flags=LINKED),
        r.transfer(0x2022, 5, 2, 10, code=1, user_data_32=5 << 24),
    )
    await r.transfers(r.transfer(0x2030, 9, 8, 40, code=10, ledger=shadow))
    # The drain, twice.
    drain = r.transfer(0x2040, 8, 9, AMOUNT_MAX, code=10, ledger=shadow, flags=BALANCING_DEBIT)
    await r.transfers(drain)
    await r.transfers(drain)
    # Withdrawals in two phases.
    await r.transfers(r.transfer(0x3000, 7, 1, 250, code=3, flags=PENDING, timeout=600))
    await r.transfers(r.resolve(0x3001, 0x3000, VOID, code=3))
    await r.transfers(r.transfer(0x3002, 7, 1, 251, code=3))
    await r.transfers(r.transfer(0x3002, 7, 1, 250, code=3), r.transfer(0x3003, 7, 1, 250, code=3))
    await r.read(account_transfers={"account_id": r.id(5), "flags": DEBITS | CREDITS})
    await r.read(account_transfers={"account_id": r.id(5), "flags": CREDITS})
    await r.read(account_transfers={"account_id": r.id(6), "flags": DEBITS | CREDITS | REVERSED})
    await r.read(account_transfers={"account_id": r.id(6), "user_data_32": resolved, "limit": 2})
    await r.read(account_transfers={"account_id": r.id(6), "user_data_128": r.id(0x1000)})
    await r.read(account_transfers={"account_id": r.id(5), "code": 2})
    await r.read(account_transfers={"account_id": r.id(99)})
    await r.read(query_transfers={"ledger": money, "code": 1})
    await r.read(query_transfers={"ledger": usd, "user_data_32": tag})
    await r.read(
        query_transfers={"ledger": usd, "user_data_32": resolved, "flags": REVERSED, "limit": 3}
    )
    await r.read(query_transfers={"user_data_128": r.id(0x1010)})
    ids = [step_event["id"] for step in r.steps for step_event in step.get("transfers", ())]
    await r.read(lookup_transfers=list(dict.fromkeys(ids)))


class Random:
    """A sequence of requests that nobody thought of, over few ids so that they meet."""

    def __init__(self, recorder: Recorder, seed: int) -> None:
        self._r = recorder
        self._entropy = random.Random(seed)
        self._seen: list[Event] = []
        self._retired: set[int] = set()
        self._next = 100

    async def run(self) -> None:
        r, entropy = self._r, self._entropy
        flags = [0, 0, D, D, C, HISTORY, D | HISTORY]
        await r.accounts(*(r.account(index, entropy.choice(flags)) for index in range(1, 7)))
        await r.accounts(r.account(7), r.account(8, D, ledger=r.number + (1 << 31)))
        # Something to spend.
        funding = [self._new(amount=1000) for _ in range(8)]
        self._retire(funding, (await r.transfers(*funding))["statuses"])
        for _ in range(RANDOM_STEPS):
            events = self._request()
            step = await r.transfers(*events)
            self._retire(events, step["statuses"])
        ids = sorted({event["id"] for event in self._seen} - {0, U128_MAX})
        await r.read(lookup_transfers=ids)

    def _request(self) -> list[Event]:
        entropy = self._entropy
        events: list[Event] = []
        while not events or entropy.random() < 0.7:
            event = self._event()
            same = [e for e in (*events, event) if e.get("id") == event.get("id")]
            forgotten = any(e.get("code") not in REMEMBERED_CODES for e in same)
            if event.get("id") in self._retired or (len(same) > 1 and forgotten):
                continue
            if entropy.random() < 0.25:
                event = {**event, "flags": event.get("flags", 0) | LINKED}
            events.append(event)
        if entropy.random() < 0.9:
            last = events[-1]
            events[-1] = {**last, "flags": last.get("flags", 0) & ~LINKED}
        self._seen += events
        return events

    def _event(self) -> Event:
        entropy = self._entropy
        choice = entropy.random()
        if choice < 0.35:
            return self._new()
        if choice < 0.7:
            return self._resolution()
        event = dict(entropy.choice(self._seen))
        if choice < 0.8:
            return event
        field, values = entropy.choice(
            [
                ("id", [0, U128_MAX, self._r.id(self._next + 5)]),
                ("debit_account_id", [0, U128_MAX, *map(self._r.id, range(1, 10))]),
                ("credit_account_id", [0, U128_MAX, *map(self._r.id, range(1, 10))]),
                ("amount", [0, 1, 3, 10, 1000, AMOUNT_MAX, AMOUNT_MAX - 1]),
                ("pending_id", [0, U128_MAX, event.get("id", 0), self._some_id()]),
                ("user_data_128", [0, 1, 1 << 100]),
                ("user_data_64", [0, 1, (1 << 64) - 1]),
                ("user_data_32", [0, 1, (1 << 32) - 1]),
                ("timeout", [0, 3600]),
                ("ledger", [0, self._r.number, self._r.number + (1 << 31)]),
                ("code", [0, 2, 3]),
                ("flags", [0, PENDING, POST, VOID, BALANCING_DEBIT, PENDING | BALANCING_DEBIT]),
                ("flags", [RESERVED, POST | VOID, POST | PENDING, VOID | BALANCING_DEBIT]),
            ]
        )
        return {**event, field: entropy.choice(values)}

    def _new(self, amount: int | None = None) -> Event:
        entropy = self._entropy
        self._next += 1
        debit, credit = entropy.sample(range(1, 8), 2)
        event = self._r.transfer(
            self._next,
            debit,
            credit,
            entropy.choice([0, 1, 5, 50, 400, 900]) if amount is None else amount,
            code=entropy.choice([1, 2, 2, 3]),
        )
        kind = entropy.random()
        if amount is None and kind < 0.6:
            event["flags"] = PENDING
            event["timeout"] = entropy.choice([0, 3600])
        elif amount is None and kind < 0.75:
            event["flags"] = BALANCING_DEBIT
        if entropy.random() < 0.3:
            event["user_data_64"] = entropy.choice([1, (1 << 64) - 1])
        if amount is not None:
            self._seen.append(event)
        return event

    def _resolution(self) -> Event:
        entropy = self._entropy
        self._next += 1
        flags = entropy.choice([POST, VOID])
        event = self._r.resolve(self._next, 0, flags, pending_id=self._some_id())
        if flags == POST and entropy.random() < 0.4:
            event["amount"] = entropy.choice([0, 1, 5, 40, 500])
        if entropy.random() < 0.5:
            event["code"] = entropy.choice([1, 2, 3])
        return event

    def _some_id(self) -> int:
        pending = [e["id"] for e in self._seen if e.get("flags", 0) & PENDING and e.get("id")]
        if pending and self._entropy.random() < 0.9:
            return self._entropy.choice(pending[-12:])
        return self._r.id(self._next)

    def _retire(self, events: list[Event], statuses: dict[str, int]) -> None:
        """Postgres forgets refusals of other codes, so their ids are not met again."""
        for index, status in statuses.items():
            event = events[int(index)]
            if status in TRANSIENT and event.get("code", 0) not in REMEMBERED_CODES:
                self._retired.add(event["id"])


SCRIPTS: Final[list[Script]] = [
    accounts,
    refusals,
    exists,
    limits,
    chains,
    two_phase,
    spent_ids,
    balancing,
    overflow,
    expiries,
    packets,
]


async def record(ledger: TigerBeetleLedger, server: str) -> None:
    transcripts.FOLDER.mkdir(exist_ok=True)
    for number, script in enumerate(SCRIPTS, 1):
        recorder = Recorder(ledger, number, number << 64)
        await script(recorder)
        transcripts.save(transcripts.FOLDER / f"{script.__name__}.json", server, recorder.steps)
    for seed in range(RANDOM_SEQUENCES):
        number = 1000 + seed
        recorder = Recorder(ledger, number, number * 1000)
        await Random(recorder, seed).run()
        transcripts.save(transcripts.FOLDER / f"random_{seed:02}.json", server, recorder.steps)


def report() -> None:
    """Print which statuses the transcripts hold, and which none of them does."""
    seen = transcripts.transfer_statuses()
    missing = sorted(status.name for status in TransferStatus if int(status) not in seen)
    print(f"{len(seen)} transfer statuses; never seen: {', '.join(missing)}")


async def main(replica: Replica, server: str) -> None:
    ledger = await TigerBeetleLedger.connect(*replica.cluster, probe_deadline_s=30)
    try:
        await record(ledger, server)
    finally:
        await ledger.close()


if __name__ == "__main__":
    binary = os.environ["TIGERBEETLE_BIN"]
    version = subprocess.run([binary, "version"], check=True, capture_output=True, text=True)
    replica = Replica(binary)
    try:
        asyncio.run(main(replica, version.stdout.strip()))
    finally:
        replica.close()
    report()
