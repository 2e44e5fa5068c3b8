"""What operators do with assets, peers, tokens and liquidity, over Postgres and the ledger.

A row is written only after its ledger accounts exist. So a crash between the two leaves at most
accounts that nobody ever names, with nothing on them, and whatever a worker reads from the database
has its account. Repeating the command then does the whole again.
"""

import hashlib
import secrets
from collections.abc import Callable, Iterable, Sequence
from typing import Final
from uuid import UUID, uuid4

import msgspec

from connector.accounts.cipher import Cipher
from connector.accounts.records import (
    AssetChanges,
    AssetRecord,
    BalanceRecord,
    PeerChanges,
    PeerRecord,
    TokenRecord,
)
from connector.accounts.store import AccountStore, set_fields
from connector.accounts.values import (
    check_amount,
    check_asset_code,
    check_count,
    check_endpoint,
    check_incoming_token,
    check_name,
    check_outgoing_token,
    check_peer_address,
    check_prefix,
    check_scale,
    check_transfer_id,
    format_amount,
)
from connector.directory import RateLimit
from connector.errors import Conflict, InvalidInput, NotFound
from connector.ledger import accounts
from connector.ledger.ledger import (
    BATCH_EVENTS_MAX,
    CREATED,
    Account,
    AccountStatus,
    Ledger,
    Transfer,
    TransferStatus,
)
from connector.money import U64_MAX

TOKEN_BYTES: Final = 32
TOKENS_MAX: Final = 20
ROUTES_MAX: Final = 1000
PACKETS_PER_SECOND_MAX: Final = 10_000_000
IN_FLIGHT_MAX: Final = 1_000_000
PIPELINE_DEPTH_MAX: Final = 256
LEDGER_MAX: Final = 32767


