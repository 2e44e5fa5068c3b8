from collections.abc import Callable

import pytest

from connector.errors import DecodeError, EncodeError
from connector.packets import ilp
from connector.packets.ilp import (
    AMOUNT_MAX,
    DATA_BYTES_MAX,
    PACKET_BYTES_MAX,
    Fulfill,
    Prepare,
    Reject,
    decode_amount_too_large,
    decode_prepare,
    decode_reply,
    encode_amount_too_large,
    encode_fulfill,
    encode_prepare,
    encode_reject,
    rewrite_prepare,
)
from connector.packets.oer import encode_length, encode_var_octets
from tests.support.packets import CONDITION, EXPIRY

LATER = b"20270101000000000"
HEAD = bytes(7) + b"\x6b" + EXPIRY + CONDITION
LARGEST = bytes(DATA_BYTES_MAX)


def envelope(kind: int, contents: bytes) -> bytes:
    return bytes([kind]) + encode_length(len(contents)) + contents


def assert_refused(
    decode: Callable[[bytes], object],
    raw: bytes,
    field: str,
    offset: int,
    reason: str | None = None,
) -> None:
    with pytest.raises(DecodeError, match=reason) as caught:
        decode(raw)
    assert (caught.value.field, caught.value.offset) == (field, offset)


def test_prepare() -> None:
    raw = encode_prepare(107, EXPIRY, CONDITION, "test.alice", b"hello")
    assert raw == envelope(12, HEAD + b"\x0atest.alice\x05hello")
    assert decode_prepare(raw) == Prepare(107, EXPIRY, CONDITION, "test.alice", b"hello", raw, 2)


@pytest.mark.parametrize(
    ("data_size", "amount_at"), [(0, 2), (65, 2), (66, 3), (192, 3), (193, 4), (DATA_BYTES_MAX, 4)]
)
def test_where_the_amount_is(data_size: int, amount_at: int) -> None:
    raw = encode_prepare(5, EXPIRY, CONDITION, "g.a", bytes(data_size))
    prepare = decode_prepare(raw)
    assert prepare.amount_at == amount_at
    assert raw[amount_at : amount_at + 8] == (5).to_bytes(8, "big")


@pytest.mark.parametrize("data_size", [0, 100, 1000])
def test_rewrite_is_what_encoding_anew_gives(data_size: int) -> None:
    data = bytes(data_size)
    received = decode_prepare(encode_prepare(5, EXPIRY, CONDITION, "g.a", data))
    for amount in (0, 6, AMOUNT_MAX):
        rewritten = rewrite_prepare(received, amount, LATER)
        assert rewritten == encode_prepare(amount, LATER, CONDITION, "g.a", data)


@pytest.mark.parametrize("amount", [-1, AMOUNT_MAX + 1])
def test_rewrite_with_an_amount_that_does_not_fit(amount: int) -> None:
    received = decode_prepare(encode_prepare(5, EXPIRY, CONDITION, "g.a"))
    with pytest.raises(EncodeError, match="amount"):
        rewrite_prepare(received, amount, LATER)


@pytest.mark.parametrize("expires_at", [b"", LATER[:-1], LATER + b"0"])
def test_rewrite_with_an_expiry_of_another_size(expires_at: bytes) -> None:
    received = decode_prepare(encode_prepare(5, EXPIRY, CONDITION, "g.a"))
    with pytest.raises(EncodeError, match="17 bytes"):
        rewrite_prepare(received, 5, expires_at)


@pytest.mark.parametrize(
    ("contents", "field", "offset"),
    [
        (b"", "amount", 2),
        (HEAD[:7], "amount", 2),
        (HEAD[:8], "expires_at", 10),
        (HEAD[:24], "expires_at", 10),
        (HEAD[:25], "execution_condition", 27),
        (HEAD[:56], "execution_condition", 27),
        (HEAD[:8] + b"20260229235959999" + CONDITION + b"\x03g.a\0", "expires_at", 10),
        (HEAD, "destination", 59),
        (HEAD + b"\x05g.a\0", "destination", 59),
        (HEAD + b"\x81\x03g.a\0", "destination", 59),
        (HEAD + b"\x00\x00", "destination", 59),
        (HEAD + b"\x04g.a\n\x00", "destination", 59),
        (HEAD + b"\x03g.\xe1\x00", "destination", 59),
        (HEAD + b"\x03g.a", "data", 63),
        (HEAD + b"\x03g.a\x01", "data", 63),
        (HEAD + b"\x03g.a\x81\x01x", "data", 63),
    ],
)
def test_bad_prepare(contents: bytes, field: str, offset: int) -> None:
    assert_refused(decode_prepare, envelope(12, contents), f"prepare.{field}", offset)


