"""Whatever a peer answers: each packet is reported once, and the pieces do not matter."""

import asyncio
import ssl
from itertools import pairwise
from typing import Any

import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from connector.directory import Asset, Peer
from connector.links.http_client import ClientLimits, HttpLinks, PeerConnection, PeerPool
from connector.ports import LinkFailure
from tests.support.memory_transport import MemoryTransport
from tests.support.stub_peer import http_answer

PEER = Peer(
    id=1,
    tenant_id="t",
    asset=Asset(id=1, tenant_id="t", code="USD", scale=2, ledger=1),
    static_ilp_address="test.peer",
    endpoint="http://127.0.0.1:9/",
    pipeline_depth=3,
)
LIMITS = ClientLimits(body_bytes_max=100, header_bytes_max=400)


class Reports:
    """What became of each packet, in the order it was told."""

    def __init__(self) -> None:
        self.reports: list[tuple[Any, bytes | LinkFailure]] = []

    def receive_reply(self, packet: Any, body: bytes) -> None:
        self.reports.append((packet, body))

    def receive_link_failure(self, packet: Any, failure: LinkFailure) -> None:
        self.reports.append((packet, failure))


def run(pieces: list[bytes]) -> list[tuple[Any, bytes | LinkFailure]]:
    """Send three packets on one connection, feed it the pieces, and end it."""

    async def main() -> list[tuple[Any, bytes | LinkFailure]]:
        client = Reports()
        links = HttpLinks(client, limits=LIMITS, ssl_context=CONTEXT, clock=lambda: 0.0)
        pool = links.pools[PEER.id] = PeerPool(links, PEER)
        connection = PeerConnection(pool)
        transport = MemoryTransport(connection)
        pool.release(connection)
        for packet in range(3):
            links.send(PEER, b"packet", packet, 10.0, 10.0)
        for piece in pieces:
            if not transport.closed:
                connection.data_received(piece)
        transport.close()
        await links.close(0)
        return sorted(client.reports, key=lambda report: report[0])

    return asyncio.run(main())


CONTEXT = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
TOKENS = st.sampled_from(
    [
        http_answer(b"reply"),
        http_answer(b"last", "200 OK", "Connection: close"),
        http_answer(b"no", "500 Oh"),
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.0 200 OK\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"Content-Length: 3\r\n",
        b"Content-Length: 999\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Keep-Alive: timeout=1\r\n",
        b"Connection: upgrade\r\nUpgrade: x\r\n",
        b"X: " + b"y" * 300 + b"\r\n",
        b"\r\n",
        b"\n",
        b"abc",
        b"3\r\nabc\r\n0\r\n\r\n",
        b"x" * 101,
    ]
)
STREAMS = st.lists(TOKENS | st.binary(max_size=20), max_size=12).map(b"".join)


@settings(max_examples=300, deadline=None)
@given(data=STREAMS | st.binary(max_size=300), cuts=st.lists(st.integers(0, 5000), max_size=20))
def test_each_packet_is_reported_once_whatever_the_pieces(data: bytes, cuts: list[int]) -> None:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    pieces = [data[start:end] for start, end in pairwise(edges) if start < end]
    with structlog.testing.capture_logs() as logs:
        whole = run([data] if data else [])
        assert [packet for packet, _ in whole] == [0, 1, 2]
        assert run(pieces) == whole
        assert run([bytes((value,)) for value in data]) == whole
    assert logs == []
