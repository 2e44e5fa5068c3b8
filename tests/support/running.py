"""A whole node as a process of its own, as an operator runs it."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

REPOSITORY: Final = Path(__file__).parents[2]
JIRANI_RUN: Final = (sys.executable, "-m", "connector", "run")
WAIT_S_MAX: Final = 90.0
# Found in the environment of every process of one node.
MARK: Final = "JIRANI_TEST_MARK"


def free_ports(count: int) -> list[int]:
    """Ports that nobody uses now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(taken.getsockname()[1]) for taken in sockets]
    for taken in sockets:
        taken.close()
    return ports


class RunningNode:
    """One ``jirani run``: what it writes, what it answers, how it ends."""

    def __init__(
        self,
        var: Path,
        environment: Mapping[str, str] | None = None,
        *,
        command: Sequence[str] = JIRANI_RUN,
    ) -> None:
        """Start it, with free ports unless ``environment`` names some."""
        self.connector_port, self.metrics_port, rates_port = free_ports(3)
        self.mark = uuid4().hex
        defaults = {
            "JIRANI_VAR": str(var),
            "CONNECTOR_HOST": "127.0.0.1",
            "CONNECTOR_PORT": str(self.connector_port),
            "METRICS_PORT": str(self.metrics_port),
            "RATES_PORT": str(rates_port),
            "CONNECTOR_WORKERS": "2",
            "ENV_FILE": os.devnull,
            MARK: self.mark,
        }
        self.environment = {**os.environ, **defaults, **(environment or {})}
        self.output = ""
        self.process = subprocess.Popen(
            command,
            cwd=REPOSITORY,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def wait_ready(self) -> None:
        """Return once it says that it is ready."""
        self.wait_for("is ready")

    def wait_for(self, text: str) -> None:
        """Return once it wrote a text."""
        deadline = time.monotonic() + WAIT_S_MAX
        while text not in self.output:
            if self.process.poll() is not None:
                self._reader.join(10)
                assert text in self.output, f"ended with {self.process.returncode}:\n{self.output}"
                return
            assert time.monotonic() < deadline, f"{text!r} was not written:\n{self.output}"
            time.sleep(0.02)

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        """Wait for its end; returns the exit status."""
        status = self.process.wait(WAIT_S_MAX)
        self._reader.join(10)
        return status

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        self.send(number)
        return self.wait()

    def get(self, path: str) -> tuple[int, str]:
        """Ask its metrics port; returns status and body."""
        url = f"http://127.0.0.1:{self.metrics_port}{path}"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def metrics(self) -> dict[str, float]:
        """All series with their values."""
        _, body = self.get("/metrics")
        lines = [line for line in body.splitlines() if line and not line.startswith("#")]
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}

    def states(self) -> dict[str, Any]:
        _, body = self.get("/healthz/ready")
        return dict(json.loads(body)["processes"])

    def children(self) -> dict[int, str]:
        """Every process it started that is alive, with its command line."""
        return processes(f"{MARK}={self.mark}", self.environment["JIRANI_VAR"])

    def close(self) -> None:
        """Leave nothing behind, whatever the test did."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._reader.join(10)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.output += line


def processes(mark: str, folder: str) -> dict[int, str]:
    """Living processes with a mark in their environment, or working in or below a folder."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            marked = mark.encode() in (entry / "environ").read_bytes()
            inside = str((entry / "cwd").readlink()).startswith(f"{folder}/")
            if state not in "ZX" and (marked or inside):
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ")
                found[int(entry.name)] = command.decode(errors="replace").strip()
        except OSError:
            continue
    return found


def wait_for_none(node: RunningNode, deadline_s: float = 10.0) -> None:
    """Return once no process of a node is alive."""
    deadline = time.monotonic() + deadline_s
    while alive := node.children():
        assert time.monotonic() < deadline, f"still alive: {alive}"
        time.sleep(0.02)


@contextmanager
def running_node(
    var: Path,
    environment: Mapping[str, str] | None = None,
    *,
    command: Sequence[str] = JIRANI_RUN,
) -> Iterator[RunningNode]:
    """Start a node and leave nothing of it behind."""
    node = RunningNode(var, environment, command=command)
    try:
        yield node
    finally:
        node.close()
        wait_for_none(node)
