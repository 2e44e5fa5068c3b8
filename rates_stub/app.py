"""The rates service's HTTP side: ``GET /?base=USD`` (also ``/rates``) and ``/healthz``."""

from typing import Any, Final

import msgspec
from aiohttp import web

from rates_stub.rates import RatesFile

RATES: Final = web.AppKey("rates", RatesFile)


def create_app(rates: RatesFile) -> web.Application:
    app = web.Application(client_max_size=1024)
    app[RATES] = rates
    app.router.add_get("/", get_rates)
    app.router.add_get("/rates", get_rates)
    app.router.add_get("/healthz", get_health)
    return app


async def get_rates(request: web.Request) -> web.Response:
    """Answer with the rates of one base, or 400 with the bases that there are."""
    rates = request.app[RATES]
    bases = request.query.getall("base", [])
    if len(bases) != 1:
        return _answer({"error": "say which base currency, once: ?base=USD"}, 400)
    quotes = rates.quotes(bases[0])
    if quotes is None:
        known = ", ".join(rates.codes())
        return _answer({"error": f"no rates for this base; there are {known}"}, 400)
    # Digit by digit: a float would change them.
    plain = {code: msgspec.Raw(format(rate, "f").encode()) for code, rate in quotes.items()}
    return _answer({"base": bases[0], "rates": plain}, 200)


async def get_health(request: web.Request) -> web.Response:
    return _answer({"currencies": len(request.app[RATES].codes())}, 200)


def _answer(content: Any, status: int) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(content), status=status, content_type="application/json"
    )
