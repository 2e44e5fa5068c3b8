"""The routing table: longest prefix on whole segments. Pure and immutable.

A prefix ends where a segment ends: ``g.ab`` is not under ``g.a``. Spec: RFC 15, RFC 27.
"""

from collections.abc import Iterable, Mapping
from typing import Final

# Destinations are chosen by strangers, so what is remembered about them is bounded.
CACHE_ENTRIES_MAX: Final = 10_000


class RoutingTable:
    """Prefixes and the next hops that claim them.

    The empty prefix is the default route. ``hops`` answers with every next hop whose prefix covers
    the destination, the longest prefix first, and in order of preference where prefixes are equal,
    so that a caller who must skip one (the sender) takes the next.
    """

    def __init__(self, routes: Iterable[tuple[str, int]]) -> None:
        """Build from (prefix, next hop id) pairs; those of one prefix in order of preference."""
        by_prefix: dict[str, list[int]] = {}
        for prefix, next_hop in routes:
            hops = by_prefix.setdefault(prefix, [])
            if next_hop not in hops:
                hops.append(next_hop)
        self._by_prefix = {prefix: tuple(hops) for prefix, hops in by_prefix.items()}
        self._cache: dict[str, tuple[int, ...]] = {}

    @property
    def routes(self) -> Mapping[str, tuple[int, ...]]:
        """Every prefix with its next hops, best first."""
        return self._by_prefix

    def hops(self, destination: str) -> tuple[int, ...]:
        """The next hops for an address, best first; empty if there is no route.

        Addresses under one parent share their answer, unless one of them is itself a prefix:
        that makes the last segment, which senders vary freely, irrelevant to the cache.
        """
        if destination in self._by_prefix:
            return self._walk(destination)
        parent = destination[: destination.rfind(".")]
        hops = self._cache.get(parent)
        if hops is None:
            hops = self._walk(parent)
            if len(self._cache) >= CACHE_ENTRIES_MAX:
                self._cache.clear()
            self._cache[parent] = hops
        return hops

    def match(self, destination: str) -> str | None:
        """The longest prefix that covers an address, for people who ask why."""
        return next((p for p in _prefixes(destination) if p in self._by_prefix), None)

    def _walk(self, address: str) -> tuple[int, ...]:
        found: dict[int, None] = {}
        for prefix in _prefixes(address):
            for hop in self._by_prefix.get(prefix, ()):
                found.setdefault(hop)
        return tuple(found)


def _prefixes(address: str) -> Iterable[str]:
    """The address, then each shorter prefix that ends at a segment, then the default route."""
    while address:
        yield address
        address = address[: max(address.rfind("."), 0)]
    yield ""
