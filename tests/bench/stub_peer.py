"""The fastest next hop: answers every request with the same Fulfill, looking at nothing else.

``python -m tests.bench.stub_peer --port 4000``. It finds the end of a request by its length only,
so that its own cost stays small beside the node's.
"""

import argparse
import asyncio
import signal
from typing import cast

import uvloop

from connector.packets.ilp import encode_fulfill
from tests.bench.load import FULFILLMENT

BODY = encode_fulfill(FULFILLMENT)
ANSWER = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: %d\r\n\r\n"
    % len(BODY)
) + BODY


class Stub(asyncio.Protocol):
    """One connection of the node's."""

    def __init__(self, delay: float) -> None:
        self.delay = delay
        self.buffer = b""
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        buffer = self.buffer + data if self.buffer else data
        at = answers = 0
        while True:
            head_end = buffer.find(b"\r\n\r\n", at)
            if head_end < 0:
                break
            head = buffer[at:head_end].lower()
            length_at = head.index(b"content-length:") + 15
            line_end = head.find(b"\r\n", length_at)
            end = head_end + 4 + int(head[length_at : line_end if line_end >= 0 else None])
            if end > len(buffer):
                break
            answers += 1
            at = end
        self.buffer = buffer[at:]
        if answers and self.delay:
            asyncio.get_running_loop().call_later(self.delay, self._answer, answers)
        elif answers:
            self._answer(answers)

    def _answer(self, answers: int) -> None:
        if not self.transport.is_closing():
            self.transport.write(ANSWER * answers)


async def run(port: int, delay: float) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Stub(delay), "127.0.0.1", port, backlog=4096)
    print(f"listening on {server.sockets[0].getsockname()[1]}", flush=True)
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    await stop.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--delay-ms", type=float, default=0.0, help="before each answer")
    options = parser.parse_args()
    uvloop.run(run(options.port, options.delay_ms / 1000))


if __name__ == "__main__":
    main()