def test_bad_prepare_envelope() -> None:
    assert_refused(decode_prepare, b"", "prepare.type", 0)
    assert_refused(decode_prepare, encode_fulfill(CONDITION), "prepare.type", 0, "not 12")
    assert_refused(decode_prepare, b"\x0c", "prepare", 1, "missing")
    assert_refused(decode_prepare, b"\x0c\x05abcd", "prepare", 1, "5 bytes announced")
    assert_refused(decode_prepare, b"\x0c\x81\x05abcde", "prepare", 1, "shortest")


def test_data_longer_than_a_packet_may_carry() -> None:
    too_long = encode_var_octets(LARGEST + b"x")
    assert_refused(decode_prepare, envelope(12, HEAD + b"\x03g.a" + too_long), "prepare.data", 65)
    assert_refused(decode_reply, envelope(13, CONDITION + too_long), "fulfill.data", 36)
    assert_refused(decode_reply, envelope(14, b"F00\0\0" + too_long), "reject.data", 9)


def test_contents_longer_than_two_bytes_of_length() -> None:
    fulfill = CONDITION + b"\0"
    raw = envelope(13, fulfill.ljust(0xFFFF, b"x"))
    assert len(raw) == PACKET_BYTES_MAX
    assert decode_reply(raw).raw == raw
    assert_refused(decode_reply, envelope(13, fulfill.ljust(0x10000, b"x")), "fulfill", 1, "exceed")


@pytest.mark.parametrize("data", [b"", b"hello", LARGEST])
def test_fulfill(data: bytes) -> None:
    raw = encode_fulfill(CONDITION, data)
    assert raw == envelope(13, CONDITION + encode_var_octets(data))
    assert decode_reply(raw) == Fulfill(CONDITION, data, raw)


@pytest.mark.parametrize(
    ("contents", "field", "offset"),
    [
        (b"", "fulfillment", 2),
        (CONDITION[:31], "fulfillment", 2),
        (CONDITION, "data", 34),
        (CONDITION + b"\x02x", "data", 34),
    ],
)
def test_bad_fulfill(contents: bytes, field: str, offset: int) -> None:
    assert_refused(decode_reply, envelope(13, contents), f"fulfill.{field}", offset)


@pytest.mark.parametrize("triggered_by", ["", "test.connector"])
@pytest.mark.parametrize("message", ["", "no way", "é€𝄞", "€" * 8191])
@pytest.mark.parametrize("data", [b"", bytes(300)])
def test_reject(triggered_by: str, message: str, data: bytes) -> None:
    raw = encode_reject("F02", triggered_by, message, data)
    fields = (triggered_by.encode(), message.encode(), data)
    assert raw == envelope(14, b"F02" + b"".join(map(encode_var_octets, fields)))
    assert decode_reply(raw) == Reject("F02", triggered_by, message, data, raw)


@pytest.mark.parametrize(
    ("contents", "field", "offset"),
    [
        (b"", "code", 2),
        (b"F0", "code", 2),
        (b"F0\xb0\0\0\0", "code", 2),
        (b"F00", "triggered_by", 5),
        (b"F00\x02g.\0\0", "triggered_by", 5),
        (b"F00\x04g.a\n\0\0", "triggered_by", 5),
        (b"F00\0", "message", 6),
        (b"F00\0\x05oh", "message", 6),
        (b"F00\0\x01\xff\0", "message", 6),
        (b"F00\0\x03\xed\xa0\x80\0", "message", 6),
        (b"F00\0\0", "data", 7),
        (b"F00\0\0\x02x", "data", 7),
    ],
)
def test_bad_reject(contents: bytes, field: str, offset: int) -> None:
    assert_refused(decode_reply, envelope(14, contents), f"reject.{field}", offset)


def test_message_length_counts_characters() -> None:
    too_long = encode_var_octets(b"a" * 8192)
    assert_refused(decode_reply, envelope(14, b"F00\0" + too_long + b"\0"), "reject.message", 8)


def test_an_unknown_code_is_kept() -> None:
    for code in ("F09", "X00", "\0\x7f "):
        reply = decode_reply(encode_reject(code, "g.a", ""))
        assert isinstance(reply, Reject)
        assert reply.code == code


@pytest.mark.parametrize(
    "raw", [b"", b"\x00", b"\x0f\x00", encode_prepare(1, EXPIRY, CONDITION, "g.a")]
)
def test_a_reply_is_fulfill_or_reject(raw: bytes) -> None:
    assert_refused(decode_reply, raw, "reply.type", 0)


