"""How fast a node forwards: ``python -m tests.bench.forwarding --help``, or ``make bench``.

Node workers, stub peer and load generator are separate processes on one machine. CPU is user and
system time of all worker processes, the ledger client's threads included, for each fulfilled
packet; only Fulfills count. Each line is the median of the runs, with the lowest and highest.
"""

import argparse
import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import product
from typing import Any, Final, NamedTuple

from connector.accounts.records import PeerChanges
from tests.support.node import ROOT, TENANT, Node, free_port
from tests.support.postgres import embedded_postgres
from tests.support.tigerbeetle import Replica

IN_FLIGHT: Final = (1, 16, 64, 256)
CONNECTIONS: Final = (1, 4, 64)
PLENTY: Final = 10**15
RATES: Final = '{"EUR": {"USD": "1.08"}}'


class Target(NamedTuple):
    """A node under test: where it listens, who may send, and what its CPU time is."""

    node: Any
    port: int
    tokens: list[str]


class Figures(NamedTuple):
    """One run."""

    per_second: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    others: dict[str, int]
    by_token: dict[str, int]


def token(index: int) -> str:
    return f"benchmark-token-of-sender-{index:04}-padded"


@contextmanager
def stub_peer(delay_ms: float = 0.0) -> Iterator[int]:
    port = free_port()
    command = ["-m", "tests.bench.stub_peer", "--port", str(port), "--delay-ms", str(delay_ms)]
    with child(command) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield port


