import pytest
from hypothesis import given
from hypothesis import strategies as st

from connector.errors import DecodeError, EncodeError
from connector.packets import oer


@pytest.mark.parametrize(
    ("size", "form"),
    [
        (0, "00"),
        (1, "01"),
        (127, "7f"),
        (128, "8180"),
        (130, "8182"),
        (255, "81ff"),
        (256, "820100"),
        (0x1234, "821234"),
        (0xFFFF, "82ffff"),
        (0x10000, "83010000"),
    ],
)
def test_length_has_one_form(size: int, form: str) -> None:
    octets = bytes(size)
    written = oer.encode_var_octets(octets)
    assert written == bytes.fromhex(form) + octets
    assert oer.read_var_octets(written, 0, len(written), "x") == (octets, len(written))


@pytest.mark.parametrize(
    ("form", "length"),
    [("83abcdef", 11259375), ("88ac01055a1debac1e", 12394193534107495454)],
)
def test_length_beyond_what_is_there(form: str, length: int) -> None:
    raw = bytes.fromhex(form)
    assert oer.encode_length(length) == raw
    with pytest.raises(DecodeError, match=f"{length} bytes announced, 0 there"):
        oer.read_span(raw, 0, len(raw), "x")


@pytest.mark.parametrize(
    ("form", "reason"),
    [
        ("", "missing"),
        ("05", "5 bytes announced, 0 there"),
        ("80", "not 1 to 8"),
        ("89010000000000000000", "not 1 to 8"),
        ("81", "cut short"),
        ("82", "cut short"),
        ("8201", "cut short"),
        ("8301", "cut short"),
        ("8100", "shortest"),
        ("8101", "shortest"),
        ("817f", "shortest"),
        ("820001", "shortest"),
        ("8200ff", "shortest"),
        ("83000100", "shortest"),
        ("880000000000000001", "shortest"),
    ],
)
def test_bad_length(form: str, reason: str) -> None:
    raw = b"\xff\xff" + bytes.fromhex(form)
    with pytest.raises(DecodeError, match=reason) as caught:
        oer.read_span(raw, 2, len(raw), "some.field")
    assert (caught.value.field, caught.value.offset) == ("some.field", 2)


@pytest.mark.parametrize("form", ["8180", "820100"])
def test_long_length_beyond_what_is_there(form: str) -> None:
    raw = bytes.fromhex(form) + bytes(127)
    with pytest.raises(DecodeError, match="announced, 127 there"):
        oer.read_span(raw, 0, len(raw), "x")


def test_the_end_bounds_what_is_read() -> None:
    raw = b"\x02ab\x81\x80" + bytes(128)
    assert oer.read_span(raw, 0, 3, "x") == (1, 3)
    with pytest.raises(DecodeError, match="2 bytes announced, 1 there"):
        oer.read_span(raw, 0, 2, "x")
    with pytest.raises(DecodeError, match="cut short"):
        oer.read_span(raw, 3, 4, "x")


def test_length_beyond_64_bits_cannot_be_written() -> None:
    assert oer.encode_length(2**64 - 1) == b"\x88" + b"\xff" * 8
    with pytest.raises(EncodeError, match="64 bits"):
        oer.encode_length(2**64)


def test_fixed_integers() -> None:
    raw = bytes.fromhex("ff 0102030405060708")
    assert oer.read_uint(raw, 0, 9, 1, "x") == (255, 1)
    assert oer.read_uint(raw, 1, 9, 8, "x") == (0x0102030405060708, 9)
    assert oer.encode_uint(255, 1) + oer.encode_uint(0x0102030405060708, 8) == raw
    with pytest.raises(DecodeError, match="8 bytes needed, 7 there") as caught:
        oer.read_uint(raw, 2, 9, 8, "x.amount")
    assert (caught.value.field, caught.value.offset) == ("x.amount", 2)


@pytest.mark.parametrize(("value", "size"), [(-1, 1), (256, 1), (-1, 8), (2**64, 8)])
def test_fixed_integer_that_does_not_fit(value: int, size: int) -> None:
    with pytest.raises(EncodeError, match="does not fit"):
        oer.encode_uint(value, size)


@pytest.mark.parametrize(
    ("value", "form"),
    [(0, "0100"), (16, "0110"), (255, "01ff"), (256, "020100"), (2**64, "09010000000000000000")],
)
def test_variable_integers(value: int, form: str) -> None:
    raw = bytes.fromhex(form)
    assert oer.encode_var_uint(value) == raw
    assert oer.read_var_uint(raw, 0, len(raw), "x") == (value, len(raw))


@pytest.mark.parametrize(
    ("form", "reason"), [("00", "digits"), ("020001", "shortest"), ("0401", "announced")]
)
def test_bad_variable_integer(form: str, reason: str) -> None:
    raw = bytes.fromhex(form)
    with pytest.raises(DecodeError, match=reason):
        oer.read_var_uint(raw, 0, len(raw), "x")


def test_negative_variable_integer_cannot_be_written() -> None:
    with pytest.raises(EncodeError, match="negative"):
        oer.encode_var_uint(-1)


@given(st.integers(0, 2**200))
def test_variable_integers_return(value: int) -> None:
    raw = oer.encode_var_uint(value)
    assert oer.read_var_uint(raw, 0, len(raw), "x") == (value, len(raw))
