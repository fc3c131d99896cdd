"""A collector of OpenTelemetry that keeps what it is sent, byte by byte."""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc

# The name of a resource and its value, a string, in protobuf's encoding.
_SERVICE = re.compile(rb"service\.name\x12.\n.tollhouse-([a-z]+)", re.DOTALL)
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

    def services(self, kind: str) -> set[str]:
        """Return which of our services sent that kind."""
        return {
            name.decode()
            for sent_kind, message in self.sent
            if sent_kind == kind
            for name in _SERVICE.findall(message)
        }


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
