"""What an operator changes holds in every worker soon after, without a restart.

"Soon" is a second on an idle machine; the tests wait longer, and for the change itself.
"""

import asyncio

import asyncpg
import pytest

from connector.accounts.records import PeerChanges
from tests.support.ledger_server import ON_POSTGRES
from tests.support.line import ALICE_TO_BOB, Line, token_of, wait_for
from tests.support.neighbours import Receiver, Sender
from tests.support.node import TENANT

WORKERS = 2
# Each connection is with a worker of its own chance: all with one, 1 time in 2^23.
CONNECTIONS = 24
EXTRA_ROUTE = "test.far.away"

pytestmark = [ON_POSTGRES, pytest.mark.node_settings(CONNECTOR_WORKERS=str(WORKERS))]


async def outcomes(sender: Sender, destination: str) -> set[str]:
    """What packets on many new connections come to: codes, or HTTP's status for other than 200."""
    sender.forget_connections()
    packets = await asyncio.gather(*(sender.send(destination) for _ in range(CONNECTIONS)))
    return {sent.code if sent.status == 200 else str(sent.status) for sent in packets}


async def wait_for_outcome(sender: Sender, destination: str, expected: str) -> None:
    """Wait until every worker answers as expected."""

    async def reached() -> bool:
        return await outcomes(sender, destination) == {expected}

    await wait_for(reached, f"{expected} for {destination}")


async def test_changes(line: Line) -> None:
    await check_changes(line)


async def test_changes_after_the_directory_lost_its_connections(line: Line) -> None:
    connection = await asyncpg.connect(line.node.settings.postgres_url())
    try:
        terminated = await connection.fetch(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid() "
            "AND application_name = 'jirani directory'"
        )
    finally:
        await connection.close()
    assert len(terminated) == WORKERS
    await check_changes(line)


async def check_changes(line: Line) -> None:
    async with Receiver() as elsewhere:
        assert await outcomes(line.alice, ALICE_TO_BOB) == {"fulfilled"}

        # A new peer.
        dora = await line.add_sender("dora")
        await wait_for_outcome(dora, ALICE_TO_BOB, "fulfilled")

        # A rotated token: both are taken, then only the new one.
        (old,) = await line.service.list_tokens(TENANT, line.uuid("alice"))
        _, line.alice.token = await line.service.add_token(TENANT, line.uuid("alice"))
        await wait_for_outcome(line.alice, ALICE_TO_BOB, "fulfilled")
        await line.service.remove_token(TENANT, old.id)
        new, line.alice.token = line.alice.token, token_of("alice")
        await wait_for_outcome(line.alice, ALICE_TO_BOB, "401")
        line.alice.token = new
        assert await outcomes(line.alice, ALICE_TO_BOB) == {"fulfilled"}

        # The largest packet.
        await line.service.update_peer(TENANT, line.uuid("dora"), PeerChanges(max_packet_amount=1))
        await wait_for_outcome(dora, ALICE_TO_BOB, "F08")
        assert await outcomes(line.alice, ALICE_TO_BOB) == {"fulfilled"}

        # A route, added and removed.
        await line.service.add_routes(TENANT, line.uuid("bob"), [EXTRA_ROUTE])
        await wait_for_outcome(line.alice, EXTRA_ROUTE, "fulfilled")
        await line.service.remove_route(TENANT, line.uuid("bob"), EXTRA_ROUTE)
        await wait_for_outcome(line.alice, EXTRA_ROUTE, "F02")

        # The endpoint.
        changes = PeerChanges(outgoing_endpoint=elsewhere.endpoint, outgoing_token="other-token")
        await line.service.update_peer(TENANT, line.uuid("bob"), changes)

        async def all_elsewhere() -> bool:
            before = len(elsewhere.seen)
            assert await outcomes(line.alice, ALICE_TO_BOB) == {"fulfilled"}
            return len(elsewhere.seen) == before + CONNECTIONS

        await wait_for(all_elsewhere, "the new endpoint is used")
        authorizations = {request.headers["authorization"] for request in elsewhere.requests}
        assert authorizations == {"Bearer other-token"}
        line.bob.fulfilled += elsewhere.fulfilled
    books = await line.check_books()
    assert books.paid_by(line.ids["alice"]) == line.alice.fulfilled
