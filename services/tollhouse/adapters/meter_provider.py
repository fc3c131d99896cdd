"""The way of metrics to the collector: OTLP/gRPC, in the background."""

from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    MetricExportResult,
    MetricsData,
    PeriodicExportingMetricReader,
)

from tollhouse.adapters import otlp


def periodic(service: str, instance: str) -> MeterProvider:
    """Export every OTEL_METRIC_EXPORT_INTERVAL ms (60,000) what was measured so far.

    Sums are of the process's whole life, so an export that is lost loses nothing but
    its moment.
    """
    return MeterProvider(
        [PeriodicExportingMetricReader(_Observed())],
        otlp.resource(service, instance),
        shutdown_on_exit=False,
    )


class _Observed(OTLPMetricExporter):
    """An exporter that is watched."""

    def __init__(self) -> None:
        super().__init__()
        self._reach = otlp.Reach("metrics")

    def export(
        self,
        metrics_data: MetricsData,
        timeout_millis: float = 10_000,
        **kwargs: object,
    ) -> MetricExportResult:
        result = super().export(metrics_data, timeout_millis, **kwargs)
        if result is MetricExportResult.SUCCESS:
            self._reach.arrived()
        else:
            self._reach.failed(1)
        return result
