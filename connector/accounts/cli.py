"""``jirani asset|peer|route|token|liquidity|balance``: the operator's commands.

They work on the database and the ledger directly, whether or not the node runs; a running node
follows within a second. Each answers with a table for people or, with ``--json``, for machines.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar
from uuid import UUID

import click
import msgspec
from msgspec import UNSET, UnsetType

from connector.accounts.records import (
    AssetChanges,
    AssetRecord,
    BalanceRecord,
    PeerChanges,
    PeerRecord,
)
from connector.accounts.values import format_amount, parse_amount, parse_transfer_id
from connector.directory import RateLimit
from connector.errors import ConnectorError, InvalidInput, NotFound

if TYPE_CHECKING:
    from connector.accounts.service import AccountService

TABLE_WIDTH: Final = 200
"""Of a table that no terminal shows: wide enough to keep a row on its line."""

Item = TypeVar("Item")
Body = Callable[..., Awaitable[None]]


def _examples(*lines: str) -> str:
    """The end of a help text; click leaves paragraphs that begin with this sign as they are."""
    shown = (f"      {line}" if line.startswith("-") else f"  {line}" for line in lines)
    return "\n".join(("\b", "Examples:", *shown))


# -- running a command -----------------------------------------------------------------------------


class Session:
    """One command's way to the stores: the service and whose tenant it works for."""

    def __init__(self, service: "AccountService", tenant_id: UUID, *, as_json: bool) -> None:
        self.service = service
        self.tenant_id = tenant_id
        self.as_json = as_json

    async def find_asset(self, reference: str) -> AssetRecord:
        """The asset that is meant by a UUID, USD/2, or USD where there is one scale of it."""
        assets = [
            asset
            for asset in await self.service.store.list_assets(self.tenant_id)
            if asset.deleted_at is None
        ]
        return _pick(
            [a for a in assets if str(a.id) == reference.lower() or a.name == reference]
            or [a for a in assets if a.code == reference],
            "asset",
            reference,
            lambda asset: asset.name,
        )

    async def find_peer(self, reference: str, *, removed: bool = False) -> PeerRecord:
        """The peer that is meant by a UUID, a name or an ILP address.

        removed - by its UUID, a removed one too.
        """
        peers = await self.service.store.list_peers(self.tenant_id)
        used = [peer for peer in peers if peer.deleted_at is None]
        return _pick(
            [p for p in (peers if removed else used) if str(p.id) == reference.lower()]
            or [p for p in used if reference in (p.name, p.static_ilp_address)],
            "peer",
            reference,
            lambda peer: f"{peer.id} ({peer.static_ilp_address}, {peer.asset.name})",
        )

    def show(self, value: Any, table: Callable[[], Any]) -> None:
        """Write an answer: the value itself for machines, ``table()`` for people."""
        if self.as_json:
            self.write_json(value)
            return
        from rich.console import Console

        console = Console(highlight=False, width=None if sys.stdout.isatty() else TABLE_WIDTH)
        console.print(table())

    def say(self, value: Any, line: str) -> None:
        """Write an answer that is one line for people."""
        if self.as_json:
            self.write_json(value)
        else:
            click.echo(line)

    def write_json(self, value: Any) -> None:
        click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2))


def _pick(
    found: Sequence[Item], kind: str, reference: str, describe: Callable[[Item], str]
) -> Item:
    if not found:
        raise NotFound(f"there is no {kind} {reference!r}; jirani {kind} list shows all")
    if len(found) > 1:
        choices = ", ".join(describe(item) for item in found[:5])
        raise InvalidInput(f"{reference!r} can mean {len(found)} {kind}s; name one of {choices}")
    return found[0]


