"""The two neighbours of a node, both of which remember everything.

Each packet carries its own fulfillment as data, and its amount is nobody else's, so it can be
followed through both neighbours and the ledger.
"""

import asyncio
import itertools
import time
from hashlib import sha256
from typing import Final

import msgspec

from connector.packets.expiry import format_expiry
from connector.packets.ilp import (
    Fulfill,
    Prepare,
    Reject,
    decode_prepare,
    decode_reply,
    encode_fulfill,
    encode_prepare,
)
from tests.support.raw_http import RawClient, post
from tests.support.stub_peer import StubConnection, StubPeer, StubRequest, http_answer

EXPIRES_IN_MS: Final = 6000
# A sender that is refused tries again, and leaves the machine to the others meanwhile.
PAUSE_S: Final = 0.02


def wall_ms() -> int:
    return time.time_ns() // 1_000_000


class Sent(msgspec.Struct):
    """One packet that went to the node.

    status - HTTP's, 0 = the connection ended without an answer; times in ms since the epoch.
    """

    amount: int
    expires_at_ms: int
    status: int = 0
    answer: Fulfill | Reject | None = None
    answered_at_ms: int = 0

    @property
    def fulfilled(self) -> bool:
        return isinstance(self.answer, Fulfill)

    @property
    def in_time(self) -> bool:
        return self.answered_at_ms < self.expires_at_ms

    @property
    def code(self) -> str:
        """The error code of a Reject; else ``fulfilled``, or ``none`` without an answer."""
        match self.answer:
            case Reject():
                return self.answer.code
            case Fulfill():
                return "fulfilled"
            case None:
                return "none"

    @property
    def message(self) -> str:
        assert isinstance(self.answer, Reject), self.code
        return self.answer.message


class Sender:
    """A previous hop. One packet at a time on each connection, as many connections as it takes."""

    def __init__(self, port: int, token: str, first_amount: int = 10_001) -> None:
        self.port = port
        self.token = token
        self.amounts = itertools.count(first_amount)
        self.sent: list[Sent] = []
        self._idle: list[RawClient] = []
        self._busy: set[RawClient] = set()

    async def send(
        self,
        destination: str,
        amount: int | None = None,
        *,
        expires_in_ms: int = EXPIRES_IN_MS,
        data: bytes | None = None,
    ) -> Sent:
        """Send one packet and wait for what becomes of it.

        amount - None: the next one that nobody has used. Raises: OSError - no connection to be had.
        """
        if amount is None:
            amount = next(self.amounts)
        client = self._idle.pop() if self._idle else await RawClient.connect(self.port)
        sent = Sent(amount, wall_ms() + expires_in_ms)
        self.sent.append(sent)
        self._busy.add(client)
        fulfillment = fulfillment_of(amount, destination)
        prepare = encode_prepare(
            amount,
            format_expiry(sent.expires_at_ms),
            sha256(fulfillment).digest(),
            destination,
            fulfillment if data is None else data,
        )
        try:
            await client.send(post(prepare, token=self.token))
            answer = await client.read_answer()
        except (ConnectionError, asyncio.IncompleteReadError):
            client.close()
        else:
            sent.answered_at_ms = wall_ms()
            sent.status = answer.status
            if answer.status == 200:
                sent.answer = decode_reply(answer.body)
            if answer.status == 200 and answer.headers.get("connection") != "close":
                self._idle.append(client)
            else:
                client.close()
        finally:
            self._busy.discard(client)
        if isinstance(sent.answer, Fulfill):
            assert sent.answer.fulfillment == fulfillment
        return sent

    def start(
        self,
        destination: str,
        amount: int | None = None,
        *,
        expires_in_ms: int = EXPIRES_IN_MS,
    ) -> asyncio.Task[Sent]:
        """Send one packet in the background."""
        return asyncio.create_task(self.send(destination, amount, expires_in_ms=expires_in_ms))

    async def flow(
        self, destination: str, stop: asyncio.Event, *, expires_in_ms: int = EXPIRES_IN_MS
    ) -> None:
        """Send packet after packet until told to stop, or until the node takes none."""
        while not stop.is_set():
            try:
                sent = await self.send(destination, expires_in_ms=expires_in_ms)
            except OSError:
                return
            if not sent.fulfilled:
                await asyncio.sleep(PAUSE_S)

    def hang_up(self) -> None:
        """Cut every connection on which an answer is due."""
        for client in self._busy:
            client.reset()

    def forget_connections(self) -> None:
        """Use new connections from now on."""
        for client in self._idle:
            client.close()
        self._idle.clear()

    async def close(self) -> None:
        clients = [*self._idle, *self._busy]
        for client in clients:
            client.close()
        await asyncio.gather(
            *(client.writer.wait_closed() for client in clients), return_exceptions=True
        )

    def amounts_with(self, *codes: str) -> set[int]:
        """The amounts above 0 of packets with one of these outcomes, see ``Sent.code``."""
        return {sent.amount for sent in self.sent if sent.code in codes and sent.amount}

    @property
    def fulfilled(self) -> set[int]:
        return self.amounts_with("fulfilled")

    @property
    def unanswered(self) -> set[int]:
        return self.amounts_with("none")

    @property
    def rejected(self) -> set[int]:
        return {sent.amount for sent in self.sent if isinstance(sent.answer, Reject)}


class Receiver(StubPeer):
    """A next hop that fulfils, once ``go`` is set; another ``handler`` may do as it likes."""

    def __init__(self, port: int = 0) -> None:
        super().__init__(self.fulfil, port=port)
        self.go = asyncio.Event()
        self.go.set()
        self.seen: list[Prepare] = []
        self.fulfilled: list[int] = []
        """Amounts, in the receiver's own asset."""

    async def fulfil(self, connection: StubConnection, request: StubRequest) -> None:
        prepare = self.take(request)
        await self.go.wait()
        self.fulfilled.append(prepare.amount)
        await connection.send(http_answer(encode_fulfill(prepare.data)))

    def take(self, request: StubRequest) -> Prepare:
        """What came, remembered."""
        prepare = decode_prepare(request.body)
        self.seen.append(prepare)
        return prepare


def fulfillment_of(amount: int, destination: str) -> bytes:
    return sha256(f"{destination} {amount}".encode()).digest()
