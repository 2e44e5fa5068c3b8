"""The schema is applied once, and only one that is known is used."""

import asyncio
import socket
import ssl
from pathlib import Path

import asyncpg
import pytest

from connector.errors import ConfigError
from connector.settings import Settings
from connector.stores import (
    SCHEMA,
    SCHEMA_VERSION,
    apply_schema,
    check_redis,
    check_schema,
    connect_postgres,
    redis_client,
)
from tests.support.postgres import PostgresServer
from tests.support.running import free_ports


@pytest.fixture
def empty_url(postgres_server: PostgresServer) -> str:
    return postgres_server.create_database(schema=False)


async def test_the_schema_is_applied_once_by_whoever_comes_first(empty_url: str) -> None:
    connections = [await asyncpg.connect(empty_url) for _ in range(4)]
    await asyncio.gather(*(apply_schema(connection) for connection in connections))
    for connection in connections:
        assert await connection.fetchval("SELECT count(*) FROM schema_version") == 1
        await check_schema(connection)
        await connection.close()


async def test_an_unknown_version_is_refused(empty_url: str) -> None:
    connection = await asyncpg.connect(empty_url)
    await apply_schema(connection)
    await connection.execute("UPDATE schema_version SET version = 999")
    for step in (apply_schema, check_schema):
        with pytest.raises(ConfigError, match=r"DATABASE_URL: .* schema version 999"):
            await step(connection)
    await connection.close()


async def test_a_database_of_something_else_is_refused_and_left_alone(empty_url: str) -> None:
    connection = await asyncpg.connect(empty_url)
    await connection.execute("CREATE TABLE peers (id int)")
    with pytest.raises(ConfigError, match="DATABASE_URL: the schema does not apply"):
        await apply_schema(connection)
    assert await connection.fetchval("SELECT to_regclass('schema_version')") is None
    with pytest.raises(ConfigError, match="DATABASE_URL: the database has no schema"):
        await check_schema(connection)
    await connection.close()


def test_the_schema_states_the_version_that_is_known() -> None:
    assert f"INSERT INTO schema_version (version) VALUES ({SCHEMA_VERSION});" in SCHEMA.read_text()


async def test_a_silent_database_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("connector.stores.CONNECT_S_MAX", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        settings = Settings(database_url=f"postgresql://u:hidden@127.0.0.1:{port}/d")
        with pytest.raises(ConfigError, match=r"DATABASE_URL is .*: no answer within") as caught:
            await connect_postgres(settings)
        assert "hidden" not in str(caught.value)
        settings = Settings(redis_url=f"redis://:hidden@127.0.0.1:{port}")
        with pytest.raises(ConfigError, match=r"REDIS_URL is .*: no answer within") as caught:
            await check_redis(settings)
        assert "hidden" not in str(caught.value)


async def test_a_missing_certificate_file_is_named(tmp_path: Path) -> None:
    [port] = free_ports(1)
    settings = Settings(
        redis_url=f"rediss://127.0.0.1:{port}", redis_tls_ca_file_path=tmp_path / "absent"
    )
    with pytest.raises(ConfigError, match=r"REDIS_TLS_CA_FILE_PATH is .*absent': there is no"):
        await check_redis(settings)


def test_certificates_of_redis_are_checked() -> None:
    client = redis_client(Settings(redis_url="rediss://host"))
    options = client.connection_pool.connection_kwargs
    assert options.get("ssl_cert_reqs", "required") in ("required", ssl.CERT_REQUIRED)
