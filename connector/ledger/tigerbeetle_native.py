"""The only module that touches the TigerBeetle client's C library.

It stands on private ground of the official client, whose version is therefore pinned exactly. The
library runs one IO thread for each session and calls back on it, on a stack of 512 KiB: what runs
there copies the reply, hands it to the event loop and does nothing else.

Whatever the library may still read (packets, events, sessions) stays referenced in this module
until the library has given it back, whoever else has forgotten it.
"""

import atexit
import ctypes
import logging
import os
import sys
import threading
from asyncio import AbstractEventLoop
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from typing import Any, Final, NamedTuple

from tigerbeetle import bindings

from connector.errors import ConfigError, LedgerUnavailable

EXIT_WAIT_S: Final = 2.0

_IO_URING_SETUP: Final = 425
_IO_URING_FEATURE_EXT_ARG: Final = 1 << 8

_LOG_LEVELS: Final = {
    int(bindings.LogLevel.ERR): logging.ERROR,
    int(bindings.LogLevel.WARN): logging.WARNING,
    int(bindings.LogLevel.INFO): logging.INFO,
    int(bindings.LogLevel.DEBUG): logging.DEBUG,
}


class _Request(NamedTuple):
    """One packet in the library's hands, with all that it points to."""

    packet: Any
    events: bytes
    loop: AbstractEventLoop
    done: Callable[[int, bytes], None]


_logger = logging.getLogger("tigerbeetle")
_log_loop: AbstractEventLoop | None = None
_request_keys = count(1)
_requests: dict[int, _Request] = {}
_sessions: "set[NativeSession]" = set()


class NativeSession:
    """One session with a cluster, calling back on one event loop. A process should have one.

    echo - the library answers each request with the request's own events, without any server.
    """

    def __init__(
        self, cluster_id: int, addresses: str, loop: AbstractEventLoop, *, echo: bool = False
    ) -> None:
        """Start the session's thread; the library connects, and retries for ever, behind our back.

        addresses - IP:port list, one for each replica in the order of their indexes.
        Raises: ConfigError - an address list the library refuses; LedgerUnavailable - no resources.
        """
        global _log_loop
        _require_io_uring()
        _log_loop = loop
        self._loop = loop
        self._client = bindings.CClient()
        encoded = addresses.encode("ascii")
        start = bindings.tb_client_init_echo if echo else bindings.tb_client_init
        status = start(
            ctypes.byref(self._client),
            (ctypes.c_uint8 * 16)(*cluster_id.to_bytes(16, "little")),
            encoded,
            len(encoded),
            None,
            _completion_callback,
        )
        if status in (
            bindings.InitStatus.ADDRESS_INVALID,
            bindings.InitStatus.ADDRESS_LIMIT_EXCEEDED,
        ):
            raise ConfigError(f"the TigerBeetle client refuses the addresses {addresses!r}")
        if status != bindings.InitStatus.SUCCESS:
            raise LedgerUnavailable(f"the TigerBeetle client does not start: {status.name}")
        _sessions.add(self)

    def submit(self, operation: int, events: bytes, done: Callable[[int, bytes], None]) -> bool:
        """Hand one request to the library; ``done(packet status, reply)`` is called on the loop.

        Returns: whether it was taken; if not, the session is over and ``done`` is never called.
        """
        key = next(_request_keys)
        packet = bindings.CPacket(
            user_data=key,
            data=ctypes.cast(ctypes.c_char_p(events), ctypes.c_void_p).value,
            data_size=len(events),
            operation=operation,
        )
        _requests[key] = _Request(packet, events, self._loop, done)
        status = bindings.tb_client_submit(ctypes.byref(self._client), ctypes.byref(packet))
        if status != bindings.ClientStatus.OK:
            del _requests[key]
            return False
        return True

    def close(self) -> None:
        """Fail what is under way with CLIENT_SHUTDOWN and end the thread; harmless when repeated.

        It blocks until the sockets are closed, for minutes if one is just connecting to a black
        hole; so it is called on a thread of its own.
        """
        status = bindings.tb_client_deinit(ctypes.byref(self._client))
        # An evicted session ends its thread by itself, unobserved: its memory is kept for ever.
        if status == bindings.ClientStatus.OK:
            _sessions.discard(self)


def _on_completion(
    _context: int | None, packet_pointer: Any, _timestamp_ns: int, reply: int | None, size: int
) -> None:
    """Runs on the library's thread, where submitting aborts and an exception is only printed."""
    packet = packet_pointer.contents
    request = _requests.pop(packet.user_data)
    body = ctypes.string_at(reply, size) if reply else b""
    with suppress(RuntimeError):  # The loop is closed, so nobody waits.
        request.loop.call_soon_threadsafe(request.done, packet.status, body)


def _on_log(level: int, message: int, size: int) -> None:
    """Runs on the library's thread, under its lock; log handlers may block, hence on the loop."""
    text = ctypes.string_at(message, size).decode(errors="replace")
    if _log_loop is not None:
        with suppress(RuntimeError):
            _log_loop.call_soon_threadsafe(
                _logger.log, _LOG_LEVELS.get(level, logging.ERROR), "%s", text
            )


_completion_callback: Final = bindings.OnCompletion(_on_completion)
_log_callback: Final = bindings.LogHandler(_on_log)


def _require_io_uring() -> None:
    """Where io_uring is blocked, as in most containers, the library aborts the process: ask first.

    Raises: LedgerUnavailable - it is blocked, or the kernel is too old for the library.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    parameters = (ctypes.c_uint32 * 30)()
    ring = libc.syscall(_IO_URING_SETUP, 1, parameters)
    if ring < 0:
        raise LedgerUnavailable(
            f"the TigerBeetle client needs io_uring: {os.strerror(ctypes.get_errno())}. In a "
            "container allow it in the seccomp profile; on the host see sysctl "
            "kernel.io_uring_disabled"
        )
    os.close(ring)
    if not parameters[5] & _IO_URING_FEATURE_EXT_ARG:
        raise LedgerUnavailable("the TigerBeetle client needs Linux 5.11 or later")


@atexit.register
def _close_sessions() -> None:
    """No callback may reach an interpreter that is being taken down."""
    threads = [threading.Thread(target=session.close, daemon=True) for session in _sessions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(EXIT_WAIT_S)


# The package's own handler, set at its import, has every debug line formatted and called back.
bindings.tb_client_register_log_callback(None, False)
bindings.tb_client_register_log_callback(_log_callback, False)
