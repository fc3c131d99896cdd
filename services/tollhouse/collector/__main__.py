"""Run the collector: `python -m tollhouse.collector`, settings from the environment.

A receiver of OpenTelemetry for one machine and for tests: what comes is kept in memory
for a while and shown. It listens on loopback only, without TLS. A deployment has the
OpenTelemetry Collector in its place.
"""

import ipaddress

import grpc.aio
import structlog

from tollhouse.adapters import logs
from tollhouse.adapters.grpc_server import MAX_MESSAGE_BYTES
from tollhouse.adapters.http_server import HttpServer, listening
from tollhouse.adapters.listening import host_and_port
from tollhouse.adapters.process import Process, StartError, read_settings, run
from tollhouse.collector.app import Application
from tollhouse.collector.config import Settings
from tollhouse.collector.metrics import Metrics
from tollhouse.collector.servicer import MetricsServicer, TraceServicer
from tollhouse.collector.spans import Traces

_GRACE_SECONDS = 1.0
_KEEP_ALIVE_SECONDS = 60
_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.so_reuseport", 0),
)

_log = structlog.get_logger()


async def main(process: Process) -> None:
    """Wire the parts and serve."""
    settings = read_settings(Settings)
    logs.configure(process.name, settings.log_level)
    for listen in (settings.listen, settings.http_listen):
        _refuse_others(listen)
    traces, metrics = Traces(), Metrics()
    server = grpc.aio.server(options=_OPTIONS)
    TraceServicer(traces).add_to(server)
    MetricsServicer(metrics).add_to(server)
    try:
        server.add_insecure_port(settings.listen)
    except RuntimeError as error:
        raise StartError(f"can't listen on {settings.listen}: it is in use") from error
    with listening(settings.http_listen) as listener:
        pages = HttpServer(
            Application(traces, metrics),
            listener,
            drain_seconds=_GRACE_SECONDS,
            keep_alive_seconds=_KEEP_ALIVE_SECONDS,
        )

        async def ready() -> None:
            await server.start()
            _log.info(
                "server.started", listen=settings.listen, http=settings.http_listen
            )

        async def drain() -> None:
            await server.stop(_GRACE_SECONDS)
            await pages.drain()

        await process.hold([pages.run], ready=ready, drain=drain)


def _refuse_others(listen: str) -> None:
    """Listen for this machine only: nobody is asked who he is."""
    host, _ = host_and_port(listen)
    try:
        is_ours = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_ours = False
    if not is_ours:
        raise StartError(f"can't listen on {listen}: only addresses of loopback")


if __name__ == "__main__":
    run("collector", main)
