"""Child processes that can't outlive us, however we end.

Three nets, because each has a hole the next one closes:

1. Each child asks the kernel for SIGKILL when its parent dies (PR_SET_PDEATHSIG). This
   needs no one alive, but the children's own children (Triton's Python stubs) don't
   inherit it.
2. Each child leads a session and so a process group of its own. Whenever a child has
   ended, what is left of its group is killed.
3. A watchdog, a few lines of shell, holds the reading end of a pipe that only we write
   to. It knows the groups; when the pipe closes without our good-bye (`kill -9`) it
   kills them all. It also shares our lock on the state directory and keeps it for a
   moment, so that the next start finds their sockets and ports free.

Exits are noticed through SIGCHLD on the event loop. There is no thread: a fork with
code between fork and exec (net 1) must not meet one.
"""

import asyncio
import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
# Loaded before any fork: between fork and exec only the call itself may happen.
_LIBC = ctypes.CDLL(None, use_errno=True)

_WATCHDOG = """
trap '' HUP INT TERM
groups=
while read -r line; do groups=$line; done
for group in $groups; do kill -s KILL -- "-$group"; done 2>/dev/null
sleep 0.2
"""


@dataclass(eq=False, slots=True)
class Child:
    """A running process; it leads the process group that carries its pid."""

    process: subprocess.Popen[bytes]
    exited: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def pid(self) -> int:
        """Process id, also the id of its group and session."""
        return self.process.pid

    @property
    def status(self) -> int | None:
        """None while it runs, then the exit code, or minus the signal's number."""
        return self.process.returncode

    def terminate(self) -> None:
        """Ask the leader to end; it tells its own children."""
        if self.status is None:
            self.process.send_signal(signal.SIGTERM)

    def kill_group(self) -> None:
        """End all of the group, whoever is left."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)


class Children:
    """All child processes of this one; an async context that leaves none behind."""

    def __init__(self, *, lock: int | None = None) -> None:
        """`lock`: a locked file descriptor that the watchdog shares with us."""
        self._lock = lock
        self._alive: dict[int, Child] = {}
        self._orphaned: set[int] = set()
        self._watchdog: subprocess.Popen[bytes] | None = None

    async def __aenter__(self) -> Self:
        """Become the parent of orphaned grandchildren; start noticing exits."""
        if sys.platform == "linux":
            _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, self._reap)
        self._start_watchdog()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Kill what still runs, and tell the watchdog that all is well."""
        for child in list(self._alive.values()):
            child.kill_group()
            child.process.wait()
            self._ended(child)
        asyncio.get_running_loop().remove_signal_handler(signal.SIGCHLD)
        watchdog, self._watchdog = self._watchdog, None
        if watchdog is not None and watchdog.stdin is not None:
            watchdog.stdin.close()
            watchdog.wait()

    def spawn(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        log: Path,
        directory: Path,
    ) -> Child:
        """Start a command with its output appended to `log`.

        Raises OSError when it can't be started: a missing or broken binary.
        """
        with log.open("ab") as output:
            process = subprocess.Popen(
                command,
                env=dict(environment),
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_die_with(os.getpid()),  # noqa: PLW1509 - no threads here
            )
        child = Child(process)
        self._alive[child.pid] = child
        self._tell_watchdog()
        return child

    async def stop(self, child: Child, grace_seconds: float) -> bool:
        """End a child and its group; True if it ended by itself when asked."""
        child.terminate()
        try:
            async with asyncio.timeout(grace_seconds):
                await child.exited.wait()
        except TimeoutError:
            child.kill_group()
            await child.exited.wait()
            return False
        return True

    def kill_all(self) -> None:
        """End all children and their groups now."""
        for child in self._alive.values():
            child.kill_group()

    def _reap(self) -> None:
        for child in list(self._alive.values()):
            if child.process.poll() is not None:
                self._ended(child)
        self._bury_orphans()
        watchdog = self._watchdog
        if watchdog is not None and watchdog.poll() is not None:
            if watchdog.stdin is not None:
                watchdog.stdin.close()
            self._start_watchdog()

    def _ended(self, child: Child) -> None:
        child.kill_group()
        self._alive.pop(child.pid, None)
        self._orphaned.add(child.pid)
        self._bury_orphans()
        self._tell_watchdog()
        child.exited.set()

    def _bury_orphans(self) -> None:
        """Wait for dead grandchildren: as the subreaper we inherited them."""
        for group in list(self._orphaned):
            try:
                while os.waitpid(-group, os.WNOHANG)[0]:
                    pass
            except ChildProcessError:
                self._orphaned.discard(group)

    def _start_watchdog(self) -> None:
        self._watchdog = subprocess.Popen(
            ["/bin/sh", "-c", _WATCHDOG],
            env={"PATH": "/usr/bin:/bin"},
            cwd="/",
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            pass_fds=() if self._lock is None else (self._lock,),
        )
        self._tell_watchdog()

    def _tell_watchdog(self) -> None:
        if self._watchdog is None or self._watchdog.stdin is None:
            return
        groups = " ".join(map(str, self._alive))
        # One write below PIPE_BUF is whole or not there. A dead watchdog is replaced
        # as soon as its SIGCHLD is handled, and told then.
        with contextlib.suppress(BrokenPipeError):
            os.write(self._watchdog.stdin.fileno(), f"{groups}\n".encode())


def describe(status: int) -> str:
    """Say how a process ended, in the words of a shell user."""
    if status >= 0:
        return f"exited with code {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"was killed by signal {-status}"


def _die_with(parent: int) -> Callable[[], None]:
    """Make what a child does between fork and exec."""

    def ask_the_kernel() -> None:
        if sys.platform == "linux":
            _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it died before the kernel was asked
            os._exit(1)

    return ask_the_kernel
