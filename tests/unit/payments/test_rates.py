"""Rates from a real HTTP service: exact, bounded in age, and suspicious of jumps."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from decimal import Decimal

import pytest
from aiohttp import web

from connector.directory import Asset, Directory, RateTable
from connector.errors import ConfigError
from connector.money import Ratio
from connector.payments.rates import RatesRefresher, RatesUnavailable, parse_answer
from tests.support.waiting import wait_until

USD = Asset(1, "operator", "USD", 2, 1)
EUR = Asset(2, "operator", "EUR", 2, 2)
JPY = Asset(3, "operator", "JPY", 0, 3)


def directory(*assets: Asset) -> Directory:
    return Directory(1, {}, (), {}, assets)


class Service:
    """A rates service that answers with whatever a test puts into it."""

    def __init__(self) -> None:
        self.bodies: dict[str, str | list[str]] = {}
        self.status = 200
        self.asked: list[str] = []
        self.queries: list[str] = []
        self.url = ""
        self.gate = asyncio.Event()
        self.gate.set()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        base = request.query["base"]
        self.asked.append(base)
        self.queries.append(request.query_string)
        await self.gate.wait()
        # Where there is a list, each question gets the next of it, round and round.
        bodies = self.bodies[base]
        text = bodies if isinstance(bodies, str) else bodies[len(self.asked) % len(bodies)]
        return web.Response(status=self.status, text=text, content_type="application/json")


class Rig:
    """Refreshers on one service, with a clock that moves when told to."""

    def __init__(self, service: Service, stack: AsyncExitStack) -> None:
        self.service = service
        self.tables: list[RateTable] = []
        self.now = 1000.0
        self._stack = stack

    def start(self, *assets: Asset, **options: object) -> RatesRefresher:
        settings = {"url": self.service.url, "lifetime_ms": 50, "stale_ms": 1000, **options}
        refresher = RatesRefresher(
            self.tables.append,
            monotonic=lambda: self.now,
            **settings,  # type: ignore[arg-type]
        )
        refresher.start()
        self._stack.push_async_callback(refresher.close)
        refresher.apply_directory(directory(*assets))
        return refresher

    def ratio(self, source: Asset, destination: Asset) -> Ratio | None:
        return self.tables[-1].ratio(source, destination, self.now)


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    service = Service()
    app = web.Application()
    app.router.add_get("/rates", service.answer)
    runner = web.AppRunner(app, shutdown_timeout=0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    service.url = f"http://127.0.0.1:{runner.addresses[0][1]}/rates"
    async with AsyncExitStack() as stack:
        yield Rig(service, stack)
    service.gate.set()
    await runner.cleanup()


def answer(base: str, **rates: str) -> str:
    quotes = ", ".join(f'"{code}": {rate}' for code, rate in rates.items())
    return f'{{"base": "{base}", "rates": {{{quotes}}}}}'


async def test_rates_are_exact(rig: Rig) -> None:
    rig.service.bodies = {
        "USD": answer("USD", EUR="0.1234567890123456789012345", JPY="151.2", XXX="0"),
        "EUR": answer("EUR", USD="1e-3", JPY="7"),
        "JPY": answer("JPY", EUR="1", USD="1"),
    }
    rig.start(USD, EUR, JPY)
    await wait_until(lambda: rig.ratio(JPY, EUR) and rig.ratio(EUR, JPY) and rig.ratio(USD, EUR))
    assert rig.ratio(USD, EUR) == Ratio(1234567890123456789012345 // 5, 10**25 // 5)
    assert rig.ratio(USD, JPY) == Ratio(189, 125)
    assert rig.ratio(EUR, USD) == Ratio(1, 1000)
    assert rig.ratio(JPY, EUR) == Ratio(100, 1)
    assert rig.ratio(USD, USD) == Ratio(1, 1)


async def test_rates_are_asked_for_again_and_change(rig: Rig) -> None:
    rig.service.bodies = {"USD": answer("USD", EUR="1"), "EUR": answer("EUR", USD="1")}
    rig.start(USD, EUR)
    await wait_until(lambda: rig.ratio(USD, EUR) == Ratio(1, 1))
    rig.service.bodies["USD"] = answer("USD", EUR="1.25")
    await wait_until(lambda: rig.ratio(USD, EUR) == Ratio(5, 4))
    assert rig.ratio(EUR, USD) == Ratio(1, 1)


async def test_a_question_of_the_url_is_kept(rig: Rig) -> None:
    rig.service.bodies = {"USD": answer("USD", EUR="1"), "EUR": answer("EUR", USD="1")}
    rig.service.url += "?key=abc"
    rig.start(USD, EUR)
    await wait_until(lambda: rig.service.queries)
    assert rig.service.queries[0].startswith("key=abc&base=")


async def test_only_what_is_needed_is_asked_for(rig: Rig) -> None:
    rig.service.bodies = {
        "USD": answer("USD", EUR="1", JPY="2"),
        "EUR": answer("EUR", USD="1", JPY="2"),
        "JPY": answer("JPY", USD="1"),
    }
    refresher = rig.start(USD)
    assert refresher.fetches == 0
    refresher.apply_directory(directory(USD, EUR))
    await wait_until(lambda: rig.ratio(USD, EUR))
    assert rig.ratio(USD, JPY) is None
    refresher.apply_directory(directory(USD, JPY))
    await wait_until(lambda: rig.ratio(USD, JPY))
    assert rig.ratio(EUR, USD) is None
    asked_before = rig.service.asked.count("EUR")
    await wait_until(lambda: rig.service.asked.count("JPY") > 5)
    assert rig.service.asked.count("EUR") == asked_before


async def test_stale_rates_serve_within_their_bound(rig: Rig) -> None:
    rig.service.bodies = {"USD": answer("USD", EUR="2"), "EUR": answer("EUR", USD="1")}
    refresher = rig.start(USD, EUR)
    await wait_until(lambda: rig.ratio(USD, EUR) and rig.ratio(EUR, USD))
    rig.service.status = 500
    failures = refresher.failures
    await wait_until(lambda: refresher.failures > failures + 2)
    rig.now += 1.0
    assert rig.ratio(USD, EUR) == Ratio(2, 1)
    rig.now += 0.1
    assert rig.ratio(USD, EUR) is None
    assert rig.ratio(USD, USD) == Ratio(1, 1)
    rig.service.status = 200
    await wait_until(lambda: rig.ratio(USD, EUR) == Ratio(2, 1))


@pytest.mark.parametrize(
    "body",
    [
        "",
        "[]",
        "{}",
        '{"base": "USD"}',
        '{"base": "EUR", "rates": {"EUR": 2}}',
        '{"base": "USD", "rates": []}',
        answer("USD", EUR="NaN"),
        answer("USD", EUR="Infinity"),
        answer("USD", EUR="-1"),
        answer("USD", EUR="0"),
        answer("USD", EUR='"1"'),
        answer("USD", EUR="true"),
        answer("USD", EUR="1e31"),
        answer("USD", EUR="1e999999999999999999999"),
        answer("USD", EUR="1" * 41),
        answer("USD", EUR="1" * 100_000),
        '{"base": "USD", "rates": {"EUR": 1, "EUR": 1}}',
        '{"base": "USD", "base": "USD", "rates": {"EUR": 1}}',
        "[" * 100_000,
    ],
    ids=range(19),
)
async def test_a_broken_answer_leaves_the_last_good_one(rig: Rig, body: str) -> None:
    with pytest.raises(RatesUnavailable) as refusal:
        parse_answer(body.encode(), "USD", ["USD", "EUR"])
    assert len(str(refusal.value)) < 300
    rig.service.bodies = {"USD": answer("USD", EUR="2"), "EUR": answer("EUR", USD="1")}
    refresher = rig.start(USD, EUR)
    await wait_until(lambda: rig.ratio(USD, EUR))
    rig.service.bodies["USD"] = body
    await wait_until(lambda: refresher.failures)
    assert rig.ratio(USD, EUR) == Ratio(2, 1)


def test_bytes_that_are_no_text_are_refused() -> None:
    with pytest.raises(RatesUnavailable):
        parse_answer(b'{"base": "\xff"}', "USD", [])


async def test_a_huge_answer_is_refused(rig: Rig) -> None:
    padding = " " * (1 << 20)
    rig.service.bodies = {"USD": answer("USD", EUR="2") + padding, "EUR": answer("EUR", USD="1")}
    refresher = rig.start(USD, EUR)
    await wait_until(lambda: rig.ratio(EUR, USD) and refresher.failures)
    assert rig.ratio(USD, EUR) is None


async def test_a_service_out_of_reach_is_asked_again(rig: Rig) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/"
        refresher = rig.start(USD, EUR, url=url)
        await wait_until(lambda: refresher.failures > 4)
    assert rig.ratio(USD, EUR) is None


async def test_a_jump_is_used_once_it_is_confirmed(rig: Rig) -> None:
    rig.service.bodies = {"USD": answer("USD", EUR="1"), "EUR": answer("EUR", USD="1")}
    refresher = rig.start(USD, EUR, lifetime_ms=100)
    await wait_until(lambda: rig.ratio(USD, EUR))
    rig.service.bodies["USD"] = answer("USD", EUR="1.51")
    await wait_until(lambda: refresher.jumps == 1)
    assert rig.ratio(USD, EUR) == Ratio(1, 1)
    await wait_until(lambda: rig.ratio(USD, EUR) == Ratio(151, 100))
    assert refresher.jumps == 2


async def test_slips_move_no_money(rig: Rig) -> None:
    rig.service.bodies = {"USD": answer("USD", EUR="1")}
    fixed = {"EUR": {"USD": Decimal(1)}}
    refresher = rig.start(USD, EUR, fixed=fixed)
    await wait_until(lambda: rig.ratio(USD, EUR))
    rig.service.bodies["USD"] = [answer("USD", EUR=rate) for rate in ("100", "0.01")]
    await wait_until(lambda: refresher.jumps > 4)
    assert rig.ratio(USD, EUR) == Ratio(1, 1)


async def test_fixed_rates_are_never_asked_for(rig: Rig) -> None:
    rig.service.bodies = {"EUR": answer("EUR", USD="3")}
    rig.start(USD, EUR, fixed={"USD": {"EUR": Decimal("0.91")}})
    await wait_until(lambda: rig.ratio(EUR, USD))
    assert rig.ratio(USD, EUR) == Ratio(91, 100)
    rig.now += 10**9
    assert rig.ratio(USD, EUR) == Ratio(91, 100)
    assert set(rig.service.asked) == {"EUR"}


async def test_fixed_rates_need_no_service(rig: Rig) -> None:
    rig.start(USD, EUR, url=None, fixed={"USD": {"EUR": Decimal("2")}})
    assert rig.ratio(USD, EUR) == Ratio(2, 1)
    assert rig.ratio(EUR, USD) is None


def test_a_fixed_rate_is_checked() -> None:
    with pytest.raises(ConfigError, match="EXCHANGE_RATES"):
        RatesRefresher(lambda _: None, url=None, fixed={"USD": {"EUR": Decimal("1e-31")}})


async def test_closing_while_a_question_is_open(rig: Rig) -> None:
    rig.service.bodies = {"USD": answer("USD", EUR="1"), "EUR": answer("EUR", USD="1")}
    rig.service.gate.clear()
    refresher = rig.start(USD, EUR)
    await wait_until(lambda: len(rig.service.asked) == 2)
    await refresher.close()
    assert rig.ratio(USD, EUR) is None
