"""Parts are started in order, started again, and never left behind."""

import asyncio
import contextlib
import io
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import psutil
import pytest

from tollhouse.cli import supervisor as supervisor_module
from tollhouse.cli.children import Children, describe
from tollhouse.cli.console import Console
from tollhouse.cli.supervisor import Part, PartError, Supervisor

GRACEFUL = """
trap 'echo "$0 asked" >> order; sleep 0.1; echo "$0 gone" >> order; exit 0' TERM
touch "$0.ready"
while :; do sleep 0.02; done
"""
STUBBORN = """
trap '' TERM
touch "$0.ready"
while :; do sleep 0.02; done
"""


class Stage:
    """A folder in which shell scripts play parts; what they and we said is kept."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.said = io.StringIO()

    def part(self, name: str, script: str = GRACEFUL, **about) -> Part:
        ready = self.folder / f"{name}.ready"

        async def probe() -> bool:
            return ready.exists()

        return Part(
            name=name,
            command=["/bin/sh", "-c", script, name],
            environment={"PATH": os.environ["PATH"]},
            directory=self.folder,
            probe=probe,
            prepare=lambda: ready.unlink(missing_ok=True),
            **about,
        )

    @contextlib.asynccontextmanager
    async def supervise(self, *parts: Part) -> AsyncIterator[Supervisor]:
        async with Children() as children:
            supervisor = Supervisor(
                parts, children, logs=self.folder, console=Console(self.said)
            )
            try:
                yield supervisor
            finally:
                await supervisor.stop()

    async def until_said(self, text: str, times: int = 1) -> None:
        await until(lambda: self.said.getvalue().count(text) >= times)


@pytest.fixture
def stage(tmp_path):
    return Stage(tmp_path)


def is_running(pid: int) -> bool:
    """Tell a process that runs from one that only waits to be buried."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def test_a_part_starts_when_those_before_it_are_ready(stage):
    """`after` means ready, not merely started."""
    late = 'test -e first.ready || echo early > "$0.early"' + GRACEFUL
    parts = (
        stage.part("second", late, after=("first",)),
        stage.part("first", "sleep 0.3" + GRACEFUL),
    )
    async with stage.supervise(*parts) as supervisor:
        await supervisor.start()

        assert {"first", "second"} == set(supervisor.pids())
    assert not (stage.folder / "second.early").exists()


async def test_parts_stop_after_those_that_need_them(stage):
    """Redis goes last because everybody's last words go there."""
    parts = (
        stage.part("redis"),
        stage.part("extproc", after=("redis",)),
        stage.part("envoy", after=("extproc",)),
    )
    async with stage.supervise(*parts) as supervisor:
        await supervisor.start()

    order = (stage.folder / "order").read_text().split("\n")[:-1]
    assert [
        f"{name} {what}"
        for name in ("envoy", "extproc", "redis")
        for what in ("asked", "gone")
    ] == order


async def test_a_killed_part_is_started_again_and_named(stage):
    """The line says who, why and where to read more; `changed` tells the new pid."""
    async with stage.supervise(stage.part("frontend")) as supervisor:
        await supervisor.start()
        before = supervisor.pids()["frontend"]
        changed = asyncio.Event()
        supervisor.changed = changed.set
        os.kill(before, signal.SIGKILL)
        async with asyncio.timeout(30):
            await changed.wait()

        assert before != supervisor.pids()["frontend"]
    assert (
        "frontend was killed by SIGKILL; starting it again in" in stage.said.getvalue()
    )
    assert str(stage.folder / "frontend.log") in stage.said.getvalue()


async def test_backoff_grows_with_each_failure(stage):
    """A part that dies at once must not be started in a busy loop."""
    script = 'test -e once && exit 3; touch once "$0.ready"; sleep 2; exit 3'
    async with stage.supervise(stage.part("authz", script)) as supervisor:
        await supervisor.start()
        await stage.until_said("exited with code 3", times=4)

    delays = re.findall(r"starting it again in ([\d.]+) s", stage.said.getvalue())
    # 0.1, 0.2, 0.4, 0.8 s, each a quarter more or less.
    assert float(delays[0]) <= 0.2
    assert float(delays[3]) >= 0.6


async def test_a_part_that_ends_before_it_was_ready_fails_the_start(stage):
    """One line: who, how, its last words, its log."""
    part = stage.part("billing", "echo no such file; exit 7")
    async with stage.supervise(part) as supervisor:
        with pytest.raises(PartError) as failure:
            await supervisor.start()

    log = stage.folder / "billing.log"
    assert (
        f"billing exited with code 7, its last words: no such file (log: {log})"
        == str(failure.value)
    )


