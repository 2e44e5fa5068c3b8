import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import structlog

from connector.links.http_server import (
    BODY,
    HttpExchange,
    IlpHttpServer,
    ServerLimits,
)
from connector.ports import Exchange
from tests.support.raw_http import RawClient, post
from tests.support.waiting import wait_until

QUICK: dict[str, Any] = {"sweep_s": 0.01, "linger_s": 0.1}


class Pipeline:
    """Takes requests; answers at once unless told to keep them."""

    def __init__(self) -> None:
        self.accounts = {b"token": "alice", b"other": "bob"}
        self.requests: list[tuple[str, bytes, HttpExchange]] = []
        self.answer: Callable[[bytes, Exchange], None] | None = lambda body, exchange: (
            exchange.answer(b"re:" + body)
        )

    def receive_prepare(self, account: str, body: bytes, exchange: HttpExchange) -> None:
        self.requests.append((account, body, exchange))
        if self.answer is not None:
            self.answer(body, exchange)

    def keep(self) -> None:
        self.answer = None


class Node:
    """A server, its pipeline, and clients that are closed with it."""

    def __init__(self) -> None:
        self.pipeline = Pipeline()
        self.server: IlpHttpServer
        self.clients: list[RawClient] = []

    async def start(self, **limits: Any) -> None:
        self.server = IlpHttpServer(
            authenticate=self.pipeline.accounts.get,
            receive_prepare=self.pipeline.receive_prepare,
            limits=ServerLimits(**{**QUICK, **limits}),
        )
        await self.server.start("127.0.0.1", 0)

    async def connect(self) -> RawClient:
        client = await RawClient.connect(self.server.port)
        self.clients.append(client)
        return client

    async def ask(self, data: bytes) -> RawClient:
        client = await self.connect()
        await client.send(data)
        return client

    async def close(self) -> None:
        for client in self.clients:
            client.close()
        await self.server.drain(0)
        assert self.server.connections_open == 0


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    node = Node()
    await node.start()
    yield node
    await node.close()


@pytest.fixture
async def strict_node(request: pytest.FixtureRequest) -> AsyncIterator[Node]:
    """A node with the limits that the test's parameter names."""
    node = Node()
    await node.start(**request.param)
    yield node
    await node.close()


def limits(**values: Any) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("strict_node", [values], indirect=True, ids=[""])


async def test_packet_reaches_the_account_of_its_token_and_is_answered(node: Node) -> None:
    client = await node.ask(post(b"prepare", token="other"))
    answer = await client.read_answer()
    assert answer.status == 200
    assert answer.body == b"re:prepare"
    assert answer.headers["content-type"] == "application/octet-stream"
    assert "date" in answer.headers
    assert "connection" not in answer.headers
    assert [request[:2] for request in node.pipeline.requests] == [("bob", b"prepare")]


async def test_connection_serves_many_requests(node: Node) -> None:
    client = await node.connect()
    for number in range(5):
        await client.send(post(b"%d" % number))
        assert (await client.read_answer()).body == b"re:%d" % number
    assert node.server.requests == 5
    assert node.server.connections_opened == 1
    assert node.server.connections_open == 1


async def test_answers_keep_the_order_of_requests(node: Node) -> None:
    node.pipeline.keep()
    client = await node.ask(b"".join(post(b"%d" % number) for number in range(4)))
    await wait_until(lambda: len(node.pipeline.requests) == 4)
    for _, body, exchange in reversed(node.pipeline.requests[1:]):
        exchange.answer(b"re:" + body)
    # Another connection does not wait for the slow packet.
    quick = await node.ask(post(b"quick"))
    await wait_until(lambda: len(node.pipeline.requests) == 5)
    node.pipeline.requests[4][2].answer(b"re:quick")
    assert (await quick.read_answer()).body == b"re:quick"
    node.pipeline.requests[0][2].answer(b"re:0")
    assert [(await client.read_answer()).body for _ in range(4)] == [
        b"re:0",
        b"re:1",
        b"re:2",
        b"re:3",
    ]


