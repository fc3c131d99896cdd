"""OTLP's messages to ours, and its JSON to its messages.

https://opentelemetry.io/docs/specs/otlp/
"""

import base64
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec
from google.protobuf import json_format
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
)
from opentelemetry.proto.common.v1 import common_pb2
from opentelemetry.proto.metrics.v1 import metrics_pb2
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1 import trace_pb2

from tollhouse.collector.metrics import Distribution, Kind, Metric, Origin, Point
from tollhouse.collector.spans import Event, Link, Span, Value

_MOST_EVENTS = 64
"""Of a span. Triton tells of each response, which is of each token."""
_IDS = frozenset({"traceId", "spanId", "parentSpanId"})
_CUMULATIVE = metrics_pb2.AGGREGATION_TEMPORALITY_CUMULATIVE
_KINDS = {
    number: name.removeprefix("SPAN_KIND_").lower()
    for name, number in trace_pb2.Span.SpanKind.items()
}
_FAILED = trace_pb2.Status.STATUS_CODE_ERROR


class NotOtlp(ValueError):
    """What came is not OTLP; the text is one line, and repeats nothing of it."""


def trace_request(body: bytes) -> ExportTraceServiceRequest:
    """Read OTLP/HTTP's JSON. Raises NotOtlp."""
    try:
        tree = msgspec.json.decode(body, type=dict[str, object])
        return json_format.ParseDict(
            {name: _as_protobuf_has_it(it) for name, it in tree.items()},
            ExportTraceServiceRequest(),
            ignore_unknown_fields=True,
        )
    except (ValueError, TypeError, RecursionError, json_format.Error) as error:
        raise NotOtlp("the body is not OTLP in JSON") from error


def _as_protobuf_has_it(tree: object) -> object:
    """OTLP's JSON is protobuf's, but ids are in hex there, and in base64 here."""
    match tree:
        case dict():
            return {
                name: base64.b64encode(bytes.fromhex(it)).decode()
                if name in _IDS and isinstance(it, str)
                else _as_protobuf_has_it(it)
                for name, it in tree.items()
            }
        case list():
            return [_as_protobuf_has_it(it) for it in tree]
    return tree


def from_pb_spans(request: ExportTraceServiceRequest) -> Iterator[Span]:
    """Yield all spans of a request."""
    for of_process in request.resource_spans:
        origin = _origin(of_process.resource)
        for scope in of_process.scope_spans:
            for span in scope.spans:
                yield _span(origin, span)


def from_pb_metrics(
    request: ExportMetricsServiceRequest,
) -> Iterator[tuple[Origin, list[Metric]]]:
    """Yield what each process sent; kinds that ours do not use are left out.

    So are sums since the last export: only those since the start say where a series
    stands, and those are what SDKs send unless told otherwise.
    """
    for of_process in request.resource_metrics:
        metrics = [
            metric
            for scope in of_process.scope_metrics
            for metric in map(_metric, scope.metrics)
            if metric is not None
        ]
        yield _origin(of_process.resource), metrics


def _origin(resource: Resource) -> Origin:
    told = _attributes(resource.attributes)
    job = str(told.get("service.name", "unknown_service"))
    if namespace := told.get("service.namespace"):
        job = f"{namespace}/{job}"
    return Origin(job, str(told.get("service.instance.id", "")))


_CLIENTS_TEXT = "triton.request_id"
"""What a client of Triton's own protocol calls its request: any text."""


def _span(origin: Origin, span: trace_pb2.Span) -> Span:
    return Span(
        service=origin.job,
        instance=origin.instance,
        name=span.name,
        kind=_KINDS.get(span.kind, "unspecified"),
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent=span.parent_span_id.hex(),
        started_ns=span.start_time_unix_nano,
        ended_ns=span.end_time_unix_nano,
        attributes={
            name: value
            for name, value in _attributes(span.attributes).items()
            if name != _CLIENTS_TEXT
        },
        links=[
            Link(it.trace_id.hex(), it.span_id.hex(), _attributes(it.attributes))
            for it in span.links
        ],
        events=[
            Event(it.name, it.time_unix_nano, _attributes(it.attributes))
            for it in span.events[:_MOST_EVENTS]
        ],
        has_failed=span.status.code == _FAILED,
        message=span.status.message,
    )


def _metric(metric: metrics_pb2.Metric) -> Metric | None:
    points: Sequence[Point]
    match metric.WhichOneof("data"):
        case "sum" if metric.sum.aggregation_temporality == _CUMULATIVE:
            kind = Kind.COUNTER if metric.sum.is_monotonic else Kind.GAUGE
            points = _numbers(metric.sum.data_points)
        case "gauge":
            kind, points = Kind.GAUGE, _numbers(metric.gauge.data_points)
        case "histogram" if metric.histogram.aggregation_temporality == _CUMULATIVE:
            kind = Kind.HISTOGRAM
            points = [
                Point(
                    _labels(it.attributes),
                    Distribution([*it.explicit_bounds], [*it.bucket_counts], it.sum),
                )
                for it in metric.histogram.data_points
                if len(it.bucket_counts) == len(it.explicit_bounds) + 1
            ]
        case _:
            return None
    return Metric(metric.name, metric.unit, metric.description, kind, points)


def _numbers(points: Iterable[metrics_pb2.NumberDataPoint]) -> list[Point]:
    return [
        Point(_labels(it.attributes), float(getattr(it, kind)))
        for it in points
        if (kind := it.WhichOneof("value")) is not None
    ]


def _labels(pairs: Iterable[common_pb2.KeyValue]) -> dict[str, str]:
    return {name: _text(value) for name, value in _attributes(pairs).items()}


def _text(value: Value) -> str:
    match value:
        case str():
            return value
        case float() if value.is_integer() and not math.isinf(value):
            return str(int(value))
    return msgspec.json.encode(value).decode()


def _attributes(pairs: Iterable[common_pb2.KeyValue]) -> Mapping[str, Value]:
    return {it.key: _value(it.value) for it in pairs}


def _value(value: common_pb2.AnyValue) -> Value:
    match value.WhichOneof("value"):
        case None:
            return None
        case "array_value":
            return [_value(it) for it in value.array_value.values]
        case "kvlist_value":
            return dict(_attributes(value.kvlist_value.values))
        case "bytes_value":
            return value.bytes_value.hex()
        case str() as kind:
            plain: Value = getattr(value, kind)
            return plain
