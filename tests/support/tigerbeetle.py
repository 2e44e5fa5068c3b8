"""A real TigerBeetle server for the tests.

``TIGERBEETLE_BIN`` names a server binary: a replica is formatted and started in a temporary
folder, with ``--development`` (small caches, requests of about 250 events).
``TIGERBEETLE_REPLICA_ADDRESSES`` names a cluster to use instead, with ``TIGERBEETLE_CLUSTER_ID``;
tests share it with whatever it holds, so ids are random. Without either, tests that need one are
skipped.

Fixtures: ``tigerbeetle_cluster`` - what to connect to, one for the session;
``private_tigerbeetle`` - a replica of the test's own, to be paused, killed and started again.
"""

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from tests.support.requires import require

START_S_MAX: Final = 60
PR_SET_PDEATHSIG: Final = 1


class Cluster(NamedTuple):
    """What a client must know."""

    cluster_id: int
    addresses: str


class Replica:
    """A cluster of one throwaway replica: a process, a data file, a port that stays the same."""

    def __init__(self, binary: str, cluster_id: int = 0, *, development: bool = True) -> None:
        """Format a data file and start.

        development - small caches and requests, and no direct IO: right for tests, not for figures.
        """
        self._binary = binary
        self._mode = ["--development"] if development else []
        self._folder = Path(tempfile.mkdtemp(prefix="jirani-tigerbeetle-"))
        self._file = self._folder / "0_0.tigerbeetle"
        self._process: subprocess.Popen[bytes] | None = None
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = int(probe.getsockname()[1])
        self.cluster = Cluster(cluster_id, f"127.0.0.1:{self._port}")
        subprocess.run(
            [
                binary,
                "format",
                f"--cluster={cluster_id}",
                "--replica=0",
                "--replica-count=1",
                *self._mode,
                self._file,
            ],
            check=True,
            stderr=subprocess.DEVNULL,
        )
        self.start()

    def start(self) -> None:
        """Start the server and wait until it listens."""
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    self._binary,
                    "start",
                    *self._mode,
                    f"--addresses={self.cluster.addresses}",
                    self._file,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=_die_with_parent,
            )
        deadline = time.monotonic() + START_S_MAX
        while not self._listens():
            if self._process.poll() is not None or time.monotonic() > deadline:
                message = (self._folder / "log").read_text(errors="replace")[-2000:]
                raise RuntimeError(f"TigerBeetle did not start:\n{message}")
            time.sleep(0.02)

    def kill(self) -> None:
        """End the process as a crash does; the data file stays for ``start``."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self._folder)

    def _signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self._port)) == 0


def _die_with_parent() -> None:
    """Ask Linux to end the server when a killed test run cannot."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


@pytest.fixture(scope="session")
def tigerbeetle_cluster() -> Iterator[Cluster]:
    addresses = os.environ.get("TIGERBEETLE_REPLICA_ADDRESSES")
    if addresses:
        yield Cluster(int(os.environ.get("TIGERBEETLE_CLUSTER_ID", "0")), addresses)
        return
    replica = Replica(require("tigerbeetle"))
    try:
        yield replica.cluster
    finally:
        replica.close()


@pytest.fixture
def private_tigerbeetle() -> Iterator[Replica]:
    require("tigerbeetle")
    binary = os.environ.get("TIGERBEETLE_BIN")
    if not binary:
        pytest.skip("needs TIGERBEETLE_BIN: a shared cluster is not to be killed")
    replica = Replica(binary)
    try:
        yield replica
    finally:
        replica.close()
