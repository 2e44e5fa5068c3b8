"""The example rates service, and the node's reader on the other end of it."""

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from connector.payments.rates import parse_answer
from rates_stub.app import create_app
from rates_stub.rates import BUILT_IN, RatesFile, RatesFileError, parse_rates, to_decimal


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "rates.json"
    file.write_text('{"base": "USD", "rates": {"EUR": "0.8", "JPY": 160, "BTC": "0.00001"}}')
    return file


@pytest.fixture
async def url(path: Path) -> AsyncIterator[str]:
    runner = web.AppRunner(create_app(RatesFile(path)))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


async def get(url: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        assert response.content_type == "application/json"
        return response.status, await response.text()


async def test_every_base_is_served_exactly(url: str) -> None:
    status, body = await get(f"{url}/?base=EUR")
    assert status == 200
    assert json.loads(body, parse_float=Decimal) == {
        "base": "EUR",
        "rates": {"USD": Decimal("1.25"), "JPY": 200, "BTC": Decimal("0.0000125")},
    }
    assert await get(f"{url}/rates?base=EUR") == (status, body)


async def test_the_node_reads_what_is_served(url: str) -> None:
    for base in ("USD", "EUR", "JPY", "BTC"):
        _, body = await get(f"{url}/?base={base}")
        rates = parse_answer(body.encode(), base, ["USD", "EUR", "JPY", "BTC"])
        assert len(rates) == 3


@pytest.mark.parametrize("query", ["", "?base=", "?base=XXX", "?base=USD&base=EUR", "?base=%00"])
async def test_an_unknown_base_is_a_clear_400(url: str, query: str) -> None:
    status, body = await get(f"{url}/{query}")
    assert status == 400
    assert "base" in json.loads(body)["error"]


async def test_health(url: str) -> None:
    assert await get(f"{url}/healthz") == (200, '{"currencies":4}')


def test_an_edit_is_seen_and_a_broken_one_ignored(path: Path) -> None:
    rates = RatesFile(path)
    path.write_text('{"base": "USD", "rates": {"EUR": 2}}')
    assert rates.quotes("USD") == {"EUR": Decimal(2)}
    for broken in ("", "{", '{"base": "USD", "rates": {"EUR": -1}}'):
        path.write_text(broken)
        assert rates.quotes("USD") == {"EUR": Decimal(2)}
    path.unlink()
    assert rates.quotes("USD") == {"EUR": Decimal(2)}
    path.write_text('{"base": "USD", "rates": {"EUR": 3}}')
    assert rates.quotes("USD") == {"EUR": Decimal(3)}
    assert rates.codes() == ["EUR", "USD"]


@pytest.mark.parametrize(
    "content",
    [
        b"\xff",
        b"[]",
        b'{"rates": {}}',
        b'{"base": 1, "rates": {}}',
        b'{"base": "USD", "rates": {"USD": 1}}',
        b'{"base": "USD", "rates": {"EUR": NaN}}',
        b'{"base": "USD", "rates": {"EUR": "NaN"}}',
        b'{"base": "USD", "rates": {"EUR": 0}}',
        b'{"base": "USD", "rates": {"EUR": null}}',
        b'{"base": "USD", "rates": {"EUR": "x"}}',
        b'{"base": "USD", "rates": {"EUR": 1e25}}',
        b'{"base": "USD", "rates": {"EUR": 1.23456789012345678}}',
        b'{"base": "USD", "rates": {"E R": 1}}',
        b'{"base": "USD", "rates": {"EUR": 1, "EUR": 2}}',
        b"[" * 100_000,
    ],
    ids=range(15),
)
def test_a_broken_file_is_refused(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(RatesFileError):
        parse_rates(content)
    path = tmp_path / "rates.json"
    path.write_bytes(content)
    with pytest.raises(RatesFileError):
        RatesFile(path)


def test_a_missing_or_huge_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RatesFileError, match="cannot be read"):
        RatesFile(tmp_path / "none.json")
    huge = tmp_path / "huge.json"
    huge.write_bytes(BUILT_IN.read_bytes() + b" " * (1 << 20))
    with pytest.raises(RatesFileError, match="more than"):
        RatesFile(huge)


def test_what_does_not_end_is_rounded() -> None:
    assert to_decimal(Fraction(1, 3)) == Decimal("0.3333333333333333")
    assert to_decimal(Fraction(1, 8)) == Decimal("0.125")


def run(*arguments: str, **environment: str) -> Any:
    return subprocess.run(
        [sys.executable, "-m", "rates_stub", *arguments],
        env={"PATH": os.environ["PATH"], "ENV_FILE": os.devnull, **environment},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        cwd=Path(__file__).parents[3],
    )


def test_help_says_how_to_use_it() -> None:
    result = run("--help")
    assert result.returncode == 0
    assert "EXCHANGE_RATES_FILE" in result.stdout


def test_mistakes_end_with_one_line(tmp_path: Path, unused_tcp_port: int) -> None:
    missing = run(EXCHANGE_RATES_FILE=str(tmp_path / "none.json"))
    assert (missing.returncode, missing.stderr.count("\n")) == (1, 1)
    assert "EXCHANGE_RATES_FILE" in missing.stderr
    port = run(RATES_HOST="192.0.2.1", RATES_PORT=str(unused_tcp_port))
    assert (port.returncode, port.stderr.count("\n")) == (1, 1)
    assert "RATES_PORT" in port.stderr
