"""Load generator: packets to one node over keep-alive connections, as fast as asked.

``python -m tests.bench.load --help``. Runs as a process of its own and prints one JSON object.
Only Fulfills count as packets; everything else is counted by its code.
"""

import argparse
import asyncio
import json
import time
from collections import Counter, deque
from hashlib import sha256
from typing import Any, cast

import uvloop

from connector.packets.expiry import format_expiry
from connector.packets.ilp import encode_prepare

FULFILLMENT = b"jirani benchmark fulfillment 32b"
CONDITION = sha256(FULFILLMENT).digest()
EXPIRES_IN_MS = 20_000


class Template:
    """One request with holes for the expiry, filled afresh twice a second."""

    def __init__(self, token: str, destination: str, amount: int, data_bytes: int) -> None:
        self._token = token
        self._packet = (amount, CONDITION, destination, bytes(data_bytes))
        self._until = 0.0
        self._request = b""

    def request(self) -> bytes:
        now = time.time()
        if now > self._until:
            self._until = now + 0.5
            amount, condition, destination, data = self._packet
            expires_at = format_expiry(int(now * 1000) + EXPIRES_IN_MS)
            body = encode_prepare(amount, expires_at, condition, destination, data)
            self._request = (
                b"POST / HTTP/1.1\r\nHost: bench\r\nContent-Type: application/octet-stream\r\n"
                b"Authorization: Bearer %s\r\nContent-Length: %d\r\n\r\n"
                % (self._token.encode(), len(body))
            ) + body
        return self._request


class Results:
    """What came back, while ``measuring``."""

    def __init__(self) -> None:
        self.measuring = False
        self.fulfills: Counter[str] = Counter()
        self.others: Counter[str] = Counter()
        self.latencies: list[float] = []

    def take(self, token: str, body: memoryview, latency: float) -> None:
        if not self.measuring:
            return
        if body and body[0] == 13:
            self.fulfills[token] += 1
            self.latencies.append(latency)
        else:
            self.others[bytes(body[2:5]).decode("ascii", "replace")] += 1


class Connection(asyncio.Protocol):
    """Keeps ``depth`` requests outstanding (closed loop), or sends what it is told to."""

    def __init__(self, token: str, template: Template, depth: int, results: Results) -> None:
        self.token = token
        self.template = template
        self.depth = depth
        self.results = results
        self.closed_loop = True
        self.sent: deque[float] = deque()
        self.transport: asyncio.Transport
        self.buffer = b""
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = True

    def send(self, count: int) -> None:
        now = time.perf_counter()
        self.sent.extend([now] * count)
        self.transport.write(self.template.request() * count)

    def data_received(self, data: bytes) -> None:
        buffer = self.buffer + data if self.buffer else data
        at = 0
        answered = 0
        now = time.perf_counter()
        view = memoryview(buffer)
        while True:
            head_end = buffer.find(b"\r\n\r\n", at)
            if head_end < 0:
                break
            head = buffer[at:head_end].lower()
            length_at = head.index(b"content-length:") + 15
            line_end = head.find(b"\r\n", length_at)
            length = int(head[length_at : line_end if line_end >= 0 else None])
            end = head_end + 4 + length
            if end > len(buffer):
                break
            if head.startswith(b"http/1.1 200"):
                self.results.take(self.token, view[head_end + 4 : end], now - self.sent.popleft())
            else:
                self.sent.popleft()
                self.results.others["HTTP " + head[9:12].decode()] += 1
            answered += 1
            at = end
        self.buffer = buffer[at:]
        if answered and self.closed_loop:
            self.send(answered)


def percentile(values: list[float], share: float) -> float:
    return values[min(int(len(values) * share), len(values) - 1)] if values else 0.0


async def connect(options: argparse.Namespace, results: Results) -> list[Connection]:
    """Open the connections, each with its share of the packets in flight."""
    loop = asyncio.get_running_loop()
    host, _, port = options.node.rpartition(":")
    connections: list[Connection] = []
    for index in range(options.connections):
        token = options.token[index % len(options.token)]
        template = Template(token, options.destination, options.amount, options.data_bytes)
        share, rest = divmod(options.in_flight, options.connections)
        connection = Connection(token, template, share + (index < rest), results)
        connection.closed_loop = options.rate == 0
        await loop.create_connection(lambda made=connection: made, host, int(port))  # type: ignore[misc]
        connections.append(connection)
    return connections


async def run(options: argparse.Namespace) -> None:
    results = Results()
    connections = await connect(options, results)
    paced = asyncio.create_task(pace(connections, options)) if options.rate else None
    for connection in connections:
        if paced is None and connection.depth:
            connection.send(connection.depth)
    await asyncio.sleep(options.warmup)
    print("measuring", flush=True)
    results.measuring = True
    elapsed = await measure(options, results, connections)
    results.measuring = False
    print(json.dumps(report(results, elapsed)), flush=True)
    if paced is not None:
        paced.cancel()
    await finish(connections)


async def measure(
    options: argparse.Namespace, results: Results, connections: list[Connection]
) -> float:
    """Wait for the time or the packets asked for; returns the seconds it took."""
    started = time.perf_counter()
    while True:
        await asyncio.sleep(0.02)
        elapsed = time.perf_counter() - started
        enough = options.packets and results.fulfills.total() >= options.packets
        if enough or elapsed >= options.seconds or all(c.lost for c in connections):
            return elapsed


async def finish(connections: list[Connection]) -> None:
    """Let what is outstanding come back, for a while."""
    for connection in connections:
        connection.closed_loop = False
    for _ in range(250):
        if not any(c.sent and not c.lost for c in connections):
            break
        await asyncio.sleep(0.02)


def report(results: Results, elapsed: float) -> dict[str, Any]:
    latencies = sorted(results.latencies)
    total = results.fulfills.total()
    return {
        "seconds": round(elapsed, 3),
        "fulfills": total,
        "per_second": round(total / elapsed, 1),
        "by_token": dict(results.fulfills),
        "others": dict(results.others),
        "p50_ms": round(percentile(latencies, 0.50) * 1000, 2),
        "p99_ms": round(percentile(latencies, 0.99) * 1000, 2),
    }


async def pace(connections: list[Connection], options: argparse.Namespace) -> None:
    """Open loop: ``rate`` packets a second, whatever comes back; a full window drops its turn."""
    started = time.perf_counter()
    offered = 0
    turn = 0
    while True:
        await asyncio.sleep(0.001)
        due = int((time.perf_counter() - started) * options.rate) - offered
        offered += due
        for _ in range(due):
            connection = connections[turn % len(connections)]
            turn += 1
            if len(connection.sent) < options.in_flight:
                connection.send(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--node", default="127.0.0.1:3002", help="host:port of the node")
    parser.add_argument("--token", action="append", required=True, help="repeat for more peers")
    parser.add_argument("--destination", default="test.sink.bench")
    parser.add_argument("--amount", type=int, default=10)
    parser.add_argument("--data-bytes", type=int, default=72)
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--in-flight", type=int, default=64, help="over all connections")
    parser.add_argument("--rate", type=int, default=0, help="packets/s offered; 0 = closed loop")
    parser.add_argument("--warmup", type=float, default=1.0, help="seconds before measuring")
    parser.add_argument("--seconds", type=float, default=5.0, help="seconds measured")
    parser.add_argument("--packets", type=int, default=0, help="stop after so many fulfils")
    options = parser.parse_args()
    uvloop.run(run(options))


if __name__ == "__main__":
    main()