class AccountService:
    """Commands of an operator, each for one tenant.

    Raises: InvalidInput, NotFound, Conflict - refused, with the reason; StoreUnavailable,
    LedgerUnavailable - nothing was done, or (deposits and withdrawals) the outcome is unknown and
    the same id may be used again.
    """

    def __init__(
        self,
        store: AccountStore,
        ledger: Ledger | None,
        cipher: Cipher,
        new_uuid: Callable[[], UUID] = uuid4,
    ) -> None:
        """Wire the service; without a ledger only what needs none can be called."""
        self.store = store
        self._opened_ledger = ledger
        self._cipher = cipher
        self._new_uuid = new_uuid

    # -- assets --------------------------------------------------------------------------------

    async def create_asset(
        self,
        tenant_id: UUID,
        code: str,
        scale: int,
        *,
        asset_id: UUID | None = None,
        liquidity_threshold: int | None = None,
        withdrawal_threshold: int | None = None,
    ) -> AssetRecord:
        """Add an asset with its ledger accounts, or bring a removed one back with its balance."""
        check_asset_code(code)
        check_scale(scale)
        changes = AssetChanges(
            liquidity_threshold=liquidity_threshold, withdrawal_threshold=withdrawal_threshold
        )
        _check_thresholds(changes)
        old = await self.store.find_asset(tenant_id, code, scale)
        if old is None:
            asset = await self._create_asset_accounts(
                AssetRecord(
                    id=asset_id or self._new_uuid(),
                    tenant_id=tenant_id,
                    code=code,
                    scale=scale,
                    ledger=0,
                    liquidity_threshold=liquidity_threshold,
                    withdrawal_threshold=withdrawal_threshold,
                )
            )
            return await self.store.insert_asset(asset)
        if old.deleted_at is None and asset_id == old.id:
            return old
        if old.deleted_at is None or asset_id not in (None, old.id):
            raise Conflict(f"asset {old.name} exists already, with id {old.id}")
        await self._ensure_accounts(accounts.asset_accounts(old.to_asset()))
        return await self.store.update_asset(tenant_id, old.id, changes, restore=True)

    async def update_asset(
        self, tenant_id: UUID, asset_id: UUID, changes: AssetChanges
    ) -> AssetRecord:
        _check_thresholds(changes)
        return await self.store.update_asset(tenant_id, asset_id, changes)

    async def remove_asset(self, tenant_id: UUID, asset_id: UUID) -> None:
        """Take an asset out of use. Refused while a peer uses it or liquidity is left on it."""
        asset = await self.store.load_asset(tenant_id, asset_id)
        await self._refuse_balance(asset.id, asset, f"asset {asset.name}")
        await self.store.remove_asset(tenant_id, asset_id)

    # -- peers ---------------------------------------------------------------------------------

    async def create_peer(
        self,
        tenant_id: UUID,
        asset_id: UUID,
        settings: PeerChanges,
        incoming_tokens: Sequence[str] = (),
        *,
        peer_id: UUID | None = None,
    ) -> PeerRecord:
        """Add a peer with its ledger account, routes and tokens."""
        asset = await self.store.load_asset(tenant_id, asset_id)
        if asset.deleted_at is not None:
            raise NotFound(f"asset {asset.name} was removed")
        if settings.static_ilp_address is msgspec.UNSET:
            raise InvalidInput("a peer needs a static ILP address")
        draft = PeerRecord(
            id=peer_id or self._new_uuid(),
            tenant_id=tenant_id,
            asset=asset,
            static_ilp_address=settings.static_ilp_address,
        )
        peer, outgoing_token = self._change_peer(draft, None, settings)
        check_count(len(incoming_tokens), "number of incoming tokens", 0, TOKENS_MAX)
        tokens = {self._new_uuid(): digest_token(token) for token in set(incoming_tokens)}
        old = await self.store.find_peer(tenant_id, asset_id, peer.static_ilp_address)
        if old is not None:
            if peer_id == old.id:
                return old
            raise Conflict(
                f"there is a peer {old.static_ilp_address} with asset {asset.name} already, "
                f"with id {old.id}"
            )
        await self._ensure_accounts([accounts.peer_account(peer.id.int, asset.to_asset())])
        return await self.store.insert_peer(peer, outgoing_token, tokens)

    async def update_peer(self, tenant_id: UUID, peer_id: UUID, changes: PeerChanges) -> PeerRecord:
        return await self.store.update_peer(
            tenant_id, peer_id, lambda peer, token: self._change_peer(peer, token, changes)
        )

    async def add_routes(
        self, tenant_id: UUID, peer_id: UUID, prefixes: Iterable[str]
    ) -> PeerRecord:
        added = tuple(prefixes)
        return await self.store.update_peer(
            tenant_id,
            peer_id,
            lambda peer, token: self._change_peer(
                peer, token, PeerChanges(routes=(*peer.routes, *added))
            ),
        )

    async def remove_route(self, tenant_id: UUID, peer_id: UUID, prefix: str) -> PeerRecord:
        def change(peer: PeerRecord, token: bytes | None) -> tuple[PeerRecord, bytes | None]:
            if prefix not in peer.routes:
                raise NotFound(f"peer {peer.name or peer.id} has no extra route {prefix!r}")
            routes = tuple(route for route in peer.routes if route != prefix)
            return msgspec.structs.replace(peer, routes=routes), token

        return await self.store.update_peer(tenant_id, peer_id, change)

    async def remove_peer(self, tenant_id: UUID, peer_id: UUID, *, force: bool = False) -> None:
        """Take a peer out of use. Refused while it has a balance, unless forced.

        The ledger account stays; liquidity can still be withdrawn from it.
        """
        peer = await self.store.load_peer(tenant_id, peer_id)
        if not force and peer.deleted_at is None:
            await self._refuse_balance(peer.id, peer.asset, f"peer {peer.name or peer.id}")
        await self.store.remove_peer(tenant_id, peer_id)

    # -- tokens --------------------------------------------------------------------------------

    async def add_token(
        self, tenant_id: UUID, peer_id: UUID, token: str | None = None
    ) -> tuple[UUID, str]:
        """Give a peer one more incoming token, a new random one unless given.

        Returns: the token's id and the token, which is not kept and cannot be shown again.
        """
        token = token or new_token()
        token_id = self._new_uuid()
        await self.store.insert_token(tenant_id, peer_id, token_id, digest_token(token), TOKENS_MAX)
        return token_id, token

    async def list_tokens(self, tenant_id: UUID, peer_id: UUID) -> list[TokenRecord]:
        return await self.store.list_tokens(tenant_id, peer_id)

    async def remove_token(self, tenant_id: UUID, token_id: UUID) -> None:
        await self.store.remove_token(tenant_id, token_id)

    # -- liquidity -----------------------------------------------------------------------------

    async def deposit_asset(
        self, tenant_id: UUID, asset_id: UUID, amount: int, transfer_id: UUID | None = None
    ) -> UUID:
        """Add to the operator's own liquidity; see ``deposit_peer``."""
        asset = await self.store.load_asset(tenant_id, asset_id)
        await self._ensure_accounts(accounts.asset_accounts(asset.to_asset()))
        return await self._deposit(asset.id, asset, amount, transfer_id)

    async def deposit_peer(
        self, tenant_id: UUID, peer_id: UUID, amount: int, transfer_id: UUID | None = None
    ) -> UUID:
        """Add to what a peer may send.

        transfer_id - a UUID of version 4; repeating it with the same amount changes nothing more.
        Returns: the transfer's id. Raises: Conflict - the id was used for something else.
        """
        peer = await self.store.load_peer(tenant_id, peer_id)
        # A ledger other than the one the peer was made on may be in use by now.
        asset = peer.asset.to_asset()
        await self._ensure_accounts(
            (*accounts.asset_accounts(asset), accounts.peer_account(peer.id.int, asset))
        )
        return await self._deposit(peer.id, peer.asset, amount, transfer_id)

    async def withdraw_asset(
        self, tenant_id: UUID, asset_id: UUID, amount: int, transfer_id: UUID | None = None
    ) -> UUID:
        """Take from the operator's own liquidity; see ``withdraw_peer``."""
        asset = await self.store.load_asset(tenant_id, asset_id)
        return await self._withdraw(asset.id, asset, amount, transfer_id)

    async def withdraw_peer(
        self, tenant_id: UUID, peer_id: UUID, amount: int, transfer_id: UUID | None = None
    ) -> UUID:
        """Take from what a peer may send: money that was paid out to it.

        transfer_id - as for a deposit. Raises: Conflict - more than there is; says how much is.
        """
        peer = await self.store.load_peer(tenant_id, peer_id)
        return await self._withdraw(peer.id, peer.asset, amount, transfer_id)

    async def balances(self, tenant_id: UUID) -> list[BalanceRecord]:
        """Every account of a tenant: assets with their settlement accounts, then their peers.

        Removed peers and assets are listed as long as something is left on them.
        """
        rows: list[tuple[str, int, str, AssetRecord, bool]] = []
        peers = await self.store.list_peers(tenant_id)
        for asset in await self.store.list_assets(tenant_id):
            removed = asset.deleted_at is not None
            rows.append(("asset", asset.id.int, asset.name, asset, removed))
            rows.append(("settlement", asset.ledger, asset.name, asset, removed))
            rows.extend(
                (
                    "peer",
                    peer.id.int,
                    peer.name or peer.static_ilp_address,
                    asset,
                    peer.deleted_at is not None,
                )
                for peer in peers
                if peer.asset.id == asset.id
            )
        found = await self._lookup([row[1] for row in rows])
        return [
            record
            for kind, account_id, name, asset, removed in rows
            for record in [_balance(kind, account_id, name, asset, found.get(account_id))]
            if not removed or record.balance or record.pending_in or record.pending_out
        ]

    # -- the ledger ----------------------------------------------------------------------------

    @property
    def _ledger(self) -> Ledger:
        assert self._opened_ledger is not None, "this command needs the ledger"
        return self._opened_ledger

    async def _create_asset_accounts(self, asset: AssetRecord) -> AssetRecord:
        """Find a ledger number of which the ledger knows nothing, and open its accounts.

        A ledger kept while the database was replaced still holds the numbers of old assets.
        """
        for _ in range(LEDGER_MAX):
            numbered = msgspec.structs.replace(asset, ledger=await self.store.next_ledger())
            # One chain: where one account cannot be had, none of the three is made.
            if not await self._ledger.create_accounts(accounts.asset_accounts(numbered.to_asset())):
                return numbered
        raise Conflict("no ledger number is free")

    async def _ensure_accounts(self, wanted: Sequence[Account]) -> None:
        """Make sure that ledger accounts exist as we want them. Raises Conflict.

        The statuses of a repeated chain say little, so what is in the ledger decides.
        """
        if not await self._ledger.create_accounts(wanted):
            return
        found = await self._lookup([account.id for account in wanted])
        for account in wanted:
            if account.id in found:
                refused = not accounts.is_same_account(found[account.id], account)
            else:
                statuses = await self._ledger.create_accounts([accounts.unlinked(account)])
                refused = statuses.get(0, CREATED) not in (CREATED, AccountStatus.EXISTS)
            if refused:
                raise Conflict(f"ledger account {account.id:x} exists already as something else")

    async def _deposit(
        self, account_id: UUID, asset: AssetRecord, amount: int, transfer_id: UUID | None
    ) -> UUID:
        transfer = self._funding(accounts.deposit, account_id, asset, amount, transfer_id)
        if not await self._ledger.lookup_transfers([transfer.id]):
            account = (await self._lookup([account_id.int]))[account_id.int]
            if accounts.balance(account) + amount > U64_MAX:
                raise Conflict(
                    f"the balance would exceed {U64_MAX}, the most that interfaces can show"
                )
        await self._transfer(transfer, asset)
        return UUID(int=transfer.id)

    async def _withdraw(
        self, account_id: UUID, asset: AssetRecord, amount: int, transfer_id: UUID | None
    ) -> UUID:
        transfer = self._funding(accounts.withdrawal, account_id, asset, amount, transfer_id)
        await self._transfer(transfer, asset)
        return UUID(int=transfer.id)

    def _funding(
        self,
        plan: Callable[..., Transfer],
        account_id: UUID,
        asset: AssetRecord,
        amount: int,
        transfer_id: UUID | None,
    ) -> Transfer:
        check_amount(amount, minimum=1)
        uuid = self._new_uuid() if transfer_id is None else check_transfer_id(transfer_id)
        return plan(uuid.int, account_id.int, asset.to_asset(), amount)

    async def _transfer(self, transfer: Transfer, asset: AssetRecord) -> None:
        statuses = await self._ledger.create_transfers([transfer])
        status = statuses.get(0, CREATED)
        if status in (TransferStatus.CREATED, TransferStatus.EXISTS):
            return
        uuid = UUID(int=transfer.id)
        if status == TransferStatus.EXCEEDS_CREDITS:
            account_id = transfer.debit_account_id
            available = accounts.balance((await self._lookup([account_id]))[account_id])
            raise Conflict(
                f"only {available} ({format_amount(available, asset.scale)} {asset.code}) is "
                f"available; a refused id is used up, so do not repeat {uuid}"
            )
        if status == TransferStatus.ID_ALREADY_FAILED:
            raise Conflict(f"id {uuid} was refused before: use a new id")
        if status in (
            TransferStatus.DEBIT_ACCOUNT_NOT_FOUND,
            TransferStatus.CREDIT_ACCOUNT_NOT_FOUND,
        ):
            raise NotFound("the ledger in use does not have this account: nothing was deposited")
        name = TransferStatus(status).name
        if name.startswith("EXISTS_WITH_DIFFERENT"):
            raise Conflict(f"id {uuid} was used for another transfer: use a new id")
        raise Conflict(f"the ledger refused the transfer: {name.lower()}")

    async def _refuse_balance(self, account_id: UUID, asset: AssetRecord, what: str) -> None:
        account = (await self._lookup([account_id.int])).get(account_id.int)
        if account is None:
            return
        held = account.debits_pending or account.credits_pending
        balance = accounts.balance(account)
        if balance or held:
            raise Conflict(
                f"{what} has a balance of {balance} "
                f"({format_amount(balance, asset.scale)} {asset.code})"
                f"{' and packets under way' if held else ''}: withdraw it first"
            )

    async def _lookup(self, ids: Sequence[int]) -> dict[int, Account]:
        found: dict[int, Account] = {}
        for start in range(0, len(ids), BATCH_EVENTS_MAX):
            page = ids[start : start + BATCH_EVENTS_MAX]
            found.update((a.id, a) for a in await self._ledger.lookup_accounts(page))
        return found

    # -- checks --------------------------------------------------------------------------------

    def _change_peer(
        self, old: PeerRecord, token: bytes | None, changes: PeerChanges
    ) -> tuple[PeerRecord, bytes | None]:
        """Apply changes to a peer and its encrypted outgoing token, and check the outcome."""
        fields = set_fields(changes)
        new_token = fields.pop("outgoing_token", None)
        peer = msgspec.structs.replace(old, **fields)
        check_peer_settings(peer)
        if peer.outgoing_endpoint is None:
            if new_token is not None:
                raise InvalidInput("an outgoing token needs an outgoing endpoint")
            return peer, None
        if new_token is not None:
            token = self._cipher.encrypt(peer.id, check_outgoing_token(new_token))
        if token is None:
            raise InvalidInput("an outgoing endpoint needs an outgoing token")
        return peer, token


