"""How to reach Postgres and Redis, and which version of the schema the node knows."""

import asyncio
import ssl
from pathlib import Path
from typing import Any, Final

import asyncpg
import redis.asyncio
import redis.exceptions

from connector.errors import ConfigError
from connector.settings import Settings, mask_url

SCHEMA: Final = Path(__file__).with_name("schema.sql")
SCHEMA_VERSION: Final = 1
# Any number, as long as every process of every node on one database takes the same.
SCHEMA_LOCK: Final = 0x6A6972616E69
CONNECT_S_MAX: Final = 10.0


async def connect_postgres(settings: Settings) -> asyncpg.Connection:
    """Connect for a moment, for start-up work and the command line.

    Raises: ConfigError - no answer within 10 s, or a refusal; it names the setting.
    """
    try:
        async with asyncio.timeout(CONNECT_S_MAX):
            return await asyncpg.connect(settings.postgres_url())
    except TimeoutError:
        reason = f"no answer within {CONNECT_S_MAX:.0f} s"
    except (OSError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        reason = _one_line(error)
    if settings.database_url is None:
        raise ConfigError(
            "DATABASE_URL is not set, and the embedded Postgres does not answer: "
            "start the node first with make run"
        )
    raise ConfigError(f"DATABASE_URL is {mask_url(settings.database_url)!r}: {reason}")


async def apply_schema(connection: asyncpg.Connection) -> None:
    """Make the tables of an empty database; leave a complete one alone.

    Raises: ConfigError - the database holds another version, or something else.
    """
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock($1)", SCHEMA_LOCK)
        if await connection.fetchval("SELECT to_regclass('schema_version')") is None:
            try:
                await connection.execute(SCHEMA.read_text())
            except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                raise ConfigError(
                    f"DATABASE_URL: the schema does not apply to this database: {_one_line(error)}"
                ) from None
        await check_schema(connection)


async def check_schema(connection: asyncpg.Connection) -> None:
    """Refuse a database whose tables this program does not know.

    Raises: ConfigError.
    """
    try:
        version = await connection.fetchval("SELECT version FROM schema_version")
    except asyncpg.UndefinedTableError:
        version = None
    if version != SCHEMA_VERSION:
        found = "no schema" if version is None else f"schema version {version}"
        raise ConfigError(
            f"DATABASE_URL: the database has {found}, and this program knows {SCHEMA_VERSION}"
        )


def redis_client(settings: Settings) -> redis.asyncio.Redis:
    """Make a client for the Redis in use; it connects when first used.

    With ``REDIS_TLS_CA_FILE_PATH`` certificates are checked against that file: Rafiki leaves them
    unchecked then.

    Raises: ConfigError - a certificate or key file cannot be read.
    """
    address = settings.redis_address()
    options: dict[str, Any] = {}
    if address.startswith("rediss://"):
        paths = {
            "REDIS_TLS_CA_FILE_PATH": ("ssl_ca_certs", settings.redis_tls_ca_file_path),
            "REDIS_TLS_KEY_FILE_PATH": ("ssl_keyfile", settings.redis_tls_key_file_path),
            "REDIS_TLS_CERT_FILE_PATH": ("ssl_certfile", settings.redis_tls_cert_file_path),
        }
        for name, (option, path) in paths.items():
            if path is not None:
                if not path.is_file():
                    raise ConfigError(f"{name} is {str(path)!r}: there is no such file")
                options[option] = str(path)
    return redis.asyncio.Redis.from_url(address, **options)


async def check_redis(settings: Settings) -> None:
    """See that Redis answers.

    Raises: ConfigError - no answer within 10 s, or a refusal; it names the setting.
    """
    try:
        client = redis_client(settings)
        try:
            async with asyncio.timeout(CONNECT_S_MAX):
                await client.ping()
        finally:
            await client.aclose()
    except TimeoutError:
        reason = f"no answer within {CONNECT_S_MAX:.0f} s"
    except (OSError, ValueError, ssl.SSLError, redis.exceptions.RedisError) as error:
        reason = _one_line(error)
    else:
        return
    raise ConfigError(f"REDIS_URL is {mask_url(settings.redis_address())!r}: {reason}")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
