"""Every environment variable of the node, once: type, unit, bound, default and meaning.

Names and meaning are Rafiki's where it has them. Its parsing rules hold: ``ENV_FILE`` (default
``.env``) is read below the environment, an empty value counts as unset, lists are comma separated
and trimmed. One rule is stricter: a switch is ``true`` or ``false``, and any other text is an
error, where Rafiki takes it for false.

``Settings`` is built once by a composition root and passed on; nothing else reads the environment.
"""

import base64
import binascii
import hashlib
import ipaddress
import json
import os
import re
import secrets
import stat
import tempfile
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self
from urllib.parse import quote, urlsplit
from uuid import UUID

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from connector.errors import ConfigError

SECRET_BYTES: Final = 32
# Random 32 bytes hold about 30 different values; fewer than 16 does not happen by chance.
SECRET_DISTINCT_BYTES_MIN: Final = 16
SECRETS_FILE: Final = "secrets.json"
# A unix socket's path has at most 107 bytes; Postgres adds the longest name.
SOCKET_PATH_BYTES_MAX: Final = 107
LONGEST_SOCKET: Final = "postgres/.s.PGSQL.5432"
REPLY_MS_MIN: Final = 500
DATABASE_NAME: Final = "jirani"
RATES_BYTES_MAX: Final = 1 << 20
DEVELOPMENT_TENANT_ID: Final = "11111111-1111-4111-8111-111111111111"
DEVELOPMENT_ILP_ADDRESS: Final = "test.jirani"
TIGERBEETLE_DEFAULT_ADDRESS: Final = "3004"
ILP_ADDRESS: Final = re.compile(
    r"(g|private|example|peer|self|test[1-3]?|local)(\.[A-Za-z0-9_~-]+)+", re.ASCII
)
ILP_ADDRESS_MAX: Final = 1023


def _wrong(message: str) -> PydanticCustomError:
    return PydanticCustomError("setting", "{message}", {"message": message})


def _parse_switch(value: object) -> object:
    if isinstance(value, str):
        if value not in ("true", "false"):
            raise _wrong("write true or false")
        return value == "true"
    return value


def _parse_list(value: object) -> object:
    if isinstance(value, str):
        return tuple(item.strip() for item in value.split(",") if item.strip())
    return value


def _check_ilp_address(value: str) -> str:
    if len(value) > ILP_ADDRESS_MAX or not ILP_ADDRESS.fullmatch(value):
        raise _wrong("write an ILP address such as g.example.node or test.node (RFC 15)")
    return value


def _check_tenant(value: str) -> str:
    try:
        return str(UUID(value))
    except ValueError:
        raise _wrong("write a UUID") from None


def _check_secret(value: str) -> str:
    try:
        key = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != SECRET_BYTES:
        raise _wrong("write 32 random bytes as base64, such as from: openssl rand -base64 32")
    if len(set(key)) < SECRET_DISTINCT_BYTES_MIN:
        raise _wrong("is too weak; make one with: openssl rand -base64 32")
    return value


def _check_url(*schemes: str) -> AfterValidator:
    def check(value: str) -> str:
        try:
            parts = urlsplit(value)
            parts.port  # noqa: B018 - reading it checks it
        except ValueError:
            raise _wrong(f"write a URL beginning with {schemes[0]}://") from None
        if parts.scheme not in schemes or not (parts.netloc or parts.path or parts.query):
            raise _wrong(f"write a URL beginning with {schemes[0]}://")
        return value

    return AfterValidator(check)


def _check_replica(value: tuple[str, ...]) -> tuple[str, ...]:
    for address in value:
        host, _, port = address.rpartition(":")
        if not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536 or " " in host:
            raise _wrong("write ports or host:port pairs, comma separated, such as 127.0.0.1:3004")
    return value


