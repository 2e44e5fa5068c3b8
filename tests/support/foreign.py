"""Foreign endpoints, the scripts of ``tests/interop``, in processes of their own."""

import asyncio
import json
import os
from pathlib import Path
from typing import Any, Final

from tests.support.requires import require

SCRIPTS: Final = Path(__file__).parents[1] / "interop"
LINE_S_MAX: Final = 60.0


class ForeignPeer:
    """One foreign endpoint; speaks JSON lines."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    @classmethod
    async def start(cls, script: str, *arguments: object) -> "ForeignPeer":
        node = require("node")
        require("npm-peers")
        process = await asyncio.create_subprocess_exec(
            node,
            str(SCRIPTS / script),
            *map(str, arguments),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=1 << 24,
            stderr=None if os.environ.get("DEBUG") else asyncio.subprocess.DEVNULL,
        )
        return cls(process)

    async def line(self) -> dict[str, Any]:
        """The next line; an AssertionError if there is none in time."""
        assert self.process.stdout is not None
        async with asyncio.timeout(LINE_S_MAX):
            text = await self.process.stdout.readline()
        assert text, "the foreign endpoint ended"
        line: dict[str, Any] = json.loads(text)
        return line

    async def ask(self) -> dict[str, Any]:
        """Send an empty line; returns the next one."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")
        await self.process.stdin.drain()
        return await self.line()

    async def close(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
        # The pipe is read to its end, so that nothing of it is left to the garbage collector.
        await self.process.communicate()
