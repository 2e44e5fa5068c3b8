"""ILP addresses (RFC 15): grammar, prefixes on whole segments, allocation schemes."""

import re

from connector.errors import DecodeError

ADDRESS_BYTES_MAX = 1023

# fullmatch, never match with "$", which would let a trailing newline pass.
_match = re.compile(
    r"(?:g|private|example|peer|self|test[1-3]?|local)(?:\.[A-Za-z0-9_~-]++)++"
).fullmatch
_TEST_SCHEMES = frozenset(("test", "test1", "test2", "test3"))


def is_address(text: str) -> bool:
    """Say whether ``text`` is an address: a known scheme and at least one segment."""
    return len(text) <= ADDRESS_BYTES_MAX and _match(text) is not None


def parse_address(text: bytes | str, field: str = "address", offset: int = 0) -> str:
    """Read an address. Raises DecodeError if it is none."""
    # Bytes above 127 become characters that the grammar does not know.
    address = text if isinstance(text, str) else text.decode("latin-1")
    if len(address) > ADDRESS_BYTES_MAX or _match(address) is None:
        raise DecodeError(field, offset, "not an ILP address")
    return address


def is_prefix(prefix: str, address: str) -> bool:
    """Say whether ``address`` is ``prefix`` or lies under it.

    ``g.a`` holds ``g.a.b``, not ``g.ab``; the empty prefix has no segments and holds every address.
    """
    return not prefix or address == prefix or address.startswith(prefix + ".")


def scheme(address: str) -> str:
    """Return the allocation scheme: what stands before the first dot."""
    return address.partition(".")[0]


def is_test(address: str) -> bool:
    """Say whether the address belongs to a test network (RFC 34: a node is on test or live)."""
    return scheme(address) in _TEST_SCHEMES
