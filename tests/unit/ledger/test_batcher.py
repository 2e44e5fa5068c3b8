"""Many packets, few requests, one definite answer for each."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from connector.errors import LedgerRejectedBatch, LedgerSessionLost, LedgerUnavailable
from connector.ledger.batcher import Batcher
from connector.ledger.ledger import CREATED, LINKED, Transfer, TransferStatus
from connector.ledger.model import ModelLedger
from tests.support.clock import FakeClock


class GatedLedger(ModelLedger):
    """A ledger whose requests wait for the test, and fail in the order it asks for."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[list[int]] = []
        self.faults: list[Exception] = []
        self.poisoned: set[int] = set()
        self.gate = asyncio.Event()
        self.gate.set()

    async def create_transfers(self, transfers: Sequence[Transfer]) -> dict[int, int]:
        self.requests.append([transfer.id for transfer in transfers])
        await self.gate.wait()
        if self.faults:
            raise self.faults.pop(0)
        if self.poisoned & {transfer.id for transfer in transfers}:
            raise LedgerRejectedBatch("poisoned")
        return {
            index: int(TransferStatus.EXCEEDS_CREDITS)
            for index, transfer in enumerate(transfers)
            if transfer.amount == 0
        }


def transfer(number: int, *, amount: int = 1, flags: int = 0) -> Transfer:
    return Transfer(number, 1, 2, amount, ledger=1, code=1, flags=flags)


class Answers:
    def __init__(self) -> None:
        self.given: dict[Any, tuple[int, int]] = {}
        self.changed = asyncio.Event()

    def __call__(self, packet: Any, leg: int, status: int) -> None:
        assert packet not in self.given, "answered twice"
        self.given[packet] = (leg, status)
        self.changed.set()

    async def wait(self, count: int) -> None:
        async with asyncio.timeout(5):
            while len(self.given) < count:
                self.changed.clear()
                await self.changed.wait()


@pytest.fixture
def ledger() -> GatedLedger:
    return GatedLedger()


@pytest.fixture
async def batcher(ledger: GatedLedger) -> AsyncIterator[Batcher]:
    made = Batcher(ledger, on_session_lost=lambda: None)
    made.start()
    yield made
    await made.close()


async def test_what_arrives_in_one_turn_shares_the_first_request(
    ledger: GatedLedger, batcher: Batcher
) -> None:
    answers = Answers()
    for number in range(1, 6):
        batcher.submit([transfer(number)], answers, number)
    await answers.wait(5)
    assert ledger.requests == [[1, 2, 3, 4, 5]]


async def test_what_arrives_meanwhile_shares_the_next(
    ledger: GatedLedger, batcher: Batcher
) -> None:
    answers = Answers()
    ledger.gate.clear()
    batcher.submit([transfer(1)], answers, 1)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    for number in (2, 3, 4):
        batcher.submit([transfer(number)], answers, number)
    ledger.gate.set()
    await answers.wait(4)
    assert ledger.requests == [[1], [2, 3, 4]]


async def test_each_chain_gets_its_own_status(ledger: GatedLedger, batcher: Batcher) -> None:
    answers = Answers()
    batcher.submit([transfer(1)], answers, "good")
    batcher.submit([transfer(2, flags=LINKED), transfer(3, amount=0)], answers, "second leg")
    batcher.submit([transfer(4, amount=0)], answers, "bad")
    batcher.submit([transfer(5)], answers, "good too")
    await answers.wait(4)
    exceeds = int(TransferStatus.EXCEEDS_CREDITS)
    assert answers.given == {
        "good": (0, CREATED),
        "second leg": (1, exceeds),
        "bad": (0, exceeds),
        "good too": (0, CREATED),
    }


async def test_a_chain_is_never_split_over_two_requests(
    ledger: GatedLedger, batcher: Batcher
) -> None:
    ledger.batch_events_max = 3
    answers = Answers()
    for number in (10, 20, 30):
        chain = [transfer(number, flags=LINKED), transfer(number + 1)]
        batcher.submit(chain, answers, number)
    await answers.wait(3)
    assert ledger.requests == [[10, 11], [20, 21], [30, 31]]


async def test_an_unavailable_ledger_is_asked_again_with_the_same_ids(
    ledger: GatedLedger, batcher: Batcher
) -> None:
    ledger.faults = [LedgerUnavailable("gone"), LedgerUnavailable("still gone")]
    answers = Answers()
    batcher.submit([transfer(1)], answers, 1)
    await answers.wait(1)
    assert ledger.requests == [[1], [1], [1]]
    assert batcher.failures == 2
    assert answers.given == {1: (0, CREATED)}


async def test_a_refused_request_fails_only_the_guilty_chain(
    ledger: GatedLedger, batcher: Batcher
) -> None:
    ledger.poisoned = {7}
    answers = Answers()
    for number in range(1, 11):
        batcher.submit([transfer(number)], answers, number)
    await answers.wait(10)
    assert answers.given.pop(7) == (0, 0)
    assert set(answers.given.values()) == {(0, CREATED)}


async def test_a_fault_in_one_answer_does_not_take_the_others(
    ledger: GatedLedger, batcher: Batcher
) -> None:
    answers = Answers()

    def broken(packet: Any, leg: int, status: int) -> None:
        raise RuntimeError("a bug")

    batcher.submit([transfer(1)], broken, 1)
    batcher.submit([transfer(2)], answers, 2)
    await answers.wait(1)
    batcher.submit([transfer(3)], answers, 3)
    await answers.wait(2)


async def test_silence_is_told_after_a_second_and_ends_with_the_answer(
    ledger: GatedLedger,
) -> None:
    clock = FakeClock()
    batcher = Batcher(ledger, on_session_lost=lambda: None, monotonic=clock.monotonic)
    batcher.start()
    answers = Answers()
    ledger.gate.clear()
    batcher.submit([transfer(1)], answers, 1)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    clock.advance_ms(900)
    silent = [batcher.silent]
    clock.advance_ms(200)
    silent.append(batcher.silent)
    assert silent == [False, True]
    ledger.gate.set()
    await answers.wait(1)
    await batcher.drain()
    assert not batcher.silent
    await batcher.close()


async def test_draining_waits_for_everything(ledger: GatedLedger, batcher: Batcher) -> None:
    answers = Answers()
    await batcher.drain()
    for number in range(1, 4):
        batcher.submit([transfer(number)], answers, number)
    await batcher.drain()
    assert len(answers.given) == 3


async def test_a_lost_session_is_told_once_and_nothing_is_answered(ledger: GatedLedger) -> None:
    lost = asyncio.Event()
    batcher = Batcher(ledger, on_session_lost=lost.set)
    batcher.start()
    answers = Answers()
    ledger.faults = [LedgerSessionLost("evicted")]
    batcher.submit([transfer(1)], answers, 1)
    async with asyncio.timeout(5):
        await lost.wait()
    assert answers.given == {}
    await batcher.close()