@asynccontextmanager
async def _open_session(*, with_ledger: bool, as_json: bool) -> AsyncIterator[Session]:
    # Help and mistakes in the command line are answered without loading any of this.
    import asyncpg

    from connector.accounts.cipher import Cipher
    from connector.accounts.service import AccountService
    from connector.accounts.store import AccountStore
    from connector.ledger.opening import open_ledger
    from connector.logging import configure
    from connector.settings import load_settings
    from connector.stores import check_schema, connect_postgres

    settings = load_settings()
    configure(settings, "cli")
    cipher = Cipher.from_base64(settings.db_encryption_secret or "")
    async with AsyncExitStack() as stack:
        connection = await connect_postgres(settings)
        try:
            await check_schema(connection)
        finally:
            await connection.close()
        pool = await asyncpg.create_pool(settings.postgres_url(), min_size=0, max_size=2)
        stack.push_async_callback(pool.close)
        ledger = await open_ledger(settings) if with_ledger else None
        if ledger is not None:
            stack.push_async_callback(ledger.close)
        service = AccountService(AccountStore(pool), ledger, cipher)
        tenant_id = UUID(settings.operator_tenant_id)
        await service.store.ensure_operator(tenant_id)
        yield Session(service, tenant_id, as_json=as_json)


def _action(*, with_ledger: bool = False) -> Callable[[Body], Callable[..., None]]:
    """Make a click callback of a coroutine that takes a session first."""

    def decorate(body: Body) -> Callable[..., None]:
        @click.option("--json", "as_json", is_flag=True, help="Answer in JSON.")
        @wraps(body)
        def callback(as_json: bool, **arguments: Any) -> None:
            async def run() -> None:
                async with _open_session(with_ledger=with_ledger, as_json=as_json) as session:
                    await body(session, **arguments)

            try:
                asyncio.run(run())
            except ConnectorError as error:
                raise click.ClickException(str(error)) from None

        return callback

    return decorate


class _Amount(click.ParamType[Any]):
    """A number of smallest units, or "none" where ``none`` says what that means."""

    name = "amount"

    def __init__(self, none: object = None) -> None:
        self._none = none

    def convert(self, value: Any, parameter: Any, context: Any) -> Any:
        if value == "none" and self._none is not None:
            return self._none
        try:
            return parse_amount(value)
        except InvalidInput as error:
            self.fail(str(error), parameter, context)


class _Id(click.ParamType[UUID]):
    """A UUID of version 4."""

    name = "uuid"

    def convert(self, value: Any, parameter: Any, context: Any) -> UUID:
        try:
            return parse_transfer_id(value)
        except InvalidInput as error:
            self.fail(str(error), parameter, context)


class _Token(click.ParamType[str]):
    """A token, or @FILE to keep it out of the list of processes."""

    name = "token"

    def convert(self, value: Any, parameter: Any, context: Any) -> str:
        if not value.startswith("@"):
            return str(value)
        try:
            return Path(value[1:]).read_text().strip()
        except (OSError, ValueError) as error:
            self.fail(f"{value[1:]!r} cannot be read: {error}", parameter, context)


AMOUNT: Final = _Amount()
NEVER: Final = "none"
AMOUNT_OR_NEVER: Final = _Amount(none=NEVER)
AMOUNT_OR_ZERO: Final = _Amount(none=0)


# -- assets ----------------------------------------------------------------------------------------


@click.group(
    epilog=_examples(
        "jirani asset add USD 2",
        "jirani asset list",
        "jirani asset update USD --liquidity-threshold 500000",
    )
)
def asset() -> None:
    """Manage assets: the currencies that peers are accounted in.

    An asset has a code and a scale: how many digits its smallest unit stands behind the point. All
    amounts in Jirani are whole numbers of smallest units: 1234 of USD with scale 2 are 12.34 USD.
    """


def _threshold_options(body: Callable[..., Any]) -> Callable[..., Any]:
    for name, text in (
        ("--withdrawal-threshold", "Amount at which web monetization income is reported"),
        ("--liquidity-threshold", "Warn when own liquidity falls below"),
    ):
        body = click.option(
            name, type=AMOUNT_OR_NEVER, default=None, help=f'{text}; "none" for never.'
        )(body)
    return body


