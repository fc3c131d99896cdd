"""The gRPC server every service runs in: one event loop, health, drain.

Made for Envoy as the only client: a few connections that live for days, thousands of
short streams on each, over a Unix socket that only our group may open, or over TCP
with mTLS.
"""

import gc
import os
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import grpc.aio
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from pydantic import Field
from pydantic_settings import BaseSettings

from tollhouse.adapters.listening import (
    clear_socket,
    created_as,
    host_and_port,
    socket_path,
)
from tollhouse.adapters.process import Process, StartError
from tollhouse.adapters.tls import ServerTls

# Twice the largest body Envoy's buffer filter lets through (3 MiB) and some headers;
# with gRPC's own default of 4 MiB Envoy answers a large body with 500 (measured).
MAX_MESSAGE_BYTES = 8 * 1024 * 1024

_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # Two processes on one port would not share Envoy's one connection; a second one
    # must fail to start instead.
    ("grpc.so_reuseport", 0),
    # Envoy's keep-alive pings on an idle connection are no abuse: without these two
    # gRPC answers them with GOAWAY ENHANCE_YOUR_CALM.
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 1000),
)
# Certificates are looked at in the handshake only: a connection that outlives its
# client's is asked to come again. Streams have a minute to end by themselves.
_OPTIONS_OF_TLS = (
    ("grpc.max_connection_age_ms", 3_600_000),
    ("grpc.max_connection_age_grace_ms", 60_000),
    ("grpc.server_handshake_timeout_ms", 10_000),
)

_log = structlog.get_logger()


class HealthSettings(BaseSettings):
    """Settings of a process that a kubelet asks how it is."""

    health_listen: str | None = Field(
        None,
        description="where health alone is answered, in gRPC without TLS, for probes: "
        "host:port; without it only beside the service itself",
    )


async def serve(
    process: Process,
    add_servicers: Callable[[grpc.aio.Server], None],
    listen: str,
    *,
    service_names: Sequence[str] = (),
    grace_seconds: float = 10.0,
    background: Sequence[Callable[[], Coroutine[Any, Any, None]]] = (),
    socket_mode: int = 0o660,
    tls: ServerTls | None = None,
    health_listen: str | None = None,
    finish: Callable[[], Coroutine[Any, Any, None]] | None = None,
) -> None:
    """Serve until the process is asked to stop, then finish what runs.

    `listen` is `unix:/path`, or `host:port`, which takes `tls`. Health (grpc.health.v1)
    answers for the process ("") and for each of `service_names`; and in the clear at
    `health_listen`, host:port, for who can reach neither a socket nor mTLS.
    `background` tasks start once the server listens and are cancelled after the drain;
    one that ends earlier ends the process with status 1. `finish` is what is left to do
    when a process that was asked to stop serves nothing any more; it must bound itself.
    Raises StartError when an address can't be had.
    """
    if tls is None:
        server = grpc.aio.server(options=_OPTIONS)
    else:
        options = (*_OPTIONS, *_OPTIONS_OF_TLS)
        server = grpc.aio.server(options=options, interceptors=[tls.known_clients])
    add_servicers(server)
    checks = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    _bind(server, listen, socket_mode, tls)
    probed = _health_server(checks, health_listen)

    async def ready() -> None:
        # What start-up made stays for good: keep the collector from walking it again.
        gc.collect()
        gc.freeze()
        await server.start()
        if probed is not None:
            await probed.start()
        for name in ("", *service_names):
            await checks.set(name, health_pb2.HealthCheckResponse.SERVING)
        _log.info("server.started", listen=listen, pid=os.getpid())

    async def drain() -> None:
        await checks.enter_graceful_shutdown()
        # A task that died leaves work without its other half: do not wait for that.
        await server.stop(grace_seconds if process.stopping.is_set() else 0.5)
        if probed is not None:
            await probed.stop(0)
        _log.info("server.drained", listen=listen)
        if finish is not None and process.stopping.is_set():
            await finish()

    await process.hold(background, ready=ready, drain=drain)


def _health_server(
    checks: health.aio.HealthServicer, listen: str | None
) -> grpc.aio.Server | None:
    if listen is None:
        return None
    host_and_port(listen)
    server = grpc.aio.server(options=_OPTIONS)
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    try:
        server.add_insecure_port(listen)
    except RuntimeError as error:
        raise StartError(
            f"can't answer health on {listen}: the port is in use or the host is not"
            " ours"
        ) from error
    return server


def _bind(
    server: grpc.aio.Server, listen: str, socket_mode: int, tls: ServerTls | None
) -> None:
    path = socket_path(listen)
    if path is None:
        host_and_port(listen)
        if tls is None:
            raise StartError(f"can't listen on {listen}: TCP is served over mTLS only")
        try:
            server.add_secure_port(listen, tls.credentials())
        except RuntimeError as error:
            raise StartError(
                f"can't listen on {listen}: the port is in use or the host is not ours"
            ) from error
        return
    clear_socket(path)
    try:
        with created_as(socket_mode):
            server.add_insecure_port(f"unix:{path}")
    except RuntimeError as error:
        raise StartError(f"can't listen on {path}: is its folder writable?") from error
