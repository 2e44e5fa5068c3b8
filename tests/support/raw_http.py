"""A previous hop made of raw bytes: writes what a test says and reads HTTP answers one by one."""

import asyncio
from typing import Self

import msgspec

from tests.support.stub_peer import reset
from tests.support.waiting import WAIT_S_MAX


class RawAnswer(msgspec.Struct):
    """One answer; headers by lower-case name."""

    status: int
    headers: dict[str, str]
    body: bytes


class RawClient:
    """One connection to a server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, port: int) -> Self:
        return cls(*await asyncio.open_connection("127.0.0.1", port, limit=1 << 20))

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def read_answer(self) -> RawAnswer:
        """Raises: asyncio.IncompleteReadError, ConnectionError - the server closed instead."""
        async with asyncio.timeout(WAIT_S_MAX):
            return await self._read_answer()

    async def _read_answer(self) -> RawAnswer:
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line, *fields = head[:-4].split("\r\n")
        headers = {
            name.lower(): value.strip() for name, _, value in (f.partition(":") for f in fields)
        }
        body = await self.reader.readexactly(int(headers.get("content-length", "0")))
        return RawAnswer(int(line.split(" ")[1]), headers, body)

    async def read_to_end(self) -> bytes:
        """What is left until the server closes."""
        async with asyncio.timeout(WAIT_S_MAX):
            return await self.reader.read()

    def close(self) -> None:
        self.writer.close()

    def reset(self) -> None:
        reset(self.writer)


def post(body: bytes, *headers: str, token: str = "token", version: str = "1.1") -> bytes:
    """A well-formed request with an ILP packet; ``headers`` as ``Name: value``."""
    lines = [
        f"POST /ilp HTTP/{version}",
        "Host: connector.example",
        f"Authorization: Bearer {token}",
        "Content-Type: application/octet-stream",
        f"Content-Length: {len(body)}",
        *headers,
        "\r\n",
    ]
    return "\r\n".join(lines).encode() + body
