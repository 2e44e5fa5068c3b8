"""Assets, peers, tokens and liquidity, from the operator's side."""

import asyncio
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import UUID, uuid1, uuid4

import asyncpg
import pytest

from connector.accounts.cipher import Cipher
from connector.accounts.records import AssetChanges, PeerChanges, PeerRecord
from connector.accounts.service import AccountService, digest_token
from connector.accounts.store import AccountStore
from connector.directory import RateLimit
from connector.errors import (
    Conflict,
    InvalidInput,
    LedgerUnavailable,
    NotFound,
)
from connector.ledger import accounts
from connector.ledger.ledger import (
    CREDITS_MUST_NOT_EXCEED_DEBITS,
    DEBITS_MUST_NOT_EXCEED_CREDITS,
    HISTORY,
    PENDING,
    Account,
    Transfer,
)
from connector.ledger.model import ModelLedger
from connector.ledger.postgres import PostgresLedger
from connector.money import U64_MAX

TOKEN = "bob-comes-in-with-this"


async def add_peer(service: AccountService, tenant: UUID, **settings: Any) -> PeerRecord:
    asset = await service.store.find_asset(tenant, "USD", 2)
    asset = asset or await service.create_asset(tenant, "USD", 2)
    values = {"static_ilp_address": "test.bob", "name": "bob", **settings}
    return await service.create_peer(tenant, asset.id, PeerChanges(**values), [TOKEN])


class TestAssets:
    async def test_an_asset_comes_with_its_accounts(
        self, service: AccountService, ledger: ModelLedger, tenant: UUID
    ) -> None:
        asset = await service.create_asset(tenant, "USD", 2, liquidity_threshold=7)
        assert (asset.ledger, asset.liquidity_threshold) == (1, 7)
        own, settlement, control = await ledger.lookup_accounts([asset.id.int, 1, 2**31 + 1])
        assert (own.code, own.ledger, own.user_data_128) == (2, 1, asset.id.int)
        assert own.flags & ~1 == DEBITS_MUST_NOT_EXCEED_CREDITS | HISTORY
        assert (settlement.code, settlement.ledger, settlement.user_data_128) == (
            101,
            1,
            asset.id.int,
        )
        assert settlement.flags == CREDITS_MUST_NOT_EXCEED_DEBITS | HISTORY
        assert (control.code, control.ledger) == (102, 2**31 + 1)
        assert control.flags & ~1 == CREDITS_MUST_NOT_EXCEED_DEBITS

    async def test_an_asset_exists_once(self, service: AccountService, tenant: UUID) -> None:
        asset = await service.create_asset(tenant, "USD", 2)
        with pytest.raises(Conflict, match=str(asset.id)):
            await service.create_asset(tenant, "USD", 2)
        assert await service.create_asset(tenant, "USD", 2, asset_id=asset.id) == asset
        other_scale = await service.create_asset(tenant, "USD", 9)
        assert other_scale.ledger != asset.ledger

    async def test_adding_an_asset_from_two_sides_makes_one(
        self, service: AccountService, tenant: UUID
    ) -> None:
        outcomes = await asyncio.gather(
            *(service.create_asset(tenant, "USD", 2) for _ in range(4)), return_exceptions=True
        )
        assert sum(isinstance(outcome, Conflict) for outcome in outcomes) == 3
        assert len(await service.store.list_assets(tenant)) == 1

    async def test_a_removed_asset_comes_back_with_its_ledger(
        self, service: AccountService, tenant: UUID
    ) -> None:
        asset = await service.create_asset(tenant, "USD", 2, liquidity_threshold=7)
        await service.remove_asset(tenant, asset.id)
        with pytest.raises(NotFound, match="removed"):
            await service.update_asset(tenant, asset.id, AssetChanges(liquidity_threshold=1))
        with pytest.raises(Conflict):
            await service.create_asset(tenant, "USD", 2, asset_id=uuid4())
        again = await service.create_asset(tenant, "USD", 2)
        assert (again.id, again.ledger, again.deleted_at) == (asset.id, asset.ledger, None)
        assert again.liquidity_threshold is None

    async def test_an_asset_in_use_stays(self, service: AccountService, tenant: UUID) -> None:
        peer = await add_peer(service, tenant)
        with pytest.raises(Conflict, match="used by 1 peer"):
            await service.remove_asset(tenant, peer.asset.id)
        await service.remove_peer(tenant, peer.id)
        await service.deposit_asset(tenant, peer.asset.id, 5)
        with pytest.raises(Conflict, match=r"balance of 5 \(0\.05 USD\)"):
            await service.remove_asset(tenant, peer.asset.id)
        await service.withdraw_asset(tenant, peer.asset.id, 5)
        await service.remove_asset(tenant, peer.asset.id)
        with pytest.raises(NotFound):
            await add_to_removed(service, tenant, peer.asset.id)

    async def test_changes_leave_the_rest(self, service: AccountService, tenant: UUID) -> None:
        asset = await service.create_asset(
            tenant, "USD", 2, liquidity_threshold=7, withdrawal_threshold=U64_MAX
        )
        changed = await service.update_asset(
            tenant, asset.id, AssetChanges(liquidity_threshold=None)
        )
        assert changed.liquidity_threshold is None
        assert changed.withdrawal_threshold == U64_MAX

    @pytest.mark.parametrize(
        ("code", "scale"), [("", 2), ("U D", 2), ("U" * 33, 2), ("USD\n", 2), ("USD", 256)]
    )
    async def test_what_is_no_asset_is_refused(
        self, service: AccountService, tenant: UUID, code: str, scale: int
    ) -> None:
        with pytest.raises(InvalidInput):
            await service.create_asset(tenant, code, scale)

    async def test_ledger_numbers_of_a_lost_database_are_left_alone(
        self, service: AccountService, ledger: ModelLedger, tenant: UUID
    ) -> None:
        for number in (1, 2):
            await ledger.create_accounts([Account(number, number, 101, user_data_128=99)])
        await ledger.create_accounts([Account(2**31 + 3, 2**31 + 3, 102, user_data_128=99)])
        asset = await service.create_asset(tenant, "USD", 2)
        assert asset.ledger == 4
        [settlement] = await ledger.lookup_accounts([4])
        assert settlement.user_data_128 == asset.id.int