async def test_answers_of_one_tick_go_out_in_one_write(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.pipeline.keep()
    client = await node.ask(post(b"a") + post(b"b") + post(b"c"))
    await wait_until(lambda: len(node.pipeline.requests) == 3)
    (connection,) = node.server._connections
    writes: list[bytes] = []
    real = connection._transport

    class Counting:
        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

        def write(self, data: bytes) -> None:
            writes.append(data)
            real.write(data)

    monkeypatch.setattr(connection, "_transport", Counting())
    for _, body, exchange in node.pipeline.requests:
        exchange.answer(body)
    assert [(await client.read_answer()).body for _ in range(3)] == [b"a", b"b", b"c"]
    assert len(writes) == 1


def request(
    method: Any = "POST", version: Any = "HTTP/1.1", body: Any = b"x", **changes: Any
) -> bytes:
    """A request with headers changed or, with None, left out."""
    headers: dict[str, Any] = {
        "Host": "a",
        "Authorization": "Bearer token",
        "Content-Type": "application/octet-stream",
        "Content-Length": str(len(body)),
    }
    headers.update({name.replace("_", "-").title(): value for name, value in changes.items()})
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items() if value is not None)
    return bytes(f"{method} /any/path?q=1 {version}\r\n{head}\r\n".encode() + body)


