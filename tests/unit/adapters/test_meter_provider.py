"""A collector in trouble is told of once, however often metrics are exported."""

from concurrent.futures import ThreadPoolExecutor

import grpc
import structlog.testing
from opentelemetry.proto.collector.metrics.v1 import (
    metrics_service_pb2 as metrics_pb,
)
from opentelemetry.proto.collector.metrics.v1 import (
    metrics_service_pb2_grpc as metrics_grpc,
)

from tollhouse.adapters import meter_provider


class Collector(metrics_grpc.MetricsServiceServicer):
    """Refuses, or takes all."""

    refuses = True

    def Export(self, request, context):  # noqa: N802 - gRPC's name
        if self.refuses:
            context.abort(grpc.StatusCode.PERMISSION_DENIED, "")
        return metrics_pb.ExportMetricsServiceResponse()


def test_an_outage_is_one_line_and_its_end_another(monkeypatch):
    collector = Collector()
    server = grpc.server(ThreadPoolExecutor(1))
    metrics_grpc.add_MetricsServiceServicer_to_server(collector, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    monkeypatch.setenv(
        "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", f"http://127.0.0.1:{port}"
    )
    with structlog.testing.capture_logs() as logs:
        provider = meter_provider.periodic("extproc", "1")
        provider.get_meter("test").create_counter("tollhouse.test").add(1)
        provider.force_flush()
        provider.force_flush()
        collector.refuses = False
        provider.force_flush()
        provider.shutdown()
    server.stop(None)

    assert [
        ("telemetry.lost", "metrics", 1),
        ("telemetry.delivered", "metrics", 2),
    ] == [(it["event"], it["signal"], it["lost"]) for it in logs]
