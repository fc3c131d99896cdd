"""What both ways out have in common: where OTLP goes, as whom, and whether it arrives.

The SDK repeats itself for every batch that it can't deliver. Here an outage is one log
line when it begins and one when it is over, and data is lost, counted, never kept.
"""

import logging
import os
import threading

import structlog
from opentelemetry.sdk.resources import OTELResourceDetector, Resource

_log = structlog.get_logger()


def is_exported(signal: str) -> bool:
    """Whether the environment says where to; `signal`: TRACES or METRICS."""
    names = (
        f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT",
        "OTEL_EXPORTER_OTLP_ENDPOINT",
    )
    return any(os.environ.get(name) for name in names)


def resource(service: str, instance: str) -> Resource:
    """Describe this process; what the operator says (OTEL_…) goes first.

    `instance` tells the processes of a service apart; their sums would collide.
    """
    own = {"service.name": f"tollhouse-{service}", "service.instance.id": instance}
    return Resource.create(own).merge(OTELResourceDetector().detect())


class Reach:
    """Says once that the collector can't be reached, and once that it can again."""

    def __init__(self, signal: str) -> None:
        """`signal` is what is sent: traces or metrics."""
        self._signal = signal
        self._is_away = False
        self._lost = 0
        self._lock = threading.Lock()
        # It would say the same again for every batch, with its retries.
        logging.getLogger("opentelemetry.exporter.otlp").setLevel(logging.CRITICAL)

    @property
    def lost(self) -> int:
        """How many items were not delivered so far."""
        return self._lost

    def arrived(self) -> None:
        """Take in that a batch was delivered."""
        with self._lock:
            was_away, self._is_away = self._is_away, False
        if was_away:
            _log.info("telemetry.delivered", signal=self._signal, lost=self._lost)

    def failed(self, items: int) -> None:
        """Take in that so many items are lost."""
        with self._lock:
            was_away, self._is_away = self._is_away, True
            self._lost += items
        if not was_away:
            _log.warning("telemetry.lost", signal=self._signal, lost=self._lost)
