"""Start parts in order, keep them running, stop them in the opposite order.

A part is a command with a probe. On its first start it waits for the parts it comes
`after`; a part that ends before it was ever ready fails the start, because then the
environment is wrong and trying again would hide it. Once ready, a part that ends is
started again with exponential backoff, without waiting for anyone: the parts are made
to bear each other's absence.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tollhouse.cli.children import Child, Children, describe
from tollhouse.cli.console import Console

FIRST_BACKOFF_SECONDS = 0.1
LONGEST_BACKOFF_SECONDS = 10.0
STABLE_SECONDS = 30.0
"""A part that ran this long is well again: its next failure counts as the first."""
STOP_SECONDS = 9.0
"""All parts must be gone by then; the promise of `tollhouse up` is 10 s."""
_PROBE_SECONDS = 0.05


class PartError(Exception):
    """A part never got ready; the text is one line for the terminal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One process: how to start it, when it is ready, how it wants to end."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    directory: Path
    probe: Callable[[], Awaitable[bool]]
    """Asked until it says True; OSError and TimeoutError mean not yet."""
    after: tuple[str, ...] = ()
    prepare: Callable[[], object] = field(default=lambda: None)
    """Run before each start: remove what a killed predecessor left behind."""
    drain: Callable[[], Awaitable[None]] | None = None
    """Run before SIGTERM; must bound itself."""
    clean: Callable[[], object] = field(default=lambda: None)
    """Run when it was stopped for good: remove what it leaves behind."""
    ready_seconds: float = 60.0
    stop_seconds: float = 3.0