def _parse_rates(value: object) -> object:
    """Parse static rates exactly: JSON numbers become Decimal, never a float."""
    if not isinstance(value, str):
        return value
    problem = _wrong('write JSON such as {"USD": {"EUR": "0.91"}}, every rate above 0')
    try:
        if len(value) > RATES_BYTES_MAX:
            raise problem
        bases = json.loads(value, parse_float=Decimal, parse_int=Decimal)
        rates = {
            base: {quote_code: Decimal(rate) for quote_code, rate in quotes.items()}
            for base, quotes in bases.items()
        }
    except (ValueError, ArithmeticError, TypeError, AttributeError, RecursionError):
        raise problem from None
    if not all(
        rate.is_finite() and rate > 0 for quotes in rates.values() for rate in quotes.values()
    ):
        raise problem
    return rates


def _unit(unit: str) -> dict[str, Any]:
    return {"unit": unit}


_SECRET: Final[dict[str, Any]] = {"secret": True}

Switch = Annotated[bool, BeforeValidator(_parse_switch)]
Port = Annotated[int, Field(ge=1, le=65535)]
Secret = Annotated[str, AfterValidator(_check_secret)]
Replicas = Annotated[
    tuple[str, ...], NoDecode, BeforeValidator(_parse_list), AfterValidator(_check_replica)
]
Rates = Annotated[dict[str, dict[str, Decimal]] | None, NoDecode, BeforeValidator(_parse_rates)]


