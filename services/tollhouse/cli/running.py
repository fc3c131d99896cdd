"""One life of the local stack: start, say so, keep running, stop."""

import asyncio
import contextlib
import json
import os
import shlex
import signal
import time
from collections.abc import Callable, Coroutine, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any

from tollhouse.adapters.configuration import Configuration
from tollhouse.adapters.http_client import http_request
from tollhouse.cli.children import Children
from tollhouse.cli.console import Console
from tollhouse.cli.demo import demo_key
from tollhouse.cli.parts import Stack
from tollhouse.cli.state import write_whole
from tollhouse.cli.supervisor import PartError, Supervisor, first
from tollhouse.cli.trace_watch import TraceWatch

_ANSWER_SECONDS = 15.0
_LOGS_EVERY_SECONDS = 30.0


class Running:
    """The stack from its first process to its last."""

    def __init__(
        self,
        stack: Stack,
        configuration: Configuration,
        console: Console,
        *,
        ready_file: Path | None,
        began: float,
        background: Sequence[Callable[[], Coroutine[Any, Any, None]]] = (),
    ) -> None:
        """`began` is the monotonic time at which the command was given.

        `background` runs beside the stack and never returns.
        """
        self._stack = stack
        self._configuration = configuration
        self._console = console
        self._ready_file = ready_file
        self._began = began
        self._background = background
        self._asked = asyncio.Event()
        self._api_key = ""

    async def main(self, lock: int) -> None:
        """Run until asked to stop. Raises PartError, Unavailable when it can't."""
        parts = self._stack.parts()
        state = self._stack.state
        state.rotate_logs([part.name for part in parts])
        async with Children(lock=lock) as children:
            supervisor = Supervisor(
                parts, children, logs=state.logs, console=self._console
            )
            supervisor.changed = lambda: self._write_ready(supervisor)
            self._install_signals(children)
            try:
                await first(
                    self._serve(supervisor),
                    self._bound_logs(),
                    self._asked.wait(),
                    *(run() for run in self._background),
                )
            finally:
                await self._stop(supervisor)

    async def _serve(self, supervisor: Supervisor) -> None:
        await supervisor.start()
        state = self._stack.state
        self._api_key = demo_key(
            self._stack.redis_access(),
            state.pepper,
            state.demo_key,
            self._configuration,
        )
        await self._await_answer()
        self._write_ready(supervisor)
        self._announce()
        await first(supervisor.broken(), self._show_traces())

    async def _show_traces(self) -> None:
        if self._stack.receiver is None:
            await asyncio.Event().wait()
        else:
            await TraceWatch(self._stack.receiver, self._console).run()

    async def _bound_logs(self) -> None:
        while True:
            await asyncio.sleep(_LOGS_EVERY_SECONDS)
            self._stack.state.bound_logs()

    async def _stop(self, supervisor: Supervisor) -> None:
        began = time.monotonic()
        if self._asked.is_set():
            self._console.line("\nstopping")
        await supervisor.stop()
        if self._asked.is_set():
            self._console.line(f"stopped in {time.monotonic() - began:.1f} s")

    def _install_signals(self, children: Children) -> None:
        def ask() -> None:
            if self._asked.is_set():
                self._console.line("killing what is left")
                children.kill_all()
            self._asked.set()

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, ask)

    async def _await_answer(self) -> None:
        """Return when a request gets through all parts. Raises PartError."""
        deadline = time.monotonic() + _ANSWER_SECONDS
        authorization = f"Authorization: Bearer {self._api_key}"
        certificate = self._stack.certificate
        status: int | None = None
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError, TimeoutError):
                status, _ = await http_request(
                    self._stack.reachable,
                    "/v1/models",
                    headers=(authorization,),
                    tls=None if certificate is None else certificate.believed(),
                )
                if status == HTTPStatus.OK:
                    return
            await asyncio.sleep(0.05)
        raise PartError(
            f"all parts run, but GET /v1/models answers {status or 'nothing'} after"
            f" {_ANSWER_SECONDS:.0f} s (logs: {self._stack.state.logs})"
        )

    def _write_ready(self, supervisor: Supervisor) -> None:
        if self._ready_file is None or not self._api_key:
            return
        ready = {
            "base_url": self._stack.base_url,
            "api_key": self._api_key,
            "pids": supervisor.pids(),
            "pid": os.getpid(),
            "admin_url": f"http://{self._stack.admin}",
            "redis_url": self._stack.redis_url,
            "state_dir": str(self._stack.state.path),
        }
        if self._stack.receiver is not None:
            ready["telemetry_url"] = self._stack.receiver.url
        write_whole(self._ready_file, json.dumps(ready, indent=1) + "\n", mode=0o600)

    def _announce(self) -> None:
        model = next(iter(self._configuration.models))
        question = {"role": "user", "content": "Tell me about the road."}
        body = {"model": model, "messages": [question], "stream": True}
        # An authority nobody knows signs most certificates of a machine of one's own.
        certificate = self._stack.certificate
        trust = "" if certificate is None else f" --cacert {certificate.quoted}"
        line = self._console.line
        line()
        line(
            self._console.bold(
                f"Tollhouse is ready ({time.monotonic() - self._began:.1f} s)"
            )
        )
        line(f"  base URL  {self._stack.base_url}")
        line(f"  key       {self._api_key}")
        line(f"  models    {', '.join(self._configuration.models)}")
        if self._stack.receiver is not None:
            line(f"  metrics   {self._stack.receiver.url}/metrics")
            line(f"  traces    {self._stack.receiver.url}/traces, and here")
        line()
        line(
            f"curl -N{trust} {self._stack.base_url}/chat/completions"
            f" -H 'Authorization: Bearer {self._api_key}'"
            f" -H 'Content-Type: application/json' -d {shlex.quote(json.dumps(body))}"
        )
        line()
        line(self._console.dim("Ctrl-C stops everything."))
