"""A collector that keeps the metrics it gets: OTLP/gRPC on loopback."""

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as otlp
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2_grpc as service
from opentelemetry.proto.metrics.v1.metrics_pb2 import ResourceMetrics


class MetricReceiver(service.MetricsServiceServicer):
    """Takes metrics while it is entered; `endpoint` is where."""

    def __init__(self) -> None:
        self.endpoint = ""
        self.sent: list[ResourceMetrics] = []

    def Export(  # noqa: N802  # gRPC's name
        self, request: otlp.ExportMetricsServiceRequest, context: grpc.ServicerContext
    ) -> otlp.ExportMetricsServiceResponse:
        """Keep what an exporter sends."""
        self.sent += request.resource_metrics
        return otlp.ExportMetricsServiceResponse()


@contextlib.contextmanager
def metric_receiver() -> Iterator[MetricReceiver]:
    """Run one until the block ends."""
    server = grpc.server(ThreadPoolExecutor(1))
    receiver = MetricReceiver()
    service.add_MetricsServiceServicer_to_server(receiver, server)
    port = server.add_insecure_port("127.0.0.1:0")
    receiver.endpoint = f"http://127.0.0.1:{port}"
    server.start()
    try:
        yield receiver
    finally:
        server.stop(None).wait()
