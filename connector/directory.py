"""Frozen snapshots of what the packet path needs to know: peers, assets, routes, rates.

``connector.accounts`` loads them from Postgres and swaps a whole snapshot at once; nothing in here
changes after it was built, does IO, or knows a clock.
"""

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from connector.money import ONE, Ratio, rescale
from connector.routing.table import RoutingTable


class Asset(msgspec.Struct, frozen=True, gc=False):
    """One asset of one tenant.

    id - the UUID as an unsigned 128-bit integer, also the id of its liquidity account;
    ledger - 1..32767; liquidity_threshold - smallest units, None = not watched.
    """

    id: int
    tenant_id: str
    code: str
    scale: int
    ledger: int
    liquidity_threshold: int | None = None


class RateLimit(msgspec.Struct, frozen=True, gc=False):
    """A token bucket that holds for a peer over all workers.

    per_second - tokens that flow in (packets, or smallest units of the peer's asset);
    burst - how many the bucket holds.
    """

    per_second: int
    burst: int


class Peer(msgspec.Struct, frozen=True):
    """One peer.

    id - UUID as u128, also its ledger account; endpoint - None for a peer that only sends to us;
    max_packet_amount - what one packet from this peer may carry, 0 = no limit; max_in_flight -
    packets on their way to this peer, for each worker; max_in_flight_amount - their sum, in its
    own units, 0 = no limit; pipeline_depth - requests on one connection before the first answer.
    """

    id: int
    tenant_id: str
    asset: Asset
    static_ilp_address: str
    name: str = ""
    routes: tuple[str, ...] = ()
    endpoint: str | None = None
    outgoing_token: str = ""
    max_packet_amount: int = 0
    packet_limit: RateLimit | None = None
    amount_limit: RateLimit | None = None
    max_in_flight: int = 1000
    max_in_flight_amount: int = 0
    pipeline_depth: int = 1
    liquidity_threshold: int | None = None

    def __repr__(self) -> str:
        """Without the token: this text ends in logs."""
        return f"Peer({self.name or self.static_ilp_address})"


class RateTable:
    """Rates between currencies, as far as they are known."""

    def __init__(
        self, rates: Mapping[tuple[str, str], Ratio], valid_until: Mapping[str, float]
    ) -> None:
        """Keep the rates of one moment.

        rates - (base code, quote code) -> units of quote for one unit of base, scales left aside;
        valid_until - monotonic seconds for each base: older rates are not used.
        """
        self.rates = rates
        self.valid_until = valid_until
        self._ratios: dict[tuple[int, int], Ratio] = {}

    def ratio(self, source: Asset, destination: Asset, now: float) -> Ratio | None:
        """Destination units for one source unit, or None if no usable rate is known."""
        same = source.code == destination.code
        if not same and now > self.valid_until.get(source.code, 0.0):
            return None
        key = (source.id, destination.id)
        ratio = self._ratios.get(key)
        if ratio is None:
            rate = ONE if same else self.rates.get((source.code, destination.code))
            if rate is None:
                return None
            ratio = self._ratios[key] = rescale(rate, source.scale, destination.scale)
        return ratio


NO_RATES: Final = RateTable({}, {})


class Directory:
    """Everything about peers at one moment.

    addresses - the node's own ILP address for each tenant.
    """

    def __init__(
        self,
        version: int,
        addresses: Mapping[str, str],
        peers: Iterable[Peer],
        tokens: Mapping[bytes, int],
        assets: Iterable[Asset] = (),
    ) -> None:
        """Index the peers.

        tokens - SHA-256 of an incoming token -> peer id; version - grows with each change.
        """
        self.version = version
        self.addresses = dict(addresses)
        self.peers = {peer.id: peer for peer in peers}
        self.assets = {asset.id: asset for asset in assets}
        self.by_token = {
            digest: self.peers[peer_id]
            for digest, peer_id in tokens.items()
            if peer_id in self.peers
        }
        self.tables = {
            tenant_id: RoutingTable(
                (prefix, peer.id)
                for peer in sorted(self.peers.values(), key=lambda peer: peer.id)
                if peer.tenant_id == tenant_id
                for prefix in (peer.static_ilp_address, *peer.routes)
            )
            for tenant_id in {peer.tenant_id for peer in self.peers.values()}
        }


EMPTY: Final = Directory(0, {}, (), {})
