"""A whole node with stand-in workers: how it starts, what it says, how it ends."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.support.running import REPOSITORY, RunningNode, free_ports, running_node, wait_for_none

STANDIN = (sys.executable, "-m", "tests.support.standin_node")
# A folder that some other test of this module has filled, so that not each creates a cluster.
NO_RATES = {"EXCHANGE_RATES": "{}"}

Start = Callable[..., RunningNode]


@pytest.fixture(scope="module")
def var(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("v") / "var"


@pytest.fixture
def start(request: pytest.FixtureRequest, var: Path) -> Start:
    """Start a node that ends with the test."""

    def start(environment: Mapping[str, str] | None = None, folder: Path = var) -> RunningNode:
        context = running_node(folder, {**NO_RATES, **(environment or {})}, command=STANDIN)
        node = context.__enter__()
        request.addfinalizer(lambda: context.__exit__(None, None, None))
        return node

    return start


def sql(node: RunningNode, statement: str) -> str:
    """Run a statement in the node's database by a program that is not ours."""
    host = Path(node.environment["JIRANI_VAR"]) / "run" / "postgres"
    code = (
        "import asyncio, asyncpg, sys\n"
        "async def main():\n"
        "    c = await asyncpg.connect(host=sys.argv[1], user='jirani', database='jirani')\n"
        "    print(await c.fetchval(sys.argv[2]))\n"
        "    await c.close()\n"
        "asyncio.run(main())\n"
    )
    command = [sys.executable, "-c", code, str(host), statement]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def wait_for_state(node: RunningNode, name: str, state: str) -> None:
    deadline = time.monotonic() + 30
    while node.states()[name] != state:
        assert time.monotonic() < deadline, f"{name} did not become {state}: {node.states()}"
        time.sleep(0.02)


def pid_of(node: RunningNode, text: str) -> int:
    return next(pid for pid, command in node.children().items() if text in command)


def test_a_node_starts_answers_and_stops_on_sigint(start: Start) -> None:
    node = start()
    node.wait_ready()
    for text in ("worker-0 started", f":{node.connector_port}", f":{node.metrics_port}/metrics"):
        assert text in node.output
    assert "ledger    Postgres" in node.output
    assert node.get("/healthz/live")[0] == 200
    assert node.get("/healthz/ready")[0] == 200
    assert node.states() == dict.fromkeys(("postgres", "redis", "worker-0", "worker-1"), "ready")
    assert node.metrics()["standin_packets_total"] == 14
    assert node.stop(signal.SIGINT) == 0
    assert node.output.endswith("draining\nstopped\n")
    wait_for_none(node, 0)


def test_sigterm_drains_and_data_stay(start: Start) -> None:
    first = start()
    first.wait_ready()
    sql(first, "CREATE TABLE kept (id int)")
    assert first.stop(signal.SIGTERM) == 0
    second = start()
    second.wait_ready()
    assert sql(second, "SELECT count(*) FROM kept") == "0"
    sql(second, "DROP TABLE kept")
    assert sql(second, "SELECT version FROM schema_version") == "1"
    assert second.stop(signal.SIGTERM) == 0


def test_sigint_drains_where_it_was_inherited_as_ignored(var: Path) -> None:
    prefix = ("sh", "-c", 'trap "" INT; exec "$@"', "sh")
    with running_node(var, NO_RATES, command=(*prefix, *STANDIN)) as node:
        node.wait_ready()
        assert node.stop(signal.SIGINT) == 0


def test_a_signal_during_the_start_stops_it(start: Start) -> None:
    node = start({"STANDIN": "never"})
    node.wait_for("starting 2 connector workers")
    assert node.stop(signal.SIGINT) == 0
    wait_for_none(node, 0)


def test_a_closed_terminal_drains(start: Start) -> None:
    node = start()
    node.wait_ready()
    assert node.stop(signal.SIGHUP) == 0


