"""Longest prefix on whole segments."""

from hypothesis import given
from hypothesis import strategies as st

from connector.packets.address import is_prefix
from connector.routing.table import CACHE_ENTRIES_MAX, RoutingTable

segment = st.sampled_from(["a", "b", "ab", "c"])
address = st.lists(segment, min_size=1, max_size=4).map(lambda parts: ".".join(["g", *parts]))
prefix = st.one_of(st.just(""), st.just("g"), address)
routes = st.lists(st.tuples(prefix, st.integers(1, 5)), max_size=12)


def test_the_longest_prefix_wins() -> None:
    table = RoutingTable([("g", 1), ("g.a", 2), ("g.a.b", 3), ("", 4)])
    assert table.hops("g.a.b.c") == (3, 2, 1, 4)
    assert table.hops("g.a.b") == (3, 2, 1, 4)
    assert table.hops("g.a.c") == (2, 1, 4)
    assert table.hops("g.x") == (1, 4)
    assert table.hops("test.x") == (4,)
    assert table.match("g.a.c") == "g.a"
    assert table.match("test.x") == ""


def test_segments_are_whole() -> None:
    table = RoutingTable([("g.ab", 1), ("g.a", 2)])
    assert table.hops("g.ab.x") == (1,)
    assert table.hops("g.abc") == ()
    assert table.hops("g.abc.x") == ()
    assert table.hops("g.a-b.x") == ()
    assert table.match("g.abc") is None


def test_equal_prefixes_keep_their_order() -> None:
    table = RoutingTable([("g.a", 3), ("g.a", 1), ("g.a", 3), ("g.a", 2)])
    assert table.hops("g.a.x") == (3, 1, 2)
    assert table.routes == {"g.a": (3, 1, 2)}


def test_an_empty_table_knows_nothing() -> None:
    assert RoutingTable(()).hops("g.a") == ()
    assert RoutingTable(()).match("g.a") is None


def test_a_prefix_that_is_someones_last_segment_is_not_shared() -> None:
    """g.a.b and g.a.c share a parent, which is what is remembered; g.a.b is itself a prefix."""
    table = RoutingTable([("g.a", 1), ("g.a.b", 2)])
    for _ in range(2):
        assert table.hops("g.a.c") == (1,)
        assert table.hops("g.a.b") == (2, 1)
        assert table.hops("g.a") == (1,)
        assert table.hops("g.a.b.c") == (2, 1)


@given(routes, st.lists(address, max_size=20))
def test_it_agrees_with_the_definition(
    found: list[tuple[str, int]], destinations: list[str]
) -> None:
    table = RoutingTable(found)
    for destination in destinations + destinations[::-1]:
        covering = [(p, hop) for p, hop in found if is_prefix(p, destination)]
        by_length = sorted(covering, key=lambda route: -len(route[0]))
        assert table.hops(destination) == tuple(dict.fromkeys(hop for _, hop in by_length))
        longest = max((p for p, _ in covering), key=len, default=None)
        assert table.match(destination) == longest


def test_strangers_cannot_grow_the_cache() -> None:
    table = RoutingTable([("g", 1)])
    for number in range(3 * CACHE_ENTRIES_MAX):
        assert table.hops(f"g.{number}.x") == (1,)
    assert len(table._cache) <= CACHE_ENTRIES_MAX
