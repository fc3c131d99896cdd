"""From OTLP to what is kept."""

import json

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.metrics.v1 import metrics_pb2

from tollhouse.collector.convert import (
    NotOtlp,
    from_pb_metrics,
    from_pb_spans,
    trace_request,
)
from tollhouse.collector.metrics import Distribution, Kind, Origin, Point
from tollhouse.collector.spans import Event, Link

TRACE, SPAN, PARENT = "0123456789abcdef" * 2, "00000000000000aa", "00000000000000bb"
CUMULATIVE = metrics_pb2.AGGREGATION_TEMPORALITY_CUMULATIVE


def as_triton_sends(**span: object) -> bytes:
    """OTLP/HTTP in JSON: ids in hex, 64-bit numbers as strings."""
    resource = {
        "attributes": [{"key": "service.name", "value": {"stringValue": "triton"}}]
    }
    spans = [{"traceId": TRACE, "spanId": SPAN, "name": "compute", **span}]
    scopes = [{"scope": {"name": "triton-server"}, "spans": spans}]
    return json.dumps(
        {"resourceSpans": [{"resource": resource, "scopeSpans": scopes}]}
    ).encode()


def test_json_is_read_as_tritons_exporter_writes_it():
    body = as_triton_sends(
        parentSpanId=PARENT,
        kind=2,
        startTimeUnixNano="1795881077517612730",
        endTimeUnixNano="1795881077579552472",
        attributes=[
            {"key": "triton.model_version", "value": {"intValue": "1"}},
            {"key": "triton.request_id", "value": {"stringValue": "a client's"}},
            {
                "key": "names",
                "value": {"arrayValue": {"values": [{"boolValue": True}]}},
            },
        ],
        events=[{"timeUnixNano": "5", "name": "COMPUTE_START"}],
        links=[{"traceId": TRACE, "spanId": PARENT}],
        status={"code": 2, "message": "failed"},
        unheardOf=1,
    )
    (span,) = from_pb_spans(trace_request(body))

    assert (span.service, span.name, span.kind) == ("triton", "compute", "server")
    assert (span.trace_id, span.span_id, span.parent) == (TRACE, SPAN, PARENT)
    assert (span.started_ns, span.ended_ns) == (
        1795881077517612730,
        1795881077579552472,
    )
    assert span.attributes == {"triton.model_version": 1, "names": [True]}
    assert span.events == [Event("COMPUTE_START", 5, {})]
    assert span.links == [Link(TRACE, PARENT, {})]
    assert (span.has_failed, span.message) == (True, "failed")


def test_a_kind_nobody_knows_is_none():
    (span,) = from_pb_spans(trace_request(as_triton_sends(kind=77)))

    assert span.kind == "unspecified"


def test_a_span_keeps_a_bounded_number_of_events():
    """Triton tells of each token."""
    events = [{"timeUnixNano": "5", "name": "GRPC_SEND_START"}] * 500
    (span,) = from_pb_spans(trace_request(as_triton_sends(events=events)))

    assert len(span.events) == 64


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'{"resourceSpans": 1}',
        as_triton_sends(traceId="no hex"),
        as_triton_sends(startTimeUnixNano="x"),
        b'{"a":' + b"[" * 100_000,
    ],
)
def test_what_is_not_otlp_is_refused(body):
    with pytest.raises(NotOtlp):
        trace_request(body)


def test_metrics_become_what_prometheus_knows():
    request = ExportMetricsServiceRequest()
    of_process = request.resource_metrics.add()
    for key, value in (
        ("service.name", "tollhouse-extproc"),
        ("service.namespace", "prod"),
        ("service.instance.id", "n/0"),
    ):
        of_process.resource.attributes.add(key=key).value.string_value = value
    metrics = of_process.scope_metrics.add().metrics
    counter = metrics.add(name="c", unit="{x}", description="d").sum
    counter.aggregation_temporality = CUMULATIVE
    counter.is_monotonic = True
    point = counter.data_points.add(as_int=3)
    point.attributes.add(key="model").value.string_value = "m"
    point.attributes.add(key="stream").value.bool_value = True
    point.attributes.add(key="n").value.int_value = 2
    up_and_down = metrics.add(name="u").sum
    up_and_down.aggregation_temporality = CUMULATIVE
    up_and_down.data_points.add(as_int=-1)
    metrics.add(name="g").gauge.data_points.add(as_double=0.5)
    histogram = metrics.add(name="h").histogram
    histogram.aggregation_temporality = CUMULATIVE
    histogram.data_points.add(
        explicit_bounds=[1, 2], bucket_counts=[1, 0, 4], sum=9.5, count=5
    )

    ((origin, found),) = from_pb_metrics(request)

    assert origin == Origin("prod/tollhouse-extproc", "n/0")
    assert [(it.name, it.kind) for it in found] == [
        ("c", Kind.COUNTER),
        ("u", Kind.GAUGE),
        ("g", Kind.GAUGE),
        ("h", Kind.HISTOGRAM),
    ]
    assert found[0].points == [Point({"model": "m", "stream": "true", "n": "2"}, 3.0)]
    assert found[3].points == [Point({}, Distribution([1.0, 2.0], [1, 0, 4], 9.5))]


def test_what_says_nothing_of_where_a_series_stands_is_left_out():
    """Sums since the last export, summaries, exponential histograms."""
    request = ExportMetricsServiceRequest()
    metrics = request.resource_metrics.add().scope_metrics.add().metrics
    delta = metrics.add(name="delta").sum
    delta.aggregation_temporality = metrics_pb2.AGGREGATION_TEMPORALITY_DELTA
    delta.data_points.add(as_int=3)
    metrics.add(name="summary").summary.data_points.add(count=1)
    metrics.add(name="empty").gauge.data_points.add()

    ((_, found),) = from_pb_metrics(request)

    assert [(it.name, list(it.points)) for it in found] == [("empty", [])]
