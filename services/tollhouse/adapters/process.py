"""The life of a service process: settings, signals, exit status.

`run` installs the signal handlers before anything of ours starts. A process ends with
0 when it was asked to, 1 when something failed while it ran, 2 when it could not
start: then stderr has the reason, one line per fault, and nothing was served.
"""

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, NoReturn, TypeVar

import structlog
import uvloop
from pydantic import ValidationError
from pydantic_settings import BaseSettings, SettingsError

from tollhouse.adapters import logs
from tollhouse.adapters.core_dump import leave_no_core

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_UNUSABLE = 2

# How long cancelled background tasks may take to write what they hold.
_TASKS_GRACE_SECONDS = 3.0

_Settings = TypeVar("_Settings", bound=BaseSettings)

_log = structlog.get_logger()


class StartError(Exception):
    """The process can't start: one line of text per fault, each with its remedy.

    A `__main__` turns what its adapters raise over configuration into this.
    """


class TaskEndedError(Exception):
    """A background task ended although nobody asked it to."""


class Process:
    """This process, as its parts see it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.stopping = asyncio.Event()
        """Set by the first SIGTERM or SIGINT."""
        self._serving = False

    async def hold(
        self,
        background: Sequence[Callable[[], Coroutine[Any, Any, None]]] = (),
        *,
        ready: Callable[[], Awaitable[None]],
        drain: Callable[[], Awaitable[None]],
    ) -> None:
        """Run until asked to stop: `ready`, then the tasks, `drain`, cancel the tasks.

        Tasks live through the drain, because work that is being finished may need
        them. Raises TaskEndedError when one of them ends or raises before that.
        """
        self._serving = True
        await ready()
        tasks = [
            asyncio.create_task(run_task(), name=_name_of(run_task))
            for run_task in background
        ]
        stop = asyncio.create_task(self.stopping.wait(), name="stopping")
        try:
            await asyncio.wait([stop, *tasks], return_when=asyncio.FIRST_COMPLETED)
            dead = [task for task in tasks if task.done()]
            for task in dead:
                _report(task)
            _log.info("drain.started", asked=self.stopping.is_set())
            await drain()
        finally:
            stop.cancel()
            await _cancel(tasks)
        if dead:
            raise TaskEndedError(", ".join(task.get_name() for task in dead))

    @property
    def is_serving(self) -> bool:
        """Whether start-up is over; before, a signal ends the process at once."""
        return self._serving


def run(name: str, main: Callable[[Process], Coroutine[Any, Any, None]]) -> NoReturn:
    """Run a service to its end on uvloop and exit with its status.

    Logs at level info; `main` may configure another level once it knows it.
    """
    leave_no_core()
    # First of all: a crash before that would print local variables, secrets too.
    logs.configure(name)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        status = runner.run(_supervise(name, main))
    sys.stdout.flush()
    sys.exit(status)


def read_settings(kind: type[_Settings]) -> _Settings:
    """Read settings from the environment. Raises StartError naming every fault."""
    try:
        return kind()
    except SettingsError as error:
        raise StartError(f"the environment can't be read: {error}") from error
    except ValidationError as error:
        prefix = kind.model_config.get("env_prefix", "")
        lines = []
        for fault in error.errors(include_input=False, include_url=False):
            field = str(fault["loc"][0]) if fault["loc"] else ""
            known = kind.model_fields.get(field)
            hint = f" ({known.description})" if known and known.description else ""
            what = "is not set" if fault["type"] == "missing" else fault["msg"]
            what = what.removeprefix("Value error, ")
            lines.append(f"{prefix}{field.upper()}: {what}{hint}")
        raise StartError("\n".join(lines)) from error


async def _supervise(
    name: str, main: Callable[[Process], Coroutine[Any, Any, None]]
) -> int:
    process = Process(name)
    loop = asyncio.get_running_loop()
    work: asyncio.Task[None] | None = None

    def stop() -> None:
        process.stopping.set()
        if work is not None and not process.is_serving:
            work.cancel()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    work = asyncio.create_task(main(process), name=name)
    try:
        await work
    except asyncio.CancelledError:
        if not process.stopping.is_set():
            raise
    except StartError as error:
        for line in str(error).splitlines() or ["could not start"]:
            print(f"tollhouse {name}: {line}", file=sys.stderr)  # noqa: T201 - no log yet
        return EXIT_UNUSABLE
    except TaskEndedError:  # reported where it happened
        return EXIT_FAILED
    except Exception:  # noqa: BLE001 - the outermost frame: log once, exit 1
        _log.exception("process.failed")
        return EXIT_FAILED
    _log.info("process.stopped")
    return EXIT_OK


def _name_of(run_task: Callable[[], object]) -> str:
    return getattr(run_task, "__qualname__", None) or type(run_task).__qualname__


def _report(task: asyncio.Task[None]) -> None:
    if task.cancelled() or (error := task.exception()) is None:
        _log.error("task.ended", task=task.get_name())
    else:
        _log.error("task.failed", task=task.get_name(), exc_info=error)


async def _cancel(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    if not tasks:
        return
    done, late = await asyncio.wait(tasks, timeout=_TASKS_GRACE_SECONDS)
    for task in late:
        _log.error("task.abandoned", task=task.get_name())
    for task in done:
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("task.failed", task=task.get_name(), exc_info=error)
