"""Things a test needs that not every machine has.

Without the thing a test is skipped, with a plain reason; when ``JIRANI_TEST_REQUIRE`` (names with
commas between them) holds its name, the test fails instead, so that a run that is meant to be
complete cannot be quietly incomplete.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

NPM_FOLDER = Path(__file__).parents[1] / "npm"
VARIABLE = "JIRANI_TEST_REQUIRE"


def require(name: str) -> str:
    """Return where the thing is; skip the test without it, or fail it if it must be there.

    name - ``node`` (the program), ``npm-peers`` (the installed folder), ``chromium`` (the program),
    ``tigerbeetle`` (a server binary, else the addresses of a cluster).
    """
    find, reason = _THINGS[name]
    found = find()
    if found:
        return found
    if name in os.environ.get(VARIABLE, "").split(","):
        pytest.fail(f"{VARIABLE} names {name}, but: {reason}")
    pytest.skip(reason)


def _find_npm_peers() -> str | None:
    folder = NPM_FOLDER / "node_modules"
    return str(folder) if folder.is_dir() else None


def _find_chromium() -> str | None:
    names = ("chromium", "chromium-browser", "google-chrome")
    return os.environ.get("CHROMIUM_BIN") or next(filter(None, map(shutil.which, names)), None)


def _find_tigerbeetle() -> str | None:
    return os.environ.get("TIGERBEETLE_BIN") or os.environ.get("TIGERBEETLE_REPLICA_ADDRESSES")


_THINGS: dict[str, tuple[Callable[[], str | None], str]] = {
    "node": (lambda: shutil.which("node"), "Node.js is not installed"),
    "npm-peers": (_find_npm_peers, "tests/npm is not installed (npm ci --prefix tests/npm)"),
    "chromium": (_find_chromium, "Chromium is not installed (or name it in CHROMIUM_BIN)"),
    "tigerbeetle": (
        _find_tigerbeetle,
        "needs TIGERBEETLE_BIN or TIGERBEETLE_REPLICA_ADDRESSES",
    ),
}
