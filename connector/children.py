"""One supervised process: started, watched, restarted, stopped.

Each runs through ``launch.py``: in a session of its own, and never longer than the supervisor.
"""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final

import msgspec
import structlog

from connector.errors import ConfigError, ConnectorError

LAUNCH: Final = Path(__file__).with_name("launch.py")
START_ATTEMPTS_MAX: Final = 3
BACK_OFF_S_MIN: Final = 0.1
BACK_OFF_S_MAX: Final = 10.0
# A process that lived this long has no crash loop.
SETTLED_S: Final = 60.0
READY_POLL_S: Final = 0.05
HELD_OUTPUT_BYTES_MAX: Final = 64 << 10

log = structlog.get_logger(__name__)


class StartFailed(ConnectorError):
    """A process did not come up. The message is what to tell the operator."""


async def _nothing() -> None:
    pass


class Spec(msgspec.Struct, frozen=True, kw_only=True):
    """What to run and how to know it.

    ready - asked again and again until true; prepare - awaited before each start, which it may
    refuse with ConfigError; stop_signals -
    each followed by its patience in seconds, then SIGKILL; death_signal - sent by Linux if the
    supervisor dies; launch_options - further arguments of ``launch.py``; output - a log file, else
    what it writes goes to our stderr; settings_status - the exit status that says its settings
    are wrong, so that trying again is of no use; answers_snapshots - it serves its counts on a
    unix socket of its name (``metrics.py``).
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    ready: Callable[[], Awaitable[bool]]
    prepare: Callable[[], Awaitable[None]] = _nothing
    start_s_max: float = 60.0
    stop_signals: tuple[tuple[signal.Signals, float], ...] = ((signal.SIGTERM, 30.0),)
    death_signal: signal.Signals = signal.SIGKILL
    launch_options: tuple[str, ...] = ()
    working_directory: Path | None = None
    answers_snapshots: bool = False
    output: Path | None = None
    settings_status: int | None = 1


class Child:
    """The process of one ``Spec``, over all its lives."""

    def __init__(self, spec: Spec, on_death: Callable[[str], None] = lambda _: None) -> None:
        """Start nothing yet.

        on_death - told the name each time the process ends.
        """
        self.spec = spec
        self.up = False
        """It became ready, and has not ended since."""
        self.restarts = 0
        self.deaths = 0
        self._on_death = on_death
        self._stopping = False
        self._process: asyncio.subprocess.Process | None = None
        self._pump: asyncio.Task[None] | None = None
        self._held: bytearray | None = None
        self._watch: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start it and return once it is ready; from then on it is restarted when it dies.

        Raises: StartFailed - it said that its settings are wrong, or it kept failing.
        """
        for attempt in range(1, START_ATTEMPTS_MAX + 1):
            failure = await self._start_once()
            if failure is None:
                self._watch = asyncio.create_task(self._keep(), name=f"keep {self.spec.name}")
                return
            if failure.final or attempt == START_ATTEMPTS_MAX:
                raise StartFailed(failure.message)
            await asyncio.sleep(BACK_OFF_S_MIN * 2**attempt)

    async def stop(self) -> None:
        """Ask it to end, in its own way and time; then make it. Nothing is left afterwards."""
        self._stopping = True
        if self._watch is not None and self._process is None:
            self._watch.cancel()
        for number, patience_s in self.spec.stop_signals:
            if self._process is None or self._process.returncode is not None:
                break
            with contextlib.suppress(ProcessLookupError, TimeoutError):
                self._process.send_signal(number)
                async with asyncio.timeout(patience_s):
                    await self._process.wait()
        await self.kill()
        if self._watch is not None:
            await asyncio.wait([self._watch])

    async def kill(self) -> None:
        """End it at once, with whatever it started."""
        self._stopping = True
        process = self._process
        if process is not None:
            # Its session is its own, so that the group's number is its process id.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
            self._ended()
        if self._pump is not None:
            await asyncio.wait([self._pump], timeout=1.0)

    async def _start_once(self) -> "_Failure | None":
        try:
            await self.spec.prepare()
        except ConfigError as error:
            return _Failure(str(error), final=True)
        await self._spawn()
        assert self._process is not None
        deadline = time.monotonic() + self.spec.start_s_max
        while self._process.returncode is None:
            if await self.spec.ready():
                self.up = True
                self._release_output()
                return None
            if time.monotonic() > deadline:
                await self._end_failed_start()
                text = f"{self.spec.name} was not ready within {self.spec.start_s_max:g} s"
                return _Failure(text, final=True)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(READY_POLL_S):
                    await self._process.wait()
        status = self._process.returncode
        await self._end_failed_start()
        return self._explain(status)

    async def _spawn(self) -> None:
        spec = self.spec
        command = [
            *(sys.executable, "-I", "-S", str(LAUNCH), "--parent", str(os.getpid())),
            *("--death-signal", str(int(spec.death_signal)), *spec.launch_options, "--"),
            *spec.command,
        ]
        log_file = None if spec.output is None else spec.output.open("ab")
        try:
            self._process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE if log_file is None else log_file,
                stderr=asyncio.subprocess.STDOUT,
                env=dict(spec.environment),
                cwd=spec.working_directory,
            )
        finally:
            if log_file is not None:
                log_file.close()
        if self._process.stdout is not None:
            self._held = bytearray()
            self._pump = asyncio.create_task(self._forward_output(self._process.stdout))

    async def _forward_output(self, stream: asyncio.StreamReader) -> None:
        """Pass its output on; until it is ready, keep it, since it may be why it failed."""
        while part := await stream.read(1 << 16):
            if self._held is None:
                _write(part)
            else:
                self._held += part
                if len(self._held) > HELD_OUTPUT_BYTES_MAX:
                    self._release_output()

    def _release_output(self) -> None:
        if self._held is not None:
            _write(bytes(self._held))
            self._held = None

    async def _end_failed_start(self) -> None:
        stopping = self._stopping
        await self.kill()
        self._stopping = stopping

    def _explain(self, status: int) -> "_Failure":
        """Make one line of why it ended: its own last one where it wrote any."""
        held = bytes(self._held or b"").decode(errors="replace")
        if self.spec.output is not None:
            held = _tail(self.spec.output)
        lines = [line for line in held.splitlines() if line.strip()]
        if self.spec.output is not None:
            reason = f": {lines[-1]} (see {self.spec.output})" if lines else ""
        elif status == self.spec.settings_status and lines and "Traceback" not in held:
            return _Failure(lines[-1], final=True)
        else:
            reason = ""
            self._release_output()
        text = f"{self.spec.name} ended while starting ({describe_status(status)}){reason}"
        return _Failure(text, final=status == self.spec.settings_status)

    async def _keep(self) -> None:
        """Restart it whenever it ends, with growing pauses while it keeps ending."""
        back_off_s = BACK_OFF_S_MIN
        while True:
            assert self._process is not None
            began = time.monotonic()
            status = await self._process.wait()
            self._ended()
            while not self._stopping:
                if time.monotonic() - began > SETTLED_S:
                    back_off_s = BACK_OFF_S_MIN
                log.error(
                    "process_died",
                    process=self.spec.name,
                    how=describe_status(status),
                    restart_in_s=back_off_s,
                )
                await asyncio.sleep(back_off_s)
                back_off_s = min(back_off_s * 2, BACK_OFF_S_MAX)
                self.restarts += 1
                failure = await self._start_once()
                if failure is None:
                    log.info("process_restarted", process=self.spec.name)
                    break
                log.error("process_not_restarted", process=self.spec.name, why=failure.message)
            if self._stopping:
                return

    def _ended(self) -> None:
        if self._process is not None:
            self._process = None
            self.up = False
            self.deaths += 1
            self._on_death(self.spec.name)


class _Failure(msgspec.Struct, frozen=True):
    message: str
    final: bool


def describe_status(status: int) -> str:
    if status < 0:
        return f"signal {-status}, {signal.strsignal(-status)}"
    return f"exit status {status}"


def _tail(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
        return file.read().decode(errors="replace")


def _write(data: bytes) -> None:
    with contextlib.suppress(OSError):
        sys.stderr.buffer.write(data)
        sys.stderr.buffer.flush()
