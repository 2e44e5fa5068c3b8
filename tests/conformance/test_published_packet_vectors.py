"""Packets published by other implementations and by the RFCs, where they are at hand."""

import re
from base64 import b64decode
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from connector.errors import DecodeError
from connector.packets import ildcp, ilp, oer
from connector.packets.expiry import format_expiry, parse_expiry
from tests.support.vectors import published_vectors

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def moment_ms(iso: str) -> int:
    return (datetime.fromisoformat(iso) - EPOCH) // timedelta(milliseconds=1)


def test_generated_packets() -> None:
    cases = published_vectors("derived/ilp_packets_generated.json")["cases"]
    assert {case["type"] for case in cases} == {"prepare", "fulfill", "reject", "f08_data"}
    for case in cases:
        fields, raw = case["fields"], bytes.fromhex(case["hex"])
        data = bytes.fromhex(fields.get("data", ""))
        match case["type"]:
            case "prepare":
                expires_at = format_expiry(moment_ms(fields["expiresAt"]))
                condition = bytes.fromhex(fields["executionCondition"])
                amount, destination = int(fields["amount"]), fields["destination"]
                assert ilp.encode_prepare(amount, expires_at, condition, destination, data) == raw
                prepare = ilp.decode_prepare(raw)
                assert (prepare.amount, prepare.expires_at) == (amount, expires_at)
                assert (prepare.destination, prepare.data) == (destination, data)
            case "fulfill":
                fulfillment = bytes.fromhex(fields["fulfillment"])
                assert ilp.encode_fulfill(fulfillment, data) == raw
                assert ilp.decode_reply(raw) == ilp.Fulfill(fulfillment, data, raw)
            case "reject":
                reject = fields["code"], fields["triggeredBy"], fields["message"], data
                assert ilp.encode_reject(*reject) == raw
                assert ilp.decode_reply(raw) == ilp.Reject(*reject, raw)
            case _:
                amounts = int(fields["receivedAmount"]), int(fields["maximumAmount"])
                assert ilp.encode_amount_too_large(*amounts) == raw
                assert ilp.decode_amount_too_large(raw) == amounts


def test_examples_of_ilp_packet() -> None:
    def example(kind: str) -> tuple[bytes, dict[str, str], bytes]:
        case = published_vectors(f"js/ilp-packet/data/ilp_{kind}/valid/example01.json")
        fields = case["json"]
        return bytes.fromhex(case["binary"]), fields, b64decode(fields["data"])

    raw, fields, data = example("prepare")
    expires_at = format_expiry(moment_ms(fields["expiresAt"]))
    condition, destination = b64decode(fields["executionCondition"]), fields["destination"]
    amount = int(fields["amount"])
    assert ilp.encode_prepare(amount, expires_at, condition, destination, data) == raw
    prepare = ilp.Prepare(amount, expires_at, condition, destination, data, raw, 2)
    assert ilp.decode_prepare(raw) == prepare

    raw, fields, data = example("fulfill")
    fulfillment = b64decode(fields["fulfillment"])
    assert ilp.encode_fulfill(fulfillment, data) == raw
    assert ilp.decode_reply(raw) == ilp.Fulfill(fulfillment, data, raw)

    raw, fields, data = example("reject")
    reject = fields["code"], fields["triggeredBy"], fields["message"], data
    assert ilp.encode_reject(*reject) == raw
    assert ilp.decode_reply(raw) == ilp.Reject(*reject, raw)


def test_packets_of_interledger_rs() -> None:
    cases = published_vectors("rs/packet-fixtures.json")
    data = bytes.fromhex(cases["DATA"])
    prepare = ilp.decode_prepare(bytes.fromhex(cases["PREPARE_BYTES"]))
    assert (prepare.amount, prepare.destination, prepare.data) == (107, "example.alice", data)
    assert prepare.execution_condition.hex() == cases["EXECUTION_CONDITION"]
    fulfill = ilp.decode_reply(bytes.fromhex(cases["FULFILL_BYTES"]))
    assert isinstance(fulfill, ilp.Fulfill)
    assert (fulfill.fulfillment.hex(), fulfill.data) == (cases["FULFILLMENT"], data)
    reject = ilp.decode_reply(bytes.fromhex(cases["REJECT_BYTES"]))
    assert isinstance(reject, ilp.Reject)
    assert (reject.code, reject.triggered_by) == ("F99", "example.connector")
    assert (reject.message, reject.data) == ("Some error", data)


