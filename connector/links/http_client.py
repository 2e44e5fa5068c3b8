"""ILP over HTTP, outwards: Prepares go to peers as POST requests over pooled connections.

Owns the connections to next hops. Each packet handed over is reported exactly once: a reply, or a
``LinkFailure``. A packet is written to one connection, once: from then on a failure is CUT, since
the next hop may have acted; before, another connection is tried until the packet's time is up.
Nothing here knows what a packet means.

Spec: RFC 9110, RFC 9112; Interledger RFC 0035, in its synchronous form.
"""

import asyncio
import ssl
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from math import inf
from typing import Any, Final, cast

import httptools
import msgspec
import structlog

from connector.directory import Peer
from connector.errors import ConfigError, InvalidInput
from connector.links.endpoint import Endpoint, parse_endpoint
from connector.ports import LinkClient, LinkFailure

log = structlog.get_logger(__name__)

# Where a connection stands in the answer it reads.
BETWEEN: Final = 0
HEAD: Final = 1
BODY: Final = 2
BODY_UNTIL_CLOSE: Final = 3

# Interim answers (1xx) that may precede a final one.
INTERIM_MAX: Final = 4
BODILESS_STATUSES: Final = frozenset((204, 304))


class ClientLimits(msgspec.Struct, frozen=True):
    """Bounds on what one worker does towards its peers; times in seconds, sizes in bytes.

    connections_max, connecting_max, waiting_max - for each peer: open connections, attempts at a
    time, packets that wait for a connection; connecting_all_max - attempts to all peers together;
    idle_s - after it a connection is not used again, since the peer may be closing it just then;
    retry_s_min, retry_s_max - pause after a failed attempt, doubled each time; slow_answer_s - a
    pipelined connection whose oldest answer takes longer gets no more packets; sweep_s - how exact
    deadlines are.
    """

    connections_max: int = 1024
    connecting_max: int = 32
    connecting_all_max: int = 128
    waiting_max: int = 2000
    idle_s: float = 4.0
    connect_s: float = 5.0
    retry_s_min: float = 0.1
    retry_s_max: float = 2.0
    slow_answer_s: float = 0.1
    header_bytes_max: int = 16_384
    body_bytes_max: int = 40_000
    sweep_s: float = 0.1


class Request(msgspec.Struct, gc=False):
    """One packet on its way to a peer. Deadlines in monotonic seconds."""

    packet: Any
    data: bytes
    connect_until: float
    reply_until: float
    written_at: float = 0.0
    reported: bool = False


class _InvalidAnswer(Exception):
    """Raised in a parser callback: the answer breaks a rule or a bound."""


