"""Our codec against npm's ilp-packet, both directions, and both verdicts on damaged packets."""

import json
import random
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from connector.errors import DecodeError
from connector.packets.codes import NAMES
from connector.packets.expiry import format_expiry, parse_expiry
from connector.packets.ilp import AMOUNT_MAX, encode_fulfill, encode_prepare, encode_reject
from tests.support.packets import asn1_value, decode
from tests.support.requires import require

PEER = Path(__file__).with_name("ilp_packet_peer.mjs")
PACKETS = 1500
ANSWER_S_MAX = 60

# JavaScript writes years below 1000 with fewer digits, reads those below 100 as 1900 and later,
# and takes the epoch itself for no date: packets that both must read keep clear of them.
YEAR_1000_MS = parse_expiry(b"10000101000000000")
YEAR_9999_END_MS = parse_expiry(b"99991231235959999")


def ask(requests: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Put all requests to one Node.js process and return its answers in order."""
    node = require("node")
    require("npm-peers")
    lines = "".join(json.dumps(request) + "\n" for request in requests)
    done = subprocess.run(
        [node, str(PEER)], input=lines, capture_output=True, text=True, timeout=ANSWER_S_MAX
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


class Source:
    """Random packets, the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def octets(self) -> bytes:
        size = self.random.choice((0, 1, 31, 64, 65, 127, 128, 190, 255, 256, 300, 2000, 32767))
        return self.random.randbytes(min(size, self.random.randrange(40_000)))

    def address(self) -> str:
        letters = "abcXYZ019_~-"
        segments = (
            "".join(self.random.choices(letters, k=self.random.randint(1, 30)))
            for _ in range(self.random.randint(1, 5))
        )
        scheme = self.random.choice(("g", "private", "example", "peer", "self", "test2", "local"))
        return ".".join((scheme, *segments))

    def fields(self) -> dict[str, Any]:
        """Fields of one packet, in the peer's terms."""
        kind = self.random.choice((12, 13, 14))
        data = {"type": kind, "data": self.octets().hex()}
        if kind == 12:
            return data | {
                "amount": str(self.random.randint(0, AMOUNT_MAX) >> self.random.randrange(64)),
                "expiresAt": self.random.randint(YEAR_1000_MS, YEAR_9999_END_MS) | 1,
                "executionCondition": self.random.randbytes(32).hex(),
                "destination": self.address(),
            }
        if kind == 13:
            return data | {"fulfillment": self.random.randbytes(32).hex()}
        return data | {
            "code": self.random.choice(sorted(NAMES)),
            "triggeredBy": self.random.choice(("", self.address())),
            "message": "".join(self.random.choices("ab é€𝄞\n\0", k=self.random.randrange(90))),
        }

    def damage(self, raw: bytes) -> bytes:
        """Replace, insert or remove a few bytes, most of them near the front."""
        damaged = bytearray(raw)
        for _ in range(self.random.randint(1, 3)):
            at = self.random.randrange(min(len(damaged) + 1, self.random.choice((5, 40, 130))))
            size = self.random.choice((0, 1, 1, 1, 2))
            octet = self.random.choice((*b"\x00\x0c\x0d\x0e\x80\x81\x82012345679.", 256))
            octets = bytes([octet]) if octet < 256 else self.random.randbytes(1)
            damaged[at : at + size] = octets * self.random.choice((0, 1, 1, 1, 2))
        return bytes(damaged)


def encode(fields: dict[str, Any]) -> bytes:
    """Write the peer's terms with our codec."""
    data = bytes.fromhex(fields["data"])
    if fields["type"] == 12:
        return encode_prepare(
            int(fields["amount"]),
            format_expiry(fields["expiresAt"]),
            bytes.fromhex(fields["executionCondition"]),
            fields["destination"],
            data,
        )
    if fields["type"] == 13:
        return encode_fulfill(bytes.fromhex(fields["fulfillment"]), data)
    return encode_reject(fields["code"], fields["triggeredBy"], fields["message"], data)


def read(raw: bytes) -> dict[str, Any]:
    """Read with our codec into the peer's terms."""
    value = {
        name: field.hex() if isinstance(field, bytes) else field
        for name, field in asn1_value(decode(raw)).items()
    }
    if "amount" in value:
        value["amount"] = str(value["amount"])
        value["expiresAt"] = parse_expiry(value["expiresAt"].encode())
    return value | {"type": raw[0]}


def test_what_we_write_npm_reads() -> None:
    source = Source(1)
    packets = [source.fields() for _ in range(PACKETS)]
    answers = ask({"decode": encode(fields).hex()} for fields in packets)
    assert answers == packets


def test_what_npm_writes_we_read() -> None:
    source = Source(2)
    packets = [source.fields() for _ in range(PACKETS)]
    answers = ask({"encode": fields} for fields in packets)
    assert [read(bytes.fromhex(answer["hex"])) for answer in answers] == packets
    assert [encode(fields).hex() for fields in packets] == [answer["hex"] for answer in answers]


def why_only_npm_accepts(refusal: DecodeError, raw: bytes) -> str:
    """Name the documented difference that explains why we refuse what npm accepts; or fail."""
    at_field = raw[refusal.offset :]
    match refusal.field.partition(".")[2]:
        case "expires_at":
            return "JavaScript rolls months, days, hours and seconds over and reads odd digits"
        case "destination" | "triggered_by" | "code" if not at_field[:1100].isascii():
            return "Node.js drops the top bit of what it reads as ASCII"
        case "message" if refusal.reason == "not UTF-8":
            return "Node.js replaces what is not UTF-8"
        case "data" if "longer than" in refusal.reason:
            return "npm does not bound the data"
    pytest.fail(f"npm accepts {raw.hex()}, we do not: {refusal}")


def why_only_we_accept(value: dict[str, Any], raw: bytes) -> str:
    """Name the documented difference that explains why npm refuses what we accept; or fail."""
    if value.get("expiresAt") == 0:
        return "to JavaScript the epoch is no date"
    pytest.fail(f"npm refuses {raw.hex()}, we do not")


@pytest.mark.parametrize("seed", range(3, 7))
def test_verdicts_on_damaged_packets(seed: int) -> None:
    source = Source(seed)
    packets = [source.damage(encode(source.fields())) for _ in range(PACKETS)]
    agreed = {"accepted": 0, "refused": 0}
    explained = set()
    for raw, answer in zip(packets, ask({"decode": raw.hex()} for raw in packets), strict=True):
        try:
            value = read(raw)
        except DecodeError as refusal:
            if "error" in answer:
                agreed["refused"] += 1
            else:
                explained.add(why_only_npm_accepts(refusal, raw))
            continue
        if "error" in answer:
            explained.add(why_only_we_accept(value, raw))
            continue
        agreed["accepted"] += 1
        if value.get("expiresAt", 0) < parse_expiry(b"01000101000000000"):
            answer["expiresAt"] = value["expiresAt"]
        assert answer == value
    assert min(agreed.values()) > 100, agreed
    assert "JavaScript rolls months, days, hours and seconds over and reads odd digits" in explained
