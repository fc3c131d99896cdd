"""From what a part tells to what the collector gets, and what a bad collector costs."""

import threading

import pytest
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.trace import StatusCode

from tollhouse.adapters import span_export
from tollhouse.adapters.span_export import SpanExport
from tollhouse.adapters.tracing import (
    NOTABLE_PER_SECOND,
    Kind,
    Span,
    Tracing,
    new_span_id,
)
from tollhouse.core.trace_context import TraceContext

_PARENT = TraceContext("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", False)
_OTHER = TraceContext("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", True)


class Collector(SpanExporter):
    """Keeps what arrives; `open_` is cleared to keep it waiting."""

    def __init__(self, result=SpanExportResult.SUCCESS):
        self.result = result
        self.spans = []
        self.open_ = threading.Event()
        self.open_.set()

    def export(self, spans):
        self.open_.wait()
        if self.result is SpanExportResult.SUCCESS:
            self.spans += spans
        return self.result

    def shutdown(self):
        self.open_.set()


@pytest.fixture
def collector():
    """A collector that works."""
    return Collector()


def _tracing(collector):
    return Tracing(SpanExport(collector, "extproc", "node/extproc-0"))


def test_a_span_with_its_children(collector):
    """Times, kind, attributes, links and parents arrive as they were told."""
    export = _tracing(collector)
    chosen = new_span_id()
    child = Span("redis.reserve", 20, 30, Kind.CLIENT)

    told = export.tell(
        _PARENT,
        Span(
            "extproc.admit",
            10,
            40,
            Kind.SERVER,
            {"tollhouse.tenant": "acme", "tollhouse.limit": None},
            links=(_OTHER,),
            children=(child,),
            span_id=chosen,
        ),
    )
    export.close()

    inner, outer = collector.spans
    assert told == TraceContext(_PARENT.trace_id, chosen, is_sampled=True)
    assert (outer.name, outer.start_time, outer.end_time) == ("extproc.admit", 10, 40)
    assert outer.kind is Kind.SERVER
    assert dict(outer.attributes) == {"tollhouse.tenant": "acme"}
    assert format(outer.context.trace_id, "032x") == _PARENT.trace_id
    assert format(outer.context.span_id, "016x") == chosen
    assert format(outer.parent.span_id, "016x") == _PARENT.span_id
    assert [format(it.context.trace_id, "032x") for it in outer.links] == [
        _OTHER.trace_id
    ]
    assert outer.status.status_code is StatusCode.UNSET
    assert (inner.name, inner.parent.span_id) == (
        "redis.reserve",
        outer.context.span_id,
    )
    assert outer.resource.attributes["service.name"] == "tollhouse-extproc"
    assert outer.resource.attributes["service.instance.id"] == "node/extproc-0"


def test_an_error_is_one(collector):
    """An error has its type, and the status that backends look for."""
    export = _tracing(collector)

    export.tell(_PARENT, Span("authz.check", 10, 40, error="unavailable"))
    export.close()

    (span,) = collector.spans
    assert span.attributes["error.type"] == "unavailable"
    assert span.status.status_code is StatusCode.ERROR


def test_without_a_parent_a_trace_begins(collector):
    """It has no parent, and not the trace of what it is linked to."""
    export = _tracing(collector)

    told = export.tell(None, Span("usage.batch", 10, 40, links=(_OTHER,)))
    export.close()

    (span,) = collector.spans
    assert span.parent is None
    assert told.trace_id not in {_OTHER.trace_id, "0" * 32}


def test_what_is_kept(collector):
    """Chosen traces whole; of others what is notable, so many a second."""
    now = [7.5]
    export = Tracing(SpanExport(collector, "extproc", "1"), lambda: now[0])

    assert export.wants(_OTHER)
    assert not export.wants(_PARENT)
    assert not export.wants(None)
    notable = [
        export.wants(_PARENT, is_notable=True) for _ in range(NOTABLE_PER_SECOND + 10)
    ]
    assert notable == [True] * NOTABLE_PER_SECOND + [False] * 10
    assert export.wants(_OTHER, is_notable=True)
    now[0] = 8.0
    assert export.wants(_PARENT, is_notable=True)
    export.close()


def test_nothing_is_taken_where_nothing_is_exported(monkeypatch):
    """Without an endpoint no span is wanted, whatever it is."""
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    off = Tracing.open("extproc", "1")

    assert not off.is_on
    assert not off.wants(_OTHER, is_notable=True)
    assert off.tell(_OTHER, Span("extproc.admit", 10, 40)) is None
    assert off.lost == 0
    off.close()


def test_a_slow_collector_makes_nobody_wait(collector, monkeypatch):
    """What does not fit is lost and counted; a process ends all the same."""
    monkeypatch.setattr(span_export, "_CLOSE_SECONDS", 0.05)
    collector.open_.clear()
    export = _tracing(collector)

    for _ in range(span_export.MOST_WAITING + 100):
        export.tell(_PARENT, Span("extproc.admit", 10, 40))
    lost = export.lost
    export.close()
    collector.open_.set()

    assert lost == 100


def test_a_refusing_collector_is_counted():
    """What is refused is lost, and there is room again."""
    refusing = Collector(SpanExportResult.FAILURE)
    export = _tracing(refusing)

    for _ in range(10):
        export.tell(_PARENT, Span("extproc.admit", 10, 40))
    export.close()

    assert export.lost == 10
