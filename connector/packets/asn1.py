"""The ASN.1 of the packets, and Canonical OER over it: the slow, executable specification.

The schema follows the modules of the RFCs (GenericTypes, InterledgerTypes, InterledgerProtocol,
InterledgerPacket, InterledgerErrorData, DynamicConfigurationProtocol), with what RFC 15 and RFC 30
say in prose written as constraints. ``encode`` and ``decode`` are generic: whoever adds a protocol
adds its types. They share no code with the fast codec, which is tested against them.

Values are int, bytes, str, and for a SEQUENCE a dict by ASN.1 identifier. pyasn1 has no types of
its own, so its objects are ``Any`` here and do not leave this module's two functions.
"""

import calendar
import string
from collections.abc import Mapping
from typing import Any

from pyasn1.error import PyAsn1Error
from pyasn1.type import char, constraint, namedtype, univ
from pyasn1.type.error import ValueConstraintError

from connector.errors import DecodeError, EncodeError

Value = int | bytes | str | Mapping[str, "Value"]

_SCHEMES = ("g", "private", "example", "peer", "self", "test", "test1", "test2", "test3", "local")


class _Rule(constraint.AbstractConstraint):  # type: ignore[misc]
    """What a standard says in prose about a value, as a predicate."""

    def _testValue(self, value: Any, idx: Any) -> None:
        if not self._values[0](value):
            raise ValueConstraintError(value)


def _is_moment(text: str) -> bool:
    """RFC 30, "Fixed-length Timestamps": digits only, each pair within the calendar."""
    if not set(text) <= set(string.digits):
        return False
    year = int(text[:4])
    month, day, hour, minute, second = (int(text[at : at + 2]) for at in range(4, 14, 2))
    return (
        1 <= month <= 12
        and 1 <= day <= calendar.monthrange(year, month)[1]
        and hour < 24
        and minute < 60
        and second < 60
    )


def _is_address(text: str) -> bool:
    """RFC 15, "Address Requirements": a known scheme, then segments, none of them empty."""
    scheme, *segments = text.split(".")
    return scheme in _SCHEMES and bool(segments) and all(segments)


def _constrained(schema: Any, *rules: Any) -> Any:
    for rule in rules:
        schema = schema.subtype(subtypeSpec=rule)
    return schema


def _sequence(**components: Any) -> Any:
    return univ.Sequence(
        componentType=namedtype.NamedTypes(
            *(namedtype.NamedType(name, schema) for name, schema in components.items())
        )
    )


# GenericTypes
UINT8 = _constrained(univ.Integer(), constraint.ValueRangeConstraint(0, 2**8 - 1))
UINT64 = _constrained(univ.Integer(), constraint.ValueRangeConstraint(0, 2**64 - 1))
UINT256 = _constrained(univ.OctetString(), constraint.ValueSizeConstraint(32, 32))

# InterledgerTypes. An empty address stands for nobody.
ADDRESS_OR_EMPTY = _constrained(
    char.IA5String(),
    constraint.ValueSizeConstraint(0, 1023),
    constraint.PermittedAlphabetConstraint(*string.ascii_letters, *string.digits, *"-._~"),
    _Rule(lambda text: not text or _is_address(text)),
)
ADDRESS = _constrained(ADDRESS_OR_EMPTY, constraint.ValueSizeConstraint(1, 1023))
TIMESTAMP = _constrained(
    char.PrintableString(), constraint.ValueSizeConstraint(17, 17), _Rule(_is_moment)
)

# InterledgerProtocol
CODE = _constrained(char.IA5String(), constraint.ValueSizeConstraint(3, 3))
MESSAGE = _constrained(char.UTF8String(), constraint.ValueSizeConstraint(0, 8191))
DATA = _constrained(univ.OctetString(), constraint.ValueSizeConstraint(0, 32767))
PREPARE = _sequence(
    amount=UINT64,
    expiresAt=TIMESTAMP,
    executionCondition=UINT256,
    destination=ADDRESS,
    data=DATA,
)
FULFILL = _sequence(fulfillment=UINT256, data=DATA)
REJECT = _sequence(code=CODE, triggeredBy=ADDRESS_OR_EMPTY, message=MESSAGE, data=DATA)

# InterledgerPacket. OER writes the open type of the contents as an octet string; its bound is ours.
PACKET = _sequence(
    type=UINT8,
    data=_constrained(univ.OctetString(), constraint.ValueSizeConstraint(0, 65535)),
)
PACKETS: Mapping[int, Any] = {12: PREPARE, 13: FULFILL, 14: REJECT}

# InterledgerErrorData
AMOUNT_TOO_LARGE = _sequence(receivedAmount=UINT64, maximumAmount=UINT64)

