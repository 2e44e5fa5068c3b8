"""Whatever bytes come in: a value or DecodeError, and the same as the ASN.1 specification says."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyasn1.type import univ

from connector.errors import DecodeError
from connector.packets import asn1
from connector.packets.ildcp import Configuration, decode_response, encode_response
from connector.packets.ilp import (
    AMOUNT_MAX,
    Prepare,
    decode_amount_too_large,
    decode_prepare,
    decode_reply,
    encode_amount_too_large,
    encode_fulfill,
    encode_prepare,
    encode_reject,
    rewrite_prepare,
)
from tests.support.packets import (
    SAMPLES,
    addresses,
    amounts,
    asn1_value,
    codes,
    data,
    decode,
    expiries,
    hashes,
    messages,
    packets,
    prepare_packets,
)

# Relative to the profile's number, so that a longer run is longer here too.
EXAMPLES = settings(deadline=None, max_examples=3 * settings().max_examples)
MANY_EXAMPLES = settings(deadline=None, max_examples=15 * settings().max_examples)


@st.composite
def mutated(draw: st.DrawFn, originals: st.SearchStrategy[bytes]) -> bytes:
    """Bytes that were a packet: some replaced, inserted or removed, most of them near the front."""
    raw = bytearray(draw(originals))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, min(len(raw), 120)) | st.integers(0, len(raw)))
        removed = draw(st.integers(0, 3))
        # Bytes that mean something: lengths in every form, digits, dots, non-ASCII.
        octet = st.sampled_from(b"\x00\x01\x7f\x80\x81\x82\x83\xff09.:ag~\n\xe9") | st.integers(
            0, 255
        )
        raw[at : at + removed] = bytes(draw(st.lists(octet, max_size=3)))
    return bytes(raw)


def outcome(read: Callable[[bytes], Any], raw: bytes) -> Any:
    """Return the value read, or None for DecodeError; everything else is the test's failure."""
    try:
        return read(raw)
    except DecodeError as refusal:
        assert 0 <= refusal.offset <= len(raw)
        return None


def read_fast(raw: bytes) -> Any:
    packet = decode(raw)
    assert raw.startswith(packet.raw)
    return packet.raw[0], asn1_value(packet)


def read_sequence(schema: Any) -> Callable[[bytes], Any]:
    return lambda raw: asn1.decode(schema, raw, 0, len(raw), "data")[0]


@pytest.mark.parametrize("raw", SAMPLES)
def test_every_flipped_byte(raw: bytes) -> None:
    for at in range(len(raw)):
        for octet in range(256):
            flipped = raw[:at] + bytes([octet]) + raw[at + 1 :]
            for read in (decode, decode_prepare, decode_reply):
                outcome(read, flipped)


@pytest.mark.parametrize("raw", SAMPLES)
def test_every_flipped_bit_is_judged_as_specified(raw: bytes) -> None:
    for at in range(len(raw)):
        for bit in range(8):
            flipped = raw[:at] + bytes([raw[at] ^ 1 << bit]) + raw[at + 1 :]
            assert outcome(read_fast, flipped) == outcome(asn1.decode_packet, flipped)


@pytest.mark.parametrize("raw", SAMPLES)
def test_every_truncation_is_refused(raw: bytes) -> None:
    for size in range(len(raw)):
        for read in (decode, decode_prepare, decode_reply):
            with pytest.raises(DecodeError):
                read(raw[:size])


@EXAMPLES
@given(st.binary(max_size=200))
def test_any_bytes(raw: bytes) -> None:
    for read in (decode_prepare, decode_reply, decode_response, decode_amount_too_large):
        outcome(read, raw)


@EXAMPLES
@given(packets)
def test_bytes_and_values_are_as_specified(raw: bytes) -> None:
    kind, value = read_fast(raw)
    assert asn1.decode_packet(raw) == (kind, value)
    assert asn1.encode_packet(kind, value) == raw


@MANY_EXAMPLES
@given(mutated(packets))
def test_mutated_packets_are_judged_as_specified(raw: bytes) -> None:
    assert outcome(read_fast, raw) == outcome(asn1.decode_packet, raw)


