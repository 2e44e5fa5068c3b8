"""The supervisor's own port: ``/metrics``, ``/healthz/live`` and ``/healthz/ready``.

It sums the snapshots that each process answers on its unix socket. A process that gives none in
200 ms is shown as down; what it counted before still counts.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final, Literal

from aiohttp import web

from connector.children import Child
from connector.metrics import Family, Totals, read_snapshot, render

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


class Health:
    """What is known of all processes."""

    def __init__(self, run_dir: Path) -> None:
        """Know no process yet.

        run_dir - where processes listen for snapshots, as ``<name>.sock``.
        """
        self.children: Sequence[Child] = ()
        self.phase: Literal["starting", "running", "draining"] = "starting"
        self._run_dir = run_dir
        self._totals = Totals()

    async def answers_ready(self, name: str) -> bool:
        """Whether a process answers and says that it is ready."""
        snapshot = await read_snapshot(self._run_dir / f"{name}.sock")
        return snapshot is not None and snapshot.ready

    def retire(self, name: str) -> None:
        """A process ended: keep its counts."""
        self._totals.retire(name)

    async def refresh(self) -> dict[str, str]:
        """Ask all processes at once; returns the state of each."""
        states = await asyncio.gather(*(self._ask(child) for child in self.children))
        return {child.spec.name: state for child, state in zip(self.children, states, strict=True)}

    async def _ask(self, child: Child) -> str:
        name = child.spec.name
        if not child.up:
            return "down"
        if not child.spec.answers_snapshots:
            return "ready"
        deaths = child.deaths
        snapshot = await read_snapshot(self._run_dir / f"{name}.sock")
        if snapshot is None:
            return "stuck"
        if child.deaths == deaths:
            self._totals.update(name, snapshot.families)
        return "ready" if snapshot.ready else "not ready"

    def create_app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/healthz/live", self._live)
        app.router.add_get("/healthz/ready", self._ready)
        app.router.add_get("/metrics", self._metrics)
        return app

    async def _live(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "live"})

    async def _ready(self, _: web.Request) -> web.Response:
        states = await self.refresh()
        status: str
        if self.phase != "running":
            status = self.phase
        elif all(state == "ready" for state in states.values()):
            status = "ready"
        else:
            status = "not ready"
        return web.json_response(
            {"status": status, "processes": states}, status=200 if status == "ready" else 503
        )

    async def _metrics(self, _: web.Request) -> web.Response:
        states = await self.refresh()
        own = [
            Family(
                "jirani_process_up",
                "gauge",
                "Whether a process runs and answers.",
                [({"process": n}, int(s in ("ready", "not ready"))) for n, s in states.items()],
            ),
            Family(
                "jirani_process_restarts",
                "counter",
                "How often a process was started again after it died.",
                [({"process": child.spec.name}, child.restarts) for child in self.children],
            ),
        ]
        body = render([*own, *self._totals.families()])
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE})


async def serve(app: web.Application, host: str, port: int) -> Callable[[], Awaitable[None]]:
    """Listen; returns the coroutine function that stops listening.

    Raises: OSError - the port cannot be had.
    """
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port, reuse_address=True).start()
    except BaseException:
        await runner.cleanup()
        raise
    return runner.cleanup