class Supervisor:
    """Runs a set of parts. Call `start`, then `stop`; watch `broken` in between."""

    def __init__(
        self,
        parts: Sequence[Part],
        children: Children,
        *,
        logs: Path,
        console: Console,
    ) -> None:
        """Take the parts; nothing is started."""
        self._children = children
        self._console = console
        self._logs = logs
        self.changed: Callable[[], None] = lambda: None
        """Called when a part is ready again, with another pid."""
        self._kept = {part.name: _Kept(part) for part in parts}
        self._tasks: list[asyncio.Task[None]] = []
        self._started = False
        for part in parts:
            for name in part.after:
                if name not in self._kept:
                    raise ValueError(f"{part.name} comes after unknown part {name}")

    def log_of(self, name: str) -> Path:
        """Where a part's output goes."""
        return self._logs / f"{name}.log"

    def pids(self) -> dict[str, int]:
        """Process id of each part that runs now."""
        return {
            name: kept.child.pid
            for name, kept in self._kept.items()
            if kept.child is not None
        }

    async def start(self) -> None:
        """Return when all parts are ready. Raises PartError; then call `stop`."""
        self._tasks = [
            asyncio.create_task(self._keep(kept), name=name)
            for name, kept in self._kept.items()
        ]
        ready = asyncio.create_task(self._all_ready())
        await asyncio.wait((ready, *self._tasks), return_when=asyncio.FIRST_COMPLETED)
        if not ready.done():
            ready.cancel()
            await self.broken()
        self._started = True

    async def _all_ready(self) -> None:
        for kept in self._kept.values():
            await kept.ready.wait()

    async def broken(self) -> None:
        """Wait until keeping a part fails; raises what failed."""
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()

    async def stop(self) -> None:
        """End all parts, each after those that come after it, within STOP_SECONDS."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await asyncio.gather(*map(self._stop, self._kept.values()))
        except TimeoutError:
            for name, kept in self._kept.items():
                if kept.child is not None:
                    self._console.warning(f"{name} did not stop in time: killed")
                    kept.child.kill_group()

    async def _keep(self, kept: "_Kept") -> None:
        """Start a part and start it again whenever it ends."""
        part = kept.part
        for name in part.after:
            await self._kept[name].ready.wait()
        while True:
            began = time.monotonic()
            reason = await self._start(kept)
            if reason is None:
                self._report_ready(kept, time.monotonic() - began)
                reason = await self._until_exit(kept)
            if not kept.was_ready:
                raise PartError(self._first_failure(part, reason))
            if time.monotonic() - began > STABLE_SECONDS:
                kept.failures = 0
            delay = backoff(kept.failures)
            kept.failures += 1
            self._console.warning(
                f"{part.name} {reason}; starting it again in {delay:.1f} s"
                f" (log: {self.log_of(part.name)})"
            )
            await asyncio.sleep(delay)

    async def _start(self, kept: "_Kept") -> str | None:
        """Start a part once; None when it is ready, else why it is not."""
        part = kept.part
        part.prepare()
        try:
            child = self._children.spawn(
                part.command,
                environment=part.environment,
                log=self.log_of(part.name),
                directory=part.directory,
            )
        except OSError as error:
            return f"can't be started: {error.strerror}: {error.filename}"
        kept.child = child
        try:
            async with asyncio.timeout(part.ready_seconds):
                while child.status is None:
                    if await _ask(part.probe):
                        return None
                    await first(child.exited.wait(), asyncio.sleep(_PROBE_SECONDS))
        except TimeoutError:
            await self._children.stop(child, part.stop_seconds)
            kept.child = None
            return f"was not ready after {part.ready_seconds:.0f} s"
        return await self._until_exit(kept)

    async def _until_exit(self, kept: "_Kept") -> str:
        """Wait until a started part ends; say how it did."""
        if (child := kept.child) is None:
            raise ValueError(f"{kept.part.name} was not started")
        await child.exited.wait()
        kept.child = None
        return describe(child.process.wait())

    def _report_ready(self, kept: "_Kept", seconds: float) -> None:
        again = " again" if kept.was_ready else ""
        self._console.step(kept.part.name, f"ready{again} in {seconds:.1f} s")
        kept.was_ready = True
        kept.ready.set()
        if self._started:
            self.changed()

    def _first_failure(self, part: Part, reason: str) -> str:
        log = self.log_of(part.name)
        last = last_line(log)
        said = f", its last words: {last}" if last else ""
        return f"{part.name} {reason}{said} (log: {log})"

    async def _stop(self, kept: "_Kept") -> None:
        part, child = kept.part, kept.child
        later = [it for it in self._kept.values() if part.name in it.part.after]
        for other in later:
            await other.stopped.wait()
        if child is not None:
            if part.drain is not None and child.status is None:
                await _ask(part.drain)
            if not await self._children.stop(child, part.stop_seconds):
                self._console.warning(
                    f"{part.name} did not stop in {part.stop_seconds:g} s: killed"
                )
            kept.child = None
        part.clean()
        kept.stopped.set()


@dataclass(eq=False, slots=True)
class _Kept:
    """What the supervisor knows about a part."""

    part: Part
    child: Child | None = None
    failures: int = 0
    was_ready: bool = False
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    stopped: asyncio.Event = field(default_factory=asyncio.Event)


def last_line(log: Path) -> str:
    """Return the last line of a log that says something, shortened."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - 4096))
            lines = [
                it.strip() for it in file.read().decode(errors="replace").split("\n")
            ]
    except OSError:
        return ""
    return next((it[:300] for it in reversed(lines) if it), "")


def backoff(failures: int) -> float:
    """Seconds to wait after this many failures in a row."""
    longest = min(LONGEST_BACKOFF_SECONDS, FIRST_BACKOFF_SECONDS * 2.0**failures)
    # Jitter keeps parts that failed together from coming back together.
    return longest * random.uniform(0.75, 1.25)  # noqa: S311 - not a secret


async def _ask(question: Callable[[], Awaitable[bool | None]]) -> bool:
    try:
        return bool(await question())
    except (OSError, TimeoutError):
        return False


async def first(*waits: Awaitable[object]) -> None:
    """Wait for the first of several and cancel the others; raises what it raised."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
