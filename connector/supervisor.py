"""``jirani run``: a whole node on this machine, from nothing to ready, and back.

Checks first, then stores, schema, rates and workers; on SIGINT or SIGTERM the same in reverse. What
can be wrong with the settings ends the start with one line, and nothing is left running.
"""

import asyncio
import errno
import os
import resource
import shutil
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import ClassVar, Final

import structlog

from connector import __version__
from connector.children import Child, Spec
from connector.embedded import (
    EmbeddedPostgres,
    EmbeddedRedis,
    Lock,
    clear_leftovers,
    prepare_folders,
)
from connector.errors import ConfigError
from connector.health import Health, serve
from connector.settings import SECRETS_FILE, Settings
from connector.stores import apply_schema, check_redis, connect_postgres

OPEN_FILES_MAX: Final = 65_536
# Beyond the longest hold of a packet: the worker's own time to write to the ledger and leave.
DRAIN_EXTRA_S: Final = 10.0
RATES: Final = "rates_stub"

log = structlog.get_logger(__name__)

Say = Callable[[str], None]


class Supervisor:
    """One run of one node."""

    worker_module: ClassVar[str] = "connector.node"

    def __init__(self, settings: Settings, say: Say) -> None:
        """Start nothing yet.

        say - writes a line for the operator.
        """
        self._settings = settings
        self._write = say
        self._health = Health(settings.run_dir)
        self._children: list[Child] = []
        self._embedded_postgres = settings.database_url is None
        self._embedded_redis = settings.redis_url is None
        self._stop = asyncio.Event()
        self._force = asyncio.Event()
        self._environment = self._make_environment()

    async def run(self) -> int:
        """Start, wait for a signal, drain. Returns the exit status: 1 if the drain was forced.

        Raises: ConfigError, StartFailed - it did not start; all that had started is stopped.
        """
        self._catch_signals()
        life = asyncio.create_task(self._live())
        forced = asyncio.create_task(self._force.wait())
        await asyncio.wait([life, forced], return_when=asyncio.FIRST_COMPLETED)
        if not life.done():
            self._say("forced to stop")
            await asyncio.gather(*(child.kill() for child in reversed(self._children)))
            await asyncio.wait([life])
            return 1
        forced.cancel()
        life.result()
        return 0

    async def _live(self) -> None:
        async with AsyncExitStack() as stack:
            if not await self._until_stop(self._start(stack)):
                return
            self._health.phase = "running"
            self._say(self._summary())
            await self._stop.wait()
            self._health.phase = "draining"
            self._say("draining")
        self._say("stopped")

    async def _until_stop(self, work: Awaitable[None]) -> bool:
        """Wait for the work, or give it up when we are told to stop."""
        task = asyncio.ensure_future(work)
        stop = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait([task, stop], return_when=asyncio.FIRST_COMPLETED)
        finally:
            stop.cancel()
            if not task.done():
                task.cancel()
                await asyncio.wait([task])
        if task.cancelled():
            return False
        task.result()
        return True

    async def _start(self, stack: AsyncExitStack) -> None:
        settings = self._settings
        _raise_open_files_limit()
        stack.callback(Lock(settings).release)
        prepare_folders(settings)
        data = [settings.jirani_var / "postgres", settings.jirani_var / "redis"]
        await clear_leftovers(data, settings.run_dir)
        await self._take_ports(stack)
        await self._start_stores(stack)
        connection = await connect_postgres(settings)
        try:
            await apply_schema(connection)
        finally:
            await connection.close()
        await check_redis(settings)
        specs = [self._worker_spec(index) for index in range(settings.connector_workers)]
        if settings.embedded_rates:
            await self._start_together(stack, [self._rates_spec()])
        self._say(f"starting {len(specs)} connector workers")
        await self._start_together(stack, specs)

    async def _take_ports(self, stack: AsyncExitStack) -> None:
        """Reserve or open every port before anything is started, naming the one that is taken."""
        settings = self._settings
        port = _take_port("CONNECTOR_PORT", settings.connector_host, settings.connector_port)
        stack.callback(port.close)
        if settings.embedded_rates:
            _take_port("RATES_PORT", settings.rates_host, settings.rates_port).close()
        host = settings.metrics_host
        _take_port("METRICS_PORT", host, settings.metrics_port).close()
        try:
            close = await serve(self._health.create_app(), host, settings.metrics_port)
        except OSError as error:
            raise _port_error("METRICS_PORT", host, settings.metrics_port, error) from None
        stack.push_async_callback(close)

    async def _start_stores(self, stack: AsyncExitStack) -> None:
        settings = self._settings
        specs = []
        if self._embedded_postgres:
            specs.append(EmbeddedPostgres(settings, self._environment, self._say).spec())
        if self._embedded_redis:
            specs.append(EmbeddedRedis(settings, self._environment).spec())
        if specs:
            self._say(f"starting {' and '.join(spec.name for spec in specs)}")
            await self._start_together(stack, specs)

    async def _start_together(self, stack: AsyncExitStack, specs: list[Spec]) -> None:
        """Start processes at once; the first failure stops the start."""
        children = [Child(spec, self._health.retire) for spec in specs]
        self._children += children
        self._health.children = self._children
        stack.push_async_callback(_stop_together, children)
        try:
            async with asyncio.TaskGroup() as group:
                for child in children:
                    group.create_task(child.start())
        except ExceptionGroup as failures:
            # The others, if any, have the same cause.
            raise failures.exceptions[0] from None

    def _worker_spec(self, index: int) -> Spec:
        name = f"worker-{index}"

        async def ready() -> bool:
            return await self._health.answers_ready(name)

        return Spec(
            name=name,
            command=(sys.executable, "-m", self.worker_module),
            environment={**self._environment, "JIRANI_PROCESS": name},
            ready=ready,
            stop_signals=((signal.SIGTERM, self._settings.ilp_max_hold_ms / 1000 + DRAIN_EXTRA_S),),
            answers_snapshots=True,
        )

    def _rates_spec(self) -> Spec:
        settings = self._settings

        async def ready() -> bool:
            try:
                _, writer = await asyncio.open_connection(
                    _reachable(settings.rates_host), settings.rates_port
                )
            except OSError:
                return False
            writer.close()
            return True

        return Spec(
            name="rates",
            command=(sys.executable, "-m", RATES),
            environment={**self._environment, "JIRANI_PROCESS": "rates"},
            ready=ready,
            stop_signals=((signal.SIGTERM, 5.0),),
        )

    def _make_environment(self) -> dict[str, str]:
        """What every process is given: the settings, completed by what we start ourselves."""
        settings = self._settings
        environment = {
            **os.environ,
            **settings.to_environment(),
            "DATABASE_URL": settings.postgres_url(),
            "REDIS_URL": settings.redis_address(),
            "JIRANI_RUN_DIR": str(settings.run_dir),
            "PYTHONUNBUFFERED": "1",
        }
        if settings.embedded_rates:
            host = _reachable(settings.rates_host)
            environment["EXCHANGE_RATES_URL"] = f"http://{_bracketed(host)}:{settings.rates_port}"
        return environment

    def _say(self, line: str) -> None:
        """Tell the operator; a terminal that is gone must not keep us from draining."""
        with suppress(OSError):
            self._write(line)

    def _catch_signals(self) -> None:
        """Drain on the first, force on the second; also where SIGINT was inherited as ignored.

        A closed terminal drains too, unless nohup or the like has told us to ignore it.
        """
        loop = asyncio.get_running_loop()
        numbers = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
            numbers.append(signal.SIGHUP)
        for number in numbers:
            loop.add_signal_handler(number, self._receive_signal)

    def _receive_signal(self) -> None:
        (self._force if self._stop.is_set() else self._stop).set()

    def _summary(self) -> str:
        settings = self._settings
        host = _bracketed(settings.connector_host)
        metrics = f"http://{_bracketed(settings.metrics_host)}:{settings.metrics_port}"
        rows = [
            ("node", f"{settings.ilp_address} ({settings.instance_name}, {settings.jirani_env})"),
            (
                "packets",
                f"http://{host}:{settings.connector_port}, {settings.connector_workers} workers",
            ),
            ("metrics", f"{metrics}/metrics, /healthz/live, /healthz/ready"),
            ("ledger", self._ledger()),
            (
                "rates",
                self._environment.get("EXCHANGE_RATES_URL") or "from EXCHANGE_RATES, else none",
            ),
            ("Postgres", "embedded" if self._embedded_postgres else "from DATABASE_URL"),
            ("Redis", "embedded" if self._embedded_redis else "from REDIS_URL"),
            ("data", str(settings.jirani_var)),
        ]
        if (settings.jirani_var / SECRETS_FILE).exists() and not settings.production:
            rows.append(("secrets", f"{settings.jirani_var / SECRETS_FILE} (development)"))
        rows.append(("next", f"{_command()} asset add USD 2 (in another terminal)"))
        table = "\n".join(f"  {name:<9} {value}" for name, value in rows)
        return f"Jirani {__version__} is ready; Ctrl-C stops it.\n{table}"

    def _ledger(self) -> str:
        settings = self._settings
        if not settings.use_tigerbeetle:
            return "Postgres"
        addresses = ", ".join(settings.tigerbeetle_replica_addresses)
        return f"TigerBeetle at {addresses}, cluster {settings.tigerbeetle_cluster_id}"


