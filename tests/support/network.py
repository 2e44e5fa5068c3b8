"""Two nodes with different assets between a sender and a receiver: the network of the big tests.

sender (EUR/2) -> N1 (EUR/2 | USD/4) -> N2 (USD/4 | GBP/2) -> receiver (GBP/2). N1 changes EUR into
USD, N2 changes USD into GBP, each at a fixed rate.
"""

from collections.abc import AsyncIterator, Iterator
from typing import Final

import pytest

from connector.accounts.records import PeerChanges
from connector.ledger import plan
from connector.ledger.ledger import POST_PENDING_TRANSFER, Account, Ledger, Transfer
from connector.money import Ratio, convert_floor, parse_rate, rescale
from tests.support.node import TENANT, Node
from tests.support.postgres import PostgresServer
from tests.support.requires import require
from tests.support.tigerbeetle import Replica

EUR_USD: Final = parse_rate("1.0837")
USD_GBP: Final = parse_rate("0.7512")
# The way back is for the probes that a STREAM server sends.
RATES: Final = """{
    "EUR": {"USD": "1.0837"}, "USD": {"GBP": "0.7512", "EUR": "0.9227"}, "GBP": {"USD": "1.3312"}
}"""
FUNDS: Final = 10**13

TO_N1: Final = "token-of-the-sender-at-n1-0123456789abcdef"
FROM_N1: Final = "token-of-n1-at-the-sender-0123456789abcdef"
N1_TO_N2: Final = "token-of-n1-at-n2-0123456789abcdef-01234567"
N2_TO_N1: Final = "token-of-n2-at-n1-0123456789abcdef-01234567"
FROM_N2: Final = "token-of-n2-at-the-receiver-0123456789abcdef"
TO_N2: Final = "token-of-the-receiver-at-n2-0123456789abcdef"


class Network:
    """The nodes, and the ids of the accounts that matter."""

    def __init__(self, n1: Node, n2: Node) -> None:
        self.n1 = n1
        self.n2 = n2
        self.ids: dict[str, int] = {}

    async def set_up(
        self, sender_url: str, receiver_url: str, *, max_packet_amount: int = 0
    ) -> None:
        """Assets, peers and liquidity on both nodes."""
        async with self.n1.service() as service:
            eur = await service.create_asset(TENANT, "EUR", 2)
            usd = await service.create_asset(TENANT, "USD", 4)
            sender = await service.create_peer(
                TENANT,
                eur.id,
                peer("sender", "test.n1.sender", sender_url, FROM_N1, max_packet_amount),
                [TO_N1],
            )
            n2 = await service.create_peer(
                TENANT, usd.id, peer("n2", "test.n2", self.n2.url, N1_TO_N2), [N2_TO_N1]
            )
            await service.deposit_asset(TENANT, eur.id, FUNDS)
            await service.deposit_peer(TENANT, sender.id, FUNDS)
            await service.deposit_peer(TENANT, n2.id, FUNDS)
            await service.deposit_asset(TENANT, usd.id, FUNDS)
            self.ids |= {
                "n1.eur": eur.id.int,
                "n1.usd": usd.id.int,
                "sender": sender.id.int,
                "n2": n2.id.int,
            }
        async with self.n2.service() as service:
            usd = await service.create_asset(TENANT, "USD", 4)
            gbp = await service.create_asset(TENANT, "GBP", 2)
            n1 = await service.create_peer(
                TENANT, usd.id, peer("n1", "test.n1", self.n1.url, N2_TO_N1), [N1_TO_N2]
            )
            receiver = await service.create_peer(
                TENANT,
                gbp.id,
                peer("receiver", "test.n2.receiver", receiver_url, FROM_N2),
                [TO_N2],
            )
            await service.deposit_peer(TENANT, n1.id, FUNDS)
            await service.deposit_peer(TENANT, receiver.id, FUNDS)
            await service.deposit_asset(TENANT, usd.id, FUNDS)
            await service.deposit_asset(TENANT, gbp.id, FUNDS)
            self.ids |= {
                "n2.usd": usd.id.int,
                "n2.gbp": gbp.id.int,
                "n1": n1.id.int,
                "receiver": receiver.id.int,
            }

    async def accounts(self) -> dict[str, Account]:
        """What the ledgers say, by name."""
        found: dict[str, Account] = {}
        for node, names in (
            (self.n1, ("n1.eur", "n1.usd", "sender", "n2")),
            (self.n2, ("n2.usd", "n2.gbp", "n1", "receiver")),
        ):
            async with node.open_ledger() as ledger:
                for name in names:
                    (found[name],) = await ledger.lookup_accounts([self.ids[name]])
        return found


def peer(
    name: str, address: str, endpoint: str, outgoing_token: str, max_packet_amount: int = 0
) -> PeerChanges:
    return PeerChanges(
        name=name,
        static_ilp_address=address,
        outgoing_endpoint=endpoint,
        outgoing_token=outgoing_token,
        max_packet_amount=max_packet_amount,
        max_in_flight=1000,
    )


async def transfers_of(ledger: Ledger, account_id: int) -> list[Transfer]:
    """Every transfer of an account, page by page."""
    found: list[Transfer] = []
    start = 0
    while page := await ledger.account_transfers(account_id, timestamp_min=start):
        found += page
        start = page[-1].timestamp + 1
    return found


async def posted(ledger: Ledger, account_id: int) -> list[int]:
    """The amount of every packet that was posted on an account."""
    return [
        transfer.amount
        for transfer in await transfers_of(ledger, account_id)
        if transfer.flags & POST_PENDING_TRANSFER
        and (transfer.user_data_32 & ~plan.RESOLVED) >> 24 == plan.PACKET
    ]


def to_usd(eur: int) -> int:
    """One packet's EUR/2 in USD/4, rounded down as N1 does."""
    return convert_floor(eur, _ratio(EUR_USD, 2, 4))


def to_gbp(usd: int) -> int:
    """One packet's USD/4 in GBP/2, rounded down as N2 does."""
    return convert_floor(usd, _ratio(USD_GBP, 4, 2))


def _ratio(rate: Ratio, source_scale: int, destination_scale: int) -> Ratio:
    return rescale(rate, source_scale, destination_scale)


@pytest.fixture(params=["postgres", "tigerbeetle"])
def ledgers(request: pytest.FixtureRequest) -> Iterator[list[dict[str, str]]]:
    """The environment that gives each of the two nodes its ledger."""
    if request.param == "postgres":
        yield [{}, {}]
        return
    binary = require("tigerbeetle")
    replicas = [Replica(binary), Replica(binary)]
    yield [{"TIGERBEETLE_REPLICA_ADDRESSES": r.cluster.addresses} for r in replicas]
    for replica in replicas:
        replica.close()


@pytest.fixture
async def network(
    postgres_server: PostgresServer, ledgers: list[dict[str, str]], request: pytest.FixtureRequest
) -> AsyncIterator[Network]:
    """Two nodes that are not started yet; ``@pytest.mark.node_settings(NAME=value)`` for both."""
    marker = request.node.get_closest_marker("node_settings")
    settings: dict[str, str] = marker.kwargs if marker else {}
    rates = {"EXCHANGE_RATES": RATES}
    urls = [postgres_server.create_database() for _ in ledgers]
    n1, n2 = (
        Node(url, ilp_address=f"test.n{number}", workers=2, environment=rates | settings | ledger)
        for number, url, ledger in zip((1, 2), urls, ledgers, strict=True)
    )
    yield Network(n1, n2)
    for node, url in ((n1, urls[0]), (n2, urls[1])):
        node.close()
        postgres_server.drop_database(url)
