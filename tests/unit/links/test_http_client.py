import asyncio
import random
import socket
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import structlog

from connector.directory import Asset, Peer
from connector.errors import ConfigError
from connector.links.http_client import ClientLimits, HttpLinks, PeerPool
from connector.ports import LinkFailure
from tests.support.certificates import Authority
from tests.support.cut_proxy import Cut, CutProxy
from tests.support.stub_peer import (
    StubConnection,
    StubPeer,
    StubRequest,
    answering,
    http_answer,
    silent,
)
from tests.support.waiting import wait_until

ASSET = Asset(id=1, tenant_id="t", code="USD", scale=2, ledger=1)
UNREACHABLE, CUT, HTTP_ERROR = LinkFailure
SOON = 30.0


def echo(body: bytes) -> bytes:
    return b"re:" + body


class Clock:
    """Real time, and jumps."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead


class Sender:
    """Links, and what they reported of each packet: one report, never from inside ``send``."""

    def __init__(self, limits: dict[str, Any], **options: Any) -> None:
        self.clock = Clock()
        self.links = HttpLinks(
            self, limits=ClientLimits(**{"sweep_s": 0.01, **limits}), clock=self.clock, **options
        )
        self.reports: dict[Any, bytes | LinkFailure] = {}
        self.faults: list[str] = []
        self.sent = 0
        self._sending = False
        self.on_report: Callable[[Any], None] = lambda packet: None

    def send(
        self, peer: Peer, packet: Any = None, *, connect_s: float = SOON, reply_s: float = SOON
    ) -> Any:
        self.sent += 1
        packet = self.sent if packet is None else packet
        now = self.clock()
        self._sending = True
        self.links.send(peer, str(packet).encode(), packet, now + connect_s, now + reply_s)
        self._sending = False
        return packet

    async def ask(self, peer: Peer, packet: Any = None, **times: float) -> bytes | LinkFailure:
        return await self.result(self.send(peer, packet, **times))

    async def result(self, packet: Any) -> bytes | LinkFailure:
        await wait_until(lambda: packet in self.reports, f"the report of {packet}")
        return self.reports[packet]

    def receive_reply(self, packet: Any, body: bytes) -> None:
        self._report(packet, body)

    def receive_link_failure(self, packet: Any, failure: LinkFailure) -> None:
        self._report(packet, failure)

    def _report(self, packet: Any, report: bytes | LinkFailure) -> None:
        # What is raised in here does not reach the test.
        if self._sending:
            self.faults.append(f"{packet} reported from inside send")
        if packet in self.reports:
            self.faults.append(f"{packet} reported twice")
        self.reports[packet] = report
        self.on_report(packet)

    def pool(self, peer: Peer) -> PeerPool:
        return self.links.pools[peer.id]

    async def close(self) -> None:
        await self.links.close(0)
        assert self.faults == []
        assert len(self.reports) == self.sent
        for pool in self.links.pools.values():
            assert (pool.in_flight, len(pool.connections)) == (0, 0)


@pytest.fixture
async def sender(request: pytest.FixtureRequest) -> AsyncIterator[Sender]:
    sender = Sender(getattr(request, "param", {}))
    with structlog.testing.capture_logs():
        yield sender
        await sender.close()


@pytest.fixture
async def stub() -> AsyncIterator[StubPeer]:
    async with StubPeer(answering(echo)) as stub:
        yield stub


def limits(**values: Any) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("sender", [values], indirect=True, ids=[""])


def peer_at(endpoint: str | None, **fields: Any) -> Peer:
    fields = {"id": 7, "outgoing_token": "out-token", **fields}
    return Peer(
        tenant_id="t", asset=ASSET, static_ilp_address="test.peer", endpoint=endpoint, **fields
    )


async def test_packet_is_posted_and_its_reply_reported(sender: Sender, stub: StubPeer) -> None:
    assert await sender.ask(peer_at(stub.endpoint + "?a=b"), "packet") == b"re:packet"
    (request,) = stub.requests
    assert request.line == "POST /ilp?a=b HTTP/1.1"
    assert request.body == b"packet"
    assert request.headers == {
        "host": f"127.0.0.1:{stub.port}",
        "authorization": "Bearer out-token",
        "content-type": "application/octet-stream",
        "accept": "application/octet-stream",
        "content-length": "6",
    }


async def test_connection_is_used_again(sender: Sender, stub: StubPeer) -> None:
    peer = peer_at(stub.endpoint)
    for number in range(1, 6):
        assert await sender.ask(peer) == b"re:%d" % number
    assert len(stub.connections) == 1
    assert sender.pool(peer).connects == 1


async def test_connection_idle_for_four_seconds_is_not_used_again(
    sender: Sender, stub: StubPeer
) -> None:
    peer = peer_at(stub.endpoint)
    await sender.ask(peer)
    sender.clock.ahead += 3.5
    await sender.ask(peer)
    assert len(stub.connections) == 1
    sender.clock.ahead += 4.0
    await sender.ask(peer)
    assert [request.connection for request in stub.requests] == [0, 0, 1]
    await wait_until(lambda: stub.open == 1)


@limits(sweep_s=1000.0)
async def test_idle_connection_is_not_used_though_nobody_swept(
    sender: Sender, stub: StubPeer
) -> None:
    peer = peer_at(stub.endpoint)
    await sender.ask(peer)
    sender.clock.ahead += 4.0
    await sender.ask(peer)
    assert [request.connection for request in stub.requests] == [0, 1]


@pytest.mark.parametrize(
    ("header", "pause_s", "connections"),
    [
        ("timeout=2", 1.0, 1),
        ("timeout=2", 1.7, 2),
        ("max=100, timeout=2", 1.7, 2),
        ("Timeout = 2", 1.7, 2),
        ("timeout=0", 0.0, 2),
        ("timeout=100", 3.5, 1),
        ("timeout=100", 4.1, 2),
        ("timeout=soon", 3.5, 1),
        ("timeout=" + "9" * 50, 3.5, 1),
    ],
)
async def test_peers_keep_alive_time_is_respected(
    sender: Sender, stub: StubPeer, header: str, pause_s: float, connections: int
) -> None:
    async def handle(connection: StubConnection, request: StubRequest) -> None:
        await connection.send(http_answer(b"x", "200 OK", f"Keep-Alive: {header}"))

    stub.handler = handle
    peer = peer_at(stub.endpoint)
    await sender.ask(peer)
    sender.clock.ahead += pause_s
    await sender.ask(peer)
    assert len(stub.connections) == connections


async def test_most_recently_used_connection_is_used_first(sender: Sender, stub: StubPeer) -> None:
    stub.handler = silent
    peer = peer_at(stub.endpoint)
    packets = [sender.send(peer) for _ in range(3)]
    await wait_until(lambda: len(stub.requests) == 3)
    stub.handler = answering(echo)
    for number in (0, 2, 1):
        request = stub.requests[number]
        await stub.connections[request.connection].send(http_answer(echo(request.body)))
        await sender.result(int(request.body))
    for _ in range(3):
        await sender.ask(peer)
        assert stub.requests[-1].connection == stub.requests[1].connection
    assert all(packet in sender.reports for packet in packets)


@pytest.mark.parametrize(
    "answer",
    [
        http_answer(b"x", "200 OK", "Connection: close"),
        b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\n\r\nx",
    ],
)
async def test_connection_that_the_peer_closes_is_not_used_again(
    sender: Sender, stub: StubPeer, answer: bytes
) -> None:
    async def handle(connection: StubConnection, request: StubRequest) -> None:
        await connection.send(answer)
        if b"Length" not in answer:
            connection.close()

    stub.handler = handle
    peer = peer_at(stub.endpoint)
    assert await sender.ask(peer) == b"x"
    assert await sender.ask(peer) == b"x"
    assert [request.connection for request in stub.requests] == [0, 1]


@pytest.mark.parametrize("with_reset", [False, True])
@pytest.mark.parametrize("part", [b"", b"HTTP/1.1 2", http_answer(b"reply")[:-1]])
async def test_written_packet_without_an_answer_is_cut_and_not_sent_again(
    sender: Sender, stub: StubPeer, with_reset: bool, part: bytes
) -> None:
    async def handle(connection: StubConnection, request: StubRequest) -> None:
        await connection.send(part)
        if with_reset:
            connection.reset()
        else:
            connection.close()

    peer = peer_at(stub.endpoint)
    await sender.ask(peer)
    stub.handler = handle
    assert await sender.ask(peer, "lost") is CUT
    assert [request.body for request in stub.requests] == [b"1", b"lost"]
    assert sender.pool(peer).cuts == 1
    stub.handler = answering(echo)
    assert await sender.ask(peer, "next") == b"re:next"


async def test_idle_connection_that_the_peer_closed_is_left_alone(
    sender: Sender, stub: StubPeer
) -> None:
    peer = peer_at(stub.endpoint)
    await sender.ask(peer)
    (connection,) = sender.pool(peer).connections
    stub.connections[0].close()
    await wait_until(lambda: not connection.is_usable)
    assert await sender.ask(peer) == b"re:2"
    assert [request.connection for request in stub.requests] == [0, 1]


@pytest.mark.parametrize("with_reset", [False, True])
@pytest.mark.parametrize("direction", ["up", "down"])
async def test_line_cut_at_any_byte(
    sender: Sender, stub: StubPeer, direction: str, with_reset: bool
) -> None:
    async with CutProxy("127.0.0.1", stub.port) as proxy:
        peer = peer_at(proxy.endpoint)
        for position in range(0, 260, 7):
            seen = len(stub.requests)
            if direction == "up":
                proxy.plan = lambda _, at=position: Cut(up=at, with_reset=with_reset)  # type: ignore[misc]
            else:
                proxy.plan = lambda _, at=position: Cut(down=at, with_reset=with_reset)  # type: ignore[misc]
            report = await sender.ask(peer)
            assert report is CUT or report == b"re:%d" % sender.sent
            assert len(stub.requests) - seen <= 1
            proxy.cut_all()
            await wait_until(lambda: not sender.pool(peer).connections)
    assert {type(report) for report in sender.reports.values()} == {LinkFailure, bytes}


@limits(retry_s_min=0.01, retry_s_max=0.02)
async def test_connecting_is_tried_until_it_succeeds(sender: Sender) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    peer = peer_at(f"http://127.0.0.1:{port}/ilp")
    packets = [sender.send(peer) for _ in range(5)]
    await wait_until(lambda: sender.pool(peer).connect_failures > 10)
    assert sender.reports == {}
    async with StubPeer(answering(echo), port=port) as stub:
        for packet in packets:
            assert await sender.result(packet) == b"re:%d" % packet
        assert sorted(request.body for request in stub.requests) == [b"1", b"2", b"3", b"4", b"5"]


@pytest.mark.parametrize("host", ["127.0.0.1:9", "no-such-host.invalid", "x." * 40 + "invalid"])
async def test_peer_that_cannot_be_reached_in_time(sender: Sender, host: str) -> None:
    peer = peer_at(f"http://{host}/ilp")
    first = sender.send(peer, connect_s=100)
    second = sender.send(peer, connect_s=200)
    await wait_until(lambda: sender.pool(peer).connect_failures)
    assert sender.reports == {}
    sender.clock.ahead += 100
    assert await sender.result(first) is UNREACHABLE
    assert second not in sender.reports
    sender.clock.ahead += 100
    assert await sender.result(second) is UNREACHABLE
    assert sender.pool(peer).unreachable == 2


@pytest.mark.parametrize(
    "fields",
    [
        {"endpoint": None},
        {"endpoint": "http://user:secret@127.0.0.1/"},
        {"endpoint": "http://127.0.0.1:1/", "outgoing_token": "two words"},
        {"endpoint": "http://127.0.0.1:1/", "outgoing_token": "a\r\nX: y"},
    ],
)
async def test_peer_without_a_usable_endpoint(sender: Sender, fields: dict[str, Any]) -> None:
    assert await sender.ask(peer_at(**fields)) is UNREACHABLE


async def test_answer_in_single_bytes(sender: Sender, stub: StubPeer) -> None:
    async def handle(connection: StubConnection, request: StubRequest) -> None:
        await connection.send_bytewise(http_answer(echo(request.body)))

    stub.handler = handle
    peer = peer_at(stub.endpoint)
    assert await sender.ask(peer) == b"re:1"
    assert await sender.ask(peer) == b"re:2"
    assert len(stub.connections) == 1


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
SOUND = {
    "chunked": CHUNKED + b"2\r\nre\r\n3;x=y\r\nply\r\n0\r\nTrailer: x\r\n\r\n",
    "lower-case headers": b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nreply",
    "other type": b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 5\r\n\r\nreply",
    "after 100": b"HTTP/1.1 100 Continue\r\n\r\n" + http_answer(b"reply"),
    "after 103": b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + http_answer(b"reply"),
    "no reason": b"HTTP/1.1 200 \r\nContent-Length: 5\r\n\r\nreply",
    "http/1.0 kept": b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\nreply",
}


@pytest.mark.parametrize("bytewise", [False, True])
@pytest.mark.parametrize("answer", SOUND.values(), ids=SOUND)
async def test_unusual_but_sound_answers(
    sender: Sender, stub: StubPeer, answer: bytes, bytewise: bool
) -> None:
    async def handle(connection: StubConnection, request: StubRequest) -> None:
        await (connection.send_bytewise(answer) if bytewise else connection.send(answer))

    stub.handler = handle
    peer = peer_at(stub.endpoint)
    assert await sender.ask(peer) == b"reply"
    assert await sender.ask(peer) == b"reply"
    assert len(stub.connections) == 1


async def test_largest_reply(sender: Sender, stub: StubPeer) -> None:
    stub.handler = answering(lambda body: b"x" * 40_000)
    assert await sender.ask(peer_at(stub.endpoint)) == b"x" * 40_000


@pytest.mark.parametrize(
    "status", ["201 Created", "202 Accepted", "302 Found", "401 Unauthorized", "500 Oh", "999 Odd"]
)
async def test_other_status_is_an_error_and_the_connection_stays(
    sender: Sender, stub: StubPeer, status: str
) -> None:
    async def handle(connection: StubConnection, request: StubRequest) -> None:
        await connection.send(http_answer(b"reply", status, "Location: /elsewhere"))

    stub.handler = handle
    peer = peer_at(stub.endpoint)
    assert await sender.ask(peer) is HTTP_ERROR
    stub.handler = answering(echo)
    assert await sender.ask(peer) == b"re:2"
    assert [request.connection for request in stub.requests] == [0, 0]
    assert sender.pool(peer).http_errors == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    ],
)
async def test_answer_without_a_body_is_an_error(
    sender: Sender, stub: StubPeer, answer: bytes
) -> None:
    async def handle(connection: StubConnection, request: StubRequest) -> None:
        await connection.send(answer)

    stub.handler = handle
    peer = peer_at(stub.endpoint)
    assert await sender.ask(peer) is HTTP_ERROR
    stub.handler = answering(echo)
    assert await sender.ask(peer) == b"re:2"
    assert len(stub.connections) == 1


UNSOUND = {
    "garbage": b"\x00\xff garbage",
    "request": b"POST / HTTP/1.1\r\n\r\n",
    "too long": b"HTTP/1.1 200 OK\r\nContent-Length: 40001\r\n\r\n",
    "chunked too long": CHUNKED + b"9c41\r\n" + b"x" * 40_001,
    "chunked without end": CHUNKED + b"1\r\nx\r\n" * 40_001,
    "until close without end": b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 40_001,
    "error without end": b"HTTP/1.1 500 Oh\r\n\r\n" + b"x" * 40_001,
    "header without end": b"HTTP/1.1 200 OK\r\nX: " + b"x" * 60_000,
    "headers without end": b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 5_000,
    "trailers without end": CHUNKED + b"0\r\n" + b"X: y\r\n" * 5_000,
    "reason without end": b"HTTP/1.1 200 " + b"x" * 60_000,
    "length twice": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nreply",
    "length and chunked": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n"
    b"\r\n0\r\n\r\n",
    "bad chunk": CHUNKED + b"zz\r\n",
    "upgrade": b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
    "interim without end": b"HTTP/1.1 100 Continue\r\n\r\n" * 10,
}


@pytest.mark.parametrize("bytewise", [False, True])
@pytest.mark.parametrize("answer", UNSOUND.values(), ids=UNSOUND)
async def test_unsound_answer_is_an_error_and_ends_the_connection(
    sender: Sender, stub: StubPeer, answer: bytes, bytewise: bool
) -> None:
    async def handle(connection: StubConnection, request: StubRequest) -> None:
        if bytewise:
            await connection.send_bytewise(answer[:600])
            answer_rest = answer[600:]
            for start in range(0, len(answer_rest), 1000):
                await connection.send(answer_rest[start : start + 1000])
        else:
            await connection.send(answer)

    stub.handler = handle
    peer = peer_at(stub.endpoint)
    assert await sender.ask(peer) is HTTP_ERROR
    stub.handler = answering(echo)
    assert await sender.ask(peer) == b"re:2"
    assert [request.connection for request in stub.requests] == [0, 1]


@pytest.mark.parametrize(
    "more", [http_answer(b"re:2"), b"HTTP", b"\x00", b"HTTP/1.1 100 Continue\r\n\r\n"]
)
async def test_what_follows_an_answer_is_not_taken_for_the_next(
    sender: Sender, stub: StubPeer, more: bytes
) -> None:
    async def handle(connection: StubConnection, request: StubRequest) -> None:
        await connection.send(http_answer(b"re:1") + more)

    stub.handler = handle
    peer = peer_at(stub.endpoint)
    # The second packet is sent while the first one's answer is being reported.
    sender.on_report = lambda packet: sender.send(peer) if packet == 1 else None
    assert await sender.ask(peer) == b"re:1"
    stub.handler = answering(lambda body: b"true " + body)
    await sender.result(2)
    assert [request.connection for request in stub.requests] == [0, 1]


async def test_bytes_on_an_idle_connection_end_it(sender: Sender, stub: StubPeer) -> None:
    peer = peer_at(stub.endpoint)
    await sender.ask(peer)
    await stub.connections[0].send(http_answer(b"unasked"))
    await wait_until(lambda: not sender.pool(peer).connections)
    assert await sender.ask(peer) == b"re:2"


@limits(connections_max=3, connecting_max=2)
async def test_connections_are_bounded(sender: Sender, stub: StubPeer) -> None:
    most = 0

    async def handle(connection: StubConnection, request: StubRequest) -> None:
        nonlocal most
        pool = sender.pool(peer)
        most = max(most, len(pool.connections) + pool._connecting)
        await asyncio.sleep(0)
        await connection.send(http_answer(echo(request.body)))

    stub.handler = handle
    peer = peer_at(stub.endpoint)
    packets = [sender.send(peer) for _ in range(100)]
    assert sender.pool(peer)._connecting == 2
    assert sender.pool(peer).in_flight == 100
    for packet in packets:
        assert await sender.result(packet) == b"re:%d" % packet
    assert len(stub.connections) == most == 3
    assert len(stub.requests) == 100


@limits(connecting_all_max=3)
async def test_attempts_to_all_peers_are_bounded(sender: Sender, stub: StubPeer) -> None:
    peers = [peer_at(stub.endpoint, id=number) for number in range(10)]
    packets = [sender.send(peer) for peer in peers]
    assert len(sender.links._connecting) == 3
    for packet in packets:
        assert await sender.result(packet) == b"re:%d" % packet


@limits(connections_max=1, waiting_max=2)
async def test_queue_is_bounded(sender: Sender, stub: StubPeer) -> None:
    stub.handler = silent
    peer = peer_at(stub.endpoint)
    sender.send(peer, "written")
    await wait_until(lambda: stub.requests)
    for name in ("waits", "waits too", "too many"):
        sender.send(peer, name, connect_s=100)
    assert await sender.result("too many") is UNREACHABLE
    assert list(sender.reports) == ["too many"]
    sender.clock.ahead += 100
    assert await sender.result("waits") is UNREACHABLE
    assert await sender.result("waits too") is UNREACHABLE
    assert len(stub.requests) == 1


@limits(connections_max=1, sweep_s=1000.0)
async def test_overdue_packet_is_not_written_when_a_connection_comes_free(
    sender: Sender, stub: StubPeer
) -> None:
    stub.handler = silent
    peer = peer_at(stub.endpoint)
    sender.send(peer, "written")
    await wait_until(lambda: stub.requests)
    sender.send(peer, "overdue", connect_s=10)
    sender.send(peer, "in time", connect_s=20)
    sender.clock.ahead += 10
    stub.handler = answering(echo)
    await stub.connections[0].send(http_answer(b"x"))
    assert await sender.result("in time") == b"re:in time"
    assert await sender.result("overdue") is UNREACHABLE
    assert [request.body for request in stub.requests] == [b"written", b"in time"]


async def test_answer_that_does_not_come_in_time(sender: Sender, stub: StubPeer) -> None:
    stub.handler = silent
    peer = peer_at(stub.endpoint)
    packet = sender.send(peer, reply_s=100)
    await wait_until(lambda: stub.requests)
    sender.clock.ahead += 99
    stub.handler = answering(echo)
    sender.clock.ahead += 1
    assert await sender.result(packet) is CUT
    await wait_until(lambda: not stub.open)
    assert await sender.ask(peer) == b"re:2"


async def test_new_token_and_endpoint_hold_at_once(sender: Sender, stub: StubPeer) -> None:
    async with StubPeer(answering(lambda body: b"other " + body)) as other:
        old = peer_at(stub.endpoint)
        await sender.ask(old, "a")
        stub.handler = silent
        sender.send(old, "in flight")
        await wait_until(lambda: len(stub.requests) == 2)
        stub.handler = answering(echo)
        await sender.ask(old, "b")

        new = peer_at(stub.endpoint, outgoing_token="new-token")
        sender.links.update([new])
        await wait_until(lambda: stub.open == 1)
        assert await sender.ask(new, "c") == b"re:c"
        assert stub.requests[-1].headers["authorization"] == "Bearer new-token"
        # A packet that was decided with the old configuration goes by the new one.
        assert await sender.ask(old, "d") == b"re:d"
        assert stub.requests[-1].headers["authorization"] == "Bearer new-token"

        sender.links.update([peer_at(other.endpoint)])
        assert await sender.ask(old, "e") == b"other e"
        await stub.connections[0].send(http_answer(b"late"))
        assert await sender.result("in flight") == b"late"
        await wait_until(lambda: stub.open == 0)


async def test_unchanged_peer_keeps_its_connections(sender: Sender, stub: StubPeer) -> None:
    await sender.ask(peer_at(stub.endpoint))
    sender.links.update([peer_at(stub.endpoint, name="renamed"), peer_at(None, id=8)])
    await sender.ask(peer_at(stub.endpoint))
    assert len(stub.connections) == 1


async def test_waiting_packets_follow_a_new_endpoint(sender: Sender, stub: StubPeer) -> None:
    wrong = peer_at("http://127.0.0.1:9/")
    packet = sender.send(wrong)
    await wait_until(lambda: sender.pool(wrong).connect_failures)
    sender.links.update([peer_at(stub.endpoint)])
    assert await sender.result(packet) == b"re:1"
    packet = sender.send(wrong)
    await sender.result(packet)
    sender.links.update([peer_at("http://127.0.0.1:9/")])
    packet = sender.send(wrong)
    sender.links.update([peer_at(None)])
    assert await sender.result(packet) is UNREACHABLE


async def test_removed_peer(sender: Sender, stub: StubPeer) -> None:
    peer = peer_at(stub.endpoint)
    await sender.ask(peer, "a")
    stub.handler = silent
    sender.send(peer, "in flight")
    await wait_until(lambda: len(stub.requests) == 2)
    pool = sender.pool(peer)
    sender.links.update([])
    assert await sender.ask(peer, "b") is UNREACHABLE
    # It comes back, then goes for good.
    sender.links.update([peer])
    stub.handler = answering(echo)
    assert await sender.ask(peer, "c") == b"re:c"
    assert sender.pool(peer) is pool
    sender.links.update([])
    await stub.connections[0].send(http_answer(b"late"))
    assert await sender.result("in flight") == b"late"
    await wait_until(lambda: not sender.links.pools)
    assert not pool.connections


def answer_all(stub: StubPeer, connection: StubConnection) -> bytes:
    return b"".join(
        http_answer(echo(request.body))
        for request in stub.requests
        if request.connection == connection.number
    )


async def test_pipelining(sender: Sender, stub: StubPeer) -> None:
    stub.handler = silent
    peer = peer_at(stub.endpoint, pipeline_depth=4)
    packets = [sender.send(peer) for _ in range(8)]
    await wait_until(lambda: len(stub.requests) == 8)
    assert len(stub.connections) == 2
    for connection in stub.connections:
        await connection.send(answer_all(stub, connection))
    for packet in packets:
        assert await sender.result(packet) == b"re:%d" % packet
    stub.handler = answering(echo)
    packets = [sender.send(peer) for _ in range(30)]
    for packet in packets:
        assert await sender.result(packet) == b"re:%d" % packet


async def test_pipelining_stops_at_a_slow_answer(sender: Sender, stub: StubPeer) -> None:
    stub.handler = silent
    peer = peer_at(stub.endpoint, pipeline_depth=4)
    sender.send(peer, "slow")
    await wait_until(lambda: stub.requests)
    sender.send(peer, "behind it")
    await wait_until(lambda: len(stub.requests) == 2)
    sender.clock.ahead += 0.2
    stub.handler = answering(echo)
    for packet in ("a", "b"):
        assert await sender.ask(peer, packet) == echo(packet.encode())
    assert [request.connection for request in stub.requests] == [0, 0, 1, 1]
    # One answer does not make it fast again; when it is empty, it is as good as any.
    await stub.connections[0].send(http_answer(b"at last"))
    await sender.result("slow")
    stub.handler = silent
    for number in range(4):
        sender.send(peer, number)
    await wait_until(lambda: len(stub.requests) == 8)
    assert {request.connection for request in stub.requests[4:]} == {1}
    await stub.connections[0].send(http_answer(b"at last"))
    await sender.result("behind it")
    sender.send(peer, "on the first")
    await wait_until(lambda: len(stub.requests) == 9)
    assert stub.requests[-1].connection == 0


@pytest.mark.parametrize(
    ("answer", "reports"),
    [
        (b"", [CUT, CUT, CUT]),
        (http_answer(b"one"), [b"one", CUT, CUT]),
        (http_answer(b"one") + b"garbage", [b"one", HTTP_ERROR, CUT]),
        (http_answer(b"one") + http_answer(b"two")[:-1], [b"one", CUT, CUT]),
        (
            http_answer(b"one", "200 OK", "Connection: close") + http_answer(b"two"),
            [b"one", CUT, CUT],
        ),
        (
            http_answer(b"one") + http_answer(b"x", "200 OK", "Connection: close"),
            [b"one", b"x", CUT],
        ),
        (http_answer(b"one") + b"HTTP/1.1 200 OK\r\n\r\ntwo", [b"one", b"two", CUT]),
        (http_answer(b"one", "500 Oh") + http_answer(b"two"), [HTTP_ERROR, b"two", CUT]),
        (http_answer(b"x") * 4, [b"x", b"x", b"x"]),
    ],
)
async def test_pipelined_packets_when_the_line_ends(
    sender: Sender, stub: StubPeer, answer: bytes, reports: list[Any]
) -> None:
    stub.handler = silent
    peer = peer_at(stub.endpoint, pipeline_depth=3)
    packets = [sender.send(peer) for _ in range(3)]
    await wait_until(lambda: len(stub.requests) == 3)
    await stub.connections[0].send(answer)
    stub.connections[0].close()
    assert [await sender.result(packet) for packet in packets] == reports
    await wait_until(lambda: not sender.pool(peer).connections)


async def test_overdue_packet_does_not_end_those_behind_it(sender: Sender, stub: StubPeer) -> None:
    stub.handler = silent
    peer = peer_at(stub.endpoint, pipeline_depth=2)
    sender.send(peer, "overdue", reply_s=50)
    sender.send(peer, "in time", reply_s=100)
    await wait_until(lambda: len(stub.requests) == 2)
    sender.clock.ahead += 50
    assert await sender.result("overdue") is CUT
    await stub.connections[0].send(http_answer(b"late") + http_answer(b"not late"))
    assert await sender.result("in time") == b"not late"


async def test_tls_with_a_trusted_certificate(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    sender = Sender({}, ca_file=str(authority.ca_file))
    context = authority.server_context("localhost")
    async with StubPeer(answering(echo), ssl_context=context) as stub:
        peer = peer_at(stub.endpoint)
        assert await sender.ask(peer) == b"re:1"
        assert await sender.ask(peer) == b"re:2"
        assert stub.requests[0].headers["host"] == f"localhost:{stub.port}"
        assert len(stub.connections) == 1
        stub.handler = lambda connection, request: connection.reset()
        assert await sender.ask(peer) is CUT
        stub.handler = silent
        packet = sender.send(peer)
        await wait_until(lambda: len(stub.requests) == 4)
        await sender.close()
        assert sender.reports[packet] is CUT


@pytest.mark.parametrize("fault", ["unknown authority", "other name", "expired", "no tls"])
async def test_tls_without_a_trusted_certificate(tmp_path: Path, fault: str) -> None:
    authority = Authority(tmp_path)
    trusted = Authority(tmp_path, "other") if fault == "unknown authority" else authority
    sender = Sender({"connect_s": 0.2}, ca_file=str(trusted.ca_file))
    context = authority.server_context(
        "elsewhere" if fault == "other name" else "localhost", days=-1 if fault == "expired" else 1
    )
    async with StubPeer(
        answering(echo), ssl_context=None if fault == "no tls" else context
    ) as stub:
        peer = peer_at(f"https://localhost:{stub.port}/ilp")
        with structlog.testing.capture_logs() as logs:
            packet = sender.send(peer, connect_s=100)
            await wait_until(lambda: sender.pool(peer).connect_failures > 1)
        assert [entry["event"] for entry in logs] == ["peer_unreachable"]
        sender.clock.ahead += 100
        assert await sender.result(packet) is UNREACHABLE
        assert stub.requests == []
        await sender.close()


async def test_certificate_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.pem"):
        Sender({}, ca_file=str(tmp_path / "none.pem"))
    (tmp_path / "bad.pem").write_text("no certificate")
    with pytest.raises(ConfigError, match=r"bad\.pem"):
        Sender({}, ca_file=str(tmp_path / "bad.pem"))


@limits(connect_s=0.05)
async def test_handshake_that_never_ends(sender: Sender) -> None:
    async with StubPeer(silent) as stub:
        peer = peer_at(f"https://127.0.0.1:{stub.port}/")
        sender.send(peer)
        await wait_until(lambda: sender.pool(peer).connect_failures)
        await wait_until(lambda: not stub.open or sender.pool(peer)._connecting)


async def test_fault_of_the_client_harms_nobody(sender: Sender, stub: StubPeer) -> None:
    def fail(packet: Any) -> None:
        raise ValueError("boom")

    sender.on_report = fail
    peer = peer_at(stub.endpoint)
    assert await sender.ask(peer) == b"re:1"
    assert await sender.ask(peer) == b"re:2"
    assert await sender.ask(peer_at(None, id=8)) is UNREACHABLE
    assert len(stub.connections) == 1


async def test_close_waits_for_answers(stub: StubPeer) -> None:
    sender = Sender({"connections_max": 1})
    stub.handler = silent
    peer = peer_at(stub.endpoint)
    sender.send(peer, "in flight")
    await wait_until(lambda: stub.requests)
    sender.send(peer, "waiting")
    close = asyncio.create_task(sender.links.close(10))
    assert await sender.result("waiting") is UNREACHABLE
    assert await sender.ask(peer, "too late") is UNREACHABLE
    assert await sender.ask(peer_at(stub.endpoint, id=8), "too late as well") is UNREACHABLE
    assert not close.done()
    await stub.connections[0].send(http_answer(b"reply"))
    await close
    assert sender.reports["in flight"] == b"reply"
    await sender.close()
    await wait_until(lambda: not stub.open)


async def test_close_cuts_what_is_left(stub: StubPeer) -> None:
    sender = Sender({})
    stub.handler = silent
    peer = peer_at(stub.endpoint)
    sender.send(peer, "in flight")
    await wait_until(lambda: stub.requests)
    connecting = sender.send(peer, "connecting")
    await sender.close()
    assert sender.reports["in flight"] is CUT
    assert sender.reports[connecting] is UNREACHABLE
    await wait_until(lambda: not stub.open)


class FaultyPeer:
    """Answers most packets, and does everything else that a peer may do at a seeded random.

    What it never does is send an answer too many, or too few, and then go on: with requests in a
    row nobody could tell which answer is whose.
    """

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance

    async def __call__(self, connection: StubConnection, request: StubRequest) -> None:
        answer = http_answer(echo(request.body))
        choice = self._chance.randrange(40)
        if choice < 30:
            await connection.send(answer)
        elif choice < 32:
            await connection.send(http_answer(b"no", "500 Oh"))
        elif choice < 34:
            await connection.send(answer[: self._chance.randrange(len(answer))])
            connection.reset()
        elif choice < 36:
            await connection.send(answer)
            connection.close()
        elif choice < 38:
            await connection.send(self._chance.randbytes(50))
        elif choice < 39:
            connection.close()
        else:
            await connection.reader.read()

    def plan(self, number: int) -> Cut:
        chance = self._chance
        return Cut(
            up=chance.randrange(4000) if chance.random() < 0.4 else None,
            down=chance.randrange(4000) if chance.random() < 0.4 else None,
            with_reset=chance.random() < 0.5,
        )


@pytest.mark.parametrize("depth", [1, 5])
@pytest.mark.parametrize("seed", range(6))
async def test_random_faults(stub: StubPeer, seed: int, depth: int) -> None:
    """Every packet is reported once and arrives at most once, whatever the peer and the line do."""
    chance = random.Random(seed)
    sender = Sender({"connections_max": 6, "waiting_max": 40, "retry_s_min": 0.01})
    stub.handler = faulty = FaultyPeer(chance)
    with structlog.testing.capture_logs():
        async with CutProxy("127.0.0.1", stub.port) as proxy:
            proxy.plan = faulty.plan
            for number in range(100):
                # Each token is another configuration.
                peer = peer_at(
                    proxy.endpoint, pipeline_depth=depth, outgoing_token=f"{number // 20}"
                )
                sender.links.update([peer])
                for _ in range(chance.randrange(8)):
                    sender.send(peer, connect_s=chance.random(), reply_s=chance.random() + 0.2)
                if chance.random() < 0.05:
                    proxy.cut_all(with_reset=chance.random() < 0.5)
                await asyncio.sleep(chance.random() / 200)
            sender.clock.ahead += 2
            await wait_until(lambda: len(sender.reports) == sender.sent, "the last report")
            await sender.close()
    bodies = [request.body for request in stub.requests]
    assert len(bodies) == len(set(bodies))
    replies = {p: report for p, report in sender.reports.items() if isinstance(report, bytes)}
    assert replies
    assert replies == {packet: b"re:%d" % packet for packet in replies}
    await wait_until(lambda: not stub.open, "the last connection's end")