@asset.command(
    "add",
    epilog=_examples(
        "jirani asset add USD 2",
    ),
)
@click.argument("code")
@click.argument("scale", type=click.IntRange(0, 255))
@_threshold_options
@click.option("--id", "asset_id", type=_Id(), help="UUID to use, to make a repeat harmless.")
@_action(with_ledger=True)
async def add_asset(
    session: Session, code: str, scale: int, asset_id: UUID | None, **thresholds: Any
) -> None:
    """Add an asset and its ledger accounts.

    A removed asset comes back with its accounts and their balances.
    """
    record = await session.service.create_asset(
        session.tenant_id,
        code,
        scale,
        asset_id=asset_id,
        **_given(thresholds),
    )
    session.say(record, f"asset {record.name} {record.id} on ledger {record.ledger}")


@asset.command("list")
@_action()
async def list_assets(session: Session) -> None:
    """List the assets."""
    records = await session.service.store.list_assets(session.tenant_id)
    used = [record for record in records if record.deleted_at is None]
    session.show(
        used,
        lambda: _table(
            ("asset", "ledger", "low below", "id"),
            (
                (a.name, str(a.ledger), _scaled_or_dash(a.liquidity_threshold, a), str(a.id))
                for a in used
            ),
        ),
    )


@asset.command("show")
@click.argument("asset")
@_action()
async def show_asset(session: Session, asset: str) -> None:
    """Show one asset, named by code, code/scale or id."""
    record = await session.find_asset(asset)
    session.show(record, lambda: _details(record))


@asset.command(
    "update",
    epilog=_examples(
        "jirani asset update USD/2 --liquidity-threshold 500000",
    ),
)
@click.argument("asset")
@_threshold_options
@_action()
async def update_asset(session: Session, asset: str, **thresholds: Any) -> None:
    """Change an asset's thresholds; what is not named stays."""
    record = await session.find_asset(asset)
    record = await session.service.update_asset(
        session.tenant_id, record.id, AssetChanges(**_given(thresholds))
    )
    session.say(record, f"asset {record.name} changed")


@asset.command("remove")
@click.argument("asset")
@_action(with_ledger=True)
async def remove_asset(session: Session, asset: str) -> None:
    """Remove an asset that no peer uses and on which no liquidity is left."""
    record = await session.find_asset(asset)
    await session.service.remove_asset(session.tenant_id, record.id)
    session.say({"removed": record.id}, f"asset {record.name} removed")


# -- peers -----------------------------------------------------------------------------------------


@click.group(
    epilog=_examples(
        "jirani peer add --asset USD --address test.bob \\",
        "--endpoint http://127.0.0.1:4002 --outgoing-token @bob.token",
        "jirani peer list",
        "jirani peer update bob --packets-per-second 1000",
    )
)
def peer() -> None:
    """Manage peers: the nodes that packets are exchanged with.

    A peer is named by its name, its ILP address or its id.
    """


def _peer_options(body: Callable[..., Any]) -> Callable[..., Any]:
    """The settings that "add" and "update" share."""
    options = (
        click.option("--name", default=None, help="For people. [last part of the address]"),
        click.option("--endpoint", default=None, help='URL to send packets to; "none" for none.'),
        click.option(
            "--outgoing-token",
            type=_Token(),
            default=None,
            help="What we authenticate with there; @FILE reads it from a file.",
        ),
        click.option(
            "--max-packet-amount",
            type=AMOUNT_OR_ZERO,
            default=None,
            help='Most that one packet from this peer may carry; "none" for no limit.',
        ),
        click.option(
            "--packets-per-second",
            type=AMOUNT_OR_ZERO,
            default=None,
            help='Most packets from this peer, over all workers; "none" for no limit.',
        ),
        click.option(
            "--packets-burst",
            type=AMOUNT,
            default=None,
            help="Packets at once, above that rate. [what one second allows]",
        ),
        click.option(
            "--amount-per-second",
            type=AMOUNT_OR_ZERO,
            default=None,
            help='Most money from this peer, over all workers; "none" for no limit.',
        ),
        click.option(
            "--amount-burst",
            type=AMOUNT,
            default=None,
            help="Money at once, above that rate, and the most that one packet may carry. "
            "[what one second allows]",
        ),
        click.option(
            "--max-in-flight",
            type=int,
            default=None,
            help="Packets on their way to this peer, for each worker. [1000]",
        ),
        click.option(
            "--max-in-flight-amount",
            type=AMOUNT_OR_ZERO,
            default=None,
            help='Their sum; "none" for no limit.',
        ),
        click.option(
            "--pipeline-depth",
            type=int,
            default=None,
            help="Requests on one connection before the first answer. [1]",
        ),
        click.option(
            "--liquidity-threshold",
            type=AMOUNT_OR_NEVER,
            default=None,
            help='Warn when the balance falls below; "none" for never.',
        ),
    )
    for option in reversed(options):
        body = option(body)
    return body


