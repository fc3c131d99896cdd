"""Where metrics go: by OTLP to what the environment names, else nowhere."""

from opentelemetry.metrics import MeterProvider

from tollhouse.adapters import otlp

_CLOSE_MS = 1000
"""A collector that is away must not keep a process from ending."""


def open_export(service: str, instance: str) -> MeterProvider | None:
    """Export by OTLP if the environment names an endpoint, else None (`otlp`)."""
    if not otlp.is_exported("METRICS"):
        return None
    # Only who exports pays for it: 0.2 s of a start, a thread.
    from tollhouse.adapters import meter_provider  # noqa: PLC0415

    return meter_provider.periodic(service, instance)


def close_export(provider: MeterProvider | None) -> None:
    """Export what is left; blocks for a moment."""
    shutdown = getattr(provider, "shutdown", None)
    if shutdown is not None:
        shutdown(timeout_millis=_CLOSE_MS)
