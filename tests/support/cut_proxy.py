"""A TCP proxy that delays, and cuts the line at a chosen byte.

async with CutProxy("127.0.0.1", port) as proxy:
    proxy.plan = lambda number: Cut(down=10)    # every answer breaks off after 10 bytes
"""

import asyncio
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Self

import msgspec

from tests.support.stub_peer import reset

if TYPE_CHECKING:
    from collections.abc import Callable

CHUNK_BYTES_MAX = 65_536


class Cut(msgspec.Struct, frozen=True):
    """Where a connection ends: once that many bytes have passed and another one comes.

    up - bytes from client to server; down - from server to client; None = never; with_reset - by
    RST, else by FIN, in both directions.
    """

    up: int | None = None
    down: int | None = None
    with_reset: bool = True


NEVER = Cut()


class CutProxy:
    """The proxy. What ``plan`` and ``delay_s`` say holds for connections made from then on.

    plan - number of a connection, from 0 -> where it ends; delay_s - each way.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self.plan: Callable[[int], Cut] = lambda number: NEVER
        self.delay_s = 0.0
        self.connections = 0
        self.bytes_up = 0
        self.bytes_down = 0
        self.port = 0
        self._server: asyncio.Server | None = None
        self._open: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}/ilp"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.refuse()
        self.cut_all()
        # What was accepted just now begins in the next turn of the loop.
        await asyncio.sleep(0)
        while tasks := tuple(self._tasks):
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def refuse(self) -> None:
        """Accept no more connections."""
        if self._server is not None:
            self._server.close()

    def cut_all(self, *, with_reset: bool = True) -> None:
        """Cut every open connection now."""
        for pair in tuple(self._open):
            _cut(pair, with_reset)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        cut = self.plan(self.connections)
        self.connections += 1
        delay_s = self.delay_s
        try:
            server_reader, server_writer = await asyncio.open_connection(*self._target)
        except (OSError, asyncio.CancelledError):
            reset(writer)
            self._tasks.discard(task)
            return
        pair = (writer, server_writer)
        self._open.add(pair)
        try:
            await asyncio.gather(
                self._pump(reader, server_writer, cut.up, pair, cut.with_reset, delay_s, up=True),
                self._pump(
                    server_reader, writer, cut.down, pair, cut.with_reset, delay_s, up=False
                ),
            )
        except asyncio.CancelledError:
            pass
        finally:
            self._open.discard(pair)
            self._tasks.discard(task)
            for side in pair:
                side.close()

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        limit: int | None,
        pair: tuple[asyncio.StreamWriter, asyncio.StreamWriter],
        with_reset: bool,
        delay_s: float,
        *,
        up: bool,
    ) -> None:
        passed = 0
        with suppress(OSError):
            while data := await reader.read(CHUNK_BYTES_MAX):
                if delay_s:
                    await asyncio.sleep(delay_s)
                allowed = data if limit is None else data[: limit - passed]
                passed += len(allowed)
                if up:
                    self.bytes_up += len(allowed)
                else:
                    self.bytes_down += len(allowed)
                if writer.is_closing():
                    return
                if allowed:
                    writer.write(allowed)
                    await writer.drain()
                if len(allowed) < len(data):
                    _cut(pair, with_reset)
                    return
            if not writer.is_closing():
                writer.write_eof()


def _cut(pair: tuple[asyncio.StreamWriter, asyncio.StreamWriter], with_reset: bool) -> None:
    for writer in pair:
        if with_reset:
            reset(writer)
        else:
            writer.close()
