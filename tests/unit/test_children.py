"""One supervised process: ready or explained, restarted, stopped in its own time."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from connector.children import Child, Spec, StartFailed, describe_status

Make = Callable[..., Child]
# Writes its number into a file, which is how it is ready, and waits.
READY = "import os, signal, sys; open(sys.argv[1], 'w').write(str(os.getpid())); signal.pause()"
DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + READY


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Make]:
    children: list[Child] = []

    def make(code: str, **options: Any) -> Child:
        path = tmp_path / "pid"

        async def ready() -> bool:
            return path.exists() and path.read_text() == str(child_pid(child))

        spec = Spec(
            name="thing",
            command=(sys.executable, "-c", code, str(path)),
            environment=dict(os.environ),
            **{"ready": ready, **options},
        )
        child = Child(spec)
        children.append(child)
        return child

    yield make
    for child in children:
        await child.kill()


def child_pid(child: Child) -> int | None:
    process = child._process
    return None if process is None else process.pid


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_it_is_up_once_ready_and_gone_once_stopped(make: Make) -> None:
    child = make(READY)
    await child.start()
    pid = child_pid(child)
    assert pid is not None
    await until(lambda: child.up)
    assert os.getsid(pid) == pid
    await child.stop()
    assert not child.up
    assert not alive(pid)


async def test_stop_goes_on_to_stronger_signals(make: Make) -> None:
    child = make(DEAF, stop_signals=((signal.SIGTERM, 0.05), (signal.SIGHUP, 20.0)))
    await child.start()
    pid = child_pid(child)
    assert pid is not None
    await child.stop()
    assert not alive(pid)


async def test_stop_kills_what_does_not_listen(make: Make) -> None:
    child = make(DEAF, stop_signals=((signal.SIGTERM, 0.05),))
    await child.start()
    pid = child_pid(child)
    assert pid is not None
    await child.stop()
    assert not alive(pid)


async def test_it_is_restarted_after_each_death(make: Make) -> None:
    child = make(READY)
    await child.start()
    for restarts in (1, 2, 3):
        pid = child_pid(child)
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await until(lambda n=restarts: child.up and child.restarts == n)  # type: ignore[misc]
        assert child.deaths == restarts
        assert child_pid(child) != pid


async def test_it_stops_while_it_waits_to_be_restarted(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("connector.children.BACK_OFF_S_MIN", 1000.0)
    child = make(READY)
    await child.start()
    pid = child_pid(child)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    await until(lambda: not child.up)
    async with asyncio.timeout(5):
        await child.stop()


async def test_its_last_line_says_why_it_does_not_start(make: Make) -> None:
    child = make("import sys; print('noise'); sys.exit('SOME_SETTING is wrong')")
    with pytest.raises(StartFailed, match=r"^SOME_SETTING is wrong$"):
        await child.start()
    assert child.deaths == 1


async def test_a_stack_trace_is_shown_whole(
    make: Make, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    child = make("raise RuntimeError('unforeseen')")
    with pytest.raises(StartFailed, match=r"^thing ended while starting \(exit status 1\)$"):
        await child.start()
    assert b"Traceback" in capfdbinary.readouterr().err


async def test_a_crash_is_tried_again_a_few_times(make: Make) -> None:
    child = make("import os; os.abort()")
    with pytest.raises(StartFailed, match=r"^thing ended while starting \(signal 6, Aborted\)$"):
        await child.start()
    assert child.deaths == 3


async def test_what_is_never_ready_is_given_up(make: Make) -> None:
    async def never() -> bool:
        return False

    child = make(READY, ready=never, start_s_max=0.3)
    with pytest.raises(StartFailed, match=r"^thing was not ready within 0.3 s$"):
        await child.start()
    assert child_pid(child) is None


async def test_a_program_that_is_missing_is_named(make: Make) -> None:
    child = make("")
    missing = Spec(
        name="thing",
        command=("/no/such/program",),
        environment=dict(os.environ),
        ready=child.spec.ready,
    )
    with pytest.raises(StartFailed, match=r"^/no/such/program: No such file or directory$"):
        await Child(missing).start()


async def test_output_goes_to_a_file_where_there_is_one(make: Make, tmp_path: Path) -> None:
    child = make("import sys; sys.exit('because')", output=tmp_path / "log")
    with pytest.raises(StartFailed, match=r"\(exit status 1\): because \(see .*log\)$"):
        await child.start()


async def test_it_is_prepared_before_each_start(make: Make) -> None:
    times = 0

    async def prepare() -> None:
        nonlocal times
        times += 1

    child = make(READY, prepare=prepare)
    await child.start()
    pid = child_pid(child)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    await until(lambda: child.up and child.restarts == 1)
    assert times == 2


@pytest.mark.parametrize(
    ("status", "text"), [(0, "exit status 0"), (70, "exit status 70"), (-9, "signal 9, Killed")]
)
def test_statuses_read_well(status: int, text: str) -> None:
    assert describe_status(status) == text