@peer.command(
    "add",
    epilog=_examples(
        "jirani peer add --asset USD --address test.bob \\",
        "--endpoint http://127.0.0.1:4002 \\",
        "--outgoing-token the-token-that-bob-gave-us \\",
        "--incoming-token the-token-that-we-gave-bob",
        "jirani peer add --asset USD --address test.upstream --route test \\",
        "--endpoint https://upstream.example/ilp --outgoing-token @upstream.token",
    ),
)
@click.option("--asset", "asset_reference", required=True, help="Code, code/scale or id.")
@click.option("--address", required=True, help="The peer's ILP address, such as test.bob.")
@click.option(
    "--incoming-token",
    "incoming_tokens",
    type=_Token(),
    multiple=True,
    help="What the peer authenticates with here; @FILE reads it from a file. Can be repeated. "
    "[a new one, shown once]",
)
@click.option("--route", "routes", multiple=True, help="A further prefix. Can be repeated.")
@_peer_options
@click.option("--id", "peer_id", type=_Id(), help="UUID to use, to make a repeat harmless.")
@_action(with_ledger=True)
async def add_peer(
    session: Session,
    asset_reference: str,
    address: str,
    incoming_tokens: tuple[str, ...],
    routes: tuple[str, ...],
    peer_id: UUID | None,
    **options: Any,
) -> None:
    """Add a peer and its ledger account.

    Without an endpoint the peer can send but not receive. Its balance is 0: "jirani liquidity add
    peer" says how much it may send.
    """
    from connector.accounts.service import new_token

    asset_record = await session.find_asset(asset_reference)
    generated = None if incoming_tokens else new_token()
    if options["name"] is None:
        options["name"] = address.rpartition(".")[2]
    settings = msgspec.structs.replace(
        _peer_changes(None, options), static_ilp_address=address, routes=routes
    )
    tokens = incoming_tokens if generated is None else (generated,)
    record = await session.service.create_peer(
        session.tenant_id, asset_record.id, settings, tokens, peer_id=peer_id
    )
    answer = msgspec.to_builtins(record)
    line = f"peer {record.name} {record.id} at {record.static_ilp_address}"
    if generated is not None:
        answer["incoming_token"] = generated
        line += f"\nincoming token, not shown again: {generated}"
    session.say(answer, line)


@peer.command("list")
@_action()
async def list_peers(session: Session) -> None:
    """List the peers."""
    records = await session.service.store.list_peers(session.tenant_id)
    used = [record for record in records if record.deleted_at is None]
    session.show(
        used,
        lambda: _table(
            ("peer", "asset", "address", "routes", "endpoint", "id"),
            (
                (
                    record.name,
                    record.asset.name,
                    record.static_ilp_address,
                    " ".join(prefix or "''" for prefix in record.routes),
                    record.outgoing_endpoint or "-",
                    str(record.id),
                )
                for record in used
            ),
        ),
    )


@peer.command("show")
@click.argument("peer")
@_action()
async def show_peer(session: Session, peer: str) -> None:
    """Show all settings of one peer."""
    record = await session.find_peer(peer, removed=True)
    session.show(record, lambda: _details(record))