async def add_to_removed(service: AccountService, tenant: UUID, asset_id: UUID) -> None:
    settings = PeerChanges(static_ilp_address="test.late")
    await service.create_peer(tenant, asset_id, settings)


class TestPeers:
    async def test_a_peer_comes_with_its_account(
        self, service: AccountService, ledger: ModelLedger, tenant: UUID
    ) -> None:
        peer = await add_peer(service, tenant, routes=("test.far", ""))
        [account] = await ledger.lookup_accounts([peer.id.int])
        assert (account.code, account.ledger, account.flags, account.user_data_128) == (
            3,
            peer.asset.ledger,
            DEBITS_MUST_NOT_EXCEED_CREDITS,
            peer.asset.id.int,
        )
        assert peer.routes == ("", "test.far")
        assert peer.incoming_tokens == 1

    async def test_every_setting_is_kept(self, service: AccountService, tenant: UUID) -> None:
        settings = {
            "outgoing_endpoint": "http://127.0.0.1:4002/ilp?a=b",
            "max_packet_amount": U64_MAX,
            "liquidity_threshold": 3,
            "packet_limit": RateLimit(20_000, 30_000),
            "amount_limit": RateLimit(U64_MAX, U64_MAX),
            "max_in_flight": 5,
            "max_in_flight_amount": U64_MAX,
            "pipeline_depth": 4,
        }
        peer = await add_peer(service, tenant, outgoing_token="x", **settings)
        for name, value in settings.items():
            assert getattr(peer, name) == value
        assert await service.store.load_peer(tenant, peer.id) == peer
        assert (
            await service.create_peer(
                tenant, peer.asset.id, PeerChanges(static_ilp_address="test.bob"), peer_id=peer.id
            )
            == peer
        )

    async def test_the_outgoing_token_is_encrypted_and_bound_to_its_peer(
        self, service: AccountService, pool: asyncpg.Pool, cipher: Cipher, tenant: UUID
    ) -> None:
        peer = await add_peer(
            service, tenant, outgoing_endpoint="http://bob", outgoing_token="open-sesame"
        )
        stored = await pool.fetchval("SELECT outgoing_token FROM peers")
        assert b"sesame" not in stored
        assert cipher.decrypt(peer.id, stored) == "open-sesame"

    async def test_incoming_tokens_are_stored_as_digests(
        self, service: AccountService, pool: asyncpg.Pool, tenant: UUID
    ) -> None:
        await add_peer(service, tenant)
        assert await pool.fetchval("SELECT digest FROM incoming_tokens") == digest_token(TOKEN)

    async def test_a_token_belongs_to_one_peer(self, service: AccountService, tenant: UUID) -> None:
        await add_peer(service, tenant)
        with pytest.raises(Conflict, match="token is in use"):
            await add_peer(service, tenant, static_ilp_address="test.carol")
        assert len(await service.store.list_peers(tenant)) == 1

    async def test_an_address_belongs_to_one_peer_of_an_asset(
        self, service: AccountService, tenant: UUID
    ) -> None:
        bob = await add_peer(service, tenant)
        with pytest.raises(Conflict, match=str(bob.id)):
            await add_peer(service, tenant)
        settings = PeerChanges(static_ilp_address="test.carol")
        carol = await service.create_peer(tenant, bob.asset.id, settings)
        with pytest.raises(Conflict, match=r"test\.bob"):
            await service.update_peer(tenant, carol.id, PeerChanges(static_ilp_address="test.bob"))
        await service.remove_peer(tenant, bob.id)
        again = await add_peer(service, tenant)
        assert again.id != bob.id

    @pytest.mark.parametrize(
        "settings",
        [
            {"static_ilp_address": "test"},
            {"static_ilp_address": "peer.bob"},
            {"static_ilp_address": "test.bob\n"},
            {"static_ilp_address": "test." + "b" * 1023},
            {"routes": ("peer.config",)},
            {"routes": ("test..x",)},
            {"routes": tuple(f"test.r{n}" for n in range(1001))},
            {"outgoing_endpoint": "http://bob"},
            {"outgoing_token": "x"},
            {"outgoing_endpoint": "ftp://bob", "outgoing_token": "x"},
            {"outgoing_endpoint": "http://me:pw@bob", "outgoing_token": "x"},
            {"outgoing_endpoint": "http://", "outgoing_token": "x"},
            {"outgoing_endpoint": "http://bob:99999", "outgoing_token": "x"},
            {"outgoing_endpoint": "HTTP://bob", "outgoing_token": "x"},
            {"outgoing_endpoint": "http://bob/#part", "outgoing_token": "x"},
            {"outgoing_endpoint": "http://[bob", "outgoing_token": "x"},
            {"outgoing_endpoint": "http://b\u00f6b", "outgoing_token": "x"},
            {"outgoing_endpoint": "https://bob/" + "x" * 2037, "outgoing_token": "x"},
            {"outgoing_endpoint": "http://bob\r\nX: y", "outgoing_token": "x"},
            {"outgoing_endpoint": "http://bob", "outgoing_token": "two words"},
            {"max_packet_amount": U64_MAX + 1},
            {"max_packet_amount": -1},
            {"packet_limit": RateLimit(0, 1)},
            {"packet_limit": RateLimit(1, 0)},
            {"amount_limit": RateLimit(U64_MAX + 1, 1)},
            {"max_in_flight": 0},
            {"pipeline_depth": 257},
            {"name": "x" * 201},
            {"name": "\x1b[31mred"},
        ],
    )
    async def test_settings_out_of_bounds_are_refused(
        self, service: AccountService, tenant: UUID, settings: dict[str, Any]
    ) -> None:
        with pytest.raises(InvalidInput) as refusal:
            await add_peer(service, tenant, **settings)
        assert len(str(refusal.value)) < 300

    @pytest.mark.parametrize(
        "url",
        [
            "http://bob",
            "https://bob.example:8443/ilp",
            "http://[::1]:4002/",
            "http://bob?key=a/b&c=%40",
            "http://bob/a?b=[c]~|",
            "https://bob/" + "x" * 2036,
        ],
    )
    async def test_endpoints_of_all_kinds_are_kept(
        self, service: AccountService, tenant: UUID, url: str
    ) -> None:
        peer = await add_peer(service, tenant, outgoing_endpoint=url, outgoing_token="x")
        assert peer.outgoing_endpoint == url

    @pytest.mark.parametrize(
        "prefix", ["", "g", "test3", "private", "g.a.b-c_d~e", "g." + "a" * 1021]
    )
    async def test_prefixes_of_all_kinds_are_kept(
        self, service: AccountService, tenant: UUID, prefix: str
    ) -> None:
        assert (await add_peer(service, tenant, routes=(prefix,))).routes == (prefix,)

    async def test_a_claim_for_no_known_reason_is_refused(
        self, service: AccountService, tenant: UUID
    ) -> None:
        peer = await add_peer(service, tenant)
        with pytest.raises(InvalidInput, match="reason"):
            await service.store.record_claim(tenant, peer.id, 1, "because", 1, bytes(32))

    async def test_short_tokens_are_refused(self, service: AccountService, tenant: UUID) -> None:
        peer = await add_peer(service, tenant)
        with pytest.raises(InvalidInput, match="16 to 4096"):
            await service.add_token(tenant, peer.id, "short")

    async def test_an_endpoint_goes_with_its_token(
        self, service: AccountService, pool: asyncpg.Pool, cipher: Cipher, tenant: UUID
    ) -> None:
        peer = await add_peer(service, tenant)
        both = PeerChanges(outgoing_endpoint="http://bob", outgoing_token="first")
        await service.update_peer(tenant, peer.id, both)
        await service.update_peer(tenant, peer.id, PeerChanges(outgoing_endpoint="http://new"))
        stored = await pool.fetchval("SELECT outgoing_token FROM peers")
        assert cipher.decrypt(peer.id, stored) == "first"
        bare = await service.update_peer(tenant, peer.id, PeerChanges(outgoing_endpoint=None))
        assert bare.outgoing_endpoint is None
        assert await pool.fetchval("SELECT outgoing_token FROM peers") is None

    async def test_routes_come_and_go(self, service: AccountService, tenant: UUID) -> None:
        peer = await add_peer(service, tenant, routes=("test.a",))
        peer = await service.add_routes(tenant, peer.id, ["test.b", "test.a"])
        assert peer.routes == ("test.a", "test.b")
        peer = await service.remove_route(tenant, peer.id, "test.a")
        assert peer.routes == ("test.b",)
        with pytest.raises(NotFound):
            await service.remove_route(tenant, peer.id, "test.a")

    async def test_routes_added_at_once_are_all_kept(
        self, service: AccountService, tenant: UUID
    ) -> None:
        peer = await add_peer(service, tenant)
        await asyncio.gather(
            *(service.add_routes(tenant, peer.id, [f"test.r{n}"]) for n in range(8))
        )
        assert len((await service.store.load_peer(tenant, peer.id)).routes) == 8

    async def test_a_peer_with_money_stays(self, service: AccountService, tenant: UUID) -> None:
        peer = await add_peer(service, tenant)
        await service.deposit_peer(tenant, peer.id, 100)
        with pytest.raises(Conflict, match=r"balance of 100 \(1\.00 USD\)"):
            await service.remove_peer(tenant, peer.id)
        await service.remove_peer(tenant, peer.id, force=True)
        with pytest.raises(NotFound):
            await service.remove_peer(tenant, peer.id)
        names = [record.name for record in await service.balances(tenant)]
        assert "bob" in names
        await service.withdraw_peer(tenant, peer.id, 100)
        names = [record.name for record in await service.balances(tenant)]
        assert "bob" not in names

    async def test_tokens_can_be_rotated(self, service: AccountService, tenant: UUID) -> None:
        peer = await add_peer(service, tenant)
        [old] = await service.list_tokens(tenant, peer.id)
        token_id, token = await service.add_token(tenant, peer.id)
        assert len(token) >= 43
        assert {record.id for record in await service.list_tokens(tenant, peer.id)} == {
            old.id,
            token_id,
        }
        await service.remove_token(tenant, old.id)
        with pytest.raises(NotFound):
            await service.remove_token(tenant, old.id)
        for _ in range(19):
            await service.add_token(tenant, peer.id)
        with pytest.raises(Conflict, match="at most 20"):
            await service.add_token(tenant, peer.id)


