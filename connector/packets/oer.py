"""The Canonical Octet Encoding Rules, as far as Interledger uses them (RFC 30).

Readers take the bytes, where to begin, where the enclosing value ends, and the dotted name to put
into an error; they return the value and the place behind it. They raise ``DecodeError`` only.

Only canonical input is accepted. RFC 27 allows more, but RFC 30 forbids leading zeros and long
lengths where a short one fits, no known writer emits them, and the JavaScript and Rust readers
refuse them: a packet taken in that form and forwarded as received would be lost one hop later,
with our reservation waiting for its expiry. Refusing it here gives the sender an answer at once.
"""

from connector.errors import DecodeError, EncodeError

# RFC 30: implementations may limit the length of a length to eight bytes.
_LENGTH_BYTES_MAX = 8

_NOT_SHORTEST = "length is not in its shortest form"


def read_span(raw: bytes, at: int, end: int, field: str) -> tuple[int, int]:
    """Read a length determinant; return where the value behind it begins and ends."""
    # Every packet comes through here several times: lengths of one, two and three bytes first.
    if at < end:
        start = at + 1
        length = raw[at]
        if length >= 0x80:
            if length == 0x81 and start < end:
                length = raw[start]
                start += 1
            elif length == 0x82 and start + 1 < end and raw[start]:
                length = raw[start] << 8 | raw[start + 1]
                start += 2
            else:
                return _read_long_span(raw, at, end, field)
            if length < 0x80:
                raise DecodeError(field, at, _NOT_SHORTEST)
        stop = start + length
        if stop <= end:
            return start, stop
        raise DecodeError(field, at, f"{length} bytes announced, {end - start} there")
    raise DecodeError(field, at, "length is missing")


def _read_long_span(raw: bytes, at: int, end: int, field: str) -> tuple[int, int]:
    """Read a length of four bytes or more, or find what is wrong with a shorter one."""
    size = raw[at] & 0x7F
    start = at + 1 + size
    if not 1 <= size <= _LENGTH_BYTES_MAX:
        raise DecodeError(field, at, f"length of the length is not 1 to {_LENGTH_BYTES_MAX}")
    if start > end:
        raise DecodeError(field, at, "length is cut short")
    if not raw[at + 1]:
        raise DecodeError(field, at, _NOT_SHORTEST)
    stop = start + int.from_bytes(raw[at + 1 : start], "big")
    if stop > end:
        raise DecodeError(field, at, f"{stop - start} bytes announced, {end - start} there")
    return start, stop


def read_octets(raw: bytes, at: int, end: int, size: int, field: str) -> tuple[bytes, int]:
    """Read an octet string of fixed size: no prefix."""
    if size > end - at:
        raise DecodeError(field, at, f"{size} bytes needed, {end - at} there")
    return raw[at : at + size], at + size


def read_var_octets(raw: bytes, at: int, end: int, field: str) -> tuple[bytes, int]:
    """Read an octet string behind its length."""
    start, stop = read_span(raw, at, end, field)
    return raw[start:stop], stop


def read_uint(raw: bytes, at: int, end: int, size: int, field: str) -> tuple[int, int]:
    """Read an unsigned integer of fixed size (UInt8: 1, UInt64: 8)."""
    octets, after = read_octets(raw, at, end, size, field)
    return int.from_bytes(octets, "big"), after


def read_var_uint(raw: bytes, at: int, end: int, field: str) -> tuple[int, int]:
    """Read an unsigned integer behind its length; the caller bounds its value."""
    octets, after = read_var_octets(raw, at, end, field)
    if not octets:
        raise DecodeError(field, at, "integer without digits")
    if not octets[0] and len(octets) > 1:
        raise DecodeError(field, at, "integer is not in its shortest form")
    return int.from_bytes(octets, "big"), after


def encode_length(length: int) -> bytes:
    """Write a length determinant in its shortest form."""
    if length < 0x80:
        return encode_uint(length, 1)
    digits = _shortest(length)
    if len(digits) > _LENGTH_BYTES_MAX:
        raise EncodeError("length beyond 64 bits")
    return bytes((0x80 | len(digits),)) + digits


def encode_var_octets(octets: bytes) -> bytes:
    return encode_length(len(octets)) + octets


def encode_uint(value: int, size: int) -> bytes:
    """Write an unsigned integer in ``size`` bytes. Raises EncodeError if it does not fit."""
    try:
        return value.to_bytes(size, "big")
    except OverflowError:
        raise EncodeError(f"{value} does not fit {size} unsigned bytes") from None


def encode_var_uint(value: int) -> bytes:
    """Write an unsigned integer behind its length; zero takes one digit (``01 00``)."""
    if value < 0:
        raise EncodeError(f"{value} is negative")
    return encode_var_octets(_shortest(value))


def _shortest(value: int) -> bytes:
    return value.to_bytes(max(1, (value.bit_length() + 7) // 8), "big")