@peer.command(
    "update",
    epilog=_examples(
        "jirani peer update bob --endpoint https://bob.example/ilp --outgoing-token @bob.token",
        "jirani peer update bob --packets-per-second 1000 --packets-burst 2000",
        "jirani peer update bob --max-packet-amount none",
    ),
)
@click.argument("peer")
@click.option("--address", default=None, help="The peer's ILP address.")
@_peer_options
@_action()
async def update_peer(session: Session, peer: str, address: str | None, **options: Any) -> None:
    """Change a peer; what is not named stays."""
    record = await session.find_peer(peer)
    options["static_ilp_address"] = address
    changes = _peer_changes(record, options)
    record = await session.service.update_peer(session.tenant_id, record.id, changes)
    session.say(record, f"peer {record.name} changed")


@peer.command("remove")
@click.argument("peer")
@click.option("--force", is_flag=True, help="Even if it has a balance.")
@_action(with_ledger=True)
async def remove_peer(session: Session, peer: str, force: bool) -> None:
    """Remove a peer: its packets are refused and it gets no more.

    With --force its balance stays on its account, and can be withdrawn under its id.
    """
    record = await session.find_peer(peer)
    await session.service.remove_peer(session.tenant_id, record.id, force=force)
    session.say({"removed": record.id}, f"peer {record.name} {record.id} removed")


def _peer_changes(old: PeerRecord | None, options: dict[str, Any]) -> PeerChanges:
    """What the options of ``_peer_options`` say."""
    packet_limit = _limit(
        "packets",
        options.pop("packets_per_second"),
        options.pop("packets_burst"),
        None if old is None else old.packet_limit,
    )
    amount_limit = _limit(
        "amount",
        options.pop("amount_per_second"),
        options.pop("amount_burst"),
        None if old is None else old.amount_limit,
    )
    options["outgoing_endpoint"] = options.pop("endpoint")
    return PeerChanges(packet_limit=packet_limit, amount_limit=amount_limit, **_given(options))


def _given(options: dict[str, Any]) -> dict[str, Any]:
    """The options that were on the command line; where "none" switches off, None."""
    switched = ("outgoing_endpoint", "liquidity_threshold", "withdrawal_threshold")
    return {
        name: None if name in switched and value == NEVER else value
        for name, value in options.items()
        if value is not None
    }


def _limit(
    what: str, per_second: int | None, burst: int | None, old: RateLimit | None
) -> RateLimit | UnsetType | None:
    if per_second == 0:
        return None
    if per_second is not None:
        return RateLimit(per_second, per_second if burst is None else burst)
    if burst is None:
        return UNSET
    if old is None:
        raise InvalidInput(f"--{what}-burst needs --{what}-per-second")
    return RateLimit(old.per_second, burst)


# -- routes ----------------------------------------------------------------------------------------


@click.group(
    epilog=_examples(
        "jirani route add bob test.far test.wide",
        "jirani route add upstream ''",
        "jirani route list",
    )
)
def route() -> None:
    """Manage extra routes of peers.

    A route is a prefix that a peer carries besides its own address. The longest wins, on whole
    segments. The prefix '' is the default route.
    """


@route.command("add")
@click.argument("peer")
@click.argument("prefixes", nargs=-1, required=True)
@_action()
async def add_route(session: Session, peer: str, prefixes: tuple[str, ...]) -> None:
    """Route prefixes to a peer."""
    record = await session.find_peer(peer)
    record = await session.service.add_routes(session.tenant_id, record.id, prefixes)
    session.say(record, f"peer {record.name} has {len(record.routes)} extra routes")


@route.command("list")
@click.argument("peer", required=False)
@_action()
async def list_routes(session: Session, peer: str | None) -> None:
    """List all routes, or those of one peer."""
    records = (
        await session.service.store.list_peers(session.tenant_id)
        if peer is None
        else [await session.find_peer(peer)]
    )
    routes = sorted(
        (prefix, record.name, str(record.id))
        for record in records
        if record.deleted_at is None
        for prefix in (record.static_ilp_address, *record.routes)
    )
    session.show(
        [{"prefix": prefix, "peer": name, "peer_id": uuid} for prefix, name, uuid in routes],
        lambda: _table(
            ("prefix", "peer", "peer id"),
            ((prefix or "''", name, uuid) for prefix, name, uuid in routes),
        ),
    )