class TestLiquidity:
    async def test_deposits_and_withdrawals(
        self, service: AccountService, ledger: ModelLedger, tenant: UUID
    ) -> None:
        peer = await add_peer(service, tenant)
        transfer_id = await service.deposit_peer(tenant, peer.id, 1000)
        await service.withdraw_peer(tenant, peer.id, 300)
        await service.deposit_asset(tenant, peer.asset.id, 50)
        by_kind = {record.kind: record.balance for record in await service.balances(tenant)}
        assert by_kind == {"peer": 700, "asset": 50, "settlement": 750}
        [transfer] = await ledger.lookup_transfers([transfer_id.int])
        assert (transfer.code, transfer.ledger, transfer.user_data_32) == (2, 1, 8 << 24)
        assert (transfer.debit_account_id, transfer.credit_account_id) == (1, peer.id.int)

    async def test_a_repeat_changes_nothing(self, service: AccountService, tenant: UUID) -> None:
        peer = await add_peer(service, tenant)
        transfer_id = uuid4()
        for _ in range(2):
            assert await service.deposit_peer(tenant, peer.id, U64_MAX, transfer_id) == transfer_id
        with pytest.raises(Conflict, match="another transfer"):
            await service.deposit_peer(tenant, peer.id, 1, transfer_id)
        with pytest.raises(Conflict, match="another transfer"):
            await service.withdraw_peer(tenant, peer.id, U64_MAX, transfer_id)
        withdrawal_id = uuid4()
        for _ in range(2):
            await service.withdraw_peer(tenant, peer.id, U64_MAX, withdrawal_id)
        balances = {record.kind: record.balance for record in await service.balances(tenant)}
        assert balances["peer"] == 0

    async def test_a_refused_withdrawal_says_what_there_is(
        self, service: AccountService, tenant: UUID
    ) -> None:
        peer = await add_peer(service, tenant)
        await service.deposit_peer(tenant, peer.id, 1234)
        with pytest.raises(Conflict, match=r"only 1234 \(12\.34 USD\) is available"):
            await service.withdraw_peer(tenant, peer.id, 1235)

    async def test_held_money_cannot_be_withdrawn(
        self, service: AccountService, ledger: ModelLedger, tenant: UUID
    ) -> None:
        peer = await add_peer(service, tenant)
        await service.deposit_peer(tenant, peer.id, 10)
        hold = Transfer(
            7, peer.id.int, peer.asset.id.int, 6, ledger=1, code=1, flags=PENDING, timeout=60
        )
        assert await ledger.create_transfers([hold]) == {}
        with pytest.raises(Conflict, match="only 4 "):
            await service.withdraw_peer(tenant, peer.id, 5)
        records = {record.kind: record for record in await service.balances(tenant)}
        assert (records["peer"].balance, records["peer"].pending_out) == (4, 6)
        assert (records["asset"].balance, records["asset"].pending_in) == (0, 6)

    async def test_a_balance_stays_within_64_bits(
        self, service: AccountService, tenant: UUID
    ) -> None:
        peer = await add_peer(service, tenant)
        await service.deposit_peer(tenant, peer.id, U64_MAX - 1)
        with pytest.raises(Conflict, match=str(U64_MAX)):
            await service.deposit_peer(tenant, peer.id, 2)
        await service.deposit_peer(tenant, peer.id, 1)

    @pytest.mark.parametrize("amount", [0, -1, U64_MAX + 1])
    async def test_amounts_out_of_bounds_are_refused(
        self, service: AccountService, tenant: UUID, amount: int
    ) -> None:
        peer = await add_peer(service, tenant)
        with pytest.raises(InvalidInput):
            await service.deposit_peer(tenant, peer.id, amount)

    async def test_ids_are_uuids_of_version_4(self, service: AccountService, tenant: UUID) -> None:
        peer = await add_peer(service, tenant)
        with pytest.raises(InvalidInput, match="version 4"):
            await service.deposit_peer(tenant, peer.id, 1, uuid1())

    async def test_a_deposit_opens_the_accounts_on_a_new_ledger(
        self, service: AccountService, pool: asyncpg.Pool, cipher: Cipher, tenant: UUID
    ) -> None:
        peer = await add_peer(service, tenant)
        elsewhere = AccountService(AccountStore(pool), ModelLedger(), cipher)
        with pytest.raises(NotFound, match="ledger in use"):
            await elsewhere.withdraw_peer(tenant, peer.id, 5)
        await elsewhere.deposit_peer(tenant, peer.id, 5)
        await elsewhere.deposit_asset(tenant, peer.asset.id, 5)
        by_kind = {record.kind: record.balance for record in await elsewhere.balances(tenant)}
        assert by_kind == {"peer": 5, "asset": 5, "settlement": 10}

    async def test_an_account_of_another_kind_is_not_touched(
        self, service: AccountService, ledger: ModelLedger, tenant: UUID
    ) -> None:
        asset = await service.create_asset(tenant, "USD", 2)
        peer_id = uuid4()
        await ledger.create_accounts([accounts.incoming_account(peer_id.int, asset.to_asset())])
        with pytest.raises(Conflict, match="something else"):
            await service.create_peer(
                tenant, asset.id, PeerChanges(static_ilp_address="test.bob"), peer_id=peer_id
            )
        assert await service.store.list_peers(tenant) == []


