"""Whatever bytes arrive: the server never raises, and the pieces they come in do not matter."""

import asyncio
import re
from itertools import pairwise
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from connector.links.http_server import (
    DEAF,
    HttpConnection,
    HttpExchange,
    IlpHttpServer,
    ServerLimits,
)
from tests.support.memory_transport import MemoryTransport
from tests.support.raw_http import post

LIMITS = ServerLimits(pipelined_max=3, body_bytes_max=200, header_bytes_max=400, headers_max=10)


class Collector:
    """A server without a listener, whose answers come in the order of a given mask."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.open: list[HttpExchange] = []
        self.server = IlpHttpServer(
            authenticate=lambda token: "account" if token == b"token" else None,
            receive_prepare=self._receive,
            limits=LIMITS,
        )
        self.server._loop = asyncio.get_running_loop()
        self.server.head = b"HTTP/1.1 200 OK\r\nContent-Length: "
        self.connection = HttpConnection(self.server)
        self.transport = MemoryTransport(self.connection)

    def _receive(self, account: Any, body: bytes, exchange: HttpExchange) -> None:
        self.bodies.append(body)
        self.open.append(exchange)

    def feed(self, data: bytes) -> None:
        if not self.transport.closed:
            self.connection.data_received(data)

    def answer_all(self) -> None:
        """Answer, last first, until there is nothing left to do."""
        while self.open:
            for exchange in reversed(self.open):
                exchange.answer(b"an answer")
            self.open.clear()
            self.server._flush()
        self.server._flush()

    @property
    def written(self) -> bytes:
        return re.sub(rb"Date: [^\r]*", b"", self.transport.written)


def run(pieces: list[bytes]) -> Collector:
    async def main() -> Collector:
        collector = Collector()
        for piece in pieces:
            collector.feed(piece)
        collector.answer_all()
        if not collector.transport.closed:
            collector.connection.eof_received()
            collector.transport.close()
        return collector

    return asyncio.run(main())


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(edges) if start < end]


TOKENS = st.sampled_from(
    [
        b"POST ",
        b"GET ",
        b"/ilp",
        b" HTTP/1.1",
        b" HTTP/1.0",
        b"\r\n",
        b"\r\n\r\n",
        b"\n",
        b"Host: a\r\n",
        b"Authorization: Bearer token\r\n",
        b"Content-Type: application/octet-stream\r\n",
        b"Content-Length: 3\r\n",
        b"Content-Length: 0\r\n",
        b"Content-Length: 999\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Connection: close\r\n",
        b"Connection: upgrade\r\nUpgrade: h2c\r\n",
        b"Expect: 100-continue\r\n",
        b"X: " + b"y" * 300 + b"\r\n",
        b"abc",
        b"3\r\nabc\r\n0\r\n\r\n",
        post(b"whole"),
        post(b""),
        post(b"last", "Connection: close"),
        post(b"old", version="1.0"),
    ]
)
STREAMS = st.lists(TOKENS | st.binary(max_size=20), max_size=20).map(b"".join)


@settings(max_examples=300, deadline=None)
@given(data=STREAMS | st.binary(max_size=300), cuts=st.lists(st.integers(0, 5000), max_size=20))
def test_pieces_do_not_matter(data: bytes, cuts: list[int]) -> None:
    whole = run([data])
    for pieces in (split(data, cuts), [bytes((value,)) for value in data]):
        other = run(pieces)
        assert other.bodies == whole.bodies
        assert other.written == whole.written
        assert other.server.errors == whole.server.errors


@settings(max_examples=300, deadline=None)
@given(flips=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=4))
def test_damaged_requests_are_refused_or_taken_whole(flips: list[tuple[int, int]]) -> None:
    data = bytearray(post(b"one") + post(b"two") + post(b"three"))
    for position, value in flips:
        data[position % len(data)] = value
    collector = run([bytes(data)])
    # Every request taken is answered, every error ends the connection, and nothing comes after it.
    answers = re.findall(rb"HTTP/1.1 (\d{3})", collector.transport.written)
    assert answers.count(b"200") == len(collector.bodies)
    assert len(answers) - len(collector.bodies) in (0, 1)
    if len(answers) > len(collector.bodies):
        assert answers[-1] != b"200"
        assert collector.connection._phase == DEAF
