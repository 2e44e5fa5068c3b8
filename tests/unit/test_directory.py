"""The snapshots that the packet path reads."""

import math

from connector.directory import EMPTY, NO_RATES, Asset, Directory, Peer, RateTable
from connector.money import ONE, Ratio

USD = Asset(1, "a", "USD", 2, 1)
USD9 = Asset(2, "a", "USD", 9, 2)
EUR = Asset(3, "a", "EUR", 2, 3)
THEIRS = Asset(4, "b", "EUR", 2, 4)


def peer(peer_id: int, address: str, asset: Asset = USD, *routes: str) -> Peer:
    return Peer(peer_id, asset.tenant_id, asset, address, routes=routes)


def test_peers_are_found_by_id_and_token() -> None:
    bob = peer(10, "test.bob")
    directory = Directory(5, {"a": "test.node"}, [bob], {b"bob": 10, b"gone": 11}, [USD])
    assert directory.version == 5
    assert directory.addresses == {"a": "test.node"}
    assert directory.peers == {10: bob}
    assert directory.assets == {1: USD}
    # A token of a peer that was removed meanwhile opens nothing.
    assert directory.by_token == {b"bob": bob}


def test_each_tenant_routes_to_its_own_peers() -> None:
    directory = Directory(
        1,
        {},
        [peer(12, "test.bob"), peer(11, "test.bob", EUR, "test"), peer(13, "test.bob", THEIRS)],
        {},
    )
    assert directory.tables["a"].hops("test.bob.x") == (11, 12)
    assert directory.tables["a"].hops("test.other") == (11,)
    assert directory.tables["b"].hops("test.bob.x") == (13,)
    assert directory.tables["b"].hops("test.other") == ()
    assert EMPTY.tables == {}


def test_a_peer_is_shown_without_its_token() -> None:
    shown = Peer(1, "a", USD, "test.bob", name="bob", outgoing_token="open-sesame")
    assert repr(shown) == "Peer(bob)"
    assert "sesame" not in f"{shown} {[shown]}"


def test_rates_hold_until_they_are_too_old() -> None:
    table = RateTable({("USD", "EUR"): Ratio(9, 10)}, {"USD": 100.0})
    assert table.ratio(USD, EUR, 99.0) == Ratio(9, 10)
    assert table.ratio(USD, EUR, 100.0) == Ratio(9, 10)
    assert table.ratio(USD, EUR, 100.1) is None
    assert table.ratio(USD9, EUR, 99.0) == Ratio(9, 10**8)
    assert table.ratio(EUR, USD, 99.0) is None


def test_one_currency_needs_no_rate() -> None:
    assert NO_RATES.ratio(USD, USD, 0.0) == ONE
    assert NO_RATES.ratio(USD, USD9, math.inf) == Ratio(10**7, 1)
    assert NO_RATES.ratio(USD9, USD, 0.0) == Ratio(1, 10**7)
    assert NO_RATES.ratio(EUR, THEIRS, 0.0) == ONE
    assert NO_RATES.ratio(USD, EUR, 0.0) is None