EXTENDED = (
    (decode_prepare, envelope(12, HEAD + b"\x03g.a\x01x" + b"later fields")),
    (decode_reply, envelope(13, CONDITION + b"\x01x" + b"later fields")),
    (decode_reply, envelope(14, b"F00\0\0\x01x" + b"later fields")),
)


@pytest.mark.parametrize(("decode", "raw"), EXTENDED)
def test_extra_bytes_inside_the_contents_travel_on(
    decode: Callable[[bytes], Prepare | Fulfill | Reject], raw: bytes
) -> None:
    packet = decode(raw)
    assert packet.data == b"x"
    assert packet.raw == raw
    if isinstance(packet, Prepare):
        rewritten = rewrite_prepare(packet, 9, LATER)
        assert rewritten == raw[:2] + bytes(7) + b"\x09" + LATER + raw[27:]


@pytest.mark.parametrize(("decode", "raw"), EXTENDED)
def test_extra_bytes_behind_the_packet_are_cut_off(
    decode: Callable[[bytes], Prepare | Fulfill | Reject], raw: bytes
) -> None:
    packet = decode(raw + b"behind")
    assert packet == decode(raw)
    if isinstance(packet, Prepare):
        assert rewrite_prepare(packet, 9, LATER) == rewrite_prepare(decode_prepare(raw), 9, LATER)


@pytest.mark.parametrize(
    ("amount", "expires_at", "condition", "destination", "data", "reason"),
    [
        (-1, EXPIRY, CONDITION, "g.a", b"", "amount"),
        (AMOUNT_MAX + 1, EXPIRY, CONDITION, "g.a", b"", "amount"),
        (1, b"20260229000000000", CONDITION, "g.a", b"", "expires_at"),
        (1, EXPIRY + b"0", CONDITION, "g.a", b"", "expires_at"),
        (1, EXPIRY, CONDITION[:31], "g.a", b"", "execution_condition"),
        (1, EXPIRY, CONDITION, "g", b"", "destination"),
        (1, EXPIRY, CONDITION, "", b"", "destination"),
        (1, EXPIRY, CONDITION, "g.a", LARGEST + b"x", "data"),
    ],
)
def test_a_prepare_that_cannot_be_written(
    amount: int, expires_at: bytes, condition: bytes, destination: str, data: bytes, reason: str
) -> None:
    with pytest.raises(EncodeError, match=reason):
        encode_prepare(amount, expires_at, condition, destination, data)


def test_a_fulfill_that_cannot_be_written() -> None:
    with pytest.raises(EncodeError, match="fulfillment"):
        encode_fulfill(CONDITION + b"x")
    with pytest.raises(EncodeError, match="data"):
        encode_fulfill(CONDITION, LARGEST + b"x")


@pytest.mark.parametrize(
    ("code", "triggered_by", "message", "data", "reason"),
    [
        ("F0", "g.a", "", b"", "code"),
        ("F000", "g.a", "", b"", "code"),
        ("F0é", "g.a", "", b"", "code"),
        ("F00", "g", "", b"", "triggered_by"),
        ("F00", "g.a", "a" * 8192, b"", "message"),
        ("F00", "g.a", "\ud800", b"", "surrogate"),
        ("F00", "g.a", "", LARGEST + b"x", "data"),
        ("F00", "g.a", "𝄞" * 8191, LARGEST, "65535"),
    ],
)
def test_a_reject_that_cannot_be_written(
    code: str, triggered_by: str, message: str, data: bytes, reason: str
) -> None:
    with pytest.raises(EncodeError, match=reason):
        encode_reject(code, triggered_by, message, data)


def test_amount_too_large() -> None:
    data = encode_amount_too_large(AMOUNT_MAX, 500)
    assert data == b"\xff" * 8 + bytes(6) + b"\x01\xf4"
    assert decode_amount_too_large(data) == (AMOUNT_MAX, 500)
    assert decode_amount_too_large(data + b"later fields") == (AMOUNT_MAX, 500)


@pytest.mark.parametrize("size", range(16))
def test_amount_too_large_cut_short(size: int) -> None:
    data = encode_amount_too_large(2, 1)[:size]
    field, offset = ("received_amount", 0) if size < 8 else ("maximum_amount", 8)
    assert_refused(decode_amount_too_large, data, f"amount_too_large.{field}", offset)


@pytest.mark.parametrize(("received", "maximum"), [(-1, 0), (0, -1), (AMOUNT_MAX + 1, 0)])
def test_amount_too_large_that_cannot_be_written(received: int, maximum: int) -> None:
    with pytest.raises(EncodeError, match="64 unsigned bits"):
        encode_amount_too_large(received, maximum)


def test_types() -> None:
    assert (ilp.PREPARE, ilp.FULFILL, ilp.REJECT) == (12, 13, 14)
