"""Reading what operators type: each value checked once, each refusal saying what would do. Pure."""

import re
from typing import Final
from urllib.parse import urlsplit
from uuid import UUID

from connector.errors import InvalidInput
from connector.money import U64_MAX
from connector.packets.address import ADDRESS_BYTES_MAX, is_address, scheme

SCALE_MAX: Final = 255
NAME_CHARS_MAX: Final = 200
ENDPOINT_CHARS_MAX: Final = 2048
TOKEN_CHARS_MIN: Final = 16
TOKEN_CHARS_MAX: Final = 4096

_ASSET_CODE: Final = re.compile(r"[A-Za-z0-9._-]{1,32}", re.ASCII)
# What may stand in an Authorization header after "Bearer " (RFC 6750).
_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/=:-]+", re.ASCII)
# The same as in schema.sql: visible ASCII, no "@", no "#".
_ENDPOINT: Final = re.compile(r"https?://[!\"$-.0->A-Z\[-~]+(?:[/?][!\"$-?A-Z\[-~]*)?", re.ASCII)
_DIGITS: Final = re.compile(r"[0-9]{1,20}", re.ASCII)
# These name one link or one host (RFC 15), so no route leads there.
_UNROUTED_SCHEMES: Final = frozenset(("peer", "self"))


def check_asset_code(code: str) -> str:
    if _ASSET_CODE.fullmatch(code) is None:
        raise InvalidInput(
            f"asset code {_shown(code)} must be 1 to 32 of the characters A-Z a-z 0-9 . _ -"
        )
    return code


def check_scale(scale: int) -> int:
    if not 0 <= scale <= SCALE_MAX:
        raise InvalidInput(f"asset scale {scale} must be 0 to {SCALE_MAX}")
    return scale


def check_amount(amount: int, what: str = "amount", *, minimum: int = 0) -> int:
    """Check an amount in smallest units."""
    if not minimum <= amount <= U64_MAX:
        raise InvalidInput(f"{what} {_shown(str(amount))} must be {minimum} to {U64_MAX}")
    return amount


def check_count(number: int, what: str, minimum: int, maximum: int) -> int:
    if not minimum <= number <= maximum:
        raise InvalidInput(f"{what} {_shown(str(number))} must be {minimum} to {maximum}")
    return number


def check_name(name: str) -> str:
    if len(name) > NAME_CHARS_MAX or not name.isprintable():
        raise InvalidInput(
            f"name {_shown(name)} must have at most {NAME_CHARS_MAX} printable characters"
        )
    return name


def check_peer_address(address: str) -> str:
    """Check the address of a peer: one that packets may be routed to."""
    if not is_address(address) or scheme(address) in _UNROUTED_SCHEMES:
        raise InvalidInput(
            f"{_shown(address)} is not an ILP address that a peer can have; "
            "write for example test.bob"
        )
    return address


def check_prefix(prefix: str) -> str:
    """Check a route's prefix: an address, the beginning of one on whole segments, or ''."""
    beginning = prefix == "" or is_address(prefix + ".x" if "." not in prefix else prefix)
    if not beginning or len(prefix) > ADDRESS_BYTES_MAX or scheme(prefix) in _UNROUTED_SCHEMES:
        raise InvalidInput(
            f"{_shown(prefix)} is not a prefix of ILP addresses; write for example g.acme, "
            "or '' for the default route"
        )
    return prefix


def check_endpoint(url: str) -> str:
    """Check the URL that packets are posted to. Credentials belong into the token."""
    refusal = InvalidInput(
        f"endpoint {_shown(url)} must be an http or https URL without user, password or fragment"
    )
    if len(url) > ENDPOINT_CHARS_MAX or _ENDPOINT.fullmatch(url) is None:
        raise refusal
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise refusal from None
    if not parts.hostname or port == 0:
        raise refusal
    return url


def check_incoming_token(token: str) -> str:
    """Check a token that a peer shall authenticate with: long enough not to be guessed."""
    return _check_token(token, "incoming", TOKEN_CHARS_MIN)


def check_outgoing_token(token: str) -> str:
    """Check a token that a peer gave us. How long it is, is that peer's affair."""
    return _check_token(token, "outgoing", 1)


def _check_token(token: str, what: str, chars_min: int) -> str:
    if not chars_min <= len(token) <= TOKEN_CHARS_MAX or _TOKEN.fullmatch(token) is None:
        raise InvalidInput(
            f"the {what} token must have {chars_min} to {TOKEN_CHARS_MAX} characters out of "
            "A-Z a-z 0-9 . _ ~ + / = : -"
        )
    return token


def parse_amount(text: str) -> int:
    """Read an amount in smallest units from its decimal digits."""
    if _DIGITS.fullmatch(text) is None:
        raise InvalidInput(f"amount {_shown(text)} must be a whole number of smallest units")
    return check_amount(int(text))


def parse_transfer_id(text: str) -> UUID:
    """Read the id that makes a deposit or withdrawal repeatable: a UUID of version 4."""
    try:
        uuid = UUID(text)
    except ValueError:
        raise InvalidInput(f"id {_shown(text)} is not a UUID") from None
    return check_transfer_id(uuid)


def check_transfer_id(uuid: UUID) -> UUID:
    # Other versions are taken: ids that derive from an entity's UUID replace its version.
    if uuid.version != 4:
        raise InvalidInput(f"id {uuid} must be a UUID of version 4")
    return uuid


def format_amount(amount: int, scale: int) -> str:
    """Write an amount of smallest units in whole units: 12345 at scale 2 is 123.45."""
    if scale == 0:
        return str(amount)
    digits = str(abs(amount)).rjust(scale + 1, "0")
    sign = "-" if amount < 0 else ""
    return f"{sign}{digits[:-scale]}.{digits[-scale:]}"


def _shown(text: str) -> str:
    """An input as an error message may show it: short, and harmless to a terminal."""
    return repr(text if len(text) <= 60 else text[:60] + "...")