def check_peer_settings(peer: PeerRecord) -> None:
    """Check everything about a peer that one can see without a database. Raises InvalidInput."""
    check_name(peer.name)
    check_peer_address(peer.static_ilp_address)
    if peer.outgoing_endpoint is not None:
        check_endpoint(peer.outgoing_endpoint)
    check_count(len(peer.routes), "number of routes", 0, ROUTES_MAX)
    for prefix in peer.routes:
        check_prefix(prefix)
    check_amount(peer.max_packet_amount, "maximum packet amount")
    if peer.liquidity_threshold is not None:
        check_amount(peer.liquidity_threshold, "liquidity threshold")
    _check_limit(peer.packet_limit, "packet", PACKETS_PER_SECOND_MAX)
    _check_limit(peer.amount_limit, "amount", U64_MAX)
    check_count(peer.max_in_flight, "maximum of packets in flight", 1, IN_FLIGHT_MAX)
    check_amount(peer.max_in_flight_amount, "maximum amount in flight")
    check_count(peer.pipeline_depth, "pipeline depth", 1, PIPELINE_DEPTH_MAX)


def digest_token(token: str) -> bytes:
    """What is stored of an incoming token. A fast hash will do: tokens are long and random."""
    return hashlib.sha256(check_incoming_token(token).encode()).digest()


def new_token() -> str:
    """A token that nobody guesses: 32 random bytes as text."""
    return secrets.token_urlsafe(TOKEN_BYTES)


def _check_limit(limit: RateLimit | None, what: str, maximum: int) -> None:
    if limit is not None:
        check_count(limit.per_second, f"{what} limit a second", 1, maximum)
        check_count(limit.burst, f"{what} burst", 1, maximum)


def _check_thresholds(changes: AssetChanges) -> None:
    for name, value in set_fields(changes).items():
        if value is not None:
            check_amount(value, name.replace("_", " "))


def _balance(
    kind: str, account_id: int, name: str, asset: AssetRecord, account: Account | None
) -> BalanceRecord:
    account = account or Account(account_id, asset.ledger, 0)
    return BalanceRecord(
        kind=kind,
        id=str(account_id) if kind == "settlement" else str(UUID(int=account_id)),
        name=name,
        asset_code=asset.code,
        asset_scale=asset.scale,
        balance=accounts.balance(account),
        pending_in=account.credits_pending,
        pending_out=account.debits_pending,
    )
