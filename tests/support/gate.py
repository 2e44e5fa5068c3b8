"""A door between a client and a server: while it is shut nothing passes, and nothing is lost.

Unlike a paused server, the server itself goes on and answers everybody who comes another way. The
door can also be shut to answers only, and every connection through it can be cut.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import TracebackType
from typing import Final, Self

from tests.support.stub_peer import reset

CHUNK_BYTES_MAX: Final = 65_536

Connect = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]


class Gate:
    """The door. Open at first."""

    def __init__(self, connect: Connect) -> None:
        """Prepare; ``connect`` makes one connection to the server."""
        self._connect = connect
        self._requests = asyncio.Event()
        self._answers = asyncio.Event()
        self.open()
        self._pairs: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server
        self.port = 0

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
        self._server.close()
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def shut(self) -> None:
        """Let nothing through, new connections neither."""
        self._requests.clear()
        self._answers.clear()

    def shut_to_answers(self) -> None:
        """Let the server hear and not be heard."""
        self._answers.clear()

    def open(self) -> None:
        self._requests.set()
        self._answers.set()

    def cut_all(self) -> None:
        """Cut every connection, and lose what is on its way."""
        for pair in tuple(self._pairs):
            for writer in pair:
                reset(writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        writers = [writer]
        try:
            await self._requests.wait()
            server_reader, server_writer = await self._connect()
            writers.append(server_writer)
            pair = (writer, server_writer)
            self._pairs.add(pair)
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._pump(reader, server_writer, self._requests))
                    group.create_task(self._pump(server_reader, writer, self._answers))
            finally:
                self._pairs.discard(pair)
        except asyncio.CancelledError:
            pass
        finally:
            self._tasks.discard(task)
            for each in writers:
                each.close()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, door: asyncio.Event
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(CHUNK_BYTES_MAX):
                await door.wait()
                if writer.is_closing():
                    return
                writer.write(data)
                await writer.drain()
            writer.close()
