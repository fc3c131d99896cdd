"""What metrics have come to, in a process that is its own collector."""

from typing import cast

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    HistogramDataPoint,
    InMemoryMetricReader,
    Metric,
    NumberDataPoint,
)

from tollhouse.adapters.meter_provider import with_histograms


class Measured:
    """A provider for instruments, and what they were told."""

    def __init__(self):
        self._reader = InMemoryMetricReader()
        self.provider = MeterProvider([self._reader])

    def metrics(self) -> dict[str, Metric]:
        """All that have a value, by name."""
        told = self._reader.get_metrics_data()
        if told is None:
            return {}
        scopes = with_histograms(told).resource_metrics[0].scope_metrics
        return {it.name: it for scope in scopes for it in scope.metrics}

    def points(self):
        """By name: the attributes and the sum of each point."""
        return {
            name: [
                (
                    dict(point.attributes or {}),
                    point.value
                    if isinstance(point, NumberDataPoint)
                    else cast("HistogramDataPoint", point).sum,
                )
                for point in metric.data.data_points
            ]
            for name, metric in self.metrics().items()
        }
