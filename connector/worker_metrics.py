"""What one worker counts, as metric families. Read only when asked; the hot path just adds."""

from collections.abc import Iterable, Mapping
from typing import Any
from uuid import UUID

from connector.directory import Asset, Peer
from connector.ledger.accounts import balance
from connector.ledger.batcher import Batcher
from connector.ledger.ledger import Account as LedgerAccount
from connector.links.http_client import HttpLinks
from connector.links.http_server import IlpHttpServer
from connector.metrics import Family
from connector.pipeline import Account, Pipeline

Samples = list[tuple[dict[str, str], Any]]

COUNTS_BY_PEER = (
    ("prepares", "jirani_prepares_received", "Prepares that came from this peer"),
    ("sent", "jirani_prepares_sent", "Prepares that went to this peer"),
    ("unacknowledged", "jirani_unacknowledged", "Fulfills whose sender had hung up"),
    ("answered_late", "jirani_answered_late", "Fulfills answered after the sender's expiry"),
    ("late_fulfils", "jirani_late_fulfils", "Fulfills from this peer after the decision"),
    ("uncertain_out", "jirani_uncertain_out", "Packets cut off after they were sent"),
)
AMOUNTS_BY_PEER = (
    ("fulfilled_amount", "jirani_received_amount", "Fulfilled, from this peer, smallest units"),
    ("sent_fulfilled_amount", "jirani_sent_amount", "Fulfilled, to this peer, smallest units"),
    ("unacknowledged_amount", "jirani_unacknowledged_amount", "Their amounts"),
    ("answered_late_amount", "jirani_answered_late_amount", "Their amounts"),
    ("late_fulfil_amount", "jirani_late_fulfils_amount", "Their amounts"),
    ("uncertain_out_amount", "jirani_uncertain_out_amount", "Their amounts"),
)


def pipeline_families(pipeline: Pipeline) -> list[Family]:
    """Packets, amounts and latencies."""
    accounts = list(pipeline.accounts.values())
    families = [
        _by_peer(name, "counter", text, accounts, field) for field, name, text in COUNTS_BY_PEER
    ]
    families += [
        Family(
            name,
            "counter",
            text,
            [(_peer(a.peer) | _asset(a.peer.asset), getattr(a, field)) for a in accounts],
        )
        for field, name, text in AMOUNTS_BY_PEER
    ]
    families += [
        Family("jirani_answers", "counter", "Replies given to this peer", _results(accounts)),
        Family(
            "jirani_sent_answers", "counter", "Replies got from this peer", _sent_results(accounts)
        ),
        _by_peer(
            "jirani_in_flight", "gauge", "Packets on the way to this peer", accounts, "in_flight"
        ),
        _single("jirani_in_flight_packets", "gauge", "Packets in flight", pipeline.in_flight),
        _single(
            "jirani_undecodable", "counter", "Requests without a Prepare", pipeline.undecodable
        ),
        _single("jirani_late_bookings", "counter", "Posts booked late", pipeline.late_bookings),
        _single("jirani_alarms", "counter", "Faults an operator must look at", pipeline.alarms),
        _single("jirani_reserve_seconds", "histogram", "Arrival to hold", pipeline.reserve_latency),
        _single("jirani_send_seconds", "histogram", "Sent to answered", pipeline.send_latency),
        _single("jirani_post_seconds", "histogram", "Fulfill to post", pipeline.post_latency),
        _single("jirani_packet_seconds", "histogram", "Arrival to answer", pipeline.whole_latency),
    ]
    return families


def ledger_families(batcher: Batcher) -> list[Family]:
    return [
        Family(
            "jirani_ledger_batch_events",
            "histogram",
            "Transfers a request",
            [({}, batcher.batch_events)],
            unit="size",
        ),
        _single("jirani_ledger_request_seconds", "histogram", "A ledger request", batcher.latency),
        _single("jirani_ledger_queue", "gauge", "Chains waiting for a request", batcher.depth),
        _single("jirani_ledger_silent", "gauge", "1: no answer for a second", int(batcher.silent)),
        _single("jirani_ledger_failures", "counter", "Requests repeated", batcher.failures),
    ]


def server_families(server: IlpHttpServer) -> list[Family]:
    errors: Samples = [({"status": str(status)}, n) for status, n in server.errors.items()]
    return [
        _single("jirani_connections", "gauge", "Connections from peers", server.connections_open),
        _single("jirani_connections_opened", "counter", "Since start", server.connections_opened),
        _single("jirani_connections_refused", "counter", "Too many", server.connections_refused),
        _single("jirani_requests", "counter", "Well-framed requests", server.requests),
        Family("jirani_http_errors", "counter", "Requests answered with an HTTP error", errors),
    ]


def links_families(links: HttpLinks) -> list[Family]:
    pools = list(links.pools.values())
    families = [
        Family(name, "counter", text, [(_peer(pool.peer), getattr(pool, field)) for pool in pools])
        for field, name, text in (
            ("connects", "jirani_link_connects", "Connections made to this peer"),
            ("connect_failures", "jirani_link_connect_failures", "Attempts that failed"),
            ("unreachable", "jirani_link_unreachable", "Packets that found no connection"),
            ("cuts", "jirani_link_cuts", "Packets whose connection was lost"),
            ("http_errors", "jirani_link_http_errors", "Packets answered with no ILP packet"),
        )
    ]
    open_now: Samples = [(_peer(pool.peer), len(pool.connections)) for pool in pools]
    families.append(Family("jirani_link_connections", "gauge", "Connections to a peer", open_now))
    return families


def balance_families(
    peers: Iterable[Peer], assets: Iterable[Asset], accounts: Mapping[int, LedgerAccount]
) -> list[Family]:
    """Balances as last read from the ledger; every worker reads the same ones."""
    samples: Samples = [
        (_peer(peer) | _asset(peer.asset), balance(accounts[peer.id]))
        for peer in peers
        if peer.id in accounts
    ]
    liquidity: Samples = [
        (_asset(asset) | {"tenant": asset.tenant_id}, balance(accounts[asset.id]))
        for asset in assets
        if asset.id in accounts
    ]
    return [
        Family("jirani_peer_balance", "gauge", "What we owe a peer", samples, "first"),
        Family("jirani_asset_liquidity", "gauge", "Our own liquidity", liquidity, "first"),
    ]


def _peer(peer: Peer) -> dict[str, str]:
    return {"peer": peer.name or peer.static_ilp_address, "peer_id": str(UUID(int=peer.id))}


def _asset(asset: Asset) -> dict[str, str]:
    return {"asset": asset.code, "scale": str(asset.scale)}


def _single(name: str, kind: Any, text: str, value: Any) -> Family:
    return Family(name, kind, text, [({}, value)])


def _by_peer(name: str, kind: Any, text: str, accounts: list[Account], field: str) -> Family:
    return Family(name, kind, text, [(_peer(a.peer), getattr(a, field)) for a in accounts])


def _results(accounts: list[Account]) -> Samples:
    return [
        sample
        for account in accounts
        for sample in _answers(account.peer, account.fulfills, account.rejects)
    ]


def _sent_results(accounts: list[Account]) -> Samples:
    return [
        sample
        for account in accounts
        for sample in _answers(account.peer, account.sent_fulfills, account.sent_rejects)
    ]


def _answers(peer: Peer, fulfills: int, rejects: Mapping[str, int]) -> Samples:
    labels = _peer(peer)
    samples: Samples = [(labels | {"result": "fulfill", "code": ""}, fulfills)]
    samples += [
        (labels | {"result": "reject", "code": code}, count) for code, count in rejects.items()
    ]
    return samples
