"""A collector that keeps the spans it gets: OTLP/gRPC on loopback.

Entered by `with` or by `async with`, for it serves from threads of its own: set
OTEL_EXPORTER_OTLP_ENDPOINT to its `endpoint`, open a `Tracing`, tell, close it (which
delivers what is left), look at `spans`.
"""

import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import grpc
from opentelemetry.proto.collector.trace.v1 import (
    trace_service_pb2 as trace_pb,
)
from opentelemetry.proto.collector.trace.v1 import (
    trace_service_pb2_grpc as trace_grpc,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

Value = str | int | float | bool


@dataclass(frozen=True, slots=True)
class Received:
    """A span as it was sent; ids in lower-case hex, `parent` "" for a root.

    `links` are pairs of a trace's id and a span's. `has_failed`: its status is ERROR.
    """

    service: str
    name: str
    trace_id: str
    span_id: str
    parent: str
    kind: int
    started_ns: int
    ended_ns: int
    links: Sequence[tuple[str, str]]
    attributes: Mapping[str, Value]
    has_failed: bool


class TraceReceiver(trace_grpc.TraceServiceServicer):
    """Takes spans while it is entered; what came stays."""

    def __init__(self) -> None:
        self.endpoint = ""
        self._came = threading.Condition()
        self._spans: list[Received] = []
        self._server = grpc.server(ThreadPoolExecutor(1))
        trace_grpc.add_TraceServiceServicer_to_server(self, self._server)

    @property
    def spans(self) -> list[Received]:
        """All that came so far, in that order."""
        with self._came:
            return list(self._spans)

    def named(self, name: str) -> list[Received]:
        """Those of this name that came so far."""
        return [it for it in self.spans if it.name == name]

    def wait_for(self, name: str, count: int = 1, *, seconds: float = 30) -> None:
        """Block until so many of this name have come; raises TimeoutError."""
        with self._came:
            if not self._came.wait_for(
                lambda: sum(it.name == name for it in self._spans) >= count, seconds
            ):
                names = sorted({it.name for it in self._spans})
                raise TimeoutError(f"no {count} × {name} among {names}")

    def Export(  # noqa: N802 - as the protocol names it
        self,
        request: trace_pb.ExportTraceServiceRequest,
        context: grpc.ServicerContext,
    ) -> trace_pb.ExportTraceServiceResponse:
        """Keep what an exporter sends."""
        with self._came:
            for of_process in request.resource_spans:
                resource = _values(of_process.resource.attributes)
                for scope in of_process.scope_spans:
                    service = str(resource["service.name"])
                    self._spans += [_received(service, it) for it in scope.spans]
            self._came.notify_all()
        return trace_pb.ExportTraceServiceResponse()

    def __enter__(self) -> Self:
        port = self._server.add_insecure_port("127.0.0.1:0")
        self.endpoint = f"http://127.0.0.1:{port}"
        self._server.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.stop(None).wait()

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.__exit__(kind, error, trace)


trace_receiver = TraceReceiver


def _received(service: str, span: Span) -> Received:
    return Received(
        service=service,
        name=span.name,
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent=span.parent_span_id.hex(),
        kind=span.kind,
        started_ns=span.start_time_unix_nano,
        ended_ns=span.end_time_unix_nano,
        links=[(it.trace_id.hex(), it.span_id.hex()) for it in span.links],
        attributes=_values(span.attributes),
        has_failed=span.status.code == Status.STATUS_CODE_ERROR,
    )


def _values(pairs: Iterable[KeyValue]) -> dict[str, Value]:
    return {it.key: _value(it.value) for it in pairs}


def _value(value: AnyValue) -> Value:
    match value.WhichOneof("value"):
        case "bool_value":
            return value.bool_value
        case "int_value":
            return value.int_value
        case "double_value":
            return value.double_value
        case _:
            return value.string_value