def cores() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Settings(BaseSettings):
    """The effective settings. A field's variable is its name in capitals."""

    model_config = SettingsConfigDict(
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
        validate_default=False,
    )

    jirani_env: Literal["development", "production"] = Field(
        "development",
        description="In production nothing is generated or guessed: a missing or weak secret stops "
        "the start.",
    )
    jirani_var: Path = Field(
        Path("var"),
        description="Folder for the data of embedded stores and for generated secrets.",
    )
    log_level: Literal["trace", "debug", "info", "warn", "error", "fatal", "silent"] = Field(
        "info", description="Least important log line written."
    )

    ilp_address: Annotated[str, AfterValidator(_check_ilp_address)] = Field(
        DEVELOPMENT_ILP_ADDRESS,
        description="The node's own ILP address. Required in production.",
    )
    instance_name: str = Field(
        "jirani",
        min_length=1,
        max_length=128,
        description="Name shown to people and in telemetry.",
    )
    operator_tenant_id: Annotated[str, AfterValidator(_check_tenant)] = Field(
        DEVELOPMENT_TENANT_ID,
        description="UUID of the operator's tenant. Required in production.",
    )
    stream_secret: Secret | None = Field(
        None,
        description="Base64 of 32 bytes from which STREAM credentials derive. Development: "
        "generated once; required in production.",
        json_schema_extra=_SECRET,
    )
    db_encryption_secret: Secret | None = Field(
        None,
        description="Base64 of 32 bytes that encrypts tokens kept in the database. Development: "
        "generated once; required in production.",
        json_schema_extra=_SECRET,
    )

    connector_host: str = Field(
        "0.0.0.0",
        min_length=1,
        description="Address that the packet port binds to.",
    )
    connector_port: Port = Field(3002, description="ILP over HTTP, all workers.")
    connector_workers: int = Field(
        default_factory=cores,
        ge=1,
        le=64,
        description="Connector processes. Default: one for each core.",
    )
    connector_connections_max: int = Field(
        4096,
        ge=1,
        le=1_000_000,
        description="Incoming connections held open, for each worker.",
    )
    connector_header_timeout_ms: int = Field(
        10_000,
        ge=100,
        le=600_000,
        description="Time for a request to arrive whole.",
        json_schema_extra=_unit("ms"),
    )
    connector_idle_timeout_ms: int = Field(
        60_000,
        ge=1_000,
        le=3_600_000,
        description="An incoming connection without a request is closed after this.",
        json_schema_extra=_unit("ms"),
    )
    peer_connections_max: int = Field(
        1024,
        ge=1,
        le=65_536,
        description="Outgoing connections to one peer, for each worker.",
    )
    ilp_expiry_margin_ms: int = Field(
        1_000,
        ge=1,
        le=60_000,
        description="Taken off a packet's expiry when it is forwarded.",
        json_schema_extra=_unit("ms"),
    )
    ilp_max_hold_ms: int = Field(
        30_000,
        ge=100,
        le=300_000,
        description="Longest time a packet is held; a later expiry is brought forward.",
        json_schema_extra=_unit("ms"),
    )
    late_fulfil_slack_ms: int = Field(
        500,
        ge=0,
        le=10_000,
        description="How long after a packet's outgoing expiry its fulfil is still taken.",
        json_schema_extra=_unit("ms"),
    )
    route_to_sender: Switch = Field(
        False, description="Whether a packet may be routed back to the peer it came from."
    )

    database_url: Annotated[str, _check_url("postgresql", "postgres")] | None = Field(
        None,
        description="Postgres. Unset: an embedded one is started.",
        json_schema_extra=_SECRET,
    )
    redis_url: Annotated[str, _check_url("redis", "rediss", "unix")] | None = Field(
        None,
        description="Redis. Unset: an embedded one is started.",
        json_schema_extra=_SECRET,
    )
    redis_tls_ca_file_path: Path | None = Field(
        None, description="Certificates that Redis is checked against."
    )
    redis_tls_key_file_path: Path | None = Field(None, description="Our key towards Redis.")
    redis_tls_cert_file_path: Path | None = Field(None, description="Our certificate to Redis.")

    use_tigerbeetle: Switch = Field(
        False,
        description="Keep balances in TigerBeetle. Default: true where "
        "TIGERBEETLE_REPLICA_ADDRESSES is set, else false (the Postgres ledger).",
    )
    tigerbeetle_cluster_id: int = Field(0, ge=0, lt=1 << 128, description="Cluster number.")
    tigerbeetle_replica_addresses: Replicas = Field(
        (),
        max_length=6,
        description="Ports or host:port of the replicas, comma separated. Default with "
        "USE_TIGERBEETLE: 3004.",
    )
    ledger_grace_s: int = Field(
        300,
        ge=1,
        le=86_400,
        description="Added to a reservation's time-out in the ledger, the last net.",
        json_schema_extra=_unit("s"),
    )

    exchange_rates: Rates = Field(
        None,
        description='Fixed rates as JSON, {"USD": {"EUR": "0.91"}}: EUR for one USD, scales aside.',
    )
    exchange_rates_url: Annotated[str, _check_url("http", "https")] | None = Field(
        None,
        description="Rates service, asked with ?base=USD. Development: the example service.",
    )
    exchange_rates_lifetime: int = Field(
        15_000,
        ge=100,
        le=86_400_000,
        description="Rates are asked for again after this.",
        json_schema_extra=_unit("ms"),
    )
    exchange_rates_stale_ms: int = Field(
        60_000,
        ge=0,
        le=86_400_000,
        description="How long beyond their lifetime rates still serve while the service fails.",
        json_schema_extra=_unit("ms"),
    )
    exchange_rates_file: Path | None = Field(
        None,
        description="JSON file of the example rates service. Unset: its built-in examples.",
    )
    rates_host: str = Field(
        "127.0.0.1", min_length=1, description="Address that the rates service binds to."
    )
    rates_port: Port = Field(3012, description="The example rates service.")

    metrics_host: str = Field(
        "127.0.0.1", min_length=1, description="Address that the metrics port binds to."
    )
    metrics_port: Port = Field(9464, description="/metrics, /healthz/live, /healthz/ready.")

    @model_validator(mode="after")
    def _complete(self) -> Self:
        values: dict[str, Any] = {"jirani_var": self.jirani_var.expanduser().absolute()}
        if "use_tigerbeetle" not in self.model_fields_set:
            values["use_tigerbeetle"] = bool(self.tigerbeetle_replica_addresses)
        elif self.use_tigerbeetle and not self.tigerbeetle_replica_addresses:
            values["tigerbeetle_replica_addresses"] = (TIGERBEETLE_DEFAULT_ADDRESS,)
        # Frozen is for everybody else: this completes the object before anybody sees it.
        for name, value in values.items():
            object.__setattr__(self, name, value)
        return self

    @property
    def production(self) -> bool:
        return self.jirani_env == "production"

    @property
    def embedded_rates(self) -> bool:
        """Whether the example rates service is to run: never guessed in production."""
        configured = self.exchange_rates_url is not None or self.exchange_rates is not None
        return not configured and (not self.production or self.exchange_rates_file is not None)

    @property
    def run_dir(self) -> Path:
        """The folder of the node's unix sockets: short enough for their names, always the same."""
        inside = self.jirani_var / "run"
        if len(os.fsencode(inside / LONGEST_SOCKET)) <= SOCKET_PATH_BYTES_MAX:
            return inside
        digest = hashlib.sha256(os.fsencode(self.jirani_var)).hexdigest()[:16]
        name = f"jirani-{os.geteuid()}-{digest}"
        outside = Path(tempfile.gettempdir()) / name
        if len(os.fsencode(outside / LONGEST_SOCKET)) <= SOCKET_PATH_BYTES_MAX:
            return outside
        return Path("/tmp") / name

    def postgres_url(self) -> str:
        """The database to use: the one configured, else the embedded one's."""
        if self.database_url is not None:
            return self.database_url
        host = quote(str(self.run_dir / "postgres"), safe="/")
        return f"postgresql://{DATABASE_NAME}@/{DATABASE_NAME}?host={host}"

    def redis_address(self) -> str:
        """The Redis to use: the one configured, else the embedded one's."""
        return self.redis_url or f"unix://{quote(str(self.run_dir / 'redis.sock'), safe='/')}"

    def to_environment(self) -> dict[str, str]:
        """What a process needs in its environment to load the same settings."""
        values = {name.upper(): to_text(getattr(self, name)) for name in type(self).model_fields}
        return {**values, "ENV_FILE": os.devnull}