@route.command("remove")
@click.argument("peer")
@click.argument("prefix")
@_action()
async def remove_route(session: Session, peer: str, prefix: str) -> None:
    """Take an extra route from a peer."""
    record = await session.find_peer(peer)
    record = await session.service.remove_route(session.tenant_id, record.id, prefix)
    session.say(record, f"peer {record.name} has {len(record.routes)} extra routes")


# -- tokens ----------------------------------------------------------------------------------------


@click.group(
    epilog=_examples(
        "jirani token add bob",
        "jirani token list bob",
        "jirani token remove 3f0d8c1e-5c55-4d6e-9a35-0e8a7c2f6b11",
    )
)
def token() -> None:
    """Manage incoming tokens: what peers authenticate with here.

    Only their digests are kept. To replace one without an interruption: add one, let the peer
    change over, remove the old one.
    """


@token.command("add")
@click.argument("peer")
@click.option("--token", "given", type=_Token(), help="[a new one of 32 random bytes]")
@_action()
async def add_token(session: Session, peer: str, given: str | None) -> None:
    """Give a peer one more incoming token, and show it once."""
    record = await session.find_peer(peer)
    token_id, token = await session.service.add_token(session.tenant_id, record.id, given)
    session.say(
        {"id": token_id, "token": token},
        f"incoming token {token_id} of peer {record.name}"
        + ("" if given else f", not shown again: {token}"),
    )


@token.command("list")
@click.argument("peer")
@_action()
async def list_tokens(session: Session, peer: str) -> None:
    """List the ids of a peer's incoming tokens."""
    record = await session.find_peer(peer)
    tokens = await session.service.list_tokens(session.tenant_id, record.id)
    session.show(
        tokens,
        lambda: _table(
            ("id", "since"),
            ((str(t.id), t.created_at.isoformat(timespec="seconds")) for t in tokens),
        ),
    )


@token.command("remove")
@click.argument("token_id", type=click.UUID)
@_action()
async def remove_token(session: Session, token_id: UUID) -> None:
    """Remove an incoming token: whoever uses it is refused within a second."""
    await session.service.remove_token(session.tenant_id, token_id)
    session.say({"removed": token_id}, f"token {token_id} removed")


# -- liquidity -------------------------------------------------------------------------------------


@click.group(
    epilog=_examples(
        "jirani liquidity add peer bob 1000000",
        "jirani liquidity add asset USD 5000000",
        "jirani liquidity remove peer bob 250000",
    )
)
def liquidity() -> None:
    """Book money that comes in or leaves: liquidity.

    A peer's liquidity is what it may send; an asset's is the operator's own, from which packets
    into that asset are paid. Amounts are whole numbers of smallest units.
    """


def _liquidity_arguments(body: Callable[..., Any]) -> Callable[..., Any]:
    for decorate in (
        click.option(
            "--id", "transfer_id", type=_Id(), help="UUID of version 4, to make a repeat harmless."
        ),
        click.argument("amount", type=AMOUNT),
        click.argument("reference", metavar="NAME"),
        click.argument("kind", type=click.Choice(["asset", "peer"])),
    ):
        body = decorate(body)
    return body


@liquidity.command("add")
@_liquidity_arguments
@_action(with_ledger=True)
async def add_liquidity(
    session: Session, kind: str, reference: str, amount: int, transfer_id: UUID | None
) -> None:
    """Book money that came in for an asset or a peer."""
    service = session.service
    if kind == "asset":
        record = await session.find_asset(reference)
        done = await service.deposit_asset(session.tenant_id, record.id, amount, transfer_id)
        _say_moved(session, "added to asset", record.name, record, amount, done)
    else:
        owner = await session.find_peer(reference)
        done = await service.deposit_peer(session.tenant_id, owner.id, amount, transfer_id)
        _say_moved(session, "added to peer", owner.name, owner.asset, amount, done)