class PeerConnection(asyncio.Protocol):
    """One connection to a peer: requests out, answers in, in the same order."""

    def __init__(self, pool: "PeerPool") -> None:
        self._pool = pool
        self._limits = pool.limits
        self._transport: asyncio.Transport
        self._parser = httptools.HttpResponseParser(self)
        self.outstanding: deque[Request] = deque()

        # What the pool needs to know.
        self.closed = False
        self.retired = False  # carries no new packets, since the peer's configuration changed
        self.listed = False  # among those with room for another packet
        self.slow = False  # no pipelining before it is empty again
        self.usable_until = inf

        # Answers that the bytes being parsed have completed, and what the last one said.
        self._replies: list[tuple[int, bytes]] = []
        self._persist = True

        # The answer that is being read.
        self._state = BETWEEN
        self._status = 0
        self._head_fed = 0
        self._head_bytes = 0
        self._interim = 0
        self._sized = False
        self._keep_alive = True
        self._idle_s = self._limits.idle_s
        self._body: bytes | bytearray = b""

    # Connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self.usable_until = self._pool.now() + self._limits.idle_s
        self._pool.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is None and self._state == BODY_UNTIL_CLOSE and not self.closed:
            self.on_message_complete()
            self._deliver(sound=True)
        self._give_up(LinkFailure.CUT)
        del self._parser  # the two refer to each other
        self._pool.forget(self)

    @property
    def is_usable(self) -> bool:
        return not self.closed and not self._transport.is_closing()

    def close(self) -> None:
        """Close; packets without an answer are CUT."""
        if not self.closed:
            self._transport.close()
            self._give_up(LinkFailure.CUT)

    def abort(self) -> None:
        """Close at once, whatever is still to be written."""
        self._transport.abort()
        self._give_up(LinkFailure.CUT)

    def give_up_overdue(self, now: float) -> None:
        """Report packets whose time is up; close when nobody waits for anything here any more."""
        overdue = [request for request in self.outstanding if request.reply_until <= now]
        if overdue and all(request.reply_until <= now for request in self.outstanding):
            self.abort()
        for request in overdue:
            self._pool.report_failure(request, LinkFailure.CUT)

    def _give_up(self, first: LinkFailure) -> None:
        """End all that is outstanding: the answer being read with ``first``, the others CUT."""
        self.closed = True
        outstanding, self.outstanding = self.outstanding, deque()
        failure = first
        for request in outstanding:
            self._pool.report_failure(request, failure)
            failure = LinkFailure.CUT

    # Requests

    def write(self, request: Request, now: float) -> None:
        """Write a packet: from here on it can only be answered or CUT."""
        request.written_at = now
        self.usable_until = inf
        self.outstanding.append(request)
        data = request.data
        try:
            self._transport.write(b"%b%d\r\n\r\n%b" % (self._pool.head, len(data), data))
        except (OSError, RuntimeError):
            self._transport.abort()

    # Answers

    def data_received(self, data: bytes) -> None:
        if self.closed:
            return
        state = self._state
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._deliver(sound=False)
            return
        if self._state == HEAD and (state == HEAD or not self._replies):
            # The parser keeps a header to itself until its last byte is there.
            self._head_fed += len(data)
            if self._head_fed > self._limits.header_bytes_max:
                self._deliver(sound=False)
                return
        # Bytes that begin no answer come from a peer that is out of step.
        if self._replies or not self.outstanding:
            self._deliver(sound=bool(self.outstanding))

    def on_message_begin(self) -> None:
        if len(self._replies) >= len(self.outstanding):
            raise _InvalidAnswer
        self._state = HEAD
        self._head_fed = 0
        self._head_bytes = 0
        self._sized = False
        self._idle_s = self._limits.idle_s
        self._body = b""

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_bytes += len(name) + len(value) + 4
        if self._head_bytes > self._limits.header_bytes_max:
            raise _InvalidAnswer
        name = name.lower()
        if name == b"content-length":
            self._sized = True
            if int(value) > self._limits.body_bytes_max:
                raise _InvalidAnswer
        elif name == b"transfer-encoding":
            self._sized = True
        elif name == b"keep-alive":
            self._idle_s = min(self._idle_s, _keep_alive_s(value))

    def on_headers_complete(self) -> None:
        self._status = status = self._parser.get_status_code()
        self._keep_alive = self._parser.should_keep_alive()
        if status < 200:
            self._interim += 1
            if self._interim > INTERIM_MAX:
                raise _InvalidAnswer
        elif not self._sized and status not in BODILESS_STATUSES:
            self._state = BODY_UNTIL_CLOSE
            return
        self._state = BODY

    def on_body(self, body: bytes) -> None:
        if len(self._body) + len(body) > self._limits.body_bytes_max:
            raise _InvalidAnswer
        if not self._body:
            self._body = body
        elif isinstance(self._body, bytearray):
            self._body += body
        else:
            self._body = bytearray(self._body + body)

    def on_message_complete(self) -> None:
        self._state = BETWEEN
        if self._status >= 200:
            self._interim = 0
            self._persist = self._keep_alive
            self._replies.append((self._status, bytes(self._body)))

    def _deliver(self, *, sound: bool) -> None:
        """Report the answers that are complete, once it is known what follows them.

        Only then may the connection carry another packet: the rest of the same bytes must not be
        taken for its answer. sound - nothing did follow that should not have.
        """
        replies, self._replies = self._replies, []
        answered = [(self.outstanding.popleft(), *reply) for reply in replies]
        if sound and self._persist and not self.retired and self._idle_s > 0:
            if not self.outstanding:
                self.usable_until = self._pool.now() + self._idle_s
            self._pool.release(self)
        elif not sound or not self._persist or not self.outstanding:
            self._transport.close()
            broken = not sound and (self._persist or not replies)
            self._give_up(LinkFailure.HTTP_ERROR if broken else LinkFailure.CUT)
        for request, status, body in answered:
            if status == 200 and body:
                self._pool.report_reply(request, body)
            else:
                self._pool.report_failure(request, LinkFailure.HTTP_ERROR)


