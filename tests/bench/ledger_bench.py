"""Measures a ledger alone: pairs of a pending transfer and its post, without a node around it.

Writers are processes of their own, as workers are; each holds one request in flight, like the
batcher, and all of them write between the same two hot accounts.

    python -m tests.bench.ledger_bench --ledger postgres --batch 20,60 --writers 1,2 --rows 1000000
"""

import argparse
import asyncio
import multiprocessing
import os
import random
import time
from contextlib import nullcontext
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Final, NamedTuple

import uvloop

from connector.ledger.ledger import (
    AMOUNT_MAX,
    DEBITS_MUST_NOT_EXCEED_CREDITS,
    POST_PENDING_TRANSFER,
    Account,
    Ledger,
    Transfer,
)
from connector.ledger.model import ModelLedger
from connector.ledger.postgres import PostgresLedger
from tests.support.postgres import EmbeddedPostgres, embedded_postgres, run_sql

CODE: Final = 1
FUNDS: Final = 1 << 50
SOURCE, PAYER, PAYEE, POOR = 1, 1 << 100, 2 << 100, 3 << 100
TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
CONTEXT: Final = multiprocessing.get_context("spawn")


class Sample(NamedTuple):
    """What one writer did: requests' durations in seconds, CPU seconds, transfers applied."""

    durations: list[float]
    cpu_s: float
    transfers: int


def open_ledger(kind: str, where: str) -> Ledger:
    return ModelLedger() if kind == "model" else PostgresLedger(where)


async def prepare(ledger: Ledger) -> None:
    d = DEBITS_MUST_NOT_EXCEED_CREDITS
    await ledger.create_accounts(
        [Account(SOURCE, 1, 101), *(Account(i, 1, 3, d) for i in (PAYER, PAYEE, POOR))]
    )
    await ledger.create_transfers([Transfer(9 << 100, SOURCE, PAYER, FUNDS, ledger=1, code=2)])


class Packets:
    """Makes holds and their posts as the plan does, with ids that grow with time."""

    def __init__(self, poor_share: float) -> None:
        self._poor_share = poor_share
        self._base = 0

    def holds(self, count: int) -> list[Transfer]:
        now_ms = time.time_ns() // 1_000_000
        self._base = max(self._base + 16, now_ms << 80 | random.getrandbits(76) << 4)
        holds = []
        for _ in range(count):
            self._base += 16
            payer = POOR if random.random() < self._poor_share else PAYER
            base = self._base
            holds.append(
                Transfer(base, payer, PAYEE, 9, 0, base, now_ms + 30_000, 1 << 24, 331, 1, 1, 2)
            )
        return holds

    def posts(self, holds: list[Transfer], refused: dict[int, int]) -> list[Transfer]:
        return [
            Transfer(
                hold.id | 4,
                0,
                0,
                AMOUNT_MAX,
                hold.id,
                user_data_32=1 << 31 | 1 << 24,
                flags=POST_PENDING_TRANSFER,
            )
            for index, hold in enumerate(holds)
            if index not in refused
        ]


async def write(
    ledger: Ledger, batch: int, poor_share: float, seconds: float, mixed: bool
) -> Sample:
    """Hold and post without a pause; mixed: each request posts the one before and holds anew."""
    packets = Packets(poor_share)
    durations: list[float] = []
    transfers = 0
    waiting: list[Transfer] = []
    cpu = time.process_time()
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        holds = packets.holds(batch)
        request = waiting + holds
        started = time.perf_counter()
        refused = await ledger.create_transfers(request)
        durations.append(time.perf_counter() - started)
        transfers += len(request) - len(refused)
        waiting = packets.posts(
            holds, {index - len(waiting): status for index, status in refused.items()}
        )
        if not mixed:
            started = time.perf_counter()
            refused = await ledger.create_transfers(waiting)
            durations.append(time.perf_counter() - started)
            assert not refused, refused
            transfers += len(waiting)
            waiting = []
    return Sample(durations, time.process_time() - cpu, transfers)


def work(
    arguments: argparse.Namespace,
    where: str,
    batch: int,
    barrier: Barrier,
    samples: "multiprocessing.Queue[Sample]",
) -> None:
    async def main() -> None:
        ledger = open_ledger(arguments.ledger, where)
        if arguments.ledger == "model":
            await prepare(ledger)
        # Plans, codecs and caches are warm before the clock runs.
        await write(ledger, batch, 0, 0.3, arguments.mixed)
        barrier.wait()
        sample = await write(ledger, batch, arguments.poor, arguments.seconds, arguments.mixed)
        await ledger.close()
        samples.put(sample)

    uvloop.run(main())


