"""A next hop made of raw bytes: reads ILP-over-HTTP requests and does with them what a test says.

async with StubPeer(answering(lambda body: encode_fulfill(...))) as stub:
    ... send to stub.endpoint ...
    assert len(stub.requests) == 1
"""

import asyncio
import inspect
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

import msgspec


class StubRequest(msgspec.Struct):
    """One request. connection - its number, from 0; headers - by lower-case name."""

    connection: int
    line: str
    headers: dict[str, str]
    body: bytes


class StubConnection:
    """The peer's side of one connection."""

    def __init__(
        self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.number = number
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def send_bytewise(self, data: bytes) -> None:
        """Send each byte in a segment of its own, as far as the loop and the kernel allow."""
        for value in data:
            await self.send(bytes((value,)))
            await asyncio.sleep(0)

    def close(self) -> None:
        """Close with a FIN, once everything is written."""
        self.writer.close()

    def reset(self) -> None:
        """Close with an RST."""
        reset(self.writer)

    async def read_request(self) -> StubRequest:
        """Raises: asyncio.IncompleteReadError - the client has gone."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line, *fields = head[:-4].split("\r\n")
        headers = {
            name.lower(): value.strip() for name, _, value in (f.partition(":") for f in fields)
        }
        body = await self.reader.readexactly(int(headers.get("content-length", "0")))
        return StubRequest(self.number, line, headers, body)


Handler = Callable[[StubConnection, StubRequest], Awaitable[None] | None]


def http_answer(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    """An HTTP answer's bytes; ``headers`` as ``Name: value``."""
    lines = [
        f"HTTP/1.1 {status}",
        "Content-Type: application/octet-stream",
        f"Content-Length: {len(body)}",
        *headers,
        "\r\n",
    ]
    return "\r\n".join(lines).encode() + body


def answering(reply: Callable[[bytes], bytes]) -> Handler:
    """Answer each ILP packet with ``reply(packet)``."""

    async def handle(connection: StubConnection, request: StubRequest) -> None:
        await connection.send(http_answer(reply(request.body)))

    return handle


def silent(connection: StubConnection, request: StubRequest) -> None:
    """Take requests and answer none."""


class StubPeer:
    """The server. ``handler`` may be replaced at any time; it holds for the next request."""

    def __init__(
        self, handler: Handler, *, ssl_context: ssl.SSLContext | None = None, port: int = 0
    ) -> None:
        self.handler = handler
        self.requests: list[StubRequest] = []
        self.connections: list[StubConnection] = []
        self.open = 0
        self.port = port
        self._ssl_context = ssl_context
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def endpoint(self) -> str:
        scheme, host = ("https", "localhost") if self._ssl_context else ("http", "127.0.0.1")
        return f"{scheme}://{host}:{self.port}/ilp"

    async def start(self) -> None:
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", self.port, ssl=self._ssl_context
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop_listening(self) -> None:
        """Refuse new connections; those that are open stay."""
        if self._server is not None:
            self._server.close()
            self._server = None

    async def close(self) -> None:
        await self.stop_listening()
        for connection in self.connections:
            connection.writer.transport.abort()
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        connection = StubConnection(len(self.connections), reader, writer)
        self.connections.append(connection)
        self.open += 1
        try:
            with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                while True:
                    request = await connection.read_request()
                    self.requests.append(request)
                    result = self.handler(connection, request)
                    if inspect.isawaitable(result):
                        await result
        finally:
            self.open -= 1
            self._tasks.discard(task)
            writer.close()


def reset(writer: asyncio.StreamWriter) -> None:
    """Close a connection with an RST: what was sent and not read yet is lost."""
    sock = writer.get_extra_info("socket")
    if sock is not None and not writer.transport.is_closing():
        with suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