class PeerPool:
    """The connections to one peer, and the packets that wait for one.

    Counters, plain integers: ``in_flight`` (packets handed over and not yet reported), and, only
    growing, ``connects``, ``connect_failures``, ``unreachable``, ``cuts``, ``http_errors``.
    """

    def __init__(self, links: "HttpLinks", peer: Peer) -> None:
        self._links = links
        self.limits = links.limits
        self.now = links.now
        self.connections: set[PeerConnection] = set()
        # Those with room for another packet; the most recently used comes last and is used first.
        self._free: list[PeerConnection] = []
        self._waiting: deque[Request] = deque()
        self._connecting = 0
        self._retry_s = 0.0
        self._retry_at = -inf
        self._endpoint: Endpoint | None = None
        self.head = b""
        self.removed = False

        self.in_flight = 0
        self.connects = 0
        self.connect_failures = 0
        self.unreachable = 0
        self.cuts = 0
        self.http_errors = 0
        self.peer = peer
        self._depth = peer.pipeline_depth
        self._read_address()

    def configure(self, peer: Peer) -> None:
        """Take over a peer's new configuration."""
        old, self.peer = self.peer, peer
        if self.removed or (
            (old.endpoint, old.outgoing_token, old.pipeline_depth)
            != (peer.endpoint, peer.outgoing_token, peer.pipeline_depth)
        ):
            self.removed = False
            self._depth = peer.pipeline_depth
            self._read_address()
            self.retire()
            if self._endpoint is None:
                self.refuse_waiting()

    def remove(self) -> None:
        """The peer is gone: what is in flight may finish."""
        self.removed = True
        self._endpoint = None
        self.retire()
        self.refuse_waiting()

    def retire(self) -> None:
        """Use no connection for another packet; close those that carry none."""
        self._retry_at = -inf
        self._free.clear()
        for connection in tuple(self.connections):
            connection.retired = True
            connection.listed = False
            if not connection.outstanding:
                connection.close()

    def _read_address(self) -> None:
        self._endpoint = None
        if self.peer.endpoint is None:
            return
        try:
            endpoint = parse_endpoint(self.peer.endpoint)
            self.head = _request_head(endpoint, self.peer.outgoing_token)
        except InvalidInput as error:
            log.warning("peer_endpoint_unusable", peer=repr(self.peer), reason=str(error))
        else:
            self._endpoint = endpoint

    # Packets

    def take(self, now: float) -> PeerConnection | None:
        """A connection to write one packet to, which has to follow."""
        free = self._free
        while free:
            connection = free[-1]
            outstanding = len(connection.outstanding)
            if not connection.is_usable:
                pass  # its end is on the way, and reports what it carries
            elif connection.usable_until <= now:
                connection.close()
            elif (
                outstanding
                and now - connection.outstanding[0].written_at > self.limits.slow_answer_s
            ):
                connection.slow = True
            else:
                if outstanding + 1 >= self._depth:
                    free.pop()
                    connection.listed = False
                return connection
            free.pop()
            connection.listed = False
        return None

    def release(self, connection: PeerConnection) -> None:
        """A connection has room again."""
        outstanding = len(connection.outstanding)
        if not outstanding:
            connection.slow = False
        if not connection.listed and not connection.slow and outstanding < self._depth:
            connection.listed = True
            self._free.append(connection)
        if self._waiting:
            self._serve()

    def queue(self, request: Request, now: float) -> None:
        """Let a packet wait for a connection."""
        if self._endpoint is None or len(self._waiting) >= self.limits.waiting_max:
            self._links.loop.call_soon(self.report_failure, request, LinkFailure.UNREACHABLE)
        else:
            self._waiting.append(request)
            self._grow(now)

    def refuse_waiting(self) -> None:
        for request in self._waiting:
            self._links.loop.call_soon(self.report_failure, request, LinkFailure.UNREACHABLE)
        self._waiting.clear()

    def report_reply(self, request: Request, body: bytes) -> None:
        if not request.reported:
            request.reported = True
            self.in_flight -= 1
            self._links.report_reply(request.packet, body)

    def report_failure(self, request: Request, failure: LinkFailure) -> None:
        if request.reported:
            return
        request.reported = True
        self.in_flight -= 1
        if failure is LinkFailure.CUT:
            self.cuts += 1
        elif failure is LinkFailure.HTTP_ERROR:
            self.http_errors += 1
        else:
            self.unreachable += 1
        self._links.report_failure(request.packet, failure)

    def _serve(self) -> None:
        now = self.now()
        while self._waiting:
            if self._waiting[0].connect_until <= now:
                self.report_failure(self._waiting.popleft(), LinkFailure.UNREACHABLE)
                continue
            connection = self.take(now)
            if connection is None:
                self._grow(now)
                return
            connection.write(self._waiting.popleft(), now)

    # Connections

    def _grow(self, now: float) -> None:
        """Open as many connections as the waiting packets need and the bounds allow."""
        limits = self.limits
        while (
            len(self._waiting) > self._connecting * self._depth
            and self._connecting < limits.connecting_max
            and len(self.connections) + self._connecting < limits.connections_max
            and now >= self._retry_at
            and self._endpoint is not None
            and self._links.start_connecting(self._connect(self._endpoint))
        ):
            self._connecting += 1

    async def _connect(self, endpoint: Endpoint) -> None:
        links = self._links
        connection: PeerConnection | None = None
        try:
            async with asyncio.timeout(self.limits.connect_s):
                _, connection = await links.loop.create_connection(
                    lambda: PeerConnection(self),
                    endpoint.host,
                    endpoint.port,
                    ssl=links.ssl_context if endpoint.tls else None,
                    ssl_shutdown_timeout=self.limits.connect_s if endpoint.tls else None,
                )
        except (OSError, UnicodeError) as error:
            self._connect_failed(error)
        finally:
            self._connecting -= 1
        if connection is not None:
            self._connected(connection, endpoint)

    def _connected(self, connection: PeerConnection, endpoint: Endpoint) -> None:
        self.connects += 1
        self._retry_s = 0.0
        self._retry_at = -inf
        if endpoint is not self._endpoint or self._links.closing:
            connection.close()
        elif connection.is_usable:
            self.release(connection)

    def _connect_failed(self, error: Exception) -> None:
        now = self.now()
        self.connect_failures += 1
        # Attempts that ran side by side and failed together count as one.
        if now < self._retry_at:
            return
        if not self._retry_s:
            log.warning(
                "peer_unreachable", peer=repr(self.peer), reason=str(error) or type(error).__name__
            )
        self._retry_s = min(
            max(self._retry_s * 2, self.limits.retry_s_min), self.limits.retry_s_max
        )
        self._retry_at = now + self._retry_s

    def forget(self, connection: PeerConnection) -> None:
        """A connection is closed."""
        self.connections.discard(connection)
        self._links.connection_gone()
        if self._waiting:
            self._grow(self.now())

    def sweep(self, now: float) -> None:
        """Give up what is overdue, close what has been idle too long, try to connect again."""
        for connection in tuple(self.connections):
            if connection.outstanding:
                connection.give_up_overdue(now)
            elif connection.usable_until <= now:
                connection.close()
        if self._waiting:
            overdue = [request for request in self._waiting if request.connect_until <= now]
            if overdue:
                self._waiting = deque(r for r in self._waiting if r.connect_until > now)
            for request in overdue:
                self.report_failure(request, LinkFailure.UNREACHABLE)
            self._serve()


