"""Assets, peers and tokens as operators see them. Secrets are not among them. Pure."""

from datetime import datetime
from uuid import UUID

import msgspec
from msgspec import UNSET, UnsetType

from connector.directory import Asset, RateLimit


class AssetRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One asset; thresholds in smallest units, None = not watched."""

    id: UUID
    tenant_id: UUID
    code: str
    scale: int
    ledger: int
    liquidity_threshold: int | None = None
    withdrawal_threshold: int | None = None
    created_at: datetime | None = None
    deleted_at: datetime | None = None

    @property
    def name(self) -> str:
        return f"{self.code}/{self.scale}"

    def to_asset(self) -> Asset:
        """The same asset as the packet path knows it."""
        return Asset(
            self.id.int,
            str(self.tenant_id),
            self.code,
            self.scale,
            self.ledger,
            self.liquidity_threshold,
        )


class AssetChanges(msgspec.Struct, frozen=True, kw_only=True):
    """What to change of an asset; what is unset stays."""

    liquidity_threshold: int | UnsetType | None = UNSET
    withdrawal_threshold: int | UnsetType | None = UNSET


class PeerRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One peer; units and meaning as in ``directory.Peer``."""

    id: UUID
    tenant_id: UUID
    asset: AssetRecord
    static_ilp_address: str
    name: str = ""
    outgoing_endpoint: str | None = None
    routes: tuple[str, ...] = ()
    max_packet_amount: int = 0
    liquidity_threshold: int | None = None
    packet_limit: RateLimit | None = None
    amount_limit: RateLimit | None = None
    max_in_flight: int = 1000
    max_in_flight_amount: int = 0
    pipeline_depth: int = 1
    incoming_tokens: int = 0
    created_at: datetime | None = None
    deleted_at: datetime | None = None


class PeerChanges(msgspec.Struct, frozen=True, kw_only=True):
    """What to set of a new peer, or to change of an old one; what is unset stays.

    outgoing_endpoint and outgoing_token: both or none on a new peer; None takes both away; a token
    alone replaces the token; routes replaces them all.
    """

    name: str | UnsetType = UNSET
    static_ilp_address: str | UnsetType = UNSET
    outgoing_endpoint: str | UnsetType | None = UNSET
    outgoing_token: str | UnsetType = UNSET
    routes: tuple[str, ...] | UnsetType = UNSET
    max_packet_amount: int | UnsetType = UNSET
    liquidity_threshold: int | UnsetType | None = UNSET
    packet_limit: RateLimit | UnsetType | None = UNSET
    amount_limit: RateLimit | UnsetType | None = UNSET
    max_in_flight: int | UnsetType = UNSET
    max_in_flight_amount: int | UnsetType = UNSET
    pipeline_depth: int | UnsetType = UNSET

    def __repr__(self) -> str:
        """Without the token: this text ends in logs."""
        return "PeerChanges(...)"


class TokenRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One incoming token: never the token itself."""

    id: UUID
    peer_id: UUID
    created_at: datetime


class BalanceRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What one account holds, in smallest units.

    kind - asset, peer or settlement; name - the peer's or the asset's; balance - what can be spent
    now; pending_in, pending_out - held credits (not spendable yet) and held debits (gone already).
    """

    kind: str
    id: str
    name: str
    asset_code: str
    asset_scale: int
    balance: int
    pending_in: int
    pending_out: int
