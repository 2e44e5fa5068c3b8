"""ILP over HTTP, inwards: Prepares arrive as POST requests and are answered on the same connection.

Owns the listener, its connections, and everything that is said about HTTP to a previous hop. What
is no well-framed POST of an octet stream with a known bearer token never gets past this module. It
must never log per request, echo what a client sent, or let one connection hold up another.

After an error of the client's a connection is closed, so that nothing behind a request whose
framing is in doubt is ever taken for another request. ``Exchange.refuse`` keeps it: there the
framing was sound, and other packets on the connection may be on their way.

Spec: RFC 9110, RFC 9112; Interledger RFC 0035, in its synchronous form.
"""

import asyncio
import secrets
import socket
from collections import deque
from collections.abc import Callable
from email.utils import formatdate
from http import HTTPStatus
from math import inf
from typing import Any, Final, NoReturn, cast

import httptools
import msgspec
import structlog

log = structlog.get_logger(__name__)

# Where a connection stands in the message it reads.
IDLE: Final = 0
HEAD: Final = 1
BODY: Final = 2
DEAF: Final = 3  # what else arrives is thrown away

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
OCTET_STREAM: Final = b"application/octet-stream"
# RFC 35 names the first; ilp-plugin-http sends the second.
PACKET_TYPES: Final = frozenset((OCTET_STREAM, b"application/ilp+octet-stream"))
# Headers that decide something: one that comes twice means two things to two readers.
SINGLE_HEADERS: Final = frozenset(
    (
        b"host",
        b"authorization",
        b"content-type",
        b"content-length",
        b"transfer-encoding",
        b"content-encoding",
        b"expect",
    )
)
REASONS: Final = {status.value: status.phrase.encode() for status in HTTPStatus}
EXTRA_HEADERS: Final = {
    401: b"WWW-Authenticate: Bearer\r\n",
    405: b"Allow: POST\r\n",
}


class ServerLimits(msgspec.Struct, frozen=True):
    """Bounds on what clients may do; times in seconds, sizes in bytes.

    header_bytes_max - request target and headers together; body_bytes_max - an ILP packet is at
    most 32,767 bytes of data and its envelope; header_s, body_s - from the first byte to the last;
    idle_s - between requests (the first has to begin within header_s); linger_s - how long we read
    on after the last answer, so that no reset overtakes it; write_s, write_buffer_bytes_max - a
    client that does not read its answers is cut; pipelined_max - requests of one connection being
    worked on; sweep_s - how exact all these times are.
    """

    header_bytes_max: int = 8192
    headers_max: int = 64
    body_bytes_max: int = 40_000
    header_s: float = 10.0
    body_s: float = 10.0
    idle_s: float = 75.0
    linger_s: float = 2.0
    write_s: float = 30.0
    write_buffer_bytes_max: int = 1 << 20
    connections_max: int = 2048
    pipelined_max: int = 64
    backlog: int = 1024
    sweep_s: float = 1.0


class HttpExchange:
    """One request and its one answer. Implements ``ports.Exchange``."""

    __slots__ = ("_connection", "body", "closed", "last", "status")

    def __init__(self, connection: "HttpConnection", last: bool) -> None:
        self._connection = connection
        self.last = last
        self.closed = False
        self.status = 0  # 0: not answered yet
        self.body = b""

    def answer(self, packet: bytes) -> None:
        if self.status or self.closed:
            return
        self.status = 200
        self.body = packet
        self._connection.answered(self)

    def refuse(self, status: int, message: str) -> None:
        if self.status or self.closed:
            return
        self.status = status
        self.body = message.encode()
        self._connection.server.count_error(status)
        self._connection.answered(self)


class _Refused(Exception):
    """Raised in a parser callback once the request has been refused."""