class HttpLinks:
    """The way out to all peers, for one worker. Implements ``ports.Links``."""

    def __init__(
        self,
        client: LinkClient,
        *,
        limits: ClientLimits | None = None,
        ca_file: str | None = None,
        ssl_context: ssl.SSLContext | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Be ready to send; to be called in the running loop.

        client - told what became of each packet, never from inside ``send``; ca_file - certificates
        (PEM) trusted besides the system's; ssl_context - replaces both.

        Raises: ConfigError - the CA file cannot be read.
        """
        self._client = client
        self.limits = limits or ClientLimits()
        self.ssl_context = ssl_context or _load_ssl_context(ca_file)
        self.now = clock
        self.loop = asyncio.get_running_loop()
        self.closing = False
        self.pools: dict[int, PeerPool] = {}
        self._connecting: set[asyncio.Task[None]] = set()
        self._progress = asyncio.Event()
        self._sweeper = self.loop.call_later(self.limits.sweep_s, self._sweep)

    def send(
        self, peer: Peer, data: bytes, packet: Any, connect_until: float, reply_until: float
    ) -> None:
        """Send a packet; see ``ports.Links``. The peer's newest configuration is used."""
        pool = self.pools.get(peer.id)
        if pool is None:
            pool = self.pools[peer.id] = PeerPool(self, peer)
        request = Request(packet, data, connect_until, reply_until)
        pool.in_flight += 1
        now = self.now()
        connection = pool.take(now)
        if connection is not None:
            connection.write(request, now)
        elif self.closing:
            self.loop.call_soon(pool.report_failure, request, LinkFailure.UNREACHABLE)
        else:
            pool.queue(request, now)

    def update(self, peers: Iterable[Peer]) -> None:
        """The directory has changed: new endpoints and tokens hold for every packet from now on."""
        known = {peer.id: peer for peer in peers}
        for peer_id, pool in self.pools.items():
            peer = known.get(peer_id)
            if peer is None:
                pool.remove()
            elif pool.removed or peer is not pool.peer:
                pool.configure(peer)
        self._drop_removed()

    async def close(self, timeout_s: float) -> None:
        """Send nothing more, wait for answers, then cut what is left."""
        self.closing = True
        for pool in self.pools.values():
            pool.refuse_waiting()
            pool.retire()
        connecting = tuple(self._connecting)
        for task in connecting:
            task.cancel()
        await asyncio.gather(*connecting, return_exceptions=True)
        try:
            async with asyncio.timeout(timeout_s):
                await self._wait_until_gone()
        except TimeoutError:
            for pool in self.pools.values():
                for connection in tuple(pool.connections):
                    connection.abort()
            await self._wait_until_gone()
        self._sweeper.cancel()

    async def _wait_until_gone(self) -> None:
        while any(pool.connections or pool.in_flight for pool in self.pools.values()):
            self._progress.clear()
            await self._progress.wait()

    # For pools

    def start_connecting(self, connecting: Coroutine[Any, Any, None]) -> bool:
        """Run an attempt to connect, unless there are too many already."""
        if self.closing or len(self._connecting) >= self.limits.connecting_all_max:
            connecting.close()
            return False
        task = self.loop.create_task(connecting)
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)
        return True

    def connection_gone(self) -> None:
        self._progress.set()

    def report_reply(self, packet: Any, body: bytes) -> None:
        try:
            self._client.receive_reply(packet, body)
        except Exception:
            log.exception("link_reply_not_taken")
        if self.closing:
            self._progress.set()

    def report_failure(self, packet: Any, failure: LinkFailure) -> None:
        try:
            self._client.receive_link_failure(packet, failure)
        except Exception:
            log.exception("link_failure_not_taken")
        if self.closing:
            self._progress.set()

    def _drop_removed(self) -> None:
        self.pools = {
            peer_id: pool
            for peer_id, pool in self.pools.items()
            if not pool.removed or pool.connections or pool.in_flight
        }

    def _sweep(self) -> None:
        self._sweeper = self.loop.call_later(self.limits.sweep_s, self._sweep)
        now = self.now()
        removed = False
        for pool in tuple(self.pools.values()):
            pool.sweep(now)
            removed = removed or pool.removed
        if removed:
            self._drop_removed()


def _request_head(endpoint: Endpoint, token: str) -> bytes:
    """A request's head up to the digits of its length."""
    if not all("!" <= character <= "~" for character in token):
        raise InvalidInput("its outgoing token has characters that no header can carry")
    authorization = f"Authorization: Bearer {token}\r\n" if token else ""
    return (
        f"POST {endpoint.target} HTTP/1.1\r\n"
        f"Host: {endpoint.host_header}\r\n"
        f"{authorization}"
        "Content-Type: application/octet-stream\r\n"
        "Accept: application/octet-stream\r\n"
        "Content-Length: "
    ).encode("ascii")


def _keep_alive_s(value: bytes) -> float:
    """How long a peer promises to keep an idle connection, less a fifth for the way there."""
    for parameter in value.lower().split(b","):
        name, _, digits = parameter.partition(b"=")
        if name.strip() == b"timeout" and digits.strip().isdigit():
            return 0.8 * int(digits.strip()[:9])
    return inf


def _load_ssl_context(ca_file: str | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if ca_file is not None:
        try:
            context.load_verify_locations(ca_file)
        except OSError as error:
            raise ConfigError(f"CA file {ca_file} cannot be read: {error}") from None
    context.set_alpn_protocols(["http/1.1"])
    return context
