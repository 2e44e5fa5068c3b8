import pytest
from hypothesis import given
from hypothesis import strategies as st

from connector.errors import DecodeError
from connector.packets.address import is_address, is_prefix, is_test, parse_address, scheme
from tests.support.packets import addresses

LONGEST = "g." + "a" * 1021


@pytest.mark.parametrize(
    "text",
    [
        "g.a",
        "g.us.acme.bob",
        "private.x",
        "example.alice",
        "peer.config",
        "self.a",
        "test.a",
        "test1.a",
        "test2.a",
        "test3.a",
        "local.a",
        "g.~-_",
        "g.Abc.0",
        LONGEST,
    ],
)
def test_addresses(text: str) -> None:
    assert is_address(text)
    assert parse_address(text) == text
    assert parse_address(text.encode()) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "g",
        "g.",
        ".g.a",
        "g..a",
        "g.a.",
        "g.a\n",
        "g.a\nb",
        "\ng.a",
        "g.a b",
        "g.a/b",
        "g.a\0",
        "G.a",
        "h.a",
        "test4.a",
        "tes.a",
        "gg.a",
        "g.é",
        "g.٣",
        "g.\u212a",  # the sign for kelvin, which lower-cases to a Latin letter
        LONGEST + "a",
    ],
)
def test_other_texts(text: str) -> None:
    assert not is_address(text)
    for form in (text, text.encode()):
        with pytest.raises(DecodeError) as caught:
            parse_address(form, "prepare.destination", 61)
        assert (caught.value.field, caught.value.offset) == ("prepare.destination", 61)


@pytest.mark.parametrize("octet", range(128, 256))
def test_bytes_above_127(octet: int) -> None:
    with pytest.raises(DecodeError):
        parse_address(b"g.a" + bytes([octet]))


@pytest.mark.parametrize(
    ("prefix", "address", "holds"),
    [
        ("g.a", "g.a", True),
        ("g.a", "g.a.b", True),
        ("g.a", "g.ab", False),
        ("g.a", "g", False),
        ("g.a", "g.b.a", False),
        ("g", "g.a", True),
        ("g", "test.a", False),
        ("test", "test1.a", False),
        ("", "g.a", True),
    ],
)
def test_prefixes_end_where_segments_end(prefix: str, address: str, holds: bool) -> None:
    assert is_prefix(prefix, address) is holds


@given(addresses, st.integers(1, 7))
def test_leading_segments_are_a_prefix(address: str, count: int) -> None:
    assert is_prefix(".".join(address.split(".")[:count]), address)


@pytest.mark.parametrize(
    ("address", "name", "test"),
    [
        ("g.a.b", "g", False),
        ("peer.config", "peer", False),
        ("test.a", "test", True),
        ("test3.a", "test3", True),
    ],
)
def test_schemes(address: str, name: str, test: bool) -> None:
    assert scheme(address) == name
    assert is_test(address) is test