async def test_a_part_that_never_answers_fails_the_start(stage):
    """Waiting has an end."""
    part = stage.part("envoy", "exec sleep 100", ready_seconds=0.2, stop_seconds=1)
    async with stage.supervise(part) as supervisor:
        with pytest.raises(PartError, match="envoy was not ready after 0 s"):
            await supervisor.start()


async def test_a_missing_program_fails_the_start(stage):
    """The error names the file."""
    part = Part(
        name="redis",
        command=["/nonexistent/redis-server"],
        environment={},
        directory=stage.folder,
        probe=lambda: asyncio.sleep(0, result=True),
    )
    async with stage.supervise(part) as supervisor:
        with pytest.raises(PartError, match=r"No such file.*/nonexistent/redis-server"):
            await supervisor.start()


async def test_a_part_that_ignores_sigterm_is_killed(stage):
    """Stopping has an end too, says who was forced, and removes what that leaves."""
    gone = []

    def clean() -> None:
        gone.append(not is_running(pid))

    part = stage.part("triton", STUBBORN, stop_seconds=0.3, clean=clean)
    async with stage.supervise(part) as it:
        await it.start()
        pid = it.pids()["triton"]
        assert not gone
    assert gone == [True]
    assert "triton did not stop in 0.3 s: killed" in stage.said.getvalue()


async def test_grandchildren_die_with_their_parent(stage):
    """Triton's stubs must not outlive a killed Triton, nor hold its memory."""
    script = 'sleep 1000 & echo $! > "$0.pid"' + GRACEFUL
    async with stage.supervise(stage.part("triton", script)) as supervisor:
        await supervisor.start()
        stub = int((stage.folder / "triton.pid").read_text())
        assert is_running(stub)
        os.kill(supervisor.pids()["triton"], signal.SIGKILL)
        await stage.until_said("ready again")

        assert not is_running(stub)


async def test_an_unknown_predecessor_is_refused(stage):
    """A typing mistake would wait for ever."""
    async with Children() as children:
        with pytest.raises(ValueError, match="unknown part rdis"):
            Supervisor(
                [stage.part("authz", after=("rdis",))],
                children,
                logs=stage.folder,
                console=Console(stage.said),
            )


async def test_a_killed_watchdog_is_replaced(stage):
    """The net under `kill -9` must not have a hole for the rest of the run."""
    async with stage.supervise(stage.part("redis")) as supervisor:
        await supervisor.start()
        [watchdog] = watchdogs_of(psutil.Process())
        watchdog.kill()
        await until(
            lambda: watchdogs_of(psutil.Process()) not in ([], [watchdog]),
        )


def watchdogs_of(process: psutil.Process) -> list[psutil.Process]:
    """Find the shells that read from a pipe of ours."""
    return [
        child
        for child in process.children()
        if child.status() != psutil.STATUS_ZOMBIE
        and "read -r line" in str(child.cmdline())
    ]


PARENT = """
import asyncio, os, sys
from pathlib import Path
from tollhouse.cli.children import Children

async def main():
    folder = Path(sys.argv[1])
    async with Children() as children:
        children.spawn(
            ["/bin/sh", "-c", "sleep 1000 & echo $! $$ > pids; exec sleep 1000"],
            environment={"PATH": os.environ["PATH"]},
            log=folder / "log",
            directory=folder,
        )
        await asyncio.sleep(1000)

asyncio.run(main())
"""


@pytest.mark.parametrize("watchdog_too", [False, True])
def test_nothing_outlives_a_killed_parent(tmp_path, watchdog_too):
    """Not even grandchildren; children not even when the watchdog dies as well."""
    pids = tmp_path / "pids"
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path)])
    wait_until(lambda: pids.exists() and len(pids.read_text().split()) == 2)
    grandchild, child = map(int, pids.read_text().split())
    [watchdog] = watchdogs_of(psutil.Process(parent.pid))
    if watchdog_too:
        watchdog.suspend()
    parent.kill()
    parent.wait()

    try:
        wait_until(lambda: not is_running(child))
        if not watchdog_too:
            wait_until(lambda: not is_running(grandchild))
            wait_until(lambda: not is_running(watchdog.pid))
    finally:
        watchdog.resume()
        wait_until(lambda: not is_running(grandchild))


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something our own event loop brings about."""
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - the condition is not ours to signal
            await asyncio.sleep(0.01)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_exits_are_described_as_a_shell_user_would():
    """The reason in the restart line."""
    assert "exited with code 3" == describe(3)
    assert "was killed by SIGSEGV" == describe(-signal.SIGSEGV)
    assert "was killed by signal 42" == describe(-42)


async def test_backoff_is_bounded():
    """However often it fails, a part is tried again soon enough."""
    longest = supervisor_module.LONGEST_BACKOFF_SECONDS

    assert supervisor_module.backoff(50) <= 1.25 * longest