def test_it_is_not_ready_before_its_workers(start: Start) -> None:
    node = start({"STANDIN": "never"})
    node.wait_for("starting 2 connector workers")
    status, body = node.get("/healthz/ready")
    assert (status, '"starting"' in body) == (503, True)
    assert node.get("/healthz/live")[0] == 200
    assert node.stop() == 0


def test_nothing_outlives_a_killed_supervisor(start: Start) -> None:
    first = start()
    first.wait_ready()
    assert len(first.children()) > 5
    first.send(signal.SIGKILL)
    first.wait()
    wait_for_none(first, 5)
    second = start()
    second.wait_ready()
    assert second.stop() == 0


def test_stores_that_outlived_it_all_the_same_are_ended_by_the_next_start(start: Start) -> None:
    first = start()
    first.wait_ready()
    stuck = [pid_of(first, text) for text in ("bin/postgres", "redis-server")]
    # A stopped process does not act on the signal of its parent's death.
    for pid in stuck:
        os.kill(pid, signal.SIGSTOP)
    first.send(signal.SIGKILL)
    first.wait()
    assert pid_of(first, "bin/postgres") == stuck[0]
    second = start()
    second.wait_ready()
    assert not set(stuck) & set(second.children())
    assert second.stop() == 0


def test_a_stale_pid_file_is_no_obstacle(start: Start, var: Path) -> None:
    # The number of a living process that is not Postgres: ours.
    (var / "postgres" / "postmaster.pid").write_text(f"{os.getpid()}\n{var}/postgres\n1\n5432\n")
    node = start()
    node.wait_ready()
    assert node.stop() == 0


def test_a_dead_worker_is_replaced_and_its_counts_stay(start: Start) -> None:
    node = start()
    node.wait_ready()
    before = node.metrics()
    pid = int(before['standin_pid{process="worker-0"}'])
    os.kill(pid, signal.SIGKILL)
    node.wait_for("process_restarted")
    wait_for_state(node, "worker-0", "ready")
    after = node.metrics()
    assert after["standin_packets_total"] == 21
    assert after['standin_pid{process="worker-0"}'] != pid
    assert after['jirani_process_restarts_total{process="worker-0"}'] == 1
    assert node.stop() == 0


def test_a_stuck_worker_shows_as_down_and_its_counts_stay(start: Start) -> None:
    node = start()
    node.wait_ready()
    pid = int(node.metrics()['standin_pid{process="worker-1"}'])
    os.kill(pid, signal.SIGSTOP)
    status, body = node.get("/healthz/ready")
    assert (status, node.states()["worker-1"]) == (503, "stuck"), body
    stuck = node.metrics()
    assert stuck['jirani_process_up{process="worker-1"}'] == 0
    assert stuck["standin_packets_total"] == 14
    os.kill(pid, signal.SIGCONT)
    wait_for_state(node, "worker-1", "ready")
    assert node.stop() == 0


@pytest.mark.parametrize("program", ["bin/postgres", "redis-server"])
def test_a_dead_store_is_started_again(start: Start, program: str) -> None:
    node = start()
    node.wait_ready()
    os.kill(pid_of(node, program), signal.SIGKILL)
    node.wait_for("process_restarted")
    wait_for_state(node, "postgres", "ready")
    wait_for_state(node, "redis", "ready")
    assert sql(node, "SELECT version FROM schema_version") == "1"
    assert node.stop() == 0


def test_a_second_signal_forces(start: Start) -> None:
    node = start({"STANDIN": "stubborn"})
    node.wait_ready()
    node.send(signal.SIGTERM)
    node.wait_for("draining")
    assert node.stop(signal.SIGTERM) == 1
    wait_for_none(node, 5)


def test_a_worker_that_refuses_ends_the_start_with_its_own_line(start: Start) -> None:
    node = start({"STANDIN": "refuse"})
    assert node.wait() == 1
    assert node.output.endswith(
        "Error: TIGERBEETLE_REPLICA_ADDRESSES is '3004': no ledger answers there\n"
    )
    assert node.output.count("no ledger answers") == 1
    wait_for_none(node, 0)


