"""Exchange rates: asked for in the background, exact, and never older than a bound.

No packet waits for a rate: each worker asks the rates service for every currency of its directory
once a lifetime, and hands out what it knows as one table. While the service fails, the last rates
serve until they are too old; then packets that need them are refused (F07).

Interface of the service, as in Rafiki: ``GET <url>?base=USD`` gives ``{"base": "USD", "rates":
{"EUR": 0.91, ...}}``, units of EUR for one unit of USD, scales left aside.
"""

import asyncio
import json
import math
import random
import time
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from typing import Any, Final, NoReturn

import aiohttp
import structlog

from connector.directory import Directory, RateTable
from connector.errors import ConfigError, ConnectorError, InvalidInput
from connector.money import Ratio, parse_rate

log = structlog.get_logger(__name__)

ANSWER_S_MAX: Final = 5.0
BODY_BYTES_MAX: Final = 1 << 20
REDIRECTS_MAX: Final = 3
FETCHES_MAX: Final = 4
RETRY_S_MIN: Final = 1.0

# A rate that moves further in one lifetime, up or down, is more often a fault than news.
JUMP: Final = Ratio(3, 2)

Rates = Mapping[str, Ratio]


class RatesUnavailable(ConnectorError):
    """The rates service gave no answer that can be used."""


class RatesRefresher:
    """Keeps a worker's rate table up to date.

    An answer in which a rate has jumped (by more than half since the last) is not used until the
    next answer confirms it: one slip of the service moves no money, a real crash is followed one
    lifetime later.
    """

    def __init__(
        self,
        on_change: Callable[[RateTable], None],
        *,
        url: str | None,
        fixed: Mapping[str, Mapping[str, Decimal]] | None = None,
        lifetime_ms: int = 15_000,
        stale_ms: int = 60_000,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare, without asking yet.

        fixed - rates of the settings, by base and quote; a base in here is never asked for.
        Units: lifetime_ms - time between two questions; stale_ms - how much longer rates serve.
        Raises: ConfigError - a fixed rate has too many digits.
        """
        self._on_change = on_change
        self._url = url
        self._lifetime_s = lifetime_ms / 1000
        self._stale_s = stale_ms / 1000
        self._monotonic = monotonic
        self._rates: dict[str, Rates] = {}
        self._valid_until: dict[str, float] = {}
        self._fixed: dict[str, Rates] = {}
        try:
            for base, quotes in (fixed or {}).items():
                self._fixed[base] = {code: parse_rate(rate) for code, rate in quotes.items()}
        except InvalidInput as error:
            raise ConfigError(f"EXCHANGE_RATES: {error}") from None
        # Answers that wait for a second one that confirms them.
        self._doubtful: dict[str, Rates] = {}
        self._codes: frozenset[str] = frozenset()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._wake: dict[str, asyncio.Event] = {}
        self._fetches = asyncio.Semaphore(FETCHES_MAX)
        self._session: aiohttp.ClientSession | None = None
        self.fetches = 0
        self.failures = 0
        self.jumps = 0

    def start(self) -> None:
        """Hand out the fixed rates. Must run inside the worker's loop."""
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=ANSWER_S_MAX), raise_for_status=False
        )
        self._publish()

    async def close(self) -> None:
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._tasks.clear()
        if self._session is not None:
            await self._session.close()

    def apply_directory(self, directory: Directory) -> None:
        """Ask for the currencies that this directory has, from now on."""
        codes = frozenset(asset.code for asset in directory.assets.values())
        if codes == self._codes:
            return
        self._codes = codes
        # With one currency there is nothing to convert.
        bases = codes - self._fixed.keys() if self._url is not None and len(codes) > 1 else set()
        for base in self._tasks.keys() - bases:
            self._tasks.pop(base).cancel()
            for known in (self._wake, self._rates, self._valid_until, self._doubtful):
                known.pop(base, None)
        for base in bases:
            if base in self._tasks:
                # Its answer has a rate for the new currency, too.
                self._wake[base].set()
            else:
                self._wake[base] = asyncio.Event()
                self._tasks[base] = asyncio.create_task(self._follow(base), name=f"rates {base}")
        self._publish()

    async def _follow(self, base: str) -> None:
        """Ask for one base again and again."""
        wake = self._wake[base]
        failures_s = RETRY_S_MIN
        while True:
            wake.clear()
            try:
                async with self._fetches:
                    await self._refresh(base)
            except (RatesUnavailable, aiohttp.ClientError, OSError, TimeoutError) as error:
                self.failures += 1
                log.warning("exchange_rates_failed", base=base, reason=str(error) or repr(error))
                delay_s = min(failures_s, self._lifetime_s)
                failures_s *= 2
            else:
                delay_s = self._lifetime_s
                failures_s = RETRY_S_MIN
            try:
                # Workers that started together shall not ask together.
                async with asyncio.timeout(delay_s * random.uniform(0.8, 1.0)):
                    await wake.wait()
            except TimeoutError:
                pass

    async def _refresh(self, base: str) -> None:
        assert self._url is not None
        assert self._session is not None
        asked_at = self._monotonic()
        self.fetches += 1
        async with self._session.get(
            self._url, params={"base": base}, max_redirects=REDIRECTS_MAX
        ) as response:
            if response.status != 200:
                raise RatesUnavailable(f"the rates service answered with HTTP {response.status}")
            body = bytearray()
            async for chunk in response.content.iter_any():
                body += chunk
                if len(body) > BODY_BYTES_MAX:
                    raise RatesUnavailable(f"the answer has more than {BODY_BYTES_MAX} bytes")
        rates = parse_answer(bytes(body), base, self._codes)
        if self._is_believed(base, rates, asked_at):
            self._doubtful.pop(base, None)
            self._rates[base] = rates
            self._valid_until[base] = asked_at + self._lifetime_s + self._stale_s
            self._publish()
        else:
            self._doubtful[base] = rates

    def _is_believed(self, base: str, rates: Rates, now: float) -> bool:
        if now > self._valid_until.get(base, -math.inf):
            return True
        jumps = _jumps(self._rates[base], rates)
        if not jumps:
            return True
        self.jumps += 1
        doubtful = self._doubtful.get(base)
        confirmed = doubtful is not None and not _jumps(doubtful, rates)
        for code in jumps:
            log.error(
                "exchange_rate_jumped",
                base=base,
                quote=code,
                old=_decimal(self._rates[base][code]),
                new=_decimal(rates[code]),
                used=confirmed,
            )
        return confirmed

    def _publish(self) -> None:
        rates = {**self._rates, **self._fixed}
        table = {
            (base, code): rate for base, quotes in rates.items() for code, rate in quotes.items()
        }
        valid_until = {**self._valid_until, **dict.fromkeys(self._fixed, math.inf)}
        self._on_change(RateTable(table, valid_until))


