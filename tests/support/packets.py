"""Packets for tests: Hypothesis strategies, samples, values under their ASN.1 names."""

from typing import Any

from hypothesis import strategies as st

from connector.packets.codes import NAMES
from connector.packets.expiry import format_expiry
from connector.packets.ilp import (
    AMOUNT_MAX,
    DATA_BYTES_MAX,
    MESSAGE_CHARACTERS_MAX,
    Fulfill,
    Prepare,
    Reject,
    decode_prepare,
    decode_reply,
    encode_fulfill,
    encode_prepare,
    encode_reject,
)

YEAR_0000_MS = -62_167_219_200_000
YEAR_9999_END_MS = 253_402_300_799_999

_SCHEMES = ("g", "private", "example", "peer", "self", "test", "test1", "test2", "test3", "local")
_SEGMENT = st.text("abcXYZ0189_~-", min_size=1, max_size=20)

amounts = st.integers(0, AMOUNT_MAX) | st.sampled_from((0, 1, 255, 256, 2**53 + 1, AMOUNT_MAX))
moments_ms = st.integers(YEAR_0000_MS, YEAR_9999_END_MS)
expiries = moments_ms.map(format_expiry)
hashes = st.binary(min_size=32, max_size=32)
addresses = st.builds(
    lambda scheme, segments: ".".join((scheme, *segments)),
    st.sampled_from(_SCHEMES),
    st.lists(_SEGMENT, min_size=1, max_size=6),
) | st.integers(3, 1023).map(lambda size: "g." + "a" * (size - 2))
# Sizes on both sides of every change in the form of a length, and the largest.
data = st.binary(max_size=300) | st.sampled_from(
    [bytes(size) for size in (0, 1, 127, 128, 255, 256, DATA_BYTES_MAX)]
)
codes = st.sampled_from(sorted(NAMES)) | st.text(
    st.characters(max_codepoint=127), min_size=3, max_size=3
)
messages = st.text(max_size=60) | st.sampled_from(
    [letter * MESSAGE_CHARACTERS_MAX for letter in "aé€"]
)

prepare_packets = st.builds(encode_prepare, amounts, expiries, hashes, addresses, data)
fulfill_packets = st.builds(encode_fulfill, hashes, data)
reject_packets = st.builds(encode_reject, codes, st.just("") | addresses, messages, data)
packets = prepare_packets | fulfill_packets | reject_packets

CONDITION = bytes(range(32))
EXPIRY = b"20260228235959999"
SAMPLES = (
    encode_prepare(107, EXPIRY, CONDITION, "test.alice", b""),
    encode_prepare(2**63 + 5, EXPIRY, CONDITION, "g.us.bank.bob~1.Ab_c-d", bytes(range(70))),
    encode_prepare(0, EXPIRY, CONDITION, "g." + "x" * 126, bytes(range(200))),
    encode_fulfill(CONDITION),
    encode_fulfill(CONDITION, bytes(range(130))),
    encode_reject("F02", "", ""),
    encode_reject("T04", "test.connector", "é€𝄞", bytes(range(100))),
)


def decode(raw: bytes) -> Prepare | Fulfill | Reject:
    """Read a packet of any type with the fast codec."""
    return decode_prepare(raw) if raw[:1] == b"\x0c" else decode_reply(raw)


def asn1_value(packet: Prepare | Fulfill | Reject) -> dict[str, Any]:
    """Return the fields under their ASN.1 names."""
    match packet:
        case Prepare():
            return {
                "amount": packet.amount,
                "expiresAt": packet.expires_at.decode(),
                "executionCondition": packet.execution_condition,
                "destination": packet.destination,
                "data": packet.data,
            }
        case Fulfill():
            return {"fulfillment": packet.fulfillment, "data": packet.data}
        case Reject():
            return {
                "code": packet.code,
                "triggeredBy": packet.triggered_by,
                "message": packet.message,
                "data": packet.data,
            }