# DynamicConfigurationProtocol
ILDCP_RESPONSE = _sequence(clientAddress=ADDRESS, assetScale=UINT8, assetCode=char.UTF8String())


def encode(schema: Any, value: Value) -> bytes:
    """Write a value in the one form of Canonical OER. Raises EncodeError."""
    if isinstance(schema, univ.Sequence):
        assert isinstance(value, Mapping)
        types = schema.componentType.namedTypes
        return b"".join(encode(part.asn1Object, value[part.name]) for part in types)
    try:
        checked = schema.clone(value)
        if isinstance(schema, univ.Integer):
            return int(checked).to_bytes(_integer_bytes(schema), "big")
        octets: bytes = checked.asOctets()
    except PyAsn1Error as problem:
        raise EncodeError(str(problem)) from None
    return octets if _fixed_size(schema) is not None else _encode_length(len(octets)) + octets


def decode(schema: Any, raw: bytes, at: int, end: int, field: str) -> tuple[Value, int]:
    """Read a value; bytes behind it are the caller's to ignore. Raises DecodeError."""
    if isinstance(schema, univ.Sequence):
        values: dict[str, Value] = {}
        for part in schema.componentType.namedTypes:
            values[part.name], at = decode(part.asn1Object, raw, at, end, f"{field}.{part.name}")
        return values, at
    if isinstance(schema, univ.Integer):
        size, start = _integer_bytes(schema), at
    else:
        fixed = _fixed_size(schema)
        size, start = _decode_length(raw, at, end, field) if fixed is None else (fixed, at)
    if size > end - start:
        raise DecodeError(field, at, "cut short")
    octets = raw[start : start + size]
    try:
        return _native(schema, octets), start + size
    except PyAsn1Error as problem:
        raise DecodeError(field, at, str(problem)) from None


def encode_packet(kind: int, value: Value) -> bytes:
    """Write an ILP packet by its type byte. Raises EncodeError."""
    return encode(PACKET, {"type": kind, "data": encode(PACKETS[kind], value)})


def decode_packet(raw: bytes) -> tuple[int, Value]:
    """Read type and contents of an ILP packet; extra bytes at either end are ignored.

    Raises: DecodeError.
    """
    kind, at = decode(UINT8, raw, 0, len(raw), "packet.type")
    assert isinstance(kind, int)
    if kind not in PACKETS:
        raise DecodeError("packet.type", 0, "unknown")
    contents, end = decode(PACKET.componentType["data"].asn1Object, raw, at, len(raw), "packet")
    assert isinstance(contents, bytes)
    value, _ = decode(PACKETS[kind], raw, end - len(contents), end, "packet")
    return kind, value


def _native(schema: Any, octets: bytes) -> Value:
    if isinstance(schema, univ.Integer):
        return int(schema.clone(int.from_bytes(octets, "big")))
    checked = schema.clone(octets)
    native: Value = str(checked) if isinstance(schema, char.AbstractCharacterString) else octets
    return native


def _integer_bytes(schema: Any) -> int:
    """X.696: an unsigned integer bounded by 2^8, 16, 32 or 64 takes 1, 2, 4 or 8 bytes."""
    _, highest = _bounds(schema, constraint.ValueRangeConstraint)
    return next(size for size in (1, 2, 4, 8) if highest < 1 << 8 * size)


def _fixed_size(schema: Any) -> int | None:
    """Return the size of a string that has only one; SIZE of UTF-8 counts characters, not bytes."""
    if isinstance(schema, char.UTF8String):
        return None
    smallest, largest = _bounds(schema, constraint.ValueSizeConstraint)
    return int(smallest) if smallest == largest else None


def _bounds(schema: Any, kind: type) -> tuple[Any, Any]:
    rules: list[Any] = [rule for rule in schema.subtypeSpec if type(rule) is kind]
    lowest = max((rule.start for rule in rules), default=0)
    return lowest, min((rule.stop for rule in rules), default=None)


def _encode_length(length: int) -> bytes:
    if length < 128:
        return bytes([length])
    digits = length.to_bytes(8, "big").lstrip(b"\0")
    return bytes([128 + len(digits)]) + digits


def _decode_length(raw: bytes, at: int, end: int, field: str) -> tuple[int, int]:
    """Read a length determinant. Canonical is what the encoder writes, and nothing else."""
    if at >= end:
        raise DecodeError(field, at, "cut short")
    first, start = raw[at], at + 1
    length = first
    if first > 128:
        start += first - 128
        if start > min(end, at + 9):
            raise DecodeError(field, at, "cut short, or beyond 64 bits")
        length = int.from_bytes(raw[at + 1 : start], "big")
    if _encode_length(length) != raw[at:start]:
        raise DecodeError(field, at, "not canonical")
    return length, start
