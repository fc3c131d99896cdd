"""The HTTP server: uvicorn on a socket of ours, without its own life-cycle."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Iterator
from pathlib import Path

import structlog
import uvicorn

from tollhouse.adapters.listening import (
    clear_socket,
    created_as,
    host_and_port,
    socket_path,
)
from tollhouse.adapters.process import Process, StartError
from tollhouse.frontend.app import Application

# Longer than Envoy's own idle timeout of a backend connection (1 h): Envoy must be the
# one that closes, or it sends requests into connections we have just closed.
_KEEP_ALIVE_SECONDS = 3700

_log = structlog.get_logger()


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: the process has its own."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(
    process: Process, application: Application, listen: str, *, drain_seconds: float
) -> None:
    """Serve until asked to stop, then finish the running requests.

    Raises StartError when the address can't be had.
    """
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
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=int(max(1, drain_seconds)),
    )
    server = _Server(config)
    ended = asyncio.Event()
    with listening(listen) as listener:

        async def run() -> None:
            try:
                await server.serve(sockets=[listener])
            finally:
                ended.set()

        async def ready() -> None:
            _log.info("server.started", listen=listen)

        async def drain() -> None:
            server.should_exit = True
            await ended.wait()
            _log.info("server.drained", listen=listen)

        await process.hold([run], ready=ready, drain=drain)


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