async def _stop_together(children: list[Child]) -> None:
    await asyncio.gather(*(child.stop() for child in children))


def _take_port(name: str, host: str, port: int) -> socket.socket:
    """Bind to a port, seeing that nobody else has it; close what is returned to give it up.

    Bound but not listening, it gets no connection and keeps strangers out while workers restart.
    Raises: ConfigError.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        # Sharing must not hide another node on this port: the first attempt does not share.
        with socket.socket(family, kind, protocol) as alone:
            alone.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            alone.bind(address)
        taken = socket.socket(family, kind, protocol)
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.bind(address)
    except OSError as error:
        raise _port_error(name, host, port, error) from None
    return taken


def _port_error(name: str, host: str, port: int, error: OSError) -> ConfigError:
    if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
        host_name = name.replace("PORT", "HOST")
        return ConfigError(f"{host_name} is {host!r}: no address of this machine")
    reason = (error.strerror or str(error)).lower()
    if error.errno == errno.EADDRINUSE:
        reason = "in use by another program; choose another port"
    return ConfigError(f"{name} is {port}: {reason}")


def _raise_open_files_limit() -> None:
    """Every connection is an open file; children inherit the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES_MAX if hard == resource.RLIM_INFINITY else min(OPEN_FILES_MAX, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _reachable(host: str) -> str:
    """Where a listener that is bound to every address can be reached from here."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _command() -> str:
    """How the operator can call ``jirani`` from here."""
    beside = Path(sys.executable).with_name("jirani")
    found = shutil.which("jirani")
    if found is not None and Path(found) == beside:
        return "jirani"
    return os.path.relpath(beside) if beside.exists() else "python -m connector"
