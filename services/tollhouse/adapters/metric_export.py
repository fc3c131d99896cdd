"""Where metrics go: by OTLP to what the environment names, else nowhere."""

from opentelemetry.metrics import MeterProvider

from tollhouse.adapters import otlp

_CLOSE_MS = 2000
"""A collector that is away must not keep a process from ending."""


def open_export(service: str, instance: str) -> MeterProvider | None:
    """Export by OTLP if the environment names an endpoint, else None (`otlp`)."""
    if not otlp.is_exported("METRICS"):
        return None
    # Only who exports pays for these: 0.2 s of a start, a thread.
    from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import (  # noqa: PLC0415
        OTLPMetricExporter,
    )
    from opentelemetry.sdk.metrics import MeterProvider as Provider  # noqa: PLC0415
    from opentelemetry.sdk.metrics.export import (  # noqa: PLC0415
        PeriodicExportingMetricReader,
    )

    return Provider(
        [PeriodicExportingMetricReader(OTLPMetricExporter())],
        otlp.resource(service, instance),
        shutdown_on_exit=False,
    )


def close_export(provider: MeterProvider | None) -> None:
    """Export what is left; blocks for a moment."""
    shutdown = getattr(provider, "shutdown", None)
    if shutdown is not None:
        shutdown(timeout_millis=_CLOSE_MS)
