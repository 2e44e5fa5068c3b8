import pytest
from hypothesis import given
from hypothesis import strategies as st

from connector.errors import DecodeError, EncodeError
from connector.packets.ildcp import (
    PEER_CONDITION,
    PEER_FULFILLMENT,
    Configuration,
    decode_response,
    encode_request,
    encode_response,
    is_ildcp_request,
)
from connector.packets.ilp import decode_prepare, encode_prepare
from tests.support.packets import EXPIRY, addresses

# The example of RFC 31.
EXAMPLE = bytes.fromhex("0e6578616d706c652e636c69656e740d0358414d")


def test_the_condition_is_that_of_the_zero_fulfillment() -> None:
    assert (
        PEER_CONDITION.hex() == "66687aadf862bd776c8fc18b8e9f8e20089714856ee233b3902a591d0d5f2925"
    )
    assert bytes(32) == PEER_FULFILLMENT


def test_request() -> None:
    request = decode_prepare(encode_request(EXPIRY))
    assert (request.amount, request.destination, request.data) == (0, "peer.config", b"")
    assert request.execution_condition == PEER_CONDITION
    assert request.expires_at == EXPIRY
    assert is_ildcp_request(request)


@pytest.mark.parametrize(
    ("amount", "condition", "destination", "data", "answered"),
    [
        (0, PEER_CONDITION, "peer.config", b"later version", True),
        (1, PEER_CONDITION, "peer.config", b"", False),
        (0, bytes(32), "peer.config", b"", False),
        (0, PEER_CONDITION, "peer.config.more", b"", False),
        (0, PEER_CONDITION, "peer.route.control", b"", False),
        (0, PEER_CONDITION, "g.config", b"", False),
    ],
)
def test_what_is_a_request(
    amount: int, condition: bytes, destination: str, data: bytes, answered: bool
) -> None:
    raw = encode_prepare(amount, EXPIRY, condition, destination, data)
    assert is_ildcp_request(decode_prepare(raw)) is answered


def test_request_without_a_moment() -> None:
    with pytest.raises(EncodeError, match="expires_at"):
        encode_request(b"soon")


def test_response() -> None:
    assert encode_response("example.client", 13, "XAM") == EXAMPLE
    assert decode_response(EXAMPLE) == Configuration("example.client", 13, "XAM")
    assert decode_response(EXAMPLE + b"later fields") == Configuration("example.client", 13, "XAM")


@given(addresses, st.integers(0, 255), st.text())
def test_responses_return(address: str, scale: int, code: str) -> None:
    data = encode_response(address, scale, code)
    assert decode_response(data) == Configuration(address, scale, code)


@pytest.mark.parametrize(
    ("data", "field", "offset"),
    [
        (b"", "client_address", 0),
        (b"\x00\x09\x03USD", "client_address", 0),
        (b"\x01g\x09\x03USD", "client_address", 0),
        (b"\x04g.a", "client_address", 0),
        (b"\x03g.a", "asset_scale", 4),
        (b"\x03g.a\x09", "asset_code", 5),
        (b"\x03g.a\x09\x04USD", "asset_code", 5),
        (b"\x03g.a\x09\x01\xff", "asset_code", 5),
    ],
)
def test_bad_response(data: bytes, field: str, offset: int) -> None:
    with pytest.raises(DecodeError) as caught:
        decode_response(data)
    assert (caught.value.field, caught.value.offset) == (f"ildcp.{field}", offset)


@pytest.mark.parametrize(
    ("address", "scale", "code", "reason"),
    [
        ("g", 9, "USD", "client_address"),
        ("g.a", 256, "USD", "does not fit"),
        ("g.a", -1, "USD", "does not fit"),
        ("g.a", 9, "\udfff", "surrogate"),
    ],
)
def test_a_response_that_cannot_be_written(
    address: str, scale: int, code: str, reason: str
) -> None:
    with pytest.raises(EncodeError, match=reason):
        encode_response(address, scale, code)