def test_a_worker_that_keeps_crashing_ends_the_start(start: Start) -> None:
    node = start({"STANDIN": "crash"})
    assert node.wait() == 1
    assert "ended while starting (signal 11, Segmentation fault)" in node.output.splitlines()[-1]
    wait_for_none(node, 0)


def test_a_second_node_on_the_same_folder_is_refused(start: Start, var: Path) -> None:
    first = start()
    first.wait_ready()
    second = start()
    assert second.wait() == 1
    assert second.output == f"Error: JIRANI_VAR is '{var}': another node runs on this folder\n"
    assert first.stop() == 0


@pytest.mark.parametrize("name", ["CONNECTOR_PORT", "METRICS_PORT", "RATES_PORT"])
def test_a_port_in_use_is_named(start: Start, name: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        node = start({name: str(port), "EXCHANGE_RATES": ""})
        assert node.wait() == 1
    assert node.output == (
        f"Error: {name} is {port}: in use by another program; choose another port\n"
    )


def test_a_port_that_a_sharing_program_uses_is_in_use(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as taken:
        port = taken.getsockname()[1]
        node = start({"CONNECTOR_PORT": str(port)})
        assert node.wait() == 1
    assert node.output.startswith(f"Error: CONNECTOR_PORT is {port}: in use")


def test_an_address_of_another_machine_is_named(start: Start) -> None:
    node = start({"CONNECTOR_HOST": "192.0.2.1"})
    assert node.wait() == 1
    assert node.output == "Error: CONNECTOR_HOST is '192.0.2.1': no address of this machine\n"


@pytest.mark.parametrize(
    ("name", "url", "shown"),
    [
        (
            "DATABASE_URL",
            "postgresql://me:hidden@127.0.0.1:{port}/x",
            "postgresql://me:********@127.0.0.1:{port}/x",
        ),
        ("REDIS_URL", "redis://:hidden@127.0.0.1:{port}", "redis://:********@127.0.0.1:{port}"),
    ],
)
def test_an_unreachable_store_is_named(start: Start, name: str, url: str, shown: str) -> None:
    [port] = free_ports(1)
    node = start({name: url.format(port=port)})
    assert node.wait() == 1
    last = node.output.splitlines()[-1]
    assert last.startswith(f"Error: {name} is '{shown.format(port=port)}': ")
    assert "hidden" not in node.output
    wait_for_none(node, 0)


def test_a_given_database_is_used(start: Start, database_url: str) -> None:
    node = start({"DATABASE_URL": database_url})
    node.wait_ready()
    assert "postgres" not in node.states()
    assert "from DATABASE_URL" in node.output
    assert node.stop() == 0


def test_sockets_find_a_short_place_for_a_deep_folder(start: Start, tmp_path: Path) -> None:
    deep = tmp_path / ("deep" * 20) / "var"
    node = start(folder=deep)
    node.wait_ready()
    assert not (deep / "run").exists()
    assert node.metrics()["standin_packets_total"] == 14
    assert node.stop() == 0
    again = start(folder=deep)
    again.wait_ready()
    assert again.stop() == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_an_ordinary_user_runs_it_too() -> None:
    prefix = ("setpriv", "--reuid", "nobody", "--clear-groups", "--no-new-privs")
    question = (*prefix, sys.executable, "-c", "import sys; print(sys.version, sys.prefix)")
    try:
        answer = subprocess.run(question, capture_output=True, text=True, cwd=REPOSITORY).stdout
    except OSError:
        answer = ""
    if answer != f"{sys.version} {sys.prefix}\n":
        pytest.skip("this Python or this folder is private to root, or setpriv is missing")
    folder = Path(tempfile.mkdtemp(prefix="jirani-", dir="/tmp"))
    try:
        shutil.chown(folder, "nobody")
        with running_node(folder / "var", NO_RATES, command=(*prefix, *STANDIN)) as node:
            node.wait_ready()
            assert (folder / "var" / "postgres").stat().st_uid == folder.stat().st_uid
            assert node.stop() == 0
    finally:
        shutil.rmtree(folder)