@contextmanager
def child(
    command: list[str], environment: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        env={**os.environ, **(environment or {})},
        stdout=subprocess.PIPE,
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


class ModelNode:
    """Workers on the in-memory model; see ``model_worker``."""

    def __init__(self) -> None:
        self.processes: list[subprocess.Popen[bytes]] = []

    cpu_seconds = Node.cpu_seconds
    resident_bytes = Node.resident_bytes


@asynccontextmanager
async def model_target(options: argparse.Namespace, sink: int) -> AsyncIterator[Target]:
    node = ModelNode()
    port = free_port()
    environment = {
        "SINK_PORT": str(sink),
        "CONNECTOR_PORT": str(port),
        "PEERS": str(options.peers),
        "BROKE": "1" if options.broke else "",
        "CROSS": "1" if options.cross else "",
    }
    command = ["-m", "tests.bench.model_worker"]
    children = [child(command, environment) for _ in range(options.workers)]
    try:
        for each in children:
            process = each.__enter__()
            node.processes.append(process)
            assert process.stdout is not None
            process.stdout.readline()
        yield Target(node, port, [f"token-sender{index}" for index in range(options.peers)])
    finally:
        for each in children:
            each.__exit__(None, None, None)


@asynccontextmanager
async def stored_target(options: argparse.Namespace, sink: int) -> AsyncIterator[Target]:
    """Workers on Postgres, the ledger there or in TigerBeetle."""
    with embedded_postgres() as postgres:
        environment = {"EXCHANGE_RATES": RATES}
        replica = None
        if options.ledger == "tigerbeetle":
            replica = Replica(os.environ["TIGERBEETLE_BIN"], development=False)
            environment["TIGERBEETLE_REPLICA_ADDRESSES"] = replica.cluster.addresses
        node = Node(postgres.create_database(), workers=options.workers, environment=environment)
        try:
            await set_up(node, options, sink)
            await node.start()
            yield Target(node, node.port, [token(index) for index in range(options.peers)])
            statuses = await node.stop()
            if any(statuses) or node.log:
                print(f"workers ended with {statuses}:\n{node.log[-2000:]}", file=sys.stderr)
        finally:
            node.close()
            if replica is not None:
                replica.close()


async def set_up(node: Node, options: argparse.Namespace, sink: int) -> None:
    async with node.service() as service:
        eur = await service.create_asset(TENANT, "EUR", 2)
        usd = await service.create_asset(TENANT, "USD", 2)
        await service.deposit_asset(TENANT, usd.id, PLENTY)
        await service.create_peer(
            TENANT,
            usd.id if options.cross else eur.id,
            PeerChanges(
                name="sink",
                static_ilp_address="test.sink",
                outgoing_endpoint=f"http://127.0.0.1:{sink}/",
                outgoing_token=token(9999),
                max_in_flight=10_000,
                pipeline_depth=options.pipeline_depth,
            ),
        )
        for index in range(options.peers):
            settings = PeerChanges(
                name=f"sender{index}", static_ilp_address=f"test.node.sender{index}"
            )
            peer = await service.create_peer(TENANT, eur.id, settings, [token(index)])
            if not (options.broke and index == options.peers - 1):
                await service.deposit_peer(TENANT, peer.id, PLENTY)


async def measure(target: Target, options: argparse.Namespace, rate: int = 0) -> Figures:
    """One run of the load generator against a running node."""
    command = ["-m", "tests.bench.load", "--node", f"127.0.0.1:{target.port}"]
    for each in target.tokens:
        command += ["--token", each]
    command += ["--connections", str(max(options.connections, len(target.tokens)))]
    command += ["--in-flight", str(options.in_flight), "--seconds", str(options.seconds)]
    command += ["--rate", str(rate)]
    process = await asyncio.create_subprocess_exec(
        sys.executable, *command, cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    await process.stdout.readline()
    before, started = target.node.cpu_seconds(), time.perf_counter()
    result = json.loads(await process.stdout.readline())
    cpu = target.node.cpu_seconds() - before
    share = result["seconds"] / (time.perf_counter() - started)
    await process.wait()
    return Figures(
        result["per_second"],
        result["p50_ms"],
        result["p99_ms"],
        cpu * share / max(result["fulfills"], 1) * 1e6,
        result["others"],
        result["by_token"],
    )


def show(label: str, runs: list[Figures]) -> None:
    def spread(values: list[float], digits: int) -> str:
        low, middle, high = min(values), statistics.median(values), max(values)
        return f"{middle:,.{digits}f} ({low:,.{digits}f}-{high:,.{digits}f})"

    others: dict[str, int] = {}
    for run in runs:
        for code, count in run.others.items():
            others[code] = others.get(code, 0) + count
    print(
        f"| {label} | {spread([r.per_second for r in runs], 0)} "
        f"| {spread([r.p50_ms for r in runs], 1)} | {spread([r.p99_ms for r in runs], 1)} "
        f"| {spread([r.cpu_us for r in runs], 0)} | {others or ''} |",
        flush=True,
    )


async def matrix(options: argparse.Namespace) -> None:
    """Every combination asked for, on every ledger asked for."""
    head(options)
    for ledger in options.ledgers:
        for assets in options.assets:
            options.ledger, options.cross = ledger, assets == "cross"
            async with running(options) as target:
                for in_flight, connections in product(
                    options.in_flights, options.connection_counts
                ):
                    if connections <= max(in_flight, options.peers):
                        label = f"{ledger}, {assets}, {in_flight} / {connections}"
                        await repeat(target, options, label, in_flight, connections)
                if options.rate:
                    label = f"{ledger}, {assets}, {options.rate}/s offered"
                    await repeat(target, options, label, 256, 64, options.rate)
                if options.packets:
                    await soak(target, options)


@asynccontextmanager
async def running(options: argparse.Namespace) -> AsyncIterator[Target]:
    """A node with its stub peer."""
    target_of = model_target if options.ledger == "model" else stored_target
    with stub_peer() as sink:
        async with target_of(options, sink) as target:
            yield target


async def repeat(
    target: Target,
    options: argparse.Namespace,
    label: str,
    in_flight: int,
    connections: int,
    rate: int = 0,
) -> None:
    options.in_flight, options.connections = in_flight, connections
    runs = []
    for _ in range(options.runs):
        await asyncio.sleep(options.rest)
        runs.append(await measure(target, options, rate))
    show(label, runs)


async def soak(target: Target, options: argparse.Namespace) -> None:
    """Many packets through one node, and its memory on the way: it must stay flat."""
    options.in_flight, options.connections = 64, 4
    done = 0
    print(f"\n{options.ledger}: resident memory of all workers after so many packets", flush=True)
    while done < options.packets:
        figures = await measure(target, options)
        done += round(figures.per_second * options.seconds)
        print(f"  {done:>9,}  {target.node.resident_bytes() / 1e6:,.1f} MB", flush=True)


def head(options: argparse.Namespace) -> None:
    print(
        f"{os.cpu_count()} cores, {options.workers} workers, {options.runs} runs of "
        f"{options.seconds:g} s each: median (lowest-highest)\n"
    )
    print(
        "| ledger, assets, in flight / connections | packets/s | p50 ms | p99 ms "
        "| CPU µs a packet | not fulfilled |"
    )
    print("|---|---|---|---|---|---|", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    ledgers = ["model", "postgres"]
    if os.environ.get("TIGERBEETLE_BIN"):
        ledgers.append("tigerbeetle")
    parser.add_argument("--ledgers", nargs="+", default=ledgers, help=f"default: {ledgers}")
    parser.add_argument("--assets", nargs="+", default=["same", "cross"])
    parser.add_argument("--in-flights", nargs="+", type=int, default=list(IN_FLIGHT))
    parser.add_argument("--connection-counts", nargs="+", type=int, default=list(CONNECTIONS))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--peers", type=int, default=1, help="sending peers")
    parser.add_argument("--broke", action="store_true", help="the last sender has no funds")
    parser.add_argument("--rate", type=int, default=0, help="also at this many offered packets/s")
    parser.add_argument("--packets", type=int, default=0, help="also a soak of so many packets")
    parser.add_argument("--pipeline-depth", type=int, default=1, help="towards the stub peer")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument(
        "--rest", type=float, default=0.0, help="seconds before each run, for machines that tire"
    )
    parser.add_argument("--seconds", type=float, default=4.0)
    asyncio.run(matrix(parser.parse_args()))


if __name__ == "__main__":
    main()
