"""The C library's surroundings: threads, exits, its log and what it needs of the kernel."""

import asyncio
import gc
import logging
import subprocess
import sys

import pytest

from connector.errors import ConfigError
from connector.ledger.tigerbeetle_native import NativeSession, _requests
from connector.ledger.tigerbeetle_records import LOOKUP_ACCOUNTS, pack_ids

IDS = pack_ids(range(8))


def echo_session() -> NativeSession:
    return NativeSession(0, "3000", asyncio.get_running_loop(), echo=True)


async def test_a_reply_is_the_library_s_copy_of_the_events() -> None:
    session = echo_session()
    reply: asyncio.Future[tuple[int, bytes]] = asyncio.get_running_loop().create_future()
    assert session.submit(
        LOOKUP_ACCOUNTS, IDS, lambda status, body: reply.set_result((status, body))
    )
    assert await reply == (0, IDS)
    assert not _requests
    session.close()


async def test_events_nobody_else_refers_to_stay_alive() -> None:
    session = echo_session()
    count = 500
    replies: asyncio.Queue[bytes] = asyncio.Queue()
    for first in range(count):
        events = pack_ids(range(first, first + 8))
        assert session.submit(LOOKUP_ACCOUNTS, events, lambda _, body: replies.put_nowait(body))
        del events
    gc.collect()
    received = {await replies.get() for _ in range(count)}
    assert received == {pack_ids(range(first, first + 8)) for first in range(count)}
    session.close()


async def test_a_closed_session_takes_nothing() -> None:
    session = echo_session()
    session.close()
    session.close()
    assert not session.submit(LOOKUP_ACCOUNTS, IDS, lambda *_: None)
    assert not _requests


async def test_an_address_the_library_refuses() -> None:
    with pytest.raises(ConfigError, match="refuses the addresses"):
        NativeSession(0, "no-such-form", asyncio.get_running_loop())
    with pytest.raises(ConfigError, match="refuses the addresses"):
        NativeSession(0, ",".join(["3000"] * 7), asyncio.get_running_loop())


def test_replies_to_a_closed_loop_are_dropped() -> None:
    sessions = []

    async def leave_requests() -> None:
        sessions.append(echo_session())
        for _ in range(100):
            assert sessions[0].submit(LOOKUP_ACCOUNTS, IDS, lambda *_: None)

    asyncio.run(leave_requests())
    # Had the callback raised, the warning about it would fail this test.
    sessions[0].close()
    assert not _requests


async def test_the_library_s_log_is_written_on_the_loop(
    caplog: pytest.LogCaptureFixture, unused_tcp_port: int
) -> None:
    written = asyncio.Event()
    handler = logging.Handler()
    handler.emit = lambda record: written.set()  # type: ignore[method-assign]
    logger = logging.getLogger("tigerbeetle")
    logger.addHandler(handler)
    try:
        session = NativeSession(0, f"127.0.0.1:{unused_tcp_port}", asyncio.get_running_loop())
        async with asyncio.timeout(30):
            await written.wait()
        await asyncio.to_thread(session.close)
    finally:
        logger.removeHandler(handler)
    assert "ConnectionRefused" in caplog.text
    assert {record.threadName for record in caplog.records} == {"MainThread"}


LEAVE_WITH_REQUESTS = """
import asyncio
from connector.ledger.tigerbeetle_native import NativeSession
async def main():
    session = NativeSession(0, "3000", asyncio.get_running_loop(), echo={echo})
    for _ in range(100):
        session.submit(140, bytes(128), print)
asyncio.run(main())
"""


@pytest.mark.parametrize("echo", [True, False])
def test_a_process_may_end_without_closing(echo: bool) -> None:
    script = LEAVE_WITH_REQUESTS.format(echo=echo)
    ended = run_python(script)
    assert (ended.returncode, ended.stderr) == (0, "")


# A seccomp filter that fails io_uring_setup as container runtimes do.
BLOCK_IO_URING = """
import asyncio, ctypes, struct
rules = [(0x20, 0, 0, 0), (0x15, 0, 1, 425), (6, 0, 0, 0x50000 | {errno}), (6, 0, 0, 0x7FFF0000)]
program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *rule) for rule in rules))
libc = ctypes.CDLL(None)
assert libc.prctl(38, 1, 0, 0, 0) == 0
filter = struct.pack("HxxxxxxQ", len(rules), ctypes.addressof(program))
assert libc.prctl(22, 2, filter, 0, 0) == 0
from connector.errors import LedgerUnavailable
from connector.ledger.tigerbeetle import TigerBeetleLedger
try:
    asyncio.run(TigerBeetleLedger.connect(0, "3000", 1))
except LedgerUnavailable as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="seccomp is Linux's")
@pytest.mark.parametrize("errno", [1, 38])
def test_blocked_io_uring_is_a_message_and_not_an_abort(errno: int) -> None:
    ended = run_python(BLOCK_IO_URING.format(errno=errno))
    assert ended.returncode == 0, ended.stderr
    assert "needs io_uring" in ended.stdout
    assert "seccomp" in ended.stdout


def run_python(script: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, timeout=60
    )
