"""Collects the chains of many packets into few ledger requests.

While one request is under way, what arrives waits for the next: a busy ledger gets large batches,
an idle one gets its chain at once, and nobody waits for a timer. Every chain gets one definite
answer, however often its request must be repeated; ids make the repeat harmless.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

import structlog

from connector.errors import LedgerRejectedBatch, LedgerSessionLost, LedgerUnavailable
from connector.ledger.ledger import CREATED, Ledger, Transfer
from connector.ledger.outcome import NOT_APPLIED, chain_status
from connector.metrics import Histogram

Done = Callable[[Any, int, int], None]
Entry = tuple[Sequence[Transfer], Done, Any]

SILENT_AFTER_S: Final = 1.0
RETRY_FIRST_S: Final = 0.05
RETRY_MAX_S: Final = 1.0

log = structlog.get_logger(__name__)


class Batcher:
    """The packet path's queue to one ledger; implements ``ports.LedgerQueue``."""

    def __init__(
        self,
        ledger: Ledger,
        *,
        on_session_lost: Callable[[], None],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Wrap a ledger.

        on_session_lost - called once when only a restart of the process can help.
        """
        self._ledger = ledger
        self._on_session_lost = on_session_lost
        self._monotonic = monotonic
        self._queue: deque[Entry] = deque()
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._outstanding_since: float | None = None
        self._task: asyncio.Task[None] | None = None
        self.batch_events = Histogram()
        self.latency = Histogram()
        self.failures = 0

    @property
    def silent(self) -> bool:
        """A request has been without an answer for more than a second."""
        since = self._outstanding_since
        return since is not None and self._monotonic() - since > SILENT_AFTER_S

    @property
    def depth(self) -> int:
        """Chains that wait for a request."""
        return len(self._queue)

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    def submit(self, chain: Sequence[Transfer], done: Done, packet: Any) -> None:
        """Queue one chain; ``done(packet, leg, status)`` follows, see ``ports.LedgerQueue``."""
        if not self._queue:
            self._wake.set()
            self._idle.clear()
        self._queue.append((chain, done, packet))

    async def drain(self) -> None:
        """Wait until everything that was submitted has its answer."""
        await self._idle.wait()

    async def close(self) -> None:
        """Stop at once; what has no answer yet gets none."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        # Waking takes one turn of the loop, so all that one turn brings shares the first request.
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._queue:
                await self._apply(self._take())
            if not self._wake.is_set():
                self._idle.set()

    def _take(self) -> list[Entry]:
        """The next request's chains: whole ones, as many as one request holds."""
        room = self._ledger.batch_events_max
        entries: list[Entry] = []
        while self._queue and (len(self._queue[0][0]) <= room or not entries):
            entry = self._queue.popleft()
            entries.append(entry)
            room -= len(entry[0])
        return entries

    async def _apply(self, entries: list[Entry]) -> None:
        try:
            failures = await self._request(
                [transfer for chain, _, _ in entries for transfer in chain]
            )
        except LedgerRejectedBatch as error:
            await self._apply_apart(entries, error)
            return
        start = 0
        for chain, done, packet in entries:
            length = len(chain)
            leg, status = chain_status(failures, start, length) if failures else (0, CREATED)
            start += length
            self._tell(done, packet, leg, status)

    async def _apply_apart(self, entries: list[Entry], error: LedgerRejectedBatch) -> None:
        """Halve a refused request until the guilty chain stands alone, and fail that one only."""
        if len(entries) == 1:
            log.error("ledger_refused_chain", reason=str(error), base=hex(entries[0][0][0].id))
            _, done, packet = entries[0]
            self._tell(done, packet, 0, NOT_APPLIED)
            return
        middle = len(entries) // 2
        await self._apply(entries[:middle])
        await self._apply(entries[middle:])

    async def _request(self, transfers: list[Transfer]) -> dict[int, int]:
        """One request, repeated with the same ids until the ledger has answered it."""
        started = self._outstanding_since = self._monotonic()
        delay = RETRY_FIRST_S
        self.batch_events.observe_size(len(transfers))
        try:
            while True:
                try:
                    return await self._ledger.create_transfers(transfers)
                except LedgerUnavailable as error:
                    self.failures += 1
                    log.warning("ledger_unavailable", reason=str(error), retry_in_s=delay)
                    await asyncio.sleep(delay)
                    delay = min(delay * 2, RETRY_MAX_S)
                except LedgerSessionLost as error:
                    log.critical("ledger_session_lost", reason=str(error))
                    self._on_session_lost()
                    await asyncio.Event().wait()  # Until the process ends: nothing can be known.
        finally:
            self._outstanding_since = None
            self.latency.observe(self._monotonic() - started)

    def _tell(self, done: Done, packet: Any, leg: int, status: int) -> None:
        try:
            done(packet, leg, status)
        except Exception:
            # One packet's fault must not take the others' answers.
            log.exception("ledger_answer_not_taken", leg=leg, status=status)
