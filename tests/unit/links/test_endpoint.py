import pytest

from connector.errors import InvalidInput
from connector.links.endpoint import Endpoint, parse_endpoint

SOUND = {
    "http://peer.example": Endpoint(False, "peer.example", 80, "/", "peer.example"),
    "https://peer.example/": Endpoint(True, "peer.example", 443, "/", "peer.example"),
    "HTTPS://Peer.Example:443/ilp": Endpoint(True, "peer.example", 443, "/ilp", "peer.example"),
    "http://peer_1:3002/a/b?c=d&e": Endpoint(False, "peer_1", 3002, "/a/b?c=d&e", "peer_1:3002"),
    "http://10.0.0.1:80": Endpoint(False, "10.0.0.1", 80, "/", "10.0.0.1"),
    "http://[::1]/x": Endpoint(False, "::1", 80, "/x", "[::1]"),
    "https://[2001:db8::1]:8443?q": Endpoint(
        True, "2001:db8::1", 8443, "/?q", "[2001:db8::1]:8443"
    ),
    "http://xn--mnchen-3ya.example/%C3%BC": Endpoint(
        False, "xn--mnchen-3ya.example", 80, "/%C3%BC", "xn--mnchen-3ya.example"
    ),
}


@pytest.mark.parametrize(("url", "endpoint"), SOUND.items())
def test_sound_endpoint(url: str, endpoint: Endpoint) -> None:
    assert parse_endpoint(url) == endpoint


@pytest.mark.parametrize(
    "url",
    [
        "",
        "peer.example/ilp",
        "//peer.example",
        "ftp://peer.example",
        "btp+ws://peer.example",
        "http://",
        "http:///ilp",
        "http://:3002/ilp",
        "http://user@peer.example",
        "http://user:secret@peer.example",
        "http://@peer.example",
        "http://peer.example/#fragment",
        "http://peer.example#",
        "http://peer.example:0/",
        "http://peer.example:/",
        "http://peer.example:65536/",
        "http://peer.example:http/",
        "http://peer.example:-1/",
        "http://[::1",
        "http://[::1]x/",
        "http://[peer]/",
        "http://[fe80::1%25eth0]/",
        "http://peer..example/",
        "http://peer.example./",
        "http://-peer.example/",
        "http://pe%65r.example/",
        "http://peer.example\\@other/",
        "http://" + "a" * 254 + "/",
        "http://peer.example/" + "a" * 2048,
        "http://peer.example/a b",
        "http://peer.example/a\r\nX: y",
        "http://peer.example/a\tb",
        "http://peer.example/a\x00b",
        "http://peer.example/\x7f",
        "http://münchen.example/",
        "http://peer.example/ü",
    ],
)
def test_other_endpoint_is_refused_without_echo_of_secrets(url: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_endpoint(url)
    assert "secret" not in str(caught.value)
    assert str(caught.value).startswith("endpoint ")
