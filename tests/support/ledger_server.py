"""Ledger servers that a test may make silent, kill and start again.

Fixture: ``ledger_server`` - Postgres, then TigerBeetle; a test that is about one of them only says
``@pytest.mark.parametrize("ledger_server", ["postgres"], indirect=True)``. Each server is one for
the session, and is put right again after each test.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple, Protocol

import pytest

from tests.support.postgres import START_S_MAX, EmbeddedPostgres
from tests.support.requires import require
from tests.support.tigerbeetle import Replica


class LedgerServer(Protocol):
    """The processes of one server."""

    def pause(self) -> None:
        """Make the server silent: its connections stay open and nothing is answered."""

    def resume(self) -> None: ...

    def kill(self) -> None:
        """End the server as a crash does; what was durable stays for ``start``."""

    def start(self) -> None:
        """Start it again. From the main thread: Linux ends it together with the thread."""

    def put_right(self) -> None:
        """Have it running, whatever was done to it."""


class FaultyPostgres(EmbeddedPostgres):
    """A Postgres whose every process can be stopped and killed."""

    def pause(self) -> None:
        # The postmaster first: from then on there are no new processes.
        os.kill(self.pid, signal.SIGSTOP)
        self._signal_children(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal_children(signal.SIGCONT)
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        if self._process is None:
            return
        os.kill(self.pid, signal.SIGSTOP)
        # Those that outlived the postmaster would keep the data folder from being used again.
        self._signal_children(signal.SIGKILL)
        os.kill(self.pid, signal.SIGKILL)
        self._process.wait(START_S_MAX)
        self._process = None

    def put_right(self) -> None:
        if self._process is None:
            self.start()
        else:
            self.resume()

    def close(self) -> None:
        self.put_right()
        super().close()

    def _signal_children(self, number: int) -> None:
        path = Path(f"/proc/{self.pid}/task/{self.pid}/children")
        for pid in map(int, path.read_text().split()):
            with suppress(ProcessLookupError):  # Sessions end by themselves, too.
                os.kill(pid, number)


class FaultyReplica(Replica):
    """The same for TigerBeetle."""

    def put_right(self) -> None:
        if self._process is None:
            self.start()
        else:
            self.resume()


class LedgerUnderTest(NamedTuple):
    """What a node of this test is given.

    server - who holds the ledger; postgres - who holds the directory, the same one where the ledger
    is Postgres; environment - the settings that name the ledger.
    """

    server: LedgerServer
    postgres: FaultyPostgres
    environment: dict[str, str]

    def put_right(self) -> None:
        self.postgres.put_right()
        self.server.put_right()


@pytest.fixture(scope="session")
def faulty_postgres() -> Iterator[FaultyPostgres]:
    server = FaultyPostgres()
    try:
        yield server
    finally:
        server.close()


@pytest.fixture(scope="session")
def faulty_replica() -> Iterator[FaultyReplica]:
    require("tigerbeetle")
    binary = os.environ.get("TIGERBEETLE_BIN")
    if not binary:
        pytest.skip("needs TIGERBEETLE_BIN: a shared cluster is not to be killed")
    replica = FaultyReplica(binary)
    try:
        yield replica
    finally:
        replica.close()


@pytest.fixture(params=["postgres", "tigerbeetle"])
def ledger_server(
    request: pytest.FixtureRequest, faulty_postgres: FaultyPostgres
) -> Iterator[LedgerUnderTest]:
    if request.param == "postgres":
        under_test = LedgerUnderTest(faulty_postgres, faulty_postgres, {})
    else:
        replica: FaultyReplica = request.getfixturevalue("faulty_replica")
        addresses = {"TIGERBEETLE_REPLICA_ADDRESSES": replica.cluster.addresses}
        under_test = LedgerUnderTest(replica, faulty_postgres, addresses)
    try:
        yield under_test
    finally:
        under_test.put_right()


ON_POSTGRES: Final = pytest.mark.parametrize("ledger_server", ["postgres"], indirect=True)
ON_TIGERBEETLE: Final = pytest.mark.parametrize("ledger_server", ["tigerbeetle"], indirect=True)
