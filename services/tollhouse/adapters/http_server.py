"""The HTTP server: uvicorn on a socket of ours, without its own life-cycle.

It is all a process does (`serve`), or something beside its main work (`HttpServer.run`
as a background task).
"""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Iterator
from pathlib import Path

import structlog
import uvicorn

from tollhouse.adapters.asgi import Application
from tollhouse.adapters.listening import (
    clear_socket,
    created_as,
    host_and_port,
    socket_path,
)
from tollhouse.adapters.process import Process, StartError

# Longer than Envoy's own idle timeout of a backend connection (1 h): Envoy must be the
# one that closes, or it sends requests into connections we have just closed.
ENVOY_KEEP_ALIVE_SECONDS = 3700

_log = structlog.get_logger()


class _Uvicorn(uvicorn.Server):
    """uvicorn without its signal handlers: the process has its own."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class HttpServer:
    """An application on a socket that is bound already."""

    def __init__(
        self,
        application: Application,
        listener: socket.socket,
        *,
        drain_seconds: float,
        keep_alive_seconds: int,
        most_at_once: int | None = None,
    ) -> None:
        """`most_at_once` requests and idle connections; more get a 503."""
        # It reports a stream that we end without its end, which we do on purpose.
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        config = uvicorn.Config(
            application,
            http="httptools",
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            proxy_headers=False,
            limit_concurrency=most_at_once,
            timeout_keep_alive=keep_alive_seconds,
            timeout_graceful_shutdown=int(max(1, drain_seconds)),
        )
        self._server = _Uvicorn(config)
        self._listener = listener
        self._ended = asyncio.Event()

    async def run(self) -> None:
        """Serve until drained or cancelled; running requests are finished first."""
        serving = asyncio.create_task(self._server.serve(sockets=[self._listener]))
        try:
            await asyncio.shield(serving)
        except asyncio.CancelledError:
            self._server.should_exit = True
            await serving
            raise
        finally:
            self._ended.set()

    async def drain(self) -> None:
        """Let `run` finish the running requests and end."""
        self._server.should_exit = True
        await self._ended.wait()


async def serve(
    process: Process, application: Application, listen: str, *, drain_seconds: float
) -> None:
    """Serve Envoy until asked to stop, then finish the running requests.

    Raises StartError when the address can't be had.
    """
    with listening(listen) as listener:
        server = HttpServer(
            application,
            listener,
            drain_seconds=drain_seconds,
            keep_alive_seconds=ENVOY_KEEP_ALIVE_SECONDS,
        )

        async def ready() -> None:
            _log.info("server.started", listen=listen)

        async def drain() -> None:
            await server.drain()
            _log.info("server.drained", listen=listen)

        await process.hold([server.run], ready=ready, drain=drain)


@contextlib.contextmanager
def listening(listen: str) -> Iterator[socket.socket]:
    """Bind `unix:/path` or `host:port`; the file of a socket goes at the end."""
    path = socket_path(listen)
    with _bound(listen) if path is None else _bound_path(path) as listener:
        yield listener
    if path is not None:
        path.unlink(missing_ok=True)


def _bound_path(path: Path) -> socket.socket:
    clear_socket(path)
    listener = socket.socket(socket.AF_UNIX)
    try:
        with created_as(0o660):
            listener.bind(str(path))
    except OSError as error:
        listener.close()
        reason = error.strerror or error
        raise StartError(f"can't listen on {path}: {reason}") from error
    return listener


def _bound(listen: str) -> socket.socket:
    try:
        return socket.create_server(host_and_port(listen))
    except OSError as error:
        raise StartError(f"can't listen on {listen}: {error.strerror}") from error
