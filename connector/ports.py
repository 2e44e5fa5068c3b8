"""What the packet path needs from outside, as protocols; ``node.py`` wires the classes in."""

from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Any, Protocol

from connector.directory import Peer
from connector.ledger.ledger import Transfer


class Exchange(Protocol):
    """One request of a previous hop, waiting for its one reply."""

    closed: bool
    """The previous hop is gone: nothing can be answered any more."""

    def answer(self, packet: bytes) -> None:
        """Send an ILP Fulfill or Reject back. Called at most once; harmless when closed."""

    def refuse(self, status: int, message: str) -> None:
        """Send a plain HTTP error back: what came was no ILP packet."""


class LinkFailure(IntEnum):
    """Why a packet that was handed to a link has no ILP reply."""

    UNREACHABLE = 1
    """No connection could be had in time; no byte was written."""

    CUT = 2
    """The connection failed after bytes were written: the next hop may have acted."""

    HTTP_ERROR = 3
    """The next hop answered with something other than 200, or no ILP packet's size or type."""


class LinkClient(Protocol):
    """Who is told what became of a packet sent. Exactly one call for each packet."""

    def receive_reply(self, packet: Any, body: bytes) -> None:
        """The body of a 200 answer, not yet decoded."""

    def receive_link_failure(self, packet: Any, failure: LinkFailure) -> None: ...


class Links(Protocol):
    """The way out to peers."""

    def send(
        self, peer: Peer, data: bytes, packet: Any, connect_until: float, reply_until: float
    ) -> None:
        """Send a packet to a peer, never twice once a byte of it was written.

        Units: connect_until, reply_until - monotonic seconds; before the first, another connection
        is tried as long as nothing was written; after the second the connection is given up.
        """


class LedgerQueue(Protocol):
    """The way to the ledger for the packet path: chains in, outcomes back, no awaiting."""

    @property
    def silent(self) -> bool:
        """A request has been outstanding for too long: hold no more."""

    def submit(
        self, chain: Sequence[Transfer], done: Callable[[Any, int, int], None], packet: Any
    ) -> None:
        """Queue one chain; it goes out with the next request.

        ``done(packet, leg, status)`` is called once, with a definite answer: the leg that decided
        (0 if the chain was applied) and its ``TransferStatus``.
        """


class Quota(Protocol):
    """What is left of a peer's limit in this worker."""

    def take(self, amount: int) -> bool:
        """Use up ``amount`` tokens, all or nothing."""
