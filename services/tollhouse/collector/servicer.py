"""OTLP/gRPC: takes what is exported, and answers that all of it was taken."""

from typing import Any

import grpc.aio
from opentelemetry.proto.collector.metrics.v1 import (
    metrics_service_pb2 as metrics_pb,
)
from opentelemetry.proto.collector.metrics.v1 import (
    metrics_service_pb2_grpc as metrics_grpc,
)
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as trace_pb
from opentelemetry.proto.collector.trace.v1 import (
    trace_service_pb2_grpc as trace_grpc,
)

from tollhouse.collector.convert import from_pb_metrics, from_pb_spans
from tollhouse.collector.metrics import Metrics
from tollhouse.collector.spans import Traces


class TraceServicer(trace_grpc.TraceServiceServicer):
    """Takes spans."""

    def __init__(self, traces: Traces) -> None:
        self._traces = traces

    async def Export(  # noqa: N802 - as the protocol names it
        self, request: trace_pb.ExportTraceServiceRequest, _context: Any
    ) -> trace_pb.ExportTraceServiceResponse:
        """Keep them."""
        self._traces.take(from_pb_spans(request))
        return trace_pb.ExportTraceServiceResponse()

    def add_to(self, server: grpc.aio.Server) -> None:
        """Register with a server."""
        trace_grpc.add_TraceServiceServicer_to_server(self, server)  # type: ignore[no-untyped-call]


class MetricsServicer(metrics_grpc.MetricsServiceServicer):
    """Takes metrics."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    async def Export(  # noqa: N802 - as the protocol names it
        self, request: metrics_pb.ExportMetricsServiceRequest, _context: Any
    ) -> metrics_pb.ExportMetricsServiceResponse:
        """Keep what they stand at."""
        for origin, metrics in from_pb_metrics(request):
            self._metrics.take(origin, metrics)
        return metrics_pb.ExportMetricsServiceResponse()

    def add_to(self, server: grpc.aio.Server) -> None:
        """Register with a server."""
        metrics_grpc.add_MetricsServiceServicer_to_server(self, server)  # type: ignore[no-untyped-call]
