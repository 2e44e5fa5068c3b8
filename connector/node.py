"""One connector worker: the composition root, and the only module that knows every concrete class.

``python -m connector.node`` runs one worker; the supervisor starts as many as there are cores, all
on one port. SIGTERM and SIGINT drain: no new connections, what is in flight is answered, the ledger
is flushed. A second one ends the process at once.
"""

import asyncio
import gc
import os
import secrets
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from typing import Final, Self

import structlog
import uvloop

from connector import logging as node_logging
from connector.accounts.cipher import Cipher
from connector.accounts.directory import DirectoryWatcher
from connector.deadlines import TICK_S
from connector.directory import EMPTY, Directory
from connector.errors import ConnectorError, LedgerUnavailable
from connector.ledger.batcher import Batcher
from connector.ledger.ledger import BATCH_EVENTS_MAX, Ledger
from connector.ledger.ledger import Account as LedgerAccount
from connector.ledger.opening import open_ledger
from connector.links.http_client import ClientLimits, HttpLinks
from connector.links.http_server import IlpHttpServer, ServerLimits
from connector.metrics import Family, serve_snapshots
from connector.payments.rates import RatesRefresher
from connector.pipeline import PacketRules, Pipeline
from connector.quota import QuotaManager
from connector.settings import Settings, load_settings
from connector.stores import check_schema, connect_postgres, redis_client
from connector.worker_metrics import (
    balance_families,
    ledger_families,
    links_families,
    pipeline_families,
    server_families,
)

# A packet is decided 30.5 s after its admission at the latest.
DRAIN_S_MAX: Final = 35.0
BALANCES_S: Final = 5.0
EXPIRY_SWEEP_S: Final = 1.0
GC_ALLOCATIONS: Final = 50_000

log = structlog.get_logger(__name__)