class HttpConnection(asyncio.Protocol):
    """One connection: requests in, answers out in the same order."""

    def __init__(self, server: "IlpHttpServer") -> None:
        self.server = server
        self._limits = server.limits
        self._transport: asyncio.Transport
        self._parser = httptools.HttpRequestParser(self)

        # Flow control and time.
        self._paused = False
        self._write_blocked = False
        self._eof = False
        self.deadline = inf
        self.write_deadline = inf
        self.stopping = False

        # Requests read and not yet answered, oldest first; the youngest may wait for their turn.
        self.exchanges: deque[HttpExchange] = deque()
        self._held: deque[tuple[Any, bytes, HttpExchange]] = deque()
        self.dirty = False

        # The request that is being read.
        self._phase = IDLE
        self._head_fed = 0
        self._head_bytes = 0
        self._header_count = 0
        self._headers: dict[bytes, bytes] = {}
        self._account: Any = None
        self._body: bytes | bytearray = b""
        self._continue_due = False
        self._persist_told = False

    # Connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self.deadline = self.server.now + self._limits.header_s
        if not self.server.admit(self):
            self._phase = DEAF
            self._transport.write(_render(503, b"No more connections", b"Connection: close\r\n"))
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._abandon()
        del self._parser  # the two refer to each other
        self.server.forget(self)

    def eof_received(self) -> bool:
        # A client may close its half and still wait for its answers.
        self._eof = self.stopping = True
        if self._phase != DEAF:
            self._phase = DEAF
            self._continue_due = False
            self.deadline = inf
        return bool(self.exchanges)

    def pause_writing(self) -> None:
        self._write_blocked = True
        self.write_deadline = self.server.now + self._limits.write_s
        self._regulate()

    def resume_writing(self) -> None:
        self._write_blocked = False
        self.write_deadline = inf
        self._regulate()

    def _regulate(self) -> None:
        """Stop reading while there is more than enough to do, and start again."""
        paused = self._write_blocked or bool(self._held)
        if paused == self._paused or self._transport.is_closing():
            return
        self._paused = paused
        if paused:
            self._transport.pause_reading()
            # What does not arrive now is not the client's fault.
            self.deadline = inf
        else:
            self._transport.resume_reading()
            self._restart_deadline()

    def _restart_deadline(self) -> None:
        if self._phase == BODY:
            self.deadline = self.server.now + self._limits.body_s
        elif self._phase == HEAD:
            self.deadline = self.server.now + self._limits.header_s
        elif self._phase == IDLE and not self.exchanges:
            self.deadline = self.server.now + self._limits.idle_s

    # Requests

    def data_received(self, data: bytes) -> None:
        size = self._limits.header_bytes_max
        if len(data) <= size:
            self._feed(data)
        else:
            # In slices, so that a head without an end is noticed near its limit.
            view = memoryview(data)
            for start in range(0, len(data), size):
                self._feed(view[start : start + size])

    def _feed(self, data: bytes | memoryview) -> None:
        phase = self._phase
        if phase == DEAF:
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError as error:
            if not isinstance(error.__context__, _Refused):
                self._fail(500, self.server.report(error))
        except httptools.HttpParserError:
            self._fail(400, "Malformed HTTP request")
        if phase == HEAD == self._phase:
            # The parser keeps a header to itself until its last byte is there.
            self._head_fed += len(data)
            if self._head_fed > self._limits.header_bytes_max:
                self._fail(431, "Request header too large")

    def on_message_begin(self) -> None:
        self._phase = HEAD
        self._head_fed = 0
        self._head_bytes = 0
        self._header_count = 0
        self._headers.clear()
        self._body = b""
        self.deadline = self.server.now + self._limits.header_s

    def on_url(self, url: bytes) -> None:
        self._head_bytes += len(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._header_count += 1
        self._head_bytes += len(name) + len(value) + 4
        name = name.lower()
        if name in SINGLE_HEADERS:
            if name in self._headers:
                self._refuse(400, "Header given twice")
            self._headers[name] = value

    def on_headers_complete(self) -> None:
        headers = self._headers
        limits = self._limits
        if self._head_bytes > limits.header_bytes_max or self._header_count > limits.headers_max:
            self._refuse(431, "Request header too large")
        version = self._parser.get_http_version()
        if version != "1.1" and version != "1.0":
            self._refuse(505, "HTTP/1.1 or HTTP/1.0 required")
        if self._parser.get_method() != b"POST":
            self._refuse(405, "POST required")
        if self._parser.should_upgrade():
            self._refuse(400, "Upgrade is not supported")
        if version == "1.1" and b"host" not in headers:
            self._refuse(400, "Host header required")
        self._account = self._authenticate(headers.get(b"authorization", b""))
        self._check_body(headers)
        if b"expect" in headers:
            self._expect(headers[b"expect"], version)
        self._persist_told = version == "1.0"
        self._phase = BODY
        self.deadline = self.server.now + limits.body_s

    def _check_body(self, headers: dict[bytes, bytes]) -> None:
        content_type = headers.get(b"content-type", b"")
        if content_type != OCTET_STREAM and _media_type(content_type) not in PACKET_TYPES:
            self._refuse(415, "Content-Type application/octet-stream required")
        if b"content-encoding" in headers:
            self._refuse(415, "Content-Encoding is not supported")
        # A body in chunks has no length to refuse it by: RFC 9110, 15.5.12 lets us ask for one.
        if b"content-length" not in headers:
            self._refuse(411, "Content-Length required")
        if int(headers[b"content-length"]) > self._limits.body_bytes_max:
            self._refuse(413, "Request body too large")

    def on_body(self, body: bytes) -> None:
        if not self._body:
            self._body = body
        elif isinstance(self._body, bytearray):
            self._body += body
        else:
            self._body = bytearray(self._body + body)

    def on_message_complete(self) -> None:
        if self._phase == DEAF:
            return
        server = self.server
        server.requests += 1
        self._continue_due = False
        self._phase = IDLE
        self.deadline = inf
        last = self.stopping or not self._parser.should_keep_alive()
        if last:
            self._phase = DEAF
        exchange = HttpExchange(self, last)
        self.exchanges.append(exchange)
        if len(self.exchanges) > self._limits.pipelined_max:
            self._held.append((self._account, bytes(self._body), exchange))
            self._regulate()
        else:
            server.receive(self._account, bytes(self._body), exchange)

    def _authenticate(self, value: bytes) -> Any:
        scheme, _, token = value.partition(b" ")
        token = token.strip(b" \t")
        if scheme.lower() != b"bearer" or not token:
            self._refuse(401, "Bearer token required in Authorization header")
        account = self.server.authenticate(token)
        if account is None:
            self._refuse(401, "Invalid token")
        return account

    def _expect(self, value: bytes, version: str) -> None:
        if value.strip().lower() != b"100-continue":
            self._refuse(417, "Only 100-continue can be expected")
        # RFC 9110, 10.1.1: an HTTP/1.0 client's expectation is ignored.
        self._continue_due = version == "1.1"
        self.server.touch(self)

    def _refuse(self, status: int, message: str) -> NoReturn:
        self._fail(status, message)
        raise _Refused

    def _fail(self, status: int, message: str) -> None:
        """Answer an error behind the answers that are still due, and listen no more."""
        if self._phase == DEAF:
            return
        self._phase = DEAF
        self._continue_due = False
        self.deadline = inf
        exchange = HttpExchange(self, True)
        self.exchanges.append(exchange)
        # RFC 9110, 9.3.2: an answer to HEAD has no body.
        exchange.refuse(status, "" if self._parser.get_method() == b"HEAD" else message)

    # Answers

    def answered(self, exchange: HttpExchange) -> None:
        """An exchange has its answer; it goes out at the end of this tick if it is its turn."""
        if self.exchanges[0] is exchange:
            self.server.touch(self)

    def flush(self) -> None:
        """Write all answers whose turn has come, in one go."""
        self.dirty = False
        exchanges = self.exchanges
        parts: list[bytes] = []
        last = False
        while exchanges and exchanges[0].status and not last:
            exchange = exchanges.popleft()
            last = exchange.last or (self.stopping and not exchanges)
            if exchange.status == 200 and not last and not self._persist_told:
                body = exchange.body
                parts.append(b"%b%d\r\n\r\n%b" % (self.server.head, len(body), body))
            else:
                parts.append(self._render(exchange, last))
        if self._continue_due and not exchanges:
            self._continue_due = False
            parts.append(CONTINUE)
        if parts and not self._transport.is_closing():
            self._write(parts, last)

    def _render(self, exchange: HttpExchange, last: bool) -> bytes:
        connection = b""
        if last:
            connection = b"Connection: close\r\n"
        elif self._persist_told:
            connection = b"Connection: keep-alive\r\n"
        return _render(exchange.status, exchange.body, connection)

    def _write(self, parts: list[bytes], last: bool) -> None:
        self._transport.write(parts[0] if len(parts) == 1 else b"".join(parts))
        if last:
            self._finish()
            return
        if self._write_blocked:
            pending = self._transport.get_write_buffer_size()
            if pending > self._limits.write_buffer_bytes_max:
                self._transport.abort()
                return
        if self._held:
            self._start_held()
        if self._phase == IDLE and not self.exchanges:
            self.deadline = self.server.now + self._limits.idle_s

    def _start_held(self) -> None:
        held = self._held
        while held and len(self.exchanges) - len(held) < self._limits.pipelined_max:
            self.server.receive(*held.popleft())
        self._regulate()

    def _finish(self) -> None:
        """Say goodbye; read on for a moment, lest a reset take the last answer away."""
        self._abandon()
        if self._eof:
            self._close()
            return
        self.deadline = self.server.now + self._limits.linger_s
        self._regulate()
        self._transport.write_eof()

    def _abandon(self) -> None:
        self._phase = DEAF
        self._continue_due = False
        for exchange in self.exchanges:
            exchange.closed = True
        self.exchanges.clear()
        self._held.clear()

    def _close(self) -> None:
        """Close once everything is written, or by force if that takes too long."""
        self._transport.close()
        self.deadline = self.server.now + self._limits.write_s

    # Time and drain

    def expire(self) -> None:
        """A deadline has passed."""
        if self._transport.is_closing():
            self._transport.abort()
        elif self._phase == HEAD or self._phase == BODY:
            self._fail(408, "Request not complete in time")
        else:
            self._close()

    def stop(self) -> None:
        """Take no more requests; close once those that came have been answered."""
        self.stopping = True
        if self._phase == HEAD or self._phase == BODY:
            return
        self._phase = DEAF
        if not self.exchanges:
            self._close()

    def abort(self) -> None:
        self._transport.abort()


class IlpHttpServer:
    """Listens for previous hops. One for each worker; several may share a port.

    Counters, plain integers that only grow but for the first: ``connections_open``,
    ``connections_opened``, ``connections_refused``, ``requests`` (well-framed ones that reached
    the pipeline), ``errors`` (by HTTP status).
    """

    def __init__(
        self,
        *,
        authenticate: Callable[[bytes], Any | None],
        receive_prepare: Callable[[Any, bytes, HttpExchange], None],
        limits: ServerLimits | None = None,
    ) -> None:
        """Wire the server.

        authenticate - a bearer token's bytes -> an account, or None; receive_prepare(account, body,
        exchange) - takes a request over; neither may block, and what they raise is answered 500.
        """
        self.limits = limits or ServerLimits()
        self.authenticate = authenticate
        self._receive_prepare = receive_prepare
        self._loop: asyncio.AbstractEventLoop
        self._server: asyncio.Server | None = None
        self._connections: set[HttpConnection] = set()
        self._dirty: list[HttpConnection] = []
        self._sweeper: asyncio.TimerHandle | None = None
        self._empty = asyncio.Event()
        self._draining = False
        # Time is read once a sweep, not once a request.
        self.now = 0.0
        self.head = b""

        self.connections_opened = 0
        self.connections_refused = 0
        self.requests = 0
        self.errors: dict[int, int] = {}

    @property
    def connections_open(self) -> int:
        return len(self._connections)

    @property
    def port(self) -> int:
        """The port in use, for a server that was started on port 0."""
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    async def start(
        self,
        host: str | None = None,
        port: int = 0,
        *,
        reuse_port: bool = True,
        sock: socket.socket | None = None,
    ) -> None:
        """Listen on host and port, or on a socket that is bound already.

        Raises: OSError - the address is in use or not ours.
        """
        self._loop = asyncio.get_running_loop()
        self._sweep()
        backlog = self.limits.backlog
        if sock is not None:
            self._server = await self._loop.create_server(
                lambda: HttpConnection(self), sock=sock, backlog=backlog
            )
        else:
            self._server = await self._loop.create_server(
                lambda: HttpConnection(self), host, port, reuse_port=reuse_port, backlog=backlog
            )

    async def drain(self, timeout_s: float) -> None:
        """Stop accepting, answer what is in flight, then close everything, by force at the end."""
        self._draining = True
        if self._server is not None:
            self._server.close()
        for connection in tuple(self._connections):
            connection.stop()
        try:
            async with asyncio.timeout(timeout_s):
                await self._wait_until_empty()
        except TimeoutError:
            for connection in tuple(self._connections):
                connection.abort()
            await self._wait_until_empty()
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None

    async def _wait_until_empty(self) -> None:
        while self._connections:
            self._empty.clear()
            await self._empty.wait()

    # For connections

    def admit(self, connection: HttpConnection) -> bool:
        if self._draining or len(self._connections) >= self.limits.connections_max:
            self.connections_refused += 1
            self.count_error(503)
            return False
        self.connections_opened += 1
        self._connections.add(connection)
        return True

    def forget(self, connection: HttpConnection) -> None:
        self._connections.discard(connection)
        if not self._connections:
            self._empty.set()

    def count_error(self, status: int) -> None:
        self.errors[status] = self.errors.get(status, 0) + 1

    def receive(self, account: Any, body: bytes, exchange: HttpExchange) -> None:
        """Hand a request to the pipeline, whose faults must not reach the connection."""
        try:
            self._receive_prepare(account, body, exchange)
        except Exception as error:  # noqa: BLE001 - reported, with its traceback
            exchange.refuse(500, self.report(error))

    def report(self, error: Exception) -> str:
        """Log a fault of ours under an id; returns what the client may know of it."""
        error_id = secrets.token_hex(8)
        log.error("request_failed", error_id=error_id, exc_info=error)
        return f"Internal error {error_id}"

    def touch(self, connection: HttpConnection) -> None:
        """Flush a connection at the end of this tick, once whatever the number of its answers."""
        if connection.dirty:
            return
        connection.dirty = True
        if not self._dirty:
            self._loop.call_soon(self._flush)
        self._dirty.append(connection)

    def _flush(self) -> None:
        dirty, self._dirty = self._dirty, []
        for connection in dirty:
            connection.flush()

    def _sweep(self) -> None:
        """Read the clock, and end what has taken too long."""
        self._sweeper = self._loop.call_later(self.limits.sweep_s, self._sweep)
        self.now = now = self._loop.time()
        self.head = _head(200, OCTET_STREAM, b"")
        for connection in tuple(self._connections):
            if connection.deadline <= now:
                connection.deadline = inf
                connection.expire()
            elif connection.write_deadline <= now:
                connection.abort()


def _head(status: int, content_type: bytes, extra: bytes) -> bytes:
    """An answer's head up to the digits of its length."""
    return b"HTTP/1.1 %d %b\r\nDate: %b\r\nContent-Type: %b\r\n%bContent-Length: " % (
        status,
        REASONS.get(status, b""),
        formatdate(usegmt=True).encode(),
        content_type,
        extra,
    )


def _render(status: int, body: bytes, connection: bytes) -> bytes:
    """A whole answer that is not the everyday one."""
    content_type = OCTET_STREAM if status == 200 else b"text/plain; charset=utf-8"
    head = _head(status, content_type, EXTRA_HEADERS.get(status, b"") + connection)
    return b"%b%d\r\n\r\n%b" % (head, len(body), body)


def _media_type(content_type: bytes) -> bytes:
    return content_type.partition(b";")[0].strip().lower()
