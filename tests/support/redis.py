"""A real Redis for the tests, thrown away with the session.

Fixtures: ``redis_url`` - an empty Redis (one server for the session, emptied for each test);
``private_redis`` - a server of the test's own, to be stopped, paused and started again. Both listen
on a unix socket only and keep nothing on disk.
"""

import ctypes
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
import redis

from connector.embedded import find_redis

START_S_MAX: Final = 20
PR_SET_PDEATHSIG: Final = 1


class RedisServer:
    """A server in a temporary folder."""

    def __init__(self) -> None:
        self._program = find_redis()
        # A socket's path has at most 107 bytes, so the folder is not pytest's.
        self._root = Path(tempfile.mkdtemp(prefix="jirani-redis-", dir="/tmp"))
        self.url = f"unix://{self._root}/redis.sock"
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Start the server, empty, and wait until it answers."""
        options = ("--port", "0", "--unixsocket", "redis.sock", "--save", "", "--appendonly", "no")
        with (self._root / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._program, *options],
                cwd=self._root,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=_die_with_parent,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_S_MAX
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                message = (self._root / "log").read_text(errors="replace")[-2000:]
                raise RuntimeError(f"Redis did not start:\n{message}")
            time.sleep(0.01)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(START_S_MAX)
            self._process = None

    def pause(self) -> None:
        """Make the server silent: connections stay open and nothing is answered."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def empty(self) -> None:
        with redis.Redis.from_url(self.url) as client:
            client.flushall()

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self._root)

    def _answers(self) -> bool:
        try:
            with redis.Redis.from_url(self.url) as client:
                return bool(client.ping())
        except redis.ConnectionError:
            return False


def _die_with_parent() -> None:
    """Ask Linux to end the server when a killed test run cannot."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    server = RedisServer()
    yield server
    server.close()


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    redis_server.empty()
    return redis_server.url


@pytest.fixture
def private_redis() -> Iterator[RedisServer]:
    server = RedisServer()
    yield server
    server.close()
