"""Run the example rates service: ``python -m rates_stub``."""

import sys

import click
from aiohttp import web

from connector.errors import ConfigError
from connector.logging import configure
from connector.settings import load_settings
from rates_stub.app import create_app
from rates_stub.rates import BUILT_IN, RatesFile, RatesFileError

SHUTDOWN_S_MAX = 2.0


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Serve example exchange rates: GET /?base=USD on RATES_HOST and RATES_PORT.

    The rates stand in the JSON file that EXCHANGE_RATES_FILE names, which is read again whenever it
    changes: {"base": "USD", "rates": {"EUR": "0.92"}} means 0.92 EUR for 1 USD. Other bases are
    computed from it. Without a file there are a few built-in examples: not for real money.
    """
    try:
        settings = load_settings(generate=False)
    except ConfigError as error:
        raise click.ClickException(str(error)) from None
    configure(settings, "rates")
    path = settings.exchange_rates_file or BUILT_IN
    try:
        rates = RatesFile(path)
    except RatesFileError as error:
        raise click.ClickException(f"EXCHANGE_RATES_FILE is {str(path)!r}: it {error}") from None
    try:
        web.run_app(
            create_app(rates),
            host=settings.rates_host,
            port=settings.rates_port,
            access_log=None,
            print=None,
            shutdown_timeout=SHUTDOWN_S_MAX,
        )
    except OSError as error:
        reason = error.strerror or str(error)
        raise click.ClickException(f"RATES_PORT is {settings.rates_port}: {reason}") from None
    sys.exit(0)


if __name__ == "__main__":
    main()
