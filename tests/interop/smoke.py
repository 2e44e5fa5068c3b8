"""A first payment through ``make run``, as the README has it: ``python -m tests.interop.smoke``.

Uses the commands that a new operator types, on free ports and in a folder that is thrown away.
"""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.support.running import REPOSITORY, RunningNode, free_ports, running_node, wait_for_none

AMOUNT = 1234


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="jirani-smoke-") as folder:
        var = Path(folder) / "var"
        for visit in (1, 2):
            with running_node(var, command=("make", "run")) as node:
                node.wait_ready()
                print(node.output)
                assert node.get("/healthz/live")[0] == 200
                assert node.get("/healthz/ready")[0] == 200, node.states()
                if visit == 1:
                    set_up(node)
                pay(node)
                check(node, visit)
                # Ctrl-C at a terminal reaches make and all that it runs.
                os.killpg(node.process.pid, signal.SIGINT)
                node.wait()
                assert "draining\nstopped\n" in node.output, node.output
                wait_for_none(node)
    print("the smoke run is fine")


def set_up(node: RunningNode) -> None:
    """Two peers, one with money to spend."""
    jirani(node, "asset", "add", "USD", "2")
    peer = ("peer", "add", "--asset", "USD")
    alice = ("--name", "alice", "--address", "test.jirani.alice")
    jirani(node, *peer, *alice, "--incoming-token", "token-that-alice-has")
    bob = ("--name", "bob", "--address", "test.jirani.bob")
    jirani(node, *peer, *bob, "--incoming-token", "token-that-bob-has")
    jirani(node, "liquidity", "add", "peer", "alice", "10000")


def pay(node: RunningNode) -> None:
    """Send a packet as alice and receive it as bob."""
    [port] = free_ports(1)
    endpoint = ("--endpoint", f"http://127.0.0.1:{port}", "--outgoing-token", "token-that-we-have")
    jirani(node, "peer", "update", "bob", *endpoint)
    url = f"http://127.0.0.1:{node.connector_port}/ilp"
    program = ("examples.first_payment", str(AMOUNT), "--node", url, "--port", str(port))
    # The workers follow a change within a second; until then bob cannot be reached.
    tries = 20
    answer = run(node, *program)
    while answer.returncode != 0 and (tries := tries - 1):
        answer = run(node, *program)
    assert "fulfilled" in answer.stdout, answer.stdout + answer.stderr


def check(node: RunningNode, visit: int) -> None:
    """The balances are what was sent, the metrics count it."""
    balances = jirani(node, "balance")
    paid = AMOUNT * visit
    for amount in (10000 - paid, paid):
        assert f"{amount / 100:.2f} USD" in balances, balances
    metrics = node.metrics()
    fulfilled = [v for name, v in metrics.items() if name.startswith("jirani_sent_amount_total")]
    assert sum(fulfilled) == AMOUNT, metrics


def jirani(node: RunningNode, *words: str) -> str:
    answer = run(node, "connector", *words)
    assert answer.returncode == 0, f"jirani {' '.join(words)}: {answer.stderr}"
    return answer.stdout


def run(node: RunningNode, module: str, *words: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", module, *words]
    return subprocess.run(
        command, cwd=REPOSITORY, env=node.environment, capture_output=True, text=True, timeout=60
    )


if __name__ == "__main__":
    main()