class TestTenants:
    async def test_what_belongs_to_another_tenant_does_not_exist(
        self, service: AccountService, tenant: UUID, other_tenant: UUID
    ) -> None:
        peer = await add_peer(service, tenant)
        await service.deposit_peer(tenant, peer.id, 5)
        [token] = await service.list_tokens(tenant, peer.id)
        attempts = [
            service.update_asset(other_tenant, peer.asset.id, AssetChanges(liquidity_threshold=1)),
            service.remove_asset(other_tenant, peer.asset.id),
            service.create_peer(
                other_tenant, peer.asset.id, PeerChanges(static_ilp_address="test.eve")
            ),
            service.update_peer(other_tenant, peer.id, PeerChanges(name="eve")),
            service.add_routes(other_tenant, peer.id, ["test.eve"]),
            service.remove_route(other_tenant, peer.id, "test.eve"),
            service.remove_peer(other_tenant, peer.id),
            service.add_token(other_tenant, peer.id),
            service.remove_token(other_tenant, token.id),
            service.deposit_peer(other_tenant, peer.id, 1),
            service.withdraw_peer(other_tenant, peer.id, 1),
            service.deposit_asset(other_tenant, peer.asset.id, 1),
            service.withdraw_asset(other_tenant, peer.asset.id, 1),
            service.store.load_asset(other_tenant, peer.asset.id),
            service.store.load_peer(other_tenant, peer.id),
            service.store.record_claim(other_tenant, peer.id, 1, "unpaid", 1, bytes(32)),
        ]
        for attempt in attempts:
            with pytest.raises(NotFound):
                await attempt
        assert await service.balances(other_tenant) == []
        assert await service.list_tokens(other_tenant, peer.id) == []
        assert await service.store.find_asset(other_tenant, "USD", 2) is None
        assert await service.store.find_peer(other_tenant, peer.asset.id, "test.bob") is None
        assert await service.store.list_peers(other_tenant) == []
        assert await service.store.load_peer(tenant, peer.id) == peer

    async def test_each_tenant_has_its_own_ledgers(
        self, service: AccountService, tenant: UUID, other_tenant: UUID
    ) -> None:
        first = await service.create_asset(tenant, "USD", 2)
        second = await service.create_asset(other_tenant, "USD", 2)
        assert first.ledger != second.ledger

    async def test_the_database_belongs_to_one_operator(
        self, service: AccountService, tenant: UUID
    ) -> None:
        await service.store.ensure_operator(tenant)
        with pytest.raises(Conflict, match="OPERATOR_TENANT_ID"):
            await service.store.ensure_operator(uuid4())

    async def test_an_unknown_tenant_has_no_assets(self, service: AccountService) -> None:
        with pytest.raises(NotFound, match="no tenant"):
            await service.create_asset(uuid4(), "USD", 2)

    async def test_claims_are_written_once(
        self, service: AccountService, pool: asyncpg.Pool, tenant: UUID
    ) -> None:
        peer = await add_peer(service, tenant)
        for _ in range(2):
            await service.store.record_claim(tenant, peer.id, 2**127, "unpaid", 9, bytes(32))
        row = await pool.fetchrow("SELECT base, amount, asset_id FROM ledger_claims")
        assert (row["base"].int, int(row["amount"]), row["asset_id"]) == (
            2**127,
            9,
            peer.asset.id,
        )


