"""The configuration exchange: a child asks for its address and asset (RFC 31, ILDCP).

The child sends a Prepare to ``peer.config``; the parent answers with a Fulfill whose data holds
the address, the asset's scale and its code, or with a Reject. Nobody forwards these packets.
"""

import hashlib

import msgspec

from connector.errors import DecodeError, EncodeError
from connector.packets.address import is_address, parse_address
from connector.packets.ilp import Prepare, encode_prepare
from connector.packets.oer import encode_uint, encode_var_octets, read_uint, read_var_octets

DESTINATION = "peer.config"

# All packets between neighbours (``peer.*``) share these two.
PEER_FULFILLMENT = bytes(32)
PEER_CONDITION = hashlib.sha256(PEER_FULFILLMENT).digest()


class Configuration(msgspec.Struct, frozen=True):
    """What a parent tells a child."""

    client_address: str
    asset_scale: int
    asset_code: str


def is_ildcp_request(prepare: Prepare) -> bool:
    """Say whether this is a request that may be answered.

    It is not when money comes with it (nobody would book it) or when the zero fulfillment would
    not fulfill it. Data is ignored: RFC 31 keeps it for later versions, as JavaScript does.
    """
    return (
        prepare.destination == DESTINATION
        and prepare.amount == 0
        and prepare.execution_condition == PEER_CONDITION
    )


def encode_request(expires_at: bytes) -> bytes:
    """Write the child's Prepare. Raises EncodeError."""
    return encode_prepare(0, expires_at, PEER_CONDITION, DESTINATION)


def encode_response(client_address: str, asset_scale: int, asset_code: str) -> bytes:
    """Write the data of the parent's Fulfill. Raises EncodeError."""
    if not is_address(client_address):
        raise EncodeError("client_address is not an ILP address")
    try:
        code = asset_code.encode()
    except UnicodeEncodeError:
        raise EncodeError("asset_code holds half of a surrogate pair") from None
    address = encode_var_octets(client_address.encode())
    return address + encode_uint(asset_scale, 1) + encode_var_octets(code)


def decode_response(data: bytes) -> Configuration:
    """Read the data of the parent's Fulfill; later versions' fields behind it are ignored.

    Raises: DecodeError.
    """
    end = len(data)
    octets, at = read_var_octets(data, 0, end, "ildcp.client_address")
    client_address = parse_address(octets, "ildcp.client_address")
    asset_scale, code_at = read_uint(data, at, end, 1, "ildcp.asset_scale")
    octets, _ = read_var_octets(data, code_at, end, "ildcp.asset_code")
    try:
        asset_code = octets.decode()
    except UnicodeDecodeError:
        raise DecodeError("ildcp.asset_code", code_at, "not UTF-8") from None
    return Configuration(client_address, asset_scale, asset_code)