def parse_answer(body: bytes, base: str, codes: Iterable[str]) -> Rates:
    """Read what the rates service answered, as far as it is about ``codes``.

    Numbers are read as decimals, exactly. Raises RatesUnavailable: any fault in what is needed
    refuses the whole, so that one broken answer leaves the last good one in force.
    """
    try:
        answer = json.loads(
            body.decode(),
            parse_float=Decimal,
            parse_int=Decimal,
            parse_constant=_refuse_constant,
            object_pairs_hook=_refuse_duplicates,
        )
    except (ValueError, ArithmeticError, RecursionError) as error:
        raise RatesUnavailable(f"the answer is not JSON: {str(error)[:100]}") from None
    quotes = answer.get("rates") if isinstance(answer, dict) else None
    if not isinstance(quotes, dict):
        raise RatesUnavailable('the answer has no "rates"')
    if answer.get("base") != base:
        raise RatesUnavailable(f"the answer is not for base {base}")
    rates: dict[str, Ratio] = {}
    for code in codes:
        rate = quotes.get(code)
        if rate is None or code == base:
            continue
        if not isinstance(rate, Decimal):
            raise RatesUnavailable(f"the rate for {code} is not a number")
        try:
            rates[code] = parse_rate(rate)
        except InvalidInput as error:
            raise RatesUnavailable(f"the rate for {code}: {error}") from None
    return rates


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name appears twice")
    return found


def _jumps(old: Rates, new: Rates) -> list[str]:
    """The codes whose rate moved by more than ``JUMP``, up or down."""
    return [
        code
        for code in old.keys() & new.keys()
        if _exceeds(new[code], old[code]) or _exceeds(old[code], new[code])
    ]


def _exceeds(high: Ratio, low: Ratio) -> bool:
    return (
        high.numerator * low.denominator * JUMP.denominator
        > low.numerator * high.denominator * JUMP.numerator
    )


def _decimal(rate: Ratio) -> str:
    """A rate for people."""
    return str(Decimal(rate.numerator) / Decimal(rate.denominator))
