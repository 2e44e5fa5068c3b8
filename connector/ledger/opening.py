"""Opens the ledger that the settings name. Imports only the client that is used."""

from typing import Final

from connector.ledger.ledger import Ledger
from connector.settings import Settings

PROBE_S_MAX: Final = 10.0


async def open_ledger(settings: Settings) -> Ledger:
    """Connect, and see that the ledger answers.

    Raises: LedgerUnavailable - no answer in time; the message names the setting.
    """
    if settings.use_tigerbeetle:
        from connector.ledger.tigerbeetle import TigerBeetleLedger

        addresses = ",".join(settings.tigerbeetle_replica_addresses)
        return await TigerBeetleLedger.connect(
            settings.tigerbeetle_cluster_id, addresses, PROBE_S_MAX
        )
    from connector.ledger.postgres import PostgresLedger

    ledger = PostgresLedger(settings.postgres_url())
    await ledger.lookup_accounts([1])
    return ledger
