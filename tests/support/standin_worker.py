"""A connector worker that carries no packets: it is ready, counts, and ends when told to.

``STANDIN`` says how it misbehaves: ``refuse`` - ends with one line and status 1; ``crash`` - ends
with a signal while starting; ``never`` - is never ready; ``stubborn`` - ignores SIGTERM.
"""

import asyncio
import os
import signal
import sys
from pathlib import Path

from connector.metrics import Family, serve_snapshots


async def main() -> None:
    how = os.environ.get("STANDIN", "")
    name = os.environ["JIRANI_PROCESS"]
    if how == "refuse":
        sys.exit("TIGERBEETLE_REPLICA_ADDRESSES is '3004': no ledger answers there")
    if how == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, (lambda: None) if how == "stubborn" else stop.set)
    path = Path(os.environ["JIRANI_RUN_DIR"]) / f"{name}.sock"

    def collect() -> list[Family]:
        return [
            Family("standin_packets", "counter", "Seven for each process.", [({}, 7)]),
            Family("standin_pid", "gauge", "Who it is.", [({"process": name}, os.getpid())]),
        ]

    server = await serve_snapshots(path, collect, lambda: how != "never")
    print(f"{name} started", flush=True)
    async with server:
        await stop.wait()


if __name__ == "__main__":
    asyncio.run(main())
