"""Where a peer listens: the URL of an ILP-over-HTTP endpoint, read once and checked.

Spec: RFC 3986; Interledger RFC 0035.
"""

import re
from ipaddress import AddressValueError, IPv6Address
from typing import Final
from urllib.parse import urlsplit

import msgspec

from connector.errors import InvalidInput

URL_LENGTH_MAX: Final = 2048
_VISIBLE = re.compile(r"[!-~]+")
# Letters, digits and hyphens; the underscore because container names have it.
_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?")


class Endpoint(msgspec.Struct, frozen=True):
    """A parsed endpoint.

    host - a name or an address, IPv6 without brackets; target - path and query as they go into the
    request line; host_header - with brackets, and with the port unless it is the scheme's own.
    """

    tls: bool
    host: str
    port: int
    target: str
    host_header: str


def parse_endpoint(url: str) -> Endpoint:
    """Read an endpoint's URL.

    Raises: InvalidInput - not an absolute http or https URL, or one with credentials, a fragment,
    or characters that do not belong into a request line.
    """
    if len(url) > URL_LENGTH_MAX:
        raise InvalidInput(f"endpoint is longer than {URL_LENGTH_MAX} characters")
    # urlsplit would quietly drop tabs and line ends.
    if not _VISIBLE.fullmatch(url):
        raise InvalidInput(
            "endpoint has a space, control or non-ASCII character; percent-encode the path,"
            " and write the host in its xn-- form"
        )
    try:
        parts = urlsplit(url)
        port = parts.port
        host = parts.hostname or ""
    except ValueError:
        raise InvalidInput("endpoint has no valid host and port") from None
    if parts.scheme not in ("http", "https"):
        raise InvalidInput("endpoint must begin with http:// or https://")
    if "@" in parts.netloc:
        raise InvalidInput(
            "endpoint must not contain credentials; the outgoing token has its own field"
        )
    if "#" in url:
        raise InvalidInput("endpoint must not contain a fragment (#)")
    host_header = _check_host(host, "[" in parts.netloc)
    if parts.netloc.lower() not in (host_header, f"{host_header}:{port}") or port == 0:
        raise InvalidInput("endpoint has no valid host and port")
    tls = parts.scheme == "https"
    standard_port = 443 if tls else 80
    port = port or standard_port
    return Endpoint(
        tls=tls,
        host=host,
        port=port,
        target=(parts.path or "/") + ("?" + parts.query if parts.query else ""),
        host_header=host_header if port == standard_port else f"{host_header}:{port}",
    )


def _check_host(host: str, brackets: bool) -> str:
    """Check a host; returns it as it is written in a Host header."""
    if brackets:
        try:
            address = IPv6Address(host)
        except AddressValueError:
            address = None
        if address is None or address.scope_id is not None:
            raise InvalidInput("endpoint has no valid IPv6 address in its brackets")
        return f"[{host}]"
    if len(host) > 253 or not all(map(_LABEL.fullmatch, host.split("."))):
        raise InvalidInput("endpoint has no valid host")
    return host
