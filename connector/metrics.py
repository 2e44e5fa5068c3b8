"""Counting: cheap in each process, summed by the supervisor, written for Prometheus.

A process counts with plain integers and, when asked, turns them into ``Family`` values, which it
answers as one JSON document for each connection on its own unix socket. The supervisor reads all
sockets at each scrape (``Totals``) and writes the sum. A dead process's last counts still count, so
counters never fall. Labels come from the operator or from code, never from a stranger.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import structlog
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

SNAPSHOT_WAIT_S_MAX: Final = 0.2
SNAPSHOT_BYTES_MAX: Final = 64 << 20
# bit_length() of any 63-bit number of microseconds has its own bucket: no check on the hot path.
BUCKETS: Final = 64
# What is written of durations: 16 µs to 67 s, and everything beyond; of sizes: 1 to 16383.
DURATION_BUCKETS: Final = range(4, 27)
SIZE_BUCKETS: Final = range(1, 15)
UNITS: Final = {"seconds": 1_000_000, "size": 1}

log = structlog.get_logger(__name__)


class Histogram(msgspec.Struct):
    """Durations in µs, or sizes, in power-of-two buckets.

    counts[i] - how many were less than 2**i and not less than 2**(i-1); total - all together.
    """

    counts: list[int] = msgspec.field(default_factory=lambda: [0] * BUCKETS)
    total: int = 0

    def observe(self, seconds: float) -> None:
        """Count one duration: never negative, since clocks for it are monotonic."""
        us = int(seconds * 1_000_000)
        self.counts[us.bit_length()] += 1
        self.total += us

    def observe_size(self, size: int) -> None:
        self.counts[size.bit_length()] += 1
        self.total += size

    def add(self, other: "Histogram") -> None:
        self.counts = [a + b for a, b in zip(self.counts, other.counts, strict=True)]
        self.total += other.total


class Family(msgspec.Struct):
    """One metric with all its series.

    name - without ``_total``; samples - labels and value: an int or float, for histograms a
    ``Histogram``; merge - ``sum`` over processes, or the ``first`` that has the series, for what
    every process sees alike; unit - of a histogram.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    samples: list[tuple[dict[str, str], Any]]
    merge: Literal["sum", "first"] = "sum"
    unit: Literal["seconds", "size"] = "seconds"


class Snapshot(msgspec.Struct):
    """What one process answers."""

    ready: bool
    families: list[Family]


Collect = Callable[[], list[Family]]


async def serve_snapshots(
    path: str | Path, collect: Collect, ready: Callable[[], bool]
) -> asyncio.Server:
    """Answer one snapshot for each connection to a unix socket, then close it."""

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            writer.write(msgspec.json.encode(Snapshot(ready(), collect())))
            await writer.drain()
        except OSError:
            log.debug("snapshot_reader_left")
        except Exception:
            # The reader sees an empty answer and shows this process as down.
            log.exception("snapshot_failed")
        finally:
            writer.close()

    return await asyncio.start_unix_server(answer, path)


async def read_snapshot(path: str | Path) -> Snapshot | None:
    """Ask a process for its snapshot; None if it gives no whole one in time."""
    with contextlib.suppress(OSError, TimeoutError, msgspec.MsgspecError):
        async with asyncio.timeout(SNAPSHOT_WAIT_S_MAX):
            reader, writer = await asyncio.open_unix_connection(path)
            try:
                parts = []
                size = 0
                while part := await reader.read(1 << 16):
                    parts.append(part)
                    size += len(part)
                    if size > SNAPSHOT_BYTES_MAX:
                        return None
            finally:
                writer.close()
        return _revive(msgspec.json.decode(b"".join(parts), type=Snapshot))
    return None


def _revive(snapshot: Snapshot) -> Snapshot:
    for family in snapshot.families:
        if family.kind == "histogram":
            family.samples = [
                (labels, msgspec.convert(value, Histogram)) for labels, value in family.samples
            ]
    return snapshot


def merge(snapshots: Iterable[Iterable[Family]]) -> list[Family]:
    """Put the families of several processes together; what came in stays untouched."""
    merged: dict[str, tuple[Family, dict[tuple[tuple[str, str], ...], Any]]] = {}
    for families in snapshots:
        for family in families:
            _, series = merged.setdefault(family.name, (family, {}))
            for labels, value in family.samples:
                key = tuple(sorted(labels.items()))
                if isinstance(value, Histogram):
                    series.setdefault(key, Histogram()).add(value)
                elif family.merge == "sum":
                    series[key] = series.get(key, 0) + value
                else:
                    series.setdefault(key, value)
    return [
        msgspec.structs.replace(
            family, samples=[(dict(key), value) for key, value in series.items()]
        )
        for family, series in merged.values()
    ]


class Totals:
    """The sum over all processes that ever ran, dead ones included."""

    def __init__(self) -> None:
        self._last: dict[str, list[Family]] = {}
        self._retired: list[Family] = []

    def update(self, process: str, families: list[Family]) -> None:
        """Take the newest snapshot of a living process."""
        self._last[process] = families

    def retire(self, process: str) -> None:
        """Keep what a process counted before it died; its gauges went with it."""
        counted = [f for f in self._last.pop(process, []) if f.kind != "gauge"]
        self._retired = merge([self._retired, counted])

    def families(self) -> list[Family]:
        return merge([self._retired, *self._last.values()])


def render(families: Iterable[Family]) -> bytes:
    """Write families in Prometheus's text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(list(families)))
    return generate_latest(registry)


class _Collector:
    def __init__(self, families: list[Family]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        return map(_metric, self._families)


def _metric(family: Family) -> Metric:
    names = sorted({name for labels, _ in family.samples for name in labels})
    metric: CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily
    match family.kind:
        case "counter":
            metric = CounterMetricFamily(family.name, family.help, labels=names)
        case "gauge":
            metric = GaugeMetricFamily(family.name, family.help, labels=names)
        case "histogram":
            metric = HistogramMetricFamily(family.name, family.help, labels=names)
    for labels, value in family.samples:
        values = [labels.get(name, "") for name in names]
        if isinstance(metric, HistogramMetricFamily):
            metric.add_metric(
                values, _buckets(value, family.unit), value.total / UNITS[family.unit]
            )
        else:
            metric.add_metric(values, value)
    return metric


def _buckets(histogram: Histogram, unit: str) -> list[tuple[str, float]]:
    """Cumulate the counts; bounds are in the unit written: whole sizes, or seconds."""
    written = DURATION_BUCKETS if unit == "seconds" else SIZE_BUCKETS
    below = sum(histogram.counts[: written.start])
    buckets: list[tuple[str, float]] = []
    for index in written:
        below += histogram.counts[index]
        # A bucket of whole sizes less than 2**i ends at 2**i - 1.
        bound = (1 << index) / 1_000_000 if unit == "seconds" else float((1 << index) - 1)
        buckets.append((repr(bound), below))
    buckets.append(("+Inf", sum(histogram.counts)))
    return buckets
