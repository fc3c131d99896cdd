"""The way of spans to the collector: OTLP/gRPC, in the background.

A collector that is away, slow or refusing costs the data path nothing: at most
`MOST_WAITING` spans wait for it, what is more is lost and counted.
"""

import threading
from collections.abc import Callable, Sequence

from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import (
    BatchSpanProcessor,
    SpanExporter,
    SpanExportResult,
)
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)
from opentelemetry.trace import Span as Above

from tollhouse.adapters import otlp
from tollhouse.adapters.conventions import ERROR_TYPE
from tollhouse.adapters.tracing import Span
from tollhouse.core.trace_context import TraceContext

MOST_WAITING = 2048
_BATCH = 256
_CLOSE_SECONDS = 1.0
"""A collector that is away must not keep a process from ending."""


class SpanExport:
    """Makes the SDK's spans of ours, and has them exported."""

    def __init__(self, exporter: SpanExporter, service: str, instance: str) -> None:
        self._reach = otlp.Reach("traces")
        self._ids = _ChosenIds()
        self._provider = TracerProvider(
            ALWAYS_ON,
            otlp.resource(service, instance),
            shutdown_on_exit=False,
            id_generator=self._ids,
        )
        self._provider.add_span_processor(_Bounded(exporter, self._reach))
        self._tracer = self._provider.get_tracer("tollhouse")

    @classmethod
    def open(cls, service: str, instance: str) -> "SpanExport":
        """Export to what the environment names."""
        return cls(OTLPSpanExporter(), service, instance)

    @property
    def lost(self) -> int:
        """How many spans were not delivered so far."""
        return self._reach.lost

    def export(self, parent: TraceContext | None, span: Span) -> TraceContext:
        """Take a span with its children; never waits."""
        above = _NOWHERE if parent is None else NonRecordingSpan(_context(parent))
        told = self._make(above, span).get_span_context()
        return TraceContext(
            format(told.trace_id, "032x"), format(told.span_id, "016x"), is_sampled=True
        )

    def _make(self, above: Above, span: Span) -> Above:
        self._ids.chosen = span.span_id
        made = self._tracer.start_span(
            span.name,
            set_span_in_context(above),
            span.kind,
            {name: it for name, it in span.attributes.items() if it is not None},
            [Link(_context(link)) for link in span.links],
            span.started_ns,
        )
        if span.error:
            made.set_attribute(ERROR_TYPE, span.error)
            made.set_status(Status(StatusCode.ERROR))
        for child in span.children:
            self._make(made, child)
        made.end(span.ended_ns)
        return made

    def close(self) -> None:
        """Export what is left; blocks for a moment."""
        # In a thread: its own patience has no bound that could be set.
        closing = threading.Thread(target=self._provider.shutdown, daemon=True)
        closing.start()
        closing.join(_CLOSE_SECONDS)


class _ChosenIds(RandomIdGenerator):
    """Random ids, but for a span whose id was told before."""

    def __init__(self) -> None:
        self.chosen = ""

    def generate_span_id(self) -> int:
        chosen, self.chosen = self.chosen, ""
        return int(chosen, 16) if chosen else super().generate_span_id()


class _Bounded(SpanProcessor):
    """Lets no more spans wait than there is room for, and counts what is lost."""

    def __init__(self, exporter: SpanExporter, reach: otlp.Reach) -> None:
        self._reach = reach
        self._lock = threading.Lock()
        self._waiting = 0
        self._batches = BatchSpanProcessor(
            _Observed(exporter, reach, self._left),
            max_queue_size=MOST_WAITING,
            max_export_batch_size=_BATCH,
        )

    def on_end(self, span: ReadableSpan) -> None:
        with self._lock:
            has_room = self._waiting < MOST_WAITING
            self._waiting += has_room
        if has_room:
            self._batches.on_end(span)
        else:
            self._reach.failed(1)

    def shutdown(self) -> None:
        self._batches.shutdown()  # type: ignore[no-untyped-call]

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._batches.force_flush(timeout_millis)

    def _left(self, spans: int) -> None:
        with self._lock:
            self._waiting -= spans


class _Observed(SpanExporter):
    """An exporter that is watched."""

    def __init__(
        self,
        exporter: SpanExporter,
        reach: otlp.Reach,
        left: Callable[[int], None],
    ) -> None:
        self._exporter = exporter
        self._reach = reach
        self._left = left

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = SpanExportResult.FAILURE
        try:
            result = self._exporter.export(spans)
        finally:
            self._left(len(spans))
            if result is SpanExportResult.SUCCESS:
                self._reach.arrived()
            else:
                self._reach.failed(len(spans))
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporter.force_flush(timeout_millis)


def _context(context: TraceContext) -> SpanContext:
    return SpanContext(
        int(context.trace_id, 16),
        int(context.span_id, 16),
        is_remote=True,
        trace_flags=TraceFlags(TraceFlags.SAMPLED),
    )


_NOWHERE = NonRecordingSpan(SpanContext(0, 0, is_remote=False))
"""Without it the SDK would look for a current span."""
