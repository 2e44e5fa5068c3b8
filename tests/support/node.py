"""Real connector workers as processes, for tests and benchmarks.

The stores are the caller's (``tests.support.postgres``, ``tests.support.tigerbeetle``).
"""

import asyncio
import base64
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final
from uuid import UUID

import asyncpg

from connector.accounts.cipher import Cipher
from connector.accounts.service import AccountService
from connector.accounts.store import AccountStore
from connector.ledger.ledger import Ledger
from connector.ledger.opening import open_ledger
from connector.metrics import read_snapshot
from connector.settings import Settings

ROOT: Final = Path(__file__).parents[2]
TENANT: Final = UUID("11111111-1111-4111-8111-111111111111")
SECRET: Final = base64.b64encode(bytes(range(32))).decode()
READY_S_MAX: Final = 30.0
CLOCK_TICKS: Final = os.sysconf("SC_CLK_TCK")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Node:
    """Some workers on one port, over one database."""

    def __init__(
        self,
        database_url: str,
        *,
        ilp_address: str = "test.node",
        workers: int = 1,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.port = free_port()
        self.count = workers
        self._folder = tempfile.TemporaryDirectory(prefix="jirani-node-")
        self.run_dir = Path(self._folder.name)
        self.environment = {
            "DATABASE_URL": database_url,
            "ILP_ADDRESS": ilp_address,
            "CONNECTOR_HOST": "127.0.0.1",
            "CONNECTOR_PORT": str(self.port),
            "CONNECTOR_WORKERS": str(workers),
            "OPERATOR_TENANT_ID": str(TENANT),
            "DB_ENCRYPTION_SECRET": SECRET,
            "STREAM_SECRET": SECRET,
            "JIRANI_RUN_DIR": str(self.run_dir),
            "JIRANI_VAR": str(self.run_dir),
            "LOG_LEVEL": "warn",
            **(environment or {}),
        }
        fields = {name.lower(): text for name, text in self.environment.items()}
        self.settings = Settings.model_validate(fields)
        self.processes: list[subprocess.Popen[bytes]] = []
        self.log_path = self.run_dir / "log"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/ilp"

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    async def start(self) -> None:
        """Start all workers and wait until each says that it is ready."""
        for index in range(self.count):
            name = f"worker-{index}"
            self._socket(index).unlink(missing_ok=True)
            self.processes.append(self._spawn(name))
        deadline = time.monotonic() + READY_S_MAX
        for index in range(self.count):
            while not await self.is_ready(index):
                dead = [p.returncode for p in self.processes if p.poll() is not None]
                if dead or time.monotonic() > deadline:
                    raise AssertionError(f"workers did not start ({dead}):\n{self.log[-4000:]}")
                await asyncio.sleep(0.05)

    async def is_ready(self, index: int) -> bool:
        snapshot = await read_snapshot(self._socket(index))
        return snapshot is not None and snapshot.ready

    async def count_of(self, name: str) -> int:
        """The sum of one metric over all its series and all workers."""
        total = 0
        for index in range(self.count):
            async with asyncio.timeout(READY_S_MAX):
                # A busy machine may need more than the one look that a scrape allows.
                while (snapshot := await read_snapshot(self._socket(index))) is None:
                    await asyncio.sleep(0.05)
            for family in snapshot.families:
                if family.name == name:
                    total += sum(value for _, value in family.samples)
        return total

    def kill(self) -> None:
        """SIGKILL every worker, at once."""
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.wait()
        self.processes.clear()

    async def stop(self, timeout_s: float = 40.0) -> list[int]:
        """SIGTERM every worker; returns their exit statuses."""
        for process in self.processes:
            process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(timeout_s):
            statuses = [await asyncio.to_thread(process.wait) for process in self.processes]
        self.processes.clear()
        return statuses

    def close(self) -> None:
        self.kill()
        self._folder.cleanup()

    def cpu_seconds(self) -> float:
        """User and system time of all workers, every thread of theirs included."""
        total = 0
        for process in self.processes:
            fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
        return total / CLOCK_TICKS

    def resident_bytes(self) -> int:
        """Memory of all workers."""
        return sum(
            int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * resource.getpagesize()
            for process in self.processes
        )

    @asynccontextmanager
    async def service(self) -> AsyncIterator[AccountService]:
        """What an operator's commands use, for setting the node up and reading its balances."""
        pool = await asyncpg.create_pool(self.settings.postgres_url(), min_size=1, max_size=2)
        ledger = await open_ledger(self.settings)
        try:
            store = AccountStore(pool)
            await store.ensure_operator(TENANT)
            cipher = Cipher.from_base64(SECRET)
            yield AccountService(store, ledger, cipher)
        finally:
            await ledger.close()
            await pool.close()

    @asynccontextmanager
    async def open_ledger(self) -> AsyncIterator[Ledger]:
        ledger = await open_ledger(self.settings)
        try:
            yield ledger
        finally:
            await ledger.close()

    def _spawn(self, name: str) -> subprocess.Popen[bytes]:
        with self.log_path.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "connector.node"],
                cwd=ROOT,
                env={**os.environ, **self.environment, "JIRANI_PROCESS": name},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def _socket(self, index: int) -> Path:
        return self.run_dir / f"worker-{index}.sock"