def to_text(value: Any) -> str:
    """Write a value as its environment variable; empty for what is not set."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return ",".join(value)
    if isinstance(value, dict):
        return json.dumps(value, default=str)
    return str(value)


def mask(name: str, value: Any) -> str:
    """Write a value for people: secrets are hidden, of a URL only the password."""
    text = to_text(value)
    field = Settings.model_fields[name]
    if not text or not is_secret(field):
        return text
    return mask_url(text) if name.endswith("_url") else "********"


def mask_url(url: str) -> str:
    """Hide the password of a URL, in its authority or in its query."""
    url = re.sub(r"(://[^/?#@:]*):.*@", r"\1:********@", url)
    return re.sub(r"([?&]\w*password=)[^&#]*", r"\1********", url, flags=re.IGNORECASE)


def is_secret(field: FieldInfo) -> bool:
    return isinstance(field.json_schema_extra, dict) and bool(field.json_schema_extra.get("secret"))


def describe() -> list[tuple[str, str, str]]:
    """List every variable: its name, its default as text, what it means with unit and bounds."""
    rows = [
        (
            "ENV_FILE",
            ".env",
            "File of further settings; the environment comes first.",
        )
    ]
    for name, field in Settings.model_fields.items():
        default = "cores" if field.default_factory else to_text(field.default)
        bounds = _bounds(field)
        meaning = f"{field.description} ({bounds})" if bounds else str(field.description)
        rows.append((name.upper(), default, meaning))
    return rows


def _bounds(field: FieldInfo) -> str:
    extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
    low = high = None
    for rule in field.metadata:
        low = getattr(rule, "ge", low)
        high = getattr(rule, "le", high)
    if low is None or high is None:
        return ""
    return f"{low} to {high} {extra.get('unit', '')}".rstrip()


def load_settings(*, generate: bool = True) -> Settings:
    """Read the settings, and in development the secrets kept under ``JIRANI_VAR``.

    generate - make missing development secrets.
    Raises: ConfigError - one line for each setting that is wrong, naming it.
    """
    env_file = os.environ.get("ENV_FILE")
    if env_file and not Path(env_file).exists():
        raise ConfigError(f"ENV_FILE is {env_file!r}: there is no such file")
    try:
        settings = Settings(_env_file=env_file or ".env")
    except ValidationError as error:
        raise ConfigError(_explain(error)) from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"ENV_FILE is {env_file or '.env'!r}: cannot be read: {error}") from None
    _check_ports(settings)
    _check_deadlines(settings)
    if settings.production:
        _check_production(settings)
        return settings
    return _with_secrets(settings, generate=generate)


def _explain(error: ValidationError) -> str:
    lines = []
    for problem in error.errors(include_url=False):
        name = str(problem["loc"][0])
        field = Settings.model_fields[name]
        shown = "" if is_secret(field) else f" is {str(problem['input'])[:200]!r}"
        bounds = _bounds(field)
        if problem["type"] == "setting":
            message = problem["msg"]
        elif bounds:
            message = f"write a whole number, {bounds}"
        else:
            message = f"must be {problem['msg'].removeprefix('Input should be ')}"
        lines.append(f"{name.upper()}{shown}: {message}")
    return "\n".join(dict.fromkeys(lines))


def _check_ports(settings: Settings) -> None:
    seen: dict[int, str] = {}
    ports = {"METRICS_PORT": settings.metrics_port, "CONNECTOR_PORT": settings.connector_port}
    if settings.embedded_rates:
        ports["RATES_PORT"] = settings.rates_port
    for name, port in ports.items():
        if port in seen:
            raise ConfigError(f"{name} is {port}: {seen[port]} has the same port")
        seen[port] = name


def _check_deadlines(settings: Settings) -> None:
    """A fulfil that is still taken must leave us the time to pass it back in time."""
    slack, margin = settings.late_fulfil_slack_ms, settings.ilp_expiry_margin_ms
    if slack > max(margin - REPLY_MS_MIN, 0):
        raise ConfigError(
            f"LATE_FULFIL_SLACK_MS is {slack}: must be at least {REPLY_MS_MIN} less than "
            f"ILP_EXPIRY_MARGIN_MS, which is {margin}"
        )


def _check_production(settings: Settings) -> None:
    required = ("ilp_address", "operator_tenant_id", "stream_secret", "db_encryption_secret")
    missing = [name.upper() for name in required if name not in settings.model_fields_set]
    if missing:
        raise ConfigError(
            "\n".join(f"{name} is not set: required with JIRANI_ENV=production" for name in missing)
        )


def _with_secrets(settings: Settings, *, generate: bool) -> Settings:
    """Fill in the development secrets, the same for every process that shares the folder."""
    names = [n for n in ("stream_secret", "db_encryption_secret") if getattr(settings, n) is None]
    path = settings.jirani_var / SECRETS_FILE
    if not names or (not generate and not path.exists()):
        return settings
    try:
        if not path.exists():
            _generate_secrets(path)
        kept = json.loads(path.read_text())
        update = {name: _check_secret(kept[name.upper()]) for name in names}
    except OSError as error:
        raise ConfigError(
            f"JIRANI_VAR is {str(settings.jirani_var)!r}: {error.strerror} ({error.filename})"
        ) from None
    except (ValueError, KeyError, TypeError, PydanticCustomError):
        raise ConfigError(
            f"JIRANI_VAR is {str(settings.jirani_var)!r}: {path} is damaged; restore it, or set "
            "STREAM_SECRET and DB_ENCRYPTION_SECRET"
        ) from None
    return settings.model_copy(update=update)


def _generate_secrets(path: Path) -> None:
    """Write new secrets; whoever comes first wins, and nobody reads a half-written file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    made = {
        name: base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()
        for name in ("STREAM_SECRET", "DB_ENCRYPTION_SECRET")
    }
    draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, stat.S_IRUSR | stat.S_IWUSR)
    try:
        with os.fdopen(descriptor, "w") as file:
            json.dump(made, file, indent=1)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)
        except FileExistsError:
            return
    finally:
        draft.unlink()


def is_loopback(host: str) -> bool:
    """Whether an address to bind to is for this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
