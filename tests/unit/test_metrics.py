"""Counts: cheap to make, right when summed, readable for Prometheus."""

import asyncio
import os
import socket
import time
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from connector.metrics import (
    Family,
    Histogram,
    Totals,
    merge,
    read_snapshot,
    render,
    serve_snapshots,
)


def counter(value: int, **labels: str) -> Family:
    return Family("packets", "counter", "Packets.", [(labels, value)])


def parse(body: bytes) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }


@pytest.mark.parametrize(
    ("seconds", "bucket"),
    [(0.0, 0), (0.0000009, 0), (0.000001, 1), (0.0000155, 4), (0.000017, 5), (1.0, 20), (1e9, 50)],
)
def test_a_duration_falls_in_its_power_of_two(seconds: float, bucket: int) -> None:
    histogram = Histogram()
    histogram.observe(seconds)
    assert [i for i, count in enumerate(histogram.counts) if count] == [bucket]
    assert histogram.total == int(seconds * 1_000_000)


def test_buckets_are_cumulative() -> None:
    histogram = Histogram()
    for seconds in (0.000001, 0.00002, 0.00002, 0.5, 1000.0):
        histogram.observe(seconds)
    series = parse(render([Family("took", "histogram", "Time.", [({"step": "send"}, histogram)])]))

    def bucket(bound: str) -> float:
        return series["took_bucket", (("le", bound), ("step", "send"))]

    assert bucket("1.6e-05") == 1
    assert bucket("3.2e-05") == 3
    assert bucket("0.524288") == 4
    assert bucket("67.108864") == 4
    assert bucket("+Inf") == 5
    assert series["took_count", (("step", "send"),)] == 5
    assert series["took_sum", (("step", "send"),)] == pytest.approx(1000.500041)


def test_families_of_several_processes_add_up() -> None:
    first, second = Histogram(), Histogram()
    first.observe(0.001)
    second.observe(0.001)
    snapshots = [
        [counter(2, peer="a"), Family("took", "histogram", "", [({}, first)])],
        [
            counter(3, peer="a"),
            counter(1, peer="b"),
            Family("took", "histogram", "", [({}, second)]),
        ],
    ]
    families = {family.name: family for family in merge(snapshots)}
    assert families["packets"].samples == [({"peer": "a"}, 5), ({"peer": "b"}, 1)]
    [(_, histogram)] = families["took"].samples
    assert (sum(histogram.counts), histogram.total) == (2, 2000)
    assert sum(first.counts) == 1


def test_what_all_processes_see_alike_is_not_added() -> None:
    def balance(value: int) -> list[Family]:
        return [Family("balance", "gauge", "", [({"peer": "a"}, value)], merge="first")]

    [family] = merge([balance(70), balance(71)])
    assert family.samples == [({"peer": "a"}, 70)]


def test_the_counts_of_a_dead_process_stay_and_its_gauges_go() -> None:
    totals = Totals()
    totals.update("worker-0", [counter(5), Family("in_flight", "gauge", "", [({}, 3)])])
    totals.update("worker-1", [counter(1)])
    totals.retire("worker-0")
    totals.retire("worker-0")
    assert {f.name: f.samples for f in totals.families()} == {"packets": [({}, 6)]}
    totals.update("worker-0", [counter(2), Family("in_flight", "gauge", "", [({}, 1)])])
    totals.update("worker-0", [counter(4), Family("in_flight", "gauge", "", [({}, 1)])])
    assert {f.name: f.samples for f in totals.families()} == {
        "packets": [({}, 10)],
        "in_flight": [({}, 1)],
    }


def test_text_is_escaped_and_missing_labels_are_empty() -> None:
    family = Family(
        "packets", "counter", "Packets.", [({"peer": 'a"\n\\'}, 1), ({"code": "F02"}, 1 << 80)]
    )
    assert parse(render([family])) == {
        ("packets_total", (("code", ""), ("peer", 'a"\n\\'))): 1,
        ("packets_total", (("code", "F02"), ("peer", ""))): float(1 << 80),
    }


async def test_a_snapshot_comes_back_as_it_was(tmp_path: Path) -> None:
    histogram = Histogram()
    histogram.observe(0.25)
    families = [
        counter(1 << 100, peer="a"),
        Family("took", "histogram", "Time.", [({}, histogram)]),
        Family("balance", "gauge", "", [({}, -5)], merge="first"),
    ]
    path = tmp_path / "s.sock"
    answers = iter([False, True])
    async with await serve_snapshots(path, lambda: families, lambda: next(answers)):
        for ready in (False, True):
            snapshot = await read_snapshot(path)
            assert snapshot is not None
            assert snapshot.ready is ready
            assert snapshot.families == families


async def test_a_stale_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    assert await read_snapshot(path) is None
    async with await serve_snapshots(path, list, lambda: True):
        assert await read_snapshot(path) is not None


async def test_a_process_that_cannot_count_looks_down_and_goes_on(tmp_path: Path) -> None:
    def collect() -> list[Family]:
        raise RuntimeError("broken")

    async with await serve_snapshots(tmp_path / "s.sock", collect, lambda: True):
        assert await read_snapshot(tmp_path / "s.sock") is None
        assert await read_snapshot(tmp_path / "s.sock") is None


async def test_a_stuck_process_costs_little_time(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    with socket.socket(socket.AF_UNIX) as stuck:
        stuck.bind(str(path))
        stuck.listen()
        began = time.monotonic()
        async with asyncio.timeout(5):
            assert await read_snapshot(path) is None
        assert time.monotonic() - began >= 0.19


@pytest.mark.parametrize("answer", [b"", b"{", b'{"ready":true}', os.urandom(100)])
async def test_nonsense_is_no_snapshot(tmp_path: Path, answer: bytes) -> None:
    async def reply(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        writer.close()

    async with await asyncio.start_unix_server(reply, tmp_path / "s.sock"):
        assert await read_snapshot(tmp_path / "s.sock") is None


def test_sizes_are_written_as_whole_numbers() -> None:
    batches = Histogram()
    for size in (1, 3, 4, 8189):
        batches.observe_size(size)
    text = render([Family("batch", "histogram", "", [({}, batches)], unit="size")]).decode()
    assert 'batch_bucket{le="1.0"} 1.0' in text
    assert 'batch_bucket{le="3.0"} 2.0' in text
    assert 'batch_bucket{le="7.0"} 3.0' in text
    assert 'batch_bucket{le="+Inf"} 4.0' in text
    assert "batch_sum 8197.0" in text
