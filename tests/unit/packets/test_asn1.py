from typing import Any

import pytest
from pyasn1.type import univ

from connector.errors import DecodeError, EncodeError
from connector.packets import asn1

PREPARE: dict[str, Any] = {
    "amount": 107,
    "expiresAt": "20171223012140549",
    "executionCondition": bytes(32),
    "destination": "example.alice",
    "data": b"hello",
}


def test_packet() -> None:
    raw = bytes.fromhex("0c4d 000000000000006b") + b"20171223012140549" + bytes(32)
    raw += b"\x0dexample.alice\x05hello"
    assert asn1.encode_packet(12, PREPARE) == raw
    assert asn1.decode_packet(raw) == (12, PREPARE)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("amount", -1),
        ("amount", 2**64),
        ("expiresAt", "20171324012140549"),
        ("expiresAt", "20170229012140549"),
        ("expiresAt", "20171223242140549"),
        ("expiresAt", "2017122301214054Z"),
        ("expiresAt", "2017122301214054"),
        ("executionCondition", bytes(31)),
        ("destination", ""),
        ("destination", "g"),
        ("destination", "g..a"),
        ("destination", "g.a\n"),
        ("destination", "h.a"),
        ("destination", "g." + "a" * 1022),
        ("data", bytes(32768)),
    ],
)
def test_constraints(field: str, value: object) -> None:
    with pytest.raises(EncodeError):
        asn1.encode_packet(12, PREPARE | {field: value})


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ("", "cut short"),
        ("0b00", "unknown"),
        ("0c", "cut short"),
        ("0c05", "cut short"),
        ("0c80", "not canonical"),
        ("0c8105", "not canonical"),
        ("0c820005", "not canonical"),
        ("0c81", "cut short"),
        ("0c89000000000000000000", "beyond 64 bits"),
        ("0c0100", "cut short"),
    ],
)
def test_malformed(raw: str, reason: str) -> None:
    with pytest.raises(DecodeError, match=reason):
        asn1.decode_packet(bytes.fromhex(raw))


def test_errors_name_field_and_offset() -> None:
    raw = bytearray(asn1.encode_packet(12, PREPARE))
    raw[60] = ord("!")
    with pytest.raises(DecodeError) as caught:
        asn1.decode_packet(bytes(raw))
    assert (caught.value.field, caught.value.offset) == ("packet.destination", 59)


@pytest.mark.parametrize("size", [0, 127, 128, 255, 256, 65536])
def test_unconstrained_octet_string(size: int) -> None:
    schema, octets = univ.OctetString(), bytes(size)
    raw = asn1.encode(schema, octets)
    assert asn1.decode(schema, raw + b"behind", 0, len(raw) + 6, "x") == (octets, len(raw))


def test_utf8_is_counted_in_characters() -> None:
    raw = asn1.encode(asn1.MESSAGE, "é" * 8191)
    assert raw == bytes.fromhex("823ffe") + "é".encode() * 8191
    assert asn1.decode(asn1.MESSAGE, raw, 0, len(raw), "x") == ("é" * 8191, len(raw))
    for message in ("é" * 8192, "\ud800"):
        with pytest.raises(EncodeError):
            asn1.encode(asn1.MESSAGE, message)