class FaultyLedger(ModelLedger):
    """Creates accounts, then loses the answer."""

    failures = 0

    async def create_accounts(self, wanted: Sequence[Account]) -> dict[int, int]:
        statuses = await super().create_accounts(wanted)
        if self.failures:
            self.failures -= 1
            raise LedgerUnavailable("no answer")
        return statuses


class TestCrashes:
    """Rows come after accounts, so that a crash in between is as if nothing had been."""

    async def test_a_lost_answer_leaves_no_row_and_a_repeat_succeeds(
        self, pool: asyncpg.Pool, cipher: Cipher, tenant: UUID
    ) -> None:
        ledger = FaultyLedger()
        service = AccountService(AccountStore(pool), ledger, cipher)
        ledger.failures = 1
        with pytest.raises(LedgerUnavailable):
            await service.create_asset(tenant, "USD", 2)
        assert await service.store.list_assets(tenant) == []
        asset = await service.create_asset(tenant, "USD", 2)
        settings = PeerChanges(static_ilp_address="test.bob")
        peer_id = uuid4()
        ledger.failures = 1
        with pytest.raises(LedgerUnavailable):
            await service.create_peer(tenant, asset.id, settings, [TOKEN], peer_id=peer_id)
        assert await service.store.list_peers(tenant) == []
        peer = await service.create_peer(tenant, asset.id, settings, [TOKEN], peer_id=peer_id)
        await service.deposit_peer(tenant, peer.id, 5)

    async def test_cancelled_anywhere_every_row_has_its_account(
        self, service: AccountService, ledger: ModelLedger, tenant: UUID
    ) -> None:
        """Cancel at each step of the loop in turn; what is stored can always be used."""
        finished = False
        step = 0
        while not finished:
            task = asyncio.create_task(service.create_asset(tenant, f"A{step}", 2))
            for _ in range(step):
                await asyncio.sleep(0)
            finished = task.done()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            step += 1
        stored = await service.store.list_assets(tenant)
        for asset in stored:
            found = await ledger.lookup_accounts([asset.id.int, asset.ledger])
            assert len(found) == 2
        assert 0 < len(stored) < step

    async def test_killed_between_ledger_and_database_the_command_can_be_repeated(
        self, module_database_url: str, pool: asyncpg.Pool, cipher: Cipher, tenant: UUID
    ) -> None:
        for step in ("asset", "peer"):
            script = KILLED_IN_BETWEEN.format(url=module_database_url, tenant=tenant, step=step)
            process = await asyncio.create_subprocess_exec(sys.executable, "-c", script, cwd=ROOT)
            assert await process.wait() == -signal.SIGKILL
            ledger = PostgresLedger(module_database_url)
            service = AccountService(AccountStore(pool), ledger, cipher)
            written = await ledger.query_accounts()
            if step == "asset":
                assert len(written) == 3
                assert await service.store.list_assets(tenant) == []
                await service.create_asset(tenant, "USD", 2)
            else:
                assert len(written) == 7
                assert await service.store.list_peers(tenant) == []
                peer = await add_peer(service, tenant)
                await service.deposit_peer(tenant, peer.id, 5)
            await ledger.close()


ROOT = Path(__file__).parents[3]
KILLED_IN_BETWEEN = """
import asyncio, os, signal, uuid
import asyncpg
from connector.accounts.cipher import Cipher
from connector.accounts.records import PeerChanges
from connector.accounts.service import AccountService
from connector.accounts.store import AccountStore
from connector.ledger.postgres import PostgresLedger

class KilledLedger(PostgresLedger):
    async def create_accounts(self, wanted):
        await super().create_accounts(wanted)
        os.kill(os.getpid(), signal.SIGKILL)

async def main():
    pool = await asyncpg.create_pool({url!r}, min_size=1, max_size=1)
    service = AccountService(AccountStore(pool), KilledLedger({url!r}), Cipher(bytes(range(32))))
    tenant = uuid.UUID("{tenant}")
    if "{step}" == "asset":
        await service.create_asset(tenant, "USD", 2)
    asset = await service.store.find_asset(tenant, "USD", 2)
    await service.create_peer(tenant, asset.id, PeerChanges(static_ilp_address="test.bob"))

asyncio.run(main())
"""