def test_generated_ildcp_packets() -> None:
    vectors = published_vectors("derived/ildcp_generated.json")
    request = ilp.decode_prepare(bytes.fromhex(vectors["request_hex_2026"]))
    assert ildcp.is_ildcp_request(request)
    assert ildcp.encode_request(request.expires_at) == request.raw
    for case in vectors["cases"]:
        fields = case["fields"]
        response = fields["clientAddress"], fields["assetScale"], fields["assetCode"]
        data = ildcp.encode_response(*response)
        raw = ilp.encode_fulfill(ildcp.PEER_FULFILLMENT, data)
        assert raw.hex() == case["fulfill_hex"]
        assert ildcp.decode_response(data) == ildcp.Configuration(*response)


def test_ildcp_packets_of_the_javascript_tests() -> None:
    cases = published_vectors("js/ildcp-hex.json")
    assert cases
    for case in cases:
        for raw in map(bytes.fromhex, case["hex"]):
            if raw[0] == ilp.PREPARE:
                # Expiry is not the codec's to judge; destination and condition are.
                wrong = "wrong destination" in case["test"] or "wrong condition" in case["test"]
                assert ildcp.is_ildcp_request(ilp.decode_prepare(raw)) is not wrong
            else:
                match ilp.decode_reply(raw):
                    case ilp.Fulfill() as fulfill:
                        wrong = "wrong fulfillment" in case["test"]
                        assert (fulfill.fulfillment == ildcp.PEER_FULFILLMENT) is not wrong
                        assert ildcp.decode_response(fulfill.data) == ildcp.Configuration(
                            "example.client", 13, "XAM"
                        )
                    case ilp.Reject() as reject:
                        assert (reject.code, reject.triggered_by) == ("F00", "example.server")


def test_timestamps_of_rfc_30() -> None:
    cases = published_vectors("rfcs/rfc0030-examples.json")["fixed17"]
    for text in cases["invalid"]:
        with pytest.raises(DecodeError):
            parse_expiry(text.encode())
    assert cases["valid"]
    for text, iso in cases["valid"]:
        ms = parse_expiry(text.encode())
        assert format_expiry(ms).decode() == text
        # One example is the smeared form of a leap second, which Python cannot name.
        if "59:60" not in iso:
            assert ms == moment_ms(iso)


def test_lengths_of_rfc_30() -> None:
    cases = published_vectors("rfcs/rfc0030-examples.json")["length_determinants"]
    assert cases
    for form, length in cases:
        raw = bytes.fromhex(form)
        assert oer.encode_length(length) == raw
        with pytest.raises(DecodeError, match=f"{length} bytes announced"):
            oer.read_span(raw, 0, len(raw), "x")


READERS: dict[str, Any] = {
    "readVarOctetString": lambda raw, at, _: oer.read_var_octets(raw, at, len(raw), "x"),
    "readVarUInt": lambda raw, at, _: oer.read_var_uint(raw, at, len(raw), "x"),
    "readUInt8": lambda raw, at, _: oer.read_uint(raw, at, len(raw), 1, "x"),
    "readUInt16": lambda raw, at, _: oer.read_uint(raw, at, len(raw), 2, "x"),
    "readUInt32": lambda raw, at, _: oer.read_uint(raw, at, len(raw), 4, "x"),
    "readUInt64": lambda raw, at, _: oer.read_uint(raw, at, len(raw), 8, "x"),
    "readUInt": lambda raw, at, size: oer.read_uint(raw, at, len(raw), int(size), "x"),
    "readOctetString": lambda raw, at, size: oer.read_octets(raw, at, len(raw), int(size), "x"),
}
EXPECTED = re.compile(r"equal\(v\d?(?:\.toString\('hex'\)|\.toString\(\))?, '(\w*)'\)")


def expected_of(case: dict[str, Any]) -> list[str] | None:
    """Return the values expected, [] for an error, None if we have no such reader."""
    if not case["calls"] or not all(name in READERS for name, _ in case["calls"]):
        return None
    found = [match[1] for line in case["asserts"] if (match := EXPECTED.search(line))]
    if found or "throw" in case["test"]:
        return found
    return None


def test_reader_of_oer_utils() -> None:
    used = 0
    for case in published_vectors("js/oer-utils-reader.json"):
        expected = expected_of(case)
        # Nine-byte integers have no name in OER, but nothing keeps our reader from reading one.
        if expected is None or len(case["input_hex"]) != 1 or "nine byte" in case["test"]:
            continue
        used += 1
        raw, at = bytes.fromhex(case["input_hex"][0]), 0
        for call, (name, argument) in enumerate(case["calls"]):
            if not expected:
                with pytest.raises(DecodeError):
                    READERS[name](raw, at, argument)
                break
            value, at = READERS[name](raw, at, argument)
            text = value.hex() if isinstance(value, bytes) else str(value)
            assert text == expected[call], case["test"]
    assert used >= 25