@liquidity.command("remove")
@_liquidity_arguments
@_action(with_ledger=True)
async def remove_liquidity(
    session: Session, kind: str, reference: str, amount: int, transfer_id: UUID | None
) -> None:
    """Book money that was paid out from an asset or a peer."""
    service = session.service
    if kind == "asset":
        record = await session.find_asset(reference)
        done = await service.withdraw_asset(session.tenant_id, record.id, amount, transfer_id)
        _say_moved(session, "removed from asset", record.name, record, amount, done)
    else:
        owner = await session.find_peer(reference, removed=True)
        done = await service.withdraw_peer(session.tenant_id, owner.id, amount, transfer_id)
        _say_moved(session, "removed from peer", owner.name, owner.asset, amount, done)


def _say_moved(
    session: Session, what: str, name: str, record: AssetRecord, amount: int, transfer_id: UUID
) -> None:
    session.say(
        {"id": transfer_id, "amount": amount},
        f"{amount} ({format_amount(amount, record.scale)} {record.code}) {what} {name}, "
        f"transfer {transfer_id}",
    )


async def _show_balances(session: Session, reference: str | None = None) -> None:
    records = await session.service.balances(session.tenant_id)
    if reference is not None:
        records = [r for r in records if reference in (r.name, r.id, r.asset_code)]
        if not records:
            raise NotFound(f"there is no account {reference!r}; jirani balance shows all")
    session.show(records, lambda: _balance_table(records))


@liquidity.command("list")
@_action(with_ledger=True)
async def list_liquidity(session: Session) -> None:
    """List all balances."""
    await _show_balances(session)


@click.command(
    epilog=_examples(
        "jirani balance",
        "jirani balance bob --json",
    )
)
@click.argument("name", required=False)
@_action(with_ledger=True)
async def balance(session: Session, name: str | None) -> None:
    """Show all balances, or those of one peer or asset.

    A settlement account shows the money outside that backs all others of its asset. "held" is on
    its way with packets: held in is not there yet, held out is gone already.
    """
    await _show_balances(session, name)


# -- tables ----------------------------------------------------------------------------------------


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[str] = ()) -> Any:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE)
    for column in columns:
        table.add_column(column, overflow="fold", justify="right" if column in right else "left")
    for row in rows:
        # Text, so that brackets in a name are no markup.
        table.add_row(*(Text(cell) for cell in row))
    return table


def _balance_table(records: Sequence[BalanceRecord]) -> Any:
    def scaled(record: BalanceRecord, amount: int) -> str:
        return f"{format_amount(amount, record.asset_scale)} {record.asset_code}"

    return _table(
        ("account", "name", "balance", "smallest units", "held in", "held out", "id"),
        (
            (
                record.kind,
                record.name,
                scaled(record, record.balance),
                str(record.balance),
                str(record.pending_in),
                str(record.pending_out),
                record.id,
            )
            for record in records
        ),
        right=("balance", "smallest units", "held in", "held out"),
    )


def _details(record: msgspec.Struct) -> Any:
    rows: list[tuple[str, str]] = []
    for name, value in msgspec.structs.asdict(record).items():
        if isinstance(value, AssetRecord):
            text = f"{value.name} {value.id}"
        elif isinstance(value, RateLimit):
            text = f"{value.per_second} a second, burst {value.burst}"
        elif isinstance(value, tuple):
            text = " ".join(prefix or "''" for prefix in value) or "-"
        else:
            text = "-" if value is None else str(value)
        rows.append((name.replace("_", " "), text))
    return _table(("", ""), rows)


def _scaled_or_dash(amount: int | None, record: AssetRecord) -> str:
    if amount is None:
        return "-"
    return f"{format_amount(amount, record.scale)} {record.code}"


commands: Final[list[click.Command]] = [asset, peer, route, token, liquidity, balance]
