"""Waiting for something to become true, instead of for some time to pass."""

import asyncio
from collections.abc import Callable

WAIT_S_MAX = 10.0


async def wait_until(condition: Callable[[], object], what: str = "the condition") -> None:
    """Return once ``condition()`` is true; fail after ``WAIT_S_MAX`` seconds."""
    try:
        async with asyncio.timeout(WAIT_S_MAX):
            while not condition():
                await asyncio.sleep(0.002)
    except TimeoutError:
        raise AssertionError(f"{what} did not come true in {WAIT_S_MAX} s") from None
