"""A collector of OpenTelemetry that keeps what it is sent, byte by byte."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc

SERVICES = {
    "metrics": "opentelemetry.proto.collector.metrics.v1.MetricsService",
    "spans": "opentelemetry.proto.collector.trace.v1.TraceService",
    "logs": "opentelemetry.proto.collector.logs.v1.LogsService",
}


@dataclass
class Collector:
    """What was exported: its kind, and the message as it came."""

    url: str = ""
    sent: list[tuple[str, bytes]] = field(default_factory=list)

    def kinds(self) -> set[str]:
        """Return the kinds that came."""
        return {kind for kind, _ in self.sent}


@contextmanager
def running_collector() -> Iterator[Collector]:
    """Listen on a port of its own until the block ends."""
    collector = Collector()
    server = grpc.server(ThreadPoolExecutor(2))

    def keeping(kind: str) -> Any:
        def export(message: bytes, _: grpc.ServicerContext) -> bytes:
            collector.sent.append((kind, message))
            return b""  # an empty Export…ServiceResponse: all was taken

        return grpc.unary_unary_rpc_method_handler(export)

    server.add_generic_rpc_handlers(
        tuple(
            grpc.method_handlers_generic_handler(name, {"Export": keeping(kind)})
            for kind, name in SERVICES.items()
        )
    )
    port = server.add_insecure_port("127.0.0.1:0")
    collector.url = f"http://127.0.0.1:{port}"
    server.start()
    yield collector
    server.stop(None).wait()