def with_length(octets: bytes, length_bytes: int) -> bytes:
    """Put a length before octets: in so many bytes, as short as possible for 0."""
    if not length_bytes:
        return asn1.encode(univ.OctetString(), octets)
    length_bytes = max(length_bytes, (len(octets).bit_length() + 7) // 8)
    return bytes([0x80 + length_bytes]) + len(octets).to_bytes(length_bytes, "big") + octets


@pytest.mark.parametrize("size", [0, 1, 94, 95, 127, 128, 222, 223, 255, 256, 65499, 65500, 65501])
def test_every_form_of_a_length_is_judged_as_specified(size: int) -> None:
    # Fields behind the data bring the contents to the sizes at which the outer length changes.
    data_size = min(size, 300)
    for outer, inner in itertools.product(range(10), range(10)):
        contents = bytes(32) + with_length(bytes(data_size), inner) + bytes(size - data_size)
        raw = b"\x0d" + with_length(contents, outer)
        assert outcome(read_fast, raw) == outcome(asn1.decode_packet, raw)


@EXAMPLES
@given(amounts, expiries, hashes, addresses, data)
def test_prepares_return(
    amount: int, expires_at: bytes, condition: bytes, destination: str, octets: bytes
) -> None:
    prepare = decode_prepare(encode_prepare(amount, expires_at, condition, destination, octets))
    assert (prepare.amount, prepare.expires_at, prepare.execution_condition) == (
        amount,
        expires_at,
        condition,
    )
    assert (prepare.destination, prepare.data) == (destination, octets)


@EXAMPLES
@given(hashes, codes, st.just("") | addresses, messages, data)
def test_replies_return(
    fulfillment: bytes, code: str, triggered_by: str, message: str, octets: bytes
) -> None:
    fulfill = decode_reply(encode_fulfill(fulfillment, octets))
    assert asn1_value(fulfill) == {"fulfillment": fulfillment, "data": octets}
    assert asn1_value(decode_reply(encode_reject(code, triggered_by, message, octets))) == {
        "code": code,
        "triggeredBy": triggered_by,
        "message": message,
        "data": octets,
    }


@EXAMPLES
@given(prepare_packets, st.binary(max_size=5), amounts, expiries)
def test_a_rewritten_prepare_differs_in_amount_and_expiry_only(
    raw: bytes, behind: bytes, amount: int, expires_at: bytes
) -> None:
    received = decode_prepare(raw + behind)
    rewritten = decode_prepare(rewrite_prepare(received, amount, expires_at))
    assert (rewritten.amount, rewritten.expires_at) == (amount, expires_at)
    assert rewrite_prepare(rewritten, received.amount, received.expires_at) == raw


@EXAMPLES
@given(prepare_packets, st.binary(min_size=1, max_size=300))
def test_later_fields_travel_on(raw: bytes, later: bytes) -> None:
    kind, value = asn1.decode_packet(raw)
    contents = asn1.encode(asn1.PREPARE, value) + later
    envelope: asn1.Value = {"type": kind, "data": contents}
    extended = asn1.encode(asn1.PACKET, envelope)
    prepare = decode_prepare(extended)
    assert isinstance(prepare, Prepare)
    assert asn1_value(prepare) == value
    assert rewrite_prepare(prepare, 0, prepare.expires_at).endswith(later)


@EXAMPLES
@given(addresses, st.integers(0, 255), st.text())
def test_ildcp_responses_are_as_specified(address: str, scale: int, code: str) -> None:
    raw = encode_response(address, scale, code)
    value: asn1.Value = {"clientAddress": address, "assetScale": scale, "assetCode": code}
    assert asn1.encode(asn1.ILDCP_RESPONSE, value) == raw


def read_configuration(raw: bytes) -> Any:
    found: Configuration = decode_response(raw)
    return {
        "clientAddress": found.client_address,
        "assetScale": found.asset_scale,
        "assetCode": found.asset_code,
    }


@EXAMPLES
@given(mutated(st.builds(encode_response, addresses, st.integers(0, 255), st.text(max_size=20))))
def test_mutated_ildcp_responses_are_judged_as_specified(raw: bytes) -> None:
    specified = read_sequence(asn1.ILDCP_RESPONSE)
    assert outcome(read_configuration, raw) == outcome(specified, raw)


def read_amounts(raw: bytes) -> Any:
    received, maximum = decode_amount_too_large(raw)
    return {"receivedAmount": received, "maximumAmount": maximum}


@EXAMPLES
@given(st.integers(0, AMOUNT_MAX), st.integers(0, AMOUNT_MAX), st.integers(-16, 3))
def test_amount_too_large_is_as_specified(received: int, maximum: int, longer: int) -> None:
    raw = encode_amount_too_large(received, maximum)
    value = {"receivedAmount": received, "maximumAmount": maximum}
    assert asn1.encode(asn1.AMOUNT_TOO_LARGE, value) == raw
    raw = raw[: 16 + longer] + bytes(max(0, longer))
    assert outcome(read_amounts, raw) == outcome(read_sequence(asn1.AMOUNT_TOO_LARGE), raw)
