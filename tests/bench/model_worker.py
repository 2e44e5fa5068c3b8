"""One connector worker on the in-memory model of the ledger: the connector's own cost, alone.

Peers and rates are fixed, money is plenty, nothing is stored. ``CONNECTOR_PORT``, ``SINK_PORT``,
``PEERS`` (how many senders, the last of them without funds if ``BROKE=1``), ``CROSS=1``.
"""

import asyncio
import os
import secrets
import signal
import time
from collections.abc import Iterator
from hashlib import sha256

import uvloop

from connector.deadlines import TICK_S
from connector.directory import Asset, Directory, Peer, RateTable
from connector.ledger.batcher import Batcher
from connector.ledger.ledger import DEBITS_MUST_NOT_EXCEED_CREDITS, Account, Transfer
from connector.ledger.model import ModelLedger
from connector.links.http_client import HttpLinks
from connector.links.http_server import IlpHttpServer, ServerLimits
from connector.money import Ratio
from connector.pipeline import PacketRules, Pipeline

TENANT = "operator"
EUR = Asset(101, TENANT, "EUR", 2, 1)
USD = Asset(102, TENANT, "USD", 2, 2)
PLENTY = 1 << 60


def peers(cross: bool) -> Iterator[Peer]:
    sink_url = f"http://127.0.0.1:{os.environ['SINK_PORT']}/"
    sink_asset = USD if cross else EUR
    yield Peer(9, TENANT, sink_asset, "test.sink", "sink", endpoint=sink_url, max_in_flight=10_000)
    for index in range(int(os.environ.get("PEERS", "1"))):
        yield Peer(10 + index, TENANT, EUR, f"test.node.sender{index}", f"sender{index}")


async def fund(ledger: ModelLedger, directory: Directory) -> None:
    bank = {asset.ledger: 1000 + asset.ledger for asset in (EUR, USD)}
    limited = DEBITS_MUST_NOT_EXCEED_CREDITS
    accounts = [Account(account_id, ledger, 101) for ledger, account_id in bank.items()]
    accounts += [Account(asset.id, asset.ledger, 2, limited) for asset in (EUR, USD)]
    accounts += [Account(p.id, p.asset.ledger, 3, limited) for p in directory.peers.values()]
    assert not await ledger.create_accounts(accounts)
    funded = [(asset.id, asset.ledger) for asset in (EUR, USD)]
    senders = [p for p in directory.peers.values() if p.endpoint is None]
    if os.environ.get("BROKE"):
        senders.pop()
    funded += [(p.id, p.asset.ledger) for p in senders]
    deposits = [
        Transfer(index + 1, bank[number], account_id, PLENTY, ledger=number, code=2)
        for index, (account_id, number) in enumerate(funded)
    ]
    assert not await ledger.create_transfers(deposits)


async def run() -> None:
    everyone = list(peers(bool(os.environ.get("CROSS"))))
    tokens = {sha256(f"token-{p.name}".encode()).digest(): p.id for p in everyone}
    directory = Directory(1, {TENANT: "test.node"}, everyone, tokens)
    ledger = ModelLedger()
    await fund(ledger, directory)
    batcher = Batcher(ledger, on_session_lost=lambda: None)
    pipeline = Pipeline(
        ledger=batcher,
        slot=1,
        rules=PacketRules(),
        wall_ms=lambda: time.time_ns() // 1_000_000,
        monotonic=time.monotonic,
        random_bits=secrets.randbits,
        on_account_missing=lambda: None,
    )
    pipeline.links = links = HttpLinks(pipeline)
    pipeline.apply_directory(directory)
    forever = time.monotonic() + 1e6
    pipeline.apply_rates(RateTable({("EUR", "USD"): Ratio(108, 100)}, {"EUR": forever}))
    links.update(directory.peers.values())
    batcher.start()
    server = IlpHttpServer(
        authenticate=pipeline.authenticate,
        receive_prepare=pipeline.receive_prepare,
        limits=ServerLimits(),
    )
    await server.start("127.0.0.1", int(os.environ["CONNECTOR_PORT"]))
    print("ready", flush=True)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    while not stop.is_set():
        await asyncio.sleep(TICK_S)
        pipeline.tick()
    print(f"{pipeline.in_flight} in flight", flush=True)


def main() -> None:
    uvloop.run(run())


if __name__ == "__main__":
    main()
