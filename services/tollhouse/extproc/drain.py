"""`GET /drain`: drain this process's Envoy before it is stopped.

Kubernetes calls it as the preStop hook of the Envoy container, whose image has nothing
to run, and sends SIGTERM when it is answered.

A port is open to whoever reaches the pod, and a drained Envoy takes no more requests.
So a call counts only while a file is there, which the preStop hook of extproc's own
container makes: the kubelet runs the hooks of all containers at once when a pod is
deleted, and nobody else can.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import structlog

from tollhouse.adapters.address import Address
from tollhouse.adapters.asgi import Receive, Scope, Send, respond
from tollhouse.adapters.envoy_drain import DrainError, drain_envoy
from tollhouse.adapters.process import StartError
from tollhouse.extproc.config import DrainSettings

PATH = "/drain"
PERMIT_SECONDS = 5.0
"""How long the other hook may take; the call waits for it."""
_LOOK_SECONDS = 0.1
_QUIET_SECONDS = 1.0
_MOST_AT_ONCE = 64

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Drained:
    """How a drain ended."""

    requests: int
    """Those that still ran; 0: all ended."""
    is_settled: bool
    """Whether all that ended is settled."""

    @property
    def is_complete(self) -> bool:
        """Whether Envoy can be stopped without a loss to anybody."""
        return not self.requests and self.is_settled


class DrainEndpoint:
    """The ASGI application; one drain at a time, which further callers join."""

    def __init__(
        self,
        drain: Callable[[], Awaitable[int]],
        settle: Callable[[], Awaitable[bool]],
        permit: Path | None,
        *,
        permit_seconds: float = PERMIT_SECONDS,
    ) -> None:
        """`drain` returns how many requests are left; it may raise DrainError.

        `settle` returns when what has ended is settled, False if it is not in time.
        `permit` is the file without which nothing happens; None: everybody may call.
        """
        self._drain = drain
        self._settle = settle
        self._permit = permit
        self._permit_seconds = permit_seconds
        self._running: asyncio.Task[Drained | None] | None = None

    async def __call__(self, scope: Scope, _: Receive, send: Send) -> None:
        """Answer one HTTP request (ASGI 3)."""
        if scope["path"] != PATH:
            await respond(send, 404, b"")
        elif scope["method"] != "GET":  # all that a kubelet can send
            await respond(send, 405, b"", {"allow": "GET"})
        elif not await self._is_permitted():
            _log.error("drain.refused", permit=str(self._permit))
            await respond(send, 403, b"")
        else:
            # A caller that hangs up ends neither the drain nor the others' wait.
            await self._answer(send, await asyncio.shield(self._join()))

    async def _answer(self, send: Send, drained: Drained | None) -> None:
        if drained is None:
            await respond(send, 502, b"")
            return
        status = 200 if drained.is_complete else 503
        await respond(send, status, msgspec.json.encode(drained))

    def _join(self) -> "asyncio.Task[Drained | None]":
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._run(), name="drain")
        return self._running

    async def _run(self) -> Drained | None:
        _log.info("drain.began")
        try:
            requests = await self._drain()
        except DrainError as error:
            _log.error("drain.failed", reason=str(error))
            return None
        drained = Drained(requests, await self._settle())
        log = _log.info if drained.is_complete else _log.error
        log("drain.ended", requests=drained.requests, is_settled=drained.is_settled)
        return drained

    async def _is_permitted(self) -> bool:
        if self._permit is None:
            return True
        deadline = asyncio.get_running_loop().time() + self._permit_seconds
        while not self._permit.exists():
            if asyncio.get_running_loop().time() >= deadline:
                return False
            await asyncio.sleep(_LOOK_SECONDS)
        return True


@contextlib.contextmanager
def draining(
    settings: DrainSettings,
    admin: Address | None,
    settle: Callable[[], Awaitable[bool]],
) -> Iterator[list[Callable[[], Coroutine[Any, Any, None]]]]:
    """Listen as the settings say; gives what is to run in the background.

    Raises StartError when they don't fit together, or the address can't be had.
    """
    listen, permit = settings.drain_listen, settings.drain_permit
    if listen is None:
        yield []
        return
    # Here: who does not drain needs no HTTP server.
    from tollhouse.adapters.http_server import HttpServer, listening  # noqa: PLC0415

    if admin is None:
        raise StartError("TOLLHOUSE_DRAIN_LISTEN: set TOLLHOUSE_ENVOY_ADMIN, too")
    if permit is None and not listen.startswith("unix:"):
        raise StartError(
            "TOLLHOUSE_DRAIN_LISTEN: anybody could drain Envoy through a port: set "
            "TOLLHOUSE_DRAIN_PERMIT, or listen on unix:/path"
        )

    async def drain() -> int:
        return await drain_envoy(
            admin,
            notice_seconds=settings.drain_notice_seconds,
            quiet_seconds=_QUIET_SECONDS,
            most_seconds=settings.drain_seconds,
        )

    if permit is not None:
        permit.unlink(missing_ok=True)  # of a container that was restarted by itself
    with listening(listen) as listener:
        server = HttpServer(
            DrainEndpoint(drain, settle, permit),
            listener,
            drain_seconds=1,
            keep_alive_seconds=5,
            most_at_once=_MOST_AT_ONCE,
        )
        yield [server.run]