REFUSED = {
    "get": (request("GET", body=b""), 405),
    "put": (request("PUT"), 405),
    "connect": (b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n", 405),
    "unknown method": (request("BREW"), 400),
    "lower-case method": (request("post"), 400),
    "not http": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    "http/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "http/2": (request(version="HTTP/2.0"), 505),
    "http/0.9": (b"POST /\r\n\r\n", 505),
    "http/1.2": (request(version="HTTP/1.2"), 400),
    "upgrade": (request(connection="Upgrade, HTTP2-Settings", upgrade="h2c"), 400),
    "no host": (request(host=None), 400),
    "host twice": (request(host="a\r\nHost: b"), 400),
    "no token": (request(authorization=None), 401),
    "empty token": (request(authorization="Bearer "), 401),
    "other scheme": (request(authorization="Basic dG9rZW46"), 401),
    "unknown token": (request(authorization="Bearer secret-that-must-not-be-echoed"), 401),
    "token twice": (request(authorization="Bearer token\r\nAuthorization: Bearer token"), 400),
    "no length": (request(content_length=None, body=b""), 411),
    "chunked": (
        request(content_length=None, transfer_encoding="chunked", body=b"1\r\nx\r\n0\r\n\r\n"),
        411,
    ),
    "length and chunked": (
        request(transfer_encoding="chunked", body=b"1\r\nx\r\n0\r\n\r\n"),
        400,
    ),
    "chunked and length": (
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\nx",
        400,
    ),
    "odd transfer encoding": (request(content_length=None, transfer_encoding="xchunked"), 411),
    "length twice": (request(content_length="1\r\nContent-Length: 1"), 400),
    "length list": (request(content_length="1, 1"), 400),
    "length signed": (request(content_length="+1"), 400),
    "length negative": (request(content_length="-1"), 400),
    "length hexadecimal": (request(content_length="0x1"), 400),
    "length empty": (request(content_length=""), 400),
    "length above 64 bits": (request(content_length="99999999999999999999999"), 400),
    "too long": (request(content_length="40001", body=b""), 413),
    "much too long": (request(body=b"x" * 1_000_000), 413),
    "no type": (request(content_type=None), 415),
    "other type": (request(content_type="application/json"), 415),
    "type twice": (request(content_type="application/octet-stream\r\nContent-Type: a/b"), 400),
    "compressed": (request(content_encoding="gzip"), 415),
    "expects else": (request(expect="200-ok"), 417),
    "header too large": (request(x_padding="x" * 8200), 431),
    "target too long": (b"POST /" + b"x" * 8200 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 431),
    "headers large together": (request(x="1" * 4000, y="2" * 4000, z="3" * 200), 431),
    "too many headers": (request(**dict.fromkeys(map("x{}".format, range(61)), "")), 431),
    "endless header": (b"POST / HTTP/1.1\r\nX: " + b"x" * 20_000, 431),
    "folded header": (request(x="a\r\n b"), 400),
    "space before colon": (b"POST / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
    "bare line feed": (request().replace(b"\r\n", b"\n"), 400),
    "zero byte": (request(x="a\0b"), 400),
}


@pytest.mark.parametrize(("data", "status"), REFUSED.values(), ids=REFUSED)
async def test_what_is_no_packet_is_refused_and_ends_the_connection(
    node: Node, data: bytes, status: int
) -> None:
    client = await node.ask(data + post(b"smuggled"))
    answer = await client.read_answer()
    assert answer.status == status
    assert answer.headers["connection"] == "close"
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.headers.get("www-authenticate") == ("Bearer" if status == 401 else None)
    assert answer.headers.get("allow") == ("POST" if status == 405 else None)
    assert b"secret" not in answer.body
    assert answer.body.decode().isprintable()
    assert await client.read_to_end() == b""
    assert node.pipeline.requests == []
    assert node.server.errors == {status: 1}


async def test_answer_to_head_has_no_body(node: Node) -> None:
    client = await node.ask(request("HEAD", body=b""))
    answer = await client.read_answer()
    assert (answer.status, answer.body) == (405, b"")


ACCEPTED = {
    "type with parameters": request(content_type="Application/Octet-Stream; q=1"),
    "scheme in upper case": request(authorization="BEARER token"),
    "spaces around the token": request(authorization="bearer   token "),
    "space after the length": request(content_length="1 "),
    "absolute target": request().replace(b"/any/path?q=1", b"http://a/b"),
    "leading line ends": b"\r\n\r\n" + request(),
    "unknown headers": request(x_forwarded_for="::1", accept="*/*", user_agent="x"),
    "upgrade without connection": request(upgrade="h2c"),
    "most headers": request(**dict.fromkeys(map("x{}".format, range(60)), "")),
    "largest body": request(body=b"x" * 40_000),
    "empty body": request(body=b""),
}


@pytest.mark.parametrize("data", ACCEPTED.values(), ids=ACCEPTED)
async def test_unusual_but_sound_requests_are_taken(node: Node, data: bytes) -> None:
    client = await node.ask(data)
    assert (await client.read_answer()).status == 200
    await client.send(post(b"next"))
    assert (await client.read_answer()).body == b"re:next"


async def test_error_waits_for_the_answers_before_it(node: Node) -> None:
    node.pipeline.keep()
    client = await node.ask(post(b"first") + b"garbage\r\n\r\n" + post(b"smuggled"))
    await wait_until(lambda: node.server.errors)
    ((_, body, exchange),) = node.pipeline.requests
    exchange.answer(b"re:" + body)
    assert (await client.read_answer()).body == b"re:first"
    assert (await client.read_answer()).status == 400
    assert await client.read_to_end() == b""
    assert len(node.pipeline.requests) == 1


async def test_pipeline_refusal_is_plain_text_and_keeps_the_connection(node: Node) -> None:
    node.pipeline.answer = lambda body, exchange: exchange.refuse(400, "Not an ILP Prepare")
    client = await node.ask(post(b"bad") + post(b"bad"))
    for _ in range(2):
        answer = await client.read_answer()
        assert (answer.status, answer.body) == (400, b"Not an ILP Prepare")
        assert answer.headers["content-type"].startswith("text/plain")
    assert node.server.errors == {400: 2}


async def test_pipeline_fault_is_answered_500_and_harms_nobody(node: Node) -> None:
    def answer(body: bytes, exchange: Exchange) -> None:
        if body == b"bad":
            raise ValueError("token")
        exchange.answer(body)

    node.pipeline.answer = answer
    other = await node.ask(post(b"good"))
    with structlog.testing.capture_logs() as logs:
        client = await node.ask(post(b"bad") + post(b"good"))
        failed = await client.read_answer()
    assert failed.status == 500
    assert failed.body.decode() == f"Internal error {logs[0]['error_id']}"
    assert (await client.read_answer()).body == b"good"
    assert (await other.read_answer()).body == b"good"


async def test_authentication_fault_is_answered_500(node: Node) -> None:
    def fail(token: bytes) -> None:
        raise ValueError("boom")

    node.server.authenticate = fail
    with structlog.testing.capture_logs() as logs:
        client = await node.ask(post(b"x"))
        assert (await client.read_answer()).status == 500
    assert "error_id" in logs[0]
    assert await client.read_to_end() == b""


async def test_second_answer_to_a_request_is_ignored(node: Node) -> None:
    def answer(body: bytes, exchange: Exchange) -> None:
        exchange.answer(b"once")
        exchange.answer(b"twice")
        exchange.refuse(400, "thrice")

    node.pipeline.answer = answer
    client = await node.ask(post(b"x"))
    assert (await client.read_answer()).body == b"once"
    node.pipeline.requests[0][2].answer(b"late")
    await client.send(post(b"y"))
    assert (await client.read_answer()).body == b"once"


async def test_connection_close_is_honoured(node: Node) -> None:
    node.pipeline.keep()
    client = await node.ask(post(b"x", "Connection: close") + post(b"ignored"))
    await wait_until(lambda: node.pipeline.requests)
    node.pipeline.requests[0][2].answer(b"done")
    answer = await client.read_answer()
    assert (answer.body, answer.headers["connection"]) == (b"done", "close")
    assert await client.read_to_end() == b""
    assert len(node.pipeline.requests) == 1


async def test_http_1_0(node: Node) -> None:
    client = await node.ask(post(b"x", version="1.0"))
    assert (await client.read_answer()).headers["connection"] == "close"
    assert await client.read_to_end() == b""

    client = await node.ask(post(b"x", "Connection: keep-alive", version="1.0"))
    assert (await client.read_answer()).headers["connection"] == "keep-alive"
    await client.send(post(b"y", "Connection: keep-alive", version="1.0"))
    assert (await client.read_answer()).body == b"re:y"


async def test_expectation_is_met_when_its_turn_comes(node: Node) -> None:
    node.pipeline.keep()
    whole = post(b"body", "Expect: 100-continue")
    client = await node.ask(post(b"first") + whole[:-4])
    await wait_until(lambda: node.pipeline.requests)
    node.pipeline.requests[0][2].answer(b"one")
    assert (await client.read_answer()).body == b"one"
    assert (await client.read_answer()).status == 100
    await client.send(whole[-4:])
    await wait_until(lambda: len(node.pipeline.requests) == 2)
    node.pipeline.requests[1][2].answer(b"two")
    assert (await client.read_answer()).body == b"two"


async def test_expectation_with_its_body_needs_no_interim_answer(node: Node) -> None:
    client = await node.ask(post(b"x", "Expect: 100-continue"))
    assert (await client.read_answer()).status == 200


async def test_refused_expectation_gets_its_final_answer(node: Node) -> None:
    client = await node.ask(post(b"body", "Expect: 100-continue", token="no")[:-4])
    assert (await client.read_answer()).status == 401


@limits(pipelined_max=3)
async def test_pipelining_is_bounded(strict_node: Node) -> None:
    node = strict_node
    node.pipeline.keep()
    client = await node.ask(b"".join(post(b"%d" % number) for number in range(10)))
    for number in range(10):
        taken = min(number + 3, 10)
        await wait_until(lambda: len(node.pipeline.requests) == taken)  # noqa: B023 - awaited here
        (connection,) = node.server._connections
        assert connection._paused == (number < 7)
        node.pipeline.requests[number][2].answer(b"re:%d" % number)
        assert (await client.read_answer()).body == b"re:%d" % number
    await client.send(post(b"more"))
    await wait_until(lambda: len(node.pipeline.requests) == 11)


@limits(pipelined_max=2)
async def test_error_behind_requests_that_wait_for_their_turn(strict_node: Node) -> None:
    node = strict_node
    client = await node.ask(b"".join(post(b"%d" % number) for number in range(5)) + b"garbage\n")
    assert [(await client.read_answer()).body for _ in range(5)] == [
        b"re:%d" % number for number in range(5)
    ]
    assert (await client.read_answer()).status == 400


@limits(connections_max=2)
async def test_connections_are_bounded(strict_node: Node) -> None:
    node = strict_node
    first = await node.ask(post(b"a"))
    await first.read_answer()
    second = await node.ask(post(b"b"))
    await second.read_answer()
    third = await node.connect()
    answer = await third.read_answer()
    assert (answer.status, answer.headers["connection"]) == (503, "close")
    assert await third.read_to_end() == b""
    assert node.server.connections_refused == 1
    first.close()
    await wait_until(lambda: node.server.connections_open == 1)
    fourth = await node.ask(post(b"d"))
    assert (await fourth.read_answer()).status == 200


@limits(header_s=0.05, body_s=30.0)
@pytest.mark.parametrize("sent", [b"P", b"POST / HTTP/1.1\r\nHost: a\r\n", post(b"")[:-1]])
async def test_head_that_never_ends(strict_node: Node, sent: bytes) -> None:
    client = await strict_node.ask(sent)
    assert (await client.read_answer()).status == 408
    assert await client.read_to_end() == b""


@limits(header_s=0.2)
async def test_head_that_trickles_in(strict_node: Node) -> None:
    client = await strict_node.connect()

    async def trickle() -> None:
        while True:
            await client.send(b"POST / HTTP/1.1\r\n" if not client.writer.is_closing() else b"")
            await client.send(b"X: y\r\n")
            await asyncio.sleep(0.01)

    task = asyncio.create_task(trickle())
    status = (await client.read_answer()).status
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert status in (400, 408)


@limits(body_s=0.05)
async def test_body_that_never_ends(strict_node: Node) -> None:
    node = strict_node
    client = await node.ask(post(b"body")[:-1])
    assert (await client.read_answer()).status == 408
    assert await client.read_to_end() == b""
    assert node.pipeline.requests == []


@limits(header_s=0.05)
async def test_connection_without_a_request_is_closed(strict_node: Node) -> None:
    client = await strict_node.connect()
    assert await client.read_to_end() == b""
    await wait_until(lambda: strict_node.server.connections_open == 0)


@limits(idle_s=0.05)
async def test_idle_connection_is_closed(strict_node: Node) -> None:
    node = strict_node
    client = await node.ask(post(b"x"))
    assert (await client.read_answer()).status == 200
    # Line ends between requests are allowed, but they are no request.
    await client.send(b"\r\n")
    assert await client.read_to_end() == b""


@limits(idle_s=0.02, header_s=0.02, body_s=0.02)
async def test_waiting_for_the_pipeline_is_not_idling(strict_node: Node) -> None:
    node = strict_node
    node.pipeline.keep()
    client = await node.ask(post(b"x"))
    await wait_until(lambda: node.pipeline.requests)
    start = node.server.now
    await wait_until(lambda: node.server.now > start + 0.1)
    node.pipeline.requests[0][2].answer(b"late")
    assert (await client.read_answer()).body == b"late"


async def connect_deaf(node: Node) -> socket.socket:
    """A client whose answers pile up in the server, since nobody reads and no kernel buffers."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", node.server.port))
    await wait_until(lambda: node.server.connections_open == 1)
    (connection,) = node.server._connections
    server_sock = connection._transport.get_extra_info("socket")
    server_sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    return sock


@limits(write_s=0.05, pipelined_max=4)
async def test_client_that_does_not_read_is_cut(strict_node: Node) -> None:
    node = strict_node
    node.pipeline.answer = lambda body, exchange: exchange.answer(b"x" * 32_000)
    sock = await connect_deaf(node)
    loop = asyncio.get_running_loop()
    # Others are served all the while.
    other = await node.connect()
    sender = asyncio.create_task(loop.sock_sendall(sock, post(b"x") * 2000))
    await wait_until(lambda: node.server.requests)
    await other.send(post(b"x"))
    assert len((await other.read_answer()).body) == 32_000
    await wait_until(lambda: node.server.connections_open == 1, "the cut")
    assert node.server.requests < 2000
    sender.cancel()
    await asyncio.gather(sender, return_exceptions=True)
    sock.close()


@limits(write_buffer_bytes_max=200_000)
async def test_unread_answers_are_bounded(strict_node: Node) -> None:
    node = strict_node
    node.pipeline.keep()
    sock = await connect_deaf(node)
    await asyncio.get_running_loop().sock_sendall(sock, post(b"x") * 60)
    await wait_until(lambda: len(node.pipeline.requests) == 60)
    for _, _, exchange in node.pipeline.requests:
        exchange.answer(b"x" * 40_000)
    await wait_until(lambda: not node.server.connections_open, "the cut")
    sock.close()


@limits(pipelined_max=4)
async def test_client_that_reads_late_gets_everything(strict_node: Node) -> None:
    node = strict_node
    node.pipeline.answer = lambda body, exchange: exchange.answer(body * 30_000)
    sock = await connect_deaf(node)
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(sock, post(b"x") * 8)
    (connection,) = node.server._connections
    await wait_until(lambda: connection._write_blocked)
    assert connection._paused
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    received = 0
    while received < 8 * 30_000:
        received += (await loop.sock_recv(sock, 1 << 20)).count(b"x")
    await wait_until(lambda: not connection._paused)
    sock.close()


async def test_client_that_closes_its_half_is_still_answered(node: Node) -> None:
    node.pipeline.keep()
    client = await node.ask(post(b"x"))
    client.writer.write_eof()
    await wait_until(lambda: node.pipeline.requests)
    (connection,) = node.server._connections
    await wait_until(lambda: connection._eof)
    node.pipeline.requests[0][2].answer(b"done")
    assert (await client.read_answer()).body == b"done"
    assert await client.read_to_end() == b""
    await wait_until(lambda: node.server.connections_open == 0)


@pytest.mark.parametrize("sent", [b"", b"POST / HT", post(b"body")[:-2]])
async def test_client_that_leaves_half_way(node: Node, sent: bytes) -> None:
    client = await node.ask(sent)
    await wait_until(lambda: node.server.connections_open == 1)
    client.close()
    await wait_until(lambda: node.server.connections_open == 0)
    assert node.pipeline.requests == []
    assert node.server.errors == {}


async def test_exchange_knows_that_its_client_has_gone(node: Node) -> None:
    node.pipeline.keep()
    client = await node.ask(post(b"a") + post(b"b"))
    await wait_until(lambda: len(node.pipeline.requests) == 2)
    client.reset()
    await wait_until(lambda: node.server.connections_open == 0)
    for _, _, exchange in node.pipeline.requests:
        assert exchange.closed
        exchange.answer(b"nobody hears it")
        exchange.refuse(400, "nobody hears it")


async def test_drain_answers_what_is_in_flight(node: Node) -> None:
    node.pipeline.keep()
    idle = await node.connect()
    busy = await node.ask(post(b"a") + post(b"b"))
    half = await node.ask(post(b"half")[:-2])
    await wait_until(lambda: len(node.pipeline.requests) == 2)
    await wait_until(lambda: node.server.connections_open == 3)
    await wait_until(lambda: any(c._phase == BODY for c in node.server._connections))
    port = node.server.port
    drain = asyncio.create_task(node.server.drain(10))
    assert await idle.read_to_end() == b""
    with pytest.raises(OSError):
        await RawClient.connect(port)
    await busy.send(post(b"too late"))
    node.pipeline.requests[0][2].answer(b"re:a")
    first = await busy.read_answer()
    assert (first.body, first.headers.get("connection")) == (b"re:a", None)
    node.pipeline.requests[1][2].answer(b"re:b")
    second = await busy.read_answer()
    assert (second.body, second.headers["connection"]) == (b"re:b", "close")
    assert not drain.done()
    await half.send(b"lf")
    await wait_until(lambda: len(node.pipeline.requests) == 3)
    node.pipeline.requests[2][2].answer(b"re:half")
    third = await half.read_answer()
    assert (third.body, third.headers["connection"]) == (b"re:half", "close")
    await drain
    assert node.server.connections_open == 0
    assert node.server.requests == 3


async def test_drain_ends_by_force(node: Node) -> None:
    node.pipeline.keep()
    client = await node.ask(post(b"x"))
    await wait_until(lambda: node.pipeline.requests)
    await node.server.drain(0.01)
    assert node.server.connections_open == 0
    assert node.pipeline.requests[0][2].closed
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await client.read_answer()


async def test_two_servers_share_a_port(node: Node) -> None:
    second = Node()
    second.server = IlpHttpServer(
        authenticate=second.pipeline.accounts.get,
        receive_prepare=second.pipeline.receive_prepare,
        limits=ServerLimits(**QUICK),
    )
    await second.server.start("127.0.0.1", node.server.port)
    for _ in range(64):
        client = await node.ask(post(b"x"))
        assert (await client.read_answer()).status == 200
    assert node.server.requests + second.server.requests == 64
    assert node.server.requests
    assert second.server.requests
    await second.server.drain(0)


async def test_socket_that_is_bound_already() -> None:
    node = Node()
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        node.server = IlpHttpServer(
            authenticate=node.pipeline.accounts.get, receive_prepare=node.pipeline.receive_prepare
        )
        await node.server.start(sock=sock)
        client = await node.ask(post(b"x"))
        assert (await client.read_answer()).status == 200
        await node.close()


async def test_port_in_use(node: Node) -> None:
    other = IlpHttpServer(
        authenticate=node.pipeline.accounts.get, receive_prepare=node.pipeline.receive_prepare
    )
    with pytest.raises(OSError):
        await other.start("127.0.0.1", node.server.port, reuse_port=False)
    await other.drain(0)