def cpu_of_tree_s(pid: int) -> float:
    """User and system time of a process and its children so far."""
    total = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rsplit(") ", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            total += int(fields[11]) + int(fields[12])
        elif path.parent.name == str(pid):
            total += sum(map(int, fields[11:15]))
    return total / TICKS_PER_S


def measure(
    arguments: argparse.Namespace, where: str, batch: int, writers: int, server: int
) -> None:
    barrier = CONTEXT.Barrier(writers + 1)
    samples: multiprocessing.Queue[Sample] = CONTEXT.Queue()
    processes = [
        CONTEXT.Process(target=work, args=(arguments, where, batch, barrier, samples))
        for _ in range(writers)
    ]
    for process in processes:
        process.start()
    barrier.wait()
    server_cpu = cpu_of_tree_s(server) if server else 0.0
    started = time.perf_counter()
    # The server's time is read before its sessions end, since theirs then moves to the parent.
    time.sleep(arguments.seconds)
    server_cpu = (cpu_of_tree_s(server) if server else 0.0) - server_cpu
    elapsed = time.perf_counter() - started
    done = [samples.get() for _ in processes]
    for process in processes:
        process.join()
    transfers = sum(sample.transfers for sample in done)
    durations = sorted(duration for sample in done for duration in sample.durations)
    p50_ms, p99_ms = (durations[len(durations) * p // 100] * 1e3 for p in (50, 99))
    client_us = sum(sample.cpu_s for sample in done) / transfers * 1e6
    print(
        f"{batch:>6} {writers:>8} {transfers / elapsed:>12,.0f}"
        f" {p50_ms:>8.2f} {p99_ms:>8.2f}"
        f" {client_us:>10.1f} {server_cpu / transfers * 1e6:>10.1f}",
        flush=True,
    )


def fill(url: str, rows: int) -> None:
    """Put pairs of transfers between other accounts into the ledger."""
    run_sql(
        url,
        f"""
        INSERT INTO ledger_accounts (id, user_data_128, user_data_64, user_data_32, ledger, code,
            flags, timestamp)
        SELECT lpad(to_hex(i + 4096), 32, '0')::uuid, lpad('', 32, '0')::uuid, 0, 0, 1, 3, 0, i
        FROM generate_series(1, 1000) i;
        INSERT INTO ledger_transfers
        SELECT i, 0, 1, 0, 1 << 24, 1, 0, lpad(to_hex(i), 32, '0')::uuid,
            lpad(to_hex(i % 1000 + 4097), 32, '0')::uuid,
            CASE WHEN i % 2 = 0 THEN '{PAYEE:032x}' ELSE '{PAYER:032x}' END::uuid,
            lpad(to_hex(i), 32, '0')::uuid, NULL, 9
        FROM generate_series(1, {rows}) i;
        """,
    )
    # Otherwise the first measurements pay for tidying up after this.
    run_sql(url, "VACUUM (FREEZE, ANALYZE) ledger_transfers")
    run_sql(url, "CHECKPOINT")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--ledger", choices=("postgres", "model"), default="postgres")
    parser.add_argument("--url", help="a database with schema.sql applied, instead of our own")
    parser.add_argument("--batch", default="1,20,60,200", help="pairs a request, with commas")
    parser.add_argument("--writers", default="1,2", help="processes that write, with commas")
    parser.add_argument("--rows", type=int, default=0, help="transfers in the ledger beforehand")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--poor", type=float, default=0.0, help="share of holds without funds")
    parser.add_argument(
        "--mixed", action="store_true", help="posts and holds in one request, as a node sends them"
    )
    arguments = parser.parse_args()
    own = arguments.ledger == "postgres" and not arguments.url
    with embedded_postgres() if own else nullcontext() as server:
        where = arguments.url or ""
        if isinstance(server, EmbeddedPostgres):
            where = server.create_database()
        if arguments.rows:
            fill(where, arguments.rows)
        if where:
            asyncio.run(prepare_and_close(where))
        print(f"{arguments.ledger}, {arguments.rows} rows, poor {arguments.poor}")
        print(" pairs  writers  transfers/s   p50 ms   p99 ms  client us  server us")
        pid = server.pid if isinstance(server, EmbeddedPostgres) else 0
        for batch in map(int, arguments.batch.split(",")):
            for writers in map(int, arguments.writers.split(",")):
                measure(arguments, where, batch, writers, pid)


async def prepare_and_close(where: str) -> None:
    ledger = PostgresLedger(where)
    await prepare(ledger)
    await ledger.close()


if __name__ == "__main__":
    main()