class Worker:
    """Everything that one worker process holds, wired together."""

    def __init__(self, settings: Settings, ledger: Ledger, slot: int) -> None:
        self.settings = settings
        self.ledger = ledger
        self.lost = asyncio.Event()
        self.idle = asyncio.Event()
        self.ready = False
        self.directory: Directory = EMPTY
        self.balances: dict[int, LedgerAccount] = {}
        self.batcher = Batcher(ledger, on_session_lost=self.lost.set)
        self.pipeline = Pipeline(
            ledger=self.batcher,
            slot=slot,
            rules=PacketRules(
                settings.ilp_expiry_margin_ms,
                settings.ilp_max_hold_ms,
                settings.late_fulfil_slack_ms,
                settings.ledger_grace_s,
                settings.route_to_sender,
            ),
            wall_ms=lambda: time.time_ns() // 1_000_000,
            monotonic=time.monotonic,
            random_bits=secrets.randbits,
            on_account_missing=lambda: self.watcher.refresh(),
        )
        self.links = HttpLinks(
            self.pipeline, limits=ClientLimits(connections_max=settings.peer_connections_max)
        )
        self.pipeline.links = self.links
        self.server = IlpHttpServer(
            authenticate=self.pipeline.authenticate,
            receive_prepare=self.pipeline.receive_prepare,
            limits=ServerLimits(
                connections_max=settings.connector_connections_max,
                header_s=settings.connector_header_timeout_ms / 1000,
                body_s=settings.connector_header_timeout_ms / 1000,
                idle_s=settings.connector_idle_timeout_ms / 1000,
            ),
        )
        self.redis = redis_client(settings)
        self.quotas = QuotaManager(self.redis, f"slot-{slot}", settings.connector_workers)
        self.rates = RatesRefresher(
            self.pipeline.apply_rates,
            url=settings.exchange_rates_url,
            fixed=settings.exchange_rates,
            lifetime_ms=settings.exchange_rates_lifetime,
            stale_ms=settings.exchange_rates_stale_ms,
        )
        self.watcher = DirectoryWatcher(
            settings.postgres_url(),
            settings.ilp_address,
            Cipher.from_base64(settings.db_encryption_secret or ""),
            self.apply_directory,
        )

    @classmethod
    async def start(cls, settings: Settings, stack: AsyncExitStack) -> Self:
        """Connect, load, listen; ``stack`` undoes it in the reverse order.

        Raises: ConnectorError - a line for people says what is wrong.
        """
        slot = await _next_slot(settings)
        ledger = await open_ledger(settings)
        stack.push_async_callback(ledger.close)
        worker = cls(settings, ledger, slot)
        worker.batcher.start()
        stack.push_async_callback(worker.batcher.close)
        stack.push_async_callback(worker.redis.aclose)
        worker.quotas.start()
        stack.push_async_callback(worker.quotas.close)
        worker.rates.start()
        stack.push_async_callback(worker.rates.close)
        await worker.watcher.start()
        stack.push_async_callback(worker.watcher.close)
        await worker._listen(stack)
        worker.ready = True
        log.info("worker_ready", slot=slot, port=settings.connector_port)
        return worker

    async def _listen(self, stack: AsyncExitStack) -> None:
        run_dir = os.environ.get("JIRANI_RUN_DIR")
        process = os.environ.get("JIRANI_PROCESS")
        if run_dir and process:
            path = f"{run_dir}/{process}.sock"
            snapshots = await serve_snapshots(path, self.families, lambda: self.ready)
            stack.callback(snapshots.close)
        for period_s, step in (
            (TICK_S, self._tick),
            (BALANCES_S, self._read_balances),
            (EXPIRY_SWEEP_S, self._expire_pending),
        ):
            task = asyncio.create_task(_repeat(period_s, step))
            stack.callback(task.cancel)
        await self.server.start(self.settings.connector_host, self.settings.connector_port)

    async def drain(self) -> None:
        """Take nothing new, answer what is in flight, flush the ledger; at most ``DRAIN_S_MAX``."""
        self.ready = False
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_S_MAX):
                await self.server.drain(DRAIN_S_MAX)
                self.idle.clear()
                await self.idle.wait()
                await self.batcher.drain()
        if self.pipeline.in_flight:
            log.error("drained_with_packets_in_flight", packets=self.pipeline.in_flight)
        await self.links.close(1.0)

    def apply_directory(self, directory: Directory) -> None:
        """A change that an operator made takes effect, here and now."""
        self.directory = directory
        self.pipeline.apply_directory(directory)
        self.quotas.apply_directory(directory)
        for account in self.pipeline.accounts.values():
            account.packet_quota = self.quotas.packet_quota(account.peer.id)
            account.amount_quota = self.quotas.amount_quota(account.peer.id)
        self.rates.apply_directory(directory)
        self.links.update(directory.peers.values())

    def families(self) -> list[Family]:
        peers, assets = self.directory.peers.values(), self.directory.assets.values()
        return [
            *pipeline_families(self.pipeline),
            *ledger_families(self.batcher),
            *server_families(self.server),
            *links_families(self.links),
            *balance_families(peers, assets, self.balances),
        ]

    async def _tick(self) -> None:
        self.pipeline.tick()
        if not self.pipeline.in_flight:
            self.idle.set()

    async def _read_balances(self) -> None:
        """Read what the metrics show; far from the packet path, and bounded like any request."""
        ids = [*self.directory.peers, *self.directory.assets]
        found: dict[int, LedgerAccount] = {}
        for start in range(0, len(ids), BATCH_EVENTS_MAX):
            page = await self.ledger.lookup_accounts(ids[start : start + BATCH_EVENTS_MAX])
            found.update((account.id, account) for account in page)
        self.balances = found

    async def _expire_pending(self) -> None:
        await self.ledger.expire_pending()


async def _repeat(period_s: float, step: Callable[[], Awaitable[None]]) -> None:
    """Run a step again and again; what it needs may be away for a while."""
    while True:
        await asyncio.sleep(period_s)
        try:
            await step()
        except LedgerUnavailable as error:
            log.debug("ledger_unavailable", reason=str(error))
        except Exception:
            log.exception("background_step_failed", step=step.__name__)


def _calm_collector() -> None:
    """Let the garbage collector look seldom, and only at what is new.

    A packet leaves no cycles behind, so looking every 700 allocations finds nothing and stops the
    loop for milliseconds each time that it comes to the old objects.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_ALLOCATIONS, 20, 100)


async def _next_slot(settings: Settings) -> int:
    """The number of this worker start; it marks every transfer that this process makes."""
    connection = await connect_postgres(settings)
    try:
        await check_schema(connection)
        return int(await connection.fetchval("SELECT nextval('ledger_slot_seq')"))
    finally:
        await connection.close()


async def run(settings: Settings) -> int:
    """Run one worker until it is told to stop; returns the exit status."""
    stopping = asyncio.Event()

    def stop() -> None:
        if stopping.is_set():
            os._exit(1)
        stopping.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    async with AsyncExitStack() as stack:
        worker = await Worker.start(settings, stack)
        _calm_collector()
        waits = [asyncio.ensure_future(event.wait()) for event in (stopping, worker.lost)]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        if worker.lost.is_set():
            return 1
        await worker.drain()
    return 0


def main() -> None:
    try:
        settings = load_settings()
        node_logging.configure(settings, os.environ.get("JIRANI_PROCESS", "worker"))
        sys.exit(uvloop.run(run(settings)))
    except ConnectorError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
