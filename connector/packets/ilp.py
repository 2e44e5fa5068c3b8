"""Prepare, Fulfill and Reject (RFC 27): the fast codec.

A packet is a type byte and a variable-length octet string, its contents. Fields are read at
offsets; a forwarded Prepare is the received bytes with 8 + 17 of them replaced.

Extra bytes, of which RFC 30 ("Extensibility") says that they must be ignored, are of two kinds:

- Inside the contents, behind the last field: a later version's fields. They belong to the packet,
  stay in ``raw`` and are forwarded as received.
- Behind the contents: no part of the packet. They are cut off, so ``raw`` is one packet, whole,
  and a peer cannot have us carry bytes that no length covers.

Values are bounded as in InterledgerProtocol.asn. Every other input raises ``DecodeError``.
"""

from struct import Struct
from struct import error as StructError

import msgspec

from connector.errors import DecodeError, EncodeError
from connector.packets.address import is_address, parse_address
from connector.packets.expiry import EXPIRY_BYTES, parse_expiry
from connector.packets.oer import encode_length, encode_var_octets, read_octets, read_span

PREPARE = 12
FULFILL = 13
REJECT = 14
_PREPARE_TYPE = bytes((PREPARE,))
_FULFILL_TYPE = bytes((FULFILL,))
_REJECT_TYPE = bytes((REJECT,))

AMOUNT_MAX = 2**64 - 1
HASH_BYTES = 32
CODE_BYTES = 3
MESSAGE_CHARACTERS_MAX = 8191
DATA_BYTES_MAX = 32767

# Two bytes of length hold every Prepare and Fulfill with room for later fields.
CONTENTS_BYTES_MAX = 0xFFFF
PACKET_BYTES_MAX = 4 + CONTENTS_BYTES_MAX

_EXPIRES_AT_OFFSET = 8
_CONDITION_OFFSET = _EXPIRES_AT_OFFSET + EXPIRY_BYTES
_PREPARE_HEAD = Struct(f"!Q{EXPIRY_BYTES}s{HASH_BYTES}s")
_HOP_FIELDS = Struct(f"!Q{EXPIRY_BYTES}s")
_AMOUNT_TOO_LARGE = Struct("!QQ")


class Prepare(msgspec.Struct, gc=False):
    """A conditional transfer. amount - in units of the hop it came over; expires_at - 17 digits."""

    amount: int
    expires_at: bytes
    execution_condition: bytes
    destination: str
    data: bytes
    raw: bytes
    amount_at: int


class Fulfill(msgspec.Struct, gc=False):
    """The preimage of a condition."""

    fulfillment: bytes
    data: bytes
    raw: bytes


class Reject(msgspec.Struct, gc=False):
    """A refusal. code - any three ASCII characters; triggered_by - an address, or empty."""

    code: str
    triggered_by: str
    message: str
    data: bytes
    raw: bytes


def decode_prepare(raw: bytes) -> Prepare:
    """Read a Prepare from a peer. Raises DecodeError."""
    if raw[:1] != _PREPARE_TYPE:
        raise DecodeError("prepare.type", 0, f"not {PREPARE}")
    at, end = _open(raw, "prepare")
    if end - at < _PREPARE_HEAD.size:
        raise _head_cut_short(at, end)
    amount, expires_at, condition = _PREPARE_HEAD.unpack_from(raw, at)
    parse_expiry(expires_at, "prepare.expires_at", at + _EXPIRES_AT_OFFSET)
    destination_at = at + _PREPARE_HEAD.size
    start, data_at = read_span(raw, destination_at, end, "prepare.destination")
    destination = parse_address(raw[start:data_at], "prepare.destination", destination_at)
    data = _read_data(raw, data_at, end, "prepare.data")
    if end != len(raw):
        raw = raw[:end]
    return Prepare(amount, expires_at, condition, destination, data, raw, at)


def rewrite_prepare(prepare: Prepare, amount: int, expires_at: bytes) -> bytes:
    """Write the Prepare for the next hop: another amount and expiry, the rest as received.

    Units: amount in those of the outgoing account; expires_at - from ``format_expiry``.
    Raises: EncodeError - amount beyond 64 bits or expiry not 17 bytes.
    """
    raw, at = prepare.raw, prepare.amount_at
    if len(expires_at) != EXPIRY_BYTES:
        raise EncodeError("expires_at is not 17 bytes")
    try:
        return raw[:at] + _HOP_FIELDS.pack(amount, expires_at) + raw[at + _HOP_FIELDS.size :]
    except StructError:
        raise EncodeError(f"amount {amount} does not fit 64 unsigned bits") from None


def decode_reply(raw: bytes) -> Fulfill | Reject:
    """Read what a peer answered to a Prepare. Raises DecodeError."""
    kind = raw[:1]
    if kind == _FULFILL_TYPE:
        return _decode_fulfill(raw)
    if kind == _REJECT_TYPE:
        return _decode_reject(raw)
    raise DecodeError("reply.type", 0, f"neither {FULFILL} nor {REJECT}")


def encode_prepare(
    amount: int, expires_at: bytes, execution_condition: bytes, destination: str, data: bytes = b""
) -> bytes:
    """Write a Prepare of our own. Raises EncodeError."""
    try:
        parse_expiry(expires_at)
    except DecodeError as problem:
        raise EncodeError(str(problem)) from None
    if not is_address(destination):
        raise EncodeError("destination is not an ILP address")
    _check_hash("execution_condition", execution_condition)
    try:
        head = _PREPARE_HEAD.pack(amount, expires_at, execution_condition)
    except StructError:
        raise EncodeError(f"amount {amount} does not fit 64 unsigned bits") from None
    return _close(
        _PREPARE_TYPE, head + encode_var_octets(destination.encode()) + _encode_data(data)
    )


