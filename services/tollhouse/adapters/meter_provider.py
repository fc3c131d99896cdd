"""The way of metrics to the collector: OTLP/gRPC, in the background."""

from dataclasses import replace

from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricExportResult,
    MetricsData,
    NumberDataPoint,
    PeriodicExportingMetricReader,
)

from tollhouse.adapters import otlp
from tollhouse.adapters.histogram_tally import Spread


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


def with_histograms(told: MetricsData) -> MetricsData:
    """Put histograms where the SDK has the count of a `HistogramTally`'s values."""
    return MetricsData(
        [
            replace(
                resource,
                scope_metrics=[
                    replace(scope, metrics=[_shaped(it) for it in scope.metrics])
                    for scope in resource.scope_metrics
                ],
            )
            for resource in told.resource_metrics
        ]
    )


def _shaped(metric: Metric) -> Metric:
    points = [
        _point(it, it.value)
        for it in metric.data.data_points
        if isinstance(it, NumberDataPoint) and isinstance(it.value, Spread)
    ]
    if not points:
        return metric
    return replace(metric, data=Histogram(points, AggregationTemporality.CUMULATIVE))


def _point(counted: NumberDataPoint, spread: Spread) -> HistogramDataPoint:
    return HistogramDataPoint(
        attributes=counted.attributes,
        start_time_unix_nano=spread.since_ns,
        time_unix_nano=counted.time_unix_nano,
        count=int(spread),
        sum=spread.sum,
        bucket_counts=spread.counts,
        explicit_bounds=spread.bounds,
        min=spread.least,
        max=spread.most,
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
        histograms = with_histograms(metrics_data)
        result = super().export(histograms, timeout_millis, **kwargs)
        if result is MetricExportResult.SUCCESS:
            self._reach.arrived()
        else:
            self._reach.failed(1)
        return result
