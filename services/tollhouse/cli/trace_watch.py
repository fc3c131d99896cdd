"""Prints the traces of requests as they end: one now and then, the latest."""

import asyncio
import contextlib
import time
from collections.abc import Sequence
from http import HTTPStatus
from typing import TypeVar

import msgspec

from tollhouse.adapters.http_client import http_request
from tollhouse.cli import trace_tree
from tollhouse.cli.console import Console
from tollhouse.cli.receiver import Receiver

EDGE = "tollhouse-edge"
"""Whose spans begin the trace of a request (`service_name` in envoy.yaml)."""
_LOOK_SECONDS = 0.5
_QUIET_SECONDS = 1.5
"""Several times what a part waits with its spans: then all of them are there."""
_ORPHANED_SECONDS = 10.0
"""For an ended exchange without what Envoy says of it: it is gone, as after a crash."""
_PAUSE_SECONDS = 5.0
"""Between two trees: under load one can read the last."""

_Type = TypeVar("_Type")


class _Root(msgspec.Struct, frozen=True):
    service: str
    started_ns: int


class _Summary(msgspec.Struct, frozen=True):
    trace_id: str
    root: _Root | None
    quiet_seconds: float
    ended_ns: int

    @property
    def shown_by(self) -> int:
        """What it is ordered by when it can be shown (Unix ns); 0: it can't yet."""
        if self.root is not None and self.root.service == EDGE:
            return self.root.started_ns if self.quiet_seconds >= _QUIET_SECONDS else 0
        return self.ended_ns if self.quiet_seconds >= _ORPHANED_SECONDS else 0


class _Latest(msgspec.Struct, frozen=True):
    traces: Sequence[_Summary]


class TraceWatch:
    """Looks at the collector's pages, and shows what is new there."""

    def __init__(self, receiver: Receiver, console: Console) -> None:
        """What is shown are requests that begin from now on."""
        self._receiver = receiver
        self._console = console
        self._shown_ns = time.time_ns()
        self._has_shown = False

    async def run(self) -> None:
        """Show one after the other; never returns."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            # It may just be starting again; then the next look will do.
            with contextlib.suppress(OSError, TimeoutError, msgspec.MsgspecError):
                if await self.show():
                    await asyncio.sleep(_PAUSE_SECONDS)

    async def show(self) -> bool:
        """Show the latest that is whole, if there is a new one.

        Raises OSError, TimeoutError, msgspec.MsgspecError where the page can't be read.
        """
        ended = [
            (it.shown_by, it.trace_id)
            for it in (await self._page("/traces", _Latest)).traces
            if it.shown_by > self._shown_ns
        ]
        if not ended:
            return False
        self._shown_ns, latest = max(ended)
        trace = await self._page(f"/traces/{latest}", trace_tree.Trace)
        self._console.line()
        for line in trace_tree.lines(trace, self._console):
            self._console.line(line)
        if not self._has_shown:
            self._has_shown = True
            more = (
                "  One is shown every few seconds; all attributes, and the others:"
                f" {self._receiver.url}/traces/<x-tollhouse-trace of the answer>"
            )
            self._console.line(self._console.dim(more))
        return True

    async def _page(self, path: str, kind: type[_Type]) -> _Type:
        status, body = await http_request(self._receiver.http, path)
        if status != HTTPStatus.OK:
            raise ConnectionError(f"{path} answers {status}")
        return msgspec.json.decode(body, type=kind)