def encode_fulfill(fulfillment: bytes, data: bytes = b"") -> bytes:
    """Write a Fulfill. Raises EncodeError."""
    _check_hash("fulfillment", fulfillment)
    return _close(_FULFILL_TYPE, fulfillment + _encode_data(data))


def encode_reject(code: str, triggered_by: str, message: str, data: bytes = b"") -> bytes:
    """Write a Reject. Raises EncodeError."""
    if len(code) != CODE_BYTES or not code.isascii():
        raise EncodeError("code is not three ASCII characters")
    if triggered_by and not is_address(triggered_by):
        raise EncodeError("triggered_by is not an ILP address")
    if len(message) > MESSAGE_CHARACTERS_MAX:
        raise EncodeError(f"message is longer than {MESSAGE_CHARACTERS_MAX} characters")
    try:
        message_octets = message.encode()
    except UnicodeEncodeError:
        raise EncodeError("message holds half of a surrogate pair") from None
    return _close(
        _REJECT_TYPE,
        code.encode()
        + encode_var_octets(triggered_by.encode())
        + encode_var_octets(message_octets)
        + _encode_data(data),
    )


def encode_amount_too_large(received: int, maximum: int) -> bytes:
    """Write the data of an F08: both amounts in units of the hop that rejects, maximum inclusive.

    Raises: EncodeError.
    Spec: RFC 27, InterledgerErrorData.asn.
    """
    try:
        return _AMOUNT_TOO_LARGE.pack(received, maximum)
    except StructError:
        raise EncodeError(f"{received} or {maximum} does not fit 64 unsigned bits") from None


def decode_amount_too_large(data: bytes) -> tuple[int, int]:
    """Read (received, maximum) from the data of an F08. Raises DecodeError; senders may omit it."""
    if len(data) < _AMOUNT_TOO_LARGE.size:
        field = "received_amount" if len(data) < 8 else "maximum_amount"
        raise DecodeError(f"amount_too_large.{field}", len(data) & 8, "8 bytes needed")
    received, maximum = _AMOUNT_TOO_LARGE.unpack_from(data)
    return received, maximum


def _open(raw: bytes, name: str) -> tuple[int, int]:
    """Read the length behind the type; return where the contents begin and end."""
    at, end = read_span(raw, 1, len(raw), name)
    if end - at > CONTENTS_BYTES_MAX:
        raise DecodeError(name, 1, f"contents exceed {CONTENTS_BYTES_MAX} bytes")
    return at, end


def _close(kind: bytes, contents: bytes) -> bytes:
    if len(contents) > CONTENTS_BYTES_MAX:
        raise EncodeError(f"contents exceed {CONTENTS_BYTES_MAX} bytes")
    return kind + encode_length(len(contents)) + contents


def _read_data(raw: bytes, at: int, end: int, field: str) -> bytes:
    start, stop = read_span(raw, at, end, field)
    if stop - start > DATA_BYTES_MAX:
        raise DecodeError(field, at, f"longer than {DATA_BYTES_MAX} bytes")
    return raw[start:stop]


def _encode_data(data: bytes) -> bytes:
    if len(data) > DATA_BYTES_MAX:
        raise EncodeError(f"data is longer than {DATA_BYTES_MAX} bytes")
    return encode_var_octets(data)


def _check_hash(field: str, value: bytes) -> None:
    if len(value) != HASH_BYTES:
        raise EncodeError(f"{field} is not {HASH_BYTES} bytes")


def _head_cut_short(at: int, end: int) -> DecodeError:
    there = end - at
    if there < _EXPIRES_AT_OFFSET:
        return DecodeError("prepare.amount", at, "cut short")
    if there < _CONDITION_OFFSET:
        return DecodeError("prepare.expires_at", at + _EXPIRES_AT_OFFSET, "cut short")
    return DecodeError("prepare.execution_condition", at + _CONDITION_OFFSET, "cut short")


def _decode_fulfill(raw: bytes) -> Fulfill:
    at, end = _open(raw, "fulfill")
    fulfillment, at = read_octets(raw, at, end, HASH_BYTES, "fulfill.fulfillment")
    data = _read_data(raw, at, end, "fulfill.data")
    if end != len(raw):
        raw = raw[:end]
    return Fulfill(fulfillment, data, raw)


def _decode_reject(raw: bytes) -> Reject:
    at, end = _open(raw, "reject")
    code, triggered_by_at = read_octets(raw, at, end, CODE_BYTES, "reject.code")
    if not code.isascii():
        raise DecodeError("reject.code", at, "not ASCII")
    start, message_at = read_span(raw, triggered_by_at, end, "reject.triggered_by")
    triggered_by = ""
    if start != message_at:
        triggered_by = parse_address(raw[start:message_at], "reject.triggered_by", triggered_by_at)
    start, data_at = read_span(raw, message_at, end, "reject.message")
    message = _decode_message(raw[start:data_at], message_at)
    data = _read_data(raw, data_at, end, "reject.data")
    if end != len(raw):
        raw = raw[:end]
    return Reject(code.decode(), triggered_by, message, data, raw)


def _decode_message(octets: bytes, at: int) -> str:
    try:
        message = octets.decode()
    except UnicodeDecodeError:
        raise DecodeError("reject.message", at, "not UTF-8") from None
    if len(message) > MESSAGE_CHARACTERS_MAX:
        raise DecodeError("reject.message", at, f"longer than {MESSAGE_CHARACTERS_MAX} characters")
    return message
