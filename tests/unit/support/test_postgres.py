"""The throwaway Postgres itself."""

import signal

import asyncpg

from tests.support.postgres import EmbeddedPostgres, PostgresServer


async def test_databases_are_fresh(postgres_server: PostgresServer, database_url: str) -> None:
    other_url = postgres_server.create_database(schema=False)
    for url in (database_url, other_url):
        connection = await asyncpg.connect(url)
        await connection.execute("CREATE TABLE mark (id int)")
        assert await connection.fetchval("SHOW fsync") == "on"
        await connection.close()
    postgres_server.drop_database(other_url)


async def test_a_private_server_survives_a_crash(private_postgres: EmbeddedPostgres) -> None:
    url = private_postgres.create_database(schema=False)
    connection = await asyncpg.connect(url)
    await connection.execute("CREATE TABLE mark (id int)")
    private_postgres.stop(signal.SIGQUIT)
    private_postgres.start()
    again = await asyncpg.connect(url)
    assert await again.fetchval("SELECT count(*) FROM mark") == 0
    await again.close()
    connection.terminate()
