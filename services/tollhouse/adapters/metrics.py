"""Metrics: the one place that names what Tollhouse measures, through OpenTelemetry.

| instrument | says |
|---|---|
| `tollhouse.estimate.ratio` | estimated ÷ real tokens; `what`: input, output |
| `tollhouse.reservation.over` | units that were reserved and not used |
| `tollhouse.reservation.overshoot` | units that were used and not reserved |
| `tollhouse.admissions` | judged requests by `rung`: shared, local, denied |
| `tollhouse.refusals` | refused requests by binding `limit` and `scope` |
| `tollhouse.refusals.shadow` | limits in shadow that would have refused |
| `tollhouse.lessons.dropped` | exchanges the estimator could not learn from |

Attributes are `model` and `plan` beside those; never a key or a tenant: their number
has no bound. Where nothing exports, a record costs a fraction of a microsecond.
"""

import os
from enum import StrEnum

from opentelemetry.metrics import MeterProvider, NoOpMeterProvider

from tollhouse.core.exchange import Settlement
from tollhouse.core.limits import Limit
from tollhouse.core.usage import CountSource, UsageKind

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_CLOSE_MS = 2000
"""A collector that is away must not keep a process from ending."""

_RATIOS = (0.1, 0.25, 0.5, 0.75, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0)
_UNITS = (10, 30, 100, 300, 1000, 3000, 10_000, 30_000, 100_000, 300_000, 1_000_000)


class Rung(StrEnum):
    """Of the ladder: who judged a request."""

    SHARED = "shared"
    """Redis."""
    LOCAL = "local"
    """The worker alone, Redis being away."""
    DENIED = "denied"
    """Nobody: the plan wants no judgement without Redis."""


class Metrics:
    """Every instrument of one process.

    Without a provider nothing is measured.
    """

    def __init__(self, provider: MeterProvider | None = None) -> None:
        self._provider = provider
        meter = (provider or NoOpMeterProvider()).get_meter("tollhouse")
        self._ratio = meter.create_histogram(
            "tollhouse.estimate.ratio",
            unit="1",
            description="Estimated ÷ real tokens",
            explicit_bucket_boundaries_advisory=_RATIOS,
        )
        self._over = meter.create_histogram(
            "tollhouse.reservation.over",
            unit="{unit}",
            description="Units reserved and not used",
            explicit_bucket_boundaries_advisory=_UNITS,
        )
        self._overshoot = meter.create_histogram(
            "tollhouse.reservation.overshoot",
            unit="{unit}",
            description="Units used and not reserved",
            explicit_bucket_boundaries_advisory=_UNITS,
        )
        self._admissions = meter.create_counter(
            "tollhouse.admissions",
            unit="{request}",
            description="Requests judged, by rung",
        )
        self._refusals = meter.create_counter(
            "tollhouse.refusals",
            unit="{request}",
            description="Requests refused, by binding limit",
        )
        self._shadow_refusals = meter.create_counter(
            "tollhouse.refusals.shadow",
            unit="{refusal}",
            description="Refusals a limit in shadow would have made",
        )
        self._dropped = meter.create_counter(
            "tollhouse.lessons.dropped",
            unit="{lesson}",
            description="Exchanges the estimator could not learn from",
        )

    @classmethod
    def open(cls, service: str, instance: str) -> "Metrics":
        """Export by OTLP if the environment names an endpoint, else measure nothing.

        `instance` tells the processes of a service apart; their sums would collide.
        """
        if not any(os.environ.get(name) for name in _ENDPOINTS):
            return cls()
        # Only who exports pays for these: 0.2 s of a start, a thread.
        from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import (  # noqa: PLC0415
            OTLPMetricExporter,
        )
        from opentelemetry.sdk.metrics import MeterProvider as Provider  # noqa: PLC0415
        from opentelemetry.sdk.metrics.export import (  # noqa: PLC0415
            PeriodicExportingMetricReader,
        )
        from opentelemetry.sdk.resources import (  # noqa: PLC0415
            OTELResourceDetector,
            Resource,
        )

        own = {"service.name": f"tollhouse-{service}", "service.instance.id": instance}
        return cls(
            Provider(
                [PeriodicExportingMetricReader(OTLPMetricExporter())],
                # What the operator says goes first.
                Resource.create(own).merge(OTELResourceDetector().detect()),
                shutdown_on_exit=False,
            )
        )

    def close(self) -> None:
        """Export what is left; blocks for a moment."""
        shutdown = getattr(self._provider, "shutdown", None)
        if shutdown is not None:
            shutdown(timeout_millis=_CLOSE_MS)

    def settled(self, settlement: Settlement) -> None:
        """Compare a served exchange with what was expected of it."""
        if self._provider is None:
            return
        facts, usage = settlement.facts, settlement.usage
        model = facts.served_model
        if usage.input_tokens and settlement.input_source is CountSource.BACKEND:
            self._ratio.record(
                facts.input_estimate / usage.input_tokens,
                {"model": model, "what": "input"},
            )
        # How long an answer would have become that its client left, nobody knows.
        if usage.output_tokens and settlement.kind is UsageKind.FINAL:
            self._ratio.record(
                facts.output_estimate / usage.output_tokens,
                {"model": model, "what": "output"},
            )
        over = facts.reserved_units - usage.units(facts.weights)
        if over > 0:
            self._over.record(over, {"model": model, "plan": facts.plan})
        elif over < 0:
            self._overshoot.record(-over, {"model": model, "plan": facts.plan})

    def judged(self, rung: Rung, model: str, plan: str) -> None:
        """Count a request by who judged it."""
        self._admissions.add(1, {"rung": rung.value, "model": model, "plan": plan})

    def refused(self, limit: Limit, model: str, plan: str) -> None:
        """Count a request that a limit refused."""
        self._refusals.add(1, _attributes(limit, model, plan))

    def shadowed(self, limit: Limit, model: str, plan: str) -> None:
        """Count a request that a limit in shadow would have refused."""
        self._shadow_refusals.add(1, _attributes(limit, model, plan))

    def lessons_dropped(self, lessons: int) -> None:
        """Count what the estimator missed."""
        self._dropped.add(lessons)


def _attributes(limit: Limit, model: str, plan: str) -> dict[str, str]:
    return {
        "limit": limit.measure.name.lower(),
        "scope": limit.scope.name.lower(),
        "model": model,
        "plan": plan,
    }
